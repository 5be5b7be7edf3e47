//! Other schemas, in which a session may write in statement format: what a reader has to ask about them.

use std::collections::BTreeSet;

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::{Survey, endpoint};

/// What shows triggers and the queries of views.
const NEEDED: [&str; 3] = ["SELECT", "TRIGGER", "SHOW VIEW"];

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut said = BTreeSet::new();
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let identity = facts.variables.identity();
        let ours: BTreeSet<&str> = survey
            .reached()
            .filter(|(_, other)| other.variables.identity() == identity)
            .map(|(other, _)| endpoint(&survey.plan, other.side).schema.as_str())
            .collect();
        let unseen = facts.beside.schemas.keys().filter(|schema| {
            let sees = NEEDED.iter().all(|right| facts.grants.has_on_schema(schema, right));
            !ours.contains(schema.as_str()) && !sees
        });
        let unseen: Vec<&String> = unseen.collect();
        if unseen.is_empty() || !said.insert(identity) {
            continue;
        }
        let names = some_of(unseen);
        let actual = format!(
            "its server has schemas whose triggers and views modshift may not see ({names}): a \
             session that writes there with binlog_format = STATEMENT or MIXED halts the reader"
        );
        let file = if server.side.is_old() { "grants-old.sql" } else { "grants-new.sql" };
        faults.push(
            Fault::new(Severity::Note, "statements", server.side, actual)
                .expected("binlog_format = ROW in every session")
                .mend(format!(
                    "where pt-heartbeat, pt-table-checksum or others write so: \
                     deploy/mariadb/{file} with @other = the schema"
                )),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use modshift_mariadb::Grants;

    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn schemas_whose_triggers_are_not_seen_are_named_once_for_a_server() {
        let made = |grants: &'static [&'static str]| {
            survey(move |which, facts| {
                if which < 2 {
                    facts.variables.set("port", "3306");
                    let schemas =
                        ["s", "ops", "blog"].map(|name| (name.to_owned(), BTreeSet::new()));
                    facts.beside.schemas = schemas.into();
                    facts.grants = Grants::parse(grants.iter().copied());
                }
            })
        };
        let found = lines(&check(&made(&[
            "GRANT SELECT ON *.* TO `u`@`%`",
            "GRANT TRIGGER, SHOW VIEW ON `ops`.* TO `u`@`%`",
        ])));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("may not see (blog)"), "{found:?}");
        assert!(lines(&check(&made(&["GRANT ALL PRIVILEGES ON *.* TO `u`@`%`"]))).is_empty());
    }
}
