//! The change log: M ordered partitions, partition *j* for new shard *j*.
//!
//! One small writer and one small reader, each in two forms: `kafka` for production and `direct`,
//! bounded in-process channels, for one machine. What is written and read are opaque messages of
//! `modshift_proto::message`; order within a partition is kept, nothing is skipped, and a message
//! is never given up to go on with the next. Neither form knows tables, rows or databases.

pub mod any;
pub mod direct;
pub mod kafka;
mod metrics;
pub mod stage;

pub use any::{AnyReader, AnyWriter};
pub use direct::{DirectLog, DirectReader, DirectWriter};
pub use kafka::{KafkaReader, KafkaWriter, delete_topic, ensure_topic, remove_topic};
pub use metrics::describe as describe_metrics;

use std::fmt;
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

/// One way in which a topic that was found is not as the plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    pub found: String,
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, the plan needs {}", self.what, self.found, self.expected)
    }
}

/// What went wrong with the log. `class()` says whether trying again can help.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the reader of the in-process change log of {0} is gone: messages in it are lost")]
    Closed(NewShard),
    #[error("epoch {epoch} of {source_shard} has been superseded: a newer writer took over")]
    Superseded { source_shard: OldShard, epoch: u64 },
    #[error("the change log of {0} already has a reader")]
    Taken(NewShard),
    #[error("the change log has no partition for {to}: it has {partitions}")]
    NoPartition { to: NewShard, partitions: u16 },
    #[error("kafka at {brokers} cannot be reached: {detail}")]
    Unreachable { brokers: String, detail: String },
    #[error("message of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge { bytes: usize, limit: usize },
    #[error("kafka gave up on a message of partition {partition} of {topic}: {detail}")]
    Delivery { topic: String, partition: u16, detail: String },
    #[error("topic {topic} does not fit: {}", list(.differences))]
    Topic { topic: String, differences: Vec<Difference> },
    #[error("kafka has no topic {topic}")]
    NoTopic { topic: String },
    #[error(
        "partition {partition} of {topic} no longer holds offset {offset}: it has {low} to {high}"
    )]
    OffsetGone { topic: String, partition: u16, offset: Offset, low: Offset, high: Offset },
    #[error("kafka refused: {0}")]
    Refused(String),
    #[error("kafka: {0}")]
    Other(String),
}

fn list(differences: &[Difference]) -> String {
    let all: Vec<String> = differences.iter().map(Difference::to_string).collect();
    all.join("; ")
}

/// Retry, or stop and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and try again.
    Retry,
    /// A fact that trying again cannot change: stop the stream, keep the position, close the gate.
    Halt,
}

impl LogError {
    pub fn class(&self) -> Class {
        match self {
            // A closed partition lost what was queued in it, and no more: a reader of the binlog
            // that starts again, with a new epoch and from its resume point, sends it once more.
            LogError::Unreachable { .. } | LogError::Closed(_) => Class::Retry,
            LogError::Superseded { .. }
            | LogError::Taken(_)
            | LogError::NoPartition { .. }
            | LogError::NoTopic { .. }
            | LogError::TooLarge { .. }
            | LogError::Delivery { .. }
            | LogError::Topic { .. }
            | LogError::OffsetGone { .. }
            | LogError::Refused(_)
            | LogError::Other(_) => Class::Halt,
        }
    }

    /// What the operator does next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LogError::TooLarge { .. } => {
                Some("raise log.message_bytes_max and the topic's and brokers' max.message.bytes")
            }
            LogError::OffsetGone { .. } => Some(
                "messages were lost to retention or the topic was re-created; \
                 start over with `modshift restart-copy`",
            ),
            LogError::Topic { .. } => {
                Some("alter or delete the topic; modshift creates it with the right settings")
            }
            LogError::NoTopic { .. } => Some(
                "the topic was deleted, or log.topic names another one; if messages were lost with \
                 it, start over with `modshift restart-copy`",
            ),
            LogError::Unreachable { .. } => Some(
                "check log.brokers and the network, and log.properties where the brokers want a login",
            ),
            LogError::Superseded { .. } => Some("leave the old shard to the reader that took over"),
            LogError::Refused(_) => Some("check log.properties and what the broker lets us do"),
            LogError::Closed(_)
            | LogError::Taken(_)
            | LogError::NoPartition { .. }
            | LogError::Delivery { .. }
            | LogError::Other(_) => None,
        }
    }
}
