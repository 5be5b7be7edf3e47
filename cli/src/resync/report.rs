//! What has come of a resync, for a program and in words.

use modshift_proto::shell;
use serde::Serialize;

use super::Wanted;
use crate::exit::Exit;

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub table: String,
    pub key_between: Vec<String>,
    pub state: State,
    /// Requests stand on old shards, and keep the gate closed.
    pub asked: bool,
    pub shards: Vec<Copied>,
    pub rows_compared: u64,
    /// Single rows that still differed, or were too many, and are equal now.
    pub repaired: u64,
    pub differ: u64,
    pub unsettled: u64,
    pub equal: bool,
    /// It counts as the table's proof.
    pub proof: bool,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Copied {
    pub shard: u16,
    pub rows: u64,
}

/// How it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// The last note says why.
    #[default]
    Failed,
    DryRun,
    /// Somebody else is at it.
    NothingDone,
    Refused,
    TakenBack,
    Halted,
    StandsStill,
    Interrupted,
    /// Compared, and rows differ that could not be mended.
    Differs,
    /// Compared, but not all rows could be.
    Unsettled,
    Equal,
}

pub(super) fn sum_up(wanted: &Wanted, report: &Report, exit: Exit) {
    report.notes.iter().for_each(|note| wanted.say(&format!("note: {note}")));
    if exit != Exit::Done {
        let Report { differ, unsettled, state, .. } = report;
        // What has stopped it has said so.
        if [State::Differs, State::Unsettled].contains(state) {
            wanted.say(&format!(
                "not equal: {differ} rows differ, {unsettled} could not be settled: modshift verify{} \
                 --table {} names them. Mend what the notes say, and give the same command again",
                wanted.back(),
                shell::word(&wanted.name)
            ));
        }
        return;
    }
    let name = shell::word(&wanted.name);
    let rows = report.rows_compared;
    let of = match wanted.whole {
        true => String::new(),
        false => {
            let shards: Vec<String> = wanted.sources.iter().map(u16::to_string).collect();
            format!(", as far as they are of old shards {}", shards.join(", "))
        }
    };
    wanted.say(&format!("equal: {}, {rows} rows compared on both sides{of}", wanted.range()));
    let back = wanted.back();
    match (wanted.whole, wanted.plan.gate.verify_age) {
        (_, None) => wanted.say("the plan asks for no proof of it (gate.verify_age)"),
        (true, _) if report.proof => {
            wanted.say("that is the proof of this table which the gate asks for");
        }
        (true, _) => wanted.say(&format!(
            "but it was doubted meanwhile, and is no proof: the gate wants modshift verify{back} --table \
             {name}"
        )),
        (false, _) => wanted.say(&format!(
            "the gate still wants the whole table compared: modshift verify{back} --table {name}"
        )),
    }
}
