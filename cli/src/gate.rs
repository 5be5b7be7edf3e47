//! The gate as seen from outside: `modshift gate`, and /ready of the daemons.
//!
//! Both ask the databases, so that neither depends on a daemon that may be dead. The decision is the
//! consumer crate's; what is added here is what `check` finds by now, what the journal says, what the
//! streams of this process know of their own end, and which logins daemons say are refused to them:
//! no database shows that, for nothing can be written there by a login that is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use modshift_consumer::gate::{Decision, Evaluator, Outside, Reason, evaluator::SAMPLE_INTERVAL};
use modshift_cutover::Closed;
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_proto::plan::{Direction, Plan};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::pages;
use crate::daemon::streams::Board;
use crate::exit::Exit;
use crate::{answer, args, check, cutover, obstacles};

/// Schemas change rarely, and a change halts the streams anyway: the comparison is for the change
/// that nobody has written a row after.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// After one that some shard did not answer.
const CHECK_RETRY: Duration = Duration::from_secs(2);
/// A server that takes longer to describe its shards, four at a time, is as good as silent. What stands in
/// a fence's way takes a second or two of each.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// The journal is one row of new shard 0.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
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
    asked_at: Instant,
}

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// In words; beside it the same in parts.
    pub message: String,
    #[serde(flatten)]
    pub reason: Option<Reason>,
}

