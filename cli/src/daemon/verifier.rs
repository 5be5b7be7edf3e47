//! The verifier beside the appliers of this process, where the plan wants one.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use modshift_consumer::ApplierStatus;
use modshift_consumer::changed::{ChangedRow, ChangedRows};
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Plan};
use modshift_proto::{NewShard, OldShard};
use modshift_verify::{ChangedKey, ChangedKeys, Pace, run_continuous};
use tokio_util::sync::CancellationToken;

/// What the appliers of the way forward change.
#[derive(Default)]
pub struct Changed(RefCell<Vec<Arc<dyn ChangedKeys>>>);

struct OfShard {
    shard: NewShard,
    rows: Arc<ChangedRows>,
}

impl Changed {
    /// The status of an applier that keeps what it changes, where somebody will compare it.
    pub fn watch(&self, plan: &Plan, shard: NewShard, status: ApplierStatus) -> ApplierStatus {
        if !plan.verify.continuous || plan.direction() != Direction::Forward {
            return status;
        }
        let keys_max = plan.verify.changed_keys_max;
        let rows = Arc::new(ChangedRows::new(plan.old_modulus.get(), keys_max));
        self.0.borrow_mut().push(Arc::new(OfShard { shard, rows: rows.clone() }));
        status.keeping_changes(rows)
    }
}

/// Verifies for as long as this process applies. What stops the verifier does not stop the streams:
/// the gate closes by itself when the proof is too old.
pub async fn run(
    plan: &Arc<Plan>,
    throttle: &Throttle,
    changed: Changed,
    cancel: &CancellationToken,
) -> Infallible {
    let changed = changed.0.into_inner();
    if !changed.is_empty() {
        let (old, new): (Vec<_>, Vec<_>) =
            (plan.old_shards().collect(), plan.new_shards().collect());
        let pace = Pace::new(throttle.lane(&old, &new, 1), plan.verify.rows_per_s_max);
        let verifying = Box::pin(run_continuous(plan.clone(), pace, changed, cancel.clone()));
        if let Err(error) = verifying.await {
            let hint = error.hint().unwrap_or_default();
            tracing::error!(error = %error, hint, "the verifier has stopped");
        }
    }
    std::future::pending().await
}

impl ChangedKeys for OfShard {
    fn target(&self) -> u16 {
        self.shard.0
    }

    fn take(&self) -> Vec<ChangedKey> {
        let of = |row: ChangedRow| ChangedKey {
            source: row.source.0,
            table: row.table,
            key: row.key.into_vec(),
        };
        self.rows.take().into_iter().map(of).collect()
    }

    fn put_back(&self, keys: Vec<ChangedKey>) {
        self.rows.add(keys.into_iter().map(|key| ChangedRow {
            source: OldShard(key.source),
            table: key.table,
            key: key.key.into(),
        }));
    }

    fn whole_since(&self) -> Instant {
        self.rows.whole_since()
    }

    fn token_writes(&self, source: u16) -> u64 {
        self.rows.token_writes(OldShard(source))
    }
}
