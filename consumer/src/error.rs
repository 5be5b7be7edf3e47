//! Why an applier stopped, and what to do about each reason.

#[cfg(test)]
mod tests;

use modshift_changelog::LogError;
use modshift_mariadb::applying::Coming;
use modshift_mariadb::value::ValueError;
use modshift_mariadb::{CatalogError, ServerError};
use modshift_proto::message::MessageError;
use modshift_proto::plan::{Direction, LOST_BACK};
use modshift_proto::{NewShard, OldShard};

use crate::record::Record;
use crate::sequence::SequenceError;
use crate::target::{ChangeError, TargetError};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Catalog(Box<CatalogError>),
    #[error(transparent)]
    Log(Box<LogError>),
    #[error("change log of {new}{}: {error}", lies(.record))]
    Message { new: NewShard, record: Option<Box<Record>>, error: MessageError },
    /// Never passed over: the next one of its stream would have a number too many.
    #[error("change log of {new}{}: a message of {old} that this version cannot read: {error}",
        lies(.record))]
    OtherVersion { new: NewShard, record: Option<Box<Record>>, old: OldShard, error: MessageError },
    #[error("{new}{}: a message of {old}, the plan has {shards} old shards", lies(.record))]
    UnknownSource { new: NewShard, record: Option<Box<Record>>, old: OldShard, shards: u16 },
    #[error("{new}: {error}")]
    Sequence { new: NewShard, error: SequenceError },
    #[error("{new}: {error}")]
    Change { new: NewShard, error: ChangeError },
    #[error("{new}: {error}")]
    Target { new: NewShard, error: TargetError },
    #[error("{new}: table {table} is not defined as it is applied: {differences}")]
    Drift { new: NewShard, table: String, differences: String },
    #[error("{new}: table {table}: {error}")]
    Value { new: NewShard, table: String, error: ValueError },
    /// The compare-and-set found another version.
    #[error("another applier has taken over {new}")]
    TakenOver { new: NewShard },
    /// A virtual IP, or a name, leads to a replica before that has applied its relay log.
    #[error("{new}: {at} does not have all that was committed there yet: {coming}")]
    NotThereYet { new: NewShard, at: String, coming: Coming },
    #[error("{new}: {at} does not have all that was committed there, and {coming}")]
    CommitsLost { new: NewShard, at: String, coming: Coming },
    #[error("{new} has triggers of the application: {triggers}; they would run for rows applied")]
    Triggers { new: NewShard, triggers: String },
    /// The application's triggers are there, or come. Rows wait until they are gone.
    #[error("{new}: rows wait, since the application's triggers were handed over to it")]
    HandedOver { new: NewShard },
    /// Its rows are the application's own by now.
    #[error("{new}: table {table} is to be copied anew, but this shard serves")]
    Serves { new: NewShard, table: String },
    #[error("{new}: control table {table} cannot be read: {detail}")]
    Control { new: NewShard, table: &'static str, detail: String },
    /// A statement on rows of a planned table.
    #[error("{new}: table {table} (primary key {columns}): {error}")]
    Rows { new: NewShard, table: String, columns: String, error: Box<ServerError> },
    #[error(transparent)]
    Duplicate(Box<Duplicate>),
    #[error(transparent)]
    Refused(Box<Refused>),
    #[error("{new}: {parked} rows wait for their place, the plan allows {limit}")]
    TooManyParked { new: NewShard, parked: usize, limit: usize },
}

fn lies(record: &Option<Box<Record>>) -> String {
    record.as_ref().map(|record| format!(", {record}")).unwrap_or_default()
}

/// The way past one record that is none of ours, ready to be pasted.
fn past_record(record: &Record, direction: Direction) -> String {
    let back = match direction {
        Direction::Forward => "",
        Direction::Back => " --back",
    };
    let Record { partition, offset, .. } = record;
    format!(
        "run replicator and consumer with the same plan and version, and start them again. If somebody else wrote it, keep \
         them out (deploy/kafka-acls.sh), and `modshift skip{back} --partition {partition} --offset \
         {offset} --why \"REASON\"` passes over this record alone"
    )
}

/// Two rows of different old shards that cannot both be on one new shard, for good.
#[derive(Debug, thiserror::Error)]
#[error(
    "{new}: table {table} has the same {key} on {old} and {holder}: the row from {old} has waited \
     {waited_s} s for its place, and every old shard has been read far beyond that"
)]
pub struct Duplicate {
    pub new: NewShard,
    pub table: String,
    /// Columns of the primary key.
    pub columns: String,
    /// Unique key that is taken.
    pub key: String,
    pub old: OldShard,
    /// The old shard whose row holds the place.
    pub holder: String,
    pub waited_s: i64,
    /// The primary key of the row that waits, for the operator. Not for logs.
    pub values: String,
}

