//! What an error of librdkafka means for the log, and in words for those who run it.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::LogError;

/// What an error of librdkafka means for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A broker, or the way to it; librdkafka tries again by itself.
    Passing,
    /// The topic or partition isn't there, or the broker asked doesn't know of it yet.
    Unknown,
    /// The offset asked for isn't there.
    Offset,
    /// The broker does not know us; librdkafka tries again by itself.
    Login,
    /// The broker knows us, and we lack a right.
    Forbidden,
    /// A message is larger than the topic takes.
    TooLarge,
    /// Broker and producer do not agree on what has been sent: the end of this producer.
    Sequence,
    /// The broker does not want this, and trying again is of no use.
    Refused,
    /// A fact that nobody foresaw.
    Other,
}

pub(super) fn meaning(code: Code) -> Meaning {
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
        | Code::NotController
        | Code::StaleControllerEpoch
        | Code::StaleBrokerEpoch
        | Code::EligibleLeadersNotAvailable
        | Code::ReassignmentInProgress
        | Code::WaitingForCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::KafkaStorageError
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::ThrottlingQuotaExceeded => Meaning::Passing,
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId => Meaning::Unknown,
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::NoOffset => Meaning::Offset,
        // A broker's certificate that has expired is mended there.
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => Meaning::Login,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Meaning::Forbidden,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Meaning::TooLarge,
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::ProducerFenced
        | Code::GaplessGuarantee
        | Code::Fatal => Meaning::Sequence,
        Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::PolicyViolation
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::InvalidTopic => Meaning::Refused,
        _ => Meaning::Other,
    }
}

/// Of what an operator is likely to meet: what it means, with Kafka's own name for whoever looks it up.
pub(super) fn words(code: Code) -> String {
    let words = match code {
        Code::AllBrokersDown => "none of the brokers answers",
        Code::BrokerTransportFailure => "nobody answers at that address, or the connection broke",
        Code::Resolve => "the name of a broker's host is not known",
        Code::OperationTimedOut
        | Code::MessageTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut => "no broker has answered in time",
        Code::LeaderNotAvailable | Code::NotLeaderForPartition => {
            "the partition has no leader just now, or it is moving to another broker"
        }
        Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator => "the group's coordinator is moving to another broker",
        Code::NotController => "the cluster's controller is moving to another broker",
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient => {
            "fewer replicas are in sync than min.insync.replicas wants"
        }
        Code::KafkaStorageError => "a broker cannot write to its disk",
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId => "the broker does not know the topic or the partition",
        Code::Authentication | Code::SaslAuthenticationFailed => {
            "Authentication failed: user, password or mechanism is not what the broker wants"
        }
        Code::SSL => "TLS failed: a certificate is not trusted, has expired or is for another name",
        Code::TopicAuthorizationFailed => {
            "not authorized: its rights (ACL) on the topic are missing"
        }
        Code::GroupAuthorizationFailed => {
            "not authorized: its rights (ACL) on the group are missing"
        }
        Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed => {
            "not authorized: its rights (ACL) on the cluster are missing"
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
            "a message was larger than max.message.bytes of the topic"
        }
        Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::ProducerFenced => "the broker no longer knows what this writer has sent",
        Code::InvalidReplicationFactor => {
            "log.replication is more than there are brokers, or one of them is away"
        }
        Code::PolicyViolation => "a policy of the brokers does not allow it",
        Code::InvalidTopic => "the topic's name is not one that Kafka takes",
        other => return other.to_string(),
    };
    format!("{words} ({code:?})")
}

/// Nobody answered, as against somebody who said why not.
fn is_of_the_way(code: Code) -> bool {
    use Code::{AllBrokersDown, BrokerTransportFailure, NetworkException, Resolve};
    let timeout = matches!(
        code,
        Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
    );
    timeout || [AllBrokersDown, BrokerTransportFailure, NetworkException, Resolve].contains(&code)
}

/// What librdkafka says of a connection, without what only its authors need: threads, states and how
/// many lines were left out.
pub(super) fn plain(reason: &str) -> String {
    let mut text = reason;
    if let Some((_, rest)) = text.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")) {
        text = rest;
    }
    if let Some((said, _)) = text.split_once(" (after ") {
        text = said;
    }
    text.replace("/bootstrap", "").replace("ipv4#", "").replace("ipv6#", "")
}

/// The error for whoever asked a broker for something: `doing` completes "does not let this login …".
pub(super) fn told(brokers: &str, topic: &str, doing: &str, code: Code) -> LogError {
    let (brokers, topic, detail) = (brokers.to_owned(), topic.to_owned(), words(code));
    match meaning(code) {
        Meaning::Passing if is_of_the_way(code) => LogError::Unreachable { brokers, detail },
        Meaning::Passing => LogError::NotNow { brokers, detail },
        Meaning::Unknown => LogError::NoTopic { topic },
        Meaning::Login => LogError::Login { brokers, detail },
        Meaning::Forbidden => LogError::Forbidden { brokers, doing: doing.to_owned(), detail },
        Meaning::TooLarge => LogError::Limit { topic, detail },
        Meaning::Sequence => LogError::Sequence { topic, detail },
        Meaning::Refused => LogError::Refused(format!("to {doing}: {detail}")),
        Meaning::Offset | Meaning::Other => LogError::Other(format!("to {doing}: {detail}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_network_pass_and_unforeseen_ones_do_not() {
        for (code, expected) in [
            (Code::AllBrokersDown, Meaning::Passing),
            (Code::NotLeaderForPartition, Meaning::Passing),
            (Code::NotCoordinator, Meaning::Passing),
            (Code::AutoOffsetReset, Meaning::Offset),
            (Code::UnknownTopicOrPartition, Meaning::Unknown),
            (Code::SaslAuthenticationFailed, Meaning::Login),
            (Code::TopicAuthorizationFailed, Meaning::Forbidden),
            (Code::MessageSizeTooLarge, Meaning::TooLarge),
            (Code::UnknownProducerId, Meaning::Sequence),
            (Code::BadMessage, Meaning::Other),
        ] {
            assert_eq!(meaning(code), expected, "{code:?}");
        }
    }

    #[test]
    fn what_librdkafka_says_of_a_connection_is_shown_without_its_insides() {
        assert_eq!(
            plain(
                "[thrd:127.0.0.1:9092/bootstrap]: 127.0.0.1:9092/bootstrap: Connect to \
                 ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT, 3 \
                 identical error(s) suppressed)"
            ),
            "127.0.0.1:9092: Connect to 127.0.0.1:9092 failed: Connection refused"
        );
        assert_eq!(plain("1/1 brokers are down"), "1/1 brokers are down");
    }

    #[test]
    fn an_answer_is_told_with_what_was_asked_and_kafka_s_name_for_it() {
        let said = |code| told("k:9092", "t", "write to topic t", code).to_string();
        assert_eq!(
            said(Code::TopicAuthorizationFailed),
            "kafka at k:9092 does not let this login write to topic t: not authorized: its rights \
             (ACL) on the topic are missing (TopicAuthorizationFailed)"
        );
        assert_eq!(
            said(Code::NotEnoughReplicas),
            "kafka at k:9092 is not able just now: fewer replicas are in sync than \
             min.insync.replicas wants (NotEnoughReplicas)"
        );
        assert_eq!(said(Code::UnknownTopic), "kafka has no topic t");
    }
}
