//! The cases of `stream`, and for each rule the case that breaks without it.

use crate::explore::{explore, soak};
use crate::places;
use crate::stream::Streams;
use crate::stream::case::{Budget, Case, Without, delete, histories, put, put_unique};

fn none() -> Budget {
    Budget::default()
}

/// Chunks beside a tail: everything that two transactions can do to two rows meanwhile.
fn chunks() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0), put(1, 0, 1)]],
        histories: vec![histories(&[0], &[0], 2, 2)],
        copy: vec![true],
        lag: 1,
        budget: Budget { tokens: 1, ..none() },
        ..Case::new("chunks", 1, 1)
    }
}

/// A row a chunk, two at once.
fn small_chunks() -> Case {
    Case {
        small_chunks: true,
        parallel: 2,
        lag: 0,
        budget: none(),
        histories: vec![histories(&[0, 1], &[0], 1, 2)],
        ..Case { name: "small chunks", ..chunks() }
    }
}

/// A unique value that moves to a row which is copied later.
fn unique_values() -> Case {
    let swap = vec![put_unique(0, 0, 2, 2), put_unique(1, 0, 3, 0)];
    Case {
        begin: vec![vec![put(0, 0, 0), put(1, 0, 1)]],
        histories: vec![vec![vec![swap]]],
        lag: 1,
        ..Case { name: "unique values", ..small_chunks() }
    }
}

/// More keys are touched than may be remembered.
fn touched_keys() -> Case {
    Case { touched_keys_max: 0, ..Case { name: "touched keys", ..chunks() } }
}

/// A reader dies, and another goes on.
fn restart() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![vec![vec![vec![put(0, 1, 2)]]]],
        copy: vec![true],
        budget: Budget { crashes: 1, ..none() },
        ..Case::new("restart", 1, 2)
    }
}

/// The same with nothing to copy, and more to send again.
fn replay() -> Case {
    Case {
        histories: vec![histories(&[0], &[0], 2, 2)],
        budget: Budget { crashes: 1, ..none() },
        ..Case::new("replay", 1, 1)
    }
}

/// A reader lives on beside its successor.
fn two_readers() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![vec![vec![vec![delete(0)]]]],
        copy: vec![true],
        budget: Budget { readers: 1, late_steps: 1, ..none() },
        ..Case::new("two readers", 1, 1)
    }
}

/// The connection breaks, in the middle of a group too.
fn breaks() -> Case {
    let write = vec![put(0, 0, 2), put(0, 1, 3), delete(0)];
    Case {
        histories: vec![vec![vec![write.clone()], vec![write, vec![put(0, 0, 4)]]]],
        budget: Budget { breaks: 2, ..none() },
        ..Case::new("breaks", 1, 2)
    }
}

/// The log repeats messages.
fn repeats() -> Case {
    Case {
        histories: vec![histories(&[0, 1], &[0], 2, 2)],
        budget: Budget { repeats: 1, ..none() },
        ..Case::new("repeats", 1, 1)
    }
}

/// The log loses messages that it had acknowledged.
fn losses() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        copy: vec![true],
        budget: Budget { losses: 1, crashes: 1, ..none() },
        ..Case::new("losses", 1, 1)
    }
}

/// An old shard loses the end of its binlog, and gives its numbers to other groups.
fn failover() -> Case {
    Case {
        histories: vec![histories(&[0], &[0], 2, 2)],
        budget: Budget { failovers: 1, crashes: 1, ..none() },
        ..Case::new("failover", 1, 1)
    }
}

/// The same while chunks are in flight.
fn failover_of_chunks() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![vec![vec![vec![put(0, 0, 2)], vec![delete(0)]]]],
        copy: vec![true],
        budget: Budget { failovers: 1, ..none() },
        ..Case::new("failover of chunks", 1, 1)
    }
}

/// A reader that finds itself on a replica that is behind.
fn replica() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![histories(&[0], &[0], 1, 2)],
        copy: vec![true],
        replica: true,
        budget: Budget { crashes: 1, ..none() },
        ..Case::new("replica", 1, 1)
    }
}

/// Snapshots that lag behind the log, after a restart.
fn lagging() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![vec![vec![vec![delete(0)]]]],
        copy: vec![true],
        lag: 2,
        budget: Budget { crashes: 1, ..none() },
        ..Case::new("lagging snapshots", 1, 1)
    }
}

/// Two appliers, and commits that nobody answers.
fn appliers() -> Case {
    Case {
        histories: vec![vec![vec![vec![put(0, 0, 2)]]], vec![vec![vec![put(1, 1, 2)]]]],
        appliers: true,
        budget: Budget { appliers: 1, unanswered: 1, ..none() },
        ..Case::new("appliers", 2, 1)
    }
}

/// A row that moves between two old shards while both are copied into one.
fn merging() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)], vec![]],
        histories: vec![vec![vec![vec![delete(0)]]], vec![vec![vec![put(0, 1, 2)]]]],
        copy: vec![true, false],
        ..Case::new("merging", 2, 1)
    }
}

