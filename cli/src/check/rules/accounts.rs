//! Accounts other than ours that can write without leaving a trace in the binlog.

use super::views;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Account, Sort, Survey};

const RULE: &str = "accounts";
const HIDING: [&str; 2] = ["BINLOG ADMIN", "SUPER"];

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    let severity = match survey.plan.check.accept_session_binlog_control {
        true => Severity::Note,
        false => Severity::Warning,
    };
    let accept = "check.accept_session_binlog_control = true in the plan";
    for (server, facts) in survey.olds() {
        let fault = |actual: String| Fault::new(severity, RULE, server.side, actual);
        let Some(accounts) = &facts.accounts else {
            let account = mend::account(&facts.grants, &server.endpoint.user);
            let actual = "cannot see which accounts may switch binlog_format or sql_log_bin in their \
                          session";
            faults.push(
                fault(actual.to_owned())
                    .expected("to know them")
                    .mend(views::mend("accounts", &account)),
            );
            continue;
        };
        let of = |sorts: &[Sort]| -> Vec<&Account> {
            let may = accounts.iter().filter(|account| account.may_hide_from_binlog());
            may.filter(|account| sorts.contains(&survey.sort_of(account))).collect()
        };
        let others = of(&[Sort::Application, Sort::Role]);
        let may = |accounts: &[&Account]| {
            format!(
                "{} may switch binlog_format or sql_log_bin in their session and so write what no \
                 reader sees",
                some_of(accounts.iter().map(|account| account.shown()))
            )
        };
        if !others.is_empty() {
            let revoke = others.iter().map(|account| account.revoke(&HIDING));
            faults.push(
                fault(may(&others)).expected("nobody but modshift and administrators").mend(
                    Mend::run(Way::RevokeBinlogControl, revoke)
                        .note(format!("or {accept}, if they do not")),
                ),
            );
        }
        for sort in [Sort::Administrator, Sort::Replication, Sort::Anonymous] {
            let accounts = of(&[sort]);
            if accounts.is_empty() {
                continue;
            }
            faults.push(
                fault(format!("{}{}", sort.words(), may(&accounts)))
                    .expected("none of them to write to planned tables in that way")
                    .mend(format!("{accept} says that they do not")),
            );
        }
    }
    faults
}
