//! The cases of `cutover`, and for each rule the case that breaks without it.

use modshift_cutover::{Direction, Mode};

use crate::cutover::Cutovers;
use crate::cutover::case::{Budget, Case, Without};
use crate::explore::{explore, soak};

pub fn none() -> Budget {
    Budget::default()
}

/// A cutover, killed anywhere, and whatever is commanded after.
fn kills() -> Case {
    Case::new("kills", Budget { commands: 3, kills: 1, troubles: 1, writes: 1, ..none() })
}

/// The operator stands still, and a second one takes over.
fn two_operators() -> Case {
    Case::new("two operators", Budget { commands: 2, stalls: 1, troubles: 1, ..none() })
}

/// Servers, the journal's among them, and targets that are away for a while.
fn outages() -> Case {
    Case::new("outages", Budget { commands: 2, outages: 1, troubles: 1, writes: 1, ..none() })
}

/// The journal's server goes away, comes back, and somebody else takes over.
fn cut_off() -> Case {
    let budget = Budget { commands: 2, outages: 1, stalls: 1, ..none() };
    Case { old: 1, ..Case::new("cut off", budget) }
}

/// Writes that come through the fence.
fn leaks() -> Case {
    Case::new("leaks", Budget { commands: 2, leaks: 1, writes: 1, ..none() })
}

/// There, back, and there again.
fn there_and_back() -> Case {
    Case {
        new: 2,
        directions: vec![Direction::Cutover, Direction::Rollback],
        ..Case::new("there and back", Budget { commands: 3, troubles: 1, writes: 2, ..none() })
    }
}

/// Killed amid the opening, and an old shard is away from then on.
fn opened_without() -> Case {
    Case {
        new: 2,
        opens_without_old: true,
        ..Case::new("opened without", Budget { commands: 2, kills: 1, outages: 1, ..none() })
    }
}

/// The beginning of the opening is not heard of, so that process turns back; the next one asks who
/// serves while the old shard is away.
fn unheard() -> Case {
    let budget = Budget { commands: 2, outages: 2, ..none() };
    Case { old: 1, ..Case::new("unheard", budget) }
}

/// Fences are looked after by a daemon while shards are opened and closed, to and fro.
fn kept() -> Case {
    Case {
        new: 1,
        directions: vec![Direction::Cutover, Direction::Rollback],
        ..Case::new("kept", Budget { commands: 3, kills: 1, troubles: 1, keeps: 2, ..none() })
    }
}

/// Its operator is killed, and so is the daemon that goes on: the next daemon ends it.
fn watched() -> Case {
    Case::new("watched", Budget { commands: 1, kills: 2, watches: 2, writes: 1, ..none() })
}

/// The operator stands still while a daemon takes over, and goes on after it.
fn watched_while_still() -> Case {
    let budget = Budget { commands: 1, stalls: 1, troubles: 1, watches: 1, writes: 1, ..none() };
    Case::new("watched while it stands still", budget)
}

/// Somebody who has lost the journal undoes the run while its operator, who has it, goes on.
fn without_the_journal() -> Case {
    let budget = Budget { commands: 2, glasses: 1, troubles: 1, writes: 1, ..none() };
    Case { old: 1, new: 2, ..Case::new("without the journal", budget) }
}

fn stop_writes() -> Case {
    Case { mode: Mode::StopWrites, ..Case { name: "stop writes", ..kills() } }
}

fn all() -> Vec<Case> {
    vec![
        kills(),
        two_operators(),
        outages(),
        cut_off(),
        leaks(),
        there_and_back(),
        stop_writes(),
        opened_without(),
        unheard(),
        kept(),
        watched(),
        watched_while_still(),
        without_the_journal(),
    ]
}

/// More of everything, for the long runs.
fn larger() -> Vec<Case> {
    let larger = |case: Case, name, budget| Case { name, budget, ..case };
    vec![
        larger(
            kills(),
            "killed twice",
            Budget { commands: 4, kills: 2, troubles: 1, writes: 1, ..none() },
        ),
        larger(
            Case { new: 2, ..watched() },
            "watched, with outages",
            Budget { commands: 2, kills: 1, outages: 1, watches: 2, ..none() },
        ),
        larger(
            Case { new: 2, ..outages() },
            "outages of two",
            Budget { commands: 2, outages: 2, troubles: 1, ..none() },
        ),
        Case { old: 2, name: "cut off from two", ..cut_off() },
        larger(
            unheard(),
            "unheard, and stands still",
            Budget { commands: 2, outages: 2, stalls: 1, ..none() },
        ),
        larger(
            cut_off(),
            "cut off, with trouble",
            Budget { commands: 2, outages: 1, stalls: 1, troubles: 1, kills: 1, ..none() },
        ),
        larger(
            Case { new: 1, ..there_and_back() },
            "there and back, killed",
            Budget { commands: 4, kills: 1, troubles: 1, writes: 2, ..none() },
        ),
    ]
}

#[test]
fn every_cutover_ends_on_one_side() {
    hold(if soak() { [all(), larger()].concat() } else { all() });
}

pub fn hold(cases: Vec<Case>) {
    for case in cases {
        if let Err((property, way)) = explore(case.name, Cutovers::new(case)) {
            panic!("{property}:\n{way}");
        }
    }
}

#[test]
fn every_rule_left_out_is_noticed() {
    use Without as W;
    let both = "never both sides";
    let missing = "no acknowledged write is missing";
    let told = "who serves is told truly";
    let order = "journal and routing are in order";
    let followed = "what is undone is followed";
    let triggers = "applications write where their triggers are";
    let ends = "every run ends, or can be gone on with";
    let rules = [
        (W::EveryFence, kills(), triggers),
        (W::Markers, kills(), missing),
        (W::Seal, leaks(), missing),
        (W::ServingMarker, kills(), followed),
        (W::JournalFirst, kills(), told),
        (W::Owed, outages(), order),
        (W::NoReturn, kills(), order),
        (W::Opening, outages(), missing),
        (W::TakenBack, kills(), order),
        (W::LedBack, outages(), order),
        (W::NewerVersion, kills(), order),
        (W::OwnerOfJournal, two_operators(), order),
        (W::OwnerOfServers, two_operators(), told),
        (W::OwnerOfRouting, two_operators(), order),
        (W::NewVersion, cut_off(), order),
        (W::VersionLeftOut, cut_off(), order),
        (W::PublishedAgain, cut_off(), ends),
        (W::Interlock, outages(), order),
        (W::TakenDown, kills(), ends),
        (W::PutUp, kills(), ends),
        (W::PutBack, kills(), triggers),
        (W::RaisedAgain, cut_off(), triggers),
        (W::SecondLook, two_operators(), order),
        (W::Silence, unheard(), both),
        (W::KeeperLock, kept(), told),
        (W::KeeperLook, kept(), told),
        (W::WatchWay, watched(), ends),
        (W::Bar, without_the_journal(), both),
        (W::OneConnection, without_the_journal(), both),
        (W::OwnerOfServers, watched_while_still(), told),
    ];
    noticed(&rules);
}

/// Each of these cases, without its rule, shows what it should.
pub fn noticed(rules: &[(Without, Case, &str)]) {
    let mut wrong = Vec::new();
    for (rule, case, expected) in rules {
        let name = format!("{} without {rule:?}", case.name);
        match explore(&name, Cutovers::new(case.without(*rule))) {
            Err((property, _)) if property == *expected => {}
            other => wrong.push(format!("{name}: {:?}", other.map_err(|(p, _)| p))),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
