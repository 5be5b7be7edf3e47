//! What a server or the way to it can answer with, sorted by what to do about it.
//!
//! Every failed call goes through [`of`]. An error says where (`host:port/schema`), what was being
//! done, and either the fact that stopped it or the driver's own words. Unclassified means halt.

use mysql_async::{DriverError, Error, IoError};

use crate::control::Owner;

/// Retry, or stop and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and try again.
    Retry,
    /// A fact that trying again cannot change: stop the stream, keep the position, close the gate.
    Halt,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{at} cannot be reached: {detail}")]
    Unreachable { at: String, detail: String },
    /// The outcome of a COMMIT that ends so is unknown.
    #[error("{at}: connection lost while {doing}: {detail}")]
    Lost { at: String, doing: &'static str, detail: String },
    #[error("{at}: TLS: {detail}")]
    Tls { at: String, detail: String },
    #[error("{at} refused the login: {message}")]
    Login { at: String, code: u16, message: String },
    #[error("{at}: missing privilege {missing} while {doing}: {message}")]
    Privilege { at: String, doing: &'static str, code: u16, missing: String, message: String },
    /// At the login the server speaks its own language.
    #[error("{at}: the server has no such schema: {message}")]
    NoSchema { at: String, message: String },
    /// Another transaction was in the way; this one, or its statement, has been rolled back.
    #[error("{at}: {message} while {doing}")]
    Conflict { at: String, doing: &'static str, code: u16, message: String },
    /// Of a disk, a tablespace or a quota.
    #[error("{at} has no room left while {doing}: {message}")]
    Full { at: String, doing: &'static str, code: u16, message: String },
    /// Starting, stopping, or out of connections, memory or locks.
    #[error("{at} is not able just now while {doing}: {message}")]
    Busy { at: String, doing: &'static str, code: u16, message: String },
    #[error("{at} is read-only while {doing}: {message}")]
    ReadOnly { at: String, doing: &'static str, message: String },
    #[error("{at} is a read-only replica of {from}: it has not been promoted yet")]
    Unpromoted { at: String, from: String },
    #[error(
        "{at}: a replica, or another reader, has registered with the same replica_server_id: {message}"
    )]
    ReplicaIdTaken { at: String, code: u16, message: String },
    #[error("{at} cannot send its binlog: {message}")]
    Binlog { at: String, message: String },
    #[error("{at}: a packet is larger than max_allowed_packet while {doing}: {message}")]
    TooLarge { at: String, doing: &'static str, message: String },
    /// Made by a version of modshift that knew less.
    #[error("{at}: table {table} has no column {column}: it is of an earlier version of modshift")]
    EarlierTable { at: String, table: &'static str, column: &'static str },
    #[error("{at}: the reshard {plan} is finished: its streams do not start again")]
    Finished { at: String, plan: String },
    #[error("{at}: its copy is being started over, so no stream of it starts")]
    Restarting { at: String },
    #[error(
        "{at}: modshift's tables there are those of the reshard {}, which has it as {}",
        owner.plan, owner.shard
    )]
    OtherPlan { at: String, owner: Owner },
    /// Any other error of the server: code, SQLSTATE and text as it sent them.
    #[error("{at}: error {code} ({state}) while {doing}: {message}")]
    Statement { at: String, doing: &'static str, code: u16, state: String, message: String },
    #[error("{at}: {doing}: {detail}")]
    Driver { at: String, doing: &'static str, detail: String },
}

impl ServerError {
    pub fn class(&self) -> Class {
        match self {
            ServerError::Unreachable { .. }
            | ServerError::Lost { .. }
            | ServerError::Conflict { .. }
            // Whoever makes room mends it, and what was refused is tried again as it was.
            | ServerError::Full { .. }
            | ServerError::Busy { .. }
            | ServerError::ReadOnly { .. }
            | ServerError::Unpromoted { .. }
            // Passwords are changed, accounts locked and hosts blocked on the server, and are mended
            // there: what is known of the shard's data stays as it is.
            | ServerError::Login { .. } => Class::Retry,
            ServerError::Tls { .. }
            | ServerError::Privilege { .. }
            | ServerError::NoSchema { .. }
            | ServerError::ReplicaIdTaken { .. }
            | ServerError::Binlog { .. }
            | ServerError::TooLarge { .. }
            | ServerError::EarlierTable { .. }
            | ServerError::Finished { .. }
            | ServerError::Restarting { .. }
            | ServerError::OtherPlan { .. }
            | ServerError::Statement { .. }
            | ServerError::Driver { .. } => Class::Halt,
        }
    }

    /// What the operator does next. Of what halts, each names a command or a setting.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ServerError::Unreachable { detail, .. } | ServerError::Lost { detail, .. }
                if silence_hint(detail).is_some() =>
            {
                return silence_hint(detail).map(str::to_owned);
            }
            ServerError::Unreachable { .. } => {
                "check host and port in the plan, the server and the network"
            }
            ServerError::Tls { detail, .. } if detail.contains("tls_ca") => {
                "correct tls_ca in the plan, or put the file there for the user that runs modshift"
            }
            ServerError::Tls { .. } => {
                "check tls and tls_ca in the plan; the certificate must carry the host name as a \
                 subjectAltName"
            }
            ServerError::Login { .. } => {
                "check user and password in the plan and the account's host; what runs tries again, \
                 with what a password_file says by then"
            }
            ServerError::Privilege { missing, .. } => {
                return Some(format!("GRANT {missing} TO the account of the plan"));
            }
            ServerError::NoSchema { .. } => {
                "CREATE DATABASE, or correct the shard's schema in the plan, then start the daemon again"
            }
            ServerError::ReadOnly { .. } => {
                "point the plan at the primary, or end read_only on this server (SET GLOBAL read_only \
                 = 0); it is tried again all the time"
            }
            ServerError::Unpromoted { .. } => {
                "of a pair of masters leave both as they are, and let host in the plan be the virtual \
                 address. Else promote it once its relay log is applied (STOP SLAVE; RESET SLAVE ALL; and, \
                 if modshift status does not say that the shard is fenced, SET GLOBAL read_only = 0), or \
                 point the plan at the primary; it is asked again all the time"
            }
            ServerError::Full { .. } => {
                "make room on its disk, or in the tablespace or quota that it names; it is tried again \
                 all the time, and goes on by itself"
            }
            ServerError::ReplicaIdTaken { .. } => {
                "stop the other reader, or give the replica or the reader a replica_server_id of its own"
            }
            ServerError::Binlog { message, .. } if is_purged(message) => {
                "the changes since the resume point are gone: keep binlogs longer \
                 (expire_logs_days, slave_connections_needed_for_purge), and start over with \
                 `modshift restart-copy`"
            }
            ServerError::Binlog { .. } if self.is_cut_file() => {
                "the file ends amid an event, as a crash or a full disk leaves it, and the server has \
                 not begun another: restart it, and start the daemons again"
            }
            ServerError::Binlog { .. } => {
                "look at the server's error log, and at the file with mariadb-binlog \
                 --verify-binlog-checksum; mend that and start the daemons again, or where the file is \
                 lost start over with `modshift restart-copy`"
            }
            ServerError::EarlierTable { column: "plan", .. } => {
                "the journal on new shard 0 is of a version of modshift that did not tell reshards \
                 apart: give the commands of that reshard with that version, to its modshift finish and \
                 unfence, or rollback; after that nobody needs it: DROP TABLE modshift_journal, \
                 modshift_operator, modshift_fence there"
            }
            ServerError::EarlierTable { .. } => {
                "finish this reshard with the version that began it, or start over with \
                 `modshift restart-copy`"
            }
            ServerError::Restarting { .. } => {
                "a restart-copy was begun and has not ended: where nobody is at it, give `modshift \
                 restart-copy` again, then start the daemons"
            }
            ServerError::Finished { .. } => "a further reshard is another plan, of another name",
            ServerError::OtherPlan { owner, .. } => return Some(owner.way_out()),
            ServerError::TooLarge { .. } => "raise max_allowed_packet on this server",
            ServerError::Busy { code: 1040 | 1203 | 1226, .. } => {
                "raise max_connections or the account's limits"
            }
            ServerError::Busy { code: 1197 | 1705, .. } => {
                "raise max_binlog_cache_size and max_binlog_stmt_cache_size on this server"
            }
            ServerError::Busy { code: 1206, .. } => "raise innodb_buffer_pool_size on this server",
            ServerError::Statement { .. } => {
                "mend what the server says (modshift check compares the shards with the plan), then \
                 start the daemon again: it goes on from where it stopped"
            }
            ServerError::Driver { .. } => {
                "start the daemon again: it goes on from where it stopped. If it comes again, look at \
                 the server's error log and its version (modshift check)"
            }
            ServerError::Conflict { code: 1205, .. } => {
                "SHOW PROCESSLIST there shows who holds it for so long: a transaction or a DDL, or all of \
                 the server where a backup runs (FLUSH TABLES WITH READ LOCK)"
            }
            // They pass by themselves, and are told with what the server says.
            ServerError::Lost { .. } | ServerError::Conflict { .. } | ServerError::Busy { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    /// The server's error number, where the server answered at all.
    pub fn code(&self) -> Option<u16> {
        match self {
            ServerError::Login { code, .. }
            | ServerError::Privilege { code, .. }
            | ServerError::Conflict { code, .. }
            | ServerError::Full { code, .. }
            | ServerError::Busy { code, .. }
            | ServerError::ReplicaIdTaken { code, .. }
            | ServerError::Statement { code, .. } => Some(*code),
            ServerError::NoSchema { .. } => Some(1049),
            ServerError::ReadOnly { .. } => Some(1290),
            ServerError::Binlog { .. } => Some(1236),
            ServerError::TooLarge { .. } => Some(1153),
            ServerError::Unreachable { .. }
            | ServerError::Lost { .. }
            | ServerError::Unpromoted { .. }
            | ServerError::Tls { .. }
            | ServerError::EarlierTable { .. }
            | ServerError::Finished { .. }
            | ServerError::Restarting { .. }
            | ServerError::OtherPlan { .. }
            | ServerError::Driver { .. } => None,
        }
    }

    /// A file of the binlog ends amid an event: the server was killed while it wrote it, and began
    /// another one when it was started again. It never repairs the file.
    pub fn is_cut_file(&self) -> bool {
        // `Log_event::read_log_event` and sql_repl.cc know no number for it.
        matches!(self, ServerError::Binlog { message, .. }
            if message.contains("binlog truncated in the middle of event"))
    }

    /// The connection is gone: open another, and re-read the watermark after a COMMIT.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, ServerError::Lost { .. } | ServerError::Unreachable { .. })
    }

    /// Name of the unique key that a duplicate (1062) hit, `PRIMARY` for the primary key.
    pub fn duplicate_key(&self) -> Option<&str> {
        match self {
            ServerError::Statement { code: 1062, message, .. } => duplicate_key(message),
            _ => None,
        }
    }
}

/// Classifies what the driver returned. `doing` completes "while …".
pub fn of(at: &str, doing: &'static str, error: Error) -> ServerError {
    let at = at.to_owned();
    match error {
        Error::Server(error) => of_server(at, doing, error),
        Error::Io(IoError::Io(error)) => {
            // TLS faults after the handshake's start arrive as io errors of this kind.
            if error.kind() == std::io::ErrorKind::InvalidData {
                ServerError::Tls { at, detail: error.to_string() }
            } else {
                ServerError::Lost { at, doing, detail: error.to_string() }
            }
        }
        Error::Io(IoError::Tls(error)) => ServerError::Tls { at, detail: error.to_string() },
        Error::Driver(DriverError::ConnectionClosed) => {
            ServerError::Lost { at, doing, detail: "closed by the server".to_owned() }
        }
        // A server that ends an idle connection may leave a last packet that nobody asked for;
        // the next command finds it. Nothing of that command has been run.
        Error::Driver(DriverError::PacketOutOfOrder) => {
            ServerError::Lost { at, doing, detail: "packet out of order".to_owned() }
        }
        Error::Driver(error @ DriverError::NoClientSslFlagFromServer) => {
            ServerError::Tls { at, detail: error.to_string() }
        }
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled),
        ) => ServerError::Login { at, code: 0, message: error.to_string() },
        Error::Driver(error @ DriverError::PacketTooLarge) => {
            ServerError::TooLarge { at, doing, message: error.to_string() }
        }
        Error::Driver(error) => ServerError::Driver { at, doing, detail: driver_detail(&error) },
        Error::Other(error) => ServerError::Driver { at, doing, detail: error.to_string() },
        Error::Url(error) => ServerError::Driver { at, doing, detail: error.to_string() },
    }
}

/// Error numbers: <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
fn of_server(at: String, doing: &'static str, error: mysql_async::ServerError) -> ServerError {
    let mysql_async::ServerError { code, message, state } = error;
    // Data and unique keys: what such a message quotes is the application's, whatever it looks like.
    let quotes = state.starts_with("22") || state.starts_with("23");
    match code {
        // Access denied; unknown plugin; host not allowed or blocked; expired, blocked, locked.
        1045 | 1129 | 1130 | 1251 | 1524 | 1698 | 1820 | 1862 | 4150 | 4151 => {
            ServerError::Login { at, code, message }
        }
        1044 | 1142 | 1143 | 1227 | 1370 => {
            let missing = missing_privilege(code, &message);
            ServerError::Privilege { at, doing, code, missing, message }
        }
        1049 => ServerError::NoSchema { at, message },
        // Lock wait timeout, deadlock, row changed since the snapshot, table changed since the
        // snapshot, statement to be prepared again.
        1205 | 1213 | 1020 | 1412 | 1615 => ServerError::Conflict { at, doing, code, message },
        _ if !quotes && is_full(code, &message) => ServerError::Full { at, doing, code, message },
        // Connections, memory, threads, locks or the binlog's cache used up, shutting down, a Galera
        // node not ready, interrupted (KILL QUERY, max_statement_time).
        1037 | 1038 | 1040 | 1041 | 1047 | 1053 | 1079 | 1135 | 1197 | 1203 | 1206 | 1226
        | 1317 | 1637 | 1705 | 1969 => ServerError::Busy { at, doing, code, message },
        // The network under the server's feet; the connection killed.
        1080 | 1152 | 1158..=1161 | 1184 | 1927 | 2006 | 2013 => {
            ServerError::Lost { at, doing, detail: message }
        }
        // Also said of --secure-file-priv and others, which no retry mends.
        1290 if message.contains("read-only") || message.contains("read_only") => {
            ServerError::ReadOnly { at, doing, message }
        }
        // Of InnoDB (innodb_force_recovery), or of the file system.
        1036 | 1836 => ServerError::ReadOnly { at, doing, message },
        _ if !quotes && says_errno(&message, 30) => ServerError::ReadOnly { at, doing, message },
        1153 => ServerError::TooLarge { at, doing, message },
        // A parameter sent in parts, as the driver does with large ones.
        1105 if message.contains("max_allowed_packet") => {
            ServerError::TooLarge { at, doing, message }
        }
        4052 => ServerError::ReplicaIdTaken { at, code, message },
        // The dump thread says 1236 for this, too.
        1236 if message.contains("same server_uuid/server_id") => {
            ServerError::ReplicaIdTaken { at, code, message }
        }
        1236 => ServerError::Binlog { at, message },
        _ => ServerError::Statement { at, doing, code, state, message },
    }
}

/// "The table is full", "Disk full (…)", "Temporary file write failure"; and whatever failed with the
/// system's ENOSPC or EDQUOT: to write to a file (3, 1026), in the storage engine (1030), to create a
/// table (1005) …
fn is_full(code: u16, message: &str) -> bool {
    matches!(code, 1021 | 1114 | 1878) || says_errno(message, 28) || says_errno(message, 122)
}

/// `(errno: 28 "No space left on device")`, `(Errcode: 28 …)`, `Got error 28 "No space …`.
fn says_errno(message: &str, number: u32) -> bool {
    ["errno: ", "Errcode: ", "Got error "].iter().any(|before| {
        let rest = message.split_once(before).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.strip_prefix(&number.to_string()))
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// The driver's own text would print values.
fn driver_detail(error: &DriverError) -> String {
    match error {
        DriverError::FromValue { .. } => "a value of another type than expected".to_owned(),
        DriverError::FromRow { .. } => "a row of other columns than expected".to_owned(),
        DriverError::UnexpectedPacket { payload } => {
            format!("unexpected packet of {} bytes", payload.len())
        }
        other => other.to_string(),
    }
}

/// What to grant, out of the server's sentence.
fn missing_privilege(code: u16, message: &str) -> String {
    let between = |from: &str, to: &str| {
        let rest = &message[message.find(from)? + from.len()..];
        Some(rest[..rest.find(to)?].to_owned())
    };
    let found = match code {
        // SELECT command denied to user 'a'@'b' for table `d`.`t`
        1142 | 1143 | 1370 => message.split_once(" command denied to ").map(|(what, rest)| {
            let on = rest.split_once(" for table ").or_else(|| rest.split_once(" for routine "));
            match on {
                Some((_, on)) => format!("{what} ON {on}"),
                None => what.to_owned(),
            }
        }),
        // you need (at least one of) the BINLOG MONITOR privilege(s) for this operation
        1227 => between("(at least one of) the ", " privilege").map(|p| format!("{p} ON *.*")),
        // Access denied for user 'a'@'b' to database 'd'
        1044 => message.rsplit_once(" to database ").map(|(_, db)| format!("access ON {db}.*")),
        _ => None,
    };
    found.unwrap_or_else(|| "for this operation".to_owned())
}

/// `Duplicate entry 'x' for key 'name'`: the value may itself hold quotes, so from the end.
fn duplicate_key(message: &str) -> Option<&str> {
    let (_, key) = message.rsplit_once(" for key '")?;
    key.strip_suffix('\'')
}

/// Begins what is said of a server that does not answer because somebody holds all of it.
pub const GLOBAL_LOCK: &str = "a global read lock is held";
/// The same of one that waits within a write, in its words.
pub const FULL_DISK: &str = "it is waiting for someone to free space";

/// What ends a silence that says why.
pub fn silence_hint(text: &str) -> Option<&'static str> {
    match text {
        text if text.contains(GLOBAL_LOCK) => Some(
            "end that session (FLUSH TABLES WITH READ LOCK or BACKUP STAGE: KILL it), or wait until its \
             backup is done",
        ),
        text if text.contains(FULL_DISK) => Some(
            "make room on the disk that the server's error log names, such as that of its binlog: within \
             a minute it goes on by itself",
        ),
        _ => None,
    }
}

fn is_purged(message: &str) -> bool {
    message.contains("purged") || message.contains("Could not find first log")
}

#[cfg(test)]
mod tests;