/// A row that the new shard's server does not store as it is, under whatever `sql_mode`.
#[derive(Debug, thiserror::Error)]
#[error(
    "{new}: a row of table {table} (primary key {columns}) from {old} {why}; it has waited \
     {waited_s} s for a change on {old}"
)]
pub struct Refused {
    pub new: NewShard,
    pub table: String,
    /// Columns of the primary key.
    pub columns: String,
    pub old: OldShard,
    /// `cannot be stored: …`, with the column and without its value.
    pub why: String,
    pub waited_s: i64,
    /// The primary key of the row, for the operator. Not for logs.
    pub values: String,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and try again.
    Retry,
    /// A fact that trying again cannot change: stop, keep the position, close the gate.
    Halt,
    /// An invariant of our own broke: stop the process.
    Fatal,
}

/// About a statement that fails whatever the rows are.
const ROWS: &str = "compare the table on both sides (modshift check, modshift schema) and mend what \
     the server says; then start the consumer again, which goes on from here";

fn rows_hint(code: Option<u16>) -> &'static str {
    match code {
        Some(1118) => {
            "the row is too large for this server's pages: give the table the ROW_FORMAT, and the server \
             the innodb_page_size, that the old shards have; then start the consumer again, which goes on \
             from here"
        }
        Some(1146) => {
            "the table is gone on this new shard: modshift schema --apply makes it again, but without \
             the rows that were copied: start over with `modshift restart-copy`"
        }
        _ => ROWS,
    }
}

impl ApplyError {
    /// The record that is none of ours, if an operator may have it passed over.
    pub fn skips(&self) -> Option<&Record> {
        match self {
            ApplyError::Message { record, .. } | ApplyError::UnknownSource { record, .. } => {
                record.as_deref()
            }
            _ => None,
        }
    }

    pub fn class(&self) -> Class {
        use modshift_changelog::Class as Log;
        use modshift_mariadb::Class as Server;
        match self {
            ApplyError::Rows { error, .. } => match error.class() {
                Server::Retry => Class::Retry,
                Server::Halt => Class::Halt,
            },
            ApplyError::Server(error) => match error.class() {
                Server::Retry => Class::Retry,
                Server::Halt => Class::Halt,
            },
            ApplyError::Catalog(error) => match error.class() {
                Server::Retry => Class::Retry,
                Server::Halt => Class::Halt,
            },
            ApplyError::Log(error) => match error.class() {
                Log::Retry => Class::Retry,
                Log::Halt => Class::Halt,
            },
            ApplyError::HandedOver { .. } | ApplyError::NotThereYet { .. } => Class::Retry,
            ApplyError::Change { error, .. } if error.is_fatal() => Class::Fatal,
            ApplyError::Message { .. }
            | ApplyError::OtherVersion { .. }
            | ApplyError::UnknownSource { .. }
            | ApplyError::Sequence { .. }
            | ApplyError::Change { .. }
            | ApplyError::Target { .. }
            | ApplyError::Drift { .. }
            | ApplyError::Value { .. }
            | ApplyError::TakenOver { .. }
            | ApplyError::CommitsLost { .. }
            | ApplyError::Triggers { .. }
            | ApplyError::Serves { .. }
            | ApplyError::Control { .. }
            | ApplyError::Duplicate(_)
            | ApplyError::Refused(_)
            | ApplyError::TooManyParked { .. } => Class::Halt,
        }
    }

