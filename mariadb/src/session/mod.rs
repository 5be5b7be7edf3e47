//! The state of every session of ours: each variable that can change a result, or how a statement
//! ends, has one value, whatever the server's global settings, its `init_connect` and the account's
//! limits say.
//!
//! [`FIXED`] and the lists beside it are all of them, with the reason for each. [`LEFT`] holds every
//! other session variable, with the reason why it may stay as it is; a test compares both with what
//! the server has. What no ordinary account may set ([`PRIVILEGED`]) is tried, and where it is
//! refused it is the business of `check`, which reads the global values.

mod left;

use std::fmt::Write as _;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

pub use self::left::LEFT;
use crate::connect::Session;
use crate::value::quote;

/// A variable and the value that it has in our sessions, as SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub value: &'static str,
    /// The first version of each branch that has it, as something that a session can set; empty
    /// where 10.5 has it. A branch above the last one has it.
    since: &'static [(u16, u16, u16)],
}

const fn set(name: &'static str, value: &'static str) -> Setting {
    Setting { name, value, since: &[] }
}

const fn later(
    name: &'static str,
    value: &'static str,
    since: &'static [(u16, u16, u16)],
) -> Setting {
    Setting { name, value, since }
}

/// The largest value of a BIGINT UNSIGNED: no limit.
const MAX: &str = "18446744073709551615";

/// First of all and by itself: the rest is parsed by `sql_mode`, would run under
/// `max_statement_time`, and begins with a ROLLBACK, to which `completion_type` would add something.
const FIRST: [Setting; 2] = [
    // 0: no limit. What needs one sets it with the statement. (ALTER USER ... WITH
    // MAX_STATEMENT_TIME sets this variable, too.)
    set("max_statement_time", "0"),
    // A COMMIT is only a COMMIT: CHAIN would begin another transaction, RELEASE hang up.
    set("completion_type", "'NO_CHAIN'"),
];

