//! Differences that change no row's bytes, and yet what the application gets: indexes, defaults,
//! constraints, table options. A generated column is not copied, and not verified: the server
//! computes it again, so another expression is another row.

use crate::check::alter::{Alike, Definition};
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

const RULE: &str = "drift";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for planned in &survey.plan.tables {
        let name = &planned.name;
        let mut holders = survey
            .reached()
            .filter_map(|(server, facts)| Some((server, facts, facts.tables.get(name)?)));
        let Some((first, _, model)) = holders.next() else { continue };
        for (server, facts, table) in holders {
            // What rows depend on is for the rule `tables`.
            let (Ok(ours), Ok(theirs)) = (&model.schema, &table.schema) else { continue };
            if !super::tables::differences(ours, theirs).is_empty() {
                continue;
            }
            let (ours, theirs) = (
                Definition::parse(&model.create).parts(),
                Definition::parse(&table.create).parts(),
            );
            let lacks: Vec<&str> = ours.iter().filter(|p| !theirs.contains(p)).copied().collect();
            let beyond: Vec<&str> = theirs.iter().filter(|p| !ours.contains(p)).copied().collect();
            if lacks.is_empty() && beyond.is_empty() {
                continue;
            }
            let actual = match (lacks.is_empty(), beyond.is_empty()) {
                (false, true) => format!("lacks {}", some_of(&lacks)),
                (true, false) => format!("has {} too many", some_of(&beyond)),
                _ => format!("has {} instead of {}", some_of(&beyond), some_of(&lacks)),
            };
            let subject = format!("{}: table {name}", server.side);
            let severity = match lacks.iter().chain(&beyond).any(|part| is_generated(part)) {
                true => Severity::Fault,
                false => Severity::Warning,
            };
            let expendable = survey.is_expendable(server.side);
            faults.push(
                Fault::new(severity, RULE, subject, actual)
                    .expected(format!("the same as on {}", first.side))
                    .mend(Alike { name, model, other: table, expendable, facts }.mend()),
            );
        }
    }
    faults
}

/// Of `SHOW CREATE TABLE`, where a comment or a default that says the same is no harm: it is asked
/// of lines that differ.
fn is_generated(part: &str) -> bool {
    part.starts_with('`') && part.contains(" GENERATED ALWAYS AS (")
}
