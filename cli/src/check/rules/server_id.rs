//! Two replicas under one server id cut each other off.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "server_id";
    let mut faults = Vec::new();
    let own_ids: Vec<(u32, String)> = survey
        .reached()
        .map(|(server, facts)| {
            (facts.variable("server_id").parse().unwrap_or(0), server.side.to_string())
        })
        .chain(survey.further.iter().filter_map(|further| {
            let facts = further.facts.as_ref().ok()?;
            let id = facts.variables.text("server_id").parse().unwrap_or(0);
            Some((id, further.to_string()))
        }))
        .collect();
    for (server, facts) in survey.reached() {
        let id = server.endpoint.replica_server_id;
        let mend = "choose another replica_server_id in the plan";
        for (taken, who) in own_ids.iter().filter(|(taken, _)| *taken == id) {
            let actual = format!("replica_server_id {taken} is the server_id of {who} itself");
            faults.push(
                Fault::new(Severity::Fault, RULE, server.side, actual)
                    .expected("an id that no server has")
                    .mend(mend),
            );
        }
        // Where the reader registers.
        let tailed = survey.tailed(server.side);
        let (at, connected) = match &tailed {
            Some(part) => (part.name(), &part.facts.replica_ids),
            None => (server.side.to_string(), &facts.replica_ids),
        };
        match connected {
            Some(ids) if ids.contains(&id) => {
                let actual = format!(
                    "a replica with server_id {id} is connected: a running replicator of this \
                     plan, or a stranger that will be cut off"
                );
                faults.push(
                    Fault::new(Severity::Warning, RULE, at, actual)
                        .expected("no replica of that id, before the daemons run")
                        .mend(mend),
                );
            }
            Some(_) => {}
            None => {
                let actual = "cannot see the server ids of connected replicas";
                let grants = tailed.as_ref().map_or(&facts.grants, |part| &part.facts.grants);
                let account = mend::account(grants, &server.endpoint.user);
                let grant = format!("GRANT REPLICATION MASTER ADMIN ON *.* TO {account}");
                faults.push(
                    Fault::new(Severity::Note, RULE, at, actual)
                        .expected("no replica of that id")
                        .mend(
                            Mend::run(Way::GrantGlobal, [grant])
                                .note(format!("or make sure that no replica uses {id}")),
                        ),
                );
            }
        }
    }
    faults
}
