//! Everything that can end a reader, and whether trying again can help. What the operator does next is
//! in `hint`.

mod hint;

use modshift_changelog::LogError;
use modshift_mariadb::value::ValueError;
use modshift_mariadb::{CatalogError, ServerError};
use modshift_proto::gtid::GtidParseError;
use modshift_proto::plan::{Direction, Endpoint};
use modshift_proto::row::RowError;
use modshift_proto::rule::RuleError;
use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard, Position};

use crate::binlog::BinlogError;

/// Retry, or stop and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and try again.
    Retry,
    /// A fact about data, schema or settings that trying again cannot change.
    Halt,
}

/// What an event group can hold that is not carried over. Statements come without their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    #[error("group {0}, which begins before its end")]
    Group(Gtid),
    #[error("{0} of an XA transaction, which is not as MariaDB logs it")]
    Xa(&'static str),
    #[error("XA COMMIT {0}, and the binlogs that the server keeps do not hold its XA PREPARE")]
    XaUnprepared(String),
    #[error("DDL on a planned table ({what}): {statement}")]
    Ddl { what: String, statement: String },
    #[error("a statement-format {verb}: {statement}")]
    StatementFormat { verb: String, statement: String },
    #[error("a statement-format {verb}: {statement}; {why}")]
    Unseen { verb: String, statement: String, why: String },
    #[error(
        "a definition that takes away a {what}: {statement}; a statement before it wrote in statement \
         format and may have run that, and when it was read the server could not tell any more"
    )]
    Undone { what: &'static str, statement: String },
    #[error("a statement not known to be harmless: {statement}")]
    Unknown { statement: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Binlog(#[from] BinlogError),
    #[error(transparent)]
    Log(#[from] LogError),

    #[error("{shard}: another reader has taken over (its epoch is {theirs}, ours was {ours})")]
    Superseded { shard: OldShard, ours: u64, theirs: u64 },
    #[error(
        "{shard}: modshift_token has a reader epoch, but modshift_progress has no resume point"
    )]
    ProgressLost { shard: OldShard },
    #[error("{shard}: the resume point in modshift_progress is unreadable: {source}")]
    ProgressUnreadable { shard: OldShard, source: GtidParseError },
    #[error("{shard}: group {found} is not what was read before as {expected}")]
    HistoryChanged { shard: OldShard, expected: GroupDigest, found: GroupDigest },
    #[error("{shard}: the binlog gave {found} where {expected} was read before")]
    HistoryMissing { shard: OldShard, expected: Gtid, found: Gtid },
    #[error("{shard}: group {gtid} differs in its first {events} events from what was read before")]
    GroupChanged { shard: OldShard, gtid: Gtid, events: u64 },
    #[error("{shard}: GTID {found} follows {last}: sequence numbers of a domain must rise")]
    SequenceBack { shard: OldShard, last: Gtid, found: Gtid },
    #[error("{shard}: {what} outside of an event group")]
    NoGroup { shard: OldShard, what: &'static str },

    #[error(
        "{shard}: at {position} table {table} has a row whose key places it on shard {placed}: \
         a stray row"
    )]
    Stray { shard: OldShard, table: String, position: String, group: Option<Gtid>, placed: u16 },
    #[error("{shard}: at {position} table {table}: {source}")]
    Row { shard: OldShard, table: String, position: String, group: Option<Gtid>, source: RowError },
    #[error("{shard}: table {table}: {source}")]
    Value { shard: OldShard, table: String, source: ValueError },
    #[error("{shard}: table {table}: {source}")]
    Rule { shard: OldShard, table: String, source: RuleError },
    #[error("{shard}: table {table} has no column {column}")]
    NoKeyColumn { shard: OldShard, table: String, column: String },
    #[error("{shard}: table {table} has no primary key")]
    NoPrimaryKey { shard: OldShard, table: String },
    #[error("{shard}: table {table} uses engine {engine}, which has no consistent reads")]
    Engine { shard: OldShard, table: String, engine: String },

    #[error(
        "{shard}: table {table} has primary keys that MariaDB does not find in the order of its \
         index; it has a row for: {statement}"
    )]
    Unpageable { shard: OldShard, table: String, statement: String },

    #[error("{shard}: table {table} on {at} is not defined as its binlog is read: {differences}")]
    Drift { shard: OldShard, at: String, table: String, differences: String },
    #[error(
        "{shard}: the plan {changed}, but the reshard has been cut over with the tables it had then"
    )]
    PlanChanged { shard: OldShard, changed: String },

    #[error("{shard}: group {gtid} changes table {table}, but the shard is fenced")]
    ForeignWrite { shard: OldShard, gtid: Gtid, table: String },
    #[error("{shard}: table {table} is being copied while changes from the other side are applied")]
    CopyWhileApplying { shard: OldShard, table: String },
    #[error("{shard}: {at}, from which it is read, is not as far as {start} yet")]
    ReplicaBehind { shard: OldShard, at: String, start: GtidSet },

    #[error("{shard}: group {gtid} holds {what}")]
    Statement { shard: OldShard, gtid: Gtid, what: Foreign },
    #[error("{shard}: group {gtid} rolls back changes to planned tables, and which is not clear")]
    RollbackInGroup { shard: OldShard, gtid: Gtid },
    #[error("{shard}: group {gtid} ends amid its changes, a part of which was read whole before")]
    GroupCut { shard: OldShard, gtid: Gtid },
    #[error(
        "{shard}: group {gtid}, which may have been rolled back, cannot be kept until its end: \
         {dir}: {detail}"
    )]
    Spill { shard: OldShard, gtid: Gtid, dir: String, detail: String },
    #[error(
        "{shard}: group {gtid} may be rolled back in part or prepared by XA, and is larger than {max} \
         bytes, the most that may be kept until its end (reader.spill_max)"
    )]
    HeldTooLarge { shard: OldShard, gtid: Gtid, max: u64 },
    #[error("{shard}: group {gtid} has more row changes than can be numbered")]
    GroupTooLarge { shard: OldShard, gtid: Gtid },
    #[error("{shard}: group {gtid} is to be passed over, but holds rows of modshift's own")]
    OwnGroup { shard: OldShard, gtid: Gtid },
    #[error(
        "{shard}: group {gtid} is not the one that was to be passed over: the server was killed while it \
         wrote that one, which does not count, and has given its GTID to another one"
    )]
    GroupGone { shard: OldShard, gtid: Gtid },
    /// At a group that cannot be passed over, whatever is wrong with it.
    #[error("{error}")]
    Firm { error: Box<ReadError>, why: &'static str },
}

