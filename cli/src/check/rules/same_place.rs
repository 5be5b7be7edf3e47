//! Which servers shards share, by what servers say of themselves: names lead to one server under many.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::{Facts, Server, Survey};

const RULE: &str = "same_place";

/// Names of schemas may or may not know upper case: in doubt it is the same.
fn is_same_schema(a: &Server, b: &Server) -> bool {
    a.endpoint.schema.to_lowercase() == b.endpoint.schema.to_lowercase()
}

fn of_one_server<'a>(
    survey: &'a Survey,
    server: &'a Server,
    facts: &'a Facts,
) -> impl Iterator<Item = &'a Server> {
    let id = facts.variables.identity();
    let others = survey.reached().filter(move |(other, theirs)| {
        other.side != server.side && theirs.variables.identity() == id
    });
    others.map(|(other, _)| other)
}

/// Two shards in one schema: each reader would read what the other does, and two appliers take the
/// watermark from each other for ever.
pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let twin = of_one_server(survey, server, facts)
            .find(|other| other.side < server.side && is_same_schema(server, other));
        let Some(twin) = twin else { continue };
        let at = &server.endpoint;
        let actual = format!(
            "{}:{} is the server of {}, and schema {} is the same",
            at.host, at.port, twin.side, at.schema
        );
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual)
                .expected("a schema of its own for each shard")
                .mend("correct host, port or schema of one of the two in the plan"),
        );
    }
    faults
}

/// Where both sides share a server its `read_only` would stop both: a fence then is locked accounts,
/// and the cutover refuses unless each side has its own.
pub fn check_fence(survey: &Survey) -> Vec<Fault> {
    let cutover = &survey.plan.cutover;
    let apart = !cutover.old_accounts.is_empty()
        && !cutover.new_accounts.is_empty()
        && !cutover.old_accounts.iter().any(|account| cutover.new_accounts.contains(account));
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| !server.side.is_old()) {
        let other = of_one_server(survey, server, facts).find(|other| other.side.is_old());
        let Some(other) = other.filter(|other| !is_same_schema(server, other)) else { continue };
        let replicas = !server.endpoint.replicas.is_empty() || !other.endpoint.replicas.is_empty();
        let (actual, expected, mend) = match (apart, replicas) {
            (true, false) => continue,
            (false, _) => (
                "so that the fence can only lock accounts, and the plan has none for each side",
                "accounts of which none is on both sides",
                "cutover.old_accounts = [...] and cutover.new_accounts = [...] in the plan, none in \
                 both; or another server",
            ),
            (true, true) => (
                "and has replicas, which a fence would close for both sides",
                "no replicas, or a server for each side",
                "take replicas out of the plan, or move one side to another server",
            ),
        };
        let actual = format!("is on the server of {}, {actual}", other.side);
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual).expected(expected).mend(mend),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn one_schema_is_one_schema_under_any_name() {
        let survey = survey(|which, facts| {
            if which == 3 {
                facts.variables.set("port", "3308");
            }
        });
        assert_eq!(
            lines(&check(&survey)),
            ["fault  new shard 1: h:3309 is the server of new shard 0, and schema s is the same, \
                 expected a schema of its own for each shard; mend: correct host, port or schema of \
                 one of the two in the plan"]
        );
        assert!(check_fence(&survey).is_empty());
    }
}
