//! Bodies of the fuzz targets: any bytes in, an error or a result out, never a panic. A test runs
//! them on mutations of captured events, `fuzz/` under libFuzzer. Each returns how much was made
//! of the bytes (rows, or statements understood), to tell whether a run got anywhere.

use std::cell::RefCell;
use std::sync::Arc;

use modshift_proto::row::RowView;
use modshift_proto::{Column, DataType, Gtid, TableSchema};

use super::{
    Charset, DecodedRow, Decoder, Event, GroupHash, Lexis, PlannedTable, RowsEvent, Statement,
    TableRef, Want, read_statement, savepoint, without_values,
};

/// The captured groups in `testdata/` are of this table, among others.
pub const SCHEMA: &str = "binlog_types";
pub const TABLE: &str = "every_type";

/// Column names, types as the catalog shows them, and types as decoded.
pub const COLUMNS: &[(&str, &str, DataType)] = {
    use DataType as T;
    &[
        ("id", "bigint(20)", T::Int { bytes: 8, unsigned: false }),
        ("i1", "tinyint(4)", T::Int { bytes: 1, unsigned: false }),
        ("u1", "tinyint(3) unsigned", T::Int { bytes: 1, unsigned: true }),
        ("i2", "smallint(6)", T::Int { bytes: 2, unsigned: false }),
        ("u2", "smallint(5) unsigned", T::Int { bytes: 2, unsigned: true }),
        ("i3", "mediumint(9)", T::Int { bytes: 3, unsigned: false }),
        ("u3", "mediumint(8) unsigned", T::Int { bytes: 3, unsigned: true }),
        ("i4", "int(11)", T::Int { bytes: 4, unsigned: false }),
        ("u4", "int(10) unsigned", T::Int { bytes: 4, unsigned: true }),
        ("i8", "bigint(20)", T::Int { bytes: 8, unsigned: false }),
        ("u8", "bigint(20) unsigned", T::Int { bytes: 8, unsigned: true }),
        ("f4", "float", T::Float),
        ("f8", "double", T::Double),
        ("d0", "decimal(1,0)", T::Decimal { precision: 1, scale: 0 }),
        ("d2", "decimal(10,2)", T::Decimal { precision: 10, scale: 2 }),
        ("d30", "decimal(65,30)", T::Decimal { precision: 65, scale: 30 }),
        ("d10", "decimal(10,10)", T::Decimal { precision: 10, scale: 10 }),
        ("da", "date", T::Date),
        ("ye", "year(4)", T::Year),
        ("t0", "time", T::Time { fsp: 0 }),
        ("t1", "time(1)", T::Time { fsp: 1 }),
        ("t2", "time(2)", T::Time { fsp: 2 }),
        ("t3", "time(3)", T::Time { fsp: 3 }),
        ("t6", "time(6)", T::Time { fsp: 6 }),
        ("dt0", "datetime", T::DateTime { fsp: 0 }),
        ("dt1", "datetime(1)", T::DateTime { fsp: 1 }),
        ("dt4", "datetime(4)", T::DateTime { fsp: 4 }),
        ("dt6", "datetime(6)", T::DateTime { fsp: 6 }),
        ("ts0", "timestamp", T::Timestamp { fsp: 0 }),
        ("ts2", "timestamp(2)", T::Timestamp { fsp: 2 }),
        ("ts6", "timestamp(6)", T::Timestamp { fsp: 6 }),
        ("c1", "char(10)", T::Char),
        ("c3", "char(200)", T::Char),
        ("v1", "varchar(60)", T::VarChar),
        ("v2", "varchar(300)", T::VarChar),
        ("vl", "varchar(20)", T::VarChar),
        ("tx", "text", T::Text),
        ("lt", "longtext", T::Text),
        ("b5", "binary(5)", T::Binary { len: 5 }),
        ("b255", "binary(255)", T::Binary { len: 255 }),
        ("vb", "varbinary(300)", T::VarBinary),
        ("tb", "tinyblob", T::Blob),
        ("bl", "blob", T::Blob),
        ("mb", "mediumblob", T::Blob),
        ("js", "longtext", T::Text),
        ("en", "enum('a','b','c')", T::Enum),
        ("se", "set('a','b','c','d','e','f','g','h','i')", T::Set),
        ("bi1", "bit(1)", T::Bit { bits: 1 }),
        ("bi12", "bit(12)", T::Bit { bits: 12 }),
        ("bi64", "bit(64)", T::Bit { bits: 64 }),
        ("uu", "uuid", T::Uuid),
        ("n4", "inet4", T::Inet4),
        ("n6", "inet6", T::Inet6),
        ("ge", "geometry", T::Geometry),
        ("vc", "varchar(500) /*M!100301 COMPRESSED*/", T::VarChar),
        ("bc", "blob /*M!100301 COMPRESSED*/", T::Blob),
        ("gv", "bigint(20)", T::Int { bytes: 8, unsigned: false }),
        ("gs", "bigint(20)", T::Int { bytes: 8, unsigned: false }),
    ]
};

