//! What can go wrong with the change log, and what becomes of it.

use std::fmt;

use modshift_proto::{NewShard, OldShard};

use crate::Offset;

/// One way in which a topic that was found is not as the plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    pub found: String,
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, the plan needs {}", self.what, self.found, self.expected)
    }
}

/// What went wrong with the log. `class()` says whether trying again can help.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the applier of {0} in this process has stopped, and takes no changes")]
    Closed(NewShard),
    #[error("epoch {epoch} of {source_shard} has been superseded: a newer writer took over")]
    Superseded { source_shard: OldShard, epoch: u64 },
    #[error("the change log of {0} already has a reader")]
    Taken(NewShard),
    #[error("the change log has no partition for {to}: it has {partitions}")]
    NoPartition { to: NewShard, partitions: u16 },
    #[error("kafka at {brokers} cannot be reached: {detail}")]
    Unreachable { brokers: String, detail: String },
    #[error("kafka at {brokers} is not able just now: {detail}")]
    NotNow { brokers: String, detail: String },
    #[error("login refused by kafka at {brokers}: {detail}")]
    Login { brokers: String, detail: String },
    #[error("kafka at {brokers} does not let this login {doing}: {detail}")]
    Forbidden { brokers: String, doing: String, detail: String },
    /// By the plan.
    #[error("message of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge { bytes: usize, limit: usize },
    /// By the brokers.
    #[error("kafka does not take messages for topic {topic} as large as the plan allows: {detail}")]
    Limit { topic: String, detail: String },
    /// Of one writer; another, of a new epoch, goes on.
    #[error("kafka ended the writer of topic {topic}: {detail}")]
    Sequence { topic: String, detail: String },
    #[error("kafka gave up on a message of partition {partition} of {topic}: {detail}")]
    Delivery { topic: String, partition: u16, detail: String },
    #[error("topic {topic} does not fit: {}", list(.differences))]
    Topic { topic: String, differences: Vec<Difference> },
    #[error("kafka has no topic {topic}")]
    NoTopic { topic: String },
    #[error(
        "partition {partition} of {topic} no longer holds offset {offset}: it has {low} to {high}"
    )]
    OffsetGone { topic: String, partition: u16, offset: Offset, low: Offset, high: Offset },
    #[error("kafka refused: {0}")]
    Refused(String),
    #[error("kafka: {0}")]
    Other(String),
}

fn list(differences: &[Difference]) -> String {
    let all: Vec<String> = differences.iter().map(Difference::to_string).collect();
    all.join("; ")
}

/// Retry, or stop and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world outside: back off and try again.
    Retry,
    /// A fact that trying again cannot change: stop the stream, keep the position, close the gate.
    Halt,
}

impl LogError {
    pub fn class(&self) -> Class {
        match self {
            // A closed partition lost what was queued in it, and no more: a reader of the binlog
            // that starts again, with a new epoch and from its resume point, sends it once more.
            LogError::Closed(_)
            | LogError::Unreachable { .. }
            | LogError::NotNow { .. }
            // Logins, rights and limits are changed on the brokers, and are mended there.
            | LogError::Login { .. }
            | LogError::Forbidden { .. }
            | LogError::Limit { .. }
            // Nothing follows a message that did not arrive; a new epoch sends it once more.
            | LogError::Sequence { .. } => Class::Retry,
            LogError::Superseded { .. }
            | LogError::Taken(_)
            | LogError::NoPartition { .. }
            | LogError::NoTopic { .. }
            | LogError::TooLarge { .. }
            | LogError::Delivery { .. }
            | LogError::Topic { .. }
            | LogError::OffsetGone { .. }
            | LogError::Refused(_)
            | LogError::Other(_) => Class::Halt,
        }
    }

