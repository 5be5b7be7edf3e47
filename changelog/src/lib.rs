//! The change log: M ordered partitions, partition *j* for new shard *j*.
//!
//! One small writer and one small reader, each in two forms: `kafka` for production and `direct`,
//! bounded in-process channels, for one machine. What is written and read are opaque messages of
//! `modshift_proto::message`; order within a partition is kept, nothing is skipped, and a message
//! is never given up to go on with the next. Neither form knows tables, rows or databases.

pub mod any;
pub mod direct;
mod error;
pub mod kafka;
mod metrics;
pub mod stage;

pub use any::{AnyReader, AnyWriter};
pub use direct::{DirectLog, DirectReader, DirectWriter};
pub use error::{Class, Difference, LogError};
pub use kafka::{
    KafkaReader, KafkaWriter, Trouble, delete_topic, ensure_topic, remove_topic, troubles,
};
pub use metrics::describe as describe_metrics;

use std::future::Future;

use bytes::Bytes;
use modshift_proto::{NewShard, OldShard};

/// Where a message lies in its partition. Only Kafka has one.
pub type Offset = i64;

/// One old shard's way into every partition. A new epoch takes a new writer.
pub trait LogWriter: Send {
    /// Queues one message, in order; waits while the byte budget is used up. The first failed
    /// delivery of any message fails every later call.
    fn send(
        &mut self,
        to: NewShard,
        key: &[u8],
        message: &[u8],
    ) -> impl Future<Output = Result<(), LogError>> + Send;

    /// As [`send`](Self::send), of a mere heartbeat: a reader that has others may leave it waiting, so
    /// it need not be woken.
    fn send_beat(
        &mut self,
        to: NewShard,
        message: &[u8],
    ) -> impl Future<Output = Result<(), LogError>> + Send {
        self.send(to, &[], message)
    }

    /// Sends on what is only buffered so far. Does not wait for acknowledgement.
    fn flush(&mut self) -> impl Future<Output = Result<(), LogError>> + Send;

    /// How many messages of this writer the partition has acknowledged, without a gap.
    /// With message numbers from 0, messages `0..acked` are durable.
    fn acked(&self, to: NewShard) -> u64;

    /// Resolves once `acked` of any partition has grown since the last call, or with the error
    /// that ended delivery. Cancel safe.
    fn acknowledged(&mut self) -> impl Future<Output = Result<(), LogError>> + Send;
}

/// One message as it left the log.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Bytes,
    /// `None` from the direct log, which keeps nothing.
    pub offset: Option<Offset>,
}

/// New shard *j*'s partition, from one offset on.
pub trait LogReader: Send {
    /// The next message. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Delivery, LogError>> + Send;

    /// The next message, at the latest when one is here that is no mere heartbeat. What is here before
    /// that [`try_next`](Self::try_next) gives. Cancel safe.
    fn next_pressing(&mut self) -> impl Future<Output = Result<Delivery, LogError>> + Send {
        self.next()
    }

    /// The next message if it is already here.
    fn try_next(&mut self) -> Result<Option<Delivery>, LogError>;

    /// Every message of the source up to and including this number in this epoch is durable on
    /// the new shard. Kafka: nothing to do; direct: acknowledges to the writer.
    fn applied(&mut self, source: OldShard, epoch: u64, number: u64);

    /// Everything before this offset is durable on the new shard. For display (committed group
    /// offset); direct: nothing to do.
    fn applied_offset(&mut self, offset: Offset);

    /// Bytes (direct) or messages (Kafka) known to wait in the partition; for metrics.
    fn backlog(&self) -> Backlog;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    Bytes(u64),
    Messages(u64),
    Unknown,
}
