//! The topic: made as the plan says, or checked against it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use modshift_changelog::{Class, KafkaReader, KafkaWriter, LogWriter, ensure_topic};
use modshift_proto::plan::KafkaLog;

use crate::{NEW, OLD, broker, next, number, numbered, plan, read};

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
    // Asked for a while: a broker that has just started may not know of it.
    let (writer, reader) =
        tokio::join!(KafkaWriter::open(&log, OLD, 2), KafkaReader::open(&log, NEW, None, "g"));
    for opened in [writer.map(drop), reader.map(drop)] {
        let Err(error) = opened else { bail!("it was opened") };
        assert_eq!(error.to_string(), "kafka has no topic nowhere");
        assert_eq!(error.class(), Class::Halt);
        assert!(error.hint().is_some_and(|hint| hint.contains("modshift restart-copy")));
    }
    assert!(!broker.topics()?.names().await?.iter().any(|name| name == "nowhere"));
    Ok(())
}

#[tokio::test]
async fn a_topic_that_no_broker_knows_yet_is_waited_for() -> Result<()> {
    let broker = broker().await?;
    let log = plan(&broker.bootstrap(), "coming");
    let opening = async { tokio::try_join!(writer(&log), read(&log, NEW)) };
    let coming = async {
        // After the first answers.
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure_topic(&log, 2).await
    };
    let (opened, made) = tokio::join!(opening, coming);
    made?;
    let (mut writer, mut reader) = opened?;
    writer.send(NEW, b"key", &numbered(7, 100)).await?;
    assert_eq!(number(&next(&mut reader).await?)?, 7);
    Ok(())
}

async fn writer(log: &KafkaLog) -> Result<KafkaWriter> {
    Ok(KafkaWriter::open(log, OLD, 2).await?)
}
