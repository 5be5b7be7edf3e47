//! One old shard's way into every partition, for one epoch.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use modshift_proto::NewShard;
use tokio::sync::OwnedSemaphorePermit;

use super::acks::Acks;
use super::channel::Channel;
use crate::{LogError, LogWriter};

/// What precedes each message in a segment: its length.
pub(super) const LENGTH_BYTES: usize = 4;

/// What was sent but not flushed is lost when it is dropped.
pub struct DirectWriter {
    acks: Arc<Acks>,
    lanes: Vec<Lane>,
    segment_bytes: usize,
    /// The version of `acks` that `acknowledged` reported last.
    reported: u64,
}

/// A partition, and the messages for it that are not on their way yet.
struct Lane {
    channel: Arc<Channel>,
    /// Segments are split off its front: small ones share an allocation.
    buffer: BytesMut,
    /// Of these some are more than heartbeats.
    pressing: bool,
}

impl DirectWriter {
    pub(super) fn new(
        acks: Arc<Acks>,
        channels: Vec<Arc<Channel>>,
        segment_bytes: usize,
    ) -> DirectWriter {
        let lane = |channel| Lane { channel, buffer: BytesMut::new(), pressing: false };
        DirectWriter {
            acks,
            lanes: channels.into_iter().map(lane).collect(),
            segment_bytes,
            reported: 0,
        }
    }

    fn check(&self) -> Result<(), LogError> {
        self.acks.check()?;
        self.lanes.iter().try_for_each(|lane| lane.channel.check())
    }
}

impl Lane {
    async fn ship(&mut self, acks: &Acks) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let room = room(&self.channel, acks, self.buffer.len()).await?;
        self.pass_on(room)
    }

    fn try_ship(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        match self.channel.try_room(self.buffer.len())? {
            Some(room) => self.pass_on(room),
            None => Ok(()),
        }
    }

    fn pass_on(&mut self, room: OwnedSemaphorePermit) -> Result<(), LogError> {
        let pressing = std::mem::take(&mut self.pressing);
        self.channel.send(self.buffer.split().freeze(), pressing, room)
    }
}

/// Waits for room, unless another writer takes over meanwhile.
async fn room(
    channel: &Channel,
    acks: &Acks,
    bytes: usize,
) -> Result<OwnedSemaphorePermit, LogError> {
    if let Some(room) = channel.try_room(bytes)? {
        return Ok(room);
    }
    tokio::select! {
        biased;
        end = acks.superseded() => Err(end),
        room = channel.room(bytes) => room,
    }
}

impl DirectWriter {
    /// Cancel safe: a message is taken at once after the last wait, or not at all.
    async fn take(&mut self, to: NewShard, message: &[u8], presses: bool) -> Result<(), LogError> {
        self.acks.check()?;
        let partitions = super::count(self.lanes.len());
        let Some(lane) = self.lanes.get_mut(usize::from(to.0)) else {
            return Err(LogError::NoPartition { to, partitions });
        };
        let Ok(length) = u32::try_from(message.len()) else {
            return Err(LogError::TooLarge { bytes: message.len(), limit: u32::MAX as usize });
        };
        let bytes = LENGTH_BYTES + message.len();
        if lane.buffer.len() + bytes > self.segment_bytes {
            lane.ship(&self.acks).await?;
        }
        if bytes > self.segment_bytes {
            // Too large for company. Room first, so that a copy never waits in vain.
            let room = room(&lane.channel, &self.acks, bytes).await?;
            let mut alone = BytesMut::with_capacity(bytes);
            alone.put_u32_le(length);
            alone.put_slice(message);
            return lane.channel.send(alone.freeze(), presses, room);
        }
        if lane.buffer.capacity() - lane.buffer.len() < bytes {
            // The rest of the allocation is too short: pass on what is in it, or a growing buffer
            // would copy it.
            lane.ship(&self.acks).await?;
            lane.buffer.reserve(self.segment_bytes);
        }
        lane.buffer.put_u32_le(length);
        lane.buffer.put_slice(message);
        lane.pressing |= presses;
        Ok(())
    }
}

impl LogWriter for DirectWriter {
    async fn send(&mut self, to: NewShard, _key: &[u8], message: &[u8]) -> Result<(), LogError> {
        self.take(to, message, true).await
    }

    async fn send_beat(&mut self, to: NewShard, message: &[u8]) -> Result<(), LogError> {
        self.take(to, message, false).await
    }

    async fn flush(&mut self) -> Result<(), LogError> {
        self.acks.check()?;
        // A partition that is full holds up the others as briefly as can be.
        self.lanes.iter_mut().try_for_each(Lane::try_ship)?;
        for lane in &mut self.lanes {
            lane.ship(&self.acks).await?;
        }
        Ok(())
    }

    fn acked(&self, to: NewShard) -> u64 {
        self.acks.count(to)
    }

    async fn acknowledged(&mut self) -> Result<(), LogError> {
        loop {
            self.check()?;
            let version = self.acks.version()?;
            if version != self.reported {
                self.reported = version;
                return Ok(());
            }
            self.acks.changed().await;
        }
    }
}