impl ReadError {
    /// The change log ended this epoch's writer, but a new epoch may go on.
    pub(crate) fn ends_epoch(&self) -> bool {
        // `Closed` is an applier of this very process that has halted: it does not come back.
        matches!(self, ReadError::Log(error) if !matches!(error, LogError::Closed(_))
            && error.class() == modshift_changelog::Class::Retry)
    }

    /// The server gave this reader's replica id to another connection.
    pub(crate) fn replica_id_taken(&self) -> bool {
        let taken = |error: &ServerError| matches!(error, ServerError::ReplicaIdTaken { .. });
        match self {
            ReadError::Server(error) => taken(error),
            ReadError::Binlog(BinlogError::Server(error)) => taken(error),
            _ => false,
        }
    }

    /// The file that is read ends amid an event, and the next one goes on.
    pub(crate) fn is_cut_file(&self) -> bool {
        matches!(self, ReadError::Binlog(BinlogError::Server(error)) if error.is_cut_file())
    }

    pub fn class(&self) -> Class {
        match self {
            ReadError::Server(error) => match error.class() {
                modshift_mariadb::Class::Retry => Class::Retry,
                modshift_mariadb::Class::Halt => Class::Halt,
            },
            ReadError::Catalog(error) => match error.class() {
                modshift_mariadb::Class::Retry => Class::Retry,
                modshift_mariadb::Class::Halt => Class::Halt,
            },
            ReadError::Binlog(error) => match error.class() {
                crate::binlog::Class::Retry => Class::Retry,
                crate::binlog::Class::Halt => Class::Halt,
            },
            ReadError::Log(error) => match error.class() {
                modshift_changelog::Class::Retry => Class::Retry,
                modshift_changelog::Class::Halt => Class::Halt,
            },
            ReadError::Superseded { .. }
            | ReadError::ProgressLost { .. }
            | ReadError::ProgressUnreadable { .. }
            | ReadError::HistoryChanged { .. }
            | ReadError::HistoryMissing { .. }
            | ReadError::GroupChanged { .. }
            | ReadError::SequenceBack { .. }
            | ReadError::NoGroup { .. }
            | ReadError::Stray { .. }
            | ReadError::Row { .. }
            | ReadError::Value { .. }
            | ReadError::Rule { .. }
            | ReadError::NoKeyColumn { .. }
            | ReadError::NoPrimaryKey { .. }
            | ReadError::Engine { .. }
            | ReadError::Unpageable { .. }
            | ReadError::Drift { .. }
            | ReadError::PlanChanged { .. }
            | ReadError::ForeignWrite { .. }
            | ReadError::CopyWhileApplying { .. }
            | ReadError::Statement { .. }
            | ReadError::RollbackInGroup { .. }
            | ReadError::GroupCut { .. }
            | ReadError::HeldTooLarge { .. }
            | ReadError::GroupTooLarge { .. }
            | ReadError::OwnGroup { .. }
            | ReadError::Firm { .. } => Class::Halt,
            // There may be room again.
            ReadError::Spill { .. } | ReadError::ReplicaBehind { .. } => Class::Retry,
            // It is read as any other group is.
            ReadError::GroupGone { .. } => Class::Retry,
        }
    }

