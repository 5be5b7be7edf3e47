//! Facts -> open, or every reason why not.

use std::collections::BTreeSet;
use std::time::Duration;

use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Direction, Gate};
use modshift_proto::{Gtid, GtidSet};
use serde::Serialize;

use super::facts::{BackFacts, Beside, Facts, NewFacts, OldFacts, TokenFacts};
use super::reason::Reason;
use super::skipped::SkipFacts;
use crate::sequence::Watermark;
use crate::watermark::Kept;

/// Between two samples further apart than this anything may have happened: the hold begins anew.
const SAMPLE_GAP_MAX: Duration = Duration::from_secs(3);

/// Nobody opens unproven shards without having read this.
pub const UNPROVEN: &str = "verification: given up by the plan (gate.verify_age = \"none\"): nothing proves the rows equal";

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    pub open: bool,
    /// Empty if and only if open.
    pub reasons: Vec<Reason>,
    /// What was not asked for, hence not looked at.
    pub notes: Vec<String>,
    pub streams: Vec<StreamLag>,
    /// Of the way back, by what the operator calls the shards: they flow from new to old.
    #[serde(skip)]
    pub back: Vec<StreamLag>,
}

/// How far one stream is behind. `None`: not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamLag {
    pub old: u16,
    pub new: u16,
    /// Age of the newest token applied, by the old shard's clock.
    pub lag_ms: Option<i64>,
    /// Event groups of others on the primary that are not applied.
    pub groups: Option<u64>,
    pub copied: bool,
}

/// Since when all samples were within the limits. Times are of any clock that does not go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    since: Option<Duration>,
    last: Option<Duration>,
}

impl Hold {
    fn after(self, well: bool, now: Duration) -> Hold {
        let unbroken = self.last.is_some_and(|last| now.saturating_sub(last) <= SAMPLE_GAP_MAX);
        let since = match (well, self.since) {
            (false, _) => None,
            (true, Some(since)) if unbroken => Some(since),
            (true, _) => Some(now),
        };
        Hold { since, last: Some(now) }
    }
}

impl Decision {
    /// Closed because nobody could tell, and for no other reason.
    pub fn cannot_tell(&self) -> bool {
        !self.open && only_silence(&self.reasons)
    }
}

/// Tables of a shard that does not answer cannot be compared: that alone is no answer either. And a
/// server that hangs is waited for before the clocks of the old shards are read, so beside it every
/// stream looks seconds behind.
pub fn only_silence(reasons: &[Reason]) -> bool {
    let away = reasons.iter().any(|why| matches!(why, Reason::Unreachable { .. }));
    reasons.iter().all(|why| match why {
        Reason::Unreachable { .. } | Reason::SchemaUnknown => true,
        Reason::TimeLag { .. } | Reason::WayBack { why: "time_lag", .. } => away,
        _ => false,
    })
}

/// The gate. `hold` is what the previous call returned; `now` the time since any fixed moment.
pub fn decide(facts: &Facts, hold: Hold, gate: &Gate, now: Duration) -> (Decision, Hold) {
    let mut reasons = Vec::new();
    let mut notes = Vec::new();
    let mut streams = Vec::new();
    let mut streams_back = Vec::new();
    pairs(&facts.old, &facts.new, gate, &mut reasons, &mut streams);
    match &facts.back {
        Some(back) => streams_back = way_back(back, gate, &mut reasons),
        None => notes.push("way back: not configured".to_owned()),
    }
    outside(facts, gate, &mut reasons, &mut notes);
    journal(facts, &mut reasons);
    if let Some(beside) = &facts.beside {
        settlement(beside, &mut reasons);
    }
    let hold = hold.after(reasons.is_empty(), now);
    if let Some(since) = hold.since {
        let held = now.saturating_sub(since);
        if held < gate.hold {
            reasons.push(Reason::Hold {
                held_ms: held.as_millis() as u64,
                hold_ms: gate.hold.as_millis() as u64,
            });
        }
    }
    (Decision { open: reasons.is_empty(), reasons, notes, streams, back: streams_back }, hold)
}

