//! The change log over a real Kafka broker: order, acknowledgement, and what happens when the
//! broker, the topic or an offset is not there.

// How much was in flight at a kill, and how soon a fault showed, belong into a test's output.
#![allow(clippy::print_stdout)]

mod acls;
mod broker;
mod offset;
mod order;
mod reach;
mod topic;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_changelog::{Delivery, KafkaReader, KafkaWriter, LogReader, LogWriter, ensure_topic};
use modshift_proto::{
    NewShard, OldShard,
    plan::{Compression, KafkaLog},
};
use modshift_tests::server::KafkaBroker;
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
