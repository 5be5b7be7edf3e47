//! Which stream gets what: the only place that knows both ends.
//!
//! The way back is the same once more, over the plan turned around.
//!
//! They stop in the order in which data flows: first the readers, which wait for what they have
//! sent to be acknowledged (in one process: applied), then the appliers.

use std::sync::Arc;

use modshift_consumer::{ApplierStatus, ApplyError, Class, run_applier};
use modshift_mariadb::ServerError;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Plan};
use modshift_proto::{NewShard, OldShard};
use modshift_replicator::{ReadError, ReaderStatus, Together, run_reader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::control;
use super::direction;
use super::log::ChangeLog;
use super::streams::{Halt, Streams};
use super::verifier::Changed;

/// What else of this process the streams have to do with.
pub struct Beside<'a> {
    /// Slows down the copy.
    pub throttle: &'a Throttle,
    /// Takes what appliers change, for the verifier.
    pub changed: &'a Changed,
    /// The connections that readers share, those of both directions.
    pub together: &'a Together,
}

pub fn start(
    streams: &mut Streams,
    plan: &Arc<Plan>,
    old: &[OldShard],
    new: &[NewShard],
    log: &ChangeLog,
    beside: &Beside<'_>,
    cancel: &CancellationToken,
) {
    let way = plan.direction();
    let readers = TaskTracker::new();
    for &shard in old {
        let status = ReaderStatus::default();
        let shown = status.clone();
        let (plan, log, cancel) = (plan.clone(), log.clone(), cancel.clone());
        let (throttle, together) = (beside.throttle.clone(), beside.together.clone());
        let reading = async move {
            let open = |epoch| log.clone().writer(shard, epoch);
            let reading = run_reader(plan, shard, open, status, throttle, together, cancel);
            Box::pin(reading).await.map_err(|error| of_reader(&error, way))
        };
        let detail = move || serde_json::to_value(shown.get()).unwrap_or_default();
        let reading = readers.track_future(under(way, reading));
        streams.start(named(way, &shard.to_string()), Box::new(detail), reading);
    }
    readers.close();
    for &shard in new {
        let status = Arc::new(beside.changed.watch(plan, shard, ApplierStatus::new(plan, shard)));
        let shown = status.clone();
        let (plan, log, cancel) = (plan.clone(), log.clone(), cancel.clone());
        let (readers, few) = (readers.clone(), beside.throttle.few().clone());
        let applying = async move {
            match control::create(&plan, shard, &few, &cancel).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(never_started(&error)),
            }
            let stop = CancellationToken::new();
            let open = |from| log.clone().reader(shard, from);
            let applying = run_applier(plan, shard, open, status, stop.clone());
            let stopping = async {
                cancel.cancelled().await;
                readers.wait().await;
                stop.cancel();
                std::future::pending().await
            };
            let outcome = tokio::select! {
                outcome = applying => outcome,
                never = stopping => never,
            };
            outcome.map_err(|error| of_applier(&error, way))
        };
        let detail = move || serde_json::to_value(shown.view()).unwrap_or_default();
        streams.start(named(way, &shard.to_string()), Box::new(detail), under(way, applying));
    }
}

/// A stream by the shard at its end in this process; the other end is all of the other side.
fn named(way: Direction, shard: &str) -> String {
    match way {
        Direction::Forward => shard.to_owned(),
        Direction::Back => format!("way back: {}", way.words(shard)),
    }
}

/// Its direction goes with everything that the stream counts and logs.
async fn under<F: Future>(way: Direction, stream: F) -> F::Output {
    let span = match way {
        Direction::Forward => tracing::Span::none(),
        Direction::Back => tracing::info_span!("stream", direction = way.name()),
    };
    direction::within(way, stream.instrument(span)).await
}

fn of_reader(error: &ReadError, way: Direction) -> Halt {
    // Where there is no epoch at all, somebody has removed it.
    let displaced = matches!(error, ReadError::Superseded { ours, theirs, .. } if theirs > ours);
    Halt {
        fatal: false,
        displaced,
        reason: error.reason().to_owned(),
        message: error.told(way),
        hint: error.hint_for(way),
    }
}

fn of_applier(error: &ApplyError, way: Direction) -> Halt {
    Halt {
        fatal: error.class() == Class::Fatal,
        displaced: matches!(error, ApplyError::TakenOver { .. }),
        reason: error.reason().to_owned(),
        message: error.told(way),
        hint: error.hint_for(way),
    }
}

/// What keeps an applier from starting is nobody else's to report.
fn never_started(error: &ServerError) -> Halt {
    tracing::error!(%error, hint = error.hint(), "applier cannot start");
    Halt {
        fatal: false,
        displaced: false,
        reason: "control".to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}
