//! Transactions that XA has prepared.

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let pending = survey.reached().filter(|(_, facts)| !facts.xa.is_empty());
    pending
        .map(|(server, facts)| {
            let list = some_of(&facts.xa);
            let actual = format!("has prepared XA transactions: {list}");
            Fault::new(Severity::Warning, "xa", server.side, actual)
                .expected(
                    "none for long: a cutover does not begin with them, and one that is committed \
                     once its binlog is purged halts the reader",
                )
                .mend(
                    "commit or roll back each that XA RECOVER lists, with XA COMMIT or XA ROLLBACK",
                )
        })
        .collect()
}
