//! The change log inside one process: per new shard a queue bounded in bytes.
//!
//! It keeps nothing: the old shards' binlogs are the durable log, and a message counts as
//! acknowledged once the new shard has applied it. So when a reader goes away, what was queued for
//! it is gone too; every writer that might have sent some of it then fails with
//! [`LogError::Closed`], starts again with a new epoch from its resume point, and sends it again.
//!
//! Messages travel in segments, many of them in one allocation, since waking a task and taking
//! part of the byte budget cost more than a message itself. The reader hands out slices of them.
//!
//! What is left in the queue from a replaced writer is still delivered: whoever reads drops it by
//! its epoch. This module never looks into a message.

mod acks;
mod channel;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use modshift_proto::{NewShard, OldShard};
use tokio::sync::mpsc::UnboundedReceiver;

use self::acks::Acks;
use self::channel::{Channel, Segment};
use crate::LogError;

pub use self::reader::DirectReader;
pub use self::writer::DirectWriter;

/// Large enough that the cost of passing it on vanishes (some 250 messages of 250 bytes), small
/// enough that one for each pair of shards is no memory to speak of.
const SEGMENT_BYTES_MAX: usize = 64 * 1024;
const SEGMENT_BYTES_MIN: usize = 1024;

/// All partitions; a handle to be cloned.
#[derive(Clone)]
pub struct DirectLog {
    shared: Arc<Shared>,
}

struct Shared {
    buffer_bytes: usize,
    segment_bytes: usize,
    /// Index = old shard: who writes now.
    streams: Box<[Mutex<Option<Arc<Acks>>>]>,
    /// Index = new shard.
    partitions: Box<[Mutex<Partition>]>,
}

struct Partition {
    channel: Arc<Channel>,
    /// `None` while a reader has it.
    receiver: Option<UnboundedReceiver<Segment>>,
}

impl DirectLog {
    /// From `old` old shards to `new` new ones, with at most `buffer_bytes` queued for each of the
    /// new ones. A message larger than that passes alone.
    pub fn new(old: u16, new: u16, buffer_bytes: usize) -> DirectLog {
        // What waits in the writers' segments stays a fraction of what may wait in the queue.
        let share = buffer_bytes / 4 / usize::from(old.max(1));
        let partition = |to| {
            let (channel, receiver) = Channel::new(NewShard(to), buffer_bytes);
            Mutex::new(Partition { channel: Arc::new(channel), receiver: Some(receiver) })
        };
        let shared = Shared {
            buffer_bytes,
            segment_bytes: share.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            streams: (0..old).map(|_| Mutex::new(None)).collect(),
            partitions: (0..new).map(partition).collect(),
        };
        DirectLog { shared: Arc::new(shared) }
    }

    /// The way into every partition for one epoch of an old shard's reader, whose message numbers
    /// start at 0. Ends the writer before it. If a writer of this or a later epoch exists already,
    /// it is the new one that fails at its first use.
    ///
    /// # Panics
    /// If there is no such old shard.
    pub fn writer(&self, source: OldShard, epoch: u64) -> DirectWriter {
        let shared = &self.shared;
        let channels: Vec<_> =
            shared.partitions.iter().map(|one| Arc::clone(&lock(one).channel)).collect();
        let acks = Arc::new(Acks::new(source, epoch, channels.len()));
        let mut current = lock(&shared.streams[usize::from(source.0)]);
        match current.as_ref() {
            Some(newer) if newer.epoch >= epoch => acks.supersede(),
            older => {
                if let Some(older) = older {
                    older.supersede();
                }
                *current = Some(Arc::clone(&acks));
            }
        }
        DirectWriter::new(acks, channels, shared.segment_bytes)
    }

    /// The one reader of a partition. Once it is dropped there may be another.
    pub fn reader(&self, to: NewShard) -> Result<DirectReader, LogError> {
        let partitions = &self.shared.partitions;
        let Some(partition) = partitions.get(usize::from(to.0)) else {
            return Err(LogError::NoPartition { to, partitions: count(partitions.len()) });
        };
        let mut partition = lock(partition);
        let receiver = partition.receiver.take().ok_or(LogError::Taken(to))?;
        let channel = Arc::clone(&partition.channel);
        Ok(DirectReader::new(Arc::clone(&self.shared), to, channel, receiver))
    }
}

impl Shared {
    /// The new shard holds everything of this epoch up to and including this message.
    fn applied(&self, to: NewShard, source: OldShard, epoch: u64, number: u64) {
        let Some(stream) = self.streams.get(usize::from(source.0)) else { return };
        if let Some(acks) = lock(stream).as_ref().filter(|acks| acks.epoch == epoch) {
            acks.grow(to, number + 1);
        }
    }

    /// The reader of a partition is gone, and what it had not applied is lost.
    fn closed(&self, to: NewShard) {
        {
            let mut partition = lock(&self.partitions[usize::from(to.0)]);
            let (channel, receiver) = Channel::new(to, self.buffer_bytes);
            partition.channel.close();
            *partition = Partition { channel: Arc::new(channel), receiver: Some(receiver) };
        }
        for stream in &self.streams {
            if let Some(acks) = lock(stream).as_ref() {
                acks.wake();
            }
        }
    }
}

/// Nothing here can be left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(partitions: usize) -> u16 {
    u16::try_from(partitions).unwrap_or(u16::MAX)
}
