//! Offsets that are gone, and topics that were replaced, under a reader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use modshift_changelog::{
    Class, KafkaReader, KafkaWriter, LogError, LogReader, LogWriter, ensure_topic,
};
use modshift_proto::plan::{Compression, KafkaLog};
use modshift_tests::server::Topics;
use tokio::time::timeout;

use crate::{NEW, OLD, SOON, broker, fill, next, number, numbered, read, topic, until_acked};

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
