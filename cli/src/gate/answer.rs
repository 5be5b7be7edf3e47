//! What the gate answers, and how it is shown.

use std::time::{Duration, Instant};

use modshift_consumer::gate::{Decision, Reason};
use modshift_proto::plan::Direction;
use serde::Serialize;

use crate::answer;
use crate::control::pages::Halted;
use crate::exit::Exit;
use crate::gate::summary::summed;

/// How long a yes of a daemon's gate is good for: four samples. A shard that takes seconds to
/// answer, or a process that was stopped, must not leave a yes standing.
const YES_AGE_MAX: Duration = Duration::from_secs(1);

/// What /ready and `gate --json` show.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    pub open: bool,
    /// Closed only because somebody did not answer.
    pub cannot_tell: bool,
    pub reasons: Vec<Line>,
    pub notes: Vec<String>,
    /// When the shards began to be asked.
    #[serde(skip)]
    pub(super) asked_at: Instant,
}

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// In words; beside it the same in parts.
    pub message: String,
    #[serde(flatten)]
    pub reason: Option<Reason>,
}

impl Answer {
    pub(super) fn unknown(message: String, asked_at: Instant) -> Answer {
        let reasons = vec![Line { message, reason: None }];
        Answer { open: false, cannot_tell: true, reasons, notes: Vec::new(), asked_at }
    }

    /// What it is worth by now: a yes that is too old is none. A no stays.
    pub fn by(self, now: Instant) -> Answer {
        let age = now.saturating_duration_since(self.asked_at);
        if !self.open || age <= YES_AGE_MAX {
            return self;
        }
        let message = format!("the shards last answered {:.1} s ago", age.as_secs_f64());
        Answer::unknown(message, self.asked_at)
    }

    /// A halt that its shard names needs no daemon to name it again.
    pub(super) fn without_repeats(mut self, halts: &[Halted]) -> Answer {
        for halt in halts {
            let line = halt.line();
            let others = |other: &Line| {
                let repeats = !halt.message.is_empty() && other.message.contains(&halt.message);
                other.message != line && repeats
            };
            if self.reasons.iter().any(others) {
                self.reasons.retain(|other| other.message != line);
            }
        }
        self
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn of(decision: &Decision, asked_at: Instant) -> Answer {
        let line =
            |reason: &Reason| Line { message: reason.to_string(), reason: Some(reason.clone()) };
        Answer {
            open: decision.open,
            cannot_tell: decision.cannot_tell(),
            reasons: decision.reasons.iter().map(line).collect(),
            notes: decision.notes.clone(),
            asked_at,
        }
    }

    /// What is the same of many in one line, in the operator's words.
    pub(super) fn summed(&self, direction: Direction, streams: usize) -> Vec<String> {
        let known = self.reasons.iter().filter_map(|line| line.reason.clone());
        let unknown = self.reasons.iter().filter(|line| line.reason.is_none());
        let unknown = unknown.map(|line| line.message.clone());
        let said: Vec<&str> = self.reasons.iter().filter_map(said_by_stream).collect();
        let lines = unknown.chain(summed(&known.collect::<Vec<_>>(), streams));
        lines.map(|line| turned(direction, &line, &said)).collect()
    }

    pub(super) fn exit(&self) -> Exit {
        match (self.open, self.cannot_tell) {
            (true, _) => Exit::Done,
            (false, true) => Exit::CannotTell,
            (false, false) => Exit::No,
        }
    }

    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            answer::last(serde_json::to_string(self)?);
            return Ok(());
        }
        for line in &self.reasons {
            answer::line(&line.message);
        }
        for note in &self.notes {
            answer::line(format_args!("note: {note}"));
        }
        let state = match self.exit() {
            Exit::Done => "open",
            Exit::CannotTell => "unknown, so closed",
            _ => "closed",
        };
        answer::line(format_args!("gate: {state}"));
        Ok(())
    }
}

