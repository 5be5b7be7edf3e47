//! Privileges: what `SHOW GRANTS` gives each account of the plan, against what its side needs.

use std::collections::BTreeSet;

use modshift_mariadb::control;

use super::fault::{Fault, Severity, some_of};
use super::survey::{Server, Survey};

const RULE: &str = "grants";

/// The grants of one account, as far as they can matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    privileges: BTreeSet<String>,
    /// A pattern as `LIKE` has it, or `*`.
    schema: String,
    /// A name, or `*`.
    table: String,
}

impl Grants {
    /// Lines of `SHOW GRANTS`. Lines that grant roles, or columns only, count for nothing.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Grants {
        Grants(lines.into_iter().filter_map(parse_line).collect())
    }

    pub fn has(&self, privilege: &str, schema: &str, table: &str) -> bool {
        self.0.iter().any(|grant| {
            (grant.privileges.contains(privilege) || grant.privileges.contains("ALL PRIVILEGES"))
                && (grant.schema == "*" || like(schema, &grant.schema))
                && (grant.table == "*" || grant.table.eq_ignore_ascii_case(table))
        })
    }

    pub fn has_global(&self, privilege: &str) -> bool {
        self.0.iter().any(|grant| {
            grant.schema == "*"
                && (grant.privileges.contains(privilege)
                    || grant.privileges.contains("ALL PRIVILEGES"))
        })
    }
}

/// ``GRANT SELECT, INSERT ON `shop`.* TO `u`@`%` …``
fn parse_line(line: &str) -> Option<Grant> {
    let rest = line.strip_prefix("GRANT ")?;
    let (privileges, rest) = rest.split_once(" ON ")?;
    let (object, _) = rest.split_once(" TO ")?;
    if object.starts_with("PROCEDURE ")
        || object.starts_with("FUNCTION ")
        || object.starts_with("PACKAGE ")
    {
        return None;
    }
    let (schema, table) = split_object(object)?;
    let privileges = privileges
        .split(',')
        .map(|privilege| privilege.trim().to_ascii_uppercase())
        .map(|privilege| match privilege.as_str() {
            // Its name before 10.5, still understood by later servers.
            "REPLICATION CLIENT" => "BINLOG MONITOR".to_owned(),
            _ => privilege,
        });
    Some(Grant { privileges: privileges.collect(), schema, table })
}

/// `` `a``b`.`t` `` into names without quotes.
fn split_object(object: &str) -> Option<(String, String)> {
    let bytes = object.as_bytes();
    let mut quoted = false;
    let dot = bytes.iter().position(|&byte| {
        quoted ^= byte == b'`';
        byte == b'.' && !quoted
    })?;
    let name = |part: &str| match part.strip_prefix('`').and_then(|p| p.strip_suffix('`')) {
        Some(inner) => inner.replace("``", "`"),
        None => part.to_owned(),
    };
    Some((name(&object[..dot]), name(&object[dot + 1..])))
}

/// `LIKE` with `%`, `_` and `\`, as schema names in grants are matched.
fn like(text: &str, pattern: &str) -> bool {
    fn matches(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skip| matches(&text[skip..], rest)),
            ['_', rest @ ..] => !text.is_empty() && matches(&text[1..], rest),
            ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && matches(&text[1..], rest)
            }
        }
    }
    let chars = |s: &str| s.chars().collect::<Vec<_>>();
    matches(&chars(text), &chars(pattern))
}

const OLD_CONTROL: [&str; 2] = [control::TOKEN, control::PROGRESS];
const OLD_CONTROL_PRIVILEGES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];
const NEW_PRIVILEGES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];

pub fn check(survey: &Survey) -> Vec<Fault> {
    survey.reached().flat_map(|(server, facts)| of_server(server, &facts.grants)).collect()
}

