//! Every property given to librdkafka, with its reason. What isn't set here keeps librdkafka's
//! default on purpose.

use modshift_proto::plan::{Compression, KafkaLog};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// What a message may take beyond its payload: its key, and the headers of record and batch
/// (some 100 bytes). The topic's limit applies to the whole.
pub(super) const OVERHEAD_BYTES: usize = 64 * 1024;
/// Room for the key in it.
pub(super) const KEY_BYTES_MAX: usize = OVERHEAD_BYTES / 2;

/// Uncompressed bytes of one batch. Large enough to compress well and to be cheap per message;
/// small enough that a reader that unpacks a few of them stays within its memory.
const BATCH_BYTES: usize = 256 * 1024;

/// librdkafka's own bytes for each queued message, which its limit in bytes leaves out.
const MESSAGE_COST_BYTES: usize = 256;

/// What a reader asks for at once. Compressed, so it is several times as much once unpacked.
const FETCH_BYTES: usize = 512 * 1024;
/// What a reader holds ahead before it stops asking, per partition: some 8 MiB all in all for each
/// new shard, with the message headers and one answer in flight.
const AHEAD_KBYTES: usize = 2048;
const AHEAD_MESSAGES: usize = 4096;

/// The limit for one message including its key, in librdkafka and on the topic.
pub(super) fn message_limit(log: &KafkaLog) -> usize {
    log.message_bytes_max + OVERHEAD_BYTES
}

fn base(log: &KafkaLog) -> ClientConfig {
    let mut config = ClientConfig::new();
    // The operator's first, so that none of them undoes what correctness rests on.
    for (name, value) in &log.properties {
        config.set(name, value.expose());
    }
    config
        .set("bootstrap.servers", &log.brokers)
        .set("client.id", "modshift")
        // A broker that comes back is noticed within a second, not within ten.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        // A network cut shows even where nothing is sent.
        .set("socket.keepalive.enable", "true")
        // The last packet of a request isn't held back.
        .set("socket.nagle.disable", "true")
        // No metrics of ours to whoever runs the broker.
        .set("enable.metrics.push", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

/// For questions about topics.
pub(super) fn lookup(log: &KafkaLog) -> ClientConfig {
    let mut config = base(log);
    // A topic comes to be only with our settings.
    config.set("allow.auto.create.topics", "false");
    config
}

/// For creating topics; an admin client is a producer to librdkafka.
pub(super) fn admin(log: &KafkaLog) -> ClientConfig {
    base(log)
}

pub(super) fn writer(log: &KafkaLog) -> ClientConfig {
    let mut config = base(log);
    let compression = match log.compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    };
    // A message larger than the whole queue would never find room in it. The writer itself keeps
    // to `buffer_bytes`.
    let queue_bytes = log.buffer_bytes.max(message_limit(log));
    let queue_messages = (log.buffer_bytes / (2 * MESSAGE_COST_BYTES)).clamp(1000, 1_000_000);
    config
        // Durable on every in-sync replica (and no fewer than min.insync.replicas of them).
        .set("acks", "all")
        // Retries neither double nor reorder.
        .set("enable.idempotence", "true")
        // Should a message fail for good, none that follows it is delivered either.
        .set("enable.gapless.guarantee", "true")
        // The most that idempotence keeps in order.
        .set("max.in.flight.requests.per.connection", "5")
        // Never gives up: zero is for ever.
        .set("message.timeout.ms", "0")
        .set("message.send.max.retries", "2147483647")
        .set("retry.backoff.ms", "50")
        .set("retry.backoff.max.ms", "1000")
        // Company for a message costs it this much latency at most. Batches fill under load.
        .set("linger.ms", "2")
        .set("compression.type", compression)
        .set("batch.size", BATCH_BYTES.to_string())
        .set("message.max.bytes", message_limit(log).to_string())
        // The memory of the writer: payloads, and how many messages so that their headers are
        // no more than half of it.
        .set("queue.buffering.max.kbytes", queue_bytes.div_ceil(1024).to_string())
        .set("queue.buffering.max.messages", queue_messages.to_string())
        // Every message reports its delivery.
        .set("delivery.report.only.error", "false");
    config
}

pub(super) fn reader(log: &KafkaLog, group: &str) -> ClientConfig {
    let mut config = base(log);
    let fetch_bytes = message_limit(log).max(FETCH_BYTES);
    config
        // Only to show offsets under a name; partitions are assigned by hand.
        .set("group.id", group)
        // The offset that counts lies with the watermark.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Never a jump.
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .set("allow.auto.create.topics", "false")
        // We write no transactions. Of somebody else's, what was aborted is not there.
        .set("isolation.level", "read_committed")
        // What the disk or the network changed is an error, not a row.
        .set("check.crcs", "true")
        // A larger message passes all the same, alone: brokers return at least one batch.
        .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
        .set("fetch.max.bytes", fetch_bytes.to_string())
        .set("message.max.bytes", message_limit(log).to_string())
        // Must be above fetch.max.bytes, for the headers of the answer.
        .set("receive.message.max.bytes", (fetch_bytes + OVERHEAD_BYTES).to_string())
        .set("queued.max.messages.kbytes", AHEAD_KBYTES.to_string())
        .set("queued.min.messages", AHEAD_MESSAGES.to_string())
        // An answer comes as soon as there is anything.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "500")
        // Once what is held ahead falls below its limit, ask again at once, not after a second.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.error.backoff.ms", "100")
        // For the end offset of the partition, hence the backlog.
        .set("statistics.interval.ms", "1000");
    config
}
