//! The decoder against events that a server really wrote (`examples/binlog_types.rs` fetched them
//! and the rows that SELECT showed), against the same events cut short, and against every code.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use modshift_proto::DataType;
use modshift_proto::row::RowView;
use modshift_proto::schema::{Column, TableSchema, UniqueKey};
use modshift_replicator::binlog::fuzz::{self, events, planned};
use modshift_replicator::binlog::{
    BinlogError, Class, DecodedRow, Decoder, Event, GroupHash, HEADER_LEN, PlannedTable, RowKind,
    Statement, TableRef, Want, read_statement,
};

const INSERT: &[u8] = include_bytes!("../testdata/insert.group");
const UPDATE: &[u8] = include_bytes!("../testdata/update.group");
const COMPRESSED: &[u8] = include_bytes!("../testdata/compressed.group");
const DUPLICATE: &[u8] = include_bytes!("../testdata/duplicate.group");
const DELETE: &[u8] = include_bytes!("../testdata/delete.group");
const MISCELLANY: &[u8] = include_bytes!("../testdata/miscellany.group");
const ALL: [&[u8]; 6] = [INSERT, UPDATE, COMPRESSED, DUPLICATE, DELETE, MISCELLANY];

/// Offsets within the header.
const CODE: usize = 4;
const SERVER: usize = 5;
const POSITION: usize = 13;
const FLAGS: usize = 17;

fn decoder() -> Decoder {
    Decoder::new(vec![planned()]).unwrap()
}

/// The row images of a group, in log order.
fn images(group: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut decoder = decoder();
    let (mut before, mut after) = (DecodedRow::default(), DecodedRow::default());
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for event in events(group) {
        let Event::Rows(mut rows) = decoder.decode(event).unwrap() else { continue };
        let counted = rows.count_rows().unwrap();
        let mut read = 0;
        let layout = decoder.layout(0);
        while rows.read_row(layout, Want::Row, &mut before, Want::Row, &mut after).unwrap() {
            read += 1;
            if rows.kind != RowKind::Insert {
                old.push(before.wire().to_vec());
            }
            if rows.kind != RowKind::Delete {
                new.push(after.wire().to_vec());
            }
        }
        assert_eq!(read, counted);
    }
    (old, new)
}

/// Rows that went in and out, against what SELECT showed, whatever their order.
fn check(group: &[u8], before: &[u8], after: &[u8]) {
    let sorted = |mut rows: Vec<Vec<u8>>| {
        rows.sort();
        rows
    };
    let selected = |rows| sorted(events(rows).into_iter().map(<[u8]>::to_vec).collect());
    let (old, new) = images(group);
    assert_eq!(sorted(old), selected(before));
    assert_eq!(sorted(new), selected(after));
}

#[test]
fn decoded_rows_are_the_rows_that_select_shows() {
    check(INSERT, b"", include_bytes!("../testdata/insert.after"));
    check(
        UPDATE,
        include_bytes!("../testdata/update.before"),
        include_bytes!("../testdata/update.after"),
    );
    check(
        COMPRESSED,
        include_bytes!("../testdata/compressed.before"),
        include_bytes!("../testdata/compressed.after"),
    );
    check(DELETE, include_bytes!("../testdata/delete.before"), b"");
}

#[test]
fn key_cells_are_those_of_the_whole_row() {
    let mut decoder = decoder();
    let mut nothing = DecodedRow::default();
    let (mut row, mut key) = (DecodedRow::default(), DecodedRow::default());
    for event in events(UPDATE) {
        let Event::Rows(mut whole) = decoder.decode(event).unwrap() else { continue };
        let Event::Rows(mut keys) = decoder.decode(event).unwrap() else { continue };
        let layout = decoder.layout(0);
        while whole.read_row(layout, Want::Keys, &mut nothing, Want::Row, &mut row).unwrap() {
            assert!(keys.read_row(layout, Want::Keys, &mut nothing, Want::Keys, &mut key).unwrap());
            assert!(key.cell(0).is_some());
            assert_eq!((key.cell(0), key.cell(9)), (row.cell(0), row.cell(9)));
            assert_eq!(key.cell(1), None, "not wanted");
        }
    }
}

