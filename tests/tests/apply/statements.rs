//! The statements by themselves, for primary keys of every type.

use anyhow::{Context, Result, ensure};
use modshift_consumer::sql::Statements;
use modshift_mariadb::value::{cell_to_value, select_expr, value_to_cell};
use modshift_mariadb::{Session, Value, catalog, connect};
use modshift_proto::TableSchema;
use modshift_proto::row::{RowView, RowWriter};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use crate::feed::{SCHEMA, Shard};

/// Every guarded statement finds its row through the primary key, whatever its type.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_through_the_primary_key_whatever_its_type() -> Result<()> {
    let shard = Shard::start("").await?;
    let mut conn = connect(&shard.plan.new[0], Session::Exact).await?;
    let keys = [
        ("BIGINT", "CAST(seq AS SIGNED) * 7 - 900"),
        ("BIGINT UNSIGNED", "18446744073709551615 - seq"),
        ("VARCHAR(40) COLLATE utf8mb4_general_ci", "CONCAT('Name ', seq, ' é')"),
        ("VARCHAR(40) CHARACTER SET latin1", "CONCAT('Name ', seq, ' é')"),
        ("CHAR(40) COLLATE utf8mb4_bin", "CONCAT('Name ', seq)"),
        ("CHAR(20) CHARACTER SET utf16", "CONCAT('Name ', seq)"),
        ("VARBINARY(40)", "CONCAT('a', seq, X'00FF')"),
        ("BINARY(8)", "CONCAT('a', seq)"),
        ("DECIMAL(20,5)", "CAST(seq AS SIGNED) * -1.5"),
        ("DATETIME(6)", "'2020-01-01' + INTERVAL seq * 1000001 MICROSECOND"),
        ("TIMESTAMP(3)", "'2020-01-01' + INTERVAL seq SECOND"),
        ("DATE", "'2020-01-01' + INTERVAL seq DAY"),
        ("TIME(2)", "SEC_TO_TIME(CAST(seq AS SIGNED) * 60 - 30000)"),
        ("UUID", "CONCAT('123e4567-e89b-12d3-a456-', LPAD(seq, 12, '0'))"),
        ("INET6", "CONCAT('::', HEX(seq))"),
        ("BIT(20)", "seq"),
        ("DOUBLE", "seq / 7"),
        ("FLOAT", "seq / 7"),
        ("YEAR", "1950 + seq % 100"),
        ("ENUM('a','B','c')", "1 + seq % 3"),
        ("SET('a','B','c')", "1 + seq % 7"),
        ("INET4", "CONCAT('10.0.', seq DIV 256, '.', seq % 256)"),
    ];
    for (kind, value) in keys {
        conn.query_drop("DROP TABLE IF EXISTS k").await?;
        conn.query_drop(format!(
            "CREATE TABLE k (id {kind} NOT NULL, uid BIGINT NOT NULL, \
             PRIMARY KEY (id, uid)) ENGINE=InnoDB"
        ))
        .await?;
        conn.query_drop("SET NAMES utf8mb4").await?;
        conn.query_drop(format!("INSERT INTO k SELECT {value}, seq FROM seq_1_to_1000")).await?;
        conn.query_drop("SET NAMES binary").await?;
        conn.query_drop("ANALYZE TABLE k").await?;
        let schema = catalog::table(&mut conn, SCHEMA, "k").await?;
        let sql = Statements::new(&schema, &[0, 1], Some("(`uid` MOD 2)"));
        let column = &schema.columns[0];
        let id: Value = conn
            .exec_first(format!("SELECT {} FROM k WHERE uid = 501", select_expr(column)), ())
            .await?
            .context("no row")?;
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 2);
        value_to_cell(column.data, &id, &mut row)?;
        row.int(501);
        row.finish();
        let mut cells = Vec::new();
        RowView::parse(&wire)?.collect(2, &mut cells)?;
        let params = |owner: u64| -> Result<Vec<Value>> {
            let mut params = Vec::new();
            for &part in &sql.key_params {
                params.push(match cell_to_value(schema.columns[part].data, cells[part])? {
                    Value::Float(value) => f64::from(value).into(),
                    value => value,
                });
            }
            params.push(owner.into());
            Ok(params)
        };
        let plan: Row = conn
            .exec_first(format!("EXPLAIN {}", sql.delete), params(1)?)
            .await?
            .context("no plan")?;
        let read = |name: &str| plan.get::<Option<String>, _>(name).flatten().unwrap_or_default();
        let (how, key) = (read("type"), read("key"));
        ensure!(key == "PRIMARY" && how == "range", "{kind}: {how} {key}: {}", sql.delete);
        let rows: u64 = plan.get("rows").context("no row count")?;
        ensure!(rows == 1, "{kind}: {rows} rows");
        // Not the other owner's row; then, in bulk, this one.
        conn.exec_drop(&sql.delete, params(0)?).await?;
        ensure!(conn.affected_rows() == 0, "{kind}: deleted a row of another owner");
        let refused = conn.exec_batch(&sql.upsert, vec![row_params(&schema, &cells, 0)?; 2]).await;
        let guarded = matches!(&refused, Err(mysql_async::Error::Server(e)) if e.code == 1242);
        ensure!(guarded, "{kind}: {refused:?}");
        conn.exec_batch(&sql.upsert, vec![row_params(&schema, &cells, 1)?; 2]).await?;
        conn.exec_batch(&sql.delete, [params(1)?, params(1)?]).await?;
        let left: u64 = conn.query_first("SELECT COUNT(*) FROM k").await?.context("no count")?;
        ensure!(left == 999, "{kind}: {left} rows left");
    }
    Ok(())
}

