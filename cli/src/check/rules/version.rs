//! Servers that modshift knows.

use std::fmt;

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

/// The oldest long-term release that its maker still mends; older ones were never tried.
const VERSION_MIN: (u32, u32) = (10, 6);
const VERSION_TESTED: (u32, u32) = (10, 11);

/// `10.11.6-MariaDB-…`; `None` for what is not MariaDB.
pub fn of(text: &str) -> Option<(u32, u32)> {
    if !text.contains("MariaDB") {
        return None;
    }
    // Older proxies announce 5.5.5-10.x to please MySQL clients.
    let text = text.strip_prefix("5.5.5-").unwrap_or(text);
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    survey.reached().filter_map(|(server, facts)| judge(&server.side, &facts.version)).collect()
}

/// The same of the other servers that the plan names.
pub fn check_further(survey: &Survey) -> Vec<Fault> {
    let answered = survey.further.iter().filter_map(|f| Some((f, f.facts.as_ref().ok()?)));
    let faults = answered.filter_map(|(further, facts)| {
        let fault = judge(further, &facts.version)?;
        let severity = match further.only_rehearses() {
            true => fault.severity.max(Severity::Warning),
            false => fault.severity,
        };
        Some(Fault { severity, ..fault })
    });
    faults.collect()
}

fn judge(subject: &dyn fmt::Display, version: &str) -> Option<Fault> {
    let fault = |severity| Fault::new(severity, "version", subject, format!("is {version}"));
    let tested = format!("{}.{}", VERSION_TESTED.0, VERSION_TESTED.1);
    match of(version) {
        None => Some(
            fault(Severity::Fault)
                .expected("MariaDB")
                .mend("name a MariaDB server in the plan: no other has its binlog and GTIDs"),
        ),
        Some(version) if version < VERSION_MIN => {
            let least = format!("MariaDB {}.{} or later", VERSION_MIN.0, VERSION_MIN.1);
            Some(
                fault(Severity::Fault)
                    .expected(least)
                    .mend(format!("upgrade the server, best to {tested}, which is tested")),
            )
        }
        Some(version) if version != VERSION_TESTED => {
            Some(fault(Severity::Note).expected(format!("{tested}, which is tested")))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(of("10.11.19-MariaDB-0+deb12u1-log"), Some((10, 11)));
        assert_eq!(of("5.5.5-10.4.3-MariaDB"), Some((10, 4)));
        assert_eq!(of("8.0.36"), None);
    }

    #[test]
    fn a_server_that_was_never_tried_is_refused() {
        let survey = survey(|which, facts| {
            facts.version = ["10.11.6-MariaDB", "10.5.9-MariaDB", "8.0.36", "11.4.2-MariaDB"]
                [which.min(3)]
            .to_owned();
        });
        let found = lines(&check(&survey));
        assert_eq!(
            found[0],
            "fault  old shard 1: is 10.5.9-MariaDB, expected MariaDB 10.6 or later; \
             mend: upgrade the server, best to 10.11, which is tested"
        );
        assert!(
            found[1].starts_with("fault  new shard 0: is 8.0.36, expected MariaDB"),
            "{found:?}"
        );
        assert!(found[2].starts_with("note  new shard 1: is 11.4.2"), "{found:?}");
        assert_eq!(found.len(), 4);
    }
}
