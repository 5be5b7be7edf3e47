//! Rows of the real old shards, carried over to those of the rehearsal.
//!
//! From each table the first so many in the order of its primary key, as they are: byte for byte. On
//! the real shards it only reads, piece by piece, and slows down when a server hurts.

use std::time::Instant;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::pace::{Lane, Pace as _, Throttle};
use modshift_mariadb::value::{
    ValueError, cell_to_value, key_equal, key_page, quote, select_expr, value_to_cell,
};
use modshift_mariadb::{Conn, Value, error};
use modshift_proto::plan::{Endpoint, Placement, Plan};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::rule::{BoundRule, KeyNumber};
use modshift_proto::schema::Column;
use modshift_proto::{OldShard, TableSchema};
use mysql_async::prelude::Queryable;

use crate::schema::Model;

/// Read between two looks at how the server does.
const PIECE_ROWS: u32 = 1_000;
/// Of one INSERT, whichever comes first.
const BATCH_ROWS: usize = 250;
const BATCH_BYTES: usize = 1 << 20;
/// Of a prepared statement.
const PARAMETERS_MAX: usize = 65_535;
/// Rows of each table and old shard that the load writes, and what they may take in memory.
const WRITTEN_ROWS: usize = 200;
const WRITTEN_BYTES: usize = 1 << 20;

/// A row that the load may take away and put back.
pub struct Written {
    /// Places it on either side.
    pub number: KeyNumber,
    pub delete: String,
    pub insert: String,
    pub values: Vec<Value>,
}

/// What was carried over.
#[derive(Default)]
pub struct Carried {
    pub rows: u64,
    pub written: Vec<Written>,
}

/// A table's columns in the order in which they travel.
struct Form<'a> {
    schema: &'a TableSchema,
    rule: Option<(BoundRule, usize)>,
    sent: Vec<usize>,
    keys: Vec<&'a Column>,
    /// Of each key column, its place among those sent.
    key_at: Vec<usize>,
    insert: String,
}

impl<'a> Form<'a> {
    fn new(placement: &Placement, schema: &'a TableSchema) -> anyhow::Result<Form<'a>> {
        let sent: Vec<usize> = schema.sent_columns().collect();
        let place = |index: &usize| sent.iter().position(|column| column == index);
        let name = &schema.name;
        let key_at: Option<Vec<usize>> = schema.primary_key.iter().map(place).collect();
        let key_at = key_at.filter(|key| !key.is_empty());
        let key_at =
            key_at.with_context(|| format!("table {name} has no primary key to copy by"))?;
        let rule = match placement {
            Placement::Broadcast { .. } => None,
            Placement::Sharded { key, rule } => {
                let column = schema.column(key);
                let at = column.and_then(|index| place(&index));
                let (Some(column), Some(at)) = (column, at) else {
                    bail!("table {name} has no column {key}");
                };
                let bound = rule.bind(&schema.columns[column]);
                Some((bound.with_context(|| format!("table {name}, column {key}"))?, at))
            }
        };
        let columns = sent.iter().map(|&index| quote(&schema.columns[index].name));
        let columns: Vec<String> = columns.collect();
        let insert = format!("INSERT INTO {} ({}) VALUES ", quote(name), columns.join(", "));
        let keys = schema.primary_key.iter().map(|&index| &schema.columns[index]).collect();
        Ok(Form { schema, rule, sent, keys, key_at, insert })
    }

    fn select(&self, after: Option<&[Vec<u8>]>, rows: u32) -> Result<String, ValueError> {
        let columns = self.sent.iter().map(|&index| select_expr(&self.schema.columns[index]));
        let order: Vec<String> = self.keys.iter().map(|column| quote(&column.name)).collect();
        Ok(format!(
            "SELECT {} FROM {} FORCE INDEX (PRIMARY) WHERE {} ORDER BY {} LIMIT {rows}",
            columns.collect::<Vec<_>>().join(", "),
            quote(&self.schema.name),
            key_page(&self.keys, after)?,
            order.join(", "),
        ))
    }

    fn insert(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.sent.len()].join(","));
        format!("{}{}", self.insert, vec![row.as_str(); rows].join(","))
    }
}

/// A row as it was read: what to bind, its key, and where it belongs.
struct Row {
    values: Vec<Value>,
    key: Vec<Vec<u8>>,
    number: Option<KeyNumber>,
    bytes: usize,
}

