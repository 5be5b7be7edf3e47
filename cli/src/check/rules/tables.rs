//! Rules over planned tables: they exist everywhere, mean the same everywhere, and can be copied,
//! routed and applied.

use modshift_mariadb::value::quote;
use modshift_proto::plan::Placement;
use modshift_proto::schema::DataType;
use modshift_proto::{TableSchema, UniqueKey};

use crate::check::fault::{Fault, Severity};
use crate::check::survey::{Survey, Table};

pub fn check(survey: &Survey) -> Vec<Fault> {
    survey.plan.tables.iter().flat_map(|planned| of_table(survey, &planned.name)).collect()
}

fn of_table(survey: &Survey, name: &str) -> Vec<Fault> {
    const RULE: &str = "tables";
    let mut faults = Vec::new();
    // The first old shard that has it is the measure of all others.
    let mut measure: Option<(String, &TableSchema, &str)> = None;
    for (server, facts) in survey.reached() {
        let subject = format!("{}: table {name}", server.side);
        let Some(table) = facts.tables.get(name) else {
            let mend = match server.side.is_old() {
                true => "create it, correct its name in the plan, or grant SELECT on it",
                false => "modshift schema --apply",
            };
            let fault = Fault::new(Severity::Fault, RULE, subject, "is missing");
            faults.push(fault.expected("every planned table on every shard").mend(mend));
            continue;
        };
        let schema = match &table.schema {
            Ok(schema) => schema,
            Err(error) => {
                let hint = error.hint.as_deref().unwrap_or("take the table out of the plan");
                let fault = Fault::new(Severity::Fault, RULE, subject, &*error.message);
                faults.push(fault.expected("a table that can be carried over").mend(hint));
                continue;
            }
        };
        faults.extend(by_itself(&subject, name, table, schema));
        faults.extend(bound(survey, &subject, name, schema));
        match &measure {
            None => measure = Some((server.side.to_string(), schema, &table.create)),
            Some((first, model, create)) => {
                let mend = statements(name, model, create, schema).unwrap_or_else(|| {
                    "ALTER TABLE until `modshift schema` shows no difference".to_owned()
                });
                faults.extend(differences(model, schema).into_iter().map(|difference| {
                    Fault::new(Severity::Fault, RULE, &subject, difference)
                        .expected(format!("the same as on {first}"))
                        .mend(&*mend)
                }));
            }
        }
    }
    faults
}

fn by_itself(subject: &str, name: &str, table: &Table, schema: &TableSchema) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        faults.push(
            Fault::new(Severity::Fault, "engine", subject, format!("engine is {}", table.engine))
                .expected("InnoDB, for consistent reads")
                .mend(format!("ALTER TABLE {name} ENGINE=InnoDB")),
        );
    }
    if schema.primary_key.is_empty() {
        faults.push(
            Fault::new(Severity::Fault, "primary_key", subject, "has no primary key")
                .expected("one, which names each row")
                .mend(format!("ALTER TABLE {name} ADD PRIMARY KEY (...)")),
        );
    }
    for &index in &schema.primary_key {
        let column = &schema.columns[index];
        // Rounding makes "greater than the last key" skip or repeat rows.
        if matches!(column.data, DataType::Float | DataType::Double) {
            let actual = format!("primary key column {} is {}", column.name, column.type_text);
            faults.push(
                Fault::new(Severity::Fault, "primary_key", subject, actual)
                    .expected("a type with an exact order")
                    .mend(format!("ALTER TABLE {name} MODIFY {} DECIMAL(...)", column.name)),
            );
        }
        if column.generated {
            let actual = format!("primary key column {} is generated", column.name);
            faults.push(
                Fault::new(Severity::Fault, "primary_key", subject, actual)
                    .expected("a stored value of its own")
                    .mend(format!(
                        "ALTER TABLE {name} DROP PRIMARY KEY, ADD PRIMARY KEY (columns that are stored)"
                    )),
            );
        }
    }
    faults
}

fn bound(survey: &Survey, subject: &str, name: &str, schema: &TableSchema) -> Option<Fault> {
    const RULE: &str = "shard_key";
    let planned = survey.plan.tables.iter().find(|planned| planned.name == name)?;
    let Placement::Sharded { key, rule } = &planned.placement else { return None };
    let Some(index) = schema.column(key) else {
        let names = schema.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        let fault = Fault::new(Severity::Fault, RULE, subject, format!("has no column {key}"));
        let fault = fault.expected(format!("the shard key among {names}"));
        return Some(fault.mend(format!("correct key of [[table]] {name} in the plan")));
    };
    let error = rule.bind(&schema.columns[index]).err()?;
    let fault = Fault::new(Severity::Fault, RULE, subject, error.to_string());
    Some(fault.expected("a column that the rule can place").mend(error.hint()))
}

