//! Rules over planned tables: they exist everywhere, mean the same everywhere, and can be copied,
//! routed and applied.

use modshift_proto::TableSchema;
use modshift_proto::plan::Placement;
use modshift_proto::schema::DataType;

use super::fault::{Fault, Severity};
use super::survey::{Survey, Table};

pub fn check(survey: &Survey) -> Vec<Fault> {
    survey.plan.tables.iter().flat_map(|planned| of_table(survey, &planned.name)).collect()
}

fn of_table(survey: &Survey, name: &str) -> Vec<Fault> {
    const RULE: &str = "tables";
    let mut faults = Vec::new();
    // The first old shard that has it is the measure of all others.
    let mut measure: Option<(String, &TableSchema)> = None;
    for (server, facts) in survey.reached() {
        let subject = format!("{}: table {name}", server.side);
        let Some(table) = facts.tables.get(name) else {
            let mend = match server.side.is_old() {
                true => "create it, correct its name in the plan, or grant SELECT on it",
                false => "modshift schema --apply",
            };
            faults.push(Fault::new(Severity::Fault, RULE, subject, "is missing").mend(mend));
            continue;
        };
        let schema = match &table.schema {
            Ok(schema) => schema,
            Err(error) => {
                let fault = Fault::new(Severity::Fault, RULE, subject, &*error.message);
                faults.push(Fault { mend: error.hint.clone(), ..fault });
                continue;
            }
        };
        faults.extend(by_itself(&subject, name, table, schema));
        faults.extend(bound(survey, &subject, name, schema));
        match &measure {
            None => measure = Some((server.side.to_string(), schema)),
            Some((first, model)) => {
                faults.extend(differences(model, schema).into_iter().map(|difference| {
                    Fault::new(Severity::Fault, RULE, &subject, difference)
                        .expected(format!("the same as on {first}"))
                        .mend("ALTER TABLE until `modshift schema` shows no difference")
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
                    .expected("a stored value of its own"),
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
        return Some(fault.expected(format!("the shard key among {names}")));
    };
    let error = rule.bind(&schema.columns[index]).err()?;
    Some(Fault::new(Severity::Fault, RULE, subject, error.to_string()).mend(error.hint()))
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
    let key = |schema: &TableSchema| -> Vec<String> {
        schema.primary_key.iter().map(|&index| schema.columns[index].name.clone()).collect()
    };
    if key(model) != key(other) {
        let (theirs, ours) = (key(other).join(", "), key(model).join(", "));
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
}
