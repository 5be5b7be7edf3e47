//! One pass over every sharded table of every old shard: how many rows go where, and which are
//! not where their key places them.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::quote;
use modshift_proto::plan::{Placement, Plan};
use modshift_proto::rule::BoundRule;
use modshift_proto::schema::DataType;
use modshift_proto::{OldShard, TableSchema};
use mysql_async::prelude::Queryable;
use serde::Serialize;

use super::sample;
use crate::check::fault::{Fault, Severity, Side, some_of};
use crate::check::survey::Survey;

/// Named in the report; the rest is counted.
const STRAYS_NAMED: usize = 5;
/// Of a row whose shard key is NULL: no modulus is above it.
const NOWHERE: u16 = u16::MAX;

/// A sharded table whose rule binds, as found on the old shards.
pub struct Sharded<'a> {
    pub name: &'a str,
    pub key: &'a str,
    pub rule: BoundRule,
    pub schema: &'a TableSchema,
}

/// The plan's sharded tables. Rules have been checked: what does not bind is left out here.
pub fn sharded<'a>(plan: &'a Plan, survey: &'a Survey) -> Vec<Sharded<'a>> {
    let mut found = Vec::new();
    for planned in &plan.tables {
        let Placement::Sharded { key, rule } = &planned.placement else { continue };
        let Some(schema) = on_every_old_shard(survey, &planned.name) else { continue };
        let Some(index) = schema.column(key) else { continue };
        if let Ok(rule) = rule.bind(&schema.columns[index]) {
            found.push(Sharded { name: &planned.name, key, rule, schema });
        }
    }
    found
}

/// The table's schema, if every old shard has it with a primary key.
pub fn on_every_old_shard<'a>(survey: &'a Survey, name: &str) -> Option<&'a TableSchema> {
    let mut model = None;
    for (_, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let schema = facts.tables.get(name)?.schema.as_ref().ok()?;
        if schema.primary_key.is_empty() {
            return None;
        }
        model = model.or(Some(schema));
    }
    model
}

/// Rows and bytes by old shard (where they are) and new shard (where they go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matrix {
    pub rows: Vec<Vec<u64>>,
    /// By the server's own idea of what a table's rows and indexes take.
    pub bytes: Vec<Vec<u64>>,
    /// Rows read where not all were; the counts are then shares of the server's estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled: Option<u64>,
    pub tables: Vec<TableRows>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableRows {
    pub name: String,
    pub rows: Vec<Vec<u64>>,
}

impl Matrix {
    pub fn total(&self) -> u64 {
        self.rows.iter().flatten().sum()
    }

    /// Rows whose shard number changes.
    pub fn moving(&self) -> u64 {
        let staying = self.rows.iter().enumerate().filter_map(|(i, row)| row.get(i));
        self.total() - staying.sum::<u64>()
    }
}

/// Share of evenly spread keys whose shard number changes: of lcm(N, M) residues min(N, M) stay.
pub fn share_moving(old: u16, new: u16) -> f64 {
    let (old, new) = (u64::from(old), u64::from(new));
    let lcm = old / gcd(old, new) * new;
    1.0 - old.min(new) as f64 / lcm as f64
}