/// What the decoder makes of an event, in one line.
fn show(decoder: &mut Decoder, event: &[u8]) -> String {
    match decoder.decode(event) {
        Ok(Event::Gtid(gtid)) => {
            let flags = [
                (gtid.standalone, " standalone"),
                (gtid.ddl, " ddl"),
                (gtid.prepared_xa, " prepared"),
                (gtid.completed_xa, " completed"),
                (gtid.start_alter, " start-alter"),
                (gtid.commit_alter, " commit-alter"),
                (gtid.skip_replication, " skip"),
            ];
            let set: String = flags.iter().filter(|flag| flag.0).map(|flag| flag.1).collect();
            format!("gtid{set}")
        }
        Ok(Event::Rows(rows)) => {
            let table = match &rows.table {
                TableRef::Planned(index) => format!("planned {index}"),
                TableRef::Other(name) => name.to_string(),
            };
            let skip = if rows.skip_replication { " skip" } else { "" };
            format!("{} {} of {table}{skip}", rows.kind.name(), rows.count_rows().unwrap())
        }
        Ok(Event::Query { sql, lexis, .. }) => match read_statement(&sql, lexis) {
            Statement::Tables { what, .. } | Statement::Definition { what, .. } => {
                format!("query {what}")
            }
            Statement::Schema { what, .. } | Statement::Harmless(what) => format!("query {what}"),
            Statement::MakesTemporary { .. } => "query CREATE TEMPORARY TABLE".to_owned(),
            Statement::DropsTemporary(_) => "query DROP TEMPORARY TABLE".to_owned(),
            Statement::Write(write) => format!("query {}", write.verb),
            other => format!("query {other:?}"),
        },
        Ok(Event::XaPrepare) => "XA PREPARE".to_owned(),
        Ok(Event::Xid) => "xid".to_owned(),
        Ok(Event::Rotate { .. }) => "rotate".to_owned(),
        Ok(Event::NewId(_) | Event::TableMap) => "TABLE_MAP".to_owned(),
        Ok(Event::Format { .. }) => "FORMAT_DESCRIPTION".to_owned(),
        Ok(Event::Control(name)) => name.to_owned(),
        Err(error) => {
            assert_eq!(error.class(), Class::Halt);
            format!("halt: {error}")
        }
    }
}

#[test]
fn a_binlog_of_many_statements_reads_as_what_was_done() {
    let mut decoder = decoder();
    let mut shown = String::new();
    for event in events(MISCELLANY) {
        shown += &show(&mut decoder, event);
        shown.push('\n');
    }
    assert_eq!(shown, include_str!("../testdata/miscellany.txt"), "\n{shown}");
}

#[test]
fn every_event_code_is_handled_or_halts_by_name() {
    let handled =
        |code: u8| matches!(code, 2..=5 | 9 | 13..=19 | 23..=25 | 27 | 30..=32 | 38 | 160..=171);
    for code in 0..=255u8 {
        // "Ignorable", in the flags, changes nothing: to whom, it does not say.
        for flags in [0u8, 0x80] {
            let mut event = vec![0; HEADER_LEN + 3];
            event[CODE] = code;
            event[FLAGS] = flags;
            match decoder().decode(&event) {
                Err(BinlogError::Unsupported { code: named }) => {
                    assert!(!handled(code) && code != 26 && named == code, "{code}");
                }
                Err(BinlogError::Incident { .. }) => assert_eq!(code, 26),
                Err(BinlogError::Malformed { event, .. }) => {
                    assert!(handled(code), "{code}");
                    assert_ne!(event, "unknown event type");
                }
                Ok(Event::Control(name)) => {
                    assert!(
                        matches!(code, 3 | 5 | 9 | 13 | 14 | 17 | 27 | 160 | 161 | 164),
                        "{code} {name}"
                    );
                }
                other => panic!("{code}: {other:?}"),
            }
        }
    }
    let text = |code| BinlogError::Unsupported { code }.to_string();
    assert!(text(10).contains("EXEC_LOAD"));
    assert!(text(200).contains("200"));
    assert!(BinlogError::Unsupported { code: 10 }.hint().is_some());
}

#[test]
fn an_event_cut_anywhere_never_panics() {
    for group in ALL {
        let mut decoder = decoder();
        for event in events(group) {
            for len in (0..event.len()).step_by(1 + event.len() / 500) {
                fuzz::event(&event[..len]);
                if len < HEADER_LEN {
                    assert!(decoder.decode(&event[..len]).is_err());
                }
            }
        }
    }
}

