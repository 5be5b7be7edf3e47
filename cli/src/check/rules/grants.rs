//! Privileges: what `SHOW GRANTS` gives each account of the plan, against what its side needs:
//! to copy, to come back, and to fence.

use modshift_mariadb::control;

use crate::check::ahead;
use crate::check::fault::{Fault, Severity};
use crate::check::survey::{Server, Survey};
use modshift_mariadb::Grants;

const RULE: &str = "grants";
const CONTROL_PRIVILEGES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];
const NEW_PRIVILEGES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];

/// Of reading a binlog.
pub const FILTERS: &str = "needed to see whether the binlog leaves schemas out";

/// What one account lacks, as faults.
struct Lacking<'a> {
    server: &'a Server,
    user: &'a str,
    grants: &'a Grants,
    faults: Vec<Fault>,
}

impl<'a> Lacking<'a> {
    fn of(server: &'a Server, grants: &'a Grants) -> Lacking<'a> {
        Lacking { server, user: &server.endpoint.user, grants, faults: Vec::new() }
    }

    fn global(&mut self, severity: Severity, wanted: &[&'static str], why: &str) {
        let missing = wanted.iter().copied().filter(|p| !self.grants.has_global(p)).collect();
        self.add(severity, missing, "*.*".to_owned(), why);
    }

    fn schema(&mut self, severity: Severity, wanted: &[&'static str], why: &str) {
        let schema = &self.server.endpoint.schema;
        let missing = wanted.iter().copied().filter(|p| !self.grants.has_on_schema(schema, p));
        self.add(severity, missing.collect(), format!("`{schema}`.*"), why);
    }

    fn table(&mut self, severity: Severity, table: &str, wanted: &[&'static str], why: &str) {
        let schema = &self.server.endpoint.schema;
        let missing =
            wanted.iter().copied().filter(|p| !self.grants.has_on_table(schema, table, p));
        self.add(severity, missing.collect(), format!("`{schema}`.`{table}`"), why);
    }

    fn add(&mut self, severity: Severity, missing: Vec<&str>, on: String, why: &str) {
        let user = self.user;
        let Some(list) = (!missing.is_empty()).then(|| missing.join(", ")) else { return };
        let subject = format!("{}: user {user}", self.server.side);
        self.faults.push(
            Fault::new(severity, RULE, subject, format!("lacks {list} on {on}, {why}"))
                .expected("the privileges of deploy/mariadb")
                .mend(format!("GRANT {list} ON {on} TO {user}@...")),
        );
    }
}

/// What the streams old -> new need.
pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut lacking = Lacking::of(server, &facts.grants);
        if server.side.is_old() {
            let binlog = "needed to read the binlog";
            lacking.global(Severity::Fault, &["REPLICATION SLAVE"], binlog);
            lacking.global(Severity::Fault, &["BINLOG MONITOR"], FILTERS);
            lacking.schema(Severity::Fault, &["SELECT"], "needed to copy tables");
            for table in [control::TOKEN, control::PROGRESS] {
                let why = "needed for modshift's own rows";
                lacking.table(Severity::Fault, table, &CONTROL_PRIVILEGES, why);
            }
        } else {
            lacking.schema(Severity::Fault, &NEW_PRIVILEGES, "needed to apply changes");
        }
        // The server shows triggers only to who may make them; there is no lesser privilege.
        let blind = "without which triggers there cannot be seen";
        lacking.schema(Severity::Warning, &["TRIGGER"], blind);
        faults.extend(lacking.faults);
    }
    faults
}

/// What the streams new -> old need: each side the other's privileges.
pub fn check_back(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !ahead::way_back(&survey.plan) {
        return faults;
    }
    for (server, facts) in survey.reached() {
        let mut lacking = Lacking::of(server, &facts.grants);
        if server.side.is_old() {
            let why = "needed to apply changes on the way back";
            lacking.schema(Severity::Fault, &["INSERT", "UPDATE", "DELETE"], why);
            for table in [control::WATERMARK, control::PARKED] {
                let why = "needed for modshift's own rows on the way back";
                lacking.table(Severity::Fault, table, &CONTROL_PRIVILEGES, why);
            }
            for table in [control::VERIFY, control::MISMATCH, control::SETTLED] {
                let why = "needed by modshift verify --back";
                lacking.table(Severity::Warning, table, &CONTROL_PRIVILEGES, why);
            }
        } else {
            let why = "needed to read the binlog on the way back";
            lacking.global(Severity::Fault, &["REPLICATION SLAVE"], why);
            lacking.global(Severity::Fault, &["BINLOG MONITOR"], FILTERS);
        }
        faults.extend(lacking.faults);
    }
    faults
}

/// What the cutover needs, of whichever login it uses. Before it, nothing does.
pub fn check_fence(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut lacking = Lacking::of(server, &facts.grants);
        if let (Some(fencing), Some((user, _))) = (&facts.fencing, &survey.plan.cutover.login) {
            match fencing {
                Ok(grants) => (lacking.user, lacking.grants) = (user, grants),
                Err(error) => {
                    let subject = format!("{}: user {user} of [cutover]", server.side);
                    let mend = error.hint.as_deref().unwrap_or("correct [cutover] of the plan");
                    faults.push(
                        Fault::new(Severity::Warning, RULE, subject, &*error.message)
                            .expected("the login of the cutover to be let in")
                            .mend(mend),
                    );
                    continue;
                }
            }
        }
        let through = "needed at the cutover to write while the server is read-only";
        lacking.global(Severity::Warning, &["READ_ONLY ADMIN"], through);
        let why = "needed at the cutover to lock, end and count the application's sessions";
        lacking.global(Severity::Warning, &["CREATE USER", "CONNECTION ADMIN", "PROCESS"], why);
        if facts.is_replica() == Some(true) {
            let why = "needed at the cutover to stop inbound replication";
            lacking.global(Severity::Warning, &["REPLICATION SLAVE ADMIN"], why);
        }
        if server.side.is_old() && facts.is_on("event_scheduler") {
            let why = "needed at the cutover to switch event_scheduler off";
            lacking.global(Severity::Warning, &["SUPER"], why);
        }
        if !server.side.is_old() && ahead::interleaves(&survey.plan) {
            let why = "needed at the cutover to set the steps of AUTO_INCREMENT";
            lacking.global(Severity::Warning, &["SUPER"], why);
        }
        faults.extend(lacking.faults);
    }
    faults
}
