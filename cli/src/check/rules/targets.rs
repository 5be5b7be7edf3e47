//! Rows that were on a new shard before modshift would neither be replaced nor removed: nobody
//! owns them.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| !server.side.is_old()) {
        if facts.has_watermark || facts.finished {
            continue;
        }
        for name in facts.tables.iter().filter(|(_, table)| !table.empty).map(|(name, _)| name) {
            let actual = "holds rows, but modshift_watermark says that modshift brought none";
            // Whose rows they are nobody here can tell: nothing that empties a table is printed.
            let mend = match exchanged(survey) {
                true => {
                    "exchange [[old]] and [[new]] in the plan, if it is these shards that the \
                     application uses: the tables of all [[old]] are empty"
                }
                false => {
                    "find out whose rows they are; where the application uses this shard, the plan \
                     names the wrong one; where nobody does, empty the table by hand; and where modshift \
                     has copied before, give `modshift restart-copy` then"
                }
            };
            faults.push(
                Fault::new(
                    Severity::Fault,
                    "targets",
                    format!("{}: table {name}", server.side),
                    actual,
                )
                .expected("an empty table")
                .mend(mend),
            );
        }
    }
    faults
}

/// Rows on new shards and none on any old one: the plan has it the wrong way round.
fn exchanged(survey: &Survey) -> bool {
    survey.olds().count() == survey.plan.old.len()
        && survey.olds().all(|(_, facts)| facts.tables.values().all(|table| table.empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn no_rows_are_ever_to_be_thrown_away() {
        let found = |old_empty: bool| {
            let survey = survey(|which, facts| {
                facts.tables.get_mut("t").unwrap().empty =
                    if which < 2 { old_empty } else { which != 3 };
            });
            lines(&check(&survey))
        };
        for (old_empty, words) in
            [(true, "exchange [[old]] and [[new]]"), (false, "find out whose")]
        {
            let found = found(old_empty);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert!(found[0].starts_with("fault  new shard 1: table t: holds rows"), "{found:?}");
            assert!(found[0].contains(words) && !found[0].contains("TRUNCATE"), "{found:?}");
        }
    }
}
