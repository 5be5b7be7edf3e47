//! A broker that dies, holds the sender back, or refuses a message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use modshift_changelog::{Class, KafkaWriter, LogReader, LogWriter};
use modshift_proto::plan::{Compression, KafkaLog};
use modshift_tests::{server::KafkaBroker, wait_until};
use tokio::time::timeout;

use crate::{
    MIB, NEW, OLD, OTHER, SOON, broker, next, number, numbered, plan, read, topic, until_acked,
};

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
    assert_eq!(
        text,
        "kafka does not take messages for topic refusing as large as the plan allows: a message was \
         larger than max.message.bytes of the topic (MessageSizeTooLarge)"
    );
    assert_eq!(error.class(), Class::Retry);
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

    // The next epoch does not begin before there is room for the message; then it does.
    let Err(error) = KafkaWriter::open(&log, OLD, 2).await else { bail!("it was opened") };
    assert_eq!(
        error.to_string(),
        "kafka does not take messages for topic refusing as large as the plan allows: \
         max.message.bytes is 100000, the plan needs at least 25231360"
    );
    assert_eq!(error.class(), Class::Retry);
    topics.alter("refusing", "max.message.bytes", "25231360").await?;
    let opened = || async { Ok(KafkaWriter::open(&log, OLD, 2).await.ok()) };
    let mut writer = wait_until("a topic with room", SOON, opened).await?;
    writer.send(NEW, b"", &vec![1; MIB]).await?;
    until_acked(&mut writer, NEW, 1).await
}
