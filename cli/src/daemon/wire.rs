//! Which stream gets what: the only place that knows both ends.
//!
//! The way back is the same once more, over the plan turned around.
//!
//! They stop in the order in which data flows: first the readers, which wait for what they have
//! sent to be acknowledged (in one process: applied), then the appliers.

use std::sync::Arc;
use std::time::Duration;

use modshift_consumer::{ApplierStatus, ApplyError, Class, record, run_applier};
use modshift_mariadb::ServerError;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Plan};
use modshift_proto::{NewShard, OldShard};
use modshift_replicator::{ReadError, ReaderStatus, Together, is_asked, run_reader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::control;
use super::direction;
use super::log::ChangeLog;
use super::streams::{Halt, Slot, Streams};
use super::verifier::Changed;

/// How often a stream that stands at something asks whether to pass it over.
const SENT_ON: Duration = Duration::from_secs(1);

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
        let reading = |slot: Slot| async move {
            loop {
                let open = |epoch| log.clone().writer(shard, epoch);
                let (throttle, together) = (throttle.clone(), together.clone());
                let (reading_by, stop) = (plan.clone(), cancel.clone());
                let status = status.clone();
                let reading = run_reader(reading_by, shard, open, status, throttle, together, stop);
                let Err(error) = Box::pin(reading).await else { return Ok(()) };
                let halt = of_reader(&error, way);
                let Some(gtid) = error.skips() else { return Err(halt) };
                slot.halted(halt.clone());
                let primary = &plan.old[usize::from(shard.0)];
                if !sent_on(|| is_asked(primary, shard, gtid), &cancel).await {
                    return Err(halt);
                }
                slot.goes_on();
                tracing::warn!(shard = shard.0, %gtid, "an operator has it passed over: goes on");
            }
        };
        let detail = move || serde_json::to_value(shown.get()).unwrap_or_default();
        let tracked = readers.clone();
        streams.start_with(named(way, &shard.to_string()), Box::new(detail), |slot| {
            tracked.track_future(under(way, reading(slot)))
        });
    }
    readers.close();
    for &shard in new {
        let status = Arc::new(beside.changed.watch(plan, shard, ApplierStatus::new(plan, shard)));
        let shown = status.clone();
        let (plan, log, cancel) = (plan.clone(), log.clone(), cancel.clone());
        let (readers, few) = (readers.clone(), beside.throttle.few().clone());
        let applying = |slot: Slot| async move {
            match control::create(&plan, shard, &few, &cancel).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(never_started(&error)),
            }
            loop {
                let stop = CancellationToken::new();
                let open = |from| log.clone().reader(shard, from);
                let applying = run_applier(plan.clone(), shard, open, status.clone(), stop.clone());
                let stopping = async {
                    cancel.cancelled().await;
                    readers.wait().await;
                    stop.cancel();
                    std::future::pending().await
                };
                let outcome = tokio::select! {
                    outcome = Box::pin(applying) => outcome,
                    never = stopping => never,
                };
                let Err(error) = outcome else { return Ok(()) };
                let halt = of_applier(&error, way);
                let Some(offset) = error.skips().map(|record| record.offset) else {
                    return Err(halt);
                };
                slot.halted(halt.clone());
                let target = &plan.new[usize::from(shard.0)];
                let asking = || record::is_asked(target, shard, offset);
                if !sent_on(asking, &cancel).await {
                    return Err(halt);
                }
                slot.goes_on();
                tracing::warn!(
                    target = shard.0,
                    offset,
                    "an operator has a record passed over: goes on"
                );
            }
        };
        let detail = move || serde_json::to_value(shown.view()).unwrap_or_default();
        streams.start_with(named(way, &shard.to_string()), Box::new(detail), |slot| {
            under(way, applying(slot))
        });
    }
}

/// Until an operator has had that passed over at which the stream stands; false: cancelled.
async fn sent_on<F>(asking: impl Fn() -> F, cancel: &CancellationToken) -> bool
where
    F: Future<Output = Result<bool, ServerError>>,
{
    loop {
        match cancel.run_until_cancelled(asking()).await {
            None => return false,
            Some(Ok(true)) => return true,
            Some(Ok(false)) => {}
            Some(Err(error)) => tracing::debug!(%error, "not looked at this time"),
        }
        if cancel.run_until_cancelled(tokio::time::sleep(SENT_ON)).await.is_none() {
            return false;
        }
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
