//! Foreign keys of planned tables, read off `SHOW CREATE TABLE`: information_schema shows them
//! only to accounts with more than SELECT.

use crate::check::ahead;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Facts, Survey};
use modshift_mariadb::value::quote;
use modshift_proto::plan::Placement;

const RULE: &str = "foreign_keys";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub parent: String,
    /// Columns, and those that they refer to, in order.
    pub columns: Vec<String>,
    pub referenced: Vec<String>,
    /// `ON DELETE CASCADE` and the like; nothing for RESTRICT and NO ACTION.
    pub actions: Vec<String>,
    /// Its definition without actions, as `ADD` takes it.
    pub plain: String,
}

/// One line per constraint: ``CONSTRAINT `n` FOREIGN KEY (`a`) REFERENCES `p` (`b`) ON DELETE …``
pub fn of_create(create: &str) -> Vec<ForeignKey> {
    create.lines().filter_map(of_line).collect()
}

fn of_line(line: &str) -> Option<ForeignKey> {
    let rest = line.trim_start().strip_prefix("CONSTRAINT ")?;
    let (name, rest) = rest.split_once(" FOREIGN KEY (")?;
    let (columns, rest) = rest.split_once(") REFERENCES ")?;
    let (parent, rest) = rest.split_once(" (")?;
    let (referenced, tail) = rest.rsplit_once(')')?;
    let tail = tail.trim().trim_end_matches(',');
    let whole = line.trim().trim_end_matches(',');
    let plain = whole.strip_suffix(tail).unwrap_or(whole).trim_end().to_owned();
    let mut actions = Vec::new();
    for event in ["ON DELETE ", "ON UPDATE "] {
        let Some((_, action)) = tail.split_once(event) else { continue };
        for writing in ["CASCADE", "SET NULL", "SET DEFAULT"] {
            if action.starts_with(writing) {
                actions.push(format!("{event}{writing}"));
            }
        }
    }
    let bare = |quoted: &str| quoted.replace('`', "");
    let (columns, referenced) = (names(columns), names(referenced));
    Some(ForeignKey { name: bare(name), parent: bare(parent), columns, referenced, actions, plain })
}

/// Does a foreign key of the planned tables hold the column to that of another table?
pub fn holds(facts: &Facts, table: &str, column: &str) -> bool {
    let quoted = quote(column);
    facts.tables.iter().any(|(name, other)| {
        of_create(&other.create)
            .iter()
            .any(|key| (name == table || key.parent == table) && key.plain.contains(&quoted))
    })
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut plain = Vec::new();
        for (name, table) in &facts.tables {
            for key in of_create(&table.create) {
                if key.actions.is_empty() && over_shard_keys(survey, name, &key) {
                    continue;
                }
                if key.actions.is_empty() {
                    plain.push(format!("{name}.{}", key.name));
                    continue;
                }
                let actual = format!("foreign key {} has {}", key.name, key.actions.join(" and "));
                // On new shards the keys are not enforced while modshift writes; but they are once
                // the application does, and then the way back would miss what they do.
                let counts = server.side.is_old() || ahead::way_back(&survey.plan);
                let severity = if counts { Severity::Fault } else { Severity::Note };
                let (table, constraint) = (quote(name), quote(&key.name));
                let statements = [
                    // One statement cannot drop and add a name at once.
                    format!("ALTER TABLE {table} DROP FOREIGN KEY {constraint}"),
                    format!("ALTER TABLE {table} ADD {}", key.plain),
                ];
                faults.push(
                    Fault::new(severity, RULE, format!("{}: table {name}", server.side), actual)
                        .expected("no action that changes rows: the binlog does not show them")
                        .mend(
                            Mend::run(Way::RestrictForeignKey, statements).note(
                                "the application then has to do itself what the key did for it",
                            ),
                        ),
                );
            }
        }
        if server.side.is_old() && !plain.is_empty() {
            let actual = format!("has foreign keys {}", some_of(plain));
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, actual)
                    .expected("rows that refer to each other to have the same shard key")
                    .mend("give the referring table the same shard key, or drop the foreign key"),
            );
        }
    }
    faults
}

/// Rows that refer to each other by it have the same shard key, for it is among its columns on both
/// sides, at the same place.
fn over_shard_keys(survey: &Survey, table: &str, key: &ForeignKey) -> bool {
    let sharded = |name: &str| {
        let planned = survey.plan.tables.iter().find(|planned| planned.name == name)?;
        match &planned.placement {
            Placement::Sharded { key, rule } => Some((key.as_str(), rule)),
            _ => None,
        }
    };
    let (Some((child, by)), Some((parent, theirs))) = (sharded(table), sharded(&key.parent)) else {
        return false;
    };
    let mut pairs = key.columns.iter().zip(&key.referenced);
    let same = |(own, other): (&String, &String)| {
        own.eq_ignore_ascii_case(child) && other.eq_ignore_ascii_case(parent)
    };
    by == theirs && pairs.any(same)
}

/// `` `a`, `b` ``
fn names(list: &str) -> Vec<String> {
    list.split(", ").map(|name| name.trim_matches('`').replace("``", "`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::survey;

    #[test]
    fn one_over_the_shard_keys_holds_rows_of_one_shard_together() {
        let survey = survey(|_, _| {});
        let of = |columns: &str, referenced: &str| {
            let line =
                format!("  CONSTRAINT `k` FOREIGN KEY ({columns}) REFERENCES `t` ({referenced})");
            over_shard_keys(&survey, "t", &of_line(&line).unwrap())
        };
        assert!(of("`uid`", "`uid`") && of("`x`, `uid`", "`y`, `uid`"));
        assert!(!of("`parent`", "`id`") && !of("`x`, `uid`", "`uid`, `x`"));
        let elsewhere =
            of_line("  CONSTRAINT `k` FOREIGN KEY (`uid`) REFERENCES `p` (`uid`)").unwrap();
        assert!(!over_shard_keys(&survey, "t", &elsewhere));
    }

    #[test]
    fn a_key_is_added_again_without_its_actions() {
        let line = "  CONSTRAINT `k` FOREIGN KEY (`a`) REFERENCES `p` (`id`) ON DELETE CASCADE,";
        let plain = "CONSTRAINT `k` FOREIGN KEY (`a`) REFERENCES `p` (`id`)";
        assert_eq!(of_line(line).unwrap().plain, plain);
    }

    #[test]
    fn actions_are_read_as_the_server_prints_them() {
        let create = "CREATE TABLE `c` (\n  `a` int(11) COMMENT 'x CONSTRAINT `no` FOREIGN KEY (',\n  \
            CONSTRAINT `k1` FOREIGN KEY (`a`) REFERENCES `p` (`id`),\n  \
            CONSTRAINT `k2` FOREIGN KEY (`a`, `b`) REFERENCES `p` (`id`, `x`) ON DELETE CASCADE ON UPDATE SET NULL,\n  \
            CONSTRAINT `k3` FOREIGN KEY (`a`) REFERENCES `p` (`id`) ON DELETE NO ACTION\n)";
        let keys = of_create(create);
        let shown: Vec<_> = keys.iter().map(|k| (k.name.as_str(), k.actions.join("; "))).collect();
        let k2 = "ON DELETE CASCADE; ON UPDATE SET NULL".to_owned();
        assert_eq!(shown, [("k1", String::new()), ("k2", k2), ("k3", String::new())]);
    }
}
