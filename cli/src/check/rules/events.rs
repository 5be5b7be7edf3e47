//! Events write by themselves: on a new shard before its time, on an old one until its fence.

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::Survey;
use modshift_mariadb::value::quote;

const RULE: &str = "events";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let Some(events) = &facts.events else {
            let user = &server.endpoint.user;
            let account = mend::account(&facts.grants, user);
            let grant =
                format!("GRANT SELECT (db, name, status, definer) ON mysql.event TO {account}");
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, "cannot see which events run")
                    .expected("to know what writes by itself")
                    .mend(Mend::run(Way::GrantColumns, [grant])),
            );
            continue;
        };
        let enabled = events.iter().filter(|event| event.status == "ENABLED");
        let names: Vec<&str> = enabled.map(|event| event.name.as_str()).collect();
        let running = facts.is_on("event_scheduler");
        if names.is_empty() {
            continue;
        }
        let state = if running { "running" } else { "off" };
        let actual =
            format!("has enabled events {}, and event_scheduler is {state}", some_of(&names));
        let disable: Vec<String> =
            names.iter().map(|name| format!("ALTER EVENT {} DISABLE", quote(name))).collect();
        if survey.takes_writes(server.side) {
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, actual)
                    .expected("to be handed over by the cutover, which stops them here")
                    .mend("put the name of one that is to stay behind into check.ignore"),
            );
        } else {
            let severity = if running { Severity::Fault } else { Severity::Warning };
            faults.push(
                Fault::new(severity, RULE, server.side, actual)
                    .expected("nobody but modshift to write here while the other side serves")
                    .mend(Mend::run(Way::DisableEvent, disable)),
            );
        }
    }
    faults
}
