//! Privileges: what `SHOW GRANTS` gives each account of the plan, against what its side needs:
//! to copy, to come back, and to fence.

use super::needs;
use crate::check::ahead;
use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

const RULE: &str = "grants";

/// What the streams old -> new need.
pub fn check(survey: &Survey) -> Vec<Fault> {
    of_each(survey, needs::forward)
}

/// What the streams new -> old need: each side the other's privileges.
pub fn check_back(survey: &Survey) -> Vec<Fault> {
    match ahead::way_back(&survey.plan) {
        true => of_each(survey, needs::back),
        false => Vec::new(),
    }
}

fn of_each(survey: &Survey, needs: impl Fn(bool) -> Vec<needs::Need>) -> Vec<Fault> {
    let judged = survey.reached().flat_map(|(server, facts)| {
        let login = (server.endpoint.user.as_str(), &facts.grants);
        let needs = needs(server.side.is_old());
        needs::judge(&server.side.to_string(), login, &server.endpoint.schema, &needs)
    });
    judged.collect()
}

/// What the cutover needs, of whichever login it uses. Before it, nothing does.
pub fn check_fence(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut login = (server.endpoint.user.as_str(), &facts.grants);
        let old = server.side.is_old();
        let mut needs = needs::cutover(&survey.plan, old, facts);
        match (&facts.fencing, &survey.plan.cutover.login) {
            (Some(Ok(grants)), Some((user, _))) => login = (user, grants),
            (Some(Err(error)), Some((user, _))) => {
                let subject = format!("{}: user {user} of [cutover]", server.side);
                let mend = error.hint.as_deref().unwrap_or("correct [cutover] of the plan");
                faults.push(
                    Fault::new(Severity::Warning, RULE, subject, &*error.message)
                        .expected("the login of the cutover to be let in")
                        .mend(mend),
                );
                continue;
            }
            // Asked of the streams' login already, which it is.
            _ => needs.retain(|need| need.privileges != ["READ_ONLY ADMIN"]),
        }
        let schema = &server.endpoint.schema;
        faults.extend(needs::judge(&server.side.to_string(), login, schema, &needs));
    }
    faults
}
