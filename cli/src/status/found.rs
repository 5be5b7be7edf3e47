//! What was found, in the form that `--json` prints; and the exit code that it comes to.

#[cfg(test)]
pub mod tests;

use modshift_consumer::gate::{
    BackFacts, Coverage, Decision, Facts, NewFacts, OldFacts, Reason, ResyncFacts, SkipFacts,
    StreamLag, UNPROVEN, only_silence,
};
use modshift_proto::plan::Plan;
use serde::Serialize;

use crate::control::pages::{Daemon, Said};
use crate::cutover::{Fence, Serves};
use crate::exit::Exit;
use crate::gate::summary::summed;

/// A reader writes a token many times a second: one that has not for so long is gone, or cannot.
const SILENT_MAX_MS: i64 = 10_000;
/// Rows that move between old shards find their place within the lag: as ModshiftRowsParked.
const PARKED_MAX_MS: i64 = 30_000;
/// Copying and bursts let a stream fall behind by seconds.
const BEHIND_MAX_MS: i64 = 60_000;

#[derive(Serialize)]
pub struct Status {
    pub plan: String,
    /// Of a screen that is drawn again and again, UTC: one that stands still must not look alive.
    #[serde(skip)]
    pub drawn_at: Option<String>,
    /// `None`: not asked.
    pub serves: Option<Serves>,
    /// What is wrong with the fences, or was.
    pub fences: Vec<Fence>,
    pub old: Vec<Old>,
    pub new: Vec<New>,
    pub streams: Vec<Stream>,
    /// What the plan gives up, in words.
    pub notes: Vec<String>,
    /// Logins that are refused to daemons, as these say where they can be reached.
    pub refused_logins: Vec<String>,
    /// What daemons wait for that passes by itself, as these say.
    pub waits: Vec<String>,
    /// What is wrong with the way back; `None`: the plan wants none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<Back>,
    /// Of both ways, those that only a daemon knows among them.
    pub halts: Vec<Halt>,
    pub verification: Verification,
    pub daemons: Vec<Daemon>,
    pub gate: Gate,
    /// `gate.max_lag`.
    pub max_lag_ms: i64,
}

#[derive(Default, Serialize)]
pub struct Back {
    pub halted: bool,
    /// New shards whose reader was never there, or has been silent for long.
    pub unread: Vec<u16>,
    /// Its readers refused something, or passed a group over that is not made up for.
    pub refused: bool,
    pub streams: Vec<Stream>,
    pub troubles: Vec<String>,
    /// The same, what is alike in one line.
    pub summary: Vec<String>,
}

#[derive(Default, Serialize)]
pub struct Old {
    pub old: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    pub rows_copied: u64,
    pub rows_estimated: u64,
    pub copied: bool,
    /// Age of the newest token; `None`: never read.
    pub token_age_ms: Option<i64>,
    /// Requests for a repair that its reader can never serve.
    pub repairs_refused: u64,
    /// Ranges that are copied again, and not compared yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resyncs: Vec<Resync>,
    /// Groups of its log that were passed over, and not made up for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkipFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// By its own word, `serving` or `fenced`; `None`: it has none.
    pub phase: Option<&'static str>,
}

#[derive(Serialize)]
pub struct Resync {
    pub table: String,
    pub rows_copied: u64,
    pub rows_estimated: u64,
    pub refused: bool,
}

impl Resync {
    pub fn text(&self) -> String {
        let Resync { table, rows_copied, rows_estimated, refused } = self;
        let state = if *refused { "REFUSED resync" } else { "resync" };
        let estimated = rows_estimated.max(rows_copied);
        format!("{state} of {table}: {rows_copied} of about {estimated} rows")
    }
}

#[derive(Default, Serialize)]
pub struct New {
    pub new: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    pub parked: u64,
    /// Of those, the ones that the server does not store as they are.
    pub refused: u64,
    /// How long one of them has waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    pub phase: Option<&'static str>,
}

