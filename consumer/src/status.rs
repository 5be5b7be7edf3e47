//! What an applier is doing, for `/status` and `/ready`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use modshift_changelog::Backlog;
use modshift_mariadb::Waits;
use modshift_proto::NewShard;
use modshift_proto::plan::{Direction, Plan};
use serde::{Serialize, Serializer};

use crate::apply::Cut;
use crate::changed::{ChangedRow, ChangedRows};
use crate::error::ApplyError;
use crate::sequence::Watermark;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting, taking over.
    Starting,
    Running,
    /// The last attempt failed and another follows.
    Retrying,
    /// Ended as asked.
    Stopped,
    /// Stopped by an error that trying again cannot change.
    Halted,
}

#[derive(Clone, Debug, Serialize)]
pub struct ApplierView {
    pub target: u16,
    pub phase: Phase,
    /// Why it is not running; never row values.
    pub error: Option<String>,
    /// Short name of the error.
    pub reason: Option<&'static str>,
    pub hint: Option<String>,
    /// What passes by itself and is waited for, and since when.
    #[serde(serialize_with = "in_words")]
    pub waiting: Waits,
    pub rows_applied: u64,
    pub batches: u64,
    pub dropped: u64,
    pub parked: u64,
    pub backlog_bytes: Option<u64>,
    pub backlog_messages: Option<u64>,
    /// Index = old shard; `None`: nothing was ever applied of it.
    pub streams: Vec<Option<StreamView>>,
}

fn in_words<S: Serializer>(waits: &Waits, serializer: S) -> Result<S::Ok, S::Error> {
    waits.line().serialize(serializer)
}

#[derive(Clone, Debug, Serialize)]
pub struct StreamView {
    pub epoch: u64,
    pub number: u64,
    pub gtids: String,
    /// The old shard's clock at the newest token applied, microseconds since 1970 UTC.
    pub token_clock_us: i64,
    pub copied: bool,
    /// It is not proven yet that the old shard still has the binlog that was applied.
    pub proof_pending: bool,
}

impl From<&Watermark> for StreamView {
    fn from(mark: &Watermark) -> StreamView {
        StreamView {
            epoch: mark.epoch,
            number: mark.number,
            gtids: mark.gtids.to_string(),
            token_clock_us: mark.token_clock_us,
            copied: mark.copied,
            proof_pending: mark.proof_pending(),
        }
    }
}

/// One writer, the applier; anyone may look.
#[derive(Debug)]
pub struct ApplierStatus {
    direction: Direction,
    view: Mutex<ApplierView>,
    /// Where a verifier works beside it.
    changed: Option<Arc<ChangedRows>>,
}

impl ApplierStatus {
    pub fn new(plan: &Plan, shard: NewShard) -> ApplierStatus {
        ApplierStatus {
            direction: plan.direction(),
            view: Mutex::new(ApplierView {
                target: shard.0,
                phase: Phase::Starting,
                error: None,
                reason: None,
                hint: None,
                waiting: Waits::default(),
                rows_applied: 0,
                batches: 0,
                dropped: 0,
                parked: 0,
                backlog_bytes: None,
                backlog_messages: None,
                streams: vec![None; usize::from(plan.old_modulus.get())],
            }),
            changed: None,
        }
    }

    /// Keeps the rows that are changed from now on for a verifier.
    pub fn keeping_changes(self, changed: Arc<ChangedRows>) -> ApplierStatus {
        ApplierStatus { changed: Some(changed), ..self }
    }

    /// Rows that had waited for their place; before the batch that let them in.
    pub(crate) fn moved_in(&self, rows: Vec<ChangedRow>) {
        if let Some(changed) = self.changed.as_ref().filter(|_| !rows.is_empty()) {
            changed.add(rows);
        }
    }

    pub(crate) fn applied(&self, cut: &Cut) {
        if let Some(changed) = &self.changed {
            changed.applied(cut);
        }
    }

    pub fn view(&self) -> ApplierView {
        self.lock().clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ApplierView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What passes by itself is in the way. How long it has been.
    pub(crate) fn waits(&self, error: &ApplyError) -> Duration {
        self.phase(Phase::Retrying, Some(error));
        let (what, hint) = (error.told(self.direction), error.hint_for(self.direction));
        self.lock().waiting.begin(what, hint)
    }

    pub(crate) fn phase(&self, phase: Phase, error: Option<&ApplyError>) {
        let mut view = self.lock();
        if phase != Phase::Retrying {
            view.waiting.over();
        }
        view.phase = phase;
        view.error = error.map(|error| error.told(self.direction));
        view.reason = error.map(ApplyError::reason);
        view.hint = error.and_then(|error| error.hint_for(self.direction));
    }

    pub(crate) fn backlog(&self, backlog: Backlog) {
        let mut view = self.lock();
        (view.backlog_bytes, view.backlog_messages) = match backlog {
            Backlog::Bytes(bytes) => (Some(bytes), None),
            Backlog::Messages(messages) => (None, Some(messages)),
            Backlog::Unknown => (None, None),
        };
    }
}
