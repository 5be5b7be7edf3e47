//! Servers that are read-only already, and accounts that could not write there.

use super::fence_accounts::accounts_only;
use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::Survey;

const RULE: &str = "read_only";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(_, facts)| facts.is_on("read_only")) {
        let user = &server.endpoint.user;
        if accounts_only(survey, server.side) {
            let actual = "is read-only, and a fence of accounts neither sets that nor ends it";
            faults.push(
                Fault::new(Severity::Fault, RULE, server.side, actual)
                    .expected(
                        "OFF, or the cutover refuses it: locked accounts keep the application out",
                    )
                    .mend(Mend::set(Way::SetReadOnly, "read_only", 0)),
            );
            continue;
        }
        // Before 10.11 SUPER has it too, which costs no more to grant than what is named here.
        if !facts.grants.has_global("READ_ONLY ADMIN") {
            let actual = format!("is read-only, and user {user} has no READ_ONLY ADMIN");
            faults.push(
                Fault::new(Severity::Fault, RULE, server.side, actual)
                    .expected("that modshift can write its own tables")
                    .mend(Mend::run(
                        Way::GrantGlobal,
                        [format!(
                            "GRANT READ_ONLY ADMIN ON *.* TO {}",
                            mend::account(&facts.grants, user)
                        )],
                    )),
            );
        } else if server.side.is_old()
            && !survey.is_fenced(server.side)
            // Of a pair the other may serve: `peers` says which, and what is wrong with it.
            && server.endpoint.peers.is_none()
        {
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, "is read-only for applications")
                    .expected("that they write here until the cutover")
                    .mend(Mend::set(Way::SetReadOnly, "read_only", 0)),
            );
        }
    }
    faults
}