/// Is this a reason only because one of these sources is dead? The tables of all shards cannot be
/// compared then either.
pub(super) fn is_of(line: &Line, lost: &[u16]) -> bool {
    let of = |shard: &u16| lost.contains(shard);
    let named = |text: &str| {
        lost.iter().any(|shard| {
            let name = format!("shard {shard}");
            text.match_indices(&name)
                .any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    match &line.reason {
        Some(Reason::Unreachable { shard, .. }) => named(shard) && shard.starts_with("old"),
        Some(Reason::WayBack { text, .. } | Reason::Check { text }) => named(text),
        Some(Reason::SchemaUnknown) => true,
        Some(
            Reason::NoReader { old }
            | Reason::ReaderHalted { old, .. }
            | Reason::ReaderSilent { old, .. }
            | Reason::ClockBack { old, .. }
            | Reason::NothingApplied { old, .. }
            | Reason::OtherReader { old, .. }
            | Reason::ProofPending { old, .. }
            | Reason::Copying { old, .. }
            | Reason::CopyUnrecorded { old, .. }
            | Reason::RepairsRefused { old, .. }
            | Reason::Resync { old, .. }
            | Reason::ResyncRefused { old, .. }
            | Reason::TimeLag { old, .. }
            | Reason::PositionLag { old, .. }
            | Reason::PrimaryBehind { old, .. }
            | Reason::Fenced { old },
        ) => of(old),
        _ => false,
    }
}

/// The operator's words and commands.
pub(super) fn in_words(direction: Direction, line: &Line) -> String {
    turned(direction, &line.message, said_by_stream(line).as_slice())
}

/// What a stream says of its halt is in the operator's words already.
fn said_by_stream(line: &Line) -> Option<&str> {
    match &line.reason {
        Some(Reason::ReaderHalted { text, .. } | Reason::ApplierHalted { text, .. }) => Some(text),
        _ => None,
    }
}

/// `said`: what is not turned around.
fn turned(direction: Direction, line: &str, said: &[&str]) -> String {
    if direction == Direction::Forward {
        return line.to_owned();
    }
    let words = |text: &str| {
        let text = direction.advice(text);
        text.replace("(old ", "(\0").replace(" -> new ", " -> old ").replace("(\0", "(new ")
    };
    let parts = said.iter().find_map(|said| Some((line.split_once(said)?, said)));
    match parts {
        Some(((before, after), said)) => format!("{}{said}{}", words(before), words(after)),
        None => words(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(reasons: Vec<Reason>) -> Decision {
        Decision {
            open: reasons.is_empty(),
            reasons,
            notes: Vec::new(),
            streams: Vec::new(),
            back: Vec::new(),
        }
    }

    #[test]
    fn silence_is_no_answer_and_anything_else_is_no() {
        let silent = || Reason::Unreachable { shard: "old shard 0".into(), detail: "gone".into() };
        let answer = |reasons| Answer::of(&decision(reasons), Instant::now());
        let check = |reasons, exit| assert_eq!(answer(reasons).exit(), exit);
        check(vec![], Exit::Done);
        check(vec![silent()], Exit::CannotTell);
        check(vec![silent(), Reason::SchemaUnknown], Exit::CannotTell);
        check(
            vec![silent(), Reason::Parked { new: 0, rows: 1, refused: 0, of: Vec::new() }],
            Exit::No,
        );
    }

    #[test]
    fn what_a_stream_said_of_its_halt_is_not_turned_around_again() {
        let text = "new shard 2: group 0-1-7 changes table t, but the shard is fenced".to_owned();
        let halted = decision(vec![Reason::ReaderHalted { old: 2, text: text.clone() }]);
        let answer = Answer::of(&halted, Instant::now());
        let shown = in_words(Direction::Back, &answer.reasons[0]);
        let expected = format!("reader of new shard 2 stopped: {text}");
        assert_eq!(shown, expected);
        assert_eq!(answer.summed(Direction::Back, 4), [expected]);
    }

    #[test]
    fn the_worst_stream_of_a_rollback_goes_from_new_to_old() {
        let lag = |old, new, lag_ms| Reason::TimeLag { old, new, lag_ms, limit_ms: 1000 };
        let late = decision(vec![lag(1, 2, 1900), lag(0, 0, 1100)]);
        let answer = Answer::of(&late, Instant::now());
        let check = |direction, expected: &str| {
            assert_eq!(answer.summed(direction, 6), [expected]);
        };
        check(Direction::Back, "2 of 6 streams behind, worst 1.9 s (new 1 -> old 2)");
        check(Direction::Forward, "2 of 6 streams behind, worst 1.9 s (old 1 -> new 2)");
    }

    #[test]
    fn a_halt_is_named_once() {
        let halt = |message: &str| Halted {
            daemon: "modshift run".to_owned(),
            stream: "old shard 0".to_owned(),
            message: message.to_owned(),
            hint: None,
        };
        let halts = [halt("row of t is a stray"), halt("column a is another")];
        let daemon = |halt: &Halted| Reason::Daemon { text: halt.line() };
        let text = "row of t is a stray (mend it)".to_owned();
        let reasons =
            vec![Reason::ReaderHalted { old: 0, text }, daemon(&halts[0]), daemon(&halts[1])];
        let answer = Answer::of(&decision(reasons), Instant::now()).without_repeats(&halts);
        let said: Vec<_> = answer.reasons.iter().map(|line| line.message.as_str()).collect();
        let expected = [
            "reader of old shard 0 stopped: row of t is a stray (mend it)",
            "modshift run: old shard 0 has halted: column a is another",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_reason_is_shown_in_words_and_in_parts() {
        let parked = vec![Reason::Parked { new: 2, rows: 3, refused: 0, of: Vec::new() }];
        let answer = Answer::of(&decision(parked), Instant::now());
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["reasons"][0]["kind"], "parked");
        assert_eq!(json["reasons"][0]["rows"], 3);
        assert_eq!(json["reasons"][0]["message"], "3 rows wait for their place on new shard 2");
    }

    #[test]
    fn a_yes_grows_old_and_a_no_does_not() {
        let begun = Instant::now();
        let open = |age_ms| {
            let answer = Answer::of(&decision(vec![]), begun);
            answer.by(begun + Duration::from_millis(age_ms))
        };
        assert_eq!(open(1000).exit(), Exit::Done);
        assert_eq!(open(1001).exit(), Exit::CannotTell);
        assert_eq!(open(2500).reasons[0].message, "the shards last answered 2.5 s ago");
        let closed = Answer::of(
            &decision(vec![Reason::Parked { new: 0, rows: 1, refused: 0, of: Vec::new() }]),
            begun,
        );
        assert_eq!(closed.by(begun + Duration::from_secs(60)).exit(), Exit::No);
    }
}
