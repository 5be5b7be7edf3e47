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
            faults.push(
                Fault::new(
                    Severity::Fault,
                    "targets",
                    format!("{}: table {name}", server.side),
                    actual,
                )
                .expected("an empty table")
                .mend(format!("TRUNCATE TABLE {name}, if nobody needs them")),
            );
        }
    }
    faults
}
