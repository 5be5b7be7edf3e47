//! One new shard's partition, read.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use modshift_proto::{NewShard, OldShard};
use tokio::sync::mpsc::UnboundedReceiver;

use super::Shared;
use super::channel::{Channel, Segment};
use super::writer::LENGTH_BYTES;
use crate::{Backlog, Delivery, LogError, LogReader, Offset};

pub struct DirectReader {
    shared: Arc<Shared>,
    to: NewShard,
    channel: Arc<Channel>,
    receiver: UnboundedReceiver<Segment>,
    /// The segment being read, and how long it was at first. Never empty.
    current: Option<(Segment, usize)>,
}

impl DirectReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        to: NewShard,
        channel: Arc<Channel>,
        receiver: UnboundedReceiver<Segment>,
    ) -> DirectReader {
        DirectReader { shared, to, channel, receiver, current: None }
    }

    fn take(&mut self) -> Option<Bytes> {
        let (segment, whole) = self.current.as_mut()?;
        assert!(segment.bytes.len() >= LENGTH_BYTES, "a segment ends within a length");
        let length = segment.bytes.get_u32_le() as usize;
        let message = segment.bytes.split_to(length);
        if segment.bytes.is_empty() {
            self.channel.read(*whole);
            // Gives its room back.
            self.current = None;
        }
        Some(message)
    }

    fn open(&mut self, segment: Segment) {
        self.channel.taken(&segment);
        let whole = segment.bytes.len();
        self.current = Some((segment, whole));
    }
}

/// Slices of a segment: nothing is copied.
fn delivery(message: Bytes) -> Delivery {
    Delivery { message, offset: None }
}

impl LogReader for DirectReader {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        loop {
            if let Some(message) = self.take() {
                return Ok(delivery(message));
            }
            // Our own handle to the channel keeps it open: without writers, this waits.
            let Some(segment) = self.receiver.recv().await else {
                return Err(LogError::Closed(self.to));
            };
            self.open(segment);
        }
    }

    async fn next_pressing(&mut self) -> Result<Delivery, LogError> {
        if self.current.is_none() {
            self.channel.pressing().await;
        }
        self.next().await
    }

    fn try_next(&mut self) -> Result<Option<Delivery>, LogError> {
        if self.current.is_none()
            && let Ok(segment) = self.receiver.try_recv()
        {
            self.open(segment);
        }
        Ok(self.take().map(delivery))
    }

    fn applied(&mut self, source: OldShard, epoch: u64, number: u64) {
        self.shared.applied(self.to, source, epoch, number);
    }

    fn applied_offset(&mut self, _offset: Offset) {}

    fn backlog(&self) -> Backlog {
        Backlog::Bytes(self.channel.waiting_bytes())
    }
}

impl Drop for DirectReader {
    fn drop(&mut self) {
        self.shared.closed(self.to);
    }
}
