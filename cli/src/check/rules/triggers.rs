//! A trigger where modshift applies rows would run for each of them, and change what it writes.

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::Survey;
use modshift_mariadb::value::quote;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        // Where it serves: what is there is the application's, and runs for its writes only.
        if survey.takes_writes(server.side) {
            continue;
        }
        let planned = facts
            .triggers
            .iter()
            .filter(|trigger| survey.plan.tables.iter().any(|t| t.name == trigger.table));
        faults.extend(planned.map(|trigger| {
            let subject = format!("{}: table {}", server.side, trigger.table);
            let actual =
                format!("has trigger {}, which runs for rows that modshift applies", trigger.name);
            Fault::new(Severity::Fault, "triggers", subject, actual)
                .expected(
                    "none where applications do not write: the cutover hands over those of the \
                     side that serves",
                )
                .mend(Mend::run(
                    Way::DropTrigger,
                    [format!("DROP TRIGGER {}", quote(&trigger.name))],
                ))
        }));
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use modshift_mariadb::catalog::TriggerInfo;
    use modshift_proto::message::TokenPhase;

    use super::*;
    use crate::check::rules::{events, read_only};
    use crate::check::survey::Token;
    use crate::check::survey::made::{lines, survey};
    use modshift_mariadb::Grants;
    use modshift_mariadb::catalog::EventInfo;

    #[test]
    fn nothing_is_taken_from_shards_that_serve_and_none_is_opened_by_hand() {
        let found = |serving: &str| {
            let survey = survey(|which, facts| {
                let name = "tr".to_owned();
                let when = "BEFORE INSERT".to_owned();
                facts.triggers = vec![TriggerInfo { name, table: "t".to_owned(), when }];
                facts.events = Some(vec![EventInfo { name: "e".into(), status: "ENABLED".into() }]);
                let serves = (which < 2) == (serving == "old");
                let phase = if serves { TokenPhase::Serving } else { TokenPhase::Fenced };
                facts.token = Some(Token { epoch: 1, clock: Duration::ZERO, phase });
                facts.grants = Grants::parse(["GRANT ALL PRIVILEGES ON *.* TO `u`@`%`"]);
                facts.variables.set("read_only", if serves { "OFF" } else { "ON" });
            });
            let mut found = check(&survey);
            found.extend(
                events::check(&survey).into_iter().filter(|f| f.subject.starts_with("new")),
            );
            found.extend(read_only::check(&survey));
            lines(&found)
        };
        let before = found("old");
        assert_eq!(before.len(), 6, "{before:#?}");
        assert!(before[0].ends_with("mend: DROP TRIGGER `tr`;"), "{before:#?}");
        // The same of the side that rows go to by then, and nothing is to be dropped where it serves.
        let after = found("new");
        let dropped: Vec<_> = after.iter().filter(|line| line.contains("DROP")).collect();
        assert_eq!(dropped.len(), 2, "{after:#?}");
        assert!(dropped.iter().all(|line| line.starts_with("fault  old shard")), "{after:#?}");
    }
}