fn row(form: &Form<'_>, row: mysql_async::Row) -> anyhow::Result<Row> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, form.sent.len());
    let data = |&index: &usize| form.schema.columns[index].data;
    for (index, value) in form.sent.iter().zip(row.unwrap()) {
        value_to_cell(data(index), &value, &mut writer)?;
    }
    writer.finish();
    let mut cells = Vec::new();
    RowView::parse(&wire)?.collect(form.sent.len(), &mut cells)?;
    let values =
        form.sent.iter().zip(&cells).map(|(index, cell)| cell_to_value(data(index), *cell));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let key = form.key_at.iter().map(|&at| cells[at].unwrap_or_default().to_vec()).collect();
    let number = match &form.rule {
        Some((rule, at)) => cells[*at].map(|cell| rule.number(cell)).transpose()?,
        None => None,
    };
    Ok(Row { values, key, number, bytes: wire.len() })
}

/// From every old shard of the plan to that of the rehearsal.
pub async fn carry(
    plan: &Plan,
    rehearsal: &Plan,
    models: &[Model],
    rows: u32,
    throttle: &Throttle,
) -> anyhow::Result<Carried> {
    let shards = plan.old_shards().map(|shard| async move {
        let index = usize::from(shard.0);
        let (from, to) = (plan.old[index].tailed(), &rehearsal.old[index]);
        let lane = throttle.lane(&[shard], &[], 1);
        let mut carried = Carried::default();
        for (table, model) in plan.tables.iter().zip(models) {
            let form = Form::new(&table.placement, &model.schema)?;
            let copied = Box::pin(table_of(&from, to, &form, rows, &lane, &mut carried)).await;
            copied.with_context(|| format!("carrying over table {} of {shard}", model.name))?;
        }
        tracing::info!(shard = OldShard(shard.0).0, rows = carried.rows, "rows carried over");
        anyhow::Ok(carried)
    });
    let mut all = Carried::default();
    for carried in try_join_all(shards).await? {
        all.rows += carried.rows;
        all.written.extend(carried.written);
    }
    Ok(all)
}

async fn table_of(
    from: &Endpoint,
    to: &Endpoint,
    form: &Form<'_>,
    rows: u32,
    lane: &Lane,
    carried: &mut Carried,
) -> anyhow::Result<()> {
    const DOING: &str = "reading rows for a rehearsal";
    let of = |error| error::of(&label(from), DOING, error);
    let mut source = connect(from, Session::Exact).await?;
    let mut target = connect(to, Session::Exact).await?;
    let batch_rows = BATCH_ROWS.min(PARAMETERS_MAX / form.sent.len().max(1)).max(1);
    let (mut left, mut after) = (rows, None::<Vec<Vec<u8>>>);
    let (mut written_rows, mut written_bytes) = (0, 0);
    while left > 0 {
        lane.ready().await;
        let (begun, wanted) = (Instant::now(), left.min(PIECE_ROWS));
        let statement = source.prep(form.select(after.as_deref(), wanted)?).await.map_err(of)?;
        let mut seen = 0;
        {
            let mut result = source.exec_iter(&statement, ()).await.map_err(of)?;
            let stream = result.stream::<mysql_async::Row>().await.map_err(of)?;
            let mut stream = stream.context("a SELECT without rows or the lack of them")?;
            let (mut batch, mut bytes): (Vec<Value>, usize) = (Vec::new(), 0);
            let mut batched = 0;
            while let Some(read) = stream.try_next().await.map_err(of)? {
                let read = row(form, read)?;
                seen += 1;
                if let Some(number) = read.number
                    && written_rows < WRITTEN_ROWS
                    && written_bytes + read.bytes <= WRITTEN_BYTES
                {
                    (written_rows, written_bytes) = (written_rows + 1, written_bytes + read.bytes);
                    carried.written.push(Written {
                        number,
                        delete: format!(
                            "DELETE FROM {} WHERE {}",
                            quote(&form.schema.name),
                            key_equal(&form.keys, &read.key)?
                        ),
                        insert: form.insert(1),
                        values: read.values.clone(),
                    });
                }
                after = Some(read.key);
                batch.extend(read.values);
                (batched, bytes) = (batched + 1, bytes + read.bytes);
                if batched >= batch_rows || bytes >= BATCH_BYTES {
                    put(&mut target, to, form, batched, std::mem::take(&mut batch)).await?;
                    (batched, bytes) = (0, 0);
                }
            }
            put(&mut target, to, form, batched, batch).await?;
        }
        source.close(statement).await.map_err(of)?;
        lane.done(u64::from(seen), begun.elapsed());
        carried.rows += u64::from(seen);
        left -= seen;
        if seen < wanted {
            break;
        }
    }
    Ok(())
}

async fn put(
    target: &mut Conn,
    to: &Endpoint,
    form: &Form<'_>,
    rows: usize,
    values: Vec<Value>,
) -> anyhow::Result<()> {
    if rows > 0 {
        let done = target.exec_drop(form.insert(rows), values).await;
        done.map_err(|error| error::of(&label(to), "writing rows of a rehearsal", error))?;
    }
    Ok(())
}
