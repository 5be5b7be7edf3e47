//! Why the gate is closed: one line each, and a form for machines.

use std::fmt;

use modshift_proto::shell;
use serde::Serialize;

use super::skipped::SkipFacts;
use crate::parked::ANOTHER_ROW;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    Unreachable {
        shard: String,
        detail: String,
    },
    NoReader {
        old: u16,
    },
    ReaderHalted {
        old: u16,
        text: String,
    },
    ReaderSilent {
        old: u16,
        silent_ms: i64,
        limit_ms: i64,
    },
    ClockBack {
        old: u16,
        ahead_ms: i64,
    },
    NothingApplied {
        old: u16,
        new: u16,
    },
    ApplierHalted {
        new: u16,
        text: String,
    },
    OtherReader {
        old: u16,
        new: u16,
    },
    ProofPending {
        old: u16,
        new: u16,
    },
    Copying {
        old: u16,
        new: u16,
    },
    /// A reader that starts again would copy from the old shard once more: after the switch, over
    /// what the application has written since.
    CopyUnrecorded {
        old: u16,
        tables: Vec<String>,
    },
    /// The streams that run are of another plan than the one that is asked for.
    PlanChanged {
        old: u16,
        changed: String,
    },
    /// A group was passed over, and nobody has proven since that the tables are equal.
    Skipped {
        old: u16,
        #[serde(flatten)]
        group: SkipFacts,
    },
    /// Rows that somebody wanted copied again were not.
    RepairsRefused {
        old: u16,
        requests: u64,
    },
    /// A range that somebody wanted copied again is not, or is not compared yet.
    Resync {
        old: u16,
        tables: Vec<String>,
    },
    ResyncRefused {
        old: u16,
        tables: Vec<String>,
    },
    TimeLag {
        old: u16,
        new: u16,
        lag_ms: i64,
        limit_ms: i64,
    },
    PositionLag {
        old: u16,
        new: u16,
        groups: u64,
        limit: u64,
    },
    PrimaryBehind {
        old: u16,
        new: u16,
        primary: String,
        applied: String,
    },
    Parked {
        new: u16,
        rows: u64,
        /// Of them, those that the server does not store as they are.
        refused: u64,
        /// Table and taken key of some of them.
        of: Vec<String>,
    },
    SchemaUnknown,
    SchemaDifference {
        text: String,
    },
    Daemon {
        text: String,
    },
    /// Something else that `check` calls a fault.
    Check {
        text: String,
    },
    /// A fence would wait for it.
    Obstacle {
        text: String,
    },
    /// A run is not over, or the other side serves.
    Journal {
        text: String,
    },
    /// Its token says so, though no run is under way.
    Fenced {
        old: u16,
    },
    NotVerified {
        tables: Vec<String>,
    },
    VerificationFailed {
        text: String,
    },
    VerificationOld {
        age_s: u64,
        limit_s: u64,
    },
    /// What changes on it is not kept for the comparison at the fence.
    ChangesNotKept {
        new: u16,
        text: String,
    },
    /// Tables that have not been compared as a whole since changes are kept.
    RoundMissing {
        tables: Vec<String>,
        rows: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        minutes: Option<u64>,
    },
    /// The comparison at the fence would take too much of the pause.
    SettlementLong {
        new: u16,
        keys: u64,
        settle_ms: u64,
        limit_ms: u64,
    },
    /// A stream from new to old: `why` is the kind of its own reason.
    WayBack {
        why: &'static str,
        /// Tells the worst of a kind.
        #[serde(skip)]
        much: i64,
        text: String,
    },
    /// This way has been gone already.
    Serving {
        new: u16,
    },
    /// All is well, but not for long enough.
    Hold {
        held_ms: u64,
        hold_ms: u64,
    },
}

impl Reason {
    /// All values of [`Reason::kind`], for the metric.
    pub const KINDS: [&'static str; 36] = [
        "unreachable",
        "no_reader",
        "reader_halted",
        "reader_silent",
        "clock_back",
        "nothing_applied",
        "applier_halted",
        "other_reader",
        "proof_pending",
        "copying",
        "copy_unrecorded",
        "plan_changed",
        "skipped",
        "repairs_refused",
        "resync",
        "resync_refused",
        "time_lag",
        "position_lag",
        "primary_behind",
        "parked",
        "schema_unknown",
        "schema_difference",
        "daemon",
        "check",
        "obstacle",
        "journal",
        "fenced",
        "changes_not_kept",
        "round_missing",
        "settlement_long",
        "not_verified",
        "verification_failed",
        "verification_old",
        "way_back",
        "serving",
        "hold",
    ];

