//! What can go wrong between an old shard's binlog and a decoded row.

use modshift_mariadb::ServerError;
use modshift_mariadb::applying::Coming;
use modshift_mariadb::whole_log::Gap;

use super::code;
use super::input::Fault;

/// Retry, or stop and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and connect again.
    Retry,
    /// A fact about data, schema or settings that another connection will not change.
    Halt,
}

#[derive(Debug, thiserror::Error)]
pub enum BinlogError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("{at} ended the binlog stream: it is shutting down")]
    Ended { at: String },
    #[error("{at} has sent nothing for {seconds} s, not even a heartbeat")]
    Silent { at: String, seconds: u64 },
    #[error("{at}: the binlog connection that its readers share has ended: {detail}")]
    FeedEnded { at: String, detail: String },
    #[error("{at}: this reader fell behind those that it shares a binlog connection with")]
    FellBehind { at: String },
    #[error("{at}: {setting} is {value}; modshift needs {wanted}")]
    Setting { at: String, setting: &'static str, value: String, wanted: &'static str },
    #[error("{at}: {gap}")]
    NotWhole { at: String, gap: Box<Gap> },
    #[error("{at} does not know GTID domain {domain}, to which the resume point {start} belongs")]
    UnknownDomain { at: String, domain: u32, start: String },
    #[error("{at} is at {now}, before the resume point {start}")]
    BehindStart { at: String, now: String, start: String },
    /// A virtual IP, or a name, leads to a replica before that has applied its relay log.
    #[error("{at} is at {now}, and {wanted} was read before: {coming}")]
    NotThereYet { at: String, now: String, wanted: String, coming: Coming },
    #[error("{at} sent a {event} event whose checksum does not match its bytes")]
    Checksum { at: String, event: &'static str },
    #[error("{at} sent bytes that are no binlog event")]
    NotAnEvent { at: String },

    #[error("malformed {event} event: {what}")]
    Malformed { event: &'static str, what: &'static str },
    #[error("event of {bytes} bytes, above 1 GiB")]
    TooLarge { bytes: usize },
    #[error("event type {code} ({}) carries what modshift cannot apply exactly", code::name(*code))]
    Unsupported { code: u8 },
    #[error("the old shard logged an incident: {message}")]
    Incident { message: String },
    #[error("binlog format version {version} (of server {server}) is not known")]
    Format { version: u16, server: String },
    #[error("rows of table id {table_id} without a table map before them")]
    NoTableMap { table_id: u64 },
    #[error("more than {max} tables mapped within one statement")]
    TooManyTables { max: usize },

    #[error("table {table}: column {column} has type code {code}, which is not known")]
    ColumnType { table: String, column: usize, code: u8 },
    #[error("table {table} is logged with {logged} columns, but the catalog shows {catalog}")]
    ColumnCount { table: String, logged: usize, catalog: usize },
    #[error("table {table}, column {column}: logged as {logged}, but the catalog shows {catalog}")]
    SchemaMismatch { table: String, column: String, logged: String, catalog: String },
    #[error("table {table}: rows are logged without some of their columns (binlog_row_image)")]
    IncompleteImage { table: String },
    #[error("table {table}: malformed row in a {event} event: {what}")]
    MalformedRow { table: String, event: &'static str, what: &'static str },
    #[error("table {table}: {column} is a generated or missing column and cannot be a key")]
    KeyColumn { table: String, column: String },
    #[error("table {table} is planned twice")]
    PlannedTwice { table: String },
    #[error("table {table}: rows read with the layout of another table or time")]
    WrongLayout { table: String },
}

impl BinlogError {
    pub(super) fn malformed(code: u8, fault: Fault) -> BinlogError {
        BinlogError::Malformed { event: code::name(code), what: fault.0 }
    }

