//! Sequences of the old shards: the new ones need them, beyond what has been given out and without
//! meeting each other.

use std::collections::BTreeSet;

use modshift_mariadb::value::quote;

use crate::check::fault::{Fault, Severity, Side};
use crate::check::rows::matrix::gcd;
use crate::check::survey::{Sequence, Survey};

const RULE: &str = "sequences";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let names: BTreeSet<&str> =
        survey.olds().flat_map(|(_, facts)| facts.sequences.keys().map(String::as_str)).collect();
    names.into_iter().flat_map(|name| of_sequence(survey, name)).collect()
}

fn of_sequence(survey: &Survey, name: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let olds = || survey.olds().filter_map(|(_, facts)| facts.sequences.get(name));
    let Some(first) = olds().next() else { return faults };
    let down = first.increment < 0;
    let shards = i64::from(survey.plan.new_modulus.get());
    // How far the old ones have come, whichever way they count, and where they end.
    let furthest = olds().map(|s| s.next);
    let ends = olds().map(|s| if down { s.minimum } else { s.maximum });
    let (highest, end) = match down {
        true => (furthest.min(), ends.max()),
        false => (furthest.max(), ends.min()),
    };
    let (Some(highest), Some(end)) = (highest, end) else { return faults };
    let number = |side| match side {
        Side::New(shard) => usize::from(shard.0),
        Side::Old(shard) => usize::from(shard.0),
    };
    let placed: Vec<_> = survey.news().map(|at| (number(at.0.side), at)).collect();
    for &(index, (server, facts)) in &placed {
        // It serves: made anew, its sequence would give out what it has given out.
        if survey.serves(server.side) {
            continue;
        }
        let subject = format!("{}: sequence {name}", server.side);
        let create = create(name, first, (highest, end), index as i64, shards);
        let Some(own) = facts.sequences.get(name) else {
            faults.push(
                Fault::new(Severity::Fault, RULE, subject, "is missing, or cannot be read")
                    .expected(format!("it to go on from {highest}, the highest of the old shards"))
                    .mend(create),
            );
            continue;
        };
        let twin = placed.iter().find(|(other, (_, theirs))| {
            let Some(theirs) = theirs.sequences.get(name) else { return false };
            let common = gcd(own.increment.unsigned_abs(), theirs.increment.unsigned_abs());
            *other != index && (own.next - theirs.next).unsigned_abs().is_multiple_of(common.max(1))
        });
        let left = if own.increment < 0 { own.minimum } else { own.maximum };
        let beyond = if down { own.next > highest } else { own.next < highest };
        let ends = (i128::from(left) - i128::from(highest)).abs() < i128::from(shards)
            || (left < highest) != down && left != highest;
        if ends && !own.cycles {
            let actual = format!("ends at {left}, and has to go on from {highest}");
            faults.push(
                Fault::new(Severity::Fault, RULE, subject, actual)
                    .expected("values left for the new shards: the cutover refuses it")
                    .mend(create),
            );
            continue;
        }
        let actual = if beyond {
            format!("goes on from {}, which old shards have given out", own.next)
        } else if let Some((_, (other, _))) = twin {
            format!("gives out the same values as that of {}", other.side)
        } else {
            continue;
        };
        faults.push(
            Fault::new(Severity::Warning, RULE, subject, actual)
                .expected(format!("values from {highest} on that no other new shard gives out"))
                .mend(create),
        );
    }
    if !first.cycles && end != 0 && highest as f64 / end as f64 > 0.8 {
        let actual = format!("is at {highest} of {end}");
        let bound = if down { "MINVALUE a smaller one" } else { "MAXVALUE a larger one" };
        faults.push(
            Fault::new(Severity::Warning, RULE, format!("sequence {name}"), actual)
                .expected("values left for the new shards")
                .mend(format!("ALTER SEQUENCE {} {bound}", quote(name))),
        );
    }
    faults
}

/// One whose values no other new shard gives out: from the first at or beyond all old ones that is
/// this shard's. One that begins anew must do so within its own values.
fn create(
    name: &str,
    like: &Sequence,
    (highest, end): (i64, i64),
    index: i64,
    shards: i64,
) -> String {
    let own = |from: i64| from + (index - from).rem_euclid(shards);
    let name = quote(name);
    match (like.increment < 0, like.cycles) {
        (false, false) => format!(
            "CREATE OR REPLACE SEQUENCE {name} START WITH {} INCREMENT BY {shards} MAXVALUE {end}",
            own(highest)
        ),
        (false, true) => format!(
            "CREATE OR REPLACE SEQUENCE {name} START WITH {} INCREMENT BY {shards} MINVALUE {} \
             MAXVALUE {end} CYCLE",
            own(highest),
            own(like.minimum)
        ),
        (true, cycles) => {
            let own = |from: i64| from - (from - index).rem_euclid(shards);
            let cycle = if cycles { " CYCLE" } else { "" };
            let top = if cycles { own(like.maximum) } else { like.maximum };
            format!(
                "CREATE OR REPLACE SEQUENCE {name} START WITH {} INCREMENT BY -{shards} MINVALUE \
                 {end} MAXVALUE {top}{cycle}",
                own(highest)
            )
        }
    }
}
