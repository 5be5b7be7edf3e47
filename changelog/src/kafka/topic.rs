//! The topic: created with explicit settings, or checked when found.

use std::time::{Duration, Instant};

use modshift_proto::plan::KafkaLog;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::util::Timeout;
use tracing::info;

use super::events::Events;
use super::words::{self, words};
use super::{
    EVENTS_MAX, Meaning, OPEN_LIMIT, UNKNOWN_LIMIT, UNKNOWN_RETRY, blocking, meaning, settings,
    unusable,
};
use crate::{Difference, LogError};

const LEADER_POLL: Duration = Duration::from_millis(100);

/// Creates the topic as the plan wants it, or checks the one that is there and reports everything
/// about it that does not fit.
pub async fn ensure_topic(log: &KafkaLog, new_shards: u16) -> Result<(), LogError> {
    if describe(log).await?.is_none() {
        create(log, new_shards).await?;
        until_led(log, new_shards).await?;
    }
    let Some(found) = describe(log).await? else {
        // It was there, or made, a moment ago.
        let detail = format!("they do not all know topic {} yet", log.topic);
        return Err(LogError::NotNow { brokers: log.brokers.clone(), detail });
    };
    let config = configuration(log).await?;
    check(log, new_shards, &found, |name| config.get(name).and_then(|entry| entry.value.as_deref()))
}

/// The partitions of a topic, as a broker describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub partitions: usize,
    /// Of the partition that has the fewest.
    pub replicas: usize,
    /// Whether each partition has a leader.
    pub led: bool,
}

/// The topic of a log that was opened before. A broker that has just started may not know of it yet.
pub(super) async fn known(log: &KafkaLog) -> Result<Found, LogError> {
    let deadline = Instant::now() + UNKNOWN_LIMIT;
    loop {
        if let Some(found) = describe(log).await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(LogError::NoTopic { topic: log.topic.clone() });
        }
        tokio::time::sleep(UNKNOWN_RETRY).await;
    }
}

/// An error where messages as large as the plan allows are not taken.
pub(super) async fn takes_the_largest(log: &KafkaLog) -> Result<(), LogError> {
    const LIMIT: &str = "max.message.bytes";
    let config = configuration(log).await?;
    let text = config.get(LIMIT).and_then(|entry| entry.value.as_deref()).unwrap_or("unknown");
    let needed = settings::message_limit(log);
    if text.parse::<usize>().is_ok_and(|limit| limit >= needed) {
        return Ok(());
    }
    let expected = format!("at least {needed}");
    let detail = Difference { what: LIMIT, found: text.to_owned(), expected }.to_string();
    Err(LogError::Limit { topic: log.topic.clone(), detail })
}

/// `None` if there is no such topic.
pub(super) async fn describe(log: &KafkaLog) -> Result<Option<Found>, LogError> {
    let log = log.clone();
    blocking(move || describe_blocking(&log)).await
}

fn describe_blocking(log: &KafkaLog) -> Result<Option<Found>, LogError> {
    let config = settings::lookup(log);
    let client =
        BaseConsumer::from_config_and_context(&config, Events::new("lookup")).map_err(unusable)?;
    let metadata = client.fetch_metadata(Some(&log.topic), OPEN_LIMIT).map_err(|error| {
        // What librdkafka has to say about its connections waits to be fetched.
        for _ in 0..EVENTS_MAX {
            client.poll(Duration::ZERO);
        }
        match error.rdkafka_error_code() {
            Some(code) if meaning(code) == Meaning::Passing => {
                client.context().unreachable(&log.brokers, &error)
            }
            Some(code) => answered(log, "describe", code),
            None => LogError::Other(error.to_string()),
        }
    })?;
    client.context().well();
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == log.topic) else {
        return Ok(None);
    };
    if let Some(error) = topic.error() {
        let code = RDKafkaErrorCode::from(error);
        return match meaning(code) {
            Meaning::Unknown => Ok(None),
            // No leader yet: the partitions are there all the same.
            Meaning::Passing => Ok(Some(found(topic))),
            _ => Err(answered(log, "describe", code)),
        };
    }
    Ok(Some(found(topic)))
}

