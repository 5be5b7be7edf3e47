//! What makes a table like that of another shard, out of what `SHOW CREATE TABLE` says of both.
//!
//! The statements keep what a definition says in full: each column's character set and collation
//! (which the server leaves out where they are the table's), default, comment, CHECK, INVISIBLE, ON
//! UPDATE. Constraints are dropped in a statement of their own: one that drops and adds a name at once
//! fails (1005). What would destroy rows that serve, or cannot be said as an ALTER TABLE, is for a
//! person.

use modshift_mariadb::value::quote;
use modshift_proto::{Column, TableSchema};

use super::mend::{Mend, Way};
use super::rules::foreign_keys::holds;
use super::survey::{Facts, Table};

/// A definition in its parts, as the server prints them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Definition<'a> {
    columns: Vec<(String, &'a str)>,
    keys: Vec<&'a str>,
    constraints: Vec<&'a str>,
    options: Vec<&'a str>,
    /// Partitions and whatever else follows.
    rest: Vec<&'a str>,
}

impl<'a> Definition<'a> {
    pub fn parse(create: &'a str) -> Definition<'a> {
        let mut found = Definition::default();
        for line in create.lines().skip(1) {
            if !found.options.is_empty() || !found.rest.is_empty() {
                found.rest.push(line.trim());
            } else if let Some(options) = line.strip_prefix(") ") {
                found.options = options_of(options);
            } else {
                found.add(line.trim());
            }
        }
        found
    }

    fn add(&mut self, line: &'a str) {
        let line = line.strip_suffix(',').unwrap_or(line);
        if line.starts_with('`') {
            self.columns.push((name_in(line).unwrap_or_default(), line));
        } else if line.starts_with("CONSTRAINT ") {
            self.constraints.push(line);
        } else if line.split('`').next().is_some_and(|head| head.contains("KEY ")) {
            self.keys.push(line);
        } else {
            self.rest.push(line);
        }
    }

    /// Every part; the counter of AUTO_INCREMENT is none.
    pub fn parts(&self) -> Vec<&'a str> {
        let columns = self.columns.iter().map(|(_, line)| *line);
        let others = [&self.keys, &self.constraints, &self.options, &self.rest];
        columns.chain(others.into_iter().flatten().copied()).collect()
    }

    fn line(&self, column: &str) -> Option<&'a str> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, line)| *line)
    }
}

fn options_of(options: &str) -> Vec<&str> {
    // A comment may hold anything: whole or not at all. Nothing of ours follows it.
    let (words, comment) = match options.find(" COMMENT='") {
        Some(at) => (&options[..at], Some(&options[at + 1..])),
        None => (options, None),
    };
    let words = words.split(' ').filter(|word| !word.starts_with("AUTO_INCREMENT="));
    words.filter(|word| *word != "DEFAULT").chain(comment).collect()
}

/// The first quoted name.
fn name_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('`')?;
    let mut name = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '`' if chars.peek() == Some(&'`') => name.extend(chars.next()),
            '`' => return Some(name),
            c => name.push(c),
        }
    }
    None
}

/// A column's definition with its character set and collation, which the server leaves out where they
/// are the table's.
fn whole(line: &str, column: &Column) -> String {
    let (Some(charset), Some(collation)) = (&column.charset, &column.collation) else {
        return line.to_owned();
    };
    let head = format!("{} {}", quote(&column.name), column.type_text);
    let Some(tail) = line.strip_prefix(&head) else { return line.to_owned() };
    let tail = match tail.trim_start().strip_prefix("CHARACTER SET ") {
        // A collation alone is left out where it is the character set's own.
        Some(said) => said.split_once(' ').map_or("", |(_, rest)| rest),
        None => tail.trim_start(),
    };
    let tail = match tail.strip_prefix("COLLATE ") {
        Some(said) => said.split_once(' ').map_or("", |(_, rest)| rest),
        None => tail,
    };
    format!("{head} CHARACTER SET {charset} COLLATE {collation} {tail}").trim_end().to_owned()
}

/// How the table is to be changed, and whether its rows may be given up for it.
pub struct Alike<'a> {
    pub name: &'a str,
    pub model: &'a Table,
    pub other: &'a Table,
    /// Rows come from elsewhere, and nobody reads them yet.
    pub expendable: bool,
    /// Of the shard that is to change.
    pub facts: &'a Facts,
}