pub fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The matrix over all sharded tables, and the strays. `sample`: about so many rows of each table
/// and shard instead of all.
pub async fn count(
    plan: &Plan,
    survey: &Survey,
    tables: &[Sharded<'_>],
    sample: Option<u64>,
) -> Result<(Matrix, Vec<Fault>), ServerError> {
    let shards = plan.old_shards().map(|shard| count_shard(plan, tables, shard, sample));
    let shards = try_join_all(shards).await?;
    let mut matrix = Matrix {
        rows: Vec::new(),
        bytes: Vec::new(),
        sampled: sample.map(|_| 0),
        tables: tables
            .iter()
            .map(|table| TableRows { name: table.name.to_owned(), rows: Vec::new() })
            .collect(),
    };
    let width = usize::from(plan.new_modulus.get());
    let mut faults = Vec::new();
    for (shard, (counts, strays)) in plan.old_shards().zip(shards) {
        faults.extend(strays);
        let (mut rows, mut bytes) = (vec![0; width], vec![0; width]);
        for ((table, into), count) in tables.iter().zip(&mut matrix.tables).zip(counts) {
            let found = survey.olds().find(|(server, _)| server.side == Side::Old(shard));
            let found = found.and_then(|(_, facts)| facts.tables.get(table.name));
            let read: u64 = count.to_new.iter().sum();
            let all = if count.partial { found.map_or(read, |t| t.rows.max(read)) } else { read };
            if let Some(sampled) = matrix.sampled.as_mut() {
                *sampled += read;
            }
            let share = |part: u64, of: u64| match read {
                0 => 0,
                _ => (u128::from(part) * u128::from(of) / u128::from(read)) as u64,
            };
            let estimated: Vec<u64> = count.to_new.iter().map(|&part| share(part, all)).collect();
            for (new, &part) in count.to_new.iter().enumerate() {
                rows[new] += estimated[new];
                bytes[new] += share(part, found.map_or(0, |table| table.bytes));
            }
            into.rows.push(estimated);
        }
        matrix.rows.push(rows);
        matrix.bytes.push(bytes);
    }
    Ok((matrix, faults))
}

/// Rows of one table on one old shard.
struct Count {
    to_new: Vec<u64>,
    /// Not all were read.
    partial: bool,
}

async fn count_shard(
    plan: &Plan,
    tables: &[Sharded<'_>],
    shard: OldShard,
    sample: Option<u64>,
) -> Result<(Vec<Count>, Vec<Fault>), ServerError> {
    let endpoint = &plan.old[usize::from(shard.0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let of = |error| error::of(&label(endpoint), "counting rows", error);
    let (mut counts, mut faults) = (Vec::new(), Vec::new());
    for table in tables {
        let old = table.rule.sql_or(plan.old_modulus, NOWHERE);
        let new = table.rule.sql_or(plan.new_modulus, 0);
        let (groups, partial) = match sample {
            Some(wanted) => {
                sample::groups(&mut conn, table, &old, &new, wanted).await.map_err(of)?
            }
            None => {
                let name = quote(table.name);
                let sql = format!("SELECT {old}, {new}, COUNT(*) FROM {name} GROUP BY 1, 2");
                (conn.query(sql).await.map_err(of)?, false)
            }
        };
        let mut to_new = vec![0; usize::from(plan.new_modulus.get())];
        let mut strays = BTreeMap::new();
        for (placed, to, rows) in groups {
            to_new[usize::from(to)] += rows;
            if placed != shard.0 {
                *strays.entry(placed).or_insert(0) += rows;
            }
        }
        if !strays.is_empty() {
            let keys = stray_keys(&mut conn, table, &old, shard).await.map_err(of)?;
            faults.push(stray_fault(table, shard, &strays, &keys, &old));
        }
        counts.push(Count { to_new, partial });
    }
    Ok((counts, faults))
}

async fn stray_keys(
    conn: &mut Conn,
    table: &Sharded<'_>,
    placed: &str,
    shard: OldShard,
) -> mysql_async::Result<Vec<String>> {
    let key: Vec<String> =
        table.schema.primary_key.iter().map(|&index| shown(table.schema, index)).collect();
    let (key, name) = (key.join(", "), quote(table.name));
    let sql = format!(
        "SELECT CONCAT_WS('/', {key}) FROM {name} WHERE {placed} <> {} LIMIT {}",
        shard.0,
        STRAYS_NAMED + 1
    );
    conn.query(sql).await
}

/// An SQL expression that shows a value of the column to a person.
pub fn shown(schema: &TableSchema, index: usize) -> String {
    let column = &schema.columns[index];
    let name = quote(&column.name);
    match column.data {
        DataType::Binary { .. } | DataType::VarBinary | DataType::Blob | DataType::Geometry => {
            format!("CONCAT('0x', HEX({name}))")
        }
        DataType::Bit { .. } => format!("({name} + 0)"),
        _ => name,
    }
}

fn stray_fault(
    table: &Sharded<'_>,
    shard: OldShard,
    strays: &BTreeMap<u16, u64>,
    keys: &[String],
    placed: &str,
) -> Fault {
    let total: u64 = strays.values().sum();
    let places = some_of(strays.iter().map(|(to, rows)| match *to {
        NOWHERE => format!("{rows} nowhere: it is NULL"),
        to => format!("{rows} to {to}"),
    }));
    let named = some_of(keys.iter().take(STRAYS_NAMED));
    let actual = format!(
        "{total} stray rows, whose {} places them elsewhere ({places}); primary keys {named}",
        table.key
    );
    Fault::new(Severity::Fault, "strays", format!("{shard}: table {}", table.name), actual)
        .expected(format!("only rows of shard {}", shard.0))
        .mend(format!(
            "bring them to the shards where they belong and delete them here (WHERE {placed} <> {}), \
             give those whose key is NULL a value, or correct the table's rule in the plan",
            shard.0
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_moves_is_that_of_the_residues() {
        for (old, new) in [(3u16, 4u16), (2, 4), (4, 3), (5, 1), (8, 12), (3, 3)] {
            let residues = u32::from(old) * u32::from(new);
            let moving = (0..residues).filter(|k| k % u32::from(old) != k % u32::from(new)).count();
            let share = moving as f64 / f64::from(residues);
            assert!((share_moving(old, new) - share).abs() < 1e-12, "{old} -> {new}");
        }
    }

    #[test]
    fn the_matrix_counts_what_changes_its_number() {
        let of = |rows| Matrix { rows, bytes: vec![], sampled: None, tables: vec![] };
        let matrix = of(vec![vec![5, 1, 2], vec![3, 7, 0]]);
        assert_eq!((matrix.total(), matrix.moving()), (18, 6));
        let fewer = of(vec![vec![4], vec![6]]);
        assert_eq!((fewer.total(), fewer.moving()), (10, 6));
    }
}
