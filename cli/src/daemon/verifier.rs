//! The verifier beside the appliers of this process, where the plan wants one.

use std::cell::RefCell;
use std::collections::BTreeSet;
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
        if !wanted(plan) {
            return status;
        }
        let keys_max = plan.verify.changed_keys_max;
        let rows = Arc::new(ChangedRows::new(plan.old_modulus.get(), keys_max));
        self.0.borrow_mut().push(Arc::new(OfShard { shard, rows: rows.clone() }));
        status.keeping_changes(rows)
    }
}

/// Is somebody in this process to compare what the appliers change?
pub fn wanted(plan: &Plan) -> bool {
    plan.verify.continuous && plan.direction() == Direction::Forward
}

/// Verifies for as long as this process applies. What is in the way of the verifier does not stop the
/// streams: the gate closes and says so.
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
        Box::pin(run_continuous(plan.clone(), pace, changed, cancel.clone())).await;
    }
    std::future::pending().await
}

fn rows(keys: &[ChangedKey]) -> Vec<(u64, ChangedRow)> {
    let of = |key: &ChangedKey| {
        let (source, key_bytes) = (OldShard(key.source), key.key.as_slice().into());
        (key.mark, ChangedRow { source, table: key.table, key: key_bytes })
    };
    keys.iter().map(of).collect()
}

impl ChangedKeys for OfShard {
    fn target(&self) -> u16 {
        self.shard.0
    }

    fn oldest(
        &self,
        sources: Option<&BTreeSet<u16>>,
        until: u64,
        keys_max: usize,
    ) -> Vec<ChangedKey> {
        let of = |(mark, row): (u64, ChangedRow)| ChangedKey {
            source: row.source.0,
            table: row.table,
            key: row.key.into_vec(),
            mark,
        };
        self.rows.oldest(sources, until, keys_max).into_iter().map(of).collect()
    }

    fn compared(&self, keys: &[ChangedKey]) {
        self.rows.compared(&rows(keys));
    }

    fn put_off(&self, keys: &[ChangedKey]) {
        self.rows.put_off(&rows(keys));
    }

    fn newest(&self) -> u64 {
        self.rows.newest()
    }

    fn waiting(&self) -> usize {
        self.rows.waiting()
    }

    fn is_waiting(&self, source: u16) -> bool {
        self.rows.is_waiting(OldShard(source))
    }

    fn whole_since(&self) -> Instant {
        self.rows.whole_since()
    }

    fn token_writes(&self, source: u16) -> u64 {
        self.rows.token_writes(OldShard(source))
    }
}