fn of_server(server: &Server, grants: &Grants) -> Vec<Fault> {
    let schema = server.endpoint.schema.as_str();
    let user = &server.endpoint.user;
    let subject = format!("{}: user {user}", server.side);
    let mut faults = Vec::new();
    let mut lacking = |severity, privileges: Vec<&str>, on: String, why: &str| {
        let Some(list) = (!privileges.is_empty()).then(|| privileges.join(", ")) else { return };
        faults.push(
            Fault::new(severity, RULE, &subject, format!("lacks {list} on {on}, {why}"))
                .mend(format!("GRANT {list} ON {on} TO {user}@...")),
        );
    };
    let without = |wanted: &[&'static str], table: &str| -> Vec<&'static str> {
        wanted.iter().copied().filter(|p| !grants.has(p, schema, table)).collect()
    };
    if server.side.is_old() {
        let global = |p: &'static str| if grants.has_global(p) { vec![] } else { vec![p] };
        let binlog = "needed to read the binlog";
        lacking(Severity::Fault, global("REPLICATION SLAVE"), "*.*".into(), binlog);
        lacking(
            Severity::Fault,
            without(&["SELECT"], "*"),
            all_of(schema),
            "needed to copy tables",
        );
        for table in OLD_CONTROL {
            let on = format!("`{schema}`.`{table}`");
            let wanted = without(&OLD_CONTROL_PRIVILEGES, table);
            lacking(Severity::Fault, wanted, on, "needed for modshift's own rows");
        }
    } else {
        let wanted = without(&NEW_PRIVILEGES, "*");
        lacking(Severity::Fault, wanted, all_of(schema), "needed to apply changes");
    }
    // The server shows triggers only to who may make them; there is no lesser privilege.
    let blind = "without which triggers there cannot be seen";
    lacking(Severity::Warning, without(&["TRIGGER"], "*"), all_of(schema), blind);
    faults
}

fn all_of(schema: &str) -> String {
    format!("`{schema}`.*")
}

/// Accounts other than ours that can write without leaving a trace in the binlog.
pub fn check_accounts(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "accounts";
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let severity = match survey.plan.check.accept_session_binlog_control {
            true => Severity::Note,
            false => Severity::Warning,
        };
        let accept = "or set check.accept_session_binlog_control = true";
        match &facts.binlog_admins {
            None => faults.push(
                Fault::new(
                    severity,
                    RULE,
                    server.side,
                    "cannot see which accounts may switch binlog_format or sql_log_bin in their \
                     session",
                )
                .mend(format!(
                    "create the view modshift_accounts as in deploy/mariadb/grants-old.sql, {accept}"
                )),
            ),
            Some(accounts) if accounts.is_empty() => {}
            Some(accounts) => faults.push(
                Fault::new(
                    severity,
                    RULE,
                    server.side,
                    format!(
                        "{} may switch binlog_format or sql_log_bin in their session and so write \
                         what no reader sees",
                        some_of(accounts)
                    ),
                )
                .mend(format!("REVOKE BINLOG ADMIN, SUPER ON *.* FROM ..., {accept}")),
            ),
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        Grants::parse(lines.iter().copied())
    }

    #[test]
    fn grants_read_as_the_server_prints_them() {
        let grants = grants(&[
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `m`@`%` IDENTIFIED BY PASSWORD '*X'",
            "GRANT SELECT, TRIGGER ON `shop\\_1`.* TO `m`@`%`",
            "GRANT SELECT, INSERT, CREATE ON `shop_1`.`modshift_token` TO `m`@`%`",
            "GRANT `role` TO `m`@`%`",
        ]);
        assert!(grants.has_global("REPLICATION SLAVE"));
        assert!(!grants.has_global("SELECT"));
        assert!(grants.has("SELECT", "shop_1", "anything"));
        assert!(!grants.has("SELECT", "shopx1", "anything"));
        assert!(grants.has("INSERT", "shop_1", "modshift_token"));
        assert!(!grants.has("INSERT", "shop_1", "orders"));
    }

    #[test]
    fn all_privileges_are_all() {
        let grants =
            grants(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]);
        assert!(grants.has_global("REPLICATION SLAVE"));
        assert!(grants.has("TRIGGER", "any", "t"));
    }

    #[test]
    fn schema_patterns_match_as_in_the_server() {
        assert!(like("shop_old_0", "shop\\_old\\_%"));
        assert!(!like("shopxold_0", "shop\\_old\\_%"));
        assert!(like("a.b", "a_b"));
        assert_eq!(split_object("`a.``b`.*"), Some(("a.`b".into(), "*".into())));
    }
}
