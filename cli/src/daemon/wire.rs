//! Which stream gets what: the only place that knows both ends.
//!
//! They stop in the order in which data flows: first the readers, which wait for what they have
//! sent to be acknowledged (in one process: applied), then the appliers.

use std::sync::Arc;

use modshift_consumer::{ApplierStatus, ApplyError, Class, run_applier};
use modshift_mariadb::ServerError;
use modshift_proto::plan::Plan;
use modshift_proto::{NewShard, OldShard};
use modshift_replicator::{ReadError, ReaderStatus, run_reader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control;
use super::log::ChangeLog;
use super::streams::{Halt, Streams};

pub fn start(
    streams: &mut Streams,
    plan: &Arc<Plan>,
    old: &[OldShard],
    new: &[NewShard],
    log: &ChangeLog,
    cancel: &CancellationToken,
) {
    let readers = TaskTracker::new();
    for &shard in old {
        let status = ReaderStatus::default();
        let shown = status.clone();
        let (plan, log, cancel) = (plan.clone(), log.clone(), cancel.clone());
        let reading = async move {
            let open = |epoch| log.clone().writer(shard, epoch);
            run_reader(plan, shard, open, status, cancel).await.map_err(|error| of_reader(&error))
        };
        let detail = move || serde_json::to_value(shown.get()).unwrap_or_default();
        streams.start(shard.to_string(), Box::new(detail), readers.track_future(reading));
    }
    readers.close();
    for &shard in new {
        let status = Arc::new(ApplierStatus::new(shard, plan.old_modulus.get()));
        let shown = status.clone();
        let (plan, log, cancel) = (plan.clone(), log.clone(), cancel.clone());
        let readers = readers.clone();
        let applying = async move {
            let endpoint = &plan.new[usize::from(shard.0)];
            match control::create(endpoint, &cancel).await {
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
            outcome.map_err(|error| of_applier(&error))
        };
        let detail = move || serde_json::to_value(shown.view()).unwrap_or_default();
        streams.start(shard.to_string(), Box::new(detail), applying);
    }
}

fn of_reader(error: &ReadError) -> Halt {
    Halt {
        fatal: false,
        reason: error.reason().to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}

fn of_applier(error: &ApplyError) -> Halt {
    Halt {
        fatal: error.class() == Class::Fatal,
        reason: error.reason().to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}

/// What keeps an applier from starting is nobody else's to report.
fn never_started(error: &ServerError) -> Halt {
    tracing::error!(%error, hint = error.hint(), "applier cannot start");
    Halt {
        fatal: false,
        reason: "control".to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}