/// In every session.
pub const FIXED: &[Setting] = &[
    // Transactions. Each statement by itself unless we begin one. (The isolation level and READ
    // WRITE are set by a statement whose names every version knows.)
    set("autocommit", "1"),
    // ON (the default from 11.6 on) makes an UPDATE fail on a row that changed since the snapshot,
    // where the compare-and-set on the watermark wants to see the present row.
    later(
        "innodb_snapshot_isolation",
        "0",
        &[(10, 6, 18), (10, 11, 8), (11, 0, 6), (11, 1, 5), (11, 2, 4), (11, 4, 2)],
    ),
    // Limits that end a statement or cut its result short.
    set("sql_select_limit", MAX),
    set("max_join_size", MAX),
    // After max_join_size, which switches it off.
    set("sql_big_selects", "1"),
    // Some of our statements have no key on purpose.
    set("sql_safe_updates", "0"),
    set("tmp_disk_table_size", MAX),
    later("max_tmp_session_space_usage", "0", &[(11, 5, 1)]),
    set("max_session_mem_used", "9223372036854775807"),
    // Too small, and sorting ends with error 1038.
    set("sort_buffer_size", "2097152"),
    // Bytes of a value that ORDER BY looks at: above the longest primary key (3072).
    set("max_sort_length", "4096"),
    set("group_concat_max_len", "1073741824"),
    set("max_recursive_iterations", "1000"),
    // Waits for locks, of rows and of definitions: to be told of by a warning and tried again. The
    // default of the second is a day.
    set("innodb_lock_wait_timeout", "50"),
    set("lock_wait_timeout", "50"),
    // Ten seconds of nothing inside a transaction that has written are a process that is frozen (or
    // its host): the server ends it, and whoever takes over does not wait for its locks for ever.
    set("idle_write_transaction_timeout", "10"),
    // A snapshot is held as long as it takes.
    set("idle_readonly_transaction_timeout", "0"),
    set("idle_transaction_timeout", "0"),
    // An idle connection lives for eight hours. A reader of a large chunk may pause for ten minutes,
    // and a batch may be that long on its way.
    set("wait_timeout", "28800"),
    set("net_write_timeout", "600"),
    set("net_read_timeout", "600"),
    // What values mean.
    set("time_zone", "'+00:00'"),
    // NOW() is now; an `init_connect` can stop it. The value itself may be forbidden
    // (secure_timestamp), DEFAULT never is.
    set("timestamp", "DEFAULT"),
    set("insert_id", "DEFAULT"),
    set("div_precision_increment", "4"),
    set("default_week_format", "0"),
    set("lc_time_names", "'en_US'"),
    set("default_regex_flags", "''"),
    set("sql_auto_is_null", "0"),
    set("old_mode", "''"),
    // `utf8` is utf8mb3, as it was when the tables were made.
    later("old_mode", "'UTF8_IS_UTF8MB3'", &[(10, 6, 1)]),
    // Which collation a character set has by itself: else 11.5 makes other columns than 10.11 of
    // the same CREATE TABLE.
    later("character_set_collations", "''", &[(11, 2, 1)]),
    // Off, it puts now() where a TIMESTAMP gets NULL, and ON UPDATE where a definition has none.
    // Before these versions it can only be given at the server's start.
    later(
        "explicit_defaults_for_timestamp",
        "1",
        &[(10, 5, 17), (10, 6, 9), (10, 7, 5), (10, 8, 4), (10, 9, 2), (10, 10, 1)],
    ),
    set("system_versioning_asof", "DEFAULT"),
    later("system_versioning_insert_history", "0", &[(10, 11, 0)]),
    // Above that many values an IN list becomes a join, which compares by other rules.
    set("in_predicate_conversion_threshold", "1000"),
    // Answers come from the tables.
    set("query_cache_type", "0"),
    set("sql_buffer_result", "0"),
    // Off with an empty table, InnoDB locks all of it and logs no rows to undo.
    set("unique_checks", "1"),
    // Definitions. CREATE TABLE makes what it says or fails.
    set("sql_if_exists", "0"),
    set("default_storage_engine", "'InnoDB'"),
    set("innodb_strict_mode", "1"),
    set("innodb_compression_default", "0"),
    // ALTER TABLE by the quickest road there is; an order to copy would be a copy inside the pause.
    set("alter_algorithm", "'DEFAULT'"),
    // Half an ALTER in the binlog, and half of it later.
    later("binlog_alter_two_phase", "0", &[(10, 8, 1)]),
    set("skip_replication", "0"),
    // What is read out of the server's own text: definitions, the key that a duplicate hit.
    set("sql_quote_show_create", "1"),
    set("lc_messages", "'en_US'"),
    set("sql_notes", "1"),
    set("sql_warnings", "0"),
    set("max_error_count", "64"),
    later("note_verbosity", "'basic'", &[(10, 6, 16), (10, 10, 7), (10, 11, 6), (11, 0, 4)]),
];

/// Text in utf8mb4, with the collation that it had before 11.5. An error for whatever does not fit.
const PLAIN: &[Setting] = &[
    set("sql_mode", "'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'"),
    set("foreign_key_checks", "1"),
    set("check_constraint_checks", "1"),
];

/// Values in and out exactly as stored: no character set conversion, no calendar, no AUTO_INCREMENT
/// for 0, no foreign keys and constraints judged again, and an error for whatever does not fit.
const EXACT: &[Setting] = &[
    set(
        "sql_mode",
        "'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'",
    ),
    set("foreign_key_checks", "0"),
    set("check_constraint_checks", "0"),
];

/// Takes BINLOG ADMIN.
pub const PRIVILEGED: &[Setting] = &[
    set("sql_log_bin", "1"),
    // Rows are read from the binlog; `check` refuses other global values.
    set("binlog_format", "'ROW'"),
    set("binlog_row_image", "'FULL'"),
    // The text of statements costs up to two thirds of the binlog of a new shard.
    set("binlog_annotate_row_events", "0"),
];

/// For the sockets that read binlogs: what they are told is events, on which none of the rest has an
/// influence. An `init_connect` may have begun a transaction, in which skip_replication cannot be
/// set, or asked for events that are marked for skipping to be left out.
pub(crate) const OF_SOCKETS: [&str; 3] = [
    "SET max_statement_time = 0, completion_type = 'NO_CHAIN', sql_mode = ''",
    "ROLLBACK",
    "SET skip_replication = 0, lc_messages = 'en_US', wait_timeout = 28800, net_read_timeout = 600",
];