/// ON UPDATE, in the key and outside of it, visible and not; 0 in an AUTO_INCREMENT column; a CHECK
/// that an old row breaks: an upsert of a row that is there changes what it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_adds_nothing_of_its_own_to_a_row() -> Result<()> {
    const STAMP: &str = "NOT NULL DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6)";
    let shard = Shard::start("").await?;
    let mut conn = connect(&shard.plan.new[0], Session::Exact).await?;
    conn.query_drop(format!(
        "CREATE TABLE m (dev BIGINT NOT NULL AUTO_INCREMENT, ts TIMESTAMP(6) {STAMP}, \
         day DATETIME(6) {STAMP}, uid BIGINT NOT NULL, v INT CHECK (v > 5), \
         seen TIMESTAMP(6) {STAMP}, hidden DATETIME(6) {STAMP} INVISIBLE, \
         must INT NOT NULL INVISIBLE DEFAULT 7, PRIMARY KEY (dev, ts, day))"
    ))
    .await?;
    let schema = catalog::table(&mut conn, SCHEMA, "m").await?;
    let sent: Vec<usize> = schema.sent_columns().collect();
    let sql = Statements::new(&schema, &sent, Some("(`uid` MOD 2)"));
    let select: Vec<String> = schema.columns.iter().map(select_expr).collect();
    let select = format!("SELECT {} FROM m", select.join(", "));
    let stamp = |day: u8| Value::Date(2020, 1, day, 1, 2, 3, 4);
    for v in [6, 7, 1] {
        let row = [Value::Int(0), stamp(1), stamp(2), Value::Int(5), Value::Int(v)];
        let row = row.into_iter().chain([stamp(3), stamp(4), Value::Int(0)]);
        let row: Vec<Value> = row.collect();
        let params: Vec<Value> = row.iter().cloned().chain([Value::UInt(1)]).collect();
        conn.exec_drop(&sql.upsert, &params).await?;
        let found: Vec<Row> = conn.exec(&select, ()).await?;
        let found: Vec<Vec<Value>> = found.into_iter().map(Row::unwrap).collect();
        ensure!(found == [row], "v {v}: {found:?}");
    }
    Ok(())
}

fn row_params(schema: &TableSchema, cells: &[Option<&[u8]>], owner: u64) -> Result<Vec<Value>> {
    let mut params = Vec::new();
    for (column, cell) in schema.columns.iter().zip(cells) {
        params.push(cell_to_value(column.data, *cell)?);
    }
    params.push(owner.into());
    Ok(params)
}