/// Every shard, and every stream between two of them.
fn pairs(
    olds: &[Result<OldFacts, String>],
    news: &[Result<NewFacts, String>],
    gate: &Gate,
    reasons: &mut Vec<Reason>,
    streams: &mut Vec<StreamLag>,
) {
    for (old, read) in olds.iter().enumerate() {
        match read {
            Err(detail) => reasons.push(Reason::Unreachable {
                shard: format!("old shard {old}"),
                detail: detail.clone(),
            }),
            Ok(facts) => old_shard(old as u16, facts, gate, reasons),
        }
    }
    for (new, read) in news.iter().enumerate() {
        let target = match read {
            Err(detail) => {
                reasons.push(Reason::Unreachable {
                    shard: format!("new shard {new}"),
                    detail: detail.clone(),
                });
                None
            }
            Ok(target) => {
                new_shard(new as u16, target, reasons);
                Some(target)
            }
        };
        for (old, source) in olds.iter().enumerate() {
            let source = source.as_ref().ok();
            let mark = target
                .and_then(|target| target.marks.iter().find(|m| usize::from(m.source.0) == old));
            let pair = (old as u16, new as u16);
            if target.is_some() && mark.is_none() {
                reasons.push(Reason::NothingApplied { old: pair.0, new: pair.1 });
            }
            streams.push(stream(pair, source, mark, gate, reasons));
        }
    }
}

/// The streams from new to old must be as alive as the others, though they have nothing to carry
/// yet. Their lag in groups says nothing: nearly all groups there are modshift's own.
fn way_back(back: &BackFacts, gate: &Gate, reasons: &mut Vec<Reason>) -> Vec<StreamLag> {
    let words = |text: &str| Direction::Back.words(text);
    let (mut found, mut streams) = (Vec::new(), Vec::new());
    pairs(&back.sources, &back.targets, gate, &mut found, &mut streams);
    for reason in found {
        let much = much(&reason);
        let reason = match reason {
            Reason::PositionLag { .. } | Reason::Copying { .. } => continue,
            Reason::Unreachable { shard, detail } => {
                Reason::Unreachable { shard: words(&shard), detail }
            }
            // What a stream said of itself is in the operator's words already.
            Reason::ReaderHalted { old, text } => Reason::WayBack {
                why: "reader_halted",
                much,
                text: format!("reader of new shard {old} stopped: {text}"),
            },
            Reason::ApplierHalted { new, text } => Reason::WayBack {
                why: "applier_halted",
                much,
                text: format!("applier of old shard {new} stopped: {text}"),
            },
            other => {
                let text = Direction::Back.advice(&other.to_string());
                Reason::WayBack { why: other.kind(), much, text }
            }
        };
        // A shard that does not answer is silent in both roles.
        let known = |had: &Reason| match (had, &reason) {
            (Reason::Unreachable { shard: a, .. }, Reason::Unreachable { shard: b, .. }) => a == b,
            _ => false,
        };
        if !reasons.iter().any(known) {
            reasons.push(reason);
        }
    }
    for (new, source) in back.sources.iter().enumerate() {
        let token = source.as_ref().ok().and_then(|source| source.token.as_ref());
        if token.is_some_and(|token| token.phase == TokenPhase::Serving) {
            reasons.push(Reason::Serving { new: new as u16 });
        }
    }
    let named = |lag: StreamLag| StreamLag { old: lag.new, new: lag.old, ..lag };
    streams.into_iter().map(named).collect()
}

/// What tells the worst of a kind, in a unit of that kind.
fn much(reason: &Reason) -> i64 {
    match reason {
        Reason::TimeLag { lag_ms, .. } => *lag_ms,
        Reason::ReaderSilent { silent_ms, .. } => *silent_ms,
        Reason::ClockBack { ahead_ms, .. } => *ahead_ms,
        Reason::Parked { rows, .. } => i64::try_from(*rows).unwrap_or(i64::MAX),
        _ => 0,
    }
}

fn old_shard(old: u16, facts: &OldFacts, gate: &Gate, reasons: &mut Vec<Reason>) {
    let Some(token) = &facts.token else {
        reasons.push(Reason::NoReader { old });
        return;
    };
    if let Some(text) = &token.halted {
        reasons.push(Reason::ReaderHalted { old, text: text.clone() });
    }
    if !facts.unrecorded.is_empty() {
        reasons.push(Reason::CopyUnrecorded { old, tables: facts.unrecorded.clone() });
    }
    if let Some(changed) = &facts.plan_changed {
        reasons.push(Reason::PlanChanged { old, changed: changed.clone() });
    }
    let skipped = |group: &SkipFacts| Reason::Skipped { old, group: group.clone() };
    reasons.extend(facts.skipped.iter().map(skipped));
    if facts.repairs_refused > 0 {
        reasons.push(Reason::RepairsRefused { old, requests: facts.repairs_refused });
    }
    let of = |refused: bool| -> Vec<String> {
        let resyncs = facts.resyncs.iter().filter(|resync| resync.refused == refused);
        let tables: BTreeSet<&str> = resyncs.map(|resync| resync.table.as_str()).collect();
        tables.into_iter().map(str::to_owned).collect()
    };
    let (open, refused) = (of(false), of(true));
    if !open.is_empty() {
        reasons.push(Reason::Resync { old, tables: open });
    }
    if !refused.is_empty() {
        reasons.push(Reason::ResyncRefused { old, tables: refused });
    }
    let silent_us = facts.now_us - token.clock_us;
    if silent_us < 0 {
        reasons.push(Reason::ClockBack { old, ahead_ms: -silent_us / 1000 });
    } else if beyond(silent_us, gate) {
        reasons.push(Reason::ReaderSilent {
            old,
            silent_ms: silent_us / 1000,
            limit_ms: gate.max_lag.as_millis() as i64,
        });
    }
}

