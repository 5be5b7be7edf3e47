//! What the last `check --deep` found: rows that would meet on a new shard are refused there, or
//! named in the plan.

use crate::check::fault::{Fault, Severity};
use crate::check::rows::collisions::can_meet;
use crate::check::survey::Survey;

const RULE: &str = "meeting";

/// Nothing is applied to a new shard while what is known to meet there is neither mended nor named.
pub fn refuse(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.news() {
        let Some(record) = &facts.collisions else { continue };
        for (table, found) in &record.tables {
            if survey.plan.check.accept_meeting.contains(table) {
                continue;
            }
            let subject = format!("{}: table {table}", server.side);
            let actual = format!(
                "{found} values would meet, as modshift check --deep found at {}",
                record.at
            );
            faults.push(
                Fault::new(Severity::Fault, RULE, subject, actual)
                    .expected("none, or a policy for the table")
                    .mend(format!(
                        "mend them and run modshift check --deep again, or name \"{table}\" in \
                         check.accept_meeting"
                    )),
            );
        }
    }
    faults
}

/// Has anyone looked?
pub fn check(survey: &Survey) -> Vec<Fault> {
    let plan = &survey.plan;
    let unknown = survey.news().any(|(_, facts)| facts.collisions.is_none());
    if !unknown || !can_meet(plan.old_modulus.get(), plan.new_modulus.get()) {
        return Vec::new();
    }
    let actual = "keys of different old shards that would meet have not been looked for";
    vec![
        Fault::new(Severity::Warning, RULE, "new shards", actual)
            .expected("one look before the first row is copied")
            .mend("modshift check --deep"),
    ]
}
