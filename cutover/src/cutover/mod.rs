//! The cutover itself, and its undoing. A rollback is the same with the sides exchanged.
//!
//! Each step is journaled before it is taken and after. Where a step fails, or would take longer
//! than the pause budget leaves, or the operator interrupts, everything is undone by itself, up to
//! the beginning of `open`; from there on a run only goes forward.

mod act;
mod drive;
mod open;
mod shared;
pub(crate) mod undo;

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::stage;
use modshift_proto::Gtid;
use modshift_proto::plan::Plan;
use tokio::sync::watch;

use crate::decide::{Action, Admission, Ask, End, Entry, Facts, Stop, Wish, next};
use crate::error::CutoverError;
use crate::outside::Outside;
use crate::register::Register;
use crate::server::Guard;
use crate::shard::{self, Shard};
use crate::step::{Direction, Mode, Step};

pub struct Settings {
    pub ask: Ask,
    pub mode: Mode,
    pub dry: bool,
    /// Of a dry run: how many statements each server would get in each step, not the statements.
    pub summary: bool,
    /// How long to wait for the gate.
    pub gate_wait: Option<Duration>,
    /// How long to go on trying to let go of shards that do not answer.
    pub patience: Duration,
    /// From-shards that are dead for good: a run goes without them, and the journal says so.
    pub lost: Vec<u16>,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The other side serves.
    Done,
    /// Undone by itself; the cause.
    Undone(Option<CutoverError>),
}

pub struct Cutover<O> {
    plan: Arc<Plan>,
    register: Register,
    facts: Facts,
    from: Vec<Shard>,
    to: Vec<Shard>,
    /// From-shards that this run goes without: they are not among `from`.
    given_up: Vec<u16>,
    outside: O,
    interrupt: watch::Receiver<bool>,
    settings: Settings,
    /// The step whose statements a dry run has come to.
    scripted: String,
    /// Another process began the run.
    resumed: bool,
    /// From-shards that did not answer when it was resumed amid its opening. Index = from-shard.
    absent: Vec<bool>,
    /// Since when the application waits, under the budget.
    paused: Option<Instant>,
    /// The routing that names the to-shards was begun to be published: by this process, or by one
    /// before it.
    published: bool,
    published_before: bool,
    /// Each with the number of its from-shard.
    markers: Vec<(u16, Gtid)>,
    fence_checked: Option<Instant>,
    waiting: String,
    /// What was done to sessions of others.
    notes: Vec<String>,
    timings: Vec<(Step, Duration)>,
    /// How long the application waited.
    pause: Option<Duration>,
    /// The journal's server went away while undoing.
    lost: Option<CutoverError>,
}

impl<O: Outside> Cutover<O> {
    pub async fn take(
        plan: Arc<Plan>,
        settings: Settings,
        mut outside: O,
        interrupt: watch::Receiver<bool>,
    ) -> Result<Cutover<O>, CutoverError> {
        let journal = shard::login(&plan, plan.new[0].clone());
        let (dry, mode) = (settings.dry, settings.mode);
        let (register, admission) =
            Register::take(&plan.name, journal, settings.ask, mode, dry).await?;
        if register.journal().mode() == Mode::Promote {
            return Err(CutoverError::Unfit {
                server: format!("run {}", register.name),
                what:
                    "is a promotion, and this version cannot take its steps: go on with it by the \
                       version that began it"
                        .to_owned(),
            });
        }
        let guard = match dry {
            true => Guard::Dry,
            false => Guard::Owner(Box::new(register.claim())),
        };
        let direction = register.run.direction;
        let (resumed, wish) = match admission {
            Admission::Begin => (false, Wish::Forward),
            Admission::Continue(wish) => (true, wish),
        };
        let mut given_up = settings.lost.clone();
        given_up.extend(register.lost.iter().filter(|lost| !settings.lost.contains(lost)));
        outside.without(direction.from(), &given_up);
        let mut from = shard::side(&plan, direction.from(), &guard);
        from.retain(|shard| !given_up.contains(&shard.number));
        let published_before = register.journal().stands(Step::Publish);
        Ok(Cutover {
            from,
            given_up,
            to: shard::side(&plan, direction.to(), &guard),
            facts: Facts::new(wish),
            plan,
            register,
            outside,
            interrupt,
            settings,
            scripted: String::new(),
            resumed,
            absent: Vec::new(),
            paused: None,
            published: false,
            published_before,
            markers: Vec::new(),
            fence_checked: None,
            waiting: String::new(),
            notes: Vec::new(),
            timings: Vec::new(),
            pause: None,
            lost: None,
        })
    }

