//! Settings that change what the same statement does: after the cutover the application meets
//! those of the new shards.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::Survey;

const RULE: &str = "alike";

/// With what a difference means.
const SETTINGS: [(&str, Severity); 9] = [
    // Names of tables in the binlog and in the plan would stop being the same names.
    ("lower_case_table_names", Severity::Fault),
    ("sql_mode", Severity::Warning),
    ("character_set_server", Severity::Warning),
    ("collation_server", Severity::Warning),
    ("system_time_zone", Severity::Warning),
    ("time_zone", Severity::Warning),
    ("tx_isolation", Severity::Warning),
    ("innodb_strict_mode", Severity::Warning),
    ("explicit_defaults_for_timestamp", Severity::Warning),
];

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some((model, measure)) = survey.reached().next() else { return faults };
    for (name, severity) in SETTINGS {
        let expected = measure.variable(name);
        for (server, facts) in survey.reached() {
            let actual = facts.variable(name);
            if actual == expected {
                continue;
            }
            let mend = match name {
                "system_time_zone" => "the same time zone for the host, and a restart".into(),
                "lower_case_table_names" => Mend::from(format!(
                    "{name} = {expected} under [mariadbd] in my.cnf: before the server is set up"
                )),
                _ => Mend::set(Way::SetAlike, name, format_args!("'{expected}'")),
            };
            faults.push(
                Fault::new(severity, RULE, server.side, format!("{name} is '{actual}'"))
                    .expected(format!("'{expected}', as on {}", model.side))
                    .mend(mend),
            );
        }
    }
    faults
}