    pub fn kind(&self) -> &'static str {
        match self {
            Reason::Unreachable { .. } => "unreachable",
            Reason::NoReader { .. } => "no_reader",
            Reason::ReaderHalted { .. } => "reader_halted",
            Reason::ReaderSilent { .. } => "reader_silent",
            Reason::ClockBack { .. } => "clock_back",
            Reason::NothingApplied { .. } => "nothing_applied",
            Reason::ApplierHalted { .. } => "applier_halted",
            Reason::OtherReader { .. } => "other_reader",
            Reason::ProofPending { .. } => "proof_pending",
            Reason::Copying { .. } => "copying",
            Reason::CopyUnrecorded { .. } => "copy_unrecorded",
            Reason::PlanChanged { .. } => "plan_changed",
            Reason::Skipped { .. } => "skipped",
            Reason::RepairsRefused { .. } => "repairs_refused",
            Reason::Resync { .. } => "resync",
            Reason::ResyncRefused { .. } => "resync_refused",
            Reason::TimeLag { .. } => "time_lag",
            Reason::PositionLag { .. } => "position_lag",
            Reason::PrimaryBehind { .. } => "primary_behind",
            Reason::Parked { .. } => "parked",
            Reason::SchemaUnknown => "schema_unknown",
            Reason::SchemaDifference { .. } => "schema_difference",
            Reason::Daemon { .. } => "daemon",
            Reason::Check { .. } => "check",
            Reason::Obstacle { .. } => "obstacle",
            Reason::Journal { .. } => "journal",
            Reason::Fenced { .. } => "fenced",
            Reason::ChangesNotKept { .. } => "changes_not_kept",
            Reason::RoundMissing { .. } => "round_missing",
            Reason::SettlementLong { .. } => "settlement_long",
            Reason::NotVerified { .. } => "not_verified",
            Reason::VerificationFailed { .. } => "verification_failed",
            Reason::VerificationOld { .. } => "verification_old",
            Reason::WayBack { .. } => "way_back",
            Reason::Serving { .. } => "serving",
            Reason::Hold { .. } => "hold",
        }
    }
}

