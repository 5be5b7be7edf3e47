//! How long a copy would take, from a short measured trial: a few seconds of reading on every old
//! shard, and batches into a scratch table on every new one.
//!
//! On old shards it only reads. The scratch table is dropped whatever happens; it goes through
//! the new shard's binlog, as the rows of the copy will. One connection for each shard reads and
//! writes, where the daemons have several: the copy is no slower than this unless something else
//! is.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::{quote, select_expr};
use modshift_mariadb::{Conn, Value};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{OldShard, TableSchema};
use mysql_async::prelude::Queryable;
use serde::Serialize;

use super::matrix::{Matrix, Sharded};
use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{self, Mend, Way};
use crate::check::rules::disk;
use crate::check::survey::{Survey, Table};

const RULE: &str = "trial";
pub const SCRATCH: &str = "modshift_trial";
/// For all tables of an old shard together; the same again for a new one.
const READ_TIME: Duration = Duration::from_secs(2);
const APPLY_TIME: Duration = Duration::from_secs(2);
/// A table of a few rows says nothing in less.
const TABLE_TIME_MIN: Duration = Duration::from_millis(50);
/// Of a prepared statement.
const PARAMETERS_MAX: usize = 65_535;
const SAMPLE_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// By old shard, all tables together.
    pub rows_read_per_s: Vec<f64>,
    /// By new shard, of the largest table.
    pub rows_applied_per_s: Vec<f64>,
    /// Until the slowest shard of either side is done.
    pub copy_s: f64,
}

impl Estimate {
    pub fn copy(&self) -> Duration {
        Duration::from_secs_f64(self.copy_s)
    }
}

