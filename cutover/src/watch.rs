//! The watchdog: a run whose operator has died, stands still or is cut off is ended by a daemon.
//!
//! Every daemon reads the journal each second. Where a run is [`due`](crate::decide::due), by the
//! clock of the journal's server, the first daemon that gets the operators' lock takes the run over
//! as any second operator would: it undoes the run, or finishes it once the opening has begun. The
//! lock is free within [`LOCK_IDLE_S`](crate::register::LOCK_IDLE_S) of the moment at which the
//! operator's process last stirred. What that process does later is refused: its connections are
//! ended, and journal, servers and routing each ask whose run it is.
//!
//! So the application waits for its budget, and at most [`BEYOND`] more: the lock, a look, and the
//! undoing, as long as the journal's server and a fit daemon are there. A shard that does not answer
//! holds up nobody but itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, Session, audit, connect};
use modshift_proto::plan::Plan;
use tokio::sync::watch as channel;

use crate::cutover::{Cutover, Outcome, Settings};
use crate::decide::{Ask, due};
use crate::error::CutoverError;
use crate::metrics;
use crate::outside::Outside;
use crate::register::{Found, newest};
use crate::step::{Direction, Mode};

/// Beyond its budget, the longest that the application waits for its shards.
pub const BEYOND: Duration = Duration::from_secs(12);

const LOOK: Duration = Duration::from_secs(1);
/// A journal that takes longer to answer is looked at again.
const ANSWER: Duration = Duration::from_secs(3);
/// How long one attempt goes on with shards and targets that do not answer. The lock is free after
/// it, for a person or for another daemon.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between attempts on a run that could not be ended, twice as long after each.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const AUDIT: Duration = Duration::from_secs(2);

struct Watchdog<F> {
    plan: Arc<Plan>,
    outside: F,
    conn: Option<Conn>,
    /// No attempt before that.
    next: Instant,
    pause: Duration,
}

/// Never ends: runs beside the streams, and is dropped with them. `outside` makes what a cutover
/// asks of others; `fit` says why this process could not end a run.
pub async fn watch<O: Outside, F: Fn() -> O>(
    plan: Arc<Plan>,
    outside: F,
    fit: channel::Receiver<Option<String>>,
) -> Infallible {
    let now = Instant::now();
    let mut watchdog = Watchdog { plan, outside, conn: None, next: now, pause: PAUSES.0 };
    loop {
        tokio::time::sleep(LOOK).await;
        match tokio::time::timeout(ANSWER, watchdog.look()).await {
            Ok(Ok(Some(found))) if Instant::now() >= watchdog.next => {
                let unfit = fit.borrow().clone();
                match unfit {
                    None => watchdog.take_over(found).await,
                    Some(why) => tracing::warn!(
                        run = found.name,
                        why,
                        "a run has lost its operator, and this daemon cannot end it"
                    ),
                }
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the journal cannot be looked at"),
            Err(_) => watchdog.conn = None,
        }
    }
}

impl<O: Outside, F: Fn() -> O> Watchdog<F> {
    /// A run that is due.
    async fn look(&mut self) -> Result<Option<Found>, CutoverError> {
        // The daemons' own login reads the journal as well.
        let endpoint = &self.plan.new[0];
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(endpoint, Session::Plain).await?,
        };
        let found = newest(&mut conn, &label(endpoint), &self.plan.name).await?;
        self.conn = Some(conn);
        let budget = self.plan.cutover.budget;
        Ok(found.filter(|found| due(&found.run.journal, found.since, budget)))
    }

    async fn take_over(&mut self, found: Found) {
        let (run, direction) = (found.name, found.run.direction);
        // Until now: the end comes on top.
        let (looked, waited) = (Instant::now(), found.since.waited);
        match Box::pin(self.end(&run, direction)).await {
            // The operator is at it, or another daemon; or it is over by now.
            Err(CutoverError::Busy { who, .. }) => {
                tracing::debug!(run, who, "due, and somebody is at it");
            }
            Err(CutoverError::Refused(_)) => {}
            Ok(outcome) => {
                self.pause = PAUSES.0;
                let end = match outcome {
                    Outcome::Done => "finished",
                    Outcome::Undone(_) => "undone",
                };
                metrics::watchdog_ended(end, 1);
                let waited = waited.map(|waited| (waited + looked.elapsed()).as_secs_f64());
                let waited =
                    waited.map_or(String::new(), |s| format!("; clients waited for {s:.1} s"));
                tracing::warn!(run, "its operator was gone: {end} by this daemon{waited}");
            }
            Err(error) => {
                self.next = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(PAUSES.1);
                let hint = error.hint().unwrap_or_default();
                tracing::error!(run, %error, hint, "its operator is gone, and it is not ended yet");
            }
        }
    }

    async fn end(&mut self, run: &str, direction: Direction) -> Result<Outcome, CutoverError> {
        let settings = Settings {
            summary: false,
            ask: Ask::Watch(direction),
            mode: Mode::Online,
            dry: false,
            gate_wait: None,
            patience: PATIENCE,
            lost: Vec::new(),
        };
        let (stop, interrupt) = channel::channel(false);
        let plan = self.plan.clone();
        let cutover = Cutover::take(plan, settings, (self.outside)(), interrupt).await?;
        tracing::warn!(run, "its operator is gone: this daemon has taken it over");
        let stopping = async {
            tokio::time::sleep(PATIENCE).await;
            stop.send_replace(true);
            std::future::pending::<Infallible>().await
        };
        let outcome = tokio::select! {
            outcome = Box::pin(cutover.run()) => outcome,
            never = stopping => match never {},
        };
        self.write_down(run, direction, &outcome).await;
        outcome
    }

    /// For `modshift audit`. What happened, happened whether or not it can be written down.
    async fn write_down(
        &self,
        run: &str,
        direction: Direction,
        outcome: &Result<Outcome, CutoverError>,
    ) {
        let text = match outcome {
            Ok(Outcome::Done) => format!("finished: the {} shards serve", direction.to()),
            Ok(Outcome::Undone(_)) => format!("undone: the {} shards serve", direction.from()),
            Err(error) => error.to_string(),
        };
        let what = format!("watchdog on run {run}");
        let entry = async {
            audit::begin(&self.plan, &what, "its operator was gone").await?.finish(&text).await
        };
        let outcome: Result<Result<(), ServerError>, _> = tokio::time::timeout(AUDIT, entry).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::warn!(run, "the audit table does not know of it");
        }
    }
}
