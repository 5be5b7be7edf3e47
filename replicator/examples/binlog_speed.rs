//! How fast a binlog is read, decoded and encoded: rows and bytes per second of one table between
//! two GTID positions of a server. `make bench` measures the whole; this shows the decoder alone.
//!
//! `MODSHIFT_SERVER=host:port:user:password binlog_speed SCHEMA TABLE START END`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for developers")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::{Session, catalog, connect};
use modshift_proto::GtidSet;
use modshift_proto::plan::{Endpoint, Secret, TlsMode};
use modshift_replicator::binlog::{
    DecodedRow, Decoder, Event, EventStream, GroupHash, PlannedTable, RowsEvent, TableRef, Want,
};

#[derive(Default)]
struct Totals {
    events: u64,
    bytes: u64,
    rows: u64,
    wire_bytes: u64,
}

#[tokio::main]
async fn main() {
    let endpoint = endpoint();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [schema_name, table, start, end] = &arguments[..] else {
        panic!("binlog_speed SCHEMA TABLE START END")
    };
    let (start, end): (GtidSet, GtidSet) = (start.parse().unwrap(), end.parse().unwrap());
    let mut conn = connect(&endpoint, Session::Plain).await.unwrap();
    let table = Arc::new(catalog::table(&mut conn, schema_name, table).await.unwrap());
    let shard_key = table.primary_key.first().copied();
    let planned = PlannedTable { schema_name: schema_name.clone(), table, shard_key };
    let decoder = Decoder::new(vec![planned]).unwrap();

    let stream = EventStream::open(&endpoint, &start, Duration::from_secs(1)).await.unwrap();
    let began = Instant::now();
    let totals = read(stream, decoder, &end).await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} rows, {} events, {:.1} MB ({:.1} MB encoded) in {seconds:.2} s: {:.0} rows/s, {:.0} MB/s",
        totals.rows,
        totals.events,
        totals.bytes as f64 / 1e6,
        totals.wire_bytes as f64 / 1e6,
        totals.rows as f64 / seconds,
        totals.bytes as f64 / 1e6 / seconds,
    );
}

async fn read(mut stream: EventStream, mut decoder: Decoder, end: &GtidSet) -> Totals {
    let mut totals = Totals::default();
    let mut images = [DecodedRow::default(), DecodedRow::default()];
    let mut hash = GroupHash::new("0-0-0".parse().unwrap());
    let mut last = false;
    loop {
        let event = stream.next().await.unwrap();
        totals.events += 1;
        totals.bytes += event.len() as u64;
        match decoder.decode(event).unwrap() {
            Event::Gtid(header) => {
                hash = GroupHash::new(header.gtid);
                last = end.get(header.gtid.domain) == Some(header.gtid);
            }
            Event::Rows(rows) => {
                hash.rows(&rows);
                count(rows, &decoder, &mut images, &mut totals);
            }
            Event::Xid if last => return totals,
            _ => {}
        }
        std::hint::black_box(hash.value());
    }
}

fn count(
    mut rows: RowsEvent<'_>,
    decoder: &Decoder,
    [before, after]: &mut [DecodedRow; 2],
    totals: &mut Totals,
) {
    let TableRef::Planned(table) = rows.table else { return };
    let layout = decoder.layout(table);
    while rows.read_row(layout, Want::Keys, before, Want::Row, after).unwrap() {
        totals.rows += 1;
        totals.wire_bytes += after.wire().len() as u64;
        std::hint::black_box(after.cell(0));
    }
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
        replica_server_id: 7002,
        replicas: Vec::new(),
        read_from: None,
        application: None,
        peers: None,
    }
}
