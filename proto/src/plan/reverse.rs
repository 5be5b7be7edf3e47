//! The way back: the same plan with old and new swapped.
//!
//! A stream from a new shard to an old one is a stream like any other: what reads and applies needs
//! a plan in which its source is old and its target new. Only words that people read have to be
//! turned again, see [`Direction::words`].

use std::sync::Arc;

use serde::Serialize;

use super::{Gate, Log, Placement, Plan, Table};
use crate::shard::OldShard;

/// Ends the name of every way back.
pub(super) const SUFFIX: &str = "-back";

/// What the operator does about a stream of the way back that cannot go on where it was. (Nothing is
/// copied on the way back, so it cannot start over from a copy.)
pub const LOST_BACK: &str = "while the old shards serve: stop the daemons, run `modshift rearm` for \
     the new shard that it comes from, and start them again; once the new shards serve the way back \
     has ended there: what is written from then on does not reach the old shards";

/// Which way a stream runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From old shards to new ones.
    #[default]
    Forward,
    /// From new shards to old ones.
    Back,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Back => "back",
        }
    }

    /// A text about this direction's plan in the words of the operator's: on the way back, what
    /// the code calls old is new.
    pub fn words(self, text: &str) -> String {
        match self {
            Direction::Forward => text.to_owned(),
            Direction::Back => {
                let mut parts =
                    text.split("old shard").map(|part| part.replace("new shard", "old shard"));
                let first = parts.next().unwrap_or_default();
                parts.fold(first, |text, part| text + "new shard" + &part)
            }
        }
    }

    /// The same, with the commands for it: those that take `--back`. Turned twice it is as it was.
    pub fn advice(self, text: &str) -> String {
        const BACK: &str = " --back";
        let words = self.words(text);
        if self == Direction::Forward {
            return words;
        }
        ["modshift verify", "modshift resync"].into_iter().fold(words, |text, command| {
            let mut parts = text.split(command);
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| match part.strip_prefix(BACK) {
                Some(part) => text + command + part,
                None => text + command + BACK + part,
            })
        })
    }
}

impl Plan {
    /// The name of the reshard, whichever way the plan goes.
    pub fn forward_name(&self) -> &str {
        self.forward.as_ref().map_or(&self.name, |forward| &forward.name)
    }

    pub fn direction(&self) -> Direction {
        match self.forward {
            None => Direction::Forward,
            Some(_) => Direction::Back,
        }
    }

    /// The plan of the streams that run the other way. Of the way back it is the plan that the
    /// operator wrote.
    ///
    /// Broadcast tables come from new shard 0: after the flip all of them hold the same rows, and
    /// the application writes each change of one to every shard.
    pub fn reversed(&self) -> Plan {
        if let Some(forward) = &self.forward {
            return Plan::clone(forward);
        }
        let name = format!("{}{SUFFIX}", self.name);
        let mut log = self.log.clone();
        if let Log::Kafka(kafka) = &mut log {
            kafka.topic = format!("modshift.{name}.changes");
        }
        let reversed = |table: &Table| Table {
            name: table.name.clone(),
            placement: match &table.placement {
                Placement::Broadcast { .. } => Placement::Broadcast { source: OldShard(0) },
                sharded => sharded.clone(),
            },
        };
        Plan {
            name,
            old_modulus: self.new_modulus,
            new_modulus: self.old_modulus,
            old: self.new.clone(),
            new: self.old.clone(),
            tables: self.tables.iter().map(reversed).collect(),
            log,
            // A rollback waits for a proof only where the plan asks for one of its own. Damage that
            // one has found closes its gate all the same.
            gate: Gate { verify_age: self.back.verify_age, ..self.gate.clone() },
            forward: Some(Arc::new(self.clone())),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_turned_once() {
        let check = |text: &str, turned: &str| {
            assert_eq!(Direction::Back.words(text), turned);
            assert_eq!(Direction::Back.words(turned), text);
            assert_eq!(Direction::Forward.words(text), text);
        };
        check("old shard 1: stray", "new shard 1: stray");
        check(
            "new shard 2 waits for old shards 0 and 1",
            "old shard 2 waits for new shards 0 and 1",
        );
        check("the old shards, the new shards", "the new shards, the old shards");
        check("no shard: older news", "no shard: older news");
    }

    #[test]
    fn commands_are_turned_with_the_words_and_back_again() {
        let text = "new shard 1: modshift verify --table t, and the same modshift resync goes on, \
                    modshift resync --cancel does not";
        let turned = "old shard 1: modshift verify --back --table t, and the same modshift resync \
                      --back goes on, modshift resync --back --cancel does not";
        assert_eq!(Direction::Back.advice(text), turned);
        assert_eq!(Direction::Back.advice(turned), text);
        assert_eq!(Direction::Forward.advice(text), text);
    }
}
