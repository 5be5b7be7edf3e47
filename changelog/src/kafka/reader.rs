//! One new shard's partition, read from an offset on.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use modshift_proto::plan::KafkaLog;
use modshift_proto::{NewShard, OldShard};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as Place, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::events::Events;
use super::trouble::Kind;
use super::words::{self, words};
use super::{
    EVENTS_MAX, Meaning, OPEN_LIMIT, UNKNOWN_LIMIT, UNKNOWN_RETRY, blocking, meaning, settings,
    unusable,
};
use crate::{Backlog, Delivery, LogError, LogReader, Offset, metrics};

/// Heartbeats come each second, so a partition that is silent this long is looked at: librdkafka
/// keeps quiet about some of what may have happened to it.
const SILENCE: Duration = Duration::from_secs(5);
/// A look that takes longer than this is given up; a program that ends waits for it.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How long a partition may seem to end before the offset asked for. A leader that has just
/// started or taken over knows less of what is committed than was known before (KIP-207): that
/// passes, an end that was lost or a topic that is another one does not.
const SHORT_LIMIT: Duration = Duration::from_secs(10);
/// Committed offsets are for display.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

pub struct KafkaReader {
    client: Client,
    brokers: String,
    topic: String,
    to: NewShard,
    /// The offset of the next message to be handed out.
    next: Offset,
    heard: Instant,
    /// Since when the broker says that there is no such partition.
    unknown_since: Option<Instant>,
    /// Since when it says that the partition ends before `next`.
    short_since: Option<Instant>,
    look: Option<JoinHandle<Result<(Offset, Offset), KafkaError>>>,
    /// When to look after the partition next.
    look_at: Instant,
    committed_at: Option<Instant>,
    failed: Option<Failure>,
}

/// What ended the reader; told at every call from then on.
#[derive(Clone)]
enum Failure {
    Gone {
        low: Offset,
        high: Offset,
    },
    NoTopic,
    /// Whoever opens another reader may have better luck.
    Answered(RDKafkaErrorCode),
}

impl KafkaReader {
    /// Reads from the offset on, or from the very first message, which must still be there.
    /// `group` names the consumer group under which offsets are committed for display.
    pub async fn open(
        log: &KafkaLog,
        to: NewShard,
        from: Option<Offset>,
        group: &str,
    ) -> Result<KafkaReader, LogError> {
        let config = settings::reader(log, group);
        let consumer = StreamConsumer::from_config_and_context(&config, Events::new("reader"))
            .map_err(unusable)?;
        let now = Instant::now();
        let reader = KafkaReader {
            client: Client(Some(Arc::new(consumer))),
            brokers: log.brokers.clone(),
            topic: log.topic.clone(),
            to,
            next: from.unwrap_or(0),
            heard: now,
            unknown_since: None,
            short_since: None,
            look: None,
            look_at: now + SILENCE,
            committed_at: None,
            failed: None,
        };
        let (low, high) = loop {
            let (low, high) = match reader.open_bounds().await {
                // A broker that has just started.
                Err(LogError::NoTopic { .. }) if now.elapsed() < UNKNOWN_LIMIT => {
                    tokio::time::sleep(UNKNOWN_RETRY).await;
                    continue;
                }
                bounds => bounds?,
            };
            let short = reader.next > high && now.elapsed() < SHORT_LIMIT;
            if !short {
                break (low, high);
            }
            tokio::time::sleep(UNKNOWN_RETRY).await;
        };
        if reader.next < low || reader.next > high {
            return Err(reader.error(&Failure::Gone { low, high }));
        }
        reader.client.get()?.context().set_end_offset(high);
        reader.assign()?;
        Ok(reader)
    }

    async fn open_bounds(&self) -> Result<(Offset, Offset), LogError> {
        let bounds = self.bounds(OPEN_LIMIT);
        let bounds = blocking(move || Ok(bounds())).await?;
        if bounds.is_err() {
            // What it has to say about its connections is told only to who polls.
            for _ in 0..EVENTS_MAX {
                self.client.get()?.recv().now_or_never();
            }
        }
        bounds.map_err(|error| self.open_error(&error))
    }

    fn open_error(&self, error: &KafkaError) -> LogError {
        let context = match self.client.get() {
            Ok(consumer) => consumer.context(),
            Err(closed) => return closed,
        };
        match error.rdkafka_error_code() {
            Some(code) if meaning(code) == Meaning::Passing => {
                context.unreachable(&self.brokers, error)
            }
            Some(code) => self.answered(code),
            None => LogError::Other(error.to_string()),
        }
    }

