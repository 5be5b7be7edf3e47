//! Requests for ranges, in `modshift_resync` on each old shard: written, watched, taken back.

use std::fmt::Write as _;

use anyhow::Context;
use modshift_mariadb::control::{
    RESYNC, RESYNC_COPIED, RESYNC_REFUSED, RESYNC_TABLE, RESYNC_WAITS,
};
use modshift_mariadb::value::{key_within, quote};
use modshift_verify::{Bounds, CheckedTable, HERE, Shard, VerifyError, here};

/// One that was written.
#[derive(Clone, Debug)]
pub struct Request {
    pub old: u16,
    pub id: u64,
    pub rows_estimated: u64,
    /// By an earlier run, which was not over.
    pub was_copied: bool,
}

/// How one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub rows: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Waits,
    Copied,
    Refused(String),
    /// Somebody has taken it back.
    Gone,
}

/// The server's guess.
pub async fn estimate(
    shard: &mut Shard,
    table: &CheckedTable,
    bounds: &Bounds,
) -> anyhow::Result<u64> {
    let keys: Vec<_> = table.schema.primary_key.iter().map(|&i| &table.schema.columns[i]).collect();
    let within = key_within(&keys, bounds.from.as_deref(), bounds.to.as_deref())?;
    let sql = format!(
        "EXPLAIN SELECT {} FROM {} FORCE INDEX (PRIMARY) WHERE {within} ORDER BY {}",
        keys.iter().map(|key| quote(&key.name)).collect::<Vec<_>>().join(", "),
        shard.table(&table.schema.name),
        modshift_mariadb::value::key_order(&keys),
    );
    let rows = shard.exact("estimating rows", &sql).await?;
    let of = |row: &mysql_async::Row| row.get_opt::<Option<u64>, _>("rows")?.ok().flatten();
    Ok(rows.first().and_then(of).unwrap_or(0))
}

/// Writes the request, or takes up the same one that an earlier run has left.
pub async fn ask(
    shard: &mut Shard,
    old: u16,
    table: &str,
    bounds: &Bounds,
    rows_estimated: u64,
) -> anyhow::Result<Request> {
    shard.run("creating modshift's table of resyncs", &here(RESYNC_TABLE), ()).await?;
    let (name, from, to) = (text(table), key(&bounds.from), key(&bounds.to));
    let same = format!("table_name = {name} AND key_from <=> {from} AND key_to <=> {to}");
    let again = format!(
        "UPDATE {HERE}{RESYNC} SET state = {RESYNC_WAITS}, why = NULL \
         WHERE {same} AND state = {RESYNC_REFUSED}"
    );
    shard.run("asking for a resync again", &again, ()).await?;
    // Said once more after an answer that was lost, it writes no second one.
    let sql = format!(
        "INSERT INTO {HERE}{RESYNC} (table_name, key_from, key_to, rows_estimated) \
         SELECT {name}, {from}, {to}, {rows_estimated} FROM DUAL \
         WHERE NOT EXISTS (SELECT 1 FROM {HERE}{RESYNC} WHERE {same})"
    );
    shard.run("asking for a resync", &sql, ()).await?;
    let sql = format!("SELECT id, state FROM {HERE}{RESYNC} WHERE {same} ORDER BY id LIMIT 1");
    let found: Vec<(u64, u8)> = shard.query("looking for the resync", &sql).await?;
    let &(id, state) =
        found.first().context("the request for a resync is gone: somebody took it back")?;
    Ok(Request { old, id, rows_estimated, was_copied: state == RESYNC_COPIED })
}

pub async fn state(shard: &mut Shard, id: u64) -> Result<State, VerifyError> {
    let sql = format!("SELECT state, rows_copied, why FROM {HERE}{RESYNC} WHERE id = {id}");
    let rows: Vec<(u8, u64, Option<String>)> = shard.query("watching a resync", &sql).await?;
    let Some((state, rows, why)) = rows.into_iter().next() else {
        return Ok(State { rows: 0, outcome: Outcome::Gone });
    };
    let outcome = match state {
        RESYNC_COPIED => Outcome::Copied,
        RESYNC_REFUSED => Outcome::Refused(why.unwrap_or_default()),
        _ => Outcome::Waits,
    };
    Ok(State { rows, outcome })
}

/// It was copied, and compared.
pub async fn done(shard: &mut Shard, id: u64) -> Result<(), VerifyError> {
    let sql = format!("DELETE FROM {HERE}{RESYNC} WHERE id = {id} AND state = {RESYNC_COPIED}");
    shard.run("closing a resync", &sql, ()).await
}

/// Takes all of a table back, or of all tables. Gives how many there were.
pub async fn cancel(shard: &mut Shard, table: Option<&str>) -> Result<u64, VerifyError> {
    let there = count(shard, table).await?;
    if there > 0 {
        let sql = format!("DELETE FROM {HERE}{RESYNC} WHERE {}", of(table));
        shard.run("taking resyncs back", &sql, ()).await?;
    }
    Ok(there)
}

/// How many there are; none where nobody has ever asked for any.
pub async fn count(shard: &mut Shard, table: Option<&str>) -> Result<u64, VerifyError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let sql = format!("SELECT COUNT(*) FROM {HERE}{RESYNC} WHERE {}", of(table));
    match shard.query::<u64>("counting resyncs", &sql).await {
        Err(VerifyError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => Ok(0),
        counted => Ok(counted?.first().copied().unwrap_or(0)),
    }
}

fn of(table: Option<&str>) -> String {
    table.map_or("TRUE".to_owned(), |name| format!("table_name = {}", text(name)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

fn text(name: &str) -> String {
    format!("_utf8mb4 X'{}'", hex(name.as_bytes()))
}

fn key(cells: &Option<Vec<Vec<u8>>>) -> String {
    let Some(cells) = cells else { return "NULL".to_owned() };
    let mut wire = Vec::new();
    let mut writer = modshift_proto::row::RowWriter::new(&mut wire, cells.len());
    cells.iter().for_each(|cell| writer.bytes(cell));
    writer.finish();
    format!("X'{}'", hex(&wire))
}
