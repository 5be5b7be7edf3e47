//! Accounts other than ours that can write without leaving a trace in the binlog.

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "accounts";
    let mut faults = Vec::new();
    for (server, facts) in survey.olds() {
        let severity = match survey.plan.check.accept_session_binlog_control {
            true => Severity::Note,
            false => Severity::Warning,
        };
        let accept = "or set check.accept_session_binlog_control = true";
        let hiding = facts.accounts.as_ref().map(|accounts| {
            let others = accounts
                .iter()
                .filter(|account| !survey.is_ours(&account.user) && !account.is_servers_own());
            others.filter(|account| account.may_hide_from_binlog()).collect::<Vec<_>>()
        });
        match hiding {
            None => faults.push(
                Fault::new(
                    severity,
                    RULE,
                    server.side,
                    "cannot see which accounts may switch binlog_format or sql_log_bin in their \
                     session",
                )
                .expected("to know them")
                .mend(format!(
                    "create the view modshift.accounts as in deploy/mariadb/grants-old.sql, {accept}"
                )),
            ),
            Some(accounts) if accounts.is_empty() => {}
            Some(accounts) => faults.push(
                Fault::new(
                    severity,
                    RULE,
                    server.side,
                    format!(
                        "{} may switch binlog_format or sql_log_bin in their session and so write \
                         what no reader sees",
                        some_of(accounts.iter().map(|account| account.shown()))
                    ),
                )
                .expected("nobody but modshift")
                .mend(format!(
                        "REVOKE BINLOG ADMIN, SUPER ON *.* FROM each of them, {accept}"
                    )),
            ),
        }
    }
    faults
}