fn found(topic: &rdkafka::metadata::MetadataTopic) -> Found {
    let partitions = topic.partitions();
    Found {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
        led: partitions.iter().all(|one| one.leader() >= 0),
    }
}

/// Settings of a topic that is created by us, and why they are not left to the broker.
fn wanted(log: &KafkaLog) -> Vec<(&'static str, String)> {
    vec![
        // A change is needed until every new shard has applied it, not only the last of each key.
        ("cleanup.policy", "delete".to_owned()),
        // By time only: a burst must not push out what a consumer that is down has yet to read.
        ("retention.ms", log.retention.as_millis().to_string()),
        ("retention.bytes", "-1".to_owned()),
        // The largest row, its key and the headers.
        ("max.message.bytes", settings::message_limit(log).to_string()),
        // An acknowledged change survives the loss of a broker…
        ("min.insync.replicas", log.min_insync.to_string()),
        // …and no replica that lacks it becomes leader.
        ("unclean.leader.election.enable", "false".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        // As the writer compressed it.
        ("compression.type", "producer".to_owned()),
    ]
}

async fn create(log: &KafkaLog, new_shards: u16) -> Result<(), LogError> {
    let config = settings::admin(log);
    let admin =
        AdminClient::from_config_and_context(&config, Events::new("admin")).map_err(unusable)?;
    let wanted = wanted(log);
    let replication = TopicReplication::Fixed(log.replication.into());
    let mut topic = NewTopic::new(&log.topic, new_shards.into(), replication);
    for (name, value) in &wanted {
        topic = topic.set(name, value);
    }
    let done = admin.create_topics([&topic], &options()).await;
    let created = match done {
        Ok(results) => match results.into_iter().next() {
            Some(Ok(_)) => {
                info!(topic = log.topic, partitions = new_shards, "topic created");
                Ok(())
            }
            // Someone was faster; what they made is checked like any other.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(answered(log, "create", code)),
            None => Err(LogError::Other("no answer to the creation of a topic".to_owned())),
        },
        Err(error) => Err(admin_failed(log, &admin, &error)),
    };
    close(admin).await?;
    created
}

/// Removes the topic with everything in it; one that is not there is fine.
pub async fn delete_topic(log: &KafkaLog) -> Result<(), LogError> {
    let config = settings::admin(log);
    let admin =
        AdminClient::from_config_and_context(&config, Events::new("admin")).map_err(unusable)?;
    let deleted = match admin.delete_topics(&[&log.topic], &options()).await {
        Ok(results) => match results.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) if meaning(code) == Meaning::Unknown => Ok(()),
            Some(Err((_, code))) => Err(answered(log, "delete", code)),
            None => Err(LogError::Other("no answer to the deletion of a topic".to_owned())),
        },
        Err(error) => Err(admin_failed(log, &admin, &error)),
    };
    close(admin).await?;
    deleted
}

