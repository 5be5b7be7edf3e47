//! Does the application find its accounts on a server that is promoted, with the same rights and
//! passwords? Replication carries them, unless somebody made or changed one with sql_log_bin = 0, or
//! before the replica was there.

use super::joined;
use crate::check::ahead;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Both, Pair, Rights, Survey};

const RULE: &str = "accounts";
const WHY: &str = "the same on both: the application goes on with them";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults: Vec<Fault> =
        joined(survey).flat_map(|(pair, both)| of_pair(survey, pair, both)).collect();
    if ahead::application_accounts(&survey.plan).is_none() && joined(survey).next().is_some() {
        let subject = format!("plan {}", survey.plan.name);
        faults.push(
            Fault::new(Severity::Warning, RULE, subject, "names no account of the application")
                .expected(
                    "cutover.accounts: whether they are alike on both servers is not compared",
                )
                .mend("name them under [cutover], as in CREATE USER"),
        );
    }
    faults
}

fn of_pair(survey: &Survey, pair: &Pair, both: &Both) -> Vec<Fault> {
    let fault =
        |severity, actual: String| Fault::new(severity, RULE, pair.name(), actual).expected(WHY);
    let mut faults = Vec::new();
    let mut hidden = Vec::new();
    for (name, there) in &both.primary.accounts {
        let here = both.replica.accounts.get(name).unwrap_or(&Rights::Absent);
        let (Rights::Known { .. } | Rights::Absent, Rights::Known { .. } | Rights::Absent) =
            (here, there)
        else {
            hidden.push(name);
            continue;
        };
        match (here, there) {
            (Rights::Absent, Rights::Known { .. }) => faults.push(
                fault(Severity::Fault, format!("account {name} is missing"))
                    .mend(format!("SHOW CREATE USER and SHOW GRANTS on {}, and run both here with sql_log_bin = 0", pair.home)),
            ),
            (Rights::Known { .. }, Rights::Absent) => faults.push(
                fault(Severity::Fault, format!("account {name} is not on {}", pair.home))
                    .mend("drop it here with sql_log_bin = 0, or create it on the primary"),
            ),
            (
                Rights::Known { created, granted },
                Rights::Known { created: model, granted: wanted },
            ) => {
                if created != model {
                    let what = if masked(created) == masked(model) {
                        "has another password"
                    } else {
                        "is created otherwise (plugin, TLS, limits, lock)"
                    };
                    faults.push(
                        fault(Severity::Fault, format!("account {name} {what} than on {}", pair.home))
                            .mend("give it what SHOW CREATE USER prints there: ALTER USER here, with sql_log_bin = 0"),
                    );
                }
                let lacks: Vec<&String> = wanted.iter().filter(|g| !granted.contains(g)).collect();
                let beyond: Vec<&String> = granted.iter().filter(|g| !wanted.contains(g)).collect();
                for (lines, word) in [(lacks, "lacks"), (beyond, "has, and not there,")] {
                    if !lines.is_empty() {
                        faults.push(
                            fault(Severity::Fault, format!("account {name} {word} {}", some_of(lines)))
                                .mend("grant or revoke it with sql_log_bin = 0, so that both are alike"),
                        );
                    }
                }
            }
            // What is not to be seen was passed over above.
            (Rights::Hidden, _) | (_, Rights::Hidden) => {}
            (Rights::Absent, Rights::Absent) => faults.push(
                fault(
                    Severity::Fault,
                    format!("account {name} is named in the plan, and neither here nor on {}", pair.home),
                )
                .mend(
                    "correct its name under [cutover] in the plan (as in CREATE USER, with its host), or \
                     create it on the primary",
                ),
            ),
        }
    }
    if !hidden.is_empty() {
        let user = match &survey.plan.cutover.login {
            Some((user, _)) => user,
            None => &pair.user,
        };
        let account = match survey.plan.cutover.login {
            Some(_) => format!("{}@'%'", modshift_mariadb::value::quote(user)),
            None => mend::account(&both.primary.grants, user),
        };
        faults.push(
            Fault::new(
                Severity::Warning,
                RULE,
                pair.name(),
                format!("cannot compare {}: {user} may not see them", some_of(hidden)),
            )
            .expected(WHY)
            .mend(
                Mend::run(Way::GrantTable, [format!("GRANT SELECT ON mysql.* TO {account}")])
                    .at([pair.home])
                    .note("it replicates to this server; it can be revoked once they are compared"),
            ),
        );
    }
    faults
}

/// Without what stands in quotes: hashes of passwords, names of certificates.
fn masked(created: &str) -> String {
    created.split('\'').step_by(2).collect()
}
