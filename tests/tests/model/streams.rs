//! The cases of `stream`, and for each rule the case that breaks without it.

use crate::explore::{explore, soak};
use crate::places;
use crate::stream::Streams;
use crate::stream::case::{Budget, Case, Without, delete, histories, put};

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

/// A reader lives on beside its successor.
fn two_readers() -> Case {
    Case {
        begin: vec![vec![put(0, 0, 0)]],
        histories: vec![histories(&[0], &[0], 1, 2)],
        copy: vec![true],
        budget: Budget { readers: 1, late_steps: 2, ..none() },
        ..Case::new("two readers", 1, 1)
    }
}

/// The connection breaks, in the middle of a group too.
fn breaks() -> Case {
    let write = vec![put(0, 0, 2), put(0, 1, 3), delete(0)];
    Case {
        begin: vec![vec![put(0, 0, 0)]],
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
        histories: vec![histories(&[0], &[0], 1, 2)],
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
        histories: vec![histories(&[0], &[0], 2, 2)],
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

/// Two appliers, and commits that nobody answers.
fn appliers() -> Case {
    Case {
        histories: vec![histories(&[0], &[0], 1, 2), histories(&[1], &[1], 1, 2)],
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

#[test]
fn sizes() {
    for case in [
        chunks(),
        small_chunks(),
        touched_keys(),
        restart(),
        two_readers(),
        breaks(),
        repeats(),
        losses(),
        failover(),
        failover_of_chunks(),
        replica(),
        appliers(),
        merging(),
    ] {
        let only = std::env::var("CASE").ok();
        if only.is_some_and(|only| only != case.name) {
            continue;
        }
        if let Err((p, why)) = explore(case.name, Streams::new(case)) {
            println!("{p}\n{why}");
        }
    }
    let _ = soak();
    let _ = (Without::Nothing, places::Without::Nothing);
}