#[derive(Serialize)]
pub struct Stream {
    pub old: u16,
    pub new: u16,
    /// `None`: it has not begun.
    pub lag_ms: Option<i64>,
    pub groups_behind: Option<u64>,
    pub copied: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Halt {
    /// `reader of old shard 0`, or what a daemon calls it.
    pub stream: String,
    pub text: String,
}

#[derive(Default, Serialize)]
pub struct Verification {
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Age of the oldest proof; `None`: some table has none.
    pub age_s: Option<u64>,
    /// `gate.verify_age`; `None`: the plan gives the proof up.
    pub limit_s: Option<u64>,
    /// What is known to differ.
    pub differ: Option<String>,
    /// Why verifiers beside the appliers do not keep the changes for the fence.
    pub stopped: Vec<String>,
}

/// By what is known without the gate's own look at all servers.
#[derive(Default, Serialize)]
pub struct Gate {
    /// `None`: nothing known keeps it closed, and no daemon answers for the rest.
    pub open: Option<bool>,
    /// Closed only because all has not been well for long enough.
    #[serde(skip)]
    pub holds: bool,
    /// Closed only because somebody does not answer.
    pub cannot_tell: bool,
    /// What is the same of many in one line.
    pub summary: Vec<String>,
    pub reasons: Vec<String>,
}

impl Status {
    pub fn of(plan: &Plan, decision: &Decision, facts: &Facts, said: &Said) -> Status {
        let empty = BackFacts::default();
        let back = facts.back.as_ref().unwrap_or(&empty);
        let old = (0..).zip(&facts.old).map(|(old, read)| Old::of(old, read));
        let new = (0..).zip(&facts.new).map(|(new, read)| New::of(new, read, back));
        Status {
            plan: plan.name.clone(),
            drawn_at: None,
            serves: None,
            fences: Vec::new(),
            old: old.collect(),
            new: new.collect(),
            streams: decision.streams.iter().map(Stream::of).collect(),
            notes: decision.notes.iter().filter(|note| *note == UNPROVEN).cloned().collect(),
            refused_logins: said.refused.clone(),
            waits: said.waits.clone(),
            back: facts.back.is_some().then(|| Back::of(decision, back)),
            halts: halts(facts, back, said),
            verification: Verification::of(plan, facts),
            daemons: said.daemons.clone(),
            gate: Gate::of(decision, said),
            max_lag_ms: plan.gate.max_lag.as_millis() as i64,
        }
    }

    pub fn with(self, serves: Serves, fences: Vec<Fence>) -> Status {
        Status { serves: Some(serves), fences, ..self }
    }

    pub fn title(&self) -> String {
        let title = format!("{}: {} -> {} shards", self.plan, self.old.len(), self.new.len());
        match &self.drawn_at {
            // To the second: what is drawn each second.
            Some(at) => format!("{title}, {} UTC", at.split('.').next().unwrap_or_default()),
            None => title,
        }
    }

    /// What remains of a reshard that is finished has no streams.
    pub fn finished(&self) -> bool {
        self.serves.as_ref().is_some_and(|serves| serves.finished)
    }

    /// From then on it is the way back that carries what the application writes.
    pub fn new_serve(&self) -> bool {
        self.serves.as_ref().is_some_and(|serves| serves.side == "new")
    }

    pub fn exit(&self) -> Exit {
        let halted = !self.halts.is_empty()
            || self.fences.iter().any(|fence| fence.state == "open")
            || self.serves.as_ref().is_some_and(neither_serves);
        let silent = self.away(true, true)
            || self.serves.as_ref().is_some_and(|serves| serves.side == "unknown");
        match (halted, silent) {
            (true, _) => Exit::Halted,
            (false, true) => Exit::CannotTell,
            (false, false) if self.wrong() => Exit::No,
            (false, false) => Exit::Done,
        }
    }

    /// Does some shard of this side not answer?
    pub fn away(&self, old: bool, new: bool) -> bool {
        (old && self.old.iter().any(|old| old.unreachable.is_some()))
            || (new && self.new.iter().any(|new| new.unreachable.is_some()))
    }

    /// Does a shard of this stream not answer?
    pub fn is_away(&self, stream: &Stream) -> bool {
        let old = self.old.get(usize::from(stream.old));
        let new = self.new.get(usize::from(stream.new));
        old.is_some_and(|old| old.unreachable.is_some())
            || new.is_some_and(|new| new.unreachable.is_some())
    }