/// The server knows no such variable; no session can set it.
const UNKNOWN: u16 = 1193;
const READ_ONLY: u16 = 1238;
const ACCESS_DENIED: u16 = 1227;

impl Setting {
    fn is_in(&self, version: (u16, u16, u16)) -> bool {
        let branch = (version.0, version.1);
        let Some(last) = self.since.last() else { return true };
        branch > (last.0, last.1)
            || self.since.iter().any(|since| branch == (since.0, since.1) && version >= *since)
    }
}

/// What a session of this kind has on a server of this version, in the order in which it is set.
pub fn settings(
    session: Session,
    version: (u16, u16, u16),
) -> impl Iterator<Item = &'static Setting> {
    let own = match session {
        Session::Plain => PLAIN,
        Session::Exact => EXACT,
    };
    FIRST.iter().chain(own).chain(FIXED).filter(move |setting| setting.is_in(version))
}

/// Brings a connection into the state that is described above, and into its schema: in one round
/// trip where the server knows every name.
pub(crate) async fn set_up(conn: &mut Conn, session: Session) -> Result<(), Error> {
    let begin = begin(session, conn.opts().db_name().unwrap_or_default());
    let all: Vec<&Setting> = settings(session, conn.server_version()).collect();
    let privileged = statement(&PRIVILEGED.iter().collect::<Vec<_>>());
    match conn.query_drop(format!("{begin}; {}; {privileged}", statement(&all))).await {
        // No other of these takes a privilege, and it is the last.
        Err(Error::Server(error)) if error.code == ACCESS_DENIED => Ok(()),
        Err(error) if is_absent(&error) => one_by_one(conn, &begin, &all, &privileged).await,
        result => result,
    }
}

/// A build or a version lacks one of them.
async fn one_by_one(
    conn: &mut Conn,
    begin: &str,
    all: &[&Setting],
    privileged: &str,
) -> Result<(), Error> {
    conn.query_drop(begin).await?;
    for setting in all {
        match conn.query_drop(statement(&[*setting])).await {
            Err(error) if is_absent(&error) => {}
            result => result?,
        }
    }
    match conn.query_drop(privileged).await {
        Err(Error::Server(_)) => Ok(()),
        result => result,
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Server(error) if matches!(error.code, UNKNOWN | READ_ONLY))
}

/// `init_connect` may have begun a transaction, locked tables or gone to another schema.
fn begin(session: Session, schema: &str) -> String {
    let first: Vec<&Setting> = FIRST.iter().collect();
    let own = match session {
        Session::Plain => PLAIN,
        Session::Exact => EXACT,
    };
    let mode: Vec<&Setting> = own.iter().filter(|setting| setting.name == "sql_mode").collect();
    let mut sql = format!("{}; {}; ROLLBACK; UNLOCK TABLES; ", statement(&first), statement(&mode));
    if !schema.is_empty() {
        let _ = write!(sql, "USE {}; ", quote(schema));
    }
    sql += match session {
        Session::Plain => "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci; ",
        Session::Exact => "SET NAMES binary; ",
    };
    sql + "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"
}

fn statement(settings: &[&Setting]) -> String {
    let each: Vec<String> = settings.iter().map(|s| format!("{} = {}", s.name, s.value)).collect();
    format!("SET {}", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_where_its_version_has_it() {
        let setting = later("x", "1", &[(10, 6, 18), (10, 11, 8), (11, 4, 2)]);
        for (version, is_in) in [
            ((10, 5, 29), false),
            ((10, 6, 17), false),
            ((10, 6, 18), true),
            ((10, 7, 1), false),
            ((10, 11, 7), false),
            ((10, 11, 19), true),
            ((11, 3, 2), false),
            ((11, 4, 5), true),
            ((11, 8, 1), true),
            ((12, 0, 0), true),
        ] {
            assert_eq!(setting.is_in(version), is_in, "{version:?}");
        }
    }

    #[test]
    fn what_was_opened_before_is_ended_before_anything_else() {
        assert_eq!(
            begin(Session::Exact, "a`b"),
            "SET max_statement_time = 0, completion_type = 'NO_CHAIN'; SET sql_mode = \
             'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'; \
             ROLLBACK; UNLOCK TABLES; USE `a``b`; SET NAMES binary; \
             SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"
        );
    }
}
