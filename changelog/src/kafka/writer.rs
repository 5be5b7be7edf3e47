//! One old shard's way into the topic, for one epoch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use modshift_proto::plan::KafkaLog;
use modshift_proto::{NewShard, OldShard};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;

use super::events::Events;
use super::words::{self, Meaning, meaning, words};
use super::{settings, topic, unusable};
use crate::{Difference, LogError, LogWriter, metrics};

/// How long the poll thread sleeps when nothing happens; it wakes at once when something does.
const POLL: Duration = Duration::from_millis(100);

const FREED: Duration = Duration::from_millis(1);

/// A topic did not take a message for its size: before another epoch begins, whose messages would all
/// be sent only to end at that one, its limit is asked for.
static TOO_LARGE: AtomicBool = AtomicBool::new(false);

pub struct KafkaWriter {
    /// `None` only while being dropped.
    producer: Option<Arc<BaseProducer<Deliveries>>>,
    acks: Arc<Acks>,
    topic: String,
    message_bytes_max: usize,
    /// The most that may be in flight; a larger message goes alone.
    buffer_bytes: u64,
    /// Index = new shard: messages handed over, hence the number of the next.
    sent: Vec<u64>,
    /// Keys and messages handed over.
    sent_bytes: u64,
    /// The total of `acks` that `acknowledged` reported last.
    reported: u64,
}

impl KafkaWriter {
    /// Makes sure that a broker answers and has the topic with one partition for each new shard.
    pub async fn open(
        log: &KafkaLog,
        source: OldShard,
        new_shards: u16,
    ) -> Result<KafkaWriter, LogError> {
        let found = topic::known(log).await?;
        if found.partitions != usize::from(new_shards) {
            let differences = vec![Difference {
                what: "number of partitions",
                found: found.partitions.to_string(),
                expected: new_shards.to_string(),
            }];
            return Err(LogError::Topic { topic: log.topic.clone(), differences });
        }
        if TOO_LARGE.load(Ordering::Acquire) {
            topic::takes_the_largest(log).await?;
            TOO_LARGE.store(false, Ordering::Release);
        }
        let acks = Arc::new(Acks::new(log, new_shards));
        let context = Deliveries { events: Events::new("writer"), acks: Arc::clone(&acks) };
        let config = settings::writer(log);
        let producer = BaseProducer::from_config_and_context(&config, context).map_err(unusable)?;
        let producer = Arc::new(producer);
        poll_on_own_thread(source, Arc::clone(&producer), Arc::clone(&acks))?;
        Ok(KafkaWriter {
            producer: Some(producer),
            acks,
            topic: log.topic.clone(),
            message_bytes_max: log.message_bytes_max,
            buffer_bytes: log.buffer_bytes as u64,
            sent: vec![0; usize::from(new_shards)],
            sent_bytes: 0,
            reported: 0,
        })
    }

    /// librdkafka's own limit has to admit the largest message, however small the buffer is.
    fn has_room(&self, bytes: u64) -> bool {
        let in_flight = self.sent_bytes - self.acks.bytes.load(Ordering::Acquire);
        in_flight == 0 || in_flight + bytes <= self.buffer_bytes
    }

    /// Hands a message over, if there is room for it.
    fn try_send(
        &mut self,
        to: NewShard,
        key: &[u8],
        message: &[u8],
        number: u64,
    ) -> Result<bool, LogError> {
        let Some(producer) = &self.producer else {
            return Err(LogError::Other("the writer is closed".to_owned()));
        };
        let record = BaseRecord::with_opaque_to(&self.topic, number as usize)
            .partition(i32::from(to.0))
            .key(key)
            .payload(message);
        match producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => {
                // A fatal error is told here in general terms, and in particular by its own event.
                let end = match (producer.client().fatal_error(), error.rdkafka_error_code()) {
                    (Some((_, reason)), _) => End::Producer(words::plain(&reason)),
                    (None, Some(code)) => End::Message(to.0, code),
                    (None, None) => End::Broken(error.to_string()),
                };
                self.acks.end(end);
                self.acks.check().map(|()| false)
            }
        }
    }
}

