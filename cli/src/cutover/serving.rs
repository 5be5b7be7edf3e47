//! Which side serves, for `status`, gate and metrics: by the journal on new shard 0; where that says that
//! a run is between the two, or cannot be read, by what each shard says of itself.

use std::time::Duration;

use modshift_consumer::gate::{Facts, OldFacts};
use modshift_cutover::register::Attended;
use modshift_cutover::{CutoverError, Left, Serving, Side, metrics, register, serving};
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_proto::plan::{FenceScope, Plan};
use serde::Serialize;
use tokio::time::timeout;

use crate::gate::summary::ranges;

pub(super) const JOURNAL_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Serves {
    /// `old`, `new`; `none` while fenced; `unknown` where the journal cannot be read.
    pub side: &'static str,
    pub text: String,
    /// A run was begun and is not over.
    pub unfinished: bool,
    /// Who is at it: `operator`, `daemon`.
    pub attended: Option<&'static str>,
    /// `modshift finish` has been run.
    pub finished: bool,
}

impl Serves {
    pub fn by_journal(side: &'static str, text: String) -> Serves {
        Serves { side, text, unfinished: false, attended: None, finished: false }
    }
}

/// Whether each shard takes writes, by its own word: what its token says, and its server's `read_only`.
/// `None`: it does not say.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pub old: Vec<Option<bool>>,
    pub new: Vec<Option<bool>>,
}

impl Words {
    pub fn of(plan: &Plan, facts: &Facts) -> Words {
        if plan.cutover.scope == FenceScope::Accounts {
            // Who is locked out of a server shows only there, and only to who may look.
            return Words::default();
        }
        let back = facts.back.as_ref().map(|back| back.sources.as_slice()).unwrap_or_default();
        let word = |read: &Result<_, _>| read.as_ref().ok().and_then(OldFacts::takes_writes);
        Words { old: facts.old.iter().map(word).collect(), new: back.iter().map(word).collect() }
    }

    fn of_side(&self, side: Side) -> &[Option<bool>] {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    fn answers(&self, side: Side) -> bool {
        self.of_side(side).iter().any(Option::is_some)
    }

    /// All of its shards that answer take writes.
    fn serves(&self, side: Side) -> bool {
        self.answers(side) && !self.of_side(side).contains(&Some(false))
    }

    /// As the subject of a sentence.
    fn who(&self, side: Side) -> String {
        match self.of_side(side).contains(&None) {
            true => format!("the {side} shards that answer"),
            false => format!("the {side} shards"),
        }
    }

    /// Those that answer and take no writes.
    fn closed(&self, side: Side) -> Vec<u16> {
        let words = (0..).zip(self.of_side(side));
        words.filter(|(_, word)| **word == Some(false)).map(|(number, _)| number).collect()
    }
}

/// `modshift finish` has been run. Where the journal cannot be read, nobody has it: the daemons need
/// new shard 0 as little as any other to start.
pub async fn is_finished(plan: &Plan) -> bool {
    let found = timeout(JOURNAL_TIMEOUT, newest(plan)).await;
    matches!(found, Ok(Ok(Some(found))) if found.run.journal.finished())
}

pub(super) async fn newest(plan: &Plan) -> Result<Option<register::Found>, CutoverError> {
    Ok(newest_with(plan).await?.0)
}

/// And who is at it, if it is not over.
async fn newest_with(plan: &Plan) -> Result<(Option<register::Found>, Attended), CutoverError> {
    // The daemons' own login reads it as well.
    let endpoint = &plan.new[0];
    let mut conn = connect(endpoint, Session::Plain).await?;
    read(&mut conn, &label(endpoint), plan.forward_name()).await
}

async fn read(
    conn: &mut Conn,
    at: &str,
    plan: &str,
) -> Result<(Option<register::Found>, Attended), CutoverError> {
    let found = register::newest(conn, at, plan).await?;
    let attended = match &found {
        Some(found) if found.run.journal.ended().is_none() => {
            register::attended(conn, at, plan).await?
        }
        _ => Attended::Nobody,
    };
    Ok((found, attended))
}

/// What the journal says of who serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    Serves(Side),
    /// Neither of the two, or one that is being opened.
    Between,
    /// It could not be read.
    #[default]
    Nothing,
}