fn new_shard(new: u16, facts: &NewFacts, reasons: &mut Vec<Reason>) {
    // One applier, one error: it is on every row.
    if let Some(text) = facts.marks.iter().find_map(|mark| mark.halted.as_ref()) {
        reasons.push(Reason::ApplierHalted { new, text: text.clone() });
    }
    if facts.parked > 0 {
        reasons.push(Reason::Parked {
            new,
            rows: facts.parked,
            refused: facts.refused,
            of: facts.parked_for.clone(),
        });
    }
}

fn stream(
    (old, new): (u16, u16),
    source: Option<&OldFacts>,
    mark: Option<&Kept>,
    gate: &Gate,
    reasons: &mut Vec<Reason>,
) -> StreamLag {
    let mut lag = StreamLag { old, new, lag_ms: None, groups: None, copied: false };
    // Whichever is missing has its own reason.
    let Some(mark) = mark.map(|kept| &kept.mark) else { return lag };
    lag.copied = mark.copied;
    if !mark.copied {
        reasons.push(Reason::Copying { old, new });
    }
    if mark.proof_pending() {
        reasons.push(Reason::ProofPending { old, new });
    }
    let Some((source, token)) = source.and_then(|s| Some((s, s.token.as_ref()?))) else {
        return lag;
    };
    if mark.epoch != token.epoch {
        reasons.push(Reason::OtherReader { old, new });
    }
    let lag_us = source.now_us - mark.token_clock_us;
    // Of a stream that has begun, or was rearmed, and has no token yet: 1970 is no clock of a server.
    let never = mark.token_clock_us == 0;
    lag.lag_ms = (!never).then_some(lag_us / 1000);
    if never {
        reasons.push(Reason::NothingApplied { old, new });
    } else if lag_us < 0 {
        reasons.push(Reason::ClockBack { old, ahead_ms: -lag_us / 1000 });
    } else if beyond(lag_us, gate) {
        reasons.push(Reason::TimeLag {
            old,
            new,
            lag_ms: lag_us / 1000,
            limit_ms: gate.max_lag.as_millis() as i64,
        });
    }
    match groups_behind(&source.gtids, token, mark) {
        None => reasons.push(Reason::PrimaryBehind {
            old,
            new,
            primary: source.gtids.to_string(),
            applied: mark.gtids.to_string(),
        }),
        Some(groups) => {
            lag.groups = Some(groups);
            if groups > gate.max_lag_groups {
                let limit = gate.max_lag_groups;
                reasons.push(Reason::PositionLag { old, new, groups, limit });
            }
        }
    }
    lag
}

fn beyond(lag_us: i64, gate: &Gate) -> bool {
    i128::from(lag_us) > gate.max_lag.as_micros() as i128
}

/// Groups of the primary beyond the watermark, modshift's own left out. `None` where the primary
/// does not have what was applied.
fn groups_behind(primary: &GtidSet, token: &TokenFacts, mark: &Watermark) -> Option<u64> {
    let applied = &mark.gtids;
    let newest = mark.token.map(|newest| newest.digest.gtid);
    // A domain may be deleted there (DELETE_DOMAIN_ID); not the one in which tokens are written. Whether
    // it is still the same server its reader asks whenever it connects.
    let is_own = newest.is_some_and(|newest| primary.covers(newest));
    let is_known =
        |gtid: Gtid| primary.covers(gtid) || is_own && primary.get(gtid.domain).is_none();
    if !applied.iter().all(is_known) {
        return None;
    }
    let all: u64 = primary
        .iter()
        .map(|gtid| gtid.seq - applied.get(gtid.domain).map_or(0, |had| had.seq))
        .sum();
    // A count that went back (a failover that lost tokens) leaves nothing out.
    let own = token.writes.saturating_sub(mark.token_writes);
    // The watermark may have passed its token, and quiet ones on the way: as many as there can be
    // are not left out, for they are not beyond it.
    let reached = newest.and_then(|newest| applied.get(newest.domain));
    let passed = reached.zip(newest).map_or(0, |(now, newest)| now.seq.saturating_sub(newest.seq));
    Some(all.saturating_sub(own.saturating_sub(passed)))
}

