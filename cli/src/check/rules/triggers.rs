//! A trigger where modshift applies rows would run for each of them, and change what it writes.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::Survey;
use modshift_mariadb::value::quote;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        // Where it serves: what is there is the application's, and runs for its writes only.
        if survey.takes_writes(server.side) {
            continue;
        }
        let planned = facts
            .triggers
            .iter()
            .filter(|trigger| survey.plan.tables.iter().any(|t| t.name == trigger.table));
        faults.extend(planned.map(|trigger| {
            let subject = format!("{}: table {}", server.side, trigger.table);
            let actual =
                format!("has trigger {}, which runs for rows that modshift applies", trigger.name);
            Fault::new(Severity::Fault, "triggers", subject, actual)
                .expected(
                    "none where applications do not write: the cutover hands over those of the \
                     side that serves",
                )
                .mend(Mend::run(
                    Way::DropTrigger,
                    [format!("DROP TRIGGER {}", quote(&trigger.name))],
                ))
        }));
    }
    faults
}
