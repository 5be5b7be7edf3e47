//! What the new shards have applied of one writer's messages.

use std::sync::atomic::{AtomicU64, Ordering};

use modshift_proto::{NewShard, OldShard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::LogError;

pub(super) struct Acks {
    source: OldShard,
    pub epoch: u64,
    /// Index = new shard: messages applied, without a gap.
    counts: Box<[AtomicU64]>,
    /// Rises with every change of `counts`; `SUPERSEDED` is its end.
    version: AtomicU64,
    changed: Notify,
    superseded: CancellationToken,
}

const SUPERSEDED: u64 = u64::MAX;

impl Acks {
    pub fn new(source: OldShard, epoch: u64, partitions: usize) -> Acks {
        Acks {
            source,
            epoch,
            counts: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            superseded: CancellationToken::new(),
        }
    }

    pub fn supersede(&self) {
        self.version.store(SUPERSEDED, Ordering::Release);
        self.superseded.cancel();
        self.wake();
    }

    /// Resolves when another writer takes over.
    pub async fn superseded(&self) -> LogError {
        self.superseded.cancelled().await;
        self.end()
    }

    fn end(&self) -> LogError {
        LogError::Superseded { source_shard: self.source, epoch: self.epoch }
    }

    pub fn check(&self) -> Result<(), LogError> {
        self.version().map(drop)
    }

    /// Differs from what it was when something was applied meanwhile.
    pub fn version(&self) -> Result<u64, LogError> {
        match self.version.load(Ordering::Acquire) {
            SUPERSEDED => Err(self.end()),
            version => Ok(version),
        }
    }

    /// Only ever called for the current writer, under its lock: never after `supersede`.
    pub fn grow(&self, to: NewShard, count: u64) {
        let before = self.counts[usize::from(to.0)].fetch_max(count, Ordering::AcqRel);
        if before < count {
            self.version.fetch_add(1, Ordering::AcqRel);
            self.wake();
        }
    }

    pub fn count(&self, to: NewShard) -> u64 {
        self.counts.get(usize::from(to.0)).map_or(0, |count| count.load(Ordering::Acquire))
    }

    pub fn wake(&self) {
        // One writer, one waiter: the permit is kept if it is not waiting yet.
        self.changed.notify_one();
    }

    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
