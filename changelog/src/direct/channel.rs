//! One partition's queue of segments, bounded in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use modshift_proto::NewShard;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::LogError;

/// Messages, each behind its length, and the part of the budget that they take until read.
pub(super) struct Segment {
    pub bytes: Bytes,
    /// More than heartbeats are in it.
    pub pressing: bool,
    _room: OwnedSemaphorePermit,
}

pub(super) struct Channel {
    to: NewShard,
    /// Bytes that may still be queued. Its waiters are served in order, so a large segment is not
    /// starved by small ones.
    room: Arc<Semaphore>,
    budget: u32,
    /// Not bounded by itself: nothing is sent without its room.
    segments: UnboundedSender<Segment>,
    waiting_bytes: AtomicU64,
    /// Segments that are queued and press.
    pressing: AtomicU64,
    pressed: Notify,
}

impl Channel {
    pub fn new(to: NewShard, buffer_bytes: usize) -> (Channel, UnboundedReceiver<Segment>) {
        let (segments, receiver) = mpsc::unbounded_channel();
        // The semaphore hands out at most `u32::MAX` at once: no buffer is larger than that.
        let budget = u32::try_from(buffer_bytes.max(1)).unwrap_or(u32::MAX);
        let channel = Channel {
            to,
            room: Arc::new(Semaphore::new(budget as usize)),
            budget,
            segments,
            waiting_bytes: AtomicU64::new(0),
            pressing: AtomicU64::new(0),
            pressed: Notify::new(),
        };
        (channel, receiver)
    }

    /// A segment larger than the whole budget takes all of it, and so passes alone.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).map_or(self.budget, |bytes| bytes.min(self.budget))
    }

    /// Waits until so many bytes may be queued. Cancel safe.
    pub async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, LogError> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.share(bytes)).await;
        room.map_err(|_| LogError::Closed(self.to))
    }

    pub fn try_room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, LogError> {
        match Arc::clone(&self.room).try_acquire_many_owned(self.share(bytes)) {
            Ok(room) => Ok(Some(room)),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(LogError::Closed(self.to)),
        }
    }

    pub fn send(
        &self,
        bytes: Bytes,
        pressing: bool,
        room: OwnedSemaphorePermit,
    ) -> Result<(), LogError> {
        let added = bytes.len() as u64;
        self.waiting_bytes.fetch_add(added, Ordering::Relaxed);
        if pressing {
            // Before it can be taken out again.
            self.pressing.fetch_add(1, Ordering::AcqRel);
        }
        let segment = Segment { bytes, pressing, _room: room };
        self.segments.send(segment).map_err(|_| LogError::Closed(self.to))?;
        if pressing {
            self.pressed.notify_one();
        }
        Ok(())
    }

    /// A segment has left the queue.
    pub fn taken(&self, segment: &Segment) {
        if segment.pressing {
            self.pressing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Resolves while a segment is queued that presses; for the one reader. Cancel safe.
    pub async fn pressing(&self) {
        while self.pressing.load(Ordering::Acquire) == 0 {
            // A notice that comes before this is kept.
            self.pressed.notified().await;
        }
    }

    pub fn read(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Whoever waits for room, and whoever asks from now on, fails.
    pub fn close(&self) {
        self.room.close();
    }

    pub fn check(&self) -> Result<(), LogError> {
        if self.room.is_closed() { Err(LogError::Closed(self.to)) } else { Ok(()) }
    }
}