#[test]
fn a_column_that_was_altered_halts_and_is_named() {
    let mut table = planned();
    let mut schema = (*table.table).clone();
    schema.columns[1].data = DataType::Int { bytes: 2, unsigned: false };
    schema.columns[1].type_text = "smallint(6)".to_owned();
    table.table = Arc::new(schema.clone());
    let first_error = |table| {
        let mut decoder = Decoder::new(vec![table]).unwrap();
        events(INSERT).into_iter().find_map(|event| decoder.decode(event).err()).unwrap()
    };
    assert_eq!(
        first_error(table.clone()).to_string(),
        "table every_type, column i1: logged as TINYINT (0), but the catalog shows smallint(6)"
    );
    schema.columns.pop();
    table.table = Arc::new(schema);
    assert!(matches!(first_error(table), BinlogError::ColumnCount { logged: 58, catalog: 57, .. }));
}

fn hash(group: &[&[u8]]) -> u32 {
    let mut decoder = decoder();
    let mut hash = GroupHash::new("0-1-7".parse().unwrap());
    for event in group {
        match decoder.decode(event).unwrap() {
            Event::Rows(rows) => hash.rows(&rows),
            Event::Query { sql, .. } => hash.query(&sql),
            _ => {}
        }
    }
    hash.value()
}

#[test]
fn a_group_hashes_alike_however_the_server_logged_it() {
    let group = events(UPDATE);
    let original = hash(&group);
    // Another server: other time, server, position and table id.
    let moved: Vec<Vec<u8>> = group
        .iter()
        .map(|event| {
            let mut event = event.to_vec();
            event[0] ^= 1;
            event[SERVER] ^= 1;
            event[POSITION] ^= 1;
            if matches!(event[CODE], 19 | 24) {
                event[HEADER_LEN] ^= 0x55;
            }
            event
        })
        .collect();
    assert_eq!(hash(&moved.iter().map(Vec::as_slice).collect::<Vec<_>>()), original);
    // Rows cut into events elsewhere: the row events as one.
    let rows: Vec<&[u8]> = group.iter().copied().filter(|event| event[CODE] == 24).collect();
    assert!(rows.len() > 1);
    let head = HEADER_LEN + 8 + 1 + 8 + 8;
    let mut joined = rows[0].to_vec();
    rows[1..].iter().for_each(|event| joined.extend_from_slice(&event[head..]));
    assert_eq!(hash(&[group[0], group[1], &joined]), original);
    // One flipped bit of a value is another group.
    let last = joined.len() - 1;
    joined[last] ^= 1;
    assert_ne!(hash(&[group[0], group[1], &joined]), original);
}

#[test]
fn small_events_read_as_mysql_cdc_reads_them() {
    use mysql_cdc::events::query_event::QueryEvent;
    let mut decoder = decoder();
    let mut queries = 0;
    for event in events(MISCELLANY).into_iter().filter(|event| event[CODE] == 2) {
        let Ok(Event::Query { schema, sql, lexis, .. }) = decoder.decode(event) else {
            panic!("a query")
        };
        assert!(lexis.backslash && !lexis.ansi_quotes);
        let other = QueryEvent::parse(&mut std::io::Cursor::new(&event[HEADER_LEN..])).unwrap();
        assert_eq!(schema, other.database_name.as_bytes());
        assert_eq!(&*sql, other.sql_statement.as_bytes());
        queries += 1;
    }
    assert!(queries > 10);
}

/// An event with this body.
fn made(code: u8, body: &[u8]) -> Vec<u8> {
    let mut event = vec![0; HEADER_LEN];
    event[CODE] = code;
    event.extend_from_slice(body);
    event
}

/// `s.t` with these columns, all INT but for what their names say.
fn small(columns: &[&str], unique_keys: Vec<UniqueKey>) -> PlannedTable {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        data: match *name {
            "text" => DataType::Text,
            _ => DataType::Int { bytes: 4, unsigned: false },
        },
        type_text: "int(11)".to_owned(),
        charset: None,
        collation: None,
        nullable: true,
        generated: *name == "computed",
    };
    let table = TableSchema {
        name: "t".to_owned(),
        columns: columns.iter().map(column).collect(),
        primary_key: vec![0],
        unique_keys,
    };
    PlannedTable { schema_name: "s".to_owned(), table: Arc::new(table), shard_key: Some(1) }
}

const TABLE_MAP: u8 = 19;
const UPDATE_ROWS: u8 = 24;
const INT: u8 = 3;

fn table_map(types: &[u8], meta: &[u8]) -> Vec<u8> {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0, types.len() as u8];
    body.extend_from_slice(types);
    body.push(meta.len() as u8);
    body.extend_from_slice(meta);
    body.push(0xff);
    made(TABLE_MAP, &body)
}

fn update(columns: u8, present: u8, images: &[u8]) -> Vec<u8> {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, columns, present, present];
    body.extend_from_slice(images);
    made(UPDATE_ROWS, &body)
}

