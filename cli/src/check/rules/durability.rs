//! A server that may lose its last transactions in a crash gives old GTIDs to new ones.

use std::fmt;

use modshift_proto::plan::Plan;

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Survey, Variables};

pub const READ: [&str; 2] = ["innodb_flush_log_at_trx_commit", "sync_binlog"];
pub const APPLIED: [&str; 1] = ["innodb_flush_log_at_trx_commit"];

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let side = &server.side;
        faults.extend(match server.side.is_old() {
            true => judge(
                &survey.plan,
                side,
                &facts.variables,
                &READ,
                "1, or a crash of the server loses what was already sent on",
            ),
            false => judge(
                &survey.plan,
                side,
                &facts.variables,
                &APPLIED,
                "1, or a crash of the server loses what was acknowledged",
            ),
        });
    }
    faults
}

pub fn judge(
    plan: &Plan,
    subject: &dyn fmt::Display,
    variables: &Variables,
    names: &[&str],
    expected: &str,
) -> Vec<Fault> {
    let severity = match plan.check.accept_unsafe_durability {
        true => Severity::Warning,
        false => Severity::Fault,
    };
    let lax = names.iter().filter(|name| variables.text(name) != "1");
    lax.map(|name| {
        let actual = format!("{name} is {}", variables.text(name));
        Fault::new(severity, "durability", subject, actual).expected(expected).mend(
            Mend::set(way(name), name, 1)
                .note("or check.accept_unsafe_durability = true in the plan"),
        )
    })
    .collect()
}

fn way(name: &str) -> Way {
    match name {
        "sync_binlog" => Way::SetSyncBinlog,
        _ => Way::SetFlush,
    }
}
