//! Why a stream cannot go on.

use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard, Position};

/// Something was lost, repeated under another name, or came from nowhere. Never retried: each is
/// a fact about the change log or the old shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error(
        "messages of {old} are missing from the change log: expected number {expected} of \
         epoch {epoch}, found {found}"
    )]
    Gap { old: OldShard, epoch: u64, expected: u64, found: u64 },
    #[error("epoch {epoch} of {old} has no start marker: the first message has number {found}")]
    NoMarker { old: OldShard, epoch: u64, found: u64 },
    #[error("a start marker of {old} inside its epoch, at number {number}")]
    MarkerInside { old: OldShard, number: u64 },
    #[error(
        "{old} resumes after {resumes_after}, but nothing of it was ever applied here: \
         its first epoch is lost"
    )]
    NoWatermark { old: OldShard, resumes_after: GtidSet },
    #[error(
        "{old} resumes after {resumes_after}, but only {applied} has been applied: \
         what lies between is lost"
    )]
    NotCovered { old: OldShard, resumes_after: GtidSet, applied: GtidSet },
    #[error(
        "{old} resumes after {resumes_after}, beyond its newest token applied here, {newest}: \
         its progress was lost or is not its own"
    )]
    ForeignResume { old: OldShard, resumes_after: GtidSet, newest: GroupDigest },
    #[error(
        "{old} lost part of its binlog: {applied} was applied here, but there is {found} in \
         its place"
    )]
    LostTail { old: OldShard, applied: GroupDigest, found: String },
    #[error("{old} sent a change of {found} where event group {had} was in progress")]
    OtherGroup { old: OldShard, had: Gtid, found: Gtid },
    #[error("{old} went back in its log: {found} came after {had}")]
    Backwards { old: OldShard, had: Position, found: Position },
    #[error(
        "{old} is read from a server with its GTID domains in another order: {found} came \
         while {partial} was half applied"
    )]
    Domains { old: OldShard, partial: Gtid, found: Gtid },
    #[error(
        "{old} sent a change of {found}, in another GTID domain, while {partial} was half applied, and \
         tables have left the plan since: whether the rest of {partial} is still to come cannot be told"
    )]
    DomainsWithoutTables { old: OldShard, partial: Gtid, found: Gtid },
}

impl SequenceError {
    /// Short and of low cardinality, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            SequenceError::Gap { .. } => "gap",
            SequenceError::NoMarker { .. } => "no_marker",
            SequenceError::MarkerInside { .. } => "marker_inside",
            SequenceError::NoWatermark { .. } => "no_watermark",
            SequenceError::NotCovered { .. } => "not_covered",
            SequenceError::ForeignResume { .. } => "foreign_resume",
            SequenceError::LostTail { .. } => "lost_tail",
            SequenceError::OtherGroup { .. } => "other_group",
            SequenceError::Backwards { .. } => "backwards",
            SequenceError::Domains { .. } => "domains",
            SequenceError::DomainsWithoutTables { .. } => "domains_without_tables",
        }
    }

    /// What the operator does next.
    pub fn hint(&self) -> &'static str {
        match self {
            SequenceError::Gap { .. }
            | SequenceError::NoMarker { .. }
            | SequenceError::MarkerInside { .. } => {
                "the change log lost or reordered messages; restart the reader of that old shard, \
                 and start over with `modshift restart-copy` if the error stays"
            }
            SequenceError::NoWatermark { .. }
            | SequenceError::NotCovered { .. }
            | SequenceError::ForeignResume { .. } => {
                "the change log or modshift's control tables were emptied, restored or changed by \
                 hand; start over with `modshift restart-copy`"
            }
            SequenceError::LostTail { .. } => {
                "the server crashed without sync_binlog=1 or a replica that was behind was \
                 promoted; rows applied here may not exist there: start over with `modshift \
                 restart-copy`"
            }
            SequenceError::OtherGroup { .. } | SequenceError::Backwards { .. } => {
                "sequence numbers must rise in each GTID domain: find out who writes GTIDs by hand there, \
                 or whether a second server writes, SET GLOBAL gtid_strict_mode = 1, also in my.cnf, and \
                 start over with `modshift restart-copy`"
            }
            SequenceError::Domains { .. } => {
                "read that old shard from the server it was read from (its host, or read_from, in the \
                 plan), and start the daemons again"
            }
            SequenceError::DomainsWithoutTables { .. } => {
                "stop the daemons, put the tables that were taken out of the plan back into it, and start \
                 them with that: all of that group comes again, and the stream goes on. Take the tables \
                 out once modshift status shows that all streams have caught up"
            }
        }
    }
}