    /// What the operator does next: a command or a setting. No variant is without.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            LogError::Closed(_) => {
                "modshift status shows why it stopped; mend that and start the daemon again, or leave \
                 it: changes wait in the binlog meanwhile"
            }
            LogError::Superseded { .. } => {
                "leave the old shard to the reader that took over; where that is a second daemon, stop \
                 one of the two (modshift status shows whose streams move)"
            }
            LogError::Taken(_) => {
                "this is a defect of modshift: start the daemon again, it goes on from the watermark"
            }
            LogError::NoPartition { .. } | LogError::Topic { .. } => {
                "alter the topic with kafka-configs.sh --alter --entity-type topics --add-config, or \
                 where its partitions differ name another log.topic in the plan; before the first \
                 change was sent kafka-topics.sh --delete will do as well: modshift creates it with the \
                 right settings. Then start the daemons again"
            }
            LogError::Unreachable { .. } => {
                "check log.brokers and the network, and log.properties where the brokers want a login; \
                 it is tried again all the time"
            }
            LogError::NotNow { .. } => {
                "it is tried again all the time; if it lasts, look at the brokers: kafka-topics.sh \
                 --describe --unavailable-partitions"
            }
            LogError::Login { .. } => {
                "check sasl.* and ssl.* of log.properties against what the brokers want; it is tried \
                 again all the time. What the plan says is read at the start only: restart the daemon \
                 once log.properties are changed"
            }
            LogError::Forbidden { .. } => {
                "give the daemon's login its rights with deploy/kafka-acls.sh; it is tried again all the \
                 time"
            }
            LogError::TooLarge { .. } => {
                "raise log.message_bytes_max in the plan, and max.message.bytes of the topic with it \
                 (kafka-configs.sh --alter), then start the daemons again: they go on at this message"
            }
            LogError::Limit { .. } => {
                "raise max.message.bytes of the topic (kafka-configs.sh --alter --entity-type topics \
                 --add-config) and message.max.bytes of the brokers; the reader then goes on by itself"
            }
            LogError::Sequence { .. } => {
                "nothing: what was not acknowledged is sent again in a new epoch. If it comes again and \
                 again, look at the brokers' server.log"
            }
            LogError::Delivery { .. } | LogError::Other(_) => {
                "look at the brokers' server.log, mend what they say, and start the daemon again \
                 (systemctl restart): it goes on from what was acknowledged"
            }
            LogError::NoTopic { .. } => {
                "the topic was deleted, or log.topic names another one; if messages were lost with \
                 it, start over with `modshift restart-copy`"
            }
            LogError::OffsetGone { .. } => {
                "messages were lost to retention or the topic was re-created: start over with \
                 `modshift restart-copy`; raise log.retention above the longest time that a consumer \
                 may be away"
            }
            LogError::Refused(_) => {
                "check log.properties and what the brokers let us do, then start the daemon again"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each variant: a new one does not compile until it stands here.
    fn all() -> Vec<LogError> {
        let text = || "x".to_owned();
        let all = vec![
            LogError::Closed(NewShard(0)),
            LogError::Superseded { source_shard: OldShard(0), epoch: 1 },
            LogError::Taken(NewShard(0)),
            LogError::NoPartition { to: NewShard(1), partitions: 1 },
            LogError::Unreachable { brokers: text(), detail: text() },
            LogError::NotNow { brokers: text(), detail: text() },
            LogError::Login { brokers: text(), detail: text() },
            LogError::Forbidden { brokers: text(), doing: text(), detail: text() },
            LogError::TooLarge { bytes: 2, limit: 1 },
            LogError::Limit { topic: text(), detail: text() },
            LogError::Sequence { topic: text(), detail: text() },
            LogError::Delivery { topic: text(), partition: 0, detail: text() },
            LogError::Topic { topic: text(), differences: Vec::new() },
            LogError::NoTopic { topic: text() },
            LogError::OffsetGone { topic: text(), partition: 0, offset: 1, low: 2, high: 3 },
            LogError::Refused(text()),
            LogError::Other(text()),
        ];
        for error in &all {
            match error {
                LogError::Closed(_)
                | LogError::Superseded { .. }
                | LogError::Taken(_)
                | LogError::NoPartition { .. }
                | LogError::Unreachable { .. }
                | LogError::NotNow { .. }
                | LogError::Login { .. }
                | LogError::Forbidden { .. }
                | LogError::TooLarge { .. }
                | LogError::Limit { .. }
                | LogError::Sequence { .. }
                | LogError::Delivery { .. }
                | LogError::Topic { .. }
                | LogError::NoTopic { .. }
                | LogError::OffsetGone { .. }
                | LogError::Refused(_)
                | LogError::Other(_) => {}
            }
        }
        all
    }

    #[test]
    fn every_halt_names_a_command_or_a_setting() {
        const WAYS: [&str; 6] = [
            "modshift status",
            "`modshift restart-copy`",
            "kafka-configs.sh",
            "log.properties",
            "systemctl restart",
            "start the daemon again",
        ];
        let halts = || all().into_iter().filter(|error| error.class() == Class::Halt);
        assert!(halts().count() > 5);
        for error in halts() {
            let hint = error.hint().unwrap_or_default();
            assert!(WAYS.iter().any(|way| hint.contains(way)), "{error}: {hint}");
        }
    }

    #[test]
    fn what_is_mended_on_the_brokers_is_waited_for() {
        let waits = |error: &LogError| error.class() == Class::Retry;
        let shown: Vec<String> =
            all().iter().filter(|error| waits(error)).map(LogError::to_string).collect();
        assert_eq!(
            shown,
            [
                "the applier of new shard 0 in this process has stopped, and takes no changes",
                "kafka at x cannot be reached: x",
                "kafka at x is not able just now: x",
                "login refused by kafka at x: x",
                "kafka at x does not let this login x: x",
                "kafka does not take messages for topic x as large as the plan allows: x",
                "kafka ended the writer of topic x: x",
            ]
        );
    }
}
