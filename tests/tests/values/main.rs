//! Values of every type through the product's own codec: read, put on the wire, bound, stored
//! again. The judge is the server: `CHECKSUM TABLE` of both copies.

mod checksums;
mod pages;
mod types;

use anyhow::{Context, Result, ensure};
use modshift_mariadb::{Conn, Session, Value, catalog, connect, value};
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::schema::{Column, TableSchema};
use modshift_tests::{MariaDbOptions, MariaDbServer};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

const SCHEMA: &str = "v";

async fn server() -> Result<(MariaDbServer, Conn)> {
    let server = MariaDbServer::start(MariaDbOptions::default()).await?;
    server.run(format!("CREATE DATABASE {SCHEMA}")).await?;
    let address = server.address();
    let endpoint = Endpoint {
        host: address.host,
        port: address.port,
        schema: SCHEMA.to_owned(),
        user: address.user,
        password: Secret::new(address.password),
        tls: TlsMode::Off,
        tls_ca: None,
        replica_server_id: 1000,
        replicas: Vec::new(),
        read_from: None,
        application: None,
        peers: None,
    };
    let conn = connect(&endpoint, Session::Exact).await?;
    Ok((server, conn))
}

fn sent(schema: &TableSchema) -> Vec<&Column> {
    schema.sent_columns().map(|index| &schema.columns[index]).collect()
}

/// Every row on the wire, by primary key.
async fn read(conn: &mut Conn, schema: &TableSchema) -> Result<Vec<Vec<u8>>> {
    let columns = sent(schema);
    let keys: Vec<_> = schema.primary_key.iter().map(|&index| &schema.columns[index]).collect();
    let select: Vec<_> = columns.iter().map(|column| value::select_expr(column)).collect();
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        select.join(", "),
        value::quote(&schema.name),
        value::key_order(&keys)
    );
    let rows: Vec<Row> = conn.exec(sql, ()).await?;
    rows.into_iter().map(|row| encode(&columns, &row.unwrap())).collect()
}

fn encode(columns: &[&Column], values: &[Value]) -> Result<Vec<u8>> {
    let mut wire = Vec::new();
    let mut row = RowWriter::new(&mut wire, columns.len());
    for (column, value) in columns.iter().zip(values) {
        value::value_to_cell(column.data, value, &mut row)
            .with_context(|| format!("{} {}", column.name, column.type_text))?;
    }
    row.finish();
    Ok(wire)
}

async fn write(conn: &mut Conn, schema: &TableSchema, wire: &[Vec<u8>]) -> Result<()> {
    let columns = sent(schema);
    let names: Vec<_> = columns.iter().map(|column| value::quote(&column.name)).collect();
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        value::quote(&schema.name),
        names.join(", "),
        vec!["?"; names.len()].join(", ")
    );
    let mut rows = Vec::new();
    let mut cells = Vec::new();
    for wire in wire {
        RowView::parse(wire)?.collect(columns.len(), &mut cells)?;
        let values: Result<Vec<Value>, _> = (columns.iter().zip(&cells))
            .map(|(column, cell)| value::cell_to_value(column.data, *cell))
            .collect();
        rows.push(values?);
    }
    conn.exec_batch(sql, rows).await?;
    Ok(())
}

async fn checksum(conn: &mut Conn, table: &str) -> Result<u64> {
    let row: Option<(String, u64)> = conn.query_first(format!("CHECKSUM TABLE {table}")).await?;
    Ok(row.context("no checksum")?.1)
}

/// Copies the table `name` and compares; the number of rows.
async fn survives(conn: &mut Conn, name: &str) -> Result<usize> {
    conn.query_drop(format!("CREATE TABLE {name}_copy LIKE {name}")).await?;
    let schema = catalog::table(conn, SCHEMA, name).await?;
    let copy = catalog::table(conn, SCHEMA, &format!("{name}_copy")).await?;
    ensure!(schema.columns == copy.columns, "{name}: the copy has other columns");
    let wire = read(conn, &schema).await?;
    write(conn, &copy, &wire).await.with_context(|| format!("writing {name}"))?;
    ensure!(read(conn, &copy).await? == wire, "{name}: the copy reads differently");
    let (original, copied) =
        (checksum(conn, name).await?, checksum(conn, &format!("{name}_copy")).await?);
    ensure!(original == copied, "{name}: the copy differs");
    ensure!(!wire.is_empty(), "{name} is empty");
    let changes = checksums::tells_apart(conn, &schema, &wire).await?;
    ensure!(changes > 0, "{name} has one value of each column");
    Ok(wire.len())
}