    fn answered(&self, code: RDKafkaErrorCode) -> LogError {
        words::told(&self.brokers, &self.topic, &format!("read topic {}", self.topic), code)
    }

    /// Asks the broker for the first and the next offset of the partition.
    fn bounds(
        &self,
        limit: Duration,
    ) -> impl FnOnce() -> Result<(Offset, Offset), KafkaError> + Send + 'static {
        let (client, topic) = (self.client.0.clone(), self.topic.clone());
        let partition = i32::from(self.to.0);
        move || match client {
            Some(consumer) => consumer.fetch_watermarks(&topic, partition, limit),
            None => Err(KafkaError::Canceled),
        }
    }

    fn place(&self, offset: Offset) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, i32::from(self.to.0), Place::Offset(offset))
            .map_err(|error| LogError::Other(error.to_string()))?;
        Ok(list)
    }

    /// Starts to fetch at `next`; drops what was fetched ahead.
    fn assign(&self) -> Result<(), LogError> {
        let list = self.place(self.next)?;
        self.client.get()?.assign(&list).map_err(|error| LogError::Other(error.to_string()))
    }

    fn error(&self, failure: &Failure) -> LogError {
        let topic = self.topic.clone();
        match failure {
            &Failure::Gone { low, high } => {
                let (partition, offset) = (self.to.0, self.next);
                LogError::OffsetGone { topic, partition, offset, low, high }
            }
            Failure::NoTopic => LogError::NoTopic { topic },
            &Failure::Answered(code) => self.answered(code),
        }
    }

    fn fail<T>(&mut self, failure: Failure) -> Result<T, LogError> {
        let error = self.error(&failure);
        self.failed = Some(failure);
        Err(error)
    }

    fn check(&self) -> Result<(), LogError> {
        self.failed.as_ref().map_or(Ok(()), |failure| Err(self.error(failure)))
    }

    /// `None`: nothing that the caller needs to know.
    fn take(&mut self, received: Received) -> Result<Option<Delivery>, LogError> {
        let (offset, message) = match received {
            Ok(received) => received,
            Err(error) => return self.trouble(&error).map(|()| None),
        };
        if offset < self.next {
            // Fetched before a new start from `next`.
            return Ok(None);
        }
        self.next = offset + 1;
        self.client.get()?.context().well();
        self.heard = Instant::now();
        self.look_at = self.heard + SILENCE;
        (self.unknown_since, self.short_since) = (None, None);
        // What it finds out is older than this message: its end would be too low by now.
        self.look = None;
        Ok(Some(Delivery { message, offset: Some(offset) }))
    }

    /// What librdkafka can't mend, it tells once.
    fn trouble(&mut self, error: &KafkaError) -> Result<(), LogError> {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        metrics::kafka_error("reader", format!("{code:?}"));
        match meaning(code) {
            // Of the login its own event tells.
            Meaning::Passing | Meaning::Login => {
                debug!(%error, "kafka partition not readable for now");
                Ok(())
            }
            // The group is for display: what is read does not hang on it.
            Meaning::Forbidden if code == RDKafkaErrorCode::GroupAuthorizationFailed => {
                self.client.get()?.context().troubled(Kind::Rights, words(code));
                Ok(())
            }
            // Both are looked into: how far the partition reaches, whether it is there at all.
            Meaning::Unknown | Meaning::Offset => {
                warn!(%error, topic = self.topic, partition = self.to.0, "looking into partition");
                self.unknown_since.get_or_insert_with(Instant::now);
                self.look_at = Instant::now();
                Ok(())
            }
            Meaning::Forbidden
            | Meaning::TooLarge
            | Meaning::Sequence
            | Meaning::Refused
            | Meaning::Other => self.fail(Failure::Answered(code)),
        }
    }

    /// The broker has said where the partition starts and ends.
    fn looked(&mut self, bounds: Result<(Offset, Offset), KafkaError>) -> Result<(), LogError> {
        let now = Instant::now();
        match bounds {
            Ok((low, high)) if self.next < low => self.fail(Failure::Gone { low, high }),
            Ok((low, high)) if self.next > high => {
                self.look_at = now + UNKNOWN_RETRY;
                let since = *self.short_since.get_or_insert(now);
                if now.duration_since(since) >= SHORT_LIMIT {
                    return self.fail(Failure::Gone { low, high });
                }
                warn!(
                    self.next,
                    high,
                    topic = self.topic,
                    partition = self.to.0,
                    "partition ends early"
                );
                // librdkafka leaves it alone after an error.
                self.unknown_since.get_or_insert(now);
                Ok(())
            }
            Ok((_, high)) => {
                self.short_since = None;
                self.client.get()?.context().set_end_offset(high);
                self.look_at = now + SILENCE;
                // After an error librdkafka leaves a partition alone; after a silence with
                // messages at the end of it there is no telling.
                let stuck = high > self.next && now.duration_since(self.heard) >= SILENCE;
                if self.unknown_since.take().is_some() || stuck {
                    self.assign()?;
                }
                Ok(())
            }
            Err(error) => {
                debug!(%error, "looked into partition");
                self.look_at = now + UNKNOWN_RETRY;
                match error.rdkafka_error_code().map(|code| (meaning(code), code)) {
                    Some((Meaning::Unknown, _)) => {
                        let since = *self.unknown_since.get_or_insert(now);
                        if now.duration_since(since) >= UNKNOWN_LIMIT {
                            return self.fail(Failure::NoTopic);
                        }
                    }
                    Some((Meaning::Forbidden, code)) => {
                        return self.fail(Failure::Answered(code));
                    }
                    // Whether it is there nobody has said meanwhile.
                    _ => self.unknown_since = self.unknown_since.map(|_| now),
                }
                Ok(())
            }
        }
    }
}