/// Delivery reports are taken by a thread of their own, so that a busy task can't hold them up.
/// It ends, and takes the client down, when the writer is dropped: that may block for a moment.
fn poll_on_own_thread(
    source: OldShard,
    producer: Arc<BaseProducer<Deliveries>>,
    acks: Arc<Acks>,
) -> Result<(), LogError> {
    let poll = move || {
        while !acks.closed.load(Ordering::Acquire) {
            producer.poll(POLL);
        }
    };
    let thread = thread::Builder::new().name(format!("kafka-write-{}", source.0)).spawn(poll);
    thread.map(drop).map_err(|error| LogError::Other(format!("no thread to poll kafka: {error}")))
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        // Before the thread learns of it, so that the last handle is the thread's.
        self.producer = None;
        self.acks.closed.store(true, Ordering::Release);
    }
}

impl LogWriter for KafkaWriter {
    /// Cancel safe: a message is taken at once after the last wait, or not at all.
    async fn send(&mut self, to: NewShard, key: &[u8], message: &[u8]) -> Result<(), LogError> {
        self.acks.check()?;
        let Some(&number) = self.sent.get(usize::from(to.0)) else {
            let partitions = u16::try_from(self.sent.len()).unwrap_or(u16::MAX);
            return Err(LogError::NoPartition { to, partitions });
        };
        if message.len() > self.message_bytes_max {
            let limit = self.message_bytes_max;
            return Err(LogError::TooLarge { bytes: message.len(), limit });
        }
        if key.len() > settings::KEY_BYTES_MAX {
            return Err(LogError::TooLarge { bytes: key.len(), limit: settings::KEY_BYTES_MAX });
        }
        let bytes = (key.len() + message.len()) as u64;
        while !self.has_room(bytes) || !self.try_send(to, key, message, number)? {
            metrics::kafka_queue_full();
            self.acks.room(self.sent.iter().sum()).await?;
        }
        self.sent[usize::from(to.0)] += 1;
        self.sent_bytes += bytes;
        Ok(())
    }

    /// Nothing to do: librdkafka holds no message back for longer than `linger.ms`, and its own
    /// flush would wait for the acknowledgements.
    async fn flush(&mut self) -> Result<(), LogError> {
        self.acks.check()
    }

    fn acked(&self, to: NewShard) -> u64 {
        self.acks.count(to)
    }

    async fn acknowledged(&mut self) -> Result<(), LogError> {
        loop {
            self.acks.check()?;
            let total = self.acks.total();
            if total != self.reported {
                self.reported = total;
                return Ok(());
            }
            self.acks.grown.notified().await;
        }
    }
}

/// What the brokers have acknowledged of one writer's messages.
struct Acks {
    topic: String,
    brokers: String,
    /// Index = new shard: messages acknowledged, all of them in order.
    counts: Box<[AtomicU64]>,
    total: AtomicU64,
    /// Of their keys and messages.
    bytes: AtomicU64,
    grown: Notify,
    /// Total at which a sender that waits for room tries again; `u64::MAX` if none waits.
    wanted: AtomicU64,
    room: Notify,
    closed: AtomicBool,
    ended: AtomicBool,
    end: Mutex<Option<End>>,
}

/// What ended a writer.
#[derive(Clone)]
enum End {
    /// A message for this partition, which was given up.
    Message(u16, RDKafkaErrorCode),
    /// Broker and producer do not agree on what has been sent.
    Producer(String),
    /// What nobody foresaw.
    Broken(String),
}

impl Acks {
    fn new(log: &KafkaLog, new_shards: u16) -> Acks {
        Acks {
            topic: log.topic.clone(),
            brokers: log.brokers.clone(),
            counts: (0..new_shards).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            grown: Notify::new(),
            wanted: AtomicU64::new(u64::MAX),
            room: Notify::new(),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            end: Mutex::new(None),
        }
    }