    /// Somebody has to look. Each of it is in the text.
    fn wrong(&self) -> bool {
        let left = self.serves.as_ref().is_some_and(|serves| {
            serves.side == "none" || (serves.unfinished && serves.attended != Some("operator"))
        });
        let never = self.old.iter().any(|old| old.token_age_ms.is_none());
        let silent = self.old.iter().any(Old::silent);
        let behind = self.streams.iter().any(|stream| stream.lag_ms.is_some_and(is_far_behind));
        let refused = self.old.iter().any(Old::has_refused);
        let stopped = !self.verification.stopped.is_empty() || self.verification.differ.is_some();
        let skipped = self.old.iter().any(|old| !old.skipped.is_empty());
        // Before it is the gate's matter, which names all that is not ready.
        let back = self.new_serve() && self.back.as_ref().is_some_and(Back::is_wrong);
        let parked = self.new.iter().any(New::wait_for_long);
        let streams = parked || never || silent || behind || refused || skipped || stopped || back;
        left || !self.refused_logins.is_empty() || (streams && !self.finished())
    }
}

/// The application waits, and nobody but perhaps a daemon sees to that.
fn neither_serves(serves: &Serves) -> bool {
    serves.side == "none" && serves.attended != Some("operator")
}

pub fn is_far_behind(lag_ms: i64) -> bool {
    lag_ms > BEHIND_MAX_MS
}

/// A group that was passed over, or is to be: what is known of it.
pub fn skipped(group: &SkipFacts) -> String {
    let SkipFacts { gtid, why, passed, tables, .. } = group;
    match passed {
        true => {
            format!("SKIPPED group {gtid} ({why}): not proven equal since: {}", tables.join(", "))
        }
        false => format!("TO SKIP group {gtid} ({why}): its reader has not come by it yet"),
    }
}

impl Old {
    fn of(old: usize, read: &Result<OldFacts, String>) -> Old {
        let read = match read {
            Err(detail) => return Old { old, unreachable: Some(detail.clone()), ..Old::default() },
            Ok(read) => read,
        };
        let of_resync = |resync: &ResyncFacts| Resync {
            table: resync.table.clone(),
            rows_copied: resync.rows_copied,
            rows_estimated: resync.rows_estimated,
            refused: resync.refused,
        };
        // The server's estimate may be too low: never less than what was counted.
        let estimated = read.tables.iter().map(|table| match table.done {
            true => table.rows_copied,
            false => table.rows_estimated.max(table.rows_copied),
        });
        Old {
            old,
            unreachable: None,
            rows_copied: read.tables.iter().map(|table| table.rows_copied).sum(),
            rows_estimated: estimated.sum(),
            copied: !read.tables.is_empty() && read.tables.iter().all(|table| table.done),
            token_age_ms: read.token.as_ref().map(|token| (read.now_us - token.clock_us) / 1000),
            repairs_refused: read.repairs_refused,
            resyncs: read.resyncs.iter().map(of_resync).collect(),
            skipped: read.skipped.clone(),
            halted: read.token.as_ref().and_then(|token| token.halted.clone()),
            phase: phase(Some(read)),
        }
    }

    fn has_refused(&self) -> bool {
        self.repairs_refused > 0 || self.resyncs.iter().any(|resync| resync.refused)
    }

    pub fn silent(&self) -> bool {
        self.token_age_ms.is_some_and(|age| age > SILENT_MAX_MS)
    }
}

impl New {
    fn of(new: usize, read: &Result<NewFacts, String>, back: &BackFacts) -> New {
        let phase = phase(back.sources.get(new).and_then(|read| read.as_ref().ok()));
        match read {
            Err(detail) => New { new, unreachable: Some(detail.clone()), ..New::default() },
            Ok(read) => New {
                new,
                unreachable: None,
                parked: read.parked,
                refused: read.refused,
                parked_ms: read.parked_ms,
                halted: stopped(read).cloned(),
                phase,
            },
        }
    }

    fn wait_for_long(&self) -> bool {
        self.refused > 0 || self.parked_ms.is_some_and(|ms| ms > PARKED_MAX_MS)
    }
}

fn phase(read: Option<&OldFacts>) -> Option<&'static str> {
    read.and_then(|read| read.token.as_ref()).map(|token| token.phase.name())
}

/// One applier, one error: it is on every row.
fn stopped(read: &NewFacts) -> Option<&String> {
    read.marks.iter().find_map(|mark| mark.halted.as_ref())
}

impl Stream {
    fn of(lag: &StreamLag) -> Stream {
        Stream {
            old: lag.old,
            new: lag.new,
            lag_ms: lag.lag_ms,
            groups_behind: lag.groups,
            copied: lag.copied,
        }
    }
}

impl Back {
    fn of(decision: &Decision, facts: &BackFacts) -> Back {
        let is_back = |reason: &&Reason| matches!(reason, Reason::WayBack { .. });
        let reasons: Vec<Reason> = decision.reasons.iter().filter(is_back).cloned().collect();
        let halted = |reason: &Reason| {
            matches!(reason, Reason::WayBack { why: "reader_halted" | "applier_halted", .. })
        };
        let (mut unread, mut refused) = (Vec::new(), false);
        for (new, read) in facts.sources.iter().enumerate() {
            let Ok(read) = read else { continue };
            let source = Old::of(new, &Ok(read.clone()));
            if source.token_age_ms.is_none() || source.silent() {
                unread.push(new as u16);
            }
            refused |= source.has_refused() || !source.skipped.is_empty();
        }
        // Nothing is copied that way, and nearly all groups there are modshift's own.
        let stream = |lag| Stream { copied: true, groups_behind: None, ..Stream::of(lag) };
        Back {
            halted: reasons.iter().any(halted),
            unread,
            refused,
            streams: decision.back.iter().map(stream).collect(),
            troubles: reasons.iter().map(Reason::to_string).collect(),
            summary: summed(&reasons, 0),
        }
    }

