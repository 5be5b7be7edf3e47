//! The change log in Kafka: one topic, partition *j* for new shard *j*.
//!
//! The writer never gives up on a message to go on with the next: librdkafka retries for ever,
//! idempotently, and the first failure that it does report ends the writer for good. The reader
//! never jumps: an offset that the broker no longer has is an error, as is a topic that vanished.
//! A broker that is down is no error on either side; messages wait, in bounded memory.
//!
//! `settings` holds every property given to librdkafka and why, `events` what it says in return,
//! `topic` what the topic must be like.

mod events;
mod reader;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;
mod topic;
mod writer;

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::LogError;

pub use self::reader::KafkaReader;
pub use self::topic::{delete_topic, ensure_topic, remove_topic};
pub use self::writer::KafkaWriter;

/// How long a broker may take to answer when the log is opened.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// More log lines and errors than a client has for us after that time; each is polled singly.
const EVENTS_MAX: usize = 200;

/// What an error of librdkafka means for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// A broker, or the way to it; librdkafka tries again by itself.
    Passing,
    /// The topic or partition isn't there, or the broker asked doesn't know of it yet.
    Unknown,
    /// The offset asked for isn't there.
    Offset,
    /// The broker does not want us, or not this.
    Refused,
    /// A fact that nobody foresaw.
    Other,
}

fn meaning(code: RDKafkaErrorCode) -> Meaning {
    use RDKafkaErrorCode as Code;
    match code {
        Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::MessageTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::NetworkException
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::BrokerNotAvailable
        | Code::BrokerDestroy
        | Code::NodeUpdate
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::KafkaStorageError
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::ThrottlingQuotaExceeded => Meaning::Passing,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Meaning::Unknown
        }
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::NoOffset => Meaning::Offset,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::SSL
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::PolicyViolation
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::InvalidTopic => Meaning::Refused,
        _ => Meaning::Other,
    }
}

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