    fn count(&self, to: NewShard) -> u64 {
        self.counts.get(usize::from(to.0)).map_or(0, |count| count.load(Ordering::Acquire))
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<(), LogError> {
        if !self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let topic = self.topic.clone();
        Err(match end {
            Some(End::Message(partition, code)) => self.given_up(partition, code),
            Some(End::Producer(detail)) => LogError::Sequence { topic, detail },
            Some(End::Broken(detail)) => {
                LogError::Other(format!("the producer for {topic} failed for good: {detail}"))
            }
            None => LogError::Other(format!("the producer for {topic} has ended")),
        })
    }

    /// Nothing that follows the message arrives; what a new epoch sends may.
    fn given_up(&self, partition: u16, code: RDKafkaErrorCode) -> LogError {
        let (topic, brokers) = (self.topic.clone(), self.brokers.clone());
        match meaning(code) {
            // Whether it is still there is looked into when the next writer is opened.
            Meaning::Unknown => LogError::NotNow { brokers, detail: words(code) },
            Meaning::Offset | Meaning::Refused | Meaning::Other => {
                LogError::Delivery { topic, partition, detail: words(code) }
            }
            Meaning::Passing
            | Meaning::Login
            | Meaning::Forbidden
            | Meaning::TooLarge
            | Meaning::Sequence => {
                words::told(&brokers, &topic, &format!("write to topic {topic}"), code)
            }
        }
    }

    /// The first failure ends the writer, and is the one that it reports.
    fn end(&self, end: End) {
        if let End::Message(_, code) = &end
            && meaning(*code) == Meaning::TooLarge
        {
            TOO_LARGE.store(true, Ordering::Release);
        }
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
        self.ended.store(true, Ordering::Release);
        self.grown.notify_one();
        self.room.notify_one();
    }

    /// Waits until an eighth of the messages in flight is through: to try again after each of them
    /// would cost more than the messages do.
    async fn room(&self, sent: u64) -> Result<(), LogError> {
        let total = self.total();
        let outstanding = sent - total;
        if outstanding == 0 {
            // All reported, but librdkafka counts them until it has freed the reports.
            tokio::time::sleep(FREED).await;
            return self.check();
        }
        let wanted = total + (outstanding / 8).max(1);
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.total.load(Ordering::SeqCst) < wanted {
            self.check()?;
            self.room.notified().await;
        }
        self.wanted.store(u64::MAX, Ordering::SeqCst);
        self.check()
    }

    /// A message of the partition is durable.
    fn acknowledge(&self, partition: i32, number: u64, bytes: usize) {
        let count = usize::try_from(partition).ok().and_then(|index| self.counts.get(index));
        let Some(count) = count else {
            let detail = format!("acknowledged in partition {partition}, which is none of ours");
            return self.end(End::Broken(detail));
        };
        let expected = count.load(Ordering::Relaxed);
        if number != expected {
            let detail = format!("message {number} acknowledged before message {expected}");
            return self.end(End::Broken(detail));
        }
        count.store(number + 1, Ordering::Release);
        // Before the total, which wakes whoever waits for room.
        self.bytes.fetch_add(bytes as u64, Ordering::Release);
        let total = self.total.fetch_add(1, Ordering::SeqCst) + 1;
        self.grown.notify_one();
        if total >= self.wanted.load(Ordering::SeqCst) {
            self.room.notify_one();
        }
    }
}

/// Takes delivery reports; on the poll thread only.
struct Deliveries {
    events: Events,
    acks: Arc<Acks>,
}

impl ProducerContext for Deliveries {
    /// The number of the message in its partition.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            // After a failure nothing counts any more, not even what may have got through.
            Ok(_) if self.acks.ended.load(Ordering::Relaxed) => {}
            Ok(message) => {
                self.events.well();
                let bytes = message.key_len() + message.payload_len();
                self.acks.acknowledge(message.partition(), number as u64, bytes);
            }
            Err((error, message)) => {
                let partition = u16::try_from(message.partition()).unwrap_or(u16::MAX);
                self.acks.end(match error.rdkafka_error_code() {
                    Some(code) => End::Message(partition, code),
                    None => End::Broken(error.to_string()),
                });
            }
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.events.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.acks.end(End::Producer(words::plain(reason)));
        }
        self.events.error(error, reason);
    }
}