/// `None` where nothing could be measured; the findings say why.
pub async fn run(
    plan: &Plan,
    survey: &Survey,
    tables: &[Sharded<'_>],
    matrix: &Matrix,
) -> Result<(Option<Estimate>, Vec<Fault>), ServerError> {
    let faults = refused(survey);
    let largest = tables.iter().max_by_key(|table| bytes_of(survey, table.name));
    let (Some(largest), true) = (largest, faults.is_empty() && matrix.total() > 0) else {
        return Ok((None, faults));
    };
    let reads = plan.old_shards().map(|shard| read(plan, survey, tables, shard));
    let reads = try_join_all(reads).await?;
    let sample = join_all(plan.old.iter().map(|endpoint| sample(plan, endpoint, largest))).await;
    let sample = sample.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sample = sample.into_iter().max_by_key(Vec::len).unwrap_or_default();
    let create = survey.olds().find_map(|(_, facts)| facts.tables.get(largest.name));
    let create = create.map_or("", |table| &table.create);
    let applies = plan.new.iter().map(|endpoint| apply(endpoint, largest.schema, create, &sample));
    let applied = try_join_all(applies).await?;
    let rows: u64 = tables_of(survey, largest.name).map(|table| table.rows).sum();
    let row_bytes = bytes_of(survey, largest.name) as f64 / rows.max(1) as f64;
    let coming = disk::coming(survey, Some(matrix));
    let applying =
        coming.iter().zip(&applied).map(|(&bytes, &rate)| bytes as f64 / (rate * row_bytes));
    let reading = reads.iter().map(|read| read.all_s);
    let copy_s = applying.chain(reading).fold(0.0, f64::max);
    let rows_read_per_s = reads.iter().map(|read| read.rows_per_s).collect();
    Ok((Some(Estimate { rows_read_per_s, rows_applied_per_s: applied, copy_s }), faults))
}

fn tables_of<'a>(survey: &'a Survey, name: &'a str) -> impl Iterator<Item = &'a Table> {
    survey.olds().filter_map(move |(_, facts)| facts.tables.get(name))
}

fn bytes_of(survey: &Survey, name: &str) -> u64 {
    tables_of(survey, name).map(|table| table.bytes).sum()
}

/// Accounts that may not make and drop the scratch table.
fn refused(survey: &Survey) -> Vec<Fault> {
    const NEEDED: [&str; 5] = ["CREATE", "DROP", "INSERT", "SELECT", "DELETE"];
    let mut faults = Vec::new();
    for (server, facts) in survey.news() {
        let (schema, user) = (&server.endpoint.schema, &server.endpoint.user);
        let lacking = NEEDED.iter().filter(|p| !facts.grants.has_on_table(schema, SCRATCH, p));
        let lacking: Vec<&str> = lacking.copied().collect();
        if lacking.is_empty() {
            continue;
        }
        let list = lacking.join(", ");
        let actual = format!("lacks {list} on `{schema}`.`{SCRATCH}`: there was no trial");
        faults.push(
            Fault::new(Severity::Warning, RULE, format!("{}: user {user}", server.side), actual)
                .expected("a scratch table to measure with")
                // On a table that is not there yet a grant has to have CREATE.
                .mend(Mend::run(
                    Way::GrantTable,
                    [format!(
                        "GRANT {} ON {} TO {}",
                        NEEDED.join(", "),
                        mend::on_table(schema, SCRATCH),
                        mend::account(&facts.grants, user)
                    )],
                )),
        );
    }
    faults
}

/// What reading one old shard showed.
struct Read {
    rows_per_s: f64,
    /// All of it at these speeds.
    all_s: f64,
}

async fn read(
    plan: &Plan,
    survey: &Survey,
    tables: &[Sharded<'_>],
    shard: OldShard,
) -> Result<Read, ServerError> {
    let endpoint = &plan.old[usize::from(shard.0)];
    let facts = survey.olds().find(|(server, _)| server.side == Side::Old(shard));
    let size = |name: &str| {
        let table = facts.and_then(|(_, facts)| facts.tables.get(name));
        table.map_or((0, 0), |table| (table.rows, table.bytes))
    };
    let total: u64 = tables.iter().map(|table| size(table.name).1).sum();
    let (mut rows_read, mut took, mut all_s) = (0u64, 0.0, 0.0);
    for table in tables {
        let (rows, bytes) = size(table.name);
        let time = READ_TIME.mul_f64(bytes as f64 / total.max(1) as f64).max(TABLE_TIME_MIN);
        let (read, seconds) = read_for(endpoint, table, time).await?;
        rows_read += read;
        took += seconds;
        if read > 0 {
            all_s += rows as f64 * seconds / read as f64;
        }
    }
    Ok(Read { rows_per_s: if took > 0.0 { rows_read as f64 / took } else { 0.0 }, all_s })
}

fn select(table: &Sharded<'_>) -> String {
    let columns = table.schema.sent_columns().map(|i| select_expr(&table.schema.columns[i]));
    format!("SELECT {} FROM {}", columns.collect::<Vec<_>>().join(", "), quote(table.name))
}

/// Rows, and seconds. The connection is dropped with what is still on its way.
async fn read_for(
    endpoint: &Endpoint,
    table: &Sharded<'_>,
    time: Duration,
) -> Result<(u64, f64), ServerError> {
    const DOING: &str = "reading for a trial";
    let of = |error| error::of(&label(endpoint), DOING, error);
    let conn = connect(endpoint, Session::Exact).await?;
    let begun = Instant::now();
    let mut rows = 0;
    let mut stream = conn_stream(conn, select(table)).await.map_err(of)?;
    while begun.elapsed() < time {
        match stream.next().await {
            None => break,
            Some(row) => row.map_err(of)?,
        };
        rows += 1;
    }
    Ok((rows, begun.elapsed().as_secs_f64()))
}

async fn conn_stream(
    conn: Conn,
    sql: String,
) -> mysql_async::Result<
    mysql_async::ResultSetStream<
        'static,
        'static,
        'static,
        mysql_async::Row,
        mysql_async::BinaryProtocol,
    >,
> {
    use mysql_async::prelude::{Query, WithParams};
    sql.with(()).stream(conn).await
}

/// The rows of one batch.
async fn sample(
    plan: &Plan,
    endpoint: &Endpoint,
    table: &Sharded<'_>,
) -> Result<Vec<Vec<Value>>, ServerError> {
    let of = |error| error::of(&label(endpoint), "reading for a trial", error);
    let width = table.schema.sent_columns().count().max(1);
    let rows = plan.apply.batch_rows.min(PARAMETERS_MAX / width).max(1);
    let mut conn = connect(endpoint, Session::Exact).await?;
    let sql = format!("{} LIMIT {rows}", select(table));
    let mut found: Vec<Vec<Value>> = Vec::new();
    let mut bytes = 0;
    let read: Vec<mysql_async::Row> = conn.exec(sql, ()).await.map_err(of)?;
    for row in read {
        let values = row.unwrap();
        bytes += values.iter().map(|value| value.bin_len() as usize).sum::<usize>();
        if bytes > SAMPLE_BYTES_MAX.min(plan.apply.batch_bytes) && !found.is_empty() {
            break;
        }
        found.push(values);
    }
    Ok(found)
}

/// Rows a second.
async fn apply(
    endpoint: &Endpoint,
    schema: &TableSchema,
    create: &str,
    sample: &[Vec<Value>],
) -> Result<f64, ServerError> {
    let of = |error| error::of(&label(endpoint), "applying for a trial", error);
    let mut conn = connect(endpoint, Session::Exact).await?;
    let drop = format!("DROP TABLE IF EXISTS {}", quote(SCRATCH));
    conn.query_drop(&drop).await.map_err(of)?;
    let rate = apply_to(&mut conn, schema, create, sample).await;
    // The connection may be what broke.
    let dropped = match conn.query_drop(&drop).await {
        Ok(()) => Ok(()),
        Err(_) => connect(endpoint, Session::Exact).await?.query_drop(&drop).await,
    };
    let rate = rate.map_err(of)?;
    dropped.map_err(of)?;
    Ok(rate)
}

async fn apply_to(
    conn: &mut Conn,
    schema: &TableSchema,
    create: &str,
    sample: &[Vec<Value>],
) -> mysql_async::Result<f64> {
    conn.query_drop(scratch(create)).await?;
    let columns = schema.sent_columns().map(|i| quote(&schema.columns[i].name));
    let columns: Vec<String> = columns.collect();
    let row = format!("({})", vec!["?"; columns.len()].join(","));
    let insert = format!(
        "INSERT INTO {} ({}) VALUES {}",
        quote(SCRATCH),
        columns.join(", "),
        vec![row.as_str(); sample.len()].join(",")
    );
    let values: Vec<Value> = sample.iter().flatten().cloned().collect();
    let (begun, mut rows, mut took) = (Instant::now(), 0usize, Duration::ZERO);
    while begun.elapsed() < APPLY_TIME || rows == 0 {
        let batch = Instant::now();
        conn.query_drop("START TRANSACTION").await?;
        conn.exec_drop(&insert, values.clone()).await?;
        conn.query_drop("COMMIT").await?;
        took += batch.elapsed();
        rows += sample.len();
        conn.query_drop(format!("DELETE FROM {}", quote(SCRATCH))).await?;
    }
    Ok(rows as f64 / took.as_secs_f64())
}

/// The table under another name, without its foreign keys: their names are taken, and the rows
/// they point to are not there.
fn scratch(create: &str) -> String {
    let Some((_, body)) = create.split_once('\n') else { return create.to_owned() };
    let is_reference =
        |line: &&str| line.trim_start().starts_with("CONSTRAINT") && line.contains(" FOREIGN KEY ");
    let lines: Vec<&str> = body.lines().filter(|line| !is_reference(line)).collect();
    let body = lines.join("\n").replace(",\n)", "\n)");
    format!("CREATE TABLE {} (\n{body}", quote(SCRATCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scratch_table_has_no_foreign_keys() {
        let create = "CREATE TABLE `c` (\n  `a` int(11) NOT NULL,\n  PRIMARY KEY (`a`),\n  \
                      CONSTRAINT `k` FOREIGN KEY (`a`) REFERENCES `p` (`id`)\n) ENGINE=InnoDB";
        assert_eq!(
            scratch(create),
            "CREATE TABLE `modshift_trial` (\n  `a` int(11) NOT NULL,\n  PRIMARY KEY (`a`)\n) ENGINE=InnoDB"
        );
    }
}
