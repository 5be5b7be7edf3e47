//! The change log over a real Kafka broker: order, acknowledgement, and what happens when the
//! broker, the topic or an offset is not there.

// How much was in flight at a kill, and how soon a fault showed, belong into a test's output.
#![allow(clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use modshift_changelog::{
    Class, Delivery, KafkaReader, KafkaWriter, LogError, LogReader, LogWriter, ensure_topic,
};
use modshift_proto::{
    NewShard, OldShard,
    plan::{Compression, KafkaLog},
};
use modshift_tests::{
    place::free_port,
    server::{KafkaBroker, Topics},
    wait_until,
};
use tokio::{sync::OnceCell, time::timeout};

const SOON: Duration = Duration::from_secs(30);
const MIB: usize = 1024 * 1024;
const OLD: OldShard = OldShard(0);
const NEW: NewShard = NewShard(0);
const OTHER: NewShard = NewShard(1);

/// One broker for all tests that don't break it.
async fn broker() -> Result<Arc<KafkaBroker>> {
    static BROKER: OnceCell<Arc<KafkaBroker>> = OnceCell::const_new();
    BROKER.get_or_try_init(KafkaBroker::start).await.cloned()
}

fn plan(bootstrap: &str, topic: &str) -> KafkaLog {
    KafkaLog {
        brokers: bootstrap.to_owned(),
        topic: topic.to_owned(),
        replication: 1,
        min_insync: 1,
        retention: Duration::from_secs(3600),
        message_bytes_max: 24 * MIB,
        compression: Compression::Lz4,
        buffer_bytes: 8 * MIB,
        properties: Vec::new(),
    }
}

/// A fresh topic of two partitions.
async fn topic(broker: &KafkaBroker, name: &str) -> Result<KafkaLog> {
    let log = plan(&broker.bootstrap(), name);
    ensure_topic(&log, 2).await?;
    Ok(log)
}

async fn read(log: &KafkaLog, to: NewShard) -> Result<KafkaReader> {
    Ok(KafkaReader::open(log, to, None, "modshift-test").await?)
}

fn numbered(number: u64, bytes: usize) -> Vec<u8> {
    let mut message = number.to_le_bytes().to_vec();
    message.resize(bytes.max(8), number as u8);
    message
}

fn number(delivery: &Delivery) -> Result<u64> {
    let head = delivery.message.first_chunk::<8>().context("a short message")?;
    Ok(u64::from_le_bytes(*head))
}

async fn next(reader: &mut KafkaReader) -> Result<Delivery> {
    Ok(timeout(SOON, reader.next()).await.context("no message came")??)
}

async fn until_acked(writer: &mut KafkaWriter, to: NewShard, count: u64) -> Result<()> {
    while writer.acked(to) < count {
        timeout(SOON, writer.acknowledged()).await.context("no acknowledgement came")??;
    }
    ensure!(writer.acked(to) == count, "{} acknowledged, {count} sent", writer.acked(to));
    Ok(())
}

/// Sends `count` messages to partition 0 and waits until they are durable.
async fn fill(log: &KafkaLog, count: u64, bytes: usize) -> Result<()> {
    let mut writer = KafkaWriter::open(log, OLD, 2).await?;
    for n in 0..count {
        writer.send(NEW, &n.to_le_bytes(), &numbered(n, bytes)).await?;
    }
    until_acked(&mut writer, NEW, count).await
}