    /// Short and of low cardinality, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            ApplyError::Server(_) | ApplyError::Rows { .. } => "server",
            ApplyError::Catalog(_) => "catalog",
            ApplyError::Log(_) => "log",
            ApplyError::Message { .. } => "message",
            ApplyError::OtherVersion { .. } => "other_version",
            ApplyError::UnknownSource { .. } => "unknown_source",
            ApplyError::Sequence { error, .. } => error.reason(),
            ApplyError::Change { error, .. } => error.reason(),
            ApplyError::Target { .. } => "target",
            ApplyError::Drift { .. } => "drift",
            ApplyError::Value { .. } => "value",
            ApplyError::TakenOver { .. } => "taken_over",
            ApplyError::NotThereYet { .. } | ApplyError::CommitsLost { .. } => "commits_lost",
            ApplyError::Triggers { .. } => "triggers",
            ApplyError::HandedOver { .. } => "handed_over",
            ApplyError::Serves { .. } => "serves",
            ApplyError::Control { .. } => "control",
            ApplyError::Duplicate(_) => "duplicate",
            ApplyError::Refused(_) => "refused",
            ApplyError::TooManyParked { .. } => "too_many_parked",
        }
    }

    /// What the operator does next.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ApplyError::Server(error) => return error.hint(),
            ApplyError::Rows { error, .. } => {
                return error.hint().or_else(|| Some(rows_hint(error.code()).to_owned()));
            }
            ApplyError::Catalog(error) => return error.hint(),
            ApplyError::Log(error) => return error.hint().map(str::to_owned),
            ApplyError::Message { .. } | ApplyError::UnknownSource { .. } => {
                "run replicator and consumer with the same plan and version, and start them again"
            }
            ApplyError::OtherVersion { error: MessageError::Version { .. }, .. } => {
                "upgrade: start this consumer in the version of modshift that the replicator has, and it \
                 goes on from here"
            }
            ApplyError::OtherVersion { error: MessageError::Malformed(_), .. } => {
                "start this consumer in the version of modshift that the replicator has, and it goes on \
                 from here; if both are the same the message was damaged: start over with `modshift \
                 restart-copy`"
            }
            ApplyError::Sequence { error, .. } => error.hint(),
            ApplyError::Change { error, .. } => error.hint(),
            ApplyError::Target { .. } => {
                "correct the plan or the table (modshift check), and start the consumer again"
            }
            ApplyError::Drift { .. } => {
                "it was altered while rows were applied (perhaps with sql_log_bin = 0): undo that in \
                 the way it was made, start the daemons, and modshift verify"
            }
            ApplyError::Value { .. } => {
                "run replicator and consumer in the same version, and start them again"
            }
            ApplyError::TakenOver { .. } => {
                "stop one of the two; when the other one is gone this daemon takes over again"
            }
            ApplyError::NotThereYet { .. } => {
                "it is asked again all the time; SHOW ALL SLAVES STATUS there says what keeps it from \
                 applying"
            }
            ApplyError::CommitsLost { .. } => {
                "where the plan's address leads to the wrong server, correct that and start the daemon \
                 again. Where a replica that was behind was promoted: over Kafka start the consumer \
                 again, and it applies once more what that server lost, as far back as log.retention; \
                 over the in-process log that is gone: start over with `modshift restart-copy`"
            }
            ApplyError::Triggers { .. } => {
                "drop them there, for this shard does not serve: a cutover or rollback hands over \
                 those of the side that does. Then start the daemons again; if rows were applied while \
                 triggers were there, modshift verify"
            }
            ApplyError::Serves { .. } => {
                "start the daemons with the tables that the reshard was cut over with; others are for \
                 another reshard, after modshift finish"
            }
            ApplyError::HandedOver { .. } => {
                "modshift status shows who serves; where a run was undone and this shard was away, \
                 the same command with --abort takes the triggers down"
            }
            ApplyError::Control { .. } => {
                "it was changed by hand, or by another version of modshift: undo that and start the \
                 consumer again, or start over with `modshift restart-copy`"
            }
            ApplyError::Duplicate(_) => {
                "both rows exist on their old shards: change or delete one of them there, then \
                 start the consumer again; the halted column of modshift_watermark names the key"
            }
            ApplyError::Refused(_) => {
                "change that row on its old shard so that its columns take every value (or delete \
                 it), then start the consumer again; the halted column of modshift_watermark names \
                 the key, blocked_by in modshift_parked the reason of every such row"
            }
            ApplyError::TooManyParked { .. } => {
                "look for keys that exist on several old shards (modshift check) and for rows that \
                 the server does not store (blocked_by in modshift_parked), change or delete them \
                 there, and start the consumer again: it applies what makes room. Or raise \
                 apply.parked_rows_max"
            }
        };
        Some(hint.to_owned())
    }

    /// In the words of the operator's plan, whichever way the stream goes.
    pub fn told(&self, direction: Direction) -> String {
        direction.words(&self.to_string())
    }

    /// What the operator does next about an applier of this direction.
    pub fn hint_for(&self, direction: Direction) -> Option<String> {
        if let Some(record) = self.skips() {
            return Some(past_record(record, direction));
        }
        match (direction, self) {
            (Direction::Back, ApplyError::Sequence { .. }) => Some(LOST_BACK.to_owned()),
            _ => self.hint().map(|hint| match direction {
                // Nothing is copied on the way back.
                Direction::Back if hint.contains("restart-copy") => LOST_BACK.to_owned(),
                _ => direction.words(&hint),
            }),
        }
    }

    /// What is written to `modshift_watermark.halted`. Unlike the text for logs it may name the
    /// primary key of a row.
    pub fn halted_text(&self, direction: Direction) -> String {
        let mut text = self.told(direction);
        let key = match self {
            ApplyError::Duplicate(row) => Some((&row.columns, &row.values)),
            ApplyError::Refused(row) => Some((&row.columns, &row.values)),
            _ => None,
        };
        if let Some((columns, values)) = key {
            text.push_str(&format!("; primary key ({columns}) = ({values})"));
        }
        if let Some(hint) = self.hint_for(direction) {
            text.push_str("; ");
            text.push_str(&hint);
        }
        text
    }
}

impl From<CatalogError> for ApplyError {
    fn from(error: CatalogError) -> ApplyError {
        ApplyError::Catalog(Box::new(error))
    }
}

impl From<LogError> for ApplyError {
    fn from(error: LogError) -> ApplyError {
        ApplyError::Log(Box::new(error))
    }
}