/// A few names, and how many more.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: i64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        match self {
            Reason::Unreachable { shard, detail } => write!(f, "{shard} does not answer: {detail}"),
            Reason::NoReader { old } => write!(f, "old shard {old} has never been read"),
            Reason::ReaderHalted { old, text } => {
                write!(f, "reader of old shard {old} stopped: {text}")
            }
            Reason::ReaderSilent { old, silent_ms, limit_ms } => write!(
                f,
                "reader of old shard {old} wrote its last token {} ago (limit {})",
                seconds(*silent_ms),
                seconds(*limit_ms)
            ),
            Reason::ClockBack { old, ahead_ms } => write!(
                f,
                "clock of old shard {old} went back: a token is {} ahead of it",
                seconds(*ahead_ms)
            ),
            Reason::NothingApplied { old, new } => {
                write!(f, "new shard {new} has applied nothing of old shard {old}")
            }
            Reason::ApplierHalted { new, text } => {
                write!(f, "applier of new shard {new} stopped: {text}")
            }
            Reason::OtherReader { old, new } => write!(
                f,
                "new shard {new} has applied nothing yet of old shard {old}'s present reader"
            ),
            Reason::ProofPending { old, new } => write!(
                f,
                "new shard {new} waits for old shard {old}'s reader to show again what was applied"
            ),
            Reason::Copying { old, new } => {
                write!(f, "old shard {old} is still being copied to new shard {new}")
            }
            Reason::CopyUnrecorded { old, tables } => write!(
                f,
                "old shard {old} has not recorded yet that it is copied: {}",
                tables.join(", ")
            ),
            Reason::PlanChanged { old, changed } => write!(
                f,
                "the plan {changed}, compared with the one by which old shard {old} is read: start the \
                 daemons with this plan, or ask with theirs"
            ),
            Reason::Skipped { old, group: SkipFacts { gtid, why, passed: false, .. } } => {
                write!(
                    f,
                    "group {gtid} of old shard {old} is to be passed over ({why}), and its reader has not \
                 come by it yet: it does within seconds where its daemon runs"
                )
            }
            Reason::Skipped { old, group: SkipFacts { gtid, why, tables, .. } } => write!(
                f,
                "group {gtid} of old shard {old} was passed over ({why}), and {} may lack what it changed: \
                 modshift verify --repair{} makes them equal and proves it",
                tables.join(", "),
                shell::options("--table", tables)
            ),
            Reason::RepairsRefused { old, requests } => write!(
                f,
                "the reader of old shard {old} has refused {requests} requests for a repair: its log \
                 says why; verify, and delete them from modshift_repair there (sent = 2)"
            ),
            Reason::Resync { old, tables } => write!(
                f,
                "a resync of old shard {old} is not over, of {}: the same modshift resync goes on with \
                 it, modshift resync --cancel takes it back",
                some_of(tables)
            ),
            Reason::ResyncRefused { old, tables } => write!(
                f,
                "the reader of old shard {old} has refused a resync of {}: mend what the same modshift \
                 resync says of it, or take it back with modshift resync --cancel",
                some_of(tables)
            ),
            Reason::TimeLag { old, new, lag_ms, limit_ms } => write!(
                f,
                "new shard {new} is {} behind old shard {old} (limit {})",
                seconds(*lag_ms),
                seconds(*limit_ms)
            ),
            Reason::PositionLag { old, new, groups, limit } => write!(
                f,
                "new shard {new} is {groups} event groups behind old shard {old} (limit {limit})"
            ),
            Reason::PrimaryBehind { old, new, primary, applied } => write!(
                f,
                "old shard {old} is at {primary}, behind what new shard {new} has applied, \
                 {applied}"
            ),
            Reason::Parked { new, rows, refused, of } => {
                write!(f, "{rows} rows wait for their place on new shard {new}")?;
                if *refused > 0 {
                    write!(
                        f,
                        ", {refused} of them for a change on their old shard: they cannot be stored \
                         as they are (blocked_by in modshift_parked says why)"
                    )?;
                }
                if of.is_empty() {
                    return Ok(());
                }
                let of = of.join(", ");
                write!(f, ": {of}; modshift_parked there lists all, each with what it waits for")?;
                match of.contains(ANOTHER_ROW) {
                    true => write!(
                        f,
                        "; where that is another row of the same old shard, it is too many there, and \
                         modshift verify --repair removes it"
                    ),
                    false => Ok(()),
                }
            }
            Reason::SchemaUnknown => f.write_str("tables of old and new shards were not compared"),
            Reason::SchemaDifference { text } => write!(f, "tables differ: {text}"),
            Reason::Daemon { text } => f.write_str(text),
            Reason::Check { text } => write!(f, "modshift check: {text}"),
            Reason::Obstacle { text } => f.write_str(text),
            Reason::Journal { text } => f.write_str(text),
            Reason::Fenced { old } => write!(
                f,
                "old shard {old} is fenced, though no run is under way: it does not serve; modshift \
                 status shows what happened"
            ),
            Reason::ChangesNotKept { new, text } => write!(
                f,
                "changes on new shard {new} are not kept for the comparison at the fence: {text}"
            ),
            Reason::RoundMissing { tables, rows, minutes } => {
                let left = match minutes {
                    Some(0) => ", less than a minute".to_owned(),
                    Some(minutes) => format!(", some {minutes} min at the pace so far"),
                    None => String::new(),
                };
                write!(
                    f,
                    "{} not compared as a whole since the consumers keep changes: {}; about {rows} \
                     rows are left{left}",
                    if tables.len() == 1 { "1 table was" } else { "these tables were" },
                    some_of(tables)
                )
            }
            Reason::SettlementLong { new, keys, settle_ms, limit_ms } => write!(
                f,
                "{keys} changed keys of new shard {new} wait to be compared, which takes about {} \
                 (limit {}, a quarter of cutover.budget): the verifier is slowed down, or changes come \
                 too fast",
                seconds(*settle_ms as i64),
                seconds(*limit_ms as i64)
            ),
            Reason::NotVerified { tables } => {
                f.write_str("the rows were never verified")?;
                if !tables.is_empty() {
                    write!(f, " ({} not proven equal)", some_of(tables))?;
                }
                f.write_str(": modshift verify compares them while the application writes")
            }
            Reason::VerificationFailed { text } => {
                write!(f, "the last verification failed: {text}; modshift verify names the rows")
            }
            Reason::VerificationOld { age_s, limit_s } => {
                write!(
                    f,
                    "the last verification is {age_s} s old (limit {limit_s} s): modshift verify makes \
                     a new one"
                )
            }
            Reason::WayBack { text, .. } => write!(f, "way back: {text}"),
            Reason::Serving { new } => write!(f, "new shard {new} serves already"),
            Reason::Hold { held_ms, hold_ms } => write!(
                f,
                "within limits for {} of {}",
                seconds(*held_ms as i64),
                seconds(*hold_ms as i64)
            ),
        }
    }
}
