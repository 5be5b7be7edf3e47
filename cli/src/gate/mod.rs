//! The gate as seen from outside: `modshift gate`, and /ready of the daemons.
//!
//! Both ask the databases, so that neither depends on a daemon that may be dead. The decision is the
//! consumer crate's; what is added here is what `check` finds by now, what the journal says, what the
//! streams of this process know of their own end, and which logins daemons say are refused to them:
//! no database shows that, for nothing can be written there by a login that is refused.

mod answer;
mod asking;
mod pairs;
pub mod summary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_consumer::gate::{Reason, evaluator::SAMPLE_INTERVAL};
use modshift_cutover::Closed;
use modshift_proto::plan::{Direction, Plan};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use self::answer::{Answer, Line};
use self::answer::{in_words, is_of};
use self::asking::{Asker, Asking};
use crate::args;
use crate::control::pages;
use crate::daemon::streams::Board;
use crate::exit::Exit;
use crate::progress::Progress;

/// `modshift gate`: once, or until it opens or the time is over.
///
/// All shards are watched for as long as `gate.hold` before the answer can be yes, so that takes
/// at least as long; a no is known at once.
pub async fn run(plan: Arc<Plan>, args: &args::Gate) -> anyhow::Result<Exit> {
    if plan.scheme.is_promotion() {
        return pairs::run(plan, args).await;
    }
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let mut waiting = Waiting::of(&plan, args.wait);
    let mut daemons = pages::Daemons::of(&plan);
    let mut asking = Asking::new(plan, Asker::Other);
    let mut every = interval(SAMPLE_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let said = daemons.said().await;
        let answer = asking.ask(said.lines()).await.without_repeats(&said.halts);
        let only_hold =
            answer.reasons.iter().all(|l| matches!(l.reason, Some(Reason::Hold { .. })));
        let over = match deadline {
            None => !only_hold,
            Some(deadline) => Instant::now() >= deadline,
        };
        if answer.open || over {
            drop(waiting);
            answer.print(args.json)?;
            return Ok(answer.exit());
        }
        waiting.show(&answer, asking.copied());
    }
}

/// Who waits for the gate is told what for.
struct Waiting {
    progress: Progress,
    streams: usize,
    limit: Option<Duration>,
    direction: Direction,
}

impl Waiting {
    fn of(plan: &Plan, limit: Option<Duration>) -> Waiting {
        let streams = plan.old.len() * plan.new.len();
        Waiting { progress: Progress::begin(), streams, limit, direction: plan.direction() }
    }

    fn show(&mut self, answer: &Answer, copied: Option<f64>) {
        let waited = self.progress.elapsed().as_secs();
        let text = waiting_for(answer, self.direction, self.streams, copied);
        let of = self.limit.map(|limit| format!(" of {} s", limit.as_secs()));
        let text = format!("the gate, {waited} s{}: {text}", of.unwrap_or_default());
        self.progress.show(&text);
    }
}

/// `copied`: the share of the rows, before all are.
fn waiting_for(
    answer: &Answer,
    direction: Direction,
    streams: usize,
    copied: Option<f64>,
) -> String {
    let mut lines = answer.summed(direction, streams);
    if let Some(share) = copied {
        lines.insert(0, format!("copied {share:.1} %"));
    }
    match lines.len() {
        0 => "open".to_owned(),
        1 => lines.remove(0),
        count => format!("{} (and {} more)", lines[0], count - 1),
    }
}

/// What a run says while it waits, and if it waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Quietly,
    Aloud,
    /// Reasons that are the same of many in one line.
    Summed,
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
    told: Told,
) -> Result<(), Closed> {
    let mut waiting = (told != Told::Quietly).then(|| Waiting::of(&plan, wait));
    let streams = plan.old.len() * plan.new.len();
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
            let reasons = match told {
                Told::Summed => answer.summed(direction, streams),
                _ => answer.reasons.iter().map(|line| in_words(direction, line)).collect(),
            };
            return Err(Closed {
                reasons,
                unproven_back: direction == Direction::Back && answer.reasons.iter().any(unproven),
            });
        }
        if let Some(waiting) = &mut waiting {
            waiting.show(&answer, asking.copied());
        }
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
