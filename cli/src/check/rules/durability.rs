//! A server that may lose its last transactions in a crash gives old GTIDs to new ones.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let accepted = survey.plan.check.accept_unsafe_durability;
    let severity = if accepted { Severity::Warning } else { Severity::Fault };
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut names = vec!["innodb_flush_log_at_trx_commit"];
        if server.side.is_old() {
            names.push("sync_binlog");
        }
        for name in names {
            let actual = facts.variable(name);
            if actual != "1" {
                faults.push(
                    Fault::new(severity, "durability", server.side, format!("{name} is {actual}"))
                        .expected(match server.side.is_old() {
                            true => "1, or a crash of the server loses what was already sent on",
                            false => "1, or a crash of the server loses what was acknowledged",
                        })
                        .mend(format!(
                            "SET GLOBAL {name} = 1, or check.accept_unsafe_durability = true"
                        )),
                );
            }
        }
    }
    faults
}
