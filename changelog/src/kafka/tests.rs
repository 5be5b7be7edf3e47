//! What can be known of the Kafka log without a broker.

use modshift_proto::plan::{Compression, KafkaLog, Secret};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::BaseConsumer;

use super::events::Events;
use super::topic::{Found, check};
use super::*;
use crate::Class;

const MIB: usize = 1024 * 1024;

fn log() -> KafkaLog {
    KafkaLog {
        brokers: "127.0.0.1:1".to_owned(),
        topic: "modshift.test.changes".to_owned(),
        replication: 3,
        min_insync: 2,
        retention: Duration::from_secs(86400),
        message_bytes_max: 32 * MIB,
        compression: Compression::Lz4,
        buffer_bytes: 16 * MIB,
        properties: Vec::new(),
    }
}

fn number(config: &ClientConfig, name: &str) -> usize {
    config.get(name).unwrap().parse().unwrap()
}

#[test]
fn librdkafka_takes_the_settings() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        for message_bytes_max in [MIB, 64 * MIB] {
            let log = KafkaLog { compression, message_bytes_max, ..log() };
            let reader = settings::reader(&log, "group");
            BaseConsumer::from_config_and_context(&reader, Events::new("test")).unwrap();
            let lookup = settings::lookup(&log);
            BaseConsumer::from_config_and_context(&lookup, Events::new("test")).unwrap();
            for config in [settings::writer(&log), settings::admin(&log)] {
                let _: rdkafka::producer::BaseProducer = config.create().unwrap();
            }
        }
    }
}

#[test]
fn memory_of_the_clients_is_bounded_by_the_plan() {
    let small = KafkaLog { buffer_bytes: MIB, message_bytes_max: 20 * MIB, ..log() };
    let writer = settings::writer(&small);
    let queue = number(&writer, "queue.buffering.max.kbytes") * 1024;
    assert!((20 * MIB..21 * MIB).contains(&queue), "room for the largest message: {queue}");
    let writer = settings::writer(&log());
    assert_eq!(number(&writer, "queue.buffering.max.kbytes"), 32 * 1024 + 64);
    assert!(number(&writer, "queue.buffering.max.messages") <= 100_000);

    // Four partitions in one process must stay well under 96 MiB: what is held ahead, a fetch that
    // went beyond it, and 400 bytes of librdkafka's own for each message.
    let reader = settings::reader(&log(), "group");
    let ahead = number(&reader, "queued.max.messages.kbytes") * 1024;
    let fetch = number(&reader, "fetch.message.max.bytes");
    let headers = number(&reader, "queued.min.messages") * 400;
    assert!(4 * (ahead + 4 * fetch + headers) <= 32 * MIB);
    assert!(number(&reader, "receive.message.max.bytes") > number(&reader, "fetch.max.bytes"));
    assert!(number(&reader, "fetch.max.bytes") >= 32 * MIB);
}

#[test]
fn operators_properties_cannot_undo_correctness() {
    let secret = |text: &str| Secret::new(text.to_owned());
    let properties = vec![
        ("acks".to_owned(), secret("1")),
        ("auto.offset.reset".to_owned(), secret("latest")),
        ("sasl.username".to_owned(), secret("modshift")),
    ];
    let log = KafkaLog { properties, ..log() };
    assert_eq!(settings::writer(&log).get("acks"), Some("all"));
    assert_eq!(settings::writer(&log).get("sasl.username"), Some("modshift"));
    assert_eq!(settings::reader(&log, "group").get("auto.offset.reset"), Some("error"));
}

#[test]
fn an_unknown_property_is_named_and_its_value_is_not() {
    let properties = vec![("sasl.pasword".to_owned(), Secret::new("hunter2".to_owned()))];
    let log = KafkaLog { properties, ..log() };
    let made = BaseConsumer::from_config_and_context(&settings::lookup(&log), Events::new("test"));
    let error = made.map(drop).map_err(unusable).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("sasl.pasword") && !text.contains("hunter2"), "{text}");
    assert_eq!(error.class(), Class::Halt);
}

fn checked(found: Found, setting: impl Fn(&str) -> Option<&'static str>) -> String {
    match check(&log(), 4, &found, setting) {
        Ok(()) => "fits".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn good(name: &str) -> Option<&'static str> {
    match name {
        "cleanup.policy" => Some("delete"),
        "retention.ms" => Some("86400000"),
        "retention.bytes" => Some("-1"),
        "max.message.bytes" => Some("33619968"),
        "min.insync.replicas" => Some("2"),
        "unclean.leader.election.enable" => Some("false"),
        _ => None,
    }
}

#[test]
fn a_topic_that_fits_passes() {
    let found = Found { partitions: 4, replicas: 3, led: true };
    assert_eq!(checked(found, good), "fits");
    let endless = |name: &str| if name == "retention.ms" { Some("-1") } else { good(name) };
    assert_eq!(checked(found, endless), "fits");
}

#[test]
fn every_difference_of_a_topic_is_reported_at_once() {
    let found = Found { partitions: 3, replicas: 1, led: true };
    let bad = |name: &str| match name {
        "cleanup.policy" => Some("compact"),
        "retention.ms" => Some("1000"),
        "retention.bytes" => Some("5"),
        "max.message.bytes" => Some("1048588"),
        "min.insync.replicas" => Some("1"),
        _ => None,
    };
    assert_eq!(
        checked(found, bad),
        "topic modshift.test.changes does not fit: \
         number of partitions is 3, the plan needs 4; \
         number of replicas is 1, the plan needs at least 3; \
         max.message.bytes is 1048588, the plan needs at least 33619968; \
         min.insync.replicas is 1, the plan needs at least 2; \
         retention.ms is 1000, the plan needs at least 86400000; \
         cleanup.policy is compact, the plan needs delete; \
         retention.bytes is 5, the plan needs -1; \
         unclean.leader.election.enable is unknown, the plan needs false"
    );
}
