//! The plan's tables as they are to be compared: definitions of all shards side by side, and the
//! expressions that place and hash a row.

use futures_util::future::try_join_all;
use modshift_mariadb::catalog;
use modshift_proto::plan::{Placement, Plan, Table};
use modshift_proto::{Modulus, TableSchema};

use crate::checksum;
use crate::error::VerifyError;
use crate::shard::Shard;

/// A table whose rows can be compared.
#[derive(Clone, Debug)]
pub struct CheckedTable {
    /// As on old shard 0.
    pub schema: TableSchema,
    pub fingerprint: u32,
    pub placing: Placing,
    /// Checksum of one row.
    pub checksum: String,
    /// The server's guess, of all old shards together.
    pub rows_estimated: u64,
    /// The old shard whose keys make the ranges: the one with most rows.
    pub pager: usize,
}

#[derive(Clone, Debug)]
pub enum Placing {
    /// SQL forms of the rule under either modulus.
    Sharded {
        old: String,
        new: String,
        /// By shard: 0 if every row of it lies where it belongs.
        old_away: Vec<String>,
        new_away: Vec<String>,
    },
    Broadcast {
        source: u16,
    },
}

/// What could be loaded of the plan's tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// By the table's number in the plan; `None`: definitions differ too far.
    pub checked: Vec<Option<CheckedTable>>,
    /// One line for each definition that is not that of old shard 0.
    pub differences: Vec<String>,
}

impl CheckedTable {
    fn new(
        plan: &Plan,
        planned: &Table,
        schema: TableSchema,
        rows: &[u64],
    ) -> Result<CheckedTable, VerifyError> {
        if schema.primary_key.is_empty() {
            return Err(VerifyError::NoPrimaryKey { table: schema.name });
        }
        let placing = match &planned.placement {
            Placement::Broadcast { source } => Placing::Broadcast { source: source.0 },
            Placement::Sharded { key, rule } => {
                let index = schema.column(key).ok_or_else(|| VerifyError::NoKeyColumn {
                    table: schema.name.clone(),
                    column: key.clone(),
                })?;
                let rule = rule
                    .bind(&schema.columns[index])
                    .map_err(|source| VerifyError::Rule { table: schema.name.clone(), source })?;
                let away = |modulus: Modulus| {
                    (0..modulus.get()).map(|home| rule.sql_away(modulus, home)).collect()
                };
                Placing::Sharded {
                    // A key that is NULL is reported there: it belongs nowhere.
                    old: rule.sql_or(plan.old_modulus, 0),
                    new: rule.sql_or(plan.new_modulus, 0),
                    old_away: away(plan.old_modulus),
                    new_away: away(plan.new_modulus),
                }
            }
        };
        let most = rows.iter().enumerate().max_by_key(|(_, rows)| **rows);
        let pager = match &placing {
            Placing::Broadcast { source } => usize::from(*source),
            Placing::Sharded { .. } => most.map_or(0, |(index, _)| index),
        };
        Ok(CheckedTable {
            fingerprint: schema.fingerprint(),
            checksum: checksum::of_row(&schema),
            schema,
            placing,
            rows_estimated: rows.iter().sum(),
            pager,
        })
    }
}

/// Asks every shard for every planned table.
pub async fn load(
    plan: &Plan,
    old: &mut [Shard],
    new: &mut [Shard],
) -> Result<Tables, VerifyError> {
    let ask = |shard| of_shard(plan, shard);
    let (old, new) = tokio::try_join!(
        try_join_all(old.iter_mut().map(ask)),
        try_join_all(new.iter_mut().map(ask)),
    )?;
    let mut tables = Tables::default();
    for (index, planned) in plan.tables.iter().enumerate() {
        let model = &old[0][index].schema;
        let mut comparable = true;
        let sides = old.iter().map(|s| ("old", s)).enumerate();
        let sides = sides.chain(new.iter().map(|s| ("new", s)).enumerate());
        for (number, (side, shard)) in sides {
            let schema = &shard[index].schema;
            for difference in differences(model, schema) {
                let name = &planned.name;
                tables
                    .differences
                    .push(format!("{side} shard {number}: table {name} {difference}"));
            }
            comparable &= is_comparable(model, schema);
        }
        let rows: Vec<u64> = old.iter().map(|shard| shard[index].rows_estimated).collect();
        tables.checked.push(match comparable {
            true => Some(CheckedTable::new(plan, planned, model.clone(), &rows)?),
            false => None,
        });
    }
    Ok(tables)
}