/// The cells of the row after the change, or the error.
fn after(table: PlannedTable, map: &[u8], event: &[u8]) -> Result<Vec<Vec<u8>>, BinlogError> {
    let mut decoder = Decoder::new(vec![table])?;
    decoder.decode(map)?;
    let Event::Rows(mut rows) = decoder.decode(event)? else { panic!("no rows") };
    let counted = rows.count_rows()?;
    let (mut old, mut new) = (DecodedRow::default(), DecodedRow::default());
    let layout = decoder.layout(0);
    assert!(rows.read_row(layout, Want::Keys, &mut old, Want::Row, &mut new)?);
    let cells = RowView::parse(new.wire()).unwrap().cells();
    let cells = cells.map(|cell| cell.unwrap().unwrap_or_default().to_vec()).collect();
    assert!(!rows.read_row(layout, Want::Keys, &mut old, Want::Row, &mut new)?);
    assert_eq!(counted, 1);
    Ok(cells)
}

#[test]
fn an_image_without_columns_that_never_travel_is_whole() {
    let table = small(&["id", "uid", "computed", "w"], Vec::new());
    let map = table_map(&[INT; 4], &[]);
    let image = |w: u8| [0, 1, 0, 0, 0, 2, 0, 0, 0, w, 0, 0, 0];
    let images = [image(3), image(9)].concat();
    let with = small(&["id", "uid", "w"], Vec::new());
    let whole = after(with, &table_map(&[INT; 3], &[]), &update(3, 0b111, &images)).unwrap();
    assert_eq!(whole.len(), 3);
    // MariaDB 11.8: all but the computed one.
    let event = update(4, 0b1011, &images);
    assert_eq!(after(table.clone(), &map, &event).unwrap(), whole);
    // And a NULL behind it: its bit is the one of its place among those that are there.
    let null = [&image(3)[..], &[0b100, 1, 0, 0, 0, 2, 0, 0, 0]].concat();
    let cells = after(table.clone(), &map, &update(4, 0b1011, &null)).unwrap();
    assert_eq!(cells, [whole[0].clone(), whole[1].clone(), Vec::new()]);
    // One that travels, or places the row, is missing (binlog_row_image of a session).
    for present in [0b0111, 0b1001, 0b1110] {
        let error = after(table.clone(), &map, &update(4, present, &images)).unwrap_err();
        assert!(matches!(error, BinlogError::IncompleteImage { .. }), "{present:b}: {error}");
    }
}

#[test]
fn a_unique_key_by_hash_brings_a_hidden_column() {
    const BLOB: u8 = 252;
    const BIGINT: u8 = 8;
    let key = UniqueKey { name: "by_text".to_owned(), columns: vec![2], hashed: true };
    let table = |keys| small(&["id", "uid", "text"], keys);
    let map = table_map(&[INT, INT, BLOB, BIGINT], &[2]);
    let image = [0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, b'x', 1, 2, 3, 4, 0, 0, 0, 0];
    let event = update(4, 0b1111, &[image, image].concat());
    let cells = after(table(vec![key.clone()]), &map, &event).unwrap();
    assert_eq!((cells.len(), cells[2].as_slice()), (3, b"x".as_slice()));
    // Without such a key it is a column that the catalog does not know; with two it is one too few.
    for keys in [Vec::new(), vec![key.clone(), key.clone()]] {
        let error = after(table(keys), &map, &event).unwrap_err();
        assert!(matches!(error, BinlogError::ColumnCount { logged: 4, .. }), "{error}");
    }
    let other = table_map(&[INT, INT, BLOB, INT], &[2]);
    let error = after(table(vec![key]), &other, &event).unwrap_err();
    assert!(error.to_string().contains("DB_ROW_HASH"), "{error}");
}

#[test]
fn the_first_file_of_a_server_that_was_started_is_told_from_others() {
    // Behind the header, the version and the server's name.
    const CREATED: usize = 19 + 2 + 50;
    let captured = events(MISCELLANY).into_iter().find(|event| event[CODE] == 15).unwrap();
    for created in [[0; 4], [0, 0, 0, 1]] {
        let mut event = captured.to_vec();
        event[CREATED..CREATED + 4].copy_from_slice(&created);
        let expected = created != [0; 4];
        let decoded = decoder().decode(&event).map(|event| match event {
            Event::Format { started } => Some(started),
            _ => None,
        });
        assert_eq!(decoded.unwrap(), Some(expected));
    }
}
