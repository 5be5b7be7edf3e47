//! Servers that modshift knows.

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
    const RULE: &str = "version";
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let fault =
            |severity| Fault::new(severity, RULE, server.side, format!("is {}", facts.version));
        let tested = format!("{}.{}", VERSION_TESTED.0, VERSION_TESTED.1);
        match of(&facts.version) {
            None => faults.push(
                fault(Severity::Fault)
                    .expected("MariaDB")
                    .mend("name a MariaDB server in the plan: no other has its binlog and GTIDs"),
            ),
            Some(version) if version < VERSION_MIN => {
                let least = format!("MariaDB {}.{} or later", VERSION_MIN.0, VERSION_MIN.1);
                faults.push(
                    fault(Severity::Fault)
                        .expected(least)
                        .mend(format!("upgrade the server, best to {tested}, which is tested")),
                );
            }
            Some(version) if version != VERSION_TESTED => {
                faults.push(fault(Severity::Note).expected(format!("{tested}, which is tested")));
            }
            Some(_) => {}
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(of("10.11.19-MariaDB-0+deb12u1-log"), Some((10, 11)));
        assert_eq!(of("5.5.5-10.4.3-MariaDB"), Some((10, 4)));
        assert_eq!(of("8.0.36"), None);
    }
}