struct Found {
    schema: TableSchema,
    rows_estimated: u64,
}

async fn of_shard(plan: &Plan, shard: &mut Shard) -> Result<Vec<Found>, VerifyError> {
    let schema_name = shard.schema().to_owned();
    let mut conn =
        modshift_mariadb::connect(shard.endpoint(), modshift_mariadb::Session::Plain).await?;
    let listed = catalog::tables(&mut conn, &schema_name).await?;
    let mut found = Vec::with_capacity(plan.tables.len());
    for planned in &plan.tables {
        let schema = catalog::table(&mut conn, &schema_name, &planned.name).await?;
        let rows = listed.iter().find(|table| table.name == schema.name);
        found.push(Found { schema, rows_estimated: rows.map_or(0, |table| table.rows_estimated) });
    }
    Ok(found)
}

/// What is not as in the model, in words.
fn differences(model: &TableSchema, other: &TableSchema) -> Vec<String> {
    let mut found = Vec::new();
    for (index, column) in model.columns.iter().enumerate() {
        match other.columns.get(index) {
            None => found.push(format!("lacks column {}", column.name)),
            Some(theirs) if theirs != column => {
                let collation = theirs.collation.as_deref().unwrap_or("no collation");
                let expected = column.collation.as_deref().unwrap_or("no collation");
                found.push(format!(
                    "has column {} {} ({collation}) where old shard 0 has {} {} ({expected})",
                    theirs.name, theirs.type_text, column.name, column.type_text
                ));
            }
            Some(_) => {}
        }
    }
    let beyond = other.columns.iter().skip(model.columns.len());
    found.extend(beyond.map(|column| format!("has column {} too many", column.name)));
    if found.is_empty() && model.primary_key != other.primary_key {
        found.push("has another primary key than old shard 0".to_owned());
    }
    found
}

/// Do the same ranges mean the same rows, and the same expressions the same bytes?
fn is_comparable(model: &TableSchema, other: &TableSchema) -> bool {
    let same = |one: &modshift_proto::Column, two: &modshift_proto::Column| {
        let same_name = one.name == two.name && one.generated == two.generated;
        same_name && one.data == two.data && one.charset == two.charset
    };
    model.columns.len() == other.columns.len()
        && model.columns.iter().zip(&other.columns).all(|(one, two)| same(one, two))
        && model.primary_key == other.primary_key
        && model.primary_key.iter().all(|&i| model.columns[i] == other.columns[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::{Column, DataType};

    fn table(collation: &str, key_collation: &str) -> TableSchema {
        let column = |name: &str, collation: &str| Column {
            name: name.to_owned(),
            data: DataType::VarChar,
            type_text: "varchar(9)".to_owned(),
            charset: Some("latin1".to_owned()),
            collation: Some(collation.to_owned()),
            nullable: true,
            generated: false,
        };
        TableSchema {
            name: "t".to_owned(),
            columns: vec![column("id", key_collation), column("note", collation)],
            primary_key: vec![0],
            unique_keys: Vec::new(),
        }
    }

    #[test]
    fn another_collation_is_a_difference_and_of_a_key_it_forbids_ranges() {
        let model = table("latin1_bin", "latin1_bin");
        assert_eq!(differences(&model, &model), [""; 0]);
        let other = table("latin1_swedish_ci", "latin1_bin");
        assert_eq!(
            differences(&model, &other),
            ["has column note varchar(9) (latin1_swedish_ci) where old shard 0 has note \
              varchar(9) (latin1_bin)"]
        );
        assert!(is_comparable(&model, &other));
        assert!(!is_comparable(&model, &table("latin1_bin", "latin1_swedish_ci")));
    }
}
