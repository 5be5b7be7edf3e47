//! What each shard's binlog is read by, against what is there: the plan's tables, and their
//! definitions.

use modshift_mariadb::control;
use modshift_proto::differences;

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

const RULE: &str = "read_as";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let planned = || survey.plan.tables.iter().map(|table| table.name.as_str());
    let cut_over = survey.news().any(|(_, facts)| facts.serves);
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(_, facts)| !facts.kept_tables.is_empty()) {
        let kept = facts.kept_tables.keys().map(String::as_str);
        if let Some(changed) = control::changed_tables(kept, planned()) {
            let actual = format!("the plan {changed}, compared with the one by which it is read");
            faults.push(match cut_over {
                true => Fault::new(Severity::Fault, RULE, server.side, actual)
                    .expected("the tables that were cut over")
                    .mend("give the plan the tables that it had; others are for another reshard"),
                false => Fault::new(Severity::Note, RULE, server.side, actual)
                    .expected("the same, or a start of all daemons with this plan")
                    .mend("stop the daemons and start them: what is added is copied"),
            });
        }
        for (name, kept) in &facts.kept_tables {
            let Some(Ok(schema)) = facts.tables.get(name).map(|table| &table.schema) else {
                continue;
            };
            let subject = format!("{}: table {name}", server.side);
            let differ = differences(definition(kept), &schema.described());
            faults.extend(differ.into_iter().map(|difference| {
                Fault::new(Severity::Fault, RULE, &subject, difference)
                    .expected("the definition by which its binlog is read")
                    .mend("undo the change in the way it was made, and modshift verify")
            }));
        }
    }
    faults
}

/// Of what a reader keeps, without how the plan places the rows.
pub fn definition(kept: &str) -> &str {
    match kept.split_once('\n') {
        Some((placement, rest)) if placement.starts_with("placement\t") => rest,
        _ => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn other_tables_are_a_note_before_the_cutover_and_a_fault_after_it() {
        let found = |serves: bool| {
            lines(&check(&survey(|which, facts| {
                facts.serves = serves && which == 2;
                if which == 1 {
                    facts.kept_tables = [("u".to_owned(), String::new())].into();
                }
            })))
        };
        let line = "old shard 1: the plan has t in addition, and lacks u, compared with the one";
        for (serves, severity) in [(false, "note"), (true, "fault")] {
            let found = found(serves);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert!(found[0].starts_with(&format!("{severity}  {line}")), "{found:#?}");
        }
    }

    #[test]
    fn the_placement_is_no_part_of_the_definition() {
        assert_eq!(
            definition("placement\tby a, x, 2 to 3\ncolumn 1\ta int\n"),
            "column 1\ta int\n"
        );
        assert_eq!(definition("column 1\ta int\n"), "column 1\ta int\n");
    }
}
