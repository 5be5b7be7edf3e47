//! Differences that change no row's bytes, and yet what the application gets: indexes, defaults,
//! constraints, table options. A generated column is not copied, and not verified: the server
//! computes it again, so another expression is another row.

use modshift_mariadb::value::quote;

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::survey::Survey;

const RULE: &str = "drift";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for planned in &survey.plan.tables {
        let name = &planned.name;
        let mut holders =
            survey.reached().filter_map(|(server, facts)| Some((server, facts.tables.get(name)?)));
        let Some((first, model)) = holders.next() else { continue };
        for (server, table) in holders {
            // What rows depend on is for the rule `tables`.
            let (Ok(ours), Ok(theirs)) = (&model.schema, &table.schema) else { continue };
            if !super::tables::differences(ours, theirs).is_empty() {
                continue;
            }
            let (ours, theirs) = (parts(&model.create), parts(&table.create));
            let lacks: Vec<&str> = ours.iter().filter(|p| !theirs.contains(p)).copied().collect();
            let beyond: Vec<&str> = theirs.iter().filter(|p| !ours.contains(p)).copied().collect();
            if lacks.is_empty() && beyond.is_empty() {
                continue;
            }
            let actual = match (lacks.is_empty(), beyond.is_empty()) {
                (false, true) => format!("lacks {}", some_of(&lacks)),
                (true, false) => format!("has {} too many", some_of(&beyond)),
                _ => format!("has {} instead of {}", some_of(&beyond), some_of(&lacks)),
            };
            let subject = format!("{}: table {name}", server.side);
            let severity = match lacks.iter().chain(&beyond).any(|part| is_generated(part)) {
                true => Severity::Fault,
                false => Severity::Warning,
            };
            faults.push(
                Fault::new(severity, RULE, subject, actual)
                    .expected(format!("the same as on {}", first.side))
                    .mend(statement(name, &lacks, &beyond)),
            );
        }
    }
    faults
}

/// Lines of a definition; the counter of AUTO_INCREMENT is no part of it.
fn parts(create: &str) -> Vec<&str> {
    let lines = create.lines().skip(1).map(|line| line.trim().trim_end_matches(','));
    lines
        .flat_map(|line| match line.strip_prefix(") ") {
            Some(options) => {
                let words = options.split(' ').filter(|w| !w.starts_with("AUTO_INCREMENT="));
                // A comment may hold anything: whole or not at all.
                match options.find(" COMMENT=") {
                    None => words.collect::<Vec<_>>(),
                    Some(at) => vec![&options[at + 1..]],
                }
            }
            None => vec![line],
        })
        .collect()
}

/// Of `SHOW CREATE TABLE`, where a comment or a default that says the same is no harm: it is asked
/// of lines that differ.
fn is_generated(part: &str) -> bool {
    part.starts_with('`') && part.contains(" GENERATED ALWAYS AS (")
}

fn statement(name: &str, lacks: &[&str], beyond: &[&str]) -> String {
    let key_name = |part: &str| {
        let (_, rest) = part.split_once('`')?;
        Some(quote(rest.split_once('`')?.0))
    };
    let is_key = |part: &str| {
        part.split('`').next().is_some_and(|head| head.ends_with("KEY ") || head == "KEY ")
    };
    let mut changes = Vec::new();
    for part in beyond {
        match key_name(part) {
            Some(key) if part.starts_with("CONSTRAINT") => {
                changes.push(format!("DROP CONSTRAINT {key}"));
            }
            Some(key) if is_key(part) => changes.push(format!("DROP KEY {key}")),
            // A column of the model's takes its place, and so do options.
            _ => {}
        }
    }
    for part in lacks {
        if part.starts_with('`') {
            changes.push(format!("MODIFY COLUMN {part}"));
        } else if part.starts_with("CONSTRAINT") || is_key(part) {
            changes.push(format!("ADD {part}"));
        } else {
            changes.push((*part).to_owned());
        }
    }
    format!("ALTER TABLE {} {}", quote(name), changes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_in_its_own_words() {
        let ours = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  `v` int(11) DEFAULT 1,\n  \
                    PRIMARY KEY (`id`),\n  KEY `k` (`v`)\n) ENGINE=InnoDB AUTO_INCREMENT=7 ROW_FORMAT=DYNAMIC";
        let theirs = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  `v` int(11) DEFAULT 2,\n  \
                      PRIMARY KEY (`id`),\n  KEY `l` (`id`)\n) ENGINE=InnoDB";
        let (ours, theirs) = (parts(ours), parts(theirs));
        let lacks: Vec<&str> = ours.iter().filter(|p| !theirs.contains(p)).copied().collect();
        let beyond: Vec<&str> = theirs.iter().filter(|p| !ours.contains(p)).copied().collect();
        assert_eq!(
            statement("t", &lacks, &beyond),
            "ALTER TABLE `t` DROP KEY `l`, MODIFY COLUMN `v` int(11) DEFAULT 1, \
             ADD KEY `k` (`v`), ROW_FORMAT=DYNAMIC"
        );
    }
}
