//! `[log]`: in-process channels or Kafka.

use std::time::Duration;

use super::policy::{KIB, MIB};
use super::section::Section;
use super::{Compression, KafkaLog, Log, Scheme, Secret, default};

#[derive(Clone, Copy)]
enum Kind {
    Direct,
    Kafka,
}

pub(super) const COMPRESSION_WORDS: [(&str, Compression); 3] =
    [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];

/// Set by modshift or by keys of the plan: order, durability and resuming hang on them.
const OWN_PROPERTIES: [&str; 25] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "compression.codec",
    "compression.type",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "group.id",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "request.required.acks",
    "retries",
    "transactional.id",
];

pub(super) fn read(root: &Section<'_>, plan: &str, scheme: Scheme) -> Option<Log> {
    let section = root.section("log");
    if !root.has("log") && scheme.is_promotion() {
        return Some(Log::Direct { buffer_bytes: default::DIRECT_BUFFER_BYTES });
    }
    if !root.has("log") {
        root.missing("log", "[log] with kind = \"kafka\" or \"direct\"");
        return None;
    }
    let kind = section
        .required("kind", "kafka or direct")
        .and_then(|item| item.word(&[("kafka", Kind::Kafka), ("direct", Kind::Direct)]));
    let log = match kind {
        Some(Kind::Direct) => {
            let log = Log::Direct {
                buffer_bytes: section.size("buffer_bytes", default::DIRECT_BUFFER_BYTES, BUFFER),
            };
            refuse_kafka_keys(&section);
            Some(log)
        }
        Some(Kind::Kafka) => Some(Log::Kafka(read_kafka(&section, plan))),
        None => {
            // Every key is checked, though no kind would have them all.
            read_kafka(&section, plan);
            None
        }
    };
    section.finish();
    log
}

/// Below one page nothing flows; above a quarter of a server's memory nothing else does.
const BUFFER: std::ops::RangeInclusive<u64> = 4 * KIB..=4096 * MIB;

/// Named for what they are, not as unknown.
fn refuse_kafka_keys(section: &Section<'_>) {
    const KAFKA: [&str; 8] = [
        "brokers",
        "topic",
        "replication",
        "min_insync",
        "retention",
        "message_bytes_max",
        "compression",
        "properties",
    ];
    for key in KAFKA {
        if section.get(key).is_some() {
            section.fault_at(key, "only a log of kind kafka has it");
        }
    }
}

fn read_kafka(section: &Section<'_>, plan: &str) -> KafkaLog {
    let brokers = match section.get("brokers") {
        Some(item) => item.text_that("host:port, comma separated", are_brokers),
        None => {
            if section.has("kind") {
                section.missing("brokers", "host:port, comma separated");
            }
            None
        }
    };
    let topic = section.get("topic").and_then(|item| {
        item.text_that("1 to 249 characters of A-Z, a-z, 0-9, ., _ and -", is_topic)
    });
    let replication = section.number("replication", default::REPLICATION, 1..=32_767);
    // One broker cannot keep two copies: a smaller replication brings the default down with it.
    let min_insync = section.number("min_insync", default::MIN_INSYNC.min(replication), 1..=32_767);
    if min_insync > replication {
        let message = format!("expected at most replication, which is {replication}");
        section.fault_at("min_insync", message);
    }
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let compression = section.get("compression").and_then(|item| item.word(&COMPRESSION_WORDS));
    KafkaLog {
        brokers: brokers.unwrap_or_default(),
        topic: topic.unwrap_or_else(|| format!("modshift.{plan}.changes")),
        replication,
        min_insync,
        retention: section.duration(
            "retention",
            default::RETENTION,
            Duration::from_secs(1)..=days(3650),
        ),
        message_bytes_max: section.size(
            "message_bytes_max",
            default::MESSAGE_BYTES_MAX,
            // librdkafka's limits of message.max.bytes.
            KIB..=1_000_000_000,
        ),
        compression: compression.unwrap_or(default::COMPRESSION),
        buffer_bytes: section.size("buffer_bytes", default::KAFKA_BUFFER_BYTES, BUFFER),
        properties: read_properties(section),
    }
}

fn are_brokers(text: &str) -> bool {
    let broker = |broker: &str| {
        broker.trim().rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
    };
    text.split(',').all(broker)
}

fn is_topic(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&text.len()) && text.chars().all(allowed) && text != "." && text != ".."
}

fn read_properties(section: &Section<'_>) -> Vec<(String, Secret)> {
    let properties = section.section("properties");
    let mut read = Vec::new();
    for (name, item) in properties.items() {
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
            item.fault("expected a librdkafka property, such as \"security.protocol\"");
        }
        if OWN_PROPERTIES.contains(&name.as_str()) {
            item.fault("expected no property that modshift sets itself");
        }
        if let Some(value) = item.scalar() {
            read.push((name, Secret::new(value)));
        }
    }
    read
}