impl Answer {
    fn unknown(message: String, asked_at: Instant) -> Answer {
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

    pub fn is_open(&self) -> bool {
        self.open
    }

    fn of(decision: &Decision, asked_at: Instant) -> Answer {
        let line =
            |reason: &Reason| Line { message: reason.to_string(), reason: Some(reason.clone()) };
        Answer {
            open: decision.open,
            cannot_tell: cannot_tell(decision),
            reasons: decision.reasons.iter().map(line).collect(),
            notes: decision.notes.clone(),
            asked_at,
        }
    }

    fn exit(&self) -> Exit {
        match (self.open, self.cannot_tell) {
            (true, _) => Exit::Done,
            (false, true) => Exit::CannotTell,
            (false, false) => Exit::No,
        }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            answer::line(serde_json::to_string(self)?);
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

/// Tables of a shard that does not answer cannot be compared: that alone is no answer either.
fn cannot_tell(decision: &Decision) -> bool {
    let silent = |why: &Reason| matches!(why, Reason::Unreachable { .. } | Reason::SchemaUnknown);
    !decision.open && decision.reasons.iter().all(silent)
}

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// The run that is under way.
    Run,
    Other,
}

/// Asks again and again, with what `check` finds kept fresh beside it.
struct Asking {
    plan: Arc<Plan>,
    asker: Asker,
    evaluator: Evaluator,
    /// `None`: not known.
    found: Option<Found>,
    /// At most one look under way.
    checking: JoinSet<Option<Found>>,
    /// When to look again; `None`: never looked yet.
    check_at: Option<Instant>,
    journal: Option<Conn>,
}

/// What `check` found on which correct rows depend.
#[derive(Clone, Debug, Default)]
struct Found {
    /// `None`: some shard did not answer. A lock on a table is enough for that, so what stands in
    /// the way is known all the same.
    differences: Option<Vec<String>>,
    faults: Vec<String>,
    obstacles: Vec<String>,
}

impl Asking {
    fn new(plan: Arc<Plan>, asker: Asker) -> Asking {
        Asking {
            evaluator: Evaluator::new(plan.clone()),
            plan,
            asker,
            found: None,
            checking: JoinSet::new(),
            check_at: None,
            journal: None,
        }
    }

    /// The first answer waits for the first look; later ones take the last there is.
    async fn check(&mut self) {
        let first = self.check_at.is_none();
        if self.checking.is_empty() && self.check_at.is_none_or(|at| at <= Instant::now()) {
            self.look();
        }
        let found = match first {
            true => self.checking.join_next().await,
            false => self.checking.try_join_next(),
        };
        if let Some(found) = found {
            self.take(found.ok().flatten());
        }
    }

    fn look(&mut self) {
        let (plan, runtime) = (self.plan.clone(), tokio::runtime::Handle::current());
        let look = async |plan| {
            let plan: Arc<Plan> = plan;
            let standing = timeout(CHECK_TIMEOUT, check::standing(plan.clone()));
            let obstacles = timeout(CHECK_TIMEOUT, obstacles::find(&plan));
            let (standing, obstacles) = join(standing, obstacles).await;
            let (standing, obstacles) = (standing.ok().flatten(), obstacles.ok()?.ok()?);
            let lines = |faults: Vec<check::Fault>| -> Vec<String> {
                faults.iter().map(|fault| fault.to_string()).collect()
            };
            let (differences, faults) = match standing {
                Some(standing) => (Some(lines(standing.tables)), lines(standing.others)),
                None => (None, Vec::new()),
            };
            Some(Found { differences, faults, obstacles })
        };
        // A survey cannot be moved between threads while it waits: it gets one of its own.
        self.checking.spawn_blocking(move || runtime.block_on(look(plan)));
    }

    fn take(&mut self, found: Option<Found>) {
        // What is in the way now may be gone in a moment.
        let clear = |found: &Found| found.differences.is_some() && found.obstacles.is_empty();
        let clear = found.as_ref().is_some_and(clear);
        let wait = if clear { CHECK_INTERVAL } else { CHECK_RETRY };
        self.found = found;
        self.check_at = Some(Instant::now() + wait);
    }

    /// A look that begins only now, to its end. It may take longer than the hold lasts unwatched.
    async fn check_anew(&mut self) {
        // One under way may have begun before the last change: it ends unheard.
        self.checking = JoinSet::new();
        self.look();
        let mut every = interval(SAMPLE_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let found = loop {
            tokio::select! {
                found = self.checking.join_next() => break found,
                _ = every.tick() => {}
            }
            self.sample(Vec::new()).await;
        };
        self.take(found.and_then(Result::ok).flatten());
    }

    async fn ask(&mut self, daemons: Vec<String>) -> Answer {
        self.check().await;
        self.sample(daemons).await
    }

    async fn sample(&mut self, daemons: Vec<String>) -> Answer {
        let asked_at = Instant::now();
        let journal = match self.asker {
            Asker::Run => None,
            Asker::Other => Some(self.journal().await),
        };
        let found = self.found.clone();
        let outside = Outside {
            schema_differences: found.as_ref().and_then(|found| found.differences.clone()),
            faults: found.as_ref().map(|found| found.faults.clone()).unwrap_or_default(),
            obstacles: found.map(|found| found.obstacles).unwrap_or_default(),
            daemons,
            journal,
            ..Outside::default()
        };
        Answer::of(&self.evaluator.sample(outside).await.0, asked_at)
    }

    async fn journal(&mut self) -> Result<Option<String>, String> {
        let endpoint = &self.plan.new[0];
        let conn = self.journal.take();
        let ask = async {
            let mut conn = match conn {
                Some(conn) => conn,
                None => connect(endpoint, Session::Plain).await.map_err(|e| e.to_string())?,
            };
            let said =
                cutover::against(&mut conn, &label(endpoint), self.plan.forward_name()).await;
            Ok((conn, said.map_err(|error| error.to_string())?))
        };
        let late = |_| Err(format!("no answer within {} s", JOURNAL_TIMEOUT.as_secs()));
        let (conn, said) = timeout(JOURNAL_TIMEOUT, ask).await.unwrap_or_else(late)?;
        self.journal = Some(conn);
        Ok(said)
    }
}

/// `modshift gate`: once, or until it opens or the time is over.
///
/// All shards are watched for as long as `gate.hold` before the answer can be yes, so that takes
/// at least as long; a no is known at once.
pub async fn run(plan: Arc<Plan>, args: &args::Gate) -> anyhow::Result<Exit> {
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let mut daemons = pages::Daemons::of(&plan);
    let mut asking = Asking::new(plan, Asker::Other);
    let mut every = interval(SAMPLE_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let answer = asking.ask(daemons.refused().await).await;
        let only_hold =
            answer.reasons.iter().all(|l| matches!(l.reason, Some(Reason::Hold { .. })));
        let over = match deadline {
            None => !only_hold,
            Some(deadline) => Instant::now() >= deadline,
        };
        if answer.open || over {
            answer.print(args.json)?;
            return Ok(answer.exit());
        }
    }
}

/// Until the gate is open, for at most so long; what keeps it closed. Reasons of a plan that was
/// turned around are in the operator's words.
///
/// It is the last question before the fence: what `check` finds is looked at anew once all else is
/// well, and counts only then.
///
/// `lost`: sources that are dead for good, whose reasons do not count. Then the hold is watched here,
/// and what `check` finds is not known, for it asks all shards.
pub async fn wait_open(
    plan: Arc<Plan>,
    wait: Option<Duration>,
    lost: &[u16],
) -> Result<(), Closed> {
    let hold = plan.gate.hold;
    let mut held: Option<Instant> = None;
    let deadline = wait.map(|wait| Instant::now() + wait);
    let direction = plan.direction();
    let mut asking = Asking::new(plan, Asker::Run);
    let mut every = interval(SAMPLE_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let mut answer = asking.ask(Vec::new()).await;
        if answer.open {
            asking.check_anew().await;
            answer = asking.ask(Vec::new()).await;
        }
        if !lost.is_empty() {
            answer.reasons.retain(|line| !is_of(line, lost));
        }
        let only_hold =
            answer.reasons.iter().all(|l| matches!(l.reason, Some(Reason::Hold { .. })));
        held = held.filter(|_| only_hold).or(only_hold.then(Instant::now));
        let open = match lost {
            [] => answer.open,
            _ => held.is_some_and(|since| since.elapsed() >= hold),
        };
        if open {
            return Ok(());
        }
        if deadline.map_or(!only_hold, |deadline| Instant::now() >= deadline) {
            let unproven = |line: &Line| {
                let of = |reason: &Reason| {
                    matches!(reason, Reason::NotVerified { .. } | Reason::VerificationOld { .. })
                };
                line.reason.as_ref().is_some_and(of)
            };
            return Err(Closed {
                reasons: answer.reasons.iter().map(|line| in_words(direction, line)).collect(),
                unproven_back: direction == Direction::Back && answer.reasons.iter().any(unproven),
            });
        }
    }
}

/// Is this a reason only because one of these sources is dead? The tables of all shards cannot be
/// compared then either.
fn is_of(line: &Line, lost: &[u16]) -> bool {
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
            | Reason::TimeLag { old, .. }
            | Reason::PositionLag { old, .. }
            | Reason::PrimaryBehind { old, .. }
            | Reason::Fenced { old },
        ) => of(old),
        _ => false,
    }
}

/// The operator's words and commands.
fn in_words(direction: Direction, line: &Line) -> String {
    let turned = |text: &str| {
        let text = direction.words(text);
        match direction {
            Direction::Forward => text,
            Direction::Back => text.replace("modshift verify ", "modshift verify --back "),
        }
    };
    // What a stream says of its halt is in the operator's words already.
    let said = match &line.reason {
        Some(Reason::ReaderHalted { text, .. } | Reason::ApplierHalted { text, .. }) => text,
        _ => return turned(&line.message),
    };
    match line.message.split_once(said.as_str()) {
        Some((before, after)) => format!("{}{said}{}", turned(before), turned(after)),
        None => turned(&line.message),
    }
}

/// The gate of a daemon: the newest answer, and the task that keeps it so until cancelled.
pub fn watch(
    plan: Arc<Plan>,
    board: Board,
    cancel: CancellationToken,
) -> (watch::Receiver<Answer>, impl Future<Output = ()>) {
    let unknown = Answer::unknown("not looked at yet".to_owned(), Instant::now());
    let (sender, receiver) = watch::channel(unknown);
    let asking = async move {
        let mut asking = Asking::new(plan, Asker::Other);
        let mut every = interval(SAMPLE_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(every.tick()).await.is_some() {
            let of = |(stream, halt): (String, crate::daemon::streams::Halt)| {
                format!("{stream} has halted in this process: {}", halt.message)
            };
            let halted = board.halts().into_iter().map(of);
            let said = halted.chain(pages::refused_here()).collect();
            let answer = asking.ask(said).await;
            let before = sender.send_replace(answer.clone());
            if before.open != answer.open {
                let reason = answer.reasons.first().map_or("none", |line| line.message.as_str());
                tracing::info!(open = answer.open, reason, "gate");
            }
        }
    };
    (receiver, asking)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(reasons: Vec<Reason>) -> Decision {
        Decision { open: reasons.is_empty(), reasons, notes: Vec::new(), streams: Vec::new() }
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
        assert_eq!(shown, format!("reader of new shard 2 stopped: {text}"));
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
