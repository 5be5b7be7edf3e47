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
        if survey.serves(server.side) && !server.side.is_old() {
            continue;
        }
        if server.side.is_old() {
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, actual)
                    .expected("to be created anew on the new shards; the cutover stops them here")
                    .mend("create each as SHOW CREATE EVENT prints it, and enable it there after the cutover"),
            );
        } else {
            let severity = if running { Severity::Fault } else { Severity::Warning };
            faults.push(
                Fault::new(severity, RULE, server.side, actual)
                    .expected("nobody but modshift to write here before the cutover")
                    .mend(Mend::run(Way::DisableEvent, disable)),
            );
        }
    }
    faults
}