/// The same, and waits until the brokers know it no more: one that is on its way out cannot be made
/// anew.
pub async fn remove_topic(log: &KafkaLog) -> Result<(), LogError> {
    delete_topic(log).await?;
    let deadline = Instant::now() + OPEN_LIMIT;
    while describe(log).await?.is_some() {
        if Instant::now() >= deadline {
            let detail = format!("topic {} is being deleted and still there", log.topic);
            return Err(LogError::NotNow { brokers: log.brokers.clone(), detail });
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
    Ok(())
}

/// A topic that was just created has no leaders for a moment.
async fn until_led(log: &KafkaLog, new_shards: u16) -> Result<(), LogError> {
    let deadline = Instant::now() + OPEN_LIMIT;
    loop {
        if let Some(found) = describe(log).await?
            && (found.led || found.partitions != usize::from(new_shards))
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let detail = format!("the partitions of the new topic {} got no leader", log.topic);
            return Err(LogError::NotNow { brokers: log.brokers.clone(), detail });
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
}

async fn configuration(log: &KafkaLog) -> Result<ConfigResource, LogError> {
    let config = settings::admin(log);
    let admin =
        AdminClient::from_config_and_context(&config, Events::new("admin")).map_err(unusable)?;
    let topic = ResourceSpecifier::Topic(&log.topic);
    let described = match admin.describe_configs([&topic], &options()).await {
        Ok(results) => match results.into_iter().next() {
            Some(Ok(resource)) => Ok(resource),
            Some(Err(code)) if meaning(code) == Meaning::Unknown => {
                Err(LogError::NoTopic { topic: log.topic.clone() })
            }
            Some(Err(code)) => Err(answered(log, "ask for the settings of", code)),
            None => Err(LogError::Other("no answer about the topic's settings".to_owned())),
        },
        Err(error) => Err(admin_failed(log, &admin, &error)),
    };
    close(admin).await?;
    described
}

fn options() -> AdminOptions {
    let limit = Some(Timeout::After(OPEN_LIMIT));
    AdminOptions::new().request_timeout(limit).operation_timeout(limit)
}

fn answered(log: &KafkaLog, what: &str, code: RDKafkaErrorCode) -> LogError {
    match meaning(code) {
        // It is no answer to who wants to know whether it is there.
        Meaning::Passing => {
            let detail = format!("to {what} topic {}: {}", log.topic, words(code));
            LogError::NotNow { brokers: log.brokers.clone(), detail }
        }
        _ => words::told(&log.brokers, &log.topic, &format!("{what} topic {}", log.topic), code),
    }
}

fn admin_failed(log: &KafkaLog, admin: &AdminClient<Events>, error: &KafkaError) -> LogError {
    match error {
        KafkaError::AdminOp(code) if meaning(*code) != Meaning::Passing => {
            answered(log, "manage", *code)
        }
        other => admin.inner().context().unreachable(&log.brokers, other),
    }
}

/// An admin client waits for its thread when it is dropped.
async fn close(admin: AdminClient<Events>) -> Result<(), LogError> {
    blocking(move || {
        drop(admin);
        Ok(())
    })
    .await
}

/// Everything about the topic that does not fit, at once.
pub(super) fn check<'a>(
    log: &KafkaLog,
    new_shards: u16,
    found: &Found,
    setting: impl Fn(&str) -> Option<&'a str>,
) -> Result<(), LogError> {
    let mut differences = Vec::new();
    let mut differs = |what, found: &str, expected: String| {
        differences.push(Difference { what, found: found.to_owned(), expected });
    };
    if found.partitions != usize::from(new_shards) {
        differs("number of partitions", &found.partitions.to_string(), new_shards.to_string());
    }
    if found.replicas < usize::from(log.replication) {
        let expected = format!("at least {}", log.replication);
        differs("number of replicas", &found.replicas.to_string(), expected);
    }
    let mut at_least = |what: &'static str, least: i128, endless: bool| {
        let text = setting(what).unwrap_or("unknown");
        let fits = match text.parse::<i128>() {
            Ok(-1) if endless => true,
            Ok(value) => value >= least,
            Err(_) => false,
        };
        if !fits {
            differs(what, text, format!("at least {least}"));
        }
    };
    at_least("max.message.bytes", settings::message_limit(log) as i128, false);
    at_least("min.insync.replicas", log.min_insync.into(), false);
    at_least("retention.ms", i128::try_from(log.retention.as_millis()).unwrap_or(i128::MAX), true);
    let mut exactly = |what: &'static str, expected: &str| {
        let text = setting(what).unwrap_or("unknown");
        if text != expected {
            differs(what, text, expected.to_owned());
        }
    };
    exactly("cleanup.policy", "delete");
    exactly("retention.bytes", "-1");
    exactly("unclean.leader.election.enable", "false");
    if differences.is_empty() {
        return Ok(());
    }
    Err(LogError::Topic { topic: log.topic.clone(), differences })
}
