//! A trigger on a new shard would run for every row applied, and change what it writes.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::Survey;
use modshift_mariadb::value::quote;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| !server.side.is_old()) {
        // It serves: what is there is the application's, and runs for its writes only.
        if survey.serves(server.side) {
            continue;
        }
        let planned = facts
            .triggers
            .iter()
            .filter(|trigger| survey.plan.tables.iter().any(|t| t.name == trigger.table));
        faults.extend(planned.map(|trigger| {
            let subject = format!("{}: table {}", server.side, trigger.table);
            Fault::new(
                Severity::Fault,
                "triggers",
                subject,
                format!("has trigger {}", trigger.name),
            )
            .expected("none until the cutover")
            .mend(Mend::run(Way::DropTrigger, [format!("DROP TRIGGER {}", quote(&trigger.name))]))
        }));
    }
    faults
}