fn outside(facts: &Facts, gate: &Gate, reasons: &mut Vec<Reason>, notes: &mut Vec<String>) {
    match &facts.outside.schema_differences {
        None => reasons.push(Reason::SchemaUnknown),
        Some(differences) => {
            let of = |text: &String| Reason::SchemaDifference { text: text.clone() };
            reasons.extend(differences.iter().map(of));
        }
    }
    let of = |text: &String| Reason::Check { text: text.clone() };
    reasons.extend(facts.outside.faults.iter().map(of));
    let of = |text: &String| Reason::Obstacle { text: text.clone() };
    reasons.extend(facts.outside.obstacles.iter().map(of));
    let of = |text: &String| Reason::Daemon { text: text.clone() };
    reasons.extend(facts.outside.daemons.iter().map(of));
    let last = facts.outside.verification.as_ref();
    // What is known to differ closes the gate whoever asked for it.
    if let Some(text) = last.and_then(|last| last.failed.as_ref()) {
        reasons.push(Reason::VerificationFailed { text: text.clone() });
    }
    match (gate.verify_age, last) {
        (None, _) => notes.push(UNPROVEN.to_owned()),
        // What a silent shard holds is not known, and its silence has closed the gate.
        (Some(_), _) if facts.new.iter().any(Result::is_err) => {}
        (Some(_), None) => reasons.push(Reason::NotVerified { tables: Vec::new() }),
        // One line is enough: what differs has to be mended first.
        (Some(_), Some(last)) if last.failed.is_some() => {}
        (Some(limit), Some(last)) => match last.age {
            None => reasons.push(Reason::NotVerified { tables: last.unproven.clone() }),
            Some(age) if age > limit => reasons
                .push(Reason::VerificationOld { age_s: age.as_secs(), limit_s: limit.as_secs() }),
            Some(_) => {}
        },
    }
}

/// A run that is not over: another process answers for it, or nobody does and neither side may
/// serve. Not asked by the run itself.
fn journal(facts: &Facts, reasons: &mut Vec<Reason>) {
    match &facts.outside.journal {
        None => {}
        Some(Err(detail)) => {
            let shard = "the journal on new shard 0".to_owned();
            let silent = |why: &Reason| matches!(why, Reason::Unreachable { .. });
            // The shard that holds it may be silent as a whole.
            if facts.new.first().is_none_or(|new| new.is_ok()) || !reasons.iter().any(silent) {
                reasons.push(Reason::Unreachable { shard, detail: detail.clone() });
            }
        }
        // Each shard that serves has said so already.
        Some(Ok(Some(_))) if reasons.iter().any(|why| matches!(why, Reason::Serving { .. })) => {}
        Some(Ok(Some(text))) => reasons.push(Reason::Journal { text: text.clone() }),
        Some(Ok(None)) => {
            for (old, read) in facts.old.iter().enumerate() {
                let token = read.as_ref().ok().and_then(|old| old.token.as_ref());
                if token.is_some_and(|token| token.phase == TokenPhase::Fenced) {
                    reasons.push(Reason::Fenced { old: old as u16 });
                }
            }
        }
    }
}

/// Whatever the drain waits for is asked for here, while nobody waits.
fn settlement(beside: &Beside, reasons: &mut Vec<Reason>) {
    for (new, text) in &beside.absent {
        reasons.push(Reason::ChangesNotKept { new: *new, text: text.clone() });
    }
    if !beside.lacking.is_empty() {
        let rate = beside.rows_per_s.filter(|rate| *rate > 0);
        reasons.push(Reason::RoundMissing {
            tables: beside.lacking.clone(),
            rows: beside.lacking_rows,
            minutes: rate.map(|rate| beside.lacking_rows / rate / 60),
        });
    }
    for &(new, keys, settle) in &beside.waiting {
        if settle > beside.settle_max {
            reasons.push(Reason::SettlementLong {
                new,
                keys,
                settle_ms: settle.as_millis() as u64,
                limit_ms: beside.settle_max.as_millis() as u64,
            });
        }
    }
}
