//! Holds the binlog decoder against a server: a table of every type with edge values is written,
//! changed and deleted, and each decoded row must be the one that SELECT shows, byte for byte.
//!
//! `MODSHIFT_SERVER=host:port:user:password cargo run --example binlog_types [DIR]`
//!
//! The server may not be one that matters: the schema `binlog_types` is dropped and created, and
//! the binlog's compression is switched on for a while. With a directory the event groups and the
//! rows expected of them are written there: that is where `replicator/testdata` comes from.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for developers")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use modshift_mariadb::value::{quote, select_expr, value_to_cell};
use modshift_mariadb::{Conn, Session, catalog, connect};
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{GtidSet, TableSchema};
use modshift_replicator::binlog::fuzz::{SCHEMA, TABLE, planned};
use modshift_replicator::binlog::{
    DecodedRow, Decoder, Event, EventStream, PlannedTable, RowKind, Want,
};
use mysql_async::prelude::Queryable;

const CREATE: &str = "CREATE TABLE every_type (
    id BIGINT NOT NULL PRIMARY KEY,
    i1 TINYINT, u1 TINYINT UNSIGNED, i2 SMALLINT, u2 SMALLINT UNSIGNED,
    i3 MEDIUMINT, u3 MEDIUMINT UNSIGNED, i4 INT, u4 INT UNSIGNED, i8 BIGINT, u8 BIGINT UNSIGNED,
    f4 FLOAT, f8 DOUBLE,
    d0 DECIMAL(1,0), d2 DECIMAL(10,2), d30 DECIMAL(65,30), d10 DECIMAL(10,10),
    da DATE, ye YEAR,
    t0 TIME, t1 TIME(1), t2 TIME(2), t3 TIME(3), t6 TIME(6),
    dt0 DATETIME, dt1 DATETIME(1), dt4 DATETIME(4), dt6 DATETIME(6),
    ts0 TIMESTAMP NULL, ts2 TIMESTAMP(2) NULL, ts6 TIMESTAMP(6) NULL,
    c1 CHAR(10), c3 CHAR(200), v1 VARCHAR(60), v2 VARCHAR(300),
    vl VARCHAR(20) CHARACTER SET latin1,
    tx TEXT, lt LONGTEXT CHARACTER SET gbk,
    b5 BINARY(5), b255 BINARY(255), vb VARBINARY(300), tb TINYBLOB, bl BLOB, mb MEDIUMBLOB,
    js JSON, en ENUM('a','b','c'), se SET('a','b','c','d','e','f','g','h','i'),
    bi1 BIT(1), bi12 BIT(12), bi64 BIT(64),
    uu UUID, n4 INET4, n6 INET6, ge GEOMETRY,
    vc VARCHAR(500) COMPRESSED, bc BLOB COMPRESSED,
    gv BIGINT AS (id * 2) VIRTUAL, gs BIGINT AS (id * 3) STORED
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// Values of every column but the generated ones.
const ROWS: [&str; 6] = [
    "1, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295, \
     -9223372036854775808, 18446744073709551615, -3.4028234e38, -1.7976931348623157e308, -9, \
     -99999999.99, -99999999999999999999999999999999999.999999999999999999999999999999, \
     -0.9999999999, '0000-00-00', 0, '-838:59:59', '-00:00:00.1', '-00:00:00.01', \
     '-12:34:56.789', '-838:59:59.999999', '0000-00-00 00:00:00', '2024-02-30 23:59:59.9', \
     '9999-12-31 23:59:59.9999', '1000-01-01 00:00:00.000001', '0000-00-00 00:00:00', \
     '1970-01-01 00:00:01.99', '2038-01-19 03:14:07.999999', 'a', 'b ', '', ' ', 'ÿ', 'text', \
     '中文', x'0100000000', x'00', x'00ff00', x'', x'00', x'ff', '{\"a\": 1}', 'a', 'a', b'1', \
     b'101010101010', b'1111111111111111111111111111111111111111111111111111111111111111', \
     '00112233-4455-6677-8899-aabbccddeeff', '255.255.255.255', '::1', \
     ST_GeomFromText('POINT(1 2)', 4326), 'short', 'short'",
    "2, 127, 0, 32767, 0, 8388607, 0, 2147483647, 0, 9223372036854775807, 0, 1.1754944e-38, \
     2.2250738585072014e-308, 9, 0.50, 0.000000000000000000000000000001, 0.0000000001, \
     '9999-12-31', 1901, '838:59:59', '838:59:58.9', '00:00:00.01', '00:00:00.001', \
     '00:00:00.000001', '9999-12-31 23:59:59', '2024-02-29 00:00:00.1', \
     '2000-01-01 12:00:00.0001', '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', \
     '2024-02-29 00:00:00.01', '1970-01-01 00:00:00.000001', REPEAT('ä', 10), REPEAT('😀', 200), \
     REPEAT('é', 60), REPEAT('x', 300), 'é', REPEAT('y', 300), REPEAT('中', 200), \
     x'ffffffffff', REPEAT(x'ff', 255), REPEAT(x'00', 300), REPEAT(x'01', 255), \
     REPEAT(x'02', 300), REPEAT(x'03', 300), '[]', 'c', 'i', b'0', b'0', b'0', \
     'ffffffff-ffff-ffff-ffff-ffffffffff00', '0.0.0.0', '::', \
     ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))'), REPEAT('compress ', 50), REPEAT('x', 5000)",
    "3, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -0.0, -0.0, -0, -0.004, -0, -0, '2000-00-00', 2155, \
     '00:00:00', '-00:00:01.5', '-00:00:01.50', '-00:00:59.999', '-00:00:00.000001', \
     '2024-01-00 00:00:00', '1000-01-01 00:00:00', '0000-00-00 00:00:00', '0000-00-00', \
     '1970-01-01 00:00:01', '0000-00-00', '2001-09-09 01:46:40.5', 'A  ', '', 'a ', '\\0', '', \
     '', '', x'0000000000', x'', x'61', x'6100', x'6100', x'00', '\"x\"', 'b', '', NULL, \
     b'111111111111', b'1000000000000000000000000000000000000000000000000000000000000000', \
     '00000000-0000-0000-0000-000000000000', '1.0.0.0', 'ff00::', ST_GeomFromText('POINT EMPTY'), \
     '', ''",
    "4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    "-5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1.5, 2.5, 3, 1234567.89, \
     12345678901234567890.123456789012345678901234567890, 0.1234567890, '2024-06-15', 2024, \
     '12:34:56', '12:34:56.7', '12:34:56.78', '12:34:56.789', '12:34:56.789012', \
     '2024-06-15 12:34:56', '2024-06-15 12:34:56.7', '2024-06-15 12:34:56.7890', \
     '2024-06-15 12:34:56.789012', '2024-06-15 12:34:56', '2024-06-15 12:34:56.78', \
     '2024-06-15 12:34:56.789012', 'char', 'char', 'varchar', 'varchar', 'latin', 'text', 'long', \
     'bin', 'binary', 'vb', 'tiny', 'blob', 'medium', '{}', 'b', 'a,c,i', b'1', b'1', b'1', \
     '6ccd780c-baba-1026-9564-5b8c656024db', '192.0.2.1', '2001:db8::ff00:42:8329', \
     ST_GeomFromText('LINESTRING(0 0,1 1)'), 'v', 'b'",
    "6, -1, 128, -1, 32768, -1, 8388608, -1, 2147483648, -1, 9223372036854775808, 0.1, 0.1, 1, \
     100, 1000000000000000000000000000000000, 0, '0001-01-01', 2000, '-00:00:01', '100:00:00.5', \
     '-100:00:00.05', '-100:00:00.000', '-00:59:59.5', '0001-01-01 00:00:00', \
     '0999-12-31 23:59:59.5', '2024-12-00 00:00:00', '2100-02-28 23:59:59.5', \
     '2000-02-29 12:00:00', '2000-03-01 00:00:00', '1999-12-31 23:59:59.999999', ' lead', '\\t', \
     '😀', 'ß', '\\\\', 'x', '\\\\', x'00000000ff', x'00ff', REPEAT(x'80', 255), \
     REPEAT(x'00', 255), REPEAT(x'00', 256), x'', 'null', 'c', 'a,b,c,d,e,f,g,h,i', b'0', \
     b'100000000000', b'1', '10000000-0000-0000-0000-000000000000', '127.0.0.1', \
     '::ffff:192.0.2.1', ST_GeomFromText('MULTIPOINT(1 1,2 2)', 1), REPEAT('ab', 250), \
     REPEAT(x'00', 6000)",
];