/// The table as the catalog describes it; its last two columns are generated.
pub fn planned() -> PlannedTable {
    let columns = COLUMNS.iter().map(|&(name, type_text, data)| Column {
        name: name.to_owned(),
        data,
        type_text: type_text.to_owned(),
        charset: None,
        collation: None,
        nullable: name != "id",
        generated: name.starts_with('g') && name != "ge",
    });
    let table = TableSchema {
        name: TABLE.to_owned(),
        columns: columns.collect(),
        primary_key: vec![0],
        unique_keys: Vec::new(),
    };
    let (schema_name, table) = (SCHEMA.to_owned(), Arc::new(table));
    PlannedTable { schema_name, table, shard_key: Some(9) }
}

/// A captured group: each event preceded by its length in four bytes, little-endian.
pub fn events(group: &[u8]) -> Vec<&[u8]> {
    let mut rest = group;
    let mut events = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = (u32::from_le_bytes(*len) as usize).min(after.len());
        let (event, after) = after.split_at(len);
        events.push(event);
        rest = after;
    }
    events
}

/// A TABLE_MAP of the planned table and some rows of it.
const GROUP: &[u8] = include_bytes!("../../testdata/insert.group");

struct Target {
    decoder: Decoder,
    before: DecodedRow,
    after: DecodedRow,
    table_map: Vec<u8>,
    /// Header and body of the row event up to its first row.
    rows_head: Vec<u8>,
}

impl Target {
    fn new() -> Option<Target> {
        let mut decoder = Decoder::new(vec![planned()]).ok()?;
        let (mut table_map, mut rows_head) = (Vec::new(), Vec::new());
        for event in events(GROUP) {
            match decoder.decode(event) {
                Ok(Event::Rows(rows)) => {
                    rows_head = event.get(..event.len() - rows.data().len())?.to_vec();
                }
                Ok(Event::NewId(_)) => table_map = event.to_vec(),
                _ => {}
            }
        }
        let (before, after) = (DecodedRow::default(), DecodedRow::default());
        Some(Target { decoder, before, after, table_map, rows_head })
    }

    /// The input before this one may have undone the table map.
    fn map(&mut self) {
        let mapped = self.decoder.decode(&self.table_map);
        assert!(mapped.is_ok(), "a captured table map is good");
    }

    /// Everything that is done with an event, as the reader does it.
    fn read(&mut self, event: &[u8], hash: &mut GroupHash) -> u32 {
        match self.decoder.decode(event) {
            Ok(Event::Rows(rows)) => {
                hash.rows(&rows);
                self.rows(rows)
            }
            Ok(Event::Query { sql, .. }) => {
                hash.query(&sql);
                query(&sql)
            }
            Ok(_) => 0,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                error.hint();
                error.class();
                0
            }
        }
    }

    fn rows(&mut self, mut rows: RowsEvent<'_>) -> u32 {
        let counted = rows.count_rows();
        let TableRef::Planned(table) = rows.table else { return counted.unwrap_or(0) };
        let layout = self.decoder.layout(table);
        let mut read = 0;
        let whole = loop {
            let (before, after) = (&mut self.before, &mut self.after);
            match rows.read_row(layout, Want::Keys, before, Want::Row, after) {
                Ok(true) => read += 1,
                Ok(false) => break true,
                Err(_) => break false,
            }
            for row in [&self.before, &self.after] {
                let cells = RowView::parse(row.wire()).map(|row| row.cells().count());
                assert!(matches!(cells, Ok(0 | 2 | 56)), "a decoded row is a row");
                row.cell(0);
            }
        };
        if whole && let Ok(counted) = counted {
            assert_eq!(read, counted, "rows read are rows counted");
        }
        read
    }
}

fn with_target(run: impl FnOnce(&mut Target) -> u32) -> u32 {
    thread_local! {
        static TARGET: RefCell<Option<Target>> = RefCell::new(Target::new());
    }
    TARGET.with_borrow_mut(|target| target.as_mut().map_or(0, run))
}

fn hash() -> GroupHash {
    GroupHash::new(Gtid { domain: 0, server: 1, seq: 1 })
}

/// One event after a TABLE_MAP of the planned table.
pub fn event(bytes: &[u8]) -> u32 {
    with_target(|target| {
        target.map();
        target.read(bytes, &mut hash())
    })
}

/// Row images in an event whose beginning is right.
pub fn row(bytes: &[u8]) -> u32 {
    with_target(|target| {
        target.map();
        let event = [&target.rows_head, bytes].concat();
        target.read(&event, &mut hash())
    })
}

/// The text of a statement.
pub fn query(bytes: &[u8]) -> u32 {
    let kana = [true, false].map(|kana| Charset::Double { kana });
    let charsets = [Charset::Utf8, Charset::Latin1, Charset::Plain, kana[0], kana[1]];
    for (index, charset) in charsets.into_iter().enumerate() {
        let lexis = Lexis { ansi_quotes: index % 2 == 0, backslash: index % 3 == 0, charset };
        read_statement(bytes, lexis);
        savepoint(bytes, lexis);
    }
    without_values(bytes);
    u32::from(read_statement(bytes, Lexis::default()) != Statement::Unknown)
}

/// Events in a row, as [`events`] cuts them.
pub fn group(bytes: &[u8]) -> u32 {
    with_target(|target| {
        let mut hash = hash();
        let read = events(bytes).into_iter().map(|event| target.read(event, &mut hash)).sum();
        hash.value();
        read
    })
}