impl Alike<'_> {
    pub fn mend(&self) -> Mend {
        match self.statements() {
            Some(statements) => Mend::run(Way::AlterTable, statements),
            None => "make the two alike by hand, as SHOW CREATE TABLE prints them: what differs \
                     cannot be changed without a decision about rows or partitions"
                .into(),
        }
    }

    fn statements(&self) -> Option<Vec<String>> {
        let (Ok(ours), Ok(theirs)) = (&self.model.schema, &self.other.schema) else { return None };
        let (model, other) =
            (Definition::parse(&self.model.create), Definition::parse(&self.other.create));
        if model.rest != other.rest {
            return None;
        }
        let lacks = |ours: &[&str], theirs: &[&str]| -> Vec<String> {
            let missing = ours.iter().filter(|part| !theirs.contains(part));
            missing.map(|part| (*part).to_owned()).collect()
        };
        let mut first = Vec::new();
        for constraint in lacks(&other.constraints, &model.constraints) {
            let kind =
                if constraint.contains("` FOREIGN KEY (") { "FOREIGN KEY" } else { "CONSTRAINT" };
            first.push(format!("DROP {kind} {}", quote(&name_in(&constraint)?)));
        }
        let mut then = self.columns(ours, theirs, &model, &other)?;
        for key in lacks(&other.keys, &model.keys) {
            then.push(match key.starts_with("PRIMARY KEY") {
                true => "DROP PRIMARY KEY".to_owned(),
                false => format!("DROP KEY {}", quote(&name_in(&key)?)),
            });
        }
        for part in [(&model.keys, &other.keys), (&model.constraints, &other.constraints)] {
            then.extend(lacks(part.0, part.1).into_iter().map(|part| format!("ADD {part}")));
        }
        let options = lacks(&model.options, &other.options);
        for option in lacks(&other.options, &model.options) {
            let name = option.split('=').next()?.to_owned();
            if !model.options.iter().any(|ours| ours.split('=').next() == Some(&name)) {
                then.push(unset(&name)?);
            }
        }
        then.extend(options);
        let alter = |changes: Vec<String>| {
            let table = quote(self.name);
            (!changes.is_empty()).then(|| format!("ALTER TABLE {table} {}", changes.join(", ")))
        };
        let changes: Vec<String> = [alter(first), alter(then)].into_iter().flatten().collect();
        (!changes.is_empty()).then(|| std::iter::once(self.session()).chain(changes).collect())
    }

    /// What does not fit is an error, never cut off; dates and defaults of any kind may stay. Rows that
    /// come from elsewhere may come before those that they refer to.
    fn session(&self) -> String {
        let mode = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES'";
        match self.expendable {
            true => format!("{mode}, foreign_key_checks = 0, check_constraint_checks = 0"),
            false => mode.to_owned(),
        }
    }

    fn columns(
        &self,
        ours: &TableSchema,
        theirs: &TableSchema,
        model: &Definition<'_>,
        other: &Definition<'_>,
    ) -> Option<Vec<String>> {
        let mut changes = Vec::new();
        let mut before = "FIRST".to_owned();
        for (index, column) in ours.columns.iter().enumerate() {
            let line = model.line(&column.name)?;
            let name = quote(&column.name);
            match theirs.columns.get(index) {
                None => changes.push(format!("ADD COLUMN {}", whole(line, column))),
                // In another order: which of them is which is for a person to say.
                Some(their) if their.name != column.name => return None,
                Some(their) if their != column || other.line(&column.name) != Some(line) => {
                    let computed = |line: &str| line.contains(" GENERATED ALWAYS AS (");
                    let remade = computed(line) || other.line(&column.name).is_some_and(computed);
                    match (remade, self.expendable) {
                        // How a value comes about cannot be changed in place.
                        (true, true) => {
                            changes.push(format!("DROP COLUMN {name}"));
                            changes.push(format!("ADD COLUMN {} {before}", whole(line, column)));
                        }
                        (true, false) => return None,
                        // The server changes no type that a foreign key holds to another's.
                        (false, false) if holds(self.facts, self.name, &column.name) => {
                            return None;
                        }
                        (false, _) => {
                            changes.push(format!("MODIFY COLUMN {}", whole(line, column)));
                        }
                    }
                }
                Some(_) => {}
            }
            before = format!("AFTER {name}");
        }
        let beyond = theirs.columns.get(ours.columns.len()..).unwrap_or_default();
        // It would take what the application has stored there.
        if !beyond.is_empty() && !self.expendable {
            return None;
        }
        changes.extend(beyond.iter().map(|column| format!("DROP COLUMN {}", quote(&column.name))));
        Some(changes)
    }
}

