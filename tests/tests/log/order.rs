//! What is sent is read: all of it, in order, whatever its size.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use modshift_changelog::{KafkaReader, KafkaWriter, LogReader, LogWriter};
use modshift_proto::{
    NewShard,
    plan::{Compression, KafkaLog},
};
use modshift_tests::wait_until;
use tokio::time::timeout;

use crate::{
    MIB, NEW, OLD, OTHER, SOON, broker, fill, next, number, numbered, read, topic, until_acked,
};

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

/// Somebody else writes into the topic by a transaction: where that is aborted there is nothing, and the
/// offsets that it took are no gap.
#[tokio::test]
async fn what_a_transaction_of_somebody_else_aborted_is_not_read() -> Result<()> {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let log = topic(&*broker().await?, "aborted").await?;
    fill(&log, 5, 50).await?;
    let (brokers, name) = (log.brokers.clone(), log.topic.clone());
    let aborted = tokio::task::spawn_blocking(move || {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &brokers).set("transactional.id", "somebody");
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(SOON)?;
        producer.begin_transaction()?;
        for payload in ["not", "ours"] {
            let record = BaseRecord::to(&name).partition(0).key("k").payload(payload);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(SOON)?;
        producer.abort_transaction(SOON)?;
        anyhow::Ok(())
    });
    aborted.await??;
    fill(&log, 5, 50).await?;
    let mut reader = read(&log, NEW).await?;
    let mut last = None;
    for n in (0..5).chain(0..5) {
        let delivery = next(&mut reader).await?;
        assert_eq!(number(&delivery)?, n);
        last = delivery.offset;
    }
    // Two records, and what ends their transaction.
    assert_eq!(last, Some(5 + 3 + 5 - 1));
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
