//! Nothing is left behind unseen: whatever an old schema holds is planned, ignored by name, or a
//! fault.

use std::collections::BTreeMap;

use modshift_mariadb::control;

use crate::check::fault::{Fault, Severity, Side, sides_of};
use crate::check::survey::{Object, Survey};

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "left_behind";
    // One line for one object, however many shards have it.
    let mut left: BTreeMap<(&str, &str), Vec<Side>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let carried = |object: &Object| {
            let planned = |table: &str| survey.plan.tables.iter().any(|t| t.name == table);
            match object.kind {
                "event" => true,
                "trigger" => {
                    let mut own = facts.triggers.iter().filter(|t| t.name == object.name);
                    own.any(|trigger| planned(&trigger.table))
                }
                _ => false,
            }
        };
        let objects = facts.objects.iter();
        let objects = objects.filter(|object| is_left(survey, object) && !carried(object));
        for Object { kind, name } in objects {
            left.entry((kind, name)).or_default().push(server.side);
        }
        if !facts.unseen.is_empty() {
            let actual = format!("the account may not see {}", facts.unseen.join(" or "));
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, actual)
                    .expected("to list what the plan does not name")
                    .mend("the grants in deploy/mariadb/grants-old.sql"),
            );
        }
    }
    faults.extend(left.into_iter().map(|((kind, name), sides)| {
        let subject = format!("{kind} {name}");
        let actual = format!("exists on {} and is not in the plan", sides_of(sides));
        let mend = match kind {
            "table" => format!("[[table]] name = \"{name}\", or \"{name}\" in check.ignore"),
            _ => format!("carry it over by hand, then \"{name}\" in check.ignore"),
        };
        Fault::new(Severity::Fault, RULE, subject, actual)
            .expected("everything to be planned, or left behind by name")
            .mend(mend)
    }));
    faults
}

fn is_left(survey: &Survey, object: &Object) -> bool {
    let planned =
        object.kind == "table" && survey.plan.tables.iter().any(|t| t.name == object.name);
    let ignored = survey.plan.check.ignores(&object.name);
    !planned && !ignored && !object.name.starts_with(control::PREFIX)
}
