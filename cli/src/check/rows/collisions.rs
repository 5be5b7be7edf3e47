//! Keys present on several old shards that would meet on one new shard.
//!
//! Each old shard gives the table's unique keys in order, and a merge looks at equal neighbours:
//! one row of each old shard in memory, whatever the size of the table. Equality is the new
//! shard's: by collation for text, which is why text is compared by its weights.

use std::fmt::Write as _;

use futures_util::future::try_join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, Value};
use modshift_proto::plan::Plan;
use modshift_proto::schema::DataType;
use modshift_proto::{OldShard, TableSchema};
use mysql_async::prelude::Queryable;
use mysql_async::{BinaryProtocol, QueryResult};

use super::fault::{Fault, Severity, some_of};
use super::scan::{Sharded, gcd, shown};

const RULE: &str = "meeting";
/// Named in the report; the rest is counted.
const NAMED_MAX: usize = 5;

/// A part of a key whose order is the order of the merge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Int(i64),
    UInt(u64),
    Bytes(Vec<u8>),
}

/// Rows of different old shards meet only where one new shard is fed by several: by those that are
/// congruent to it modulo gcd(N, M).
pub fn can_meet(old: u16, new: u16) -> bool {
    u64::from(old) / gcd(old.into(), new.into()) > 1
}

pub async fn check(plan: &Plan, tables: &[Sharded<'_>]) -> Result<Vec<Fault>, ServerError> {
    let mut faults = Vec::new();
    if !can_meet(plan.old_modulus.get(), plan.new_modulus.get()) {
        return Ok(faults);
    }
    for table in tables {
        let primary = ("primary key", table.schema.primary_key.as_slice());
        let others = table.schema.unique_keys.iter().map(|k| (k.name.as_str(), &k.columns[..]));
        for (name, columns) in std::iter::once(primary).chain(others) {
            // A key that holds the shard key is on one old shard only; a stray is another fault.
            if columns.iter().any(|&c| table.schema.columns[c].name.eq_ignore_ascii_case(table.key))
            {
                continue;
            }
            faults.extend(of_key(plan, table, name, columns).await?);
        }
    }
    Ok(faults)
}

async fn of_key(
    plan: &Plan,
    table: &Sharded<'_>,
    name: &str,
    columns: &[usize],
) -> Result<Option<Fault>, ServerError> {
    let sql = select(table, columns, &table.rule.sql(plan.new_modulus));
    let connecting = plan.old.iter().map(|endpoint| connect(endpoint, Session::Plain));
    let mut conns = try_join_all(connecting).await?;
    let mut streams = Vec::with_capacity(conns.len());
    for (conn, endpoint) in conns.iter_mut().zip(&plan.old) {
        streams.push(Stream::open(conn, label(endpoint), &sql, columns.len()).await?);
    }
    let (mut meetings, mut named) = (0u64, Vec::new());
    while let Some(least) = streams.iter().filter_map(|s| Some(&s.head.as_ref()?.key)).min() {
        let least = least.clone();
        let mut here: Vec<(OldShard, u16, String)> = Vec::new();
        for (shard, stream) in plan.old_shards().zip(&mut streams) {
            if stream.head.as_ref().is_some_and(|head| head.key == least)
                && let Some(head) = stream.advance().await?
            {
                here.push((shard, head.to, head.shown));
            }
        }
        for (index, (shard, to, key)) in here.iter().enumerate() {
            let Some((first, _, _)) = here[..index].iter().find(|(_, other, _)| other == to) else {
                continue;
            };
            meetings += 1;
            if named.len() < NAMED_MAX {
                named.push(format!("{key} of {first} and {shard} on new shard {to}"));
            }
        }
    }
    if meetings == 0 {
        return Ok(None);
    }
    let actual = format!("{meetings} values of {name} would meet: {}", some_of(named));
    let fault = Fault::new(Severity::Fault, RULE, format!("table {}", table.name), actual)
        .expected("values that are unique over all old shards")
        .mend("renumber or delete one of each, or add the shard key to the key");
    Ok(Some(fault))
}

/// Parts of the key, the new shard, and the key for people.
fn select(table: &Sharded<'_>, columns: &[usize], to: &str) -> String {
    let (mut parts, mut order, mut not_null) = (Vec::new(), Vec::new(), Vec::new());
    for &index in columns {
        let column = quote(&table.schema.columns[index].name);
        let (expression, natural) = part(table.schema, index);
        order.push(if natural { column.clone() } else { expression.clone() });
        parts.push(expression);
        if table.schema.columns[index].nullable {
            not_null.push(format!("{column} IS NOT NULL")); // NULL equals nothing
        }
    }
    let shown: Vec<String> = columns.iter().map(|&index| shown(table.schema, index)).collect();
    let mut sql = format!(
        "SELECT {}, CAST({to} AS UNSIGNED), CAST(CONCAT_WS('/', {}) AS CHAR) FROM {}",
        parts.join(", "),
        shown.join(", "),
        quote(table.name)
    );
    if !not_null.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(sql, " WHERE {}", not_null.join(" AND "));
    }
    let _ = write!(sql, " ORDER BY {}", order.join(", "));
    sql
}

