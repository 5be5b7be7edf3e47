//! Either form of the log as one type, for callers that learn from the plan which one it is.

use modshift_proto::{NewShard, OldShard};

use crate::direct::{DirectReader, DirectWriter};
use crate::kafka::{KafkaReader, KafkaWriter};
use crate::{Backlog, Delivery, LogError, LogReader, LogWriter, Offset};

pub enum AnyWriter {
    Direct(DirectWriter),
    Kafka(KafkaWriter),
}

pub enum AnyReader {
    Direct(DirectReader),
    Kafka(KafkaReader),
}

impl LogWriter for AnyWriter {
    async fn send(&mut self, to: NewShard, key: &[u8], message: &[u8]) -> Result<(), LogError> {
        match self {
            AnyWriter::Direct(writer) => writer.send(to, key, message).await,
            AnyWriter::Kafka(writer) => writer.send(to, key, message).await,
        }
    }

    async fn send_beat(&mut self, to: NewShard, message: &[u8]) -> Result<(), LogError> {
        match self {
            AnyWriter::Direct(writer) => writer.send_beat(to, message).await,
            AnyWriter::Kafka(writer) => writer.send_beat(to, message).await,
        }
    }

    async fn flush(&mut self) -> Result<(), LogError> {
        match self {
            AnyWriter::Direct(writer) => writer.flush().await,
            AnyWriter::Kafka(writer) => writer.flush().await,
        }
    }

    fn acked(&self, to: NewShard) -> u64 {
        match self {
            AnyWriter::Direct(writer) => writer.acked(to),
            AnyWriter::Kafka(writer) => writer.acked(to),
        }
    }

    async fn acknowledged(&mut self) -> Result<(), LogError> {
        match self {
            AnyWriter::Direct(writer) => writer.acknowledged().await,
            AnyWriter::Kafka(writer) => writer.acknowledged().await,
        }
    }
}

impl LogReader for AnyReader {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        match self {
            AnyReader::Direct(reader) => reader.next().await,
            AnyReader::Kafka(reader) => reader.next().await,
        }
    }

    async fn next_pressing(&mut self) -> Result<Delivery, LogError> {
        match self {
            AnyReader::Direct(reader) => reader.next_pressing().await,
            AnyReader::Kafka(reader) => reader.next_pressing().await,
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivery>, LogError> {
        match self {
            AnyReader::Direct(reader) => reader.try_next(),
            AnyReader::Kafka(reader) => reader.try_next(),
        }
    }

    fn applied(&mut self, source: OldShard, epoch: u64, number: u64) {
        match self {
            AnyReader::Direct(reader) => reader.applied(source, epoch, number),
            AnyReader::Kafka(reader) => reader.applied(source, epoch, number),
        }
    }

    fn applied_offset(&mut self, offset: Offset) {
        match self {
            AnyReader::Direct(reader) => reader.applied_offset(offset),
            AnyReader::Kafka(reader) => reader.applied_offset(offset),
        }
    }

    fn backlog(&self) -> Backlog {
        match self {
            AnyReader::Direct(reader) => reader.backlog(),
            AnyReader::Kafka(reader) => reader.backlog(),
        }
    }
}
