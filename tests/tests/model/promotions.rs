//! The cases of a promotion, and for each of its rules the case that breaks without it.

use crate::cutover::case::{Budget, Case, Without};
use crate::cutovers::{hold, none, noticed};
use crate::explore::soak;

/// A promotion, killed anywhere, and whatever is commanded after; a server is started again.
fn promoted() -> Case {
    let budget = Budget { commands: 3, kills: 1, troubles: 1, writes: 1, restarts: 1, ..none() };
    Case::promotion("promoted", 2, budget)
}

/// The server of the journal, which is a shard, or one that is promoted, goes away.
fn promoted_with_outages() -> Case {
    let budget = Budget { commands: 2, outages: 1, writes: 1, ..none() };
    Case::promotion("promoted, with outages", 2, budget)
}

/// The operator stands still, and a second one takes over.
fn promoted_by_two() -> Case {
    let budget = Budget { commands: 2, stalls: 1, troubles: 1, ..none() };
    Case::promotion("promoted by two", 1, budget)
}

/// The same, and the journal goes away under it.
fn promoted_cut_off() -> Case {
    let budget = Budget { commands: 2, outages: 1, stalls: 1, ..none() };
    Case::promotion("promoted, cut off", 1, budget)
}

/// The beginning of the opening is not heard of, so that process turns back, and somebody goes on.
fn promoted_unheard() -> Case {
    let budget = Budget { commands: 2, outages: 1, ..none() };
    Case::promotion("promoted, unheard", 1, budget)
}

fn promoted_with_leaks() -> Case {
    let budget = Budget { commands: 2, kills: 1, leaks: 1, writes: 1, ..none() };
    Case::promotion("promoted, with leaks", 1, budget)
}

/// Somebody who has lost the journal undoes the run while its operator, who has it, goes on.
fn promoted_without_the_journal() -> Case {
    let budget = Budget { commands: 2, glasses: 1, troubles: 1, writes: 1, ..none() };
    Case::promotion("promoted, without the journal", 2, budget)
}

fn promoted_and_watched() -> Case {
    let budget = Budget { commands: 1, kills: 2, watches: 2, writes: 1, restarts: 1, ..none() };
    Case::promotion("promoted and watched", 1, budget)
}

/// More of everything, for the long runs.
fn larger() -> Vec<Case> {
    let larger = |case: Case, name, budget| Case { name, budget, ..case };
    vec![
        larger(
            promoted(),
            "promoted, killed twice",
            Budget { commands: 4, kills: 2, troubles: 1, writes: 1, restarts: 1, ..none() },
        ),
        promoted_cut_off(),
        Case { old: 2, new: 2, name: "two promoted, cut off", ..promoted_cut_off() },
        larger(
            promoted_cut_off(),
            "promoted, cut off, with trouble",
            Budget { commands: 2, outages: 2, stalls: 1, troubles: 1, ..none() },
        ),
    ]
}

#[test]
fn every_promotion_ends_on_one_side() {
    let all = vec![
        promoted(),
        promoted_with_outages(),
        promoted_by_two(),
        promoted_unheard(),
        promoted_with_leaks(),
        promoted_without_the_journal(),
        promoted_and_watched(),
    ];
    hold(if soak() { [all, larger()].concat() } else { all });
}

#[test]
fn every_rule_of_a_promotion_left_out_is_noticed() {
    use Without as W;
    let both = "never both sides";
    let missing = "no acknowledged write is missing";
    let alone = "who serves replicates from nobody";
    noticed(&[
        (W::Guard, promoted(), both),
        (W::Markers, promoted(), missing),
        (W::Seal, promoted_with_leaks(), missing),
        (W::Hold, promoted(), alone),
        (W::RejoinAfter, promoted_unheard(), alone),
        (W::Vote, promoted_without_the_journal(), both),
    ]);
}