    /// As the way forward is judged. Of halts and shards that do not answer the status tells by itself.
    fn is_wrong(&self) -> bool {
        let behind = self.streams.iter().any(|stream| stream.lag_ms.is_some_and(is_far_behind));
        !self.unread.is_empty() || self.refused || behind
    }
}

fn halts(facts: &Facts, back: &BackFacts, said: &Said) -> Vec<Halt> {
    let mut halts = Vec::new();
    for (sources, of) in [(&facts.old, "reader of old"), (&back.sources, "way back: reader of new")]
    {
        for (number, read) in sources.iter().enumerate() {
            let token = read.as_ref().ok().and_then(|read| read.token.as_ref());
            halts.extend(
                token.and_then(|token| token.halted.as_ref()).map(|text| Halt {
                    stream: format!("{of} shard {number}"),
                    text: text.clone(),
                }),
            );
        }
    }
    let targets = [(&facts.new, "applier of new"), (&back.targets, "way back: applier of old")];
    for (targets, of) in targets {
        for (number, read) in targets.iter().enumerate() {
            halts.extend(
                read.as_ref().ok().and_then(stopped).map(|text| Halt {
                    stream: format!("{of} shard {number}"),
                    text: text.clone(),
                }),
            );
        }
    }
    for halt in &said.halts {
        let known = |had: &Halt| had.text.contains(&halt.message);
        if halt.message.is_empty() || !halts.iter().any(known) {
            let hint = halt.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            halts.push(Halt {
                stream: format!("{} in {}", halt.stream, halt.daemon),
                text: format!("{}{hint}", halt.message),
            });
        }
    }
    halts
}

impl Verification {
    fn of(plan: &Plan, facts: &Facts) -> Verification {
        let last = facts.outside.verification.as_ref();
        let absent = facts.beside.iter().flat_map(|beside| &beside.absent);
        Verification {
            coverage: facts.coverage.clone(),
            age_s: last.and_then(|last| last.age).map(|age| age.as_secs()),
            limit_s: plan.gate.verify_age.map(|age| age.as_secs()),
            differ: last.and_then(|last| last.failed.clone()),
            stopped: absent.map(|(new, why)| format!("new shard {new}: {why}")).collect(),
        }
    }
}

impl Gate {
    pub fn of(decision: &Decision, said: &Said) -> Gate {
        // Tables were not compared, and one look is no hold: a daemon's gate does both.
        let known =
            |reason: &&Reason| !matches!(reason, Reason::SchemaUnknown | Reason::Hold { .. });
        let reasons: Vec<Reason> = decision.reasons.iter().filter(known).cloned().collect();
        let each = |of: fn(&Daemon) -> &Vec<String>| -> Vec<String> {
            let mut lines: Vec<String> = Vec::new();
            for line in said.daemons.iter().flat_map(of) {
                if !lines.contains(line) {
                    lines.push(line.clone());
                }
            }
            lines
        };
        let mut objections = each(|daemon| &daemon.objections);
        let mut silent_there = each(|daemon| &daemon.away);
        // Of what answers here as little, this has said so.
        if reasons.iter().any(|reason| matches!(reason, Reason::Unreachable { .. })) {
            silent_there.clear();
        }
        let cannot_tell_there = objections.is_empty() && !silent_there.is_empty();
        objections.extend(silent_there);
        let closed = || said.daemons.iter().filter(|daemon| daemon.gate_open == Some(false));
        let none = reasons.is_empty() && objections.is_empty();
        // Each asks for itself: who says no sees something that the others do not.
        let open = match none {
            false => Some(false),
            true if closed().next().is_some() => Some(false),
            true if said.daemons.iter().any(|daemon| daemon.gate_open == Some(true)) => Some(true),
            true => None,
        };
        let with = |lines: Vec<String>| [lines, objections.clone()].concat();
        Gate {
            open,
            holds: none && closed().next().is_some() && closed().all(|daemon| daemon.holds),
            cannot_tell: match reasons.is_empty() {
                true => cannot_tell_there,
                false => only_silence(&reasons) && objections.is_empty(),
            },
            summary: with(summed(&reasons, decision.streams.len())),
            reasons: with(reasons.iter().map(Reason::to_string).collect()),
        }
    }
}
