//! Rules over planned tables: they exist everywhere, mean the same everywhere, and can be copied,
//! routed and applied.

use modshift_mariadb::value::quote;
use modshift_proto::TableSchema;
use modshift_proto::plan::Placement;
use modshift_proto::schema::DataType;

use crate::check::alter::Alike;
use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Facts, Survey, Table};

pub fn check(survey: &Survey) -> Vec<Fault> {
    survey.plan.tables.iter().flat_map(|planned| of_table(survey, &planned.name)).collect()
}

fn of_table(survey: &Survey, name: &str) -> Vec<Fault> {
    const RULE: &str = "tables";
    let mut faults = Vec::new();
    // The first old shard that has it is the measure of all others.
    let mut measure: Option<(Side, &TableSchema, &Table)> = None;
    for (server, facts) in survey.reached() {
        let subject = format!("{}: table {name}", server.side);
        let Some(table) = facts.tables.get(name) else {
            let mend = missing(survey, name, server.side, facts);
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
            None => measure = Some((server.side, schema, table)),
            Some((first, model, create)) => {
                let expendable = survey.is_expendable(server.side);
                let mend = Alike { name, model: create, other: table, expendable, facts }.mend();
                let expected = format!("the same as on {first}");
                let found = differences(&plain(model), &plain(schema)).into_iter();
                faults.extend(found.map(|difference| {
                    Fault::new(Severity::Fault, RULE, &subject, difference)
                        .expected(&*expected)
                        .mend(mend.clone())
                }));
                let stored = stored_otherwise(model, schema).map(|(column, ours)| {
                    let side = if ours { *first } else { server.side };
                    let actual = format!(
                        "column {column} is stored on {side} as MariaDB 5.3 stored it, and not so \
                         on {}",
                        if ours { server.side } else { *first }
                    );
                    Fault::new(Severity::Fault, RULE, &subject, actual).expected(&*expected).mend(
                        Mend::run(
                            Way::RebuildTable,
                            [format!("ALTER TABLE {} FORCE", quote(name))],
                        )
                        .at([side]),
                    )
                });
                faults.extend(stored);
            }
        }
    }
    faults
}

/// Of a column's type: how MariaDB 5.3 stored times, before `mysql56_temporal_format`.
const OLD_TIMES: &str = " /* mariadb-5.3 */";

/// Without how times are stored, which a rebuild of the table changes and no MODIFY.
fn plain(schema: &TableSchema) -> TableSchema {
    let mut plain = schema.clone();
    for column in &mut plain.columns {
        if let Some(text) = column.type_text.strip_suffix(OLD_TIMES) {
            column.type_text = text.to_owned();
        }
    }
    plain
}

/// Columns of which one side stores times as MariaDB 5.3 did; `true`: the model does.
fn stored_otherwise<'a>(
    model: &'a TableSchema,
    other: &'a TableSchema,
) -> impl Iterator<Item = (&'a str, bool)> {
    let old = |text: &str| text.ends_with(OLD_TIMES);
    let pairs = model.columns.iter().zip(&other.columns).filter(|(a, b)| a.name == b.name);
    let apart = pairs.filter(move |(a, b)| old(&a.type_text) != old(&b.type_text));
    apart.map(move |(a, _)| (a.name.as_str(), old(&a.type_text)))
}

/// `modshift schema --apply` creates what the first old shard has, where it may and where the name is
/// free: elsewhere it would fail.
fn missing(survey: &Survey, name: &str, side: Side, facts: &Facts) -> String {
    let alike = |other: &&str| *other != name && other.to_lowercase() == name.to_lowercase();
    let there = facts.objects.iter().map(|object| object.name.as_str());
    if let Some(there) = there.into_iter().find(alike) {
        return format!(
            "correct its name in the plan: the server calls it {there} (lower_case_table_names = {})",
            facts.variable("lower_case_table_names")
        );
    }
    if side.is_old() {
        return "create it, correct its name in the plan, or grant SELECT on it".to_owned();
    }
    let model = survey.servers.iter().find(|server| server.side.is_old());
    let model = model.and_then(|server| Some((server.side, server.facts.as_ref().ok()?)));
    match model {
        Some((_, of_model)) if of_model.tables.get(name).is_some_and(|t| t.schema.is_ok()) => {}
        Some((side, _)) => {
            return format!("mend {side} first: what is missing here is created as it is there");
        }
        None => {
            return "bring old shard 0 back: what is missing here is created as it is there".into();
        }
    }
    match facts.objects.iter().find(|object| object.name == name) {
        Some(object) => format!(
            "grant SELECT on the {} {name} that is there, or rename it: modshift schema --apply \
             needs the name",
            object.kind
        ),
        None => "modshift schema --apply".to_owned(),
    }
}

fn by_itself(subject: &str, name: &str, table: &Table, schema: &TableSchema) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        faults.push(
            Fault::new(Severity::Fault, "engine", subject, format!("engine is {}", table.engine))
                .expected("InnoDB, for consistent reads")
                .mend(Mend::run(
                    Way::ChangeEngine,
                    [format!("ALTER TABLE {} ENGINE=InnoDB", quote(name))],
                )),
        );
    }
    if schema.primary_key.is_empty() {
        faults.push(
            Fault::new(Severity::Fault, "primary_key", subject, "has no primary key")
                .expected("one, which names each row")
                .mend("add a primary key, on every shard: over which columns is for you to say"),
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
                    .mend("change its type to DECIMAL or to an integer, on every shard, or take the table out of the plan"),
            );
        }
        if column.generated {
            let actual = format!("primary key column {} is generated", column.name);
            faults.push(
                Fault::new(Severity::Fault, "primary_key", subject, actual)
                    .expected("a stored value of its own")
                    .mend("make the primary key of stored columns only, on every shard, or take the table out of the plan"),
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
    let Err(error) = rule.bind(&schema.columns[index]) else {
        let actual = format!("shard key {key} may be NULL");
        return schema.columns[index].nullable.then(|| {
            Fault::new(Severity::Note, RULE, subject, actual)
                .expected("a value in every row: a stream stops at a NULL, which no shard has")
                .mend(format!(
                    "let the application write no NULL there; where none can come, declare {key} NOT \
                     NULL on every shard"
                ))
        });
    };
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
}