/// A statement, and the name under which its event group is kept.
const STEPS: [(&str, &str); 7] = [
    ("insert", "INSERT"),
    (
        "update",
        "UPDATE every_type SET i8 = COALESCE(i8, 0) DIV 2, v2 = CONCAT(COALESCE(v2, ''), '.'), \
         dt6 = NULL, b5 = COALESCE(b5, 'new'), lt = NULL",
    ),
    ("compressed", "UPDATE every_type SET tx = REPEAT('squeeze ', 30), vc = REPEAT('v', 400)"),
    ("duplicate", "INSERT INTO every_type (id, mb) SELECT id + 100, mb FROM every_type"),
    (
        LARGE,
        "INSERT INTO every_type (id, tx, lt, mb, bc) VALUES (7, REPEAT('y', 65535), \
        REPEAT('z', 20 << 20), REPEAT(x'00', 16777215), REPEAT(x'01', 65000))",
    ),
    (LARGE, "DELETE FROM every_type WHERE id = 7"),
    ("delete", "DELETE FROM every_type"),
];

/// Not kept.
const LARGE: &str = "large";

/// Everything else that a binlog may hold.
const MISCELLANY: [&str; 35] = [
    "CREATE TABLE aria (id INT PRIMARY KEY AUTO_INCREMENT, v INT, t TEXT) ENGINE=Aria",
    "INSERT INTO aria VALUES (1, 1, 'one')",
    "BEGIN",
    "INSERT INTO every_type (id) VALUES (30)",
    "INSERT INTO aria VALUES (2, 2, 'two')",
    "ROLLBACK",
    "BEGIN",
    "INSERT INTO every_type (id) VALUES (31)",
    "SAVEPOINT a",
    "INSERT INTO every_type (id) VALUES (32)",
    "INSERT INTO aria VALUES (3, 3, 'three')",
    "ROLLBACK TO a",
    "COMMIT",
    "XA START 'global', 'branch', 7",
    "INSERT INTO every_type (id) VALUES (33)",
    "XA END 'global', 'branch', 7",
    "XA PREPARE 'global', 'branch', 7",
    "XA COMMIT 'global', 'branch', 7",
    "SET skip_replication = 1",
    "INSERT INTO every_type (id) VALUES (34)",
    "SET skip_replication = 0, binlog_alter_two_phase = 1",
    "ALTER TABLE aria ADD b INT, ALGORITHM=COPY",
    "SET binlog_row_image = MINIMAL",
    "UPDATE aria SET v = 9 WHERE id = 1",
    "UPDATE every_type SET i1 = 9 WHERE id = 34",
    "SET binlog_row_image = FULL",
    "CREATE SEQUENCE s",
    "SELECT NEXTVAL(s)",
    "CREATE TABLE ctas ENGINE=InnoDB AS SELECT 1 AS a",
    "SET @v = 5, binlog_format = STATEMENT",
    "INSERT INTO aria (v, t) VALUES (@v, RAND())",
    "SET binlog_format = ROW",
    "FLUSH TABLES",
    "FLUSH BINARY LOGS",
    "DROP TABLE ctas",
];