    /// A short name for the metric of halts.
    pub fn reason(&self) -> &'static str {
        match self {
            ReadError::Server(_) => "server",
            ReadError::Catalog(_) => "catalog",
            ReadError::Binlog(_) => "binlog",
            ReadError::Log(_) => "log",
            ReadError::Superseded { .. } => "superseded",
            ReadError::ProgressLost { .. } | ReadError::ProgressUnreadable { .. } => "progress",
            ReadError::HistoryChanged { .. }
            | ReadError::HistoryMissing { .. }
            | ReadError::GroupChanged { .. }
            | ReadError::GroupCut { .. }
            | ReadError::SequenceBack { .. } => "history",
            ReadError::Spill { .. } | ReadError::HeldTooLarge { .. } => "spill",
            ReadError::NoGroup { .. }
            | ReadError::GroupTooLarge { .. }
            | ReadError::OwnGroup { .. }
            | ReadError::GroupGone { .. } => "group",
            ReadError::Firm { error, .. } => error.reason(),
            ReadError::Stray { .. } => "stray",
            ReadError::Row { .. } | ReadError::Value { .. } => "value",
            ReadError::Rule { .. }
            | ReadError::NoKeyColumn { .. }
            | ReadError::NoPrimaryKey { .. }
            | ReadError::Engine { .. }
            | ReadError::Unpageable { .. } => "schema",
            ReadError::Drift { .. } => "drift",
            ReadError::PlanChanged { .. } => "plan",
            ReadError::Statement { .. } | ReadError::RollbackInGroup { .. } => "statement",
            ReadError::ForeignWrite { .. } => "foreign_write",
            ReadError::CopyWhileApplying { .. } => "copy",
            ReadError::ReplicaBehind { .. } => "replica",
        }
    }

    /// The group in which the reason lies, if an operator may have it passed over. Not so what another
    /// log would be, or a write behind a fence: what follows on that is no less wrong.
    pub fn skips(&self) -> Option<Gtid> {
        match self {
            ReadError::Statement { gtid, .. }
            | ReadError::RollbackInGroup { gtid, .. }
            | ReadError::HeldTooLarge { gtid, .. }
            | ReadError::GroupTooLarge { gtid, .. } => Some(*gtid),
            ReadError::Stray { group, .. } | ReadError::Row { group, .. } => *group,
            _ => None,
        }
    }

    /// In the words of the operator's plan, whichever way the reader goes.
    pub fn told(&self, direction: Direction) -> String {
        direction.words(&self.to_string())
    }
}

/// The driver's error with where and what.
pub(crate) fn server_error(
    endpoint: &Endpoint,
    doing: &'static str,
    error: mysql_async::Error,
) -> ServerError {
    modshift_mariadb::error::of(&modshift_mariadb::connect::label(endpoint), doing, error)
}

/// Where an event group or a snapshot chunk was, for errors.
pub(crate) fn place(position: Option<Position>) -> String {
    match position {
        Some(position) => position.to_string(),
        None => "the copy".to_owned(),
    }
}

/// The GTID set up to and including the last group.
pub(crate) fn with(before: &GtidSet, last: Option<GroupDigest>) -> GtidSet {
    let mut set = before.clone();
    if let Some(last) = last {
        set.set(last.gtid);
    }
    set
}
