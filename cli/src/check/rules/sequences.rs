//! Sequences of the old shards: the new ones need them, beyond what has been given out and without
//! meeting each other.

use std::collections::BTreeSet;

use modshift_mariadb::value::quote;

use crate::check::fault::{Fault, Severity, Side};
use crate::check::rows::matrix::gcd;
use crate::check::survey::Survey;

const RULE: &str = "sequences";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let names: BTreeSet<&str> =
        survey.olds().flat_map(|(_, facts)| facts.sequences.keys().map(String::as_str)).collect();
    names.into_iter().flat_map(|name| of_sequence(survey, name)).collect()
}

fn of_sequence(survey: &Survey, name: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let olds = || survey.olds().filter_map(|(_, facts)| facts.sequences.get(name));
    // Descending ones are rare, and their end is the other one.
    let Some(highest) = olds().map(|s| s.next).max() else { return faults };
    let Some(maximum) = olds().map(|s| s.maximum).min() else { return faults };
    let shards = i64::from(survey.plan.new_modulus.get());
    if olds().any(|sequence| sequence.increment < 0) {
        let actual = "counts down: what its successors should give out is for you to say";
        faults.push(
            Fault::new(Severity::Note, RULE, format!("sequence {name}"), actual)
                .expected("sequences that count up")
                .mend(format!("CREATE SEQUENCE {} on every new shard by hand", quote(name))),
        );
        return faults;
    }
    let number = |side| match side {
        Side::New(shard) => usize::from(shard.0),
        Side::Old(shard) => usize::from(shard.0),
    };
    let placed: Vec<_> = survey.news().map(|at| (number(at.0.side), at)).collect();
    for &(index, (server, facts)) in &placed {
        let subject = format!("{}: sequence {name}", server.side);
        // The first value at or beyond all old ones that is this shard's.
        let start = highest + (index as i64 - highest).rem_euclid(shards);
        let create = format!(
            "CREATE OR REPLACE SEQUENCE {} START WITH {start} INCREMENT BY {shards} MAXVALUE {maximum}",
            quote(name)
        );
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
        let actual = if own.next < highest {
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
    if highest as f64 / maximum as f64 > 0.8 {
        let actual = format!("is at {highest} of {maximum}");
        faults.push(
            Fault::new(Severity::Warning, RULE, format!("sequence {name}"), actual)
                .expected("values left for the new shards")
                .mend(format!("ALTER SEQUENCE {} MAXVALUE a larger one", quote(name))),
        );
    }
    faults
}
