//! What the account of a connection may do, out of `SHOW GRANTS`.

use std::collections::{BTreeMap, BTreeSet};

/// Privileges of one account, those of its active roles and of PUBLIC included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Whose they are, as SHOW GRANTS prints it: `user`@`host`.
    account: Option<String>,
    global: BTreeSet<String>,
    /// By schema pattern as granted: `_`, `%` and `\` as in LIKE.
    schemas: BTreeMap<String, BTreeSet<String>>,
    /// By schema and table. Column privileges are not counted: they cover a part of each row.
    tables: BTreeMap<(String, String), BTreeSet<String>>,
    /// By schema, table and column, for tables of which not all columns are granted.
    columns: BTreeMap<(String, String, String), BTreeSet<String>>,
}

const ALL: &str = "ALL PRIVILEGES";
/// To hand on what one has: not among all privileges, and printed behind the account.
const GRANT_OPTION: &str = "GRANT OPTION";

impl Grants {
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Grants {
        let mut grants = Grants::default();
        for line in lines {
            grants.add(line);
        }
        grants
    }

    /// Lines of another form (roles, PROXY, routines, default roles) grant nothing that is asked
    /// for here.
    fn add(&mut self, line: &str) -> Option<()> {
        let rest = line.strip_prefix("GRANT ")?;
        let (privileges, rest) = split_unquoted(rest, " ON ")?;
        let (object, rest) = split_unquoted(rest, " TO ")?;
        let grantee = split_unquoted(rest, " ").map_or(rest, |(grantee, _)| grantee);
        // Roles have no host.
        if self.account.is_none() && split_unquoted(grantee, "@").is_some() {
            self.account = Some(grantee.to_owned());
        }
        let (mut privileges, of_columns) = privileges_of(privileges);
        if split_unquoted(rest, " WITH ").is_some_and(|(_, with)| with.contains(GRANT_OPTION)) {
            privileges.insert(GRANT_OPTION.to_owned());
        }
        let into = if object == "*.*" {
            &mut self.global
        } else if let Some(schema) = object.strip_suffix(".*") {
            self.schemas.entry(unquote(schema)?).or_default()
        } else if object.starts_with('`') {
            let (schema, table) = split_unquoted(object, ".")?;
            let (schema, table) = (unquote(schema)?, unquote(table)?);
            for (privilege, column) in of_columns {
                let key = (schema.clone(), table.clone(), column);
                self.columns.entry(key).or_default().insert(privilege);
            }
            self.tables.entry((schema, table)).or_default()
        } else {
            return None;
        };
        into.extend(privileges);
        Some(())
    }

    /// Held on `*.*`. Names as MariaDB prints them: `REPLICATION SLAVE`, `BINLOG MONITOR`.
    pub fn has_global(&self, privilege: &str) -> bool {
        holds(&self.global, privilege)
    }

    /// Held on every table of the schema.
    pub fn has_on_schema(&self, schema: &str, privilege: &str) -> bool {
        self.has_global(privilege)
            || self
                .schemas
                .iter()
                .any(|(pattern, held)| like(pattern, schema) && holds(held, privilege))
    }

    /// Held on the table, all columns of it.
    pub fn has_on_table(&self, schema: &str, table: &str, privilege: &str) -> bool {
        self.has_on_schema(schema, privilege)
            || self
                .tables
                .get(&(schema.to_owned(), table.to_owned()))
                .is_some_and(|held| holds(held, privilege))
    }

    /// Held on the column, or on all of them.
    pub fn has_on_column(&self, schema: &str, table: &str, column: &str, privilege: &str) -> bool {
        self.has_on_table(schema, table, privilege)
            || self.columns.iter().any(|((s, t, c), held)| {
                (s.as_str(), t.as_str()) == (schema, table)
                    && c.eq_ignore_ascii_case(column)
                    && held.contains(privilege)
            })
    }

    /// The account that the server took the login for, as GRANT takes it.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    pub fn global(&self) -> impl Iterator<Item = &str> {
        self.global.iter().map(String::as_str)
    }
}

fn holds(held: &BTreeSet<String>, privilege: &str) -> bool {
    held.contains(privilege) || held.contains(ALL) && privilege != GRANT_OPTION
}

/// `SELECT (`a`, `b`), INSERT` holds INSERT on the whole, and SELECT on two columns.
fn privileges_of(list: &str) -> (BTreeSet<String>, Vec<(String, String)>) {
    let (mut found, mut of_columns) = (BTreeSet::new(), Vec::new());
    let mut rest = list;
    while !rest.is_empty() {
        let end = rest.find([',', '(']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if let Some(within) = after.strip_prefix('(') {
            let Some((mut columns, after)) = split_unquoted(within, ")") else { break };
            loop {
                let (column, more) = split_unquoted(columns, ",").unwrap_or((columns, ""));
                let column = unquote(column.trim());
                of_columns.extend(column.map(|column| (name.trim().to_owned(), column)));
                if more.is_empty() {
                    break;
                }
                columns = more;
            }
            rest = after.trim_start_matches([',', ' ']);
            continue;
        }
        found.insert(name.trim().to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    (found, of_columns)
}

/// At the first `separator` that is not within backticks.
fn split_unquoted<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        if !quoted && text[at..].starts_with(separator) {
            return Some((&text[..at], &text[at + separator.len()..]));
        }
        if c == '`' {
            quoted = !quoted;
        }
    }
    None
}

fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('`')?.strip_suffix('`')?;
    Some(inner.replace("``", "`"))
}

fn like(pattern: &str, name: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => name.is_empty(),
        Some('%') => {
            let rest = chars.as_str();
            like(rest, name)
                || name.char_indices().any(|(at, c)| like(rest, &name[at + c.len_utf8()..]))
        }
        Some('_') => {
            let mut name = name.chars();
            name.next().is_some() && like(chars.as_str(), name.as_str())
        }
        Some(c) => {
            let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
            name.strip_prefix(c).is_some_and(|rest| like(chars.as_str(), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_the_server_prints_them() {
        let grants = Grants::parse([
            "GRANT `reader` TO `m`@`%`",
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `m`@`%` IDENTIFIED BY PASSWORD '*X'",
            r"GRANT ALL PRIVILEGES ON `sh\_%`.* TO `m`@`%`",
            "GRANT SELECT ON `lent`.* TO `m`@`%` WITH GRANT OPTION",
            "GRANT SELECT (`y`, ` ON `), INSERT ON `d`.`od``d` TO `m`@`%`",
            "GRANT EXECUTE ON PROCEDURE `d`.`p` TO `m`@`%`",
            "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION",
            "SET DEFAULT ROLE `reader` FOR `m`@`%`",
        ]);
        assert_eq!(grants.account(), Some("`m`@`%`"));
        let global: Vec<_> = grants.global().collect();
        assert_eq!(global, ["BINLOG MONITOR", "REPLICATION SLAVE"]);
        assert!(grants.has_on_schema("sh_3", "INSERT"));
        assert!(!grants.has_on_schema("shx3", "INSERT"));
        assert!(grants.has_on_schema("lent", "GRANT OPTION"));
        assert!(!grants.has_on_schema("sh_3", "GRANT OPTION"));
        assert!(grants.has_on_table("d", "od`d", "INSERT"));
        assert!(!grants.has_on_table("d", "od`d", "SELECT"));
        assert!(grants.has_on_column("d", "od`d", "y", "SELECT"));
        assert!(grants.has_on_column("d", "od`d", " ON ", "SELECT"));
        assert!(!grants.has_on_column("d", "od`d", "z", "SELECT"));
        assert!(!grants.has_on_table("d", "p", "EXECUTE"));
    }
}