    fn direction(&self) -> Direction {
        self.register.run.direction
    }

    /// To its end, whichever that is.
    pub async fn run(mut self) -> Result<Outcome, CutoverError> {
        let outcome = self.go().await;
        self.show("");
        self.tell_notes();
        self.audit_notes().await;
        self.register.release().await;
        outcome
    }

    async fn go(&mut self) -> Result<Outcome, CutoverError> {
        let name = self.register.name.clone();
        let goes = if self.resumed { "goes on" } else { "begins" };
        self.outside.tell(&format!("run {name} {goes}"));
        if self.resumed {
            self.resume().await?;
        }
        let mut cause = None;
        if matches!(next(self.register.journal(), &self.facts), Action::Take(_)) {
            match Box::pin(self.forward()).await {
                Ok(()) => {}
                // Whoever it is answers for the run now.
                Err(error @ CutoverError::Superseded { .. }) => return Err(error),
                Err(error) => {
                    self.outside.tell(&format!("trouble: {error}"));
                    self.facts.trouble = true;
                    let then = next(self.register.journal(), &self.facts);
                    let back = matches!(then, Action::TurnBack | Action::Undo(_));
                    if back && !self.settings.dry {
                        let (way, from) = (self.direction(), self.direction().from());
                        self.outside.tell(&format!(
                            "the run is undone now, and the {from} shards serve again; then modshift \
                             {way} begins anew"
                        ));
                    }
                    cause = Some(error);
                }
            }
        }
        match next(self.register.journal(), &self.facts) {
            Action::End(End::To) => {
                stage::reached("before_end", 1).await;
                let report = self.report();
                self.write_forward(Entry::Ended(End::To), report.as_deref()).await?;
                Ok(Outcome::Done)
            }
            Action::TurnBack | Action::Undo(_) | Action::End(End::From) => {
                Box::pin(self.back()).await?;
                Ok(Outcome::Undone(cause))
            }
            Action::Stop(Stop::NoReturn) => Err(CutoverError::Unfit {
                server: format!("run {name}"),
                what: no_return(self.direction()),
            }),
            Action::Take(_) | Action::Stop(_) => Err(cause.unwrap_or_else(|| {
                CutoverError::Unfit { server: format!("run {name}"), what: "it is over".to_owned() }
            })),
        }
    }

    /// The whole cutover.
    async fn forward(&mut self) -> Result<(), CutoverError> {
        self.step(Step::Close, Self::close).await?;
        if self.register.journal().mode() == Mode::StopWrites {
            self.step(Step::Fence, Self::fence).await?;
        }
        self.step(Step::Gate, Self::gate).await?;
        self.step(Step::Fence, Self::fence).await?;
        self.step(Step::Drain, Self::drain).await?;
        self.step(Step::Counters, Self::carry_counters).await?;
        self.step(Step::Handover, Self::hand_over).await?;
        self.step(Step::Publish, Self::publish).await?;
        self.step(Step::Seal, Self::seal).await?;
        self.step(Step::Open, Self::open).await
    }

    /// And its undoing.
    async fn back(&mut self) -> Result<(), CutoverError> {
        self.facts.wish = Wish::Back;
        self.turn().await?;
        self.undo().await?;
        self.end_back().await
    }
}

/// Why a run is not undone.
fn no_return(direction: Direction) -> String {
    let then = match direction {
        Direction::Cutover | Direction::Promote => "modshift rollback goes back",
        Direction::Rollback => "another modshift cutover can be begun",
    };
    format!(
        "it cannot be undone, since a shard may serve already: modshift {direction} --resume finishes \
         it, and then {then}"
    )
}
