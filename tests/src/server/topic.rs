//! Topics and raw messages, as a test wants to see and break them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{FutureProducer, FutureRecord},
};

use crate::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

pub struct Topics {
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Topics {
    pub fn connect(bootstrap: &str) -> Result<Self> {
        let admin = config(bootstrap).create().context("creating a Kafka admin client")?;
        Ok(Self { bootstrap: bootstrap.to_owned(), admin })
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        let mut config = config(&self.bootstrap);
        config.set("group.id", "modshift-harness").set("enable.auto.commit", "false");
        config.set("enable.partition.eof", "false").set("fetch.message.max.bytes", "67108864");
        config.create().context("creating a Kafka consumer")
    }

    /// How many brokers the cluster has, as one of them says.
    pub async fn brokers(&self) -> Result<usize> {
        let consumer = self.consumer()?;
        let known = move || {
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(2))?;
            Ok(metadata.brokers().len())
        };
        tokio::task::spawn_blocking(known).await?
    }

    pub async fn names(&self) -> Result<Vec<String>> {
        let consumer = self.consumer()?;
        let names = move || {
            let metadata = consumer.fetch_metadata(None, LIMIT)?;
            Ok(metadata.topics().iter().map(|t| t.name().to_owned()).collect())
        };
        tokio::task::spawn_blocking(names).await?
    }

    pub async fn create(
        &self,
        topic: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> Result<()> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in config {
            new = new.set(name, value);
        }
        let done = self.admin.create_topics([&new], &AdminOptions::new()).await?;
        done.into_iter().try_for_each(|one| match one {
            Ok(_) => Ok(()),
            Err((topic, code)) => Err(anyhow!("creating topic {topic}: {code}")),
        })
    }

    /// Deletes a topic and waits until the broker no longer names it.
    pub async fn delete(&self, topic: &str) -> Result<()> {
        for one in self.admin.delete_topics(&[topic], &AdminOptions::new()).await? {
            if let Err((topic, code)) = one {
                bail!("deleting topic {topic}: {code}");
            }
        }
        wait_until(&format!("the end of topic {topic}"), LIMIT, || async {
            Ok((!self.names().await?.iter().any(|name| name == topic)).then_some(()))
        })
        .await
    }

    pub async fn setting(&self, topic: &str, name: &str) -> Result<String> {
        let topic = ResourceSpecifier::Topic(topic);
        let mut described = self.admin.describe_configs([&topic], &AdminOptions::new()).await?;
        let described = described.pop().context("no answer")?;
        let entries = described.map_err(|code| anyhow!("describing a topic: {code}"))?.entries;
        let found = entries.into_iter().find(|entry| entry.name == name);
        found.and_then(|entry| entry.value).with_context(|| format!("no setting {name}"))
    }

    /// Changes a setting of a topic that is there.
    pub async fn alter(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let altered = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        for one in self.admin.alter_configs([&altered], &AdminOptions::new()).await? {
            one.map_err(|(of, code)| anyhow!("altering {of:?}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes everything of a partition below `offset`: what a retention that is too short does.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.admin.delete_records(&list, &AdminOptions::new()).await?;
        Ok(())
    }

    /// Appends a message as it is; its offset.
    pub async fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<i64> {
        produce(&self.producer()?, topic, partition, key, payload).await
    }

    fn producer(&self) -> Result<FutureProducer> {
        let mut config = config(&self.bootstrap);
        config.set("message.max.bytes", "67108864").set("acks", "all").set("linger.ms", "0");
        config.create().context("creating a Kafka producer")
    }

    /// First and next offset of a partition.
    pub async fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let (consumer, topic) = (self.consumer()?, topic.to_owned());
        let bounds = move || Ok(consumer.fetch_watermarks(&topic, partition, LIMIT)?);
        tokio::task::spawn_blocking(bounds).await?
    }

    /// Everything that a partition holds now.
    pub async fn read_all(&self, topic: &str, partition: i32) -> Result<Vec<RawMessage>> {
        let consumer = Arc::new(self.consumer()?);
        let topic = topic.to_owned();
        let read = move || read_all(&consumer, &topic, partition);
        tokio::task::spawn_blocking(read).await?
    }

    /// Rewrites a topic without some of its messages (and with fresh offsets): a broker that lost
    /// them. `keep` sees every message.
    pub async fn rewrite(
        &self,
        topic: &str,
        partitions: i32,
        config: &[(&str, &str)],
        keep: impl Fn(&RawMessage) -> bool,
    ) -> Result<()> {
        let mut kept = Vec::new();
        for partition in 0..partitions {
            kept.extend(self.read_all(topic, partition).await?.into_iter().filter(&keep));
        }
        self.delete(topic).await?;
        self.create(topic, partitions, config).await?;
        let producer = self.producer()?;
        for message in kept {
            let payload = message.payload.unwrap_or_default();
            let key = message.key.as_deref();
            produce(&producer, topic, message.partition, key, &payload).await?;
        }
        Ok(())
    }
}

async fn produce(
    producer: &FutureProducer,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    payload: &[u8],
) -> Result<i64> {
    let mut record = FutureRecord::<[u8], [u8]>::to(topic).partition(partition);
    record = record.payload(payload);
    record.key = key;
    let sent = producer.send(record, LIMIT).await;
    let delivery = sent.map_err(|(error, _)| anyhow!("producing to {topic}: {error}"))?;
    Ok(delivery.offset)
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("reconnect.backoff.max.ms", "500");
    config
}

fn read_all(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<Vec<RawMessage>> {
    let (first, next) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
    let mut messages = Vec::new();
    if first == next {
        return Ok(messages);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(first))?;
    consumer.assign(&list)?;
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        if std::time::Instant::now() > deadline {
            bail!("{topic}/{partition}: offset {next} not reached within {LIMIT:?}");
        }
        // A transaction marker may be the last thing in a log: the position passes it, no message.
        if reached(consumer, topic, partition, next)? {
            return Ok(messages);
        }
        let Some(polled) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = polled.with_context(|| format!("reading {topic}/{partition}"))?;
        messages.push(RawMessage {
            partition,
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
        });
    }
}

fn reached(consumer: &BaseConsumer, topic: &str, partition: i32, next: i64) -> Result<bool> {
    let position = consumer.position()?;
    let at = position.find_partition(topic, partition).map(|p| p.offset());
    Ok(matches!(at, Some(Offset::Offset(offset)) if offset >= next))
}