type Rows = BTreeMap<i64, Vec<u8>>;

#[tokio::main]
async fn main() {
    let endpoint = endpoint();
    let mut conn = connect(&endpoint, Session::Exact).await.unwrap();
    let compression = "SET GLOBAL log_bin_compress_min_len = 10";
    for sql in [
        &format!("DROP DATABASE IF EXISTS {SCHEMA}"),
        &format!("CREATE DATABASE {SCHEMA}"),
        &format!("USE {SCHEMA}"),
        CREATE,
        compression,
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    let schema = Arc::new(catalog::table(&mut conn, SCHEMA, TABLE).await.unwrap());
    assert_known(&schema);
    let start = position(&mut conn).await;

    let mut states = vec![Rows::new()];
    let mut ends = Vec::new();
    for (name, sql) in STEPS {
        let compress = u8::from(name == "compressed");
        conn.query_drop(format!("SET GLOBAL log_bin_compress = {compress}")).await.unwrap();
        // The setting is read when a session begins.
        let mut writer = connect(&endpoint, Session::Plain).await.unwrap();
        writer.query_drop(format!("USE {SCHEMA}")).await.unwrap();
        writer.query_drop("SET sql_mode = 'ALLOW_INVALID_DATES'").await.unwrap();
        if name == "insert" {
            writer.query_drop("BEGIN").await.unwrap();
            for row in ROWS {
                let columns = sent(&schema).join(",");
                let sql = format!("INSERT INTO {TABLE} ({columns}) VALUES ({row})");
                writer.query_drop(sql).await.unwrap();
            }
            writer.query_drop("COMMIT").await.unwrap();
        } else {
            writer.query_drop(sql).await.unwrap();
        }
        states.push(select(&mut conn, &schema).await);
        ends.push(position(&mut conn).await);
    }
    conn.query_drop("SET GLOBAL log_bin_compress = 0").await.unwrap();

    let directory = std::env::args().nth(1);
    let table =
        PlannedTable { schema_name: SCHEMA.to_owned(), table: schema.clone(), shard_key: Some(9) };
    let mut decoder = Decoder::new(vec![table]).unwrap();
    let mut stream = EventStream::open(&endpoint, &start, Duration::from_secs(1)).await.unwrap();
    for (index, end) in ends.iter().enumerate() {
        let name = STEPS[index].0;
        let group = read_group(&mut stream, &mut decoder, end).await;
        compare(name, &mut decoder, &group, &states[index], &states[index + 1]);
        if let Some(directory) = directory.as_ref().filter(|_| name != LARGE) {
            keep(Path::new(directory), name, &group, &states[index], &states[index + 1]);
        }
    }
    let miscellany = miscellany(&endpoint, &mut conn, &mut stream).await;
    println!("miscellany: {} events", miscellany.len());
    if let Some(directory) = &directory {
        let path = Path::new(directory).join("miscellany.group");
        std::fs::write(path, framed(&mut miscellany.iter())).unwrap();
    }
    println!("every decoded row is the row that SELECT shows");
}

fn endpoint() -> Endpoint {
    let server = std::env::var("MODSHIFT_SERVER").expect("MODSHIFT_SERVER=host:port:user:password");
    let mut parts = server.splitn(4, ':').map(str::to_owned);
    let mut next = || parts.next().expect("host:port:user:password");
    Endpoint {
        host: next(),
        port: next().parse().expect("a port"),
        schema: "mysql".to_owned(),
        user: next(),
        password: Secret::new(next()),
        tls: TlsMode::Off,
        tls_ca: None,
        replica_server_id: 7001,
        replicas: Vec::new(),
        read_from: None,
        application: None,
        peers: None,
    }
}

/// The table that the fuzz targets know is this one.
fn assert_known(schema: &TableSchema) {
    let known = planned().table;
    assert_eq!(known.columns.len(), schema.columns.len());
    for (known, column) in known.columns.iter().zip(&schema.columns) {
        assert_eq!((&known.name, known.data), (&column.name, column.data));
        assert_eq!(known.generated, column.generated, "{}", column.name);
    }
}

fn sent(schema: &TableSchema) -> Vec<String> {
    schema.sent_columns().map(|index| quote(&schema.columns[index].name)).collect()
}

async fn position(conn: &mut Conn) -> GtidSet {
    let text: Option<String> = conn.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
    text.unwrap().parse().unwrap()
}

/// What is stored, by primary key, in wire form: read without the binlog.
async fn select(conn: &mut Conn, schema: &TableSchema) -> Rows {
    let exprs: Vec<String> =
        schema.sent_columns().map(|index| select_expr(&schema.columns[index])).collect();
    let sql = format!("SELECT {} FROM {SCHEMA}.{TABLE} ORDER BY id", exprs.join(","));
    let rows: Vec<mysql_async::Row> = conn.exec(sql, ()).await.unwrap();
    rows.into_iter()
        .map(|row| {
            let mut wire = Vec::new();
            let mut writer = RowWriter::new(&mut wire, exprs.len());
            let values = row.unwrap();
            for (index, value) in schema.sent_columns().zip(&values) {
                value_to_cell(schema.columns[index].data, value, &mut writer).unwrap();
            }
            writer.finish();
            let mysql_async::Value::Int(id) = values[0] else { panic!("id is an integer") };
            (id, wire)
        })
        .collect()
}

/// The events of one group, up to the one that ends it.
async fn read_group(
    stream: &mut EventStream,
    decoder: &mut Decoder,
    end: &GtidSet,
) -> Vec<Vec<u8>> {
    let mut group = Vec::new();
    loop {
        let event = stream.next().await.unwrap();
        let decoded = decoder.decode(event).unwrap();
        match decoded {
            Event::Gtid(header) => assert!(end.covers(header.gtid)),
            Event::TableMap | Event::NewId(_) | Event::Rows(_) | Event::Query { .. } => {}
            Event::Xid | Event::XaPrepare => {
                group.push(event.to_vec());
                return group;
            }
            // What stands between groups is not part of one.
            Event::Control(_) | Event::Format { .. } | Event::Rotate { .. } => continue,
        }
        group.push(event.to_vec());
    }
}

/// The events of many kinds of statements, up to the heartbeat of an idle server.
async fn miscellany(
    endpoint: &Endpoint,
    conn: &mut Conn,
    stream: &mut EventStream,
) -> Vec<Vec<u8>> {
    let mut writer = connect(endpoint, Session::Plain).await.unwrap();
    writer.query_drop(format!("USE {SCHEMA}")).await.unwrap();
    for sql in MISCELLANY {
        writer.query_drop(sql).await.unwrap();
    }
    conn.query_drop("SET GLOBAL log_bin_compress = 1").await.unwrap();
    let mut writer = connect(endpoint, Session::Plain).await.unwrap();
    let long = "long ".repeat(40);
    let sql = format!("CREATE TABLE {SCHEMA}.long_comment (a INT) COMMENT '{long}'");
    writer.query_drop(sql).await.unwrap();
    writer.query_drop(format!("INSERT INTO {SCHEMA}.aria (t) VALUES ('{long}')")).await.unwrap();
    conn.query_drop("SET GLOBAL log_bin_compress = 0").await.unwrap();
    let end = position(conn).await;
    let mut control = Decoder::new(Vec::new()).unwrap();
    let mut seen = GtidSet::new();
    let mut events = Vec::new();
    loop {
        let event = stream.next().await.unwrap();
        events.push(event.to_vec());
        match control.decode(event) {
            Ok(Event::Gtid(header)) => seen.set(header.gtid),
            Ok(Event::Control("HEARTBEAT")) if seen.contains(&end) => return events,
            _ => {}
        }
    }
}

fn compare(name: &str, decoder: &mut Decoder, group: &[Vec<u8>], old: &Rows, new: &Rows) {
    let (mut before, mut after) = (DecodedRow::default(), DecodedRow::default());
    let mut old_left = old.clone();
    let mut rows_read = 0;
    let mut codes = Vec::new();
    for event in group {
        codes.push(event[4]);
        let Event::Rows(mut rows) = decoder.decode(event).unwrap() else { continue };
        let layout = decoder.layout(0);
        while rows.read_row(layout, Want::Row, &mut before, Want::Row, &mut after).unwrap() {
            rows_read += 1;
            if rows.kind != RowKind::Insert {
                let id = id(&before);
                same(name, id, before.wire(), &old_left.remove(&id).unwrap());
            }
            if rows.kind != RowKind::Delete {
                let id = id(&after);
                same(name, id, after.wire(), &new[&id]);
            }
        }
    }
    assert!(rows_read > 0, "{name}: no rows");
    println!("{name}: {rows_read} rows equal, event codes {codes:?}");
}

fn id(row: &DecodedRow) -> i64 {
    modshift_proto::row::cell_int(row.cell(0).unwrap()).unwrap()
}

fn same(name: &str, id: i64, decoded: &[u8], selected: &[u8]) {
    let cells = |wire: &[u8]| -> Vec<Option<Vec<u8>>> {
        let row = RowView::parse(wire).unwrap();
        row.cells().map(|cell| cell.unwrap().map(<[u8]>::to_vec)).collect()
    };
    let known = planned().table;
    let (decoded_cells, selected_cells) = (cells(decoded), cells(selected));
    for (index, (a, b)) in decoded_cells.iter().zip(&selected_cells).enumerate() {
        let column = &known.columns[index].name;
        let show =
            |cell: &Option<Vec<u8>>| format!("{:?}", cell.as_ref().map(|c| &c[..c.len().min(40)]));
        assert!(a == b, "{name}, row {id}, {column}: decoded {}, selected {}", show(a), show(b));
    }
    assert_eq!(decoded, selected, "{name}, row {id}");
}

/// `NAME.group`: the events. `NAME.before`, `NAME.after`: the rows, each with its length first.
fn keep(directory: &Path, name: &str, group: &[Vec<u8>], old: &Rows, new: &Rows) {
    for (kind, bytes) in [
        ("group", framed(&mut group.iter())),
        ("before", framed(&mut old.values())),
        ("after", framed(&mut new.values())),
    ] {
        std::fs::write(directory.join(format!("{name}.{kind}")), bytes).unwrap();
    }
}

fn framed(parts: &mut dyn Iterator<Item = &Vec<u8>>) -> Vec<u8> {
    parts.flat_map(|part| [&(part.len() as u32).to_le_bytes()[..], part].concat()).collect()
}