/// An option that the model does not have.
fn unset(name: &str) -> Option<String> {
    let value = match name {
        "COMMENT" => "''",
        "KEY_BLOCK_SIZE" | "MAX_ROWS" | "MIN_ROWS" | "AVG_ROW_LENGTH" | "CHECKSUM" => "0",
        "ROW_FORMAT" | "STATS_PERSISTENT" | "STATS_AUTO_RECALC" | "STATS_SAMPLE_PAGES"
        | "PACK_KEYS" => "DEFAULT",
        name if name.starts_with('`') => "DEFAULT",
        _ => return None,
    };
    Some(format!("{name}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::schema::DataType;

    fn column(name: &str, type_text: &str, charset: Option<(&str, &str)>) -> Column {
        Column {
            name: name.into(),
            data: DataType::VarChar,
            type_text: type_text.into(),
            charset: charset.map(|(charset, _)| charset.to_owned()),
            collation: charset.map(|(_, collation)| collation.to_owned()),
            nullable: false,
            generated: false,
        }
    }

    fn table(create: &str, columns: Vec<Column>) -> Table {
        let schema =
            TableSchema { name: "t".into(), columns, primary_key: vec![0], unique_keys: vec![] };
        Table {
            engine: "InnoDB".to_owned(),
            create: create.to_owned(),
            schema: Ok(schema),
            empty: true,
            rows: 0,
            bytes: 0,
            counter: None,
        }
    }

    fn check(ours: (&str, Vec<Column>), theirs: (&str, Vec<Column>), expected: Option<&[&str]>) {
        let (model, other) = (table(ours.0, ours.1), table(theirs.0, theirs.1));
        let facts = crate::check::survey::made::facts();
        for expendable in [true, false] {
            let alike =
                Alike { name: "t", model: &model, other: &other, expendable, facts: &facts };
            let found = alike.statements();
            if !expendable && expected.is_some_and(|all| all.iter().any(|s| s.contains("DROP COL")))
            {
                assert_eq!(found, None);
                continue;
            }
            let found = found.as_ref().map(|all| all[1..].iter().map(String::as_str).collect());
            assert_eq!(found, expected.map(<[&str]>::to_vec));
        }
    }

    #[test]
    fn what_differs_is_changed_in_the_models_own_words() {
        let id = || column("id", "int(11)", None);
        let v = |charset| column("v", "varchar(9)", Some(charset));
        let latin = ("latin1", "latin1_bin");
        let ours = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  `v` varchar(9) DEFAULT 'a,b' COMMENT 'x',\n  PRIMARY KEY (`id`),\n  KEY `k` (`v`),\n  CONSTRAINT `c` CHECK (`id` > 0)\n) ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=latin1 COLLATE=latin1_bin";
        let model = || (ours, vec![id(), v(latin)]);
        check(model(), model(), None);
        let theirs = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  `v` varchar(9) DEFAULT 'a,b' COMMENT 'x',\n  PRIMARY KEY (`id`),\n  KEY `l` (`v`),\n  CONSTRAINT `c` CHECK (`id` > 1)\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=COMPRESSED COMMENT='a b'";
        check(
            model(),
            (theirs, vec![id(), v(("utf8mb4", "utf8mb4_bin"))]),
            Some(&[
                "ALTER TABLE `t` DROP CONSTRAINT `c`",
                "ALTER TABLE `t` MODIFY COLUMN `v` varchar(9) CHARACTER SET latin1 COLLATE latin1_bin \
                 DEFAULT 'a,b' COMMENT 'x', DROP KEY `l`, ADD KEY `k` (`v`), ADD CONSTRAINT `c` CHECK \
                 (`id` > 0), ROW_FORMAT=DEFAULT, COMMENT='', CHARSET=latin1, COLLATE=latin1_bin",
            ]),
        );
        let shorter = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_bin";
        check(
            model(),
            (shorter, vec![id()]),
            Some(&["ALTER TABLE `t` ADD COLUMN `v` varchar(9) CHARACTER SET latin1 COLLATE \
                    latin1_bin DEFAULT 'a,b' COMMENT 'x', ADD KEY `k` (`v`), ADD CONSTRAINT `c` CHECK \
                    (`id` > 0)"]),
        );
        // Live rows are not given up for it.
        check(
            (shorter, vec![id()]),
            model(),
            Some(&[
                "ALTER TABLE `t` DROP CONSTRAINT `c`",
                "ALTER TABLE `t` DROP COLUMN `v`, DROP KEY `k`",
            ]),
        );
        check(model(), (ours, vec![v(latin), id()]), None);
    }

    #[test]
    fn a_column_is_said_in_full() {
        let said = |line, expected: &str| {
            let column = column("v", "varchar(9)", Some(("utf8mb4", "utf8mb4_bin")));
            assert_eq!(whole(line, &column), expected);
        };
        let full = "`v` varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL INVISIBLE";
        said("`v` varchar(9) NOT NULL INVISIBLE", full);
        said(full, full);
        said("`v` varchar(9) COLLATE utf8mb4_bin NOT NULL INVISIBLE", full);
        assert_eq!(name_in("KEY `a``b` (`c`)").as_deref(), Some("a`b"));
    }
}