/// An expression whose values compare as the column's do, and whether ordering by the column, for
/// which there is an index, is ordering by the expression.
fn part(schema: &TableSchema, index: usize) -> (String, bool) {
    let column = &schema.columns[index];
    let name = quote(&column.name);
    match column.data {
        DataType::Int { .. } => (name, true),
        DataType::Year | DataType::Enum | DataType::Set | DataType::Bit { .. } => {
            (format!("CAST({name} + 0 AS UNSIGNED)"), true)
        }
        DataType::Char | DataType::VarChar => {
            let nopad = column.collation.as_deref().is_some_and(|c| c.contains("nopad"));
            match length(&column.type_text).filter(|_| !nopad) {
                // Padded to one length: trailing spaces do not count, as in the index.
                Some(chars) => (format!("WEIGHT_STRING({name} AS CHAR({chars}))"), true),
                None => (format!("WEIGHT_STRING({name})"), true),
            }
        }
        DataType::Binary { .. } | DataType::VarBinary => (name, true),
        DataType::Date | DataType::DateTime { .. } | DataType::Timestamp { .. } => {
            (format!("CAST(CAST({name} AS CHAR) AS BINARY)"), true)
        }
        _ => (format!("CAST(CAST({name} AS CHAR) AS BINARY)"), false),
    }
}

/// `varchar(40)`
fn length(type_text: &str) -> Option<u32> {
    let (_, rest) = type_text.split_once('(')?;
    rest.split_once(')')?.0.parse().ok()
}

struct Head {
    key: Vec<Part>,
    to: u16,
    shown: String,
}

/// The rows of one old shard, the next one in hand.
struct Stream<'a> {
    rows: QueryResult<'a, 'static, BinaryProtocol>,
    at: String,
    parts: usize,
    head: Option<Head>,
}

impl<'a> Stream<'a> {
    async fn open(
        conn: &'a mut Conn,
        at: String,
        sql: &str,
        parts: usize,
    ) -> Result<Stream<'a>, ServerError> {
        let opened = conn.exec_iter(sql, ()).await;
        let rows = opened.map_err(|error| error::of(&at, "reading keys in order", error))?;
        let mut stream = Stream { rows, at, parts, head: None };
        stream.advance().await?;
        Ok(stream)
    }

    /// Takes the row in hand and fetches the next.
    async fn advance(&mut self) -> Result<Option<Head>, ServerError> {
        const DOING: &str = "reading keys in order";
        let next = self.rows.next().await.map_err(|e| error::of(&self.at, DOING, e))?;
        let broken = |detail: &str| ServerError::Driver {
            at: self.at.clone(),
            doing: DOING,
            detail: detail.to_owned(),
        };
        let next = match next {
            None => None,
            Some(row) => {
                let head = read(row.unwrap(), self.parts);
                Some(head.ok_or_else(|| broken("a row of another form than expected"))?)
            }
        };
        // Without order the merge would miss meetings: better no answer than a wrong one.
        if let (Some(before), Some(after)) = (&self.head, &next)
            && before.key >= after.key
        {
            return Err(broken("keys came in an order that modshift does not know"));
        }
        Ok(std::mem::replace(&mut self.head, next))
    }
}

fn read(mut values: Vec<Value>, parts: usize) -> Option<Head> {
    let shown = match values.pop()? {
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => return None,
    };
    let to = match values.pop()? {
        Value::Int(to) => u16::try_from(to).ok()?,
        Value::UInt(to) => u16::try_from(to).ok()?,
        _ => return None,
    };
    let key = values.into_iter().map(|value| match value {
        Value::Int(value) => Some(Part::Int(value)),
        Value::UInt(value) => Some(Part::UInt(value)),
        Value::Bytes(bytes) => Some(Part::Bytes(bytes)),
        _ => None,
    });
    let key: Vec<Part> = key.collect::<Option<_>>()?;
    (key.len() == parts).then_some(Head { key, to, shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_only_where_a_new_shard_has_several_sources() {
        assert!(can_meet(3, 4));
        assert!(can_meet(8, 12));
        assert!(can_meet(4, 2));
        assert!(!can_meet(2, 4));
        assert!(!can_meet(1, 5));
        assert!(can_meet(5, 1));
    }

    #[test]
    fn lengths_are_read_from_types() {
        assert_eq!(length("varchar(40)"), Some(40));
        assert_eq!(length("text"), None);
    }
}