/// What decides that a row means the same on both sides; the fingerprint covers no more.
pub fn differences(model: &TableSchema, other: &TableSchema) -> Vec<String> {
    let mut found = Vec::new();
    for (index, column) in model.columns.iter().enumerate() {
        match other.columns.get(index) {
            None => found.push(format!("lacks column {}", column.name)),
            Some(theirs) if theirs.name != column.name => {
                found.push(format!("column {} is {}, not {}", index + 1, theirs.name, column.name));
                return found; // what follows is only shifted
            }
            Some(theirs) if theirs != column => {
                let show = |c: &modshift_proto::Column| {
                    let null = if c.nullable { "NULL" } else { "NOT NULL" };
                    let generated = if c.generated { " generated" } else { "" };
                    let collation = c.collation.as_deref().unwrap_or("");
                    format!("{} {collation} {null}{generated}", c.type_text).replace("  ", " ")
                };
                found.push(format!(
                    "column {} is {}, not {}",
                    column.name,
                    show(theirs),
                    show(column)
                ));
            }
            Some(_) => {}
        }
    }
    let beyond = other.columns.iter().skip(model.columns.len());
    found.extend(beyond.map(|column| format!("has column {} too many", column.name)));
    if primary_key(model) != primary_key(other) {
        let (theirs, ours) = (primary_key(other).join(", "), primary_key(model).join(", "));
        found.push(format!("primary key is ({theirs}), not ({ours})"));
    }
    let unique = |schema: &TableSchema| {
        let mut keys: Vec<Vec<usize>> =
            schema.unique_keys.iter().map(|key| key.columns.clone()).collect();
        keys.sort();
        keys
    };
    if found.is_empty() && unique(model) != unique(other) {
        found.push("unique keys differ".to_owned());
    }
    found
}

/// What makes the other table like the model: one ALTER TABLE, with the model's own words.
/// Nothing where columns are in another order, which is for a person to decide.
fn statements(
    name: &str,
    model: &TableSchema,
    create: &str,
    other: &TableSchema,
) -> Option<String> {
    let line = |column: &str| {
        let begin = format!("{} ", quote(column));
        let line = create.lines().map(str::trim).find(|line| line.starts_with(&begin))?;
        Some(line.strip_suffix(',').unwrap_or(line))
    };
    let mut changes = Vec::new();
    for (index, column) in model.columns.iter().enumerate() {
        match other.columns.get(index) {
            None => changes.push(format!("ADD COLUMN {}", line(&column.name)?)),
            Some(theirs) if theirs.name != column.name => return None,
            Some(theirs) if theirs != column => {
                changes.push(format!("MODIFY COLUMN {}", line(&column.name)?));
            }
            Some(_) => {}
        }
    }
    let beyond = other.columns.iter().skip(model.columns.len());
    changes.extend(beyond.map(|column| format!("DROP COLUMN {}", quote(&column.name))));
    if primary_key(model) != primary_key(other) {
        let columns: Vec<String> = primary_key(model).iter().map(|name| quote(name)).collect();
        if !other.primary_key.is_empty() {
            changes.push("DROP PRIMARY KEY".to_owned());
        }
        changes.push(format!("ADD PRIMARY KEY ({})", columns.join(", ")));
    }
    let columns = |schema: &TableSchema, key: &UniqueKey| -> Vec<String> {
        key.columns.iter().map(|&index| quote(&schema.columns[index].name)).collect()
    };
    let has = |schema: &TableSchema, wanted: &[String]| {
        schema.unique_keys.iter().any(|key| columns(schema, key) == wanted)
    };
    for key in &other.unique_keys {
        if !has(model, &columns(other, key)) {
            changes.push(format!("DROP KEY {}", quote(&key.name)));
        }
    }
    for key in &model.unique_keys {
        let columns = columns(model, key);
        if !has(other, &columns) {
            changes.push(format!("ADD UNIQUE KEY {} ({})", quote(&key.name), columns.join(", ")));
        }
    }
    (!changes.is_empty()).then(|| format!("ALTER TABLE {} {}", quote(name), changes.join(", ")))
}

fn primary_key(schema: &TableSchema) -> Vec<&str> {
    schema.primary_key.iter().map(|&index| schema.columns[index].name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::Column;

    fn column(name: &str, type_text: &str, nullable: bool) -> Column {
        Column {
            name: name.into(),
            data: DataType::VarChar,
            type_text: type_text.into(),
            charset: None,
            collation: None,
            nullable,
            generated: false,
        }
    }

    fn table(columns: Vec<Column>) -> TableSchema {
        TableSchema { name: "t".into(), columns, primary_key: vec![0], unique_keys: vec![] }
    }

    #[test]
    fn differences_are_named() {
        let model = table(vec![column("id", "int", false), column("v", "varchar(10)", true)]);
        let check = |columns, expected: &[&str]| {
            assert_eq!(differences(&model, &table(columns)), expected);
        };
        check(model.columns.clone(), &[]);
        check(vec![column("id", "int", false)], &["lacks column v"]);
        check(
            vec![column("id", "int", false), column("v", "varchar(20)", false)],
            &["column v is varchar(20) NOT NULL, not varchar(10) NULL"],
        );
        check(
            vec![column("v", "varchar(10)", true), column("id", "int", false)],
            &["column 1 is v, not id"],
        );
    }

    #[test]
    fn a_difference_is_mended_with_the_models_own_words() {
        let model = table(vec![column("id", "int", false), column("v", "varchar(10)", true)]);
        let create = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  \
                      `v` varchar(10) DEFAULT 'a,b' COMMENT 'x',\n  PRIMARY KEY (`id`)\n)";
        let check = |columns, expected: Option<&str>| {
            assert_eq!(statements("t", &model, create, &table(columns)).as_deref(), expected);
        };
        check(model.columns.clone(), None);
        check(
            vec![column("id", "int", false)],
            Some("ALTER TABLE `t` ADD COLUMN `v` varchar(10) DEFAULT 'a,b' COMMENT 'x'"),
        );
        check(
            vec![column("id", "bigint", false), column("v", "varchar(10)", true)],
            Some("ALTER TABLE `t` MODIFY COLUMN `id` int(11) NOT NULL"),
        );
        check(vec![column("v", "varchar(10)", true), column("id", "int", false)], None);
    }
}