/// What the journal says against beginning a cutover: a run that is not over, or new shards that
/// serve already; and who serves. A run that nobody is at shows as a metric as well.
pub async fn against(
    conn: &mut Conn,
    at: &str,
    plan: &str,
) -> Result<(Option<String>, Told), CutoverError> {
    let (found, attended) = read(conn, at, plan).await?;
    let Some(found) = found else {
        metrics::run_left(false);
        return Ok((None, Told::Serves(Side::Old)));
    };
    let serves = of_run(&found, attended, &Words::default());
    let over = found.run.journal.ended().is_some();
    // A daemon that tries in vain is nobody: else an alert would begin anew with each attempt.
    metrics::run_left(!over && attended != Attended::Operator);
    let told = found.run.side().map_or(Told::Between, Told::Serves);
    Ok(((!over || serves.side == "new").then_some(serves.text), told))
}

/// For whoever asks all the time: the metric goes on while new shard 0 is away.
pub fn show(told: Told, words: &Words) {
    // Where it is not known: as it was.
    if let Some(side) = side(told, words) {
        metrics::serving(side);
    }
}

/// `None`: not known; `Some(None)`: neither.
fn side(told: Told, words: &Words) -> Option<Option<Side>> {
    let by_words = [Side::Old, Side::New].into_iter().find(|&side| words.serves(side));
    match told {
        Told::Serves(side) => Some(Some(side)),
        Told::Between => Some(by_words),
        Told::Nothing if by_words.is_some() => Some(by_words),
        Told::Nothing => (words.answers(Side::Old) && words.answers(Side::New)).then_some(None),
    }
}

/// The newest run, where it is not over, with what finishes it: whoever does may still need what is there.
pub async fn under_way(plan: &Plan) -> Result<Option<String>, CutoverError> {
    let (found, attended) = newest_with(plan.forward.as_deref().unwrap_or(plan)).await?;
    let unfinished = found.filter(|found| found.run.journal.ended().is_none());
    Ok(unfinished.map(|found| of_run(&found, attended, &Words::default()).text))
}

pub async fn serves(plan: &Plan, words: &Words) -> Serves {
    let read = async {
        let late = |_| Err("no answer in time".to_owned());
        let read = timeout(JOURNAL_TIMEOUT, newest_with(plan)).await;
        read.map_or_else(late, |read| read.map_err(|error| error.to_string()))
    };
    match read.await {
        Err(error) => {
            let text = format!("which side serves is not known: {error}");
            Serves::by_journal("unknown", text)
        }
        Ok((None, _)) => {
            Serves::by_journal("old", "the old shards serve; no cutover yet".to_owned())
        }
        Ok((Some(found), attended)) => of_run(&found, attended, words),
    }
}

/// The journal's last entry as a part of a sentence.
fn last_said(entry: &str) -> String {
    match entry.split_once(' ') {
        Some(("ended", "to")) => "was completed".to_owned(),
        Some(("ended", "from")) => "was undone".to_owned(),
        Some(("begun", step)) => format!("began its step {step}"),
        Some(("done", step)) => format!("finished its step {step}"),
        Some(("undone", step)) => format!("undid its step {step}"),
        _ if entry == "resumed" => "was taken up again".to_owned(),
        _ if entry == "finished" => "was the last one before modshift finish".to_owned(),
        _ => entry.to_owned(),
    }
}

