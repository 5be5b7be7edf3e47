//! The change log in Kafka: one topic, partition *j* for new shard *j*.
//!
//! The writer never gives up on a message to go on with the next: librdkafka retries for ever,
//! idempotently, and the first failure that it does report ends the writer for good. The reader
//! never jumps: an offset that the broker no longer has is an error, as is a topic that vanished.
//! A broker that is down is no error on either side; messages wait, in bounded memory.
//!
//! `settings` holds every property given to librdkafka and why, `events` what it says in return,
//! `words` what that means, `trouble` what of it lasts, `topic` what the topic must be like.

mod events;
mod reader;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;
mod topic;
mod trouble;
mod words;
mod writer;

use std::time::Duration;

use rdkafka::error::KafkaError;

use self::words::{Meaning, meaning};
use crate::LogError;

pub use self::reader::KafkaReader;
pub use self::topic::{delete_topic, ensure_topic, remove_topic};
pub use self::trouble::{Trouble, troubles};
pub use self::writer::KafkaWriter;

/// How long a broker may take to answer when the log is opened.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long brokers may say that there is no such topic or partition before it counts: one that has
/// just started learns of it only then.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(15);
/// How often they are asked meanwhile.
const UNKNOWN_RETRY: Duration = Duration::from_secs(1);
/// More log lines and errors than a client has for us after that time; each is polled singly.
const EVENTS_MAX: usize = 200;

/// A client could not be made: a property of the plan that librdkafka doesn't take.
fn unusable(error: KafkaError) -> LogError {
    match error {
        // Not the value: it may be a secret.
        KafkaError::ClientConfig(_, problem, name, _) => {
            LogError::Refused(format!("property {name}: {problem}"))
        }
        other => LogError::Other(other.to_string()),
    }
}

/// A blocking call of the Kafka client, away from the threads that serve the tasks.
async fn blocking<T, F>(call: F) -> Result<T, LogError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, LogError> + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(panicked) => Err(LogError::Other(panicked.to_string())),
    }
}
