//! What librdkafka says of itself: log lines to `tracing`, errors counted and remembered.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use tracing::{debug, info, warn};

use super::throttle::Throttle;
use super::trouble::{self, Kind};
use super::words::{self, Meaning, meaning};
use crate::{LogError, metrics};

const UNKNOWN: i64 = -1;

pub(super) struct Events {
    /// Which of our clients, for logs and metrics.
    client: &'static str,
    /// The last errors, to explain a call that merely timed out.
    last: Mutex<Last>,
    /// Where the partition being read ends.
    end_offset: AtomicI64,
    lines: Throttle,
}

#[derive(Default)]
struct Last {
    unreachable: Option<String>,
    refused: Option<String>,
}

impl Events {
    pub fn new(client: &'static str) -> Events {
        let end_offset = AtomicI64::new(UNKNOWN);
        Events { client, last: Mutex::default(), end_offset, lines: Throttle::default() }
    }

    /// Nobody answered in time: why not?
    pub fn unreachable(&self, brokers: &str, otherwise: &KafkaError) -> LogError {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let brokers = brokers.to_owned();
        if let Some(reason) = &last.refused {
            return LogError::Login { brokers, detail: reason.clone() };
        }
        let otherwise = || match otherwise.rdkafka_error_code() {
            Some(code) => words::words(code),
            None => otherwise.to_string(),
        };
        let detail = last.unreachable.clone().unwrap_or_else(otherwise);
        LogError::Unreachable { brokers, detail }
    }

    /// A message got through, or a question was answered.
    #[inline]
    pub fn well(&self) {
        trouble::well(self.client);
    }

    /// What is no error to anybody, and goes on.
    pub fn troubled(&self, kind: Kind, message: String) {
        trouble::note(self.client, kind, message);
    }

    pub fn end_offset(&self) -> Option<i64> {
        Some(self.end_offset.load(Ordering::Relaxed)).filter(|&offset| offset != UNKNOWN)
    }

    pub fn set_end_offset(&self, offset: i64) {
        self.end_offset.store(offset, Ordering::Relaxed);
    }
}

impl ClientContext for Events {
    /// Never ERROR: a lost connection is librdkafka's to mend, and what it can't mend comes back
    /// as an error of ours.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = self.client;
        // A failed connection is told a second time, by `error`; and of a setting that is wanted, each
        // producer says that it is experimental.
        let wanted = line.contains("enable.gapless.guarantee");
        if facility == "FAIL" || wanted || matches!(level, RDKafkaLogLevel::Debug) {
            debug!(client, facility, "kafka: {line}");
            return;
        }
        let Some(held_back) = self.lines.admit(facility, Instant::now()) else { return };
        let line = words::plain(line);
        // A coordinator that is only starting: a writer waits for it, as for any broker.
        let retries = facility == "GETPID" && line.ends_with("retrying");
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                info!(client, facility, held_back, "kafka: {line}");
            }
            _ if retries => info!(client, facility, held_back, "kafka: {line}"),
            _ => warn!(client, facility, held_back, "kafka: {line}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let assigned = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        if let Some(end) = assigned.map(|one| one.hi_offset).max().filter(|&end| end >= 0) {
            self.set_end_offset(end);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        metrics::kafka_error(self.client, format!("{code:?}"));
        let said = format!("{}: {}", words::plain(reason), words::words(code));
        if let Some(held_back) = self.lines.admit(&format!("{code:?}"), Instant::now()) {
            warn!(client = self.client, held_back, "kafka: {said}");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match meaning(code) {
            Meaning::Login => {
                self.troubled(Kind::Login, said.clone());
                last.refused = Some(said);
            }
            Meaning::Forbidden => self.troubled(Kind::Rights, said),
            // "All brokers are down" says less than what came before it.
            Meaning::Passing if code != RDKafkaErrorCode::AllBrokersDown => {
                self.troubled(Kind::Away, said.clone());
                last.unreachable = Some(said);
            }
            _ => {}
        }
    }
}

impl ConsumerContext for Events {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // For display only; the next one tells the same and more.
            debug!(%error, "offset not committed");
        }
    }
}
