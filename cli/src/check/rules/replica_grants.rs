//! Privileges on replicas: less than on a primary. Accounts are locked and markers written there;
//! here the fence sets `read_only`, stops events and ends what keeps it waiting, and a reader reads.

use modshift_mariadb::Grants;

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{Part, Survey};

const RULE: &str = "grants";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for part in survey.replicas() {
        if part.is_tailed() {
            faults.extend(reading(part));
        }
        faults.extend(fencing(survey, part));
    }
    faults
}

fn reading(part: Part<'_>) -> Vec<Fault> {
    let (user, grants) = (&part.further.endpoint.user, &part.facts.grants);
    let mut faults = Vec::new();
    if !grants.has_global("REPLICATION SLAVE") {
        let why = "needed to read the binlog";
        faults.push(lacks(Severity::Fault, part, (user, grants), "REPLICATION SLAVE", None, why));
    }
    for (privilege, why) in [
        ("BINLOG MONITOR", super::needs::FILTERS),
        ("SLAVE MONITOR", "needed to see whether replication leaves something out"),
    ] {
        if !grants.has_global(privilege) {
            faults.push(lacks(Severity::Fault, part, (user, grants), privilege, None, why));
        }
    }
    if !grants.has_on_schema(&part.role.schema, "SELECT") {
        let on = Some(part.role.schema.as_str());
        let why = "needed to copy tables";
        faults.push(lacks(Severity::Fault, part, (user, grants), "SELECT", on, why));
    }
    faults
}

fn fencing(survey: &Survey, part: Part<'_>) -> Vec<Fault> {
    let (mut user, mut grants) = (part.further.endpoint.user.as_str(), &part.facts.grants);
    if let (Some(fencing), Some((login, _))) = (&part.facts.fencing, &survey.plan.cutover.login) {
        match fencing {
            Ok(theirs) => (user, grants) = (login, theirs),
            Err(error) => {
                let subject = format!("{}: user {login} of [cutover]", part.name());
                let mend = error.hint.as_deref().unwrap_or("correct [cutover] of the plan");
                let fault = Fault::new(Severity::Warning, RULE, subject, &*error.message);
                return vec![fault.expected("the login of the cutover to be let in").mend(mend)];
            }
        }
    }
    let mut faults = Vec::new();
    let mut require = |wanted: &[&'static str], why: &str| {
        let missing: Vec<&str> =
            wanted.iter().copied().filter(|privilege| !grants.has_global(privilege)).collect();
        if !missing.is_empty() {
            let list = missing.join(", ");
            faults.push(lacks(Severity::Warning, part, (user, grants), &list, None, why));
        }
    };
    require(&["READ_ONLY ADMIN"], "needed at the cutover to set read_only");
    let why = "needed at the cutover to end what keeps read_only waiting";
    require(&["CONNECTION ADMIN", "PROCESS"], why);
    let primary = survey.primary(part.role.side).map(|(_, facts)| facts);
    if primary.is_some_and(|facts| facts.is_replica() == Some(true)) {
        require(&["SLAVE MONITOR"], "needed at the cutover to see what goes on to the primary");
    }
    if part.facts.variables.is_on("event_scheduler") {
        require(&["SUPER"], "needed at the cutover to switch event_scheduler off");
    }
    // Logging in names the schema.
    if !touches(grants, &part.role.schema) {
        let on = Some(part.role.schema.as_str());
        let why = "without which the cutover cannot log in to the schema";
        faults.push(lacks(Severity::Warning, part, (user, grants), "SELECT", on, why));
    }
    faults
}

/// Whoever may do anything in a schema may choose it; SELECT is what grants-cutover.sql gives.
fn touches(grants: &Grants, schema: &str) -> bool {
    ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"]
        .iter()
        .any(|privilege| grants.has_on_schema(schema, privilege))
}

fn lacks(
    severity: Severity,
    part: Part<'_>,
    (user, grants): (&str, &Grants),
    list: &str,
    schema: Option<&str>,
    why: &str,
) -> Fault {
    let (way, shown, on) = match schema {
        Some(schema) => (Way::GrantSchema, format!("`{schema}`.*"), mend::on_schema(schema)),
        None => (Way::GrantGlobal, "*.*".to_owned(), "*.*".to_owned()),
    };
    let grant = format!("GRANT {list} ON {on} TO {}", mend::account(grants, user));
    // A GRANT that the replica logs would be a transaction of its own.
    let statements =
        ["SET SESSION sql_log_bin = 0".to_owned(), grant, "SET SESSION sql_log_bin = 1".to_owned()];
    let subject = format!("{}: user {user}", part.name());
    Fault::new(severity, RULE, subject, format!("lacks {list} on {shown}, {why}"))
        .expected("the privileges of deploy/mariadb, which replication brings along")
        .mend(Mend::run(way, statements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey_further};

    #[test]
    fn a_replica_asks_for_less_than_a_primary() {
        let check = |grants: &[&str], expected: &[&str]| {
            let survey = survey_further(
                |_, _| {},
                |_, facts| {
                    facts.grants = Grants::parse(grants.iter().copied());
                },
            );
            let found = lines(&super::check(&survey));
            assert_eq!(found.len(), expected.len(), "{found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}\n{expected}");
            }
        };
        let least = "GRANT REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR, READ_ONLY ADMIN, \
                     CONNECTION ADMIN, PROCESS ON *.* TO `u`@`%`";
        check(&[least, "GRANT SELECT ON `s`.* TO `u`@`%`"], &[]);
        let cutover =
            "user u: lacks READ_ONLY ADMIN on *.*, needed at the cutover to set read_only";
        check(
            &["GRANT REPLICATION SLAVE, CONNECTION ADMIN, PROCESS, INSERT ON *.* TO `u`@`%`"],
            &[
                "fault  read_from tailed:3306 of old shard 0: user u: lacks BINLOG MONITOR on *.*",
                "fault  read_from tailed:3306 of old shard 0: user u: lacks SLAVE MONITOR on *.*",
                "fault  read_from tailed:3306 of old shard 0: user u: lacks SELECT on `s`.*",
                &format!("warning  read_from tailed:3306 of old shard 0: {cutover}"),
                &format!("warning  replica spare:3306 of old shard 0: {cutover}"),
            ],
        );
    }
}
