//! Nothing is left behind unseen: whatever an old schema holds is planned, ignored by name, or a
//! fault.

use std::collections::BTreeMap;

use modshift_mariadb::control;

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::{Object, Survey};

/// `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "left_behind";
    // One line for one object, however many shards have it.
    let mut left: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let objects = facts.objects.iter().filter(|object| is_left(survey, object));
        for Object { kind, name } in objects {
            left.entry((kind, name)).or_default().push(server.side.to_string());
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
        let actual = format!("exists on {} and is not in the plan", some_of(sides));
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
    let ignored = survey.plan.check.ignore.iter().any(|pattern| matches(pattern, &object.name));
    !planned && !ignored && !object.name.starts_with(control::PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in
            [("a", "a"), ("*", "x"), ("tmp_*", "tmp_1"), ("*_old", "a_old"), ("a*b*c", "axxbyc")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("tmp_*", "xtmp_1"), ("*_old", "a_old2"), ("a*a", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
