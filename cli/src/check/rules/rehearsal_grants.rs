//! Privileges where it is rehearsed: those of deploy/mariadb/grants-rehearsal.sql and of
//! grants-cutover.sql. A rehearsal makes schema and tables itself, and accounts to write there.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Kind, Standing, Survey};

const RULE: &str = "grants";
const IN_SCHEMA: [&str; 10] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "ALTER",
    "REFERENCES",
    "TRIGGER",
    "GRANT OPTION",
];

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for further in &survey.further {
        let Ok(facts) = &further.facts else { continue };
        let rehearsed = further.roles.iter().filter(|role| role.kind == Kind::Rehearsal);
        let schemas: Vec<&str> = rehearsed.map(|role| role.schema.as_str()).collect();
        if schemas.is_empty() {
            continue;
        }
        let user = &further.endpoint.user;
        let account = mend::account(&facts.grants, user);
        let mut lacks = |missing: Vec<&str>, (shown, on): (&str, &str), way: Way, why: &str| {
            if missing.is_empty() {
                return;
            }
            let subject = format!("{further}: user {user}");
            let actual = format!("lacks {} on {shown}, {why}", missing.join(", "));
            faults.push(
                Fault::new(Severity::Warning, RULE, subject, actual)
                    .expected("the privileges of deploy/mariadb/grants-rehearsal.sql")
                    .mend(Mend::run(way, [grant(&missing, on, &account)])),
            );
        };
        let why = "needed to rehearse there";
        let global = of_server(facts).into_iter().filter(|p| !facts.grants.has_global(p));
        lacks(global.collect(), ("*.*", "*.*"), Way::GrantGlobal, why);
        for schema in schemas {
            let missing = IN_SCHEMA.into_iter().filter(|p| !facts.grants.has_on_schema(schema, p));
            let (shown, on) = (format!("`{schema}`.*"), mend::on_schema(schema));
            lacks(missing.collect(), (&shown, &on), Way::GrantSchema, why);
        }
        for (table, columns, why) in [
            (
                "global_priv",
                &["User", "Host", "Priv"][..],
                "needed to see which accounts are locked",
            ),
            (
                "proc",
                &["db", "name", "type", "definer", "security_type"],
                "needed to see which routines there are",
            ),
            ("event", &["db", "name", "status", "definer"], "needed to see which events there are"),
        ] {
            let has = |column: &&str| facts.grants.has_on_column("mysql", table, column, "SELECT");
            if !columns.iter().all(has) {
                let select = format!("SELECT ({})", columns.join(", "));
                let on = format!("mysql.{table}");
                lacks(vec![&select], (&on, &on), Way::GrantColumns, why);
            }
        }
    }
    faults
}

fn of_server(facts: &Standing) -> Vec<&'static str> {
    let mut wanted = vec![
        "REPLICATION SLAVE",
        "SLAVE MONITOR",
        "READ_ONLY ADMIN",
        "CREATE USER",
        "CONNECTION ADMIN",
        "PROCESS",
        "BINLOG MONITOR",
    ];
    if facts.variables.is_on("event_scheduler") {
        wanted.push("SUPER");
    }
    wanted
}

/// GRANT OPTION is not in the list of privileges but behind the account.
fn grant(missing: &[&str], on: &str, account: &str) -> String {
    const OPTION: &str = "GRANT OPTION";
    let listed: Vec<&str> = missing.iter().copied().filter(|p| *p != OPTION).collect();
    let list = if listed.is_empty() { "USAGE".to_owned() } else { listed.join(", ") };
    let option = if missing.contains(&OPTION) { " WITH GRANT OPTION" } else { "" };
    format!("GRANT {list} ON {on} TO {account}{option}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey_further};
    use modshift_mariadb::Grants;

    #[test]
    fn what_a_rehearsal_lacks_is_granted_as_printed() {
        let of = |grants: &[&str]| {
            let survey = survey_further(
                |_, _| {},
                |which, facts| {
                    if which == 2 {
                        facts.grants = Grants::parse(grants.iter().copied());
                    }
                },
            );
            lines(&check(&survey))
        };
        let all = "GRANT ALL PRIVILEGES ON *.* TO `u`@`%`";
        let found = of(&[all]);
        assert_eq!(found.len(), 5, "{found:#?}");
        let line = "warning  rehearsal server trial:3306: user u: lacks GRANT OPTION on \
                    `trial_0`.*, needed to rehearse there, expected the privileges of \
                    deploy/mariadb/grants-rehearsal.sql; mend: GRANT USAGE ON `trial\\_0`.* TO \
                    `u`@`%` WITH GRANT OPTION;";
        assert_eq!(found[0], line);
        assert!(of(&[&format!("{all} WITH GRANT OPTION")]).is_empty());
        let found = of(&[r"GRANT ALL PRIVILEGES ON `trial\_%`.* TO `u`@`%` WITH GRANT OPTION"]);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(
            found[0].contains("lacks REPLICATION SLAVE, SLAVE MONITOR, READ_ONLY"),
            "{found:?}"
        );
        assert!(
            found[1].contains("lacks SELECT (User, Host, Priv) on mysql.global_priv"),
            "{found:?}"
        );
    }
}