#[tokio::test]
async fn each_partition_keeps_its_order_and_counts_what_is_durable() -> Result<()> {
    let log = topic(&*broker().await?, "order").await?;
    let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
    for n in 0..10_000 {
        let to = NewShard((n % 3 == 0).into());
        let of_partition = if to == OTHER { n / 3 } else { n - n / 3 - 1 };
        writer.send(to, b"key", &numbered(of_partition, 20 + n as usize % 900)).await?;
    }
    writer.flush().await?;
    until_acked(&mut writer, OTHER, 3334).await?;
    until_acked(&mut writer, NEW, 6666).await?;
    for (to, count) in [(OTHER, 3334), (NEW, 6666)] {
        let mut reader = read(&log, to).await?;
        for n in 0..count {
            let delivery = next(&mut reader).await?;
            assert_eq!((number(&delivery)?, delivery.offset), (n, Some(n as i64)));
        }
        assert!(reader.try_next()?.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_no_message() -> Result<()> {
    let log = topic(&*broker().await?, "cancelled").await?;
    let mut reader = read(&log, NEW).await?;
    let sent = tokio::spawn({
        let log = log.clone();
        async move { fill(&log, 20_000, 100).await }
    });
    let mut expected = 0;
    let deadline = Instant::now() + SOON;
    while expected < 20_000 {
        ensure!(Instant::now() < deadline, "stuck at {expected}");
        let Ok(delivery) = timeout(Duration::from_micros(200), reader.next()).await else {
            continue;
        };
        assert_eq!(number(&delivery?)?, expected);
        expected += 1;
    }
    sent.await?
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was() -> Result<()> {
    let log = topic(&*broker().await?, "resumed").await?;
    fill(&log, 100, 50).await?;
    let mut reader = KafkaReader::open(&log, NEW, Some(40), "modshift-test").await?;
    assert_eq!(number(&next(&mut reader).await?)?, 40);
    reader.applied_offset(41);
    // For whoever watches the group.
    wait_until("the committed offset", SOON, || async {
        Ok((committed(&log, "modshift-test").await? == Some(41)).then_some(()))
    })
    .await?;
    let mut at_end = KafkaReader::open(&log, NEW, Some(100), "modshift-test").await?;
    assert!(timeout(Duration::from_millis(300), at_end.next()).await.is_err());
    Ok(())
}

async fn committed(log: &KafkaLog, group: &str) -> Result<Option<i64>> {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let mut config = rdkafka::ClientConfig::new();
    let consumer: BaseConsumer =
        config.set("bootstrap.servers", &log.brokers).set("group.id", group).create()?;
    let topic = log.topic.clone();
    tokio::task::spawn_blocking(move || {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition(&topic, 0);
        let committed = consumer.committed_offsets(list, SOON)?;
        Ok(match committed.find_partition(&topic, 0).map(|one| one.offset()) {
            Some(rdkafka::Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    })
    .await?
}

#[tokio::test]
async fn a_message_of_20_mib_passes() -> Result<()> {
    for compression in [Compression::None, Compression::Zstd] {
        let name = format!("large-{compression:?}").to_lowercase();
        let log = KafkaLog { compression, ..topic(&*broker().await?, &name).await? };
        let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
        // Incompressible, so that its size is its size.
        let mut large = vec![0; 20 * MIB];
        let mut state = 1_u64;
        for byte in &mut large {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        let mut reader = read(&log, NEW).await?;
        for _ in 0..3 {
            writer.send(NEW, b"before", b"small").await?;
            writer.send(NEW, b"large", &large).await?;
            assert_eq!(next(&mut reader).await?.message, "small"[..]);
            ensure!(next(&mut reader).await?.message == large, "it changed on its way");
        }
        until_acked(&mut writer, NEW, 6).await?;
        let limit = log.message_bytes_max;
        let error = writer.send(NEW, b"", &vec![0; limit + 1]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("message of {} bytes is larger than the limit of {limit} bytes", limit + 1)
        );
    }
    Ok(())
}

/// Sends until told to stop; what it sent, and how much of that was acknowledged meanwhile.
struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<u64>>,
}

impl Sender {
    async fn start(log: &KafkaLog) -> Result<Self> {
        let mut writer = KafkaWriter::open(log, OLD, 2).await?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let acked = Arc::new(AtomicU64::new(0));
        let shared = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&acked));
        let task = tokio::spawn(async move {
            let (stop, sent, acked) = shared;
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.send(NEW, b"key", &numbered(count, 250)).await?;
                count += 1;
                sent.store(count, Ordering::Relaxed);
                acked.store(writer.acked(NEW), Ordering::Relaxed);
                if count % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            until_acked(&mut writer, NEW, count).await?;
            Ok(count)
        });
        Ok(Self { stop, sent, acked, task })
    }

    async fn until(&self, what: &str, reached: impl Fn(u64) -> bool) -> Result<()> {
        wait_until(what, SOON, || async {
            ensure!(!self.task.is_finished(), "the sender ended");
            Ok(reached(self.acked.load(Ordering::Relaxed)).then_some(()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_again_and_again_loses_nothing_and_doubles_nothing() -> Result<()> {
    let broker = KafkaBroker::start().await?;
    let log = KafkaLog { buffer_bytes: MIB, ..topic(&broker, "killed").await? };
    let log = KafkaLog { message_bytes_max: MIB, ..log };
    let mut reader = read(&log, NEW).await?;
    let mut idle = read(&log, OTHER).await?;
    let sender = Sender::start(&log).await?;
    let reading = tokio::spawn(async move {
        let mut expected = 0;
        loop {
            let delivery = timeout(2 * SOON, reader.next()).await.context("nothing to read")??;
            if delivery.message.as_ref() == b"end" {
                return Ok::<_, anyhow::Error>(expected);
            }
            let found = number(&delivery)?;
            ensure!(found == expected, "message {found} where {expected} belongs");
            expected += 1;
        }
    });
    for round in 0..3 {
        let before = sender.acked.load(Ordering::Relaxed);
        sender.until("messages under way", |acked| acked > before + 20_000).await?;
        broker.kill()?;
        let in_flight = sender.sent.load(Ordering::Relaxed) - sender.acked.load(Ordering::Relaxed);
        println!("kill {round}: {in_flight} messages in flight");
        broker.restart().await?;
    }
    let before = sender.acked.load(Ordering::Relaxed);
    sender.until("messages after the last restart", |acked| acked > before + 20_000).await?;
    sender.stop.store(true, Ordering::Relaxed);
    let sent = timeout(2 * SOON, sender.task).await.context("the sender hangs")???;
    broker.topics()?.produce(&log.topic, 0, None, b"end").await?;
    let read = timeout(2 * SOON, reading).await.context("the reader hangs")???;
    assert_eq!(read, sent);
    // A reader that had nothing to read all the time is still there.
    broker.topics()?.produce(&log.topic, 1, None, b"other").await?;
    assert_eq!(next(&mut idle).await?.message, "other"[..]);
    println!("{sent} messages sent and read");
    Ok(())
}

#[tokio::test]
async fn a_dead_broker_holds_the_sender_back_within_its_budget() -> Result<()> {
    let broker = KafkaBroker::start().await?;
    let log = topic(&broker, "held").await?;
    let log = KafkaLog { buffer_bytes: 2 * MIB, message_bytes_max: MIB, ..log };
    let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
    writer.send(NEW, b"", &numbered(0, 1000)).await?;
    until_acked(&mut writer, NEW, 1).await?;
    broker.kill()?;
    let mut sent = 1;
    loop {
        let message = numbered(sent, 1000);
        let send = writer.send(NEW, b"", &message);
        match timeout(Duration::from_secs(2), send).await {
            Ok(done) => done?,
            Err(_) => break,
        }
        sent += 1;
        ensure!(sent < 10_000, "nothing held the sender back");
    }
    assert!(sent <= 2 * 1049 + 1, "{sent} messages of 1000 bytes in 2 MiB");
    assert!(sent > 1000, "only {sent} messages in 2 MiB");
    broker.restart().await?;
    timeout(SOON, writer.send(NEW, b"", &numbered(sent, 1000))).await??;
    until_acked(&mut writer, NEW, sent + 1).await?;
    let mut reader = read(&log, NEW).await?;
    for n in 0..=sent {
        assert_eq!(number(&next(&mut reader).await?)?, n);
    }
    Ok(())
}

#[tokio::test]
async fn a_message_that_fails_ends_the_writer_and_nothing_follows_it() -> Result<()> {
    let broker = broker().await?;
    let topics = broker.topics()?;
    topics.create("refusing", 2, &[("max.message.bytes", "100000")]).await?;
    let log = KafkaLog { compression: Compression::None, ..plan(&broker.bootstrap(), "refusing") };
    let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
    writer.send(NEW, b"", b"good").await?;
    until_acked(&mut writer, NEW, 1).await?;
    writer.send(NEW, b"", &vec![1; MIB]).await?;
    for _ in 0..1000 {
        if writer.send(NEW, b"", b"after").await.is_err() {
            break;
        }
    }
    let error = loop {
        match timeout(SOON, writer.acknowledged()).await? {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    let text = error.to_string();
    assert!(text.starts_with("kafka gave up on a message of partition 0 of refusing: "), "{text}");
    assert_eq!(error.class(), Class::Halt);
    for to in [NEW, OTHER] {
        let again = writer.send(to, b"", b"later").await.unwrap_err();
        assert_eq!(again.to_string(), text);
    }
    assert_eq!(writer.flush().await.unwrap_err().to_string(), text);
    assert_eq!(writer.acked(NEW), 1);
    drop(writer);
    let all = topics.read_all("refusing", 0).await?;
    let all: Vec<_> = all.into_iter().filter_map(|message| message.payload).collect();
    assert_eq!(all, [b"good"]);
    Ok(())
}

#[tokio::test]
async fn the_topic_is_created_as_the_plan_says_and_accepted_when_found() -> Result<()> {
    let broker = broker().await?;
    let log = plan(&broker.bootstrap(), "created");
    ensure_topic(&log, 3).await?;
    ensure_topic(&log, 3).await?;
    // Any client that asks it to describe the topic would do; the product's own check is not one.
    let entries = settings(&broker.bootstrap(), "created").await?;
    for (name, value) in [
        ("cleanup.policy", "delete"),
        ("retention.ms", "3600000"),
        ("retention.bytes", "-1"),
        ("max.message.bytes", "25231360"),
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "false"),
        ("message.timestamp.type", "CreateTime"),
    ] {
        assert_eq!(entries.get(name).map(String::as_str), Some(value), "{name}");
    }
    for partition in 0..3 {
        assert_eq!(broker.topics()?.bounds("created", partition).await?, (0, 0));
    }
    assert!(broker.topics()?.bounds("created", 3).await.is_err());
    Ok(())
}

async fn settings(
    bootstrap: &str,
    topic: &str,
) -> Result<std::collections::HashMap<String, String>> {
    use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
    use rdkafka::client::DefaultClientContext;
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let topic = ResourceSpecifier::Topic(topic);
    let mut described = admin.describe_configs([&topic], &AdminOptions::new()).await?;
    let resource = described.pop().context("no answer")??;
    let entries = resource.entries.into_iter();
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

#[tokio::test]
async fn a_topic_with_the_wrong_partition_count_is_refused() -> Result<()> {
    let broker = broker().await?;
    let log = plan(&broker.bootstrap(), "three");
    ensure_topic(&log, 3).await?;
    let expected =
        "topic three does not fit: number of partitions is 3, the plan needs 4".to_owned();
    assert_eq!(ensure_topic(&log, 4).await.unwrap_err().to_string(), expected);
    let Err(error) = KafkaWriter::open(&log, OLD, 4).await else { bail!("it was opened") };
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.class(), Class::Halt);
    assert!(error.hint().is_some());
    Ok(())
}

#[tokio::test]
async fn a_topic_with_other_settings_is_refused_with_all_of_them() -> Result<()> {
    let broker = broker().await?;
    let bad = [("cleanup.policy", "compact"), ("max.message.bytes", "1000000")];
    broker.topics()?.create("foreign", 2, &bad).await?;
    let log = plan(&broker.bootstrap(), "foreign");
    assert_eq!(
        ensure_topic(&log, 2).await.unwrap_err().to_string(),
        "topic foreign does not fit: \
         max.message.bytes is 1000000, the plan needs at least 25231360; \
         cleanup.policy is compact, the plan needs delete"
    );
    Ok(())
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_not_made_by_asking_for_it() -> Result<()> {
    let broker = broker().await?;
    let log = plan(&broker.bootstrap(), "nowhere");
    let Err(error) = KafkaWriter::open(&log, OLD, 2).await else { bail!("it was opened") };
    assert_eq!(error.to_string(), "kafka has no topic nowhere");
    let Err(error) = KafkaReader::open(&log, NEW, None, "g").await else { bail!("it was opened") };
    assert_eq!(error.to_string(), "kafka has no topic nowhere");
    assert!(!broker.topics()?.names().await?.iter().any(|name| name == "nowhere"));
    Ok(())
}

#[tokio::test]
async fn an_unreachable_broker_is_told_within_seconds() -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let log = plan(&address, "any");
    let began = Instant::now();
    let writer = KafkaWriter::open(&log, OLD, 2);
    let reader = KafkaReader::open(&log, NEW, None, "g");
    let (writer, reader, topic) = tokio::join!(writer, reader, ensure_topic(&log, 2));
    assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
    for result in [writer.map(drop), reader.map(drop), topic] {
        let Err(error) = result else { bail!("nobody is there, and it was opened") };
        let text = error.to_string();
        assert!(text.starts_with(&format!("kafka at {address} cannot be reached: ")), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert_eq!(error.class(), Class::Retry);
    }
    Ok(())
}

#[tokio::test]
async fn an_offset_that_kafka_no_longer_has_is_an_error() -> Result<()> {
    let broker = broker().await?;
    let log = topic(&broker, "aged").await?;
    fill(&log, 20, 50).await?;
    broker.topics()?.delete_before("aged", 0, 10).await?;
    for (from, told) in [(None, 0), (Some(0), 0), (Some(9), 9), (Some(21), 21)] {
        let opened = KafkaReader::open(&log, NEW, from, "g").await;
        let Err(error) = opened else { bail!("opened at {from:?}") };
        assert_eq!(
            error.to_string(),
            format!("partition 0 of aged no longer holds offset {told}: it has 10 to 20")
        );
        assert_eq!(error.class(), Class::Halt);
    }
    let mut reader = KafkaReader::open(&log, NEW, Some(10), "g").await?;
    assert_eq!(number(&next(&mut reader).await?)?, 10);
    Ok(())
}

/// Reads until something is wrong; every message on the way must be the next.
async fn until_error(reader: &mut KafkaReader, mut expected: u64) -> Result<(u64, LogError)> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        ensure!(Instant::now() < deadline, "silence");
        match timeout(Duration::from_secs(90), reader.next()).await? {
            Ok(delivery) => {
                let found = number(&delivery)?;
                ensure!(found == expected, "a jump from {expected} to {found}");
                expected += 1;
            }
            Err(error) => return Ok((expected, error)),
        }
    }
}

#[tokio::test]
async fn messages_that_age_out_while_being_read_are_an_error_and_no_jump() -> Result<()> {
    let broker = broker().await?;
    let log = KafkaLog { compression: Compression::None, ..topic(&broker, "aging").await? };
    // More than a reader fetches ahead.
    fill(&log, 20_000, 1000).await?;
    let mut reader = read(&log, NEW).await?;
    assert_eq!(number(&next(&mut reader).await?)?, 0);
    broker.topics()?.delete_before("aging", 0, 19_990).await?;
    let (read, error) = until_error(&mut reader, 1).await?;
    assert!(read < 19_990);
    assert_eq!(
        error.to_string(),
        format!("partition 0 of aging no longer holds offset {read}: it has 19990 to 20000")
    );
    assert_eq!(reader.next().await.unwrap_err().to_string(), error.to_string());
    Ok(())
}

async fn deleted(topics: &Topics, log: &KafkaLog) -> Result<KafkaReader> {
    fill(log, 100, 100).await?;
    let mut reader = read(log, NEW).await?;
    for n in 0..100 {
        assert_eq!(number(&next(&mut reader).await?)?, n);
    }
    topics.delete(&log.topic).await?;
    Ok(reader)
}

#[tokio::test]
async fn a_topic_deleted_under_its_reader_is_an_error() -> Result<()> {
    let broker = broker().await?;
    let log = topic(&broker, "deleted").await?;
    let mut reader = deleted(&broker.topics()?, &log).await?;
    let began = Instant::now();
    let (_, error) = until_error(&mut reader, 100).await?;
    println!("{error}, after {:?}", began.elapsed());
    assert_eq!(error.to_string(), "kafka has no topic deleted");
    assert_eq!(error.class(), Class::Halt);
    Ok(())
}

#[tokio::test]
async fn a_topic_recreated_under_its_reader_is_an_error() -> Result<()> {
    let broker = broker().await?;
    let log = topic(&broker, "recreated").await?;
    let mut reader = deleted(&broker.topics()?, &log).await?;
    ensure_topic(&log, 2).await?;
    fill(&log, 10, 100).await?;
    let began = Instant::now();
    let (_, error) = until_error(&mut reader, 100).await?;
    println!("{error}, after {:?}", began.elapsed());
    assert_eq!(
        error.to_string(),
        "partition 0 of recreated no longer holds offset 100: it has 0 to 10"
    );
    Ok(())
}

/// The new topic reaches past the reader's offset: only the message numbers can tell, and they are
/// the consumer's to check. The reader must hand out what lies there, or fail; not fall silent.
#[tokio::test]
async fn a_topic_recreated_and_refilled_under_its_reader_shows_a_gap() -> Result<()> {
    let broker = broker().await?;
    let log = topic(&broker, "refilled").await?;
    let mut reader = deleted(&broker.topics()?, &log).await?;
    ensure_topic(&log, 2).await?;
    let mut writer = KafkaWriter::open(&log, OLD, 2).await?;
    for n in 0..200 {
        writer.send(NEW, b"", &numbered(5000 + n, 100)).await?;
    }
    until_acked(&mut writer, NEW, 200).await?;
    match timeout(2 * SOON, reader.next()).await.context("silence")? {
        Ok(delivery) => assert_eq!(number(&delivery)?, 5100),
        Err(error) => assert_eq!(error.class(), Class::Halt),
    }
    Ok(())
}