    pub fn class(&self) -> Class {
        match self {
            BinlogError::Server(error) => match error.class() {
                modshift_mariadb::Class::Retry => Class::Retry,
                modshift_mariadb::Class::Halt => Class::Halt,
            },
            BinlogError::Ended { .. }
            | BinlogError::Silent { .. }
            // What is wrong with the log itself the reader's own connection will tell.
            | BinlogError::FeedEnded { .. }
            | BinlogError::FellBehind { .. }
            | BinlogError::NotThereYet { .. } => Class::Retry,
            BinlogError::Setting { .. }
            | BinlogError::NotWhole { .. }
            | BinlogError::UnknownDomain { .. }
            | BinlogError::BehindStart { .. }
            | BinlogError::Checksum { .. }
            | BinlogError::NotAnEvent { .. }
            | BinlogError::Malformed { .. }
            | BinlogError::TooLarge { .. }
            | BinlogError::Unsupported { .. }
            | BinlogError::Incident { .. }
            | BinlogError::Format { .. }
            | BinlogError::NoTableMap { .. }
            | BinlogError::TooManyTables { .. }
            | BinlogError::ColumnType { .. }
            | BinlogError::ColumnCount { .. }
            | BinlogError::SchemaMismatch { .. }
            | BinlogError::IncompleteImage { .. }
            | BinlogError::MalformedRow { .. }
            | BinlogError::KeyColumn { .. }
            | BinlogError::PlannedTwice { .. }
            | BinlogError::WrongLayout { .. } => Class::Halt,
        }
    }