/// A reader lives on beside its successor, which dies.
fn three_readers() -> Case {
    Case {
        histories: vec![vec![Vec::new()]],
        budget: Budget { readers: 1, crashes: 1, late_steps: 2, ..none() },
        ..Case { name: "three readers", ..two_readers() }
    }
}

/// A reader dies amid a copy beside which nobody writes.
fn copy_again() -> Case {
    Case { budget: Budget { crashes: 1, ..none() }, ..Case { name: "copy again", ..losses() } }
}

fn short_failover() -> Case {
    Case { histories: vec![histories(&[0], &[0], 1, 2)], ..failover() }
}

/// Some of the tokens stay with the reader.
fn with_quiet(name: &'static str, case: Case) -> Case {
    Case { name, budget: Budget { quiet: 1, ..case.budget }, ..case }
}

fn all() -> Vec<Case> {
    vec![
        chunks(),
        with_quiet("chunks between quiet tokens", small_chunks()),
        with_quiet("replay behind quiet tokens", replay()),
        with_quiet("copy behind quiet tokens", copy_again()),
        with_quiet("failover behind quiet tokens", short_failover()),
        small_chunks(),
        unique_values(),
        touched_keys(),
        restart(),
        replay(),
        two_readers(),
        breaks(),
        repeats(),
        losses(),
        failover(),
        failover_of_chunks(),
        replica(),
        lagging(),
        appliers(),
        merging(),
    ]
}

/// More of everything, for the long runs.
fn larger() -> Vec<Case> {
    let larger = |case: Case, name, histories| Case { name, histories, ..case };
    vec![
        larger(chunks(), "chunks, longer", vec![histories(&[0, 1], &[0], 2, 2)]),
        Case { lag: 1, ..Case { name: "small chunks that lag", ..small_chunks() } },
        Case {
            every_loss: true,
            ..larger(restart(), "restart, longer", vec![histories(&[0], &[0, 1], 1, 2)])
        },
        Case {
            budget: Budget { readers: 1, late_steps: 2, ..none() },
            ..larger(two_readers(), "two readers, longer", vec![histories(&[0], &[0], 1, 2)])
        },
        Case { budget: Budget { late_steps: 3, ..three_readers().budget }, ..three_readers() },
        with_quiet("restart behind quiet tokens", restart()),
        with_quiet("losses behind quiet tokens", losses()),
        larger(losses(), "losses, longer", vec![histories(&[0], &[0], 1, 2)]),
        larger(
            appliers(),
            "appliers, longer",
            vec![histories(&[0], &[0], 2, 2), histories(&[1], &[1], 1, 2)],
        ),
        Case { copy: vec![true, true], ..Case { name: "merging two copies", ..merging() } },
    ]
}

#[test]
fn every_interleaving_is_right() {
    let cases = if soak() { [all(), larger()].concat() } else { all() };
    for case in cases {
        if let Err((property, way)) = explore(case.name, Streams::new(case)) {
            panic!("{property}:\n{way}");
        }
    }
}

#[test]
fn every_rule_left_out_is_noticed() {
    use Without as W;
    use places::Without as M;
    let untrue = "a new shard holds what its watermark covers";
    let ends = "every end is whole, or halted";
    let halts = "nothing halts for no loss";
    let rules = [
        (W::AckOfEveryPartition, restart(), halts),
        (W::PositionWithFirstEpoch, restart(), halts),
        (W::EpochOfProgress, three_readers(), halts),
        (W::TokenAfterChunk, restart(), untrue),
        (W::InitialMarker, losses(), ends),
        (W::StartMarker, losses(), ends),
        (W::TouchedUntilEntry, chunks(), untrue),
        (W::RecordingBeforeChunk, chunks(), untrue),
        (W::TouchedKeys, chunks(), untrue),
        (W::High, unique_values(), halts),
        (W::OwnToken, lagging(), untrue),
        (W::CopiedAfterEntry, chunks(), untrue),
        (W::QuietByTheLog, with_quiet("copy behind quiet tokens", copy_again()), halts),
        (W::ResumeAtSentToken, with_quiet("copy behind quiet tokens", copy_again()), halts),
        (W::ChunksOfConnection, failover_of_chunks(), ends),
        (W::HistoryProof, failover(), ends),
        (W::OwnServer, failover(), ends),
        (W::EpochClock, failover(), ends),
        (W::PositionWithinGroup, breaks(), halts),
        (W::EpochDrop, two_readers(), ends),
        (W::NumberDrop, repeats(), untrue),
        (W::NumberGap, losses(), ends),
        (W::PositionDrop, replay(), untrue),
        (W::CompareAndSet, appliers(), halts),
        (W::CommitOutcome, appliers(), halts),
        (W::Merging(M::OwnerGuardOfDelete), merging(), untrue),
        (W::Merging(M::OwnerGuardOfUpsert), merging(), untrue),
        (W::Merging(M::Parking), merging(), untrue),
        (W::Merging(M::Retry), merging(), ends),
    ];
    let mut wrong = Vec::new();
    for (rule, case, expected) in rules {
        let name = format!("{} without {rule:?}", case.name);
        match explore(&name, Streams::new(case.without(rule))) {
            Err((property, _)) if property == expected => {}
            other => wrong.push(format!("{name}: {:?}", other.map_err(|(p, _)| p))),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