fn of_run(found: &register::Found, attended: Attended, words: &Words) -> Serves {
    let (run, direction) = (&found.name, found.run.direction);
    let at = format!("run {run} {} at {} UTC by {}", last_said(&found.last), found.at, found.who);
    let at_it = match (attended, found.run.journal.left()) {
        // Its lock keeps all others out.
        (Attended::Operator, _) => "its operator is at it".to_owned(),
        (Attended::Daemon, _) => {
            "its operator is gone, and a daemon tries to end it: the daemon's log says how"
                .to_owned()
        }
        (_, Left::Both) => format!("modshift {direction} --resume or --abort finishes it"),
        (_, Left::Forward) => format!("modshift {direction} --resume finishes it"),
        (_, Left::Back) => {
            format!("it has turned back: modshift {direction} --abort finishes it")
        }
    };
    let over = found.run.journal.ended().is_some();
    let (from, to) = (direction.from(), direction.to());
    let (side, text) = match serving(&found.run.journal) {
        Serving::From | Serving::To => {
            let side = found.run.side().unwrap_or(from).name();
            let more = if over { String::new() } else { format!("; {at_it}") };
            (side, format!("the {side} shards serve ({at}{more})"))
        }
        // A dead one holds up nobody but itself.
        Serving::Neither if words.serves(from) => {
            (from.name(), format!("{} serve ({at}; {at_it})", words.who(from)))
        }
        Serving::Neither => {
            ("none", format!("neither side serves: the {from} shards are fenced ({at}; {at_it})"))
        }
        Serving::Opening if words.serves(to) => {
            (to.name(), format!("{} serve ({at}; {at_it})", words.who(to)))
        }
        Serving::Opening => {
            let closed = match words.closed(to).as_slice() {
                [] => String::new(),
                closed => format!(", {to} {} not yet", ranges(closed)),
            };
            (to.name(), format!("the {to} shards are being opened{closed} ({at}; {at_it})"))
        }
    };
    let attended = match attended {
        Attended::Operator => Some("operator"),
        Attended::Daemon => Some("daemon"),
        Attended::Nobody => None,
    };
    Serves { side, text, unfinished: !over, attended, finished: found.run.journal.finished() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_as_parts_of_a_sentence() {
        for (entry, expected) in [
            ("ended to", "was completed"),
            ("ended from", "was undone"),
            ("begun fence", "began its step fence"),
            ("done drain", "finished its step drain"),
            ("undone publish", "undid its step publish"),
            ("resumed", "was taken up again"),
            ("turned back", "turned back"),
        ] {
            assert_eq!(last_said(entry), expected);
        }
    }

    #[test]
    fn a_side_serves_by_the_words_of_its_shards_where_the_journal_does_not_say() {
        let words = |old: &[Option<bool>], new: &[Option<bool>]| Words {
            old: old.to_vec(),
            new: new.to_vec(),
        };
        const YES: Option<bool> = Some(true);
        const NO: Option<bool> = Some(false);
        let check = |told, words: &Words, expected| assert_eq!(side(told, words), expected);
        // An undoing that one dead shard keeps from its end; an opening likewise.
        let undoing = words(&[YES, None], &[NO, NO]);
        check(Told::Between, &undoing, Some(Some(Side::Old)));
        check(Told::Between, &words(&[NO, NO], &[YES, None]), Some(Some(Side::New)));
        check(Told::Between, &words(&[YES, NO], &[NO, NO]), Some(None));
        check(Told::Between, &words(&[NO, NO], &[YES, NO]), Some(None));
        check(Told::Between, &Words::default(), Some(None));
        // The journal says more than a shard that was restarted in read_only.
        check(Told::Serves(Side::New), &undoing, Some(Some(Side::New)));
        // New shard 0 is away.
        check(Told::Nothing, &words(&[YES, YES], &[None, NO]), Some(Some(Side::Old)));
        check(Told::Nothing, &words(&[NO, NO], &[None, YES]), Some(Some(Side::New)));
        check(Told::Nothing, &words(&[NO, NO], &[None, NO]), Some(None));
        check(Told::Nothing, &words(&[NO, NO], &[None]), None);
        check(Told::Nothing, &words(&[None, None], &[None, NO]), None);
    }

    #[test]
    fn a_run_under_way_is_told_apart_from_one_that_was_left() {
        use modshift_cutover::{Direction, Entry, Journal, Mode, Run, Step};
        let found = |entries: &[Entry]| {
            let mut journal = Journal::new(Mode::Online);
            entries.iter().for_each(|&entry| journal.apply(entry));
            register::Found {
                number: 1,
                name: "cutover-1-a".to_owned(),
                run: Run { direction: Direction::Cutover, journal },
                entries: 0,
                who: "anna@db".to_owned(),
                at: "12:00".to_owned(),
                last: "turned back".to_owned(),
                detail: None,
                since: modshift_cutover::Since::default(),
                lost: Vec::new(),
            }
        };
        let turned = {
            let mut entries = Vec::new();
            for step in [Step::Close, Step::Gate] {
                entries.extend([Entry::Begun(step), Entry::Done(step)]);
            }
            entries.extend([Entry::Begun(Step::Fence), Entry::TurnedBack]);
            found(&entries)
        };
        let check = |attended, words: &Words, side, starts: &str, ends: &str| {
            let serves = of_run(&turned, attended, words);
            assert_eq!((serves.side, serves.unfinished), (side, true));
            assert!(serves.text.starts_with(starts), "{}", serves.text);
            assert!(serves.text.ends_with(ends), "{}", serves.text);
        };
        let nothing = Words::default();
        let way_out = "it has turned back: modshift cutover --abort finishes it)";
        check(Attended::Nobody, &nothing, "none", "neither side serves: the old", way_out);
        let at_it = "by anna@db; its operator is at it)";
        check(Attended::Operator, &nothing, "none", "neither side serves: the old", at_it);
        let daemon = "a daemon tries to end it: the daemon's log says how)";
        check(Attended::Daemon, &nothing, "none", "neither side serves: the old", daemon);
        let all = Words { old: vec![Some(true), Some(true)], new: vec![Some(false)] };
        check(Attended::Nobody, &all, "old", "the old shards serve (", way_out);
        let dead = Words { old: vec![Some(true), None], new: vec![Some(false)] };
        check(Attended::Nobody, &dead, "old", "the old shards that answer serve (", way_out);
    }
}
