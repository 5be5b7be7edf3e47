//! Reads whole tables, a thread for each shard, and keeps a key and a digest of each row.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use anyhow::{Context, Result, bail};
use mysql_async::{Conn, Row, Value, prelude::Queryable};
use tokio::sync::Mutex;

use super::{ColumnDifference, columns::TableColumns};
use crate::server::Address;

#[derive(Debug)]
pub(super) struct Scanned {
    pub key: Vec<u8>,
    /// 128 bits over the text of every column: two rows that differ and share it will not be met.
    pub digest: [u64; 2],
    pub old_place: Option<usize>,
    pub new_place: Option<usize>,
}

pub(super) async fn scan_all(places: &[Address], sql: &str) -> Result<Vec<Vec<Scanned>>> {
    let scans = places.iter().map(|place| {
        let (place, sql) = (place.clone(), sql.to_owned());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(scan(&place, &sql)).with_context(|| format!("reading {place}"))
        };
        async { tokio::task::spawn_blocking(work).await? }
    });
    futures_util::future::try_join_all(scans).await
}

async fn scan(place: &Address, sql: &str) -> Result<Vec<Scanned>> {
    let mut conn = place.connect().await?;
    let rows = scan_with(&mut conn, sql).await?;
    conn.disconnect().await?;
    Ok(rows)
}

async fn scan_with(conn: &mut Conn, sql: &str) -> Result<Vec<Scanned>> {
    let mut result = conn.query_iter(sql).await?;
    let mut rows = Vec::new();
    while let Some(row) = result.next().await? {
        rows.push(scanned(row)?);
    }
    drop(result);
    // HEX() of what is longer than half of max_allowed_packet gives NULL and a warning: equal on both
    // sides, whatever the bytes.
    let warning: Option<(String, u32, String)> = conn.query_first("SHOW WARNINGS").await?;
    if let Some((_, code, message)) = warning {
        bail!("a warning makes the comparison worthless: {code} {message}");
    }
    Ok(rows)
}

/// A connection to each shard with a consistent snapshot open.
#[derive(Debug)]
pub(super) struct Pins {
    /// By shard: two of them may be schemas of one server.
    conns: HashMap<Address, Mutex<Conn>>,
}

impl Pins {
    pub async fn open(places: impl Iterator<Item = &Address>) -> Result<Self> {
        let mut conns = HashMap::new();
        for place in places {
            let mut conn = place.connect().await?;
            conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
            conns.insert(place.clone(), Mutex::new(conn));
        }
        Ok(Self { conns })
    }

    pub async fn scan_all(&self, places: &[Address], sql: &str) -> Result<Vec<Vec<Scanned>>> {
        let scans = places.iter().map(|place| async move {
            let pin = self.conns.get(place);
            let mut conn = pin.with_context(|| format!("{place} is not pinned"))?.lock().await;
            scan_with(&mut conn, sql).await.with_context(|| format!("reading {place}"))
        });
        futures_util::future::try_join_all(scans).await
    }
}

fn scanned(row: Row) -> Result<Scanned> {
    let mut cells = row.unwrap().into_iter();
    let mut next = || cells.next().context("a row that is too short");
    let (old_place, new_place) = (place(next()?)?, place(next()?)?);
    let key = text(next()?)?.context("a key that is NULL")?;
    let mut halves = [DefaultHasher::new(), DefaultHasher::new()];
    halves[1].write_u8(1);
    for cell in cells {
        let cell = text(cell)?;
        for half in &mut halves {
            match &cell {
                // The length keeps neighbours apart; no text has this one.
                None => half.write_u64(u64::MAX),
                Some(bytes) => {
                    half.write_u64(bytes.len() as u64);
                    half.write(bytes);
                }
            }
        }
    }
    Ok(Scanned { key, digest: halves.map(|half| half.finish()), old_place, new_place })
}

fn place(cell: Value) -> Result<Option<usize>> {
    let Some(bytes) = text(cell)? else { return Ok(None) };
    let number = std::str::from_utf8(&bytes)?.parse().context("a place that is no number")?;
    Ok(Some(number))
}

/// The text protocol sends everything as text, NULL excepted.
fn text(cell: Value) -> Result<Option<Vec<u8>>> {
    match cell {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => Ok(Some(bytes)),
        other => bail!("not a text: {other:?}"),
    }
}

/// The columns in which the row with this key differs.
pub(super) async fn explain(
    table: &TableColumns,
    key: &str,
    old: &Address,
    new: &Address,
) -> Result<Vec<ColumnDifference>> {
    let sql = table.select_one(key)?;
    let (old, new) = tokio::try_join!(texts(old, &sql), texts(new, &sql))?;
    let columns = table.names().zip(old.into_iter().zip(new));
    Ok(columns
        .filter(|(_, (old, new))| old != new)
        .map(|(column, (old, new))| ColumnDifference {
            column: column.to_owned(),
            old: old.map(shorten),
            new: new.map(shorten),
        })
        .collect())
}

async fn texts(place: &Address, sql: &str) -> Result<Vec<Option<String>>> {
    let row = place.query(sql).await?.into_iter().next();
    let row = row.with_context(|| format!("the row is gone from {place}"))?;
    row.unwrap()
        .into_iter()
        .map(|cell| Ok(text(cell)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
        .collect()
}

fn shorten(text: String) -> String {
    const MOST: usize = 160;
    if text.len() <= MOST {
        text
    } else {
        format!("{}… ({} characters)", &text[..MOST], text.len())
    }
}