type Received = Result<(Offset, Bytes), KafkaError>;

fn received(result: Result<BorrowedMessage<'_>, KafkaError>) -> Received {
    // The message lives in a buffer that librdkafka shares among many: copied, it frees them.
    result.map(|one| (one.offset(), Bytes::copy_from_slice(one.payload().unwrap_or_default())))
}

enum Step {
    Received(Received),
    Looked(Result<(Offset, Offset), KafkaError>),
    Look,
}

impl LogReader for KafkaReader {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        loop {
            if let Some(delivery) = self.try_next()? {
                return Ok(delivery);
            }
            let consumer = self.client.get()?;
            let step = match &mut self.look {
                Some(look) => tokio::select! {
                    biased;
                    one = consumer.recv() => Step::Received(received(one)),
                    bounds = look => Step::Looked(bounds.unwrap_or(Err(KafkaError::Canceled))),
                },
                None => tokio::select! {
                    biased;
                    one = consumer.recv() => Step::Received(received(one)),
                    () = tokio::time::sleep_until(self.look_at) => Step::Look,
                },
            };
            match step {
                Step::Received(one) => {
                    if let Some(delivery) = self.take(one)? {
                        return Ok(delivery);
                    }
                }
                Step::Looked(bounds) => {
                    self.look = None;
                    self.looked(bounds)?;
                }
                Step::Look => {
                    self.look = Some(tokio::task::spawn_blocking(self.bounds(LOOK_LIMIT)));
                }
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivery>, LogError> {
        self.check()?;
        match self.client.get()?.recv().now_or_never() {
            Some(one) => {
                let one = received(one);
                self.take(one)
            }
            None => Ok(None),
        }
    }

    fn applied(&mut self, _source: OldShard, _epoch: u64, _number: u64) {}

    fn applied_offset(&mut self, offset: Offset) {
        let due = self.committed_at.is_none_or(|at| at.elapsed() >= COMMIT_INTERVAL);
        if !due {
            return;
        }
        self.committed_at = Some(Instant::now());
        let Ok((list, consumer)) = self.place(offset).and_then(|l| Ok((l, self.client.get()?)))
        else {
            return;
        };
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            debug!(%error, "offset not committed");
        }
    }

    fn backlog(&self) -> Backlog {
        let end = self.client.get().ok().and_then(|consumer| consumer.context().end_offset());
        match end {
            Some(end) => Backlog::Messages(u64::try_from(end - self.next).unwrap_or(0)),
            None => Backlog::Unknown,
        }
    }
}

/// A client that is closed away from the tasks: it waits for its threads and its last commit.
struct Client(Option<Arc<StreamConsumer<Events>>>);

impl Client {
    fn get(&self) -> Result<&StreamConsumer<Events>, LogError> {
        self.0.as_deref().ok_or_else(|| LogError::Other("the reader is closed".to_owned()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let consumer = self.0.take();
        let closing = thread::Builder::new().name("kafka-close".to_owned());
        if let Err(error) = closing.spawn(move || drop(consumer)) {
            warn!(%error, "no thread to close a kafka client");
        }
    }
}