    /// What the operator does next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            BinlogError::Server(error) => return error.hint(),
            BinlogError::Setting { setting: "log_bin", .. } => {
                "enable the binlog (log_bin in my.cnf) and restart the server"
            }
            BinlogError::Setting { setting, wanted, .. } => {
                return Some(format!(
                    "SET GLOBAL {setting} = {wanted}, also in my.cnf; sessions that are already \
                     open keep their old setting until they reconnect"
                ));
            }
            BinlogError::NotWhole { gap, .. } => {
                return Some(format!(
                    "{}; what was left out meanwhile no log can bring: start the daemons again, \
                     and run modshift verify, or start over with `modshift restart-copy` if it \
                     finds much",
                    gap.mend()
                ));
            }
            BinlogError::UnknownDomain { .. } | BinlogError::BehindStart { .. } => {
                "this is not the server that was read before, or it lost the end of its binlog. \
                 Where the server that has it is only away, as the peer that served before a failover \
                 is, bring that one back, wait until this one has applied what it sends, and start the \
                 daemons again; or point the plan at a server of this shard that has the resume point. \
                 Where it is lost start over with `modshift restart-copy`"
            }
            BinlogError::Checksum { .. } | BinlogError::NotAnEvent { .. } => {
                "start the replicator again; if it stops at the same place, the binlog file is \
                 damaged: check it with mariadb-binlog --verify-binlog-checksum, and where no replica of \
                 the shard has it whole (read_from) start over with `modshift restart-copy`"
            }
            BinlogError::Unsupported { code: 6..=8 | 10..=12 } => {
                "a session wrote in statement format: set binlog_format=ROW for every session, and \
                 start over with `modshift restart-copy`"
            }
            BinlogError::Incident { .. } => {
                "the server may have failed to log changes: start over with `modshift restart-copy`"
            }
            BinlogError::ColumnCount { .. } | BinlogError::SchemaMismatch { .. } => {
                "the table was altered after these rows were written, or without the binlog \
                 (sql_log_bin = 0): make it the same on all shards and, before the cutover, move it \
                 from the plan to check.ignore, start the daemons, stop them, and move it back: it \
                 alone is copied anew"
            }
            BinlogError::IncompleteImage { .. } => {
                "SET GLOBAL binlog_row_image = FULL, also in my.cnf, let every session reconnect, \
                 and start over with `modshift restart-copy`"
            }
            BinlogError::KeyColumn { .. } => {
                "choose a stored column as the shard key (key of the [[table]] in the plan)"
            }
            BinlogError::PlannedTwice { .. } => "take one of the two [[table]] out of the plan",
            BinlogError::NotThereYet { .. } => {
                "it is asked again all the time; SHOW ALL SLAVES STATUS there says what keeps it from \
                 applying"
            }
            BinlogError::Malformed { .. }
            | BinlogError::MalformedRow { .. }
            | BinlogError::NoTableMap { .. }
            | BinlogError::TooManyTables { .. }
            | BinlogError::WrongLayout { .. }
            | BinlogError::TooLarge { .. } => {
                "start the replicator again; if it stops at the same place, look at that group with \
                 mariadb-binlog --verify-binlog-checksum: the file is damaged, or this is a defect of \
                 modshift. Where the group cannot be read, start over with `modshift restart-copy`"
            }
            BinlogError::Unsupported { .. } | BinlogError::ColumnType { .. } => {
                "it cannot be carried over: have nothing of its kind written until the reshard is over, \
                 and start over with `modshift restart-copy`"
            }
            BinlogError::Format { .. } => {
                "modshift reads MariaDB from 10.5 on: see the versions in its README, and take a version \
                 of modshift that knows this server, then start the replicator again"
            }
            // Another connection is made, and tells what is wrong.
            BinlogError::Ended { .. }
            | BinlogError::Silent { .. }
            | BinlogError::FeedEnded { .. }
            | BinlogError::FellBehind { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each variant: a new one does not compile until it stands here.
    fn all() -> Vec<BinlogError> {
        let text = || "x".to_owned();
        let gap = Gap {
            setting: text(),
            value: text(),
            lost: "",
            wanted: "",
            statements: Vec::new(),
            advice: text(),
        };
        let all = vec![
            ServerError::Unreachable { at: text(), detail: text() }.into(),
            BinlogError::Ended { at: text() },
            BinlogError::Silent { at: text(), seconds: 6 },
            BinlogError::FeedEnded { at: text(), detail: text() },
            BinlogError::FellBehind { at: text() },
            BinlogError::Setting { at: text(), setting: "log_bin", value: text(), wanted: "ON" },
            BinlogError::Setting {
                at: text(),
                setting: "binlog_format",
                value: text(),
                wanted: "ROW",
            },
            BinlogError::NotWhole { at: text(), gap: Box::new(gap) },
            BinlogError::UnknownDomain { at: text(), domain: 1, start: text() },
            BinlogError::BehindStart { at: text(), now: text(), start: text() },
            BinlogError::NotThereYet {
                at: text(),
                now: text(),
                wanted: text(),
                coming: Coming::Received(text()),
            },
            BinlogError::Checksum { at: text(), event: "Xid" },
            BinlogError::NotAnEvent { at: text() },
            BinlogError::Malformed { event: "Xid", what: "x" },
            BinlogError::TooLarge { bytes: 1 },
            BinlogError::Unsupported { code: 10 },
            BinlogError::Unsupported { code: 99 },
            BinlogError::Incident { message: text() },
            BinlogError::Format { version: 3, server: text() },
            BinlogError::NoTableMap { table_id: 1 },
            BinlogError::TooManyTables { max: 1 },
            BinlogError::ColumnType { table: text(), column: 1, code: 1 },
            BinlogError::ColumnCount { table: text(), logged: 1, catalog: 2 },
            BinlogError::SchemaMismatch {
                table: text(),
                column: text(),
                logged: text(),
                catalog: text(),
            },
            BinlogError::IncompleteImage { table: text() },
            BinlogError::MalformedRow { table: text(), event: "Xid", what: "x" },
            BinlogError::KeyColumn { table: text(), column: text() },
            BinlogError::PlannedTwice { table: text() },
            BinlogError::WrongLayout { table: text() },
        ];
        for error in &all {
            match error {
                BinlogError::Server(_)
                | BinlogError::Ended { .. }
                | BinlogError::Silent { .. }
                | BinlogError::FeedEnded { .. }
                | BinlogError::FellBehind { .. }
                | BinlogError::Setting { .. }
                | BinlogError::NotWhole { .. }
                | BinlogError::UnknownDomain { .. }
                | BinlogError::BehindStart { .. }
                | BinlogError::NotThereYet { .. }
                | BinlogError::Checksum { .. }
                | BinlogError::NotAnEvent { .. }
                | BinlogError::Malformed { .. }
                | BinlogError::TooLarge { .. }
                | BinlogError::Unsupported { .. }
                | BinlogError::Incident { .. }
                | BinlogError::Format { .. }
                | BinlogError::NoTableMap { .. }
                | BinlogError::TooManyTables { .. }
                | BinlogError::ColumnType { .. }
                | BinlogError::ColumnCount { .. }
                | BinlogError::SchemaMismatch { .. }
                | BinlogError::IncompleteImage { .. }
                | BinlogError::MalformedRow { .. }
                | BinlogError::KeyColumn { .. }
                | BinlogError::PlannedTwice { .. }
                | BinlogError::WrongLayout { .. } => {}
            }
        }
        all
    }

    #[test]
    fn every_halt_names_a_command_or_a_setting() {
        const WAYS: [&str; 6] = [
            "my.cnf",
            "start the daemons",
            "`modshift restart-copy`",
            "start the replicator again",
            "[[table]]",
            "binlog_format",
        ];
        for error in all().iter().filter(|error| error.class() == Class::Halt) {
            let hint = error.hint().unwrap_or_default();
            assert!(WAYS.iter().any(|way| hint.contains(way)), "{error}: {hint}");
        }
    }
}
