//! Wire version 1 is a promise. The files of `testdata/v1` are bytes that version 1 once wrote;
//! they lie in logs of running estates, so every later build must read them as the same values.
//! They are never made anew: if this test fails, the code is wrong. A new kind of message adds a
//! file; a change of meaning takes a new wire version.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;

use modshift_proto::message::{Body, Change, Envelope, Op, Start, Token, TokenPhase, decode};
use modshift_proto::row::{
    DateTime, RowView, RowWriter, cell_datetime, cell_double, cell_float, cell_int, cell_uint,
};
use modshift_proto::{GroupDigest, Gtid, OldShard, Position, fuzz};

/// The bytes of a file: hex digits, and comments after `#`.
fn committed(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1").join(name);
    let text = std::fs::read_to_string(&path).expect(name);
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""))
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Read as the values, and the values written as the bytes.
fn check(name: &str, envelope: Envelope, body: Body<'_>) {
    let bytes = committed(name);
    assert_eq!(decode(&bytes).unwrap(), (envelope, body.clone()), "{name}");
    let mut written = Vec::new();
    fuzz::encode(&envelope, &body, &mut written);
    assert_eq!(written, bytes, "{name}");
}

const GTID: Gtid = Gtid { domain: 1, server: 3311, seq: 1_234_567_890_123 };
const DIGEST: GroupDigest = GroupDigest { gtid: GTID, checksum: 0x89ab_cdef };

fn envelope(number: u64) -> Envelope {
    Envelope { source: OldShard(2), epoch: 1_763_800_000_000_000, number }
}

fn moment() -> DateTime {
    DateTime { year: 2026, month: 11, day: 22, hour: 23, minute: 59, second: 58, micro: 999_999 }
}

/// A cell of every form.
fn row() -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = RowWriter::new(&mut out, 12);
    row.int(i64::MIN);
    row.int(-1);
    row.uint(u64::MAX);
    row.null();
    row.float(-0.5);
    row.double(1e300);
    row.bytes(b"-123.4500");
    row.date(2026, 11, 22);
    row.datetime(moment());
    row.time(-3_020_399_999_999);
    row.bytes("J\u{fc}rgen \0".as_bytes());
    row.bytes_padded(b"ab", 200);
    row.finish();
    out
}

#[test]
fn an_upsert_from_the_binlog() {
    let row = row();
    let position = Some(Position { gtid: GTID, ordinal: 5 });
    let change = Change { table: 7, fingerprint: 0x0123_4567, position, op: Op::Upsert, row: &row };
    check("upsert.hex", envelope(42), Body::Change(change));
}

#[test]
fn an_upsert_from_the_snapshot() {
    let row = row();
    let change =
        Change { table: 0, fingerprint: 0x0123_4567, position: None, op: Op::Upsert, row: &row };
    check("snapshot.hex", envelope(43), Body::Change(change));
}

#[test]
fn a_delete() {
    let mut row = Vec::new();
    let mut key = RowWriter::new(&mut row, 2);
    key.int(17);
    key.bytes(b"key");
    key.finish();
    let position = Some(Position { gtid: GTID, ordinal: 4 });
    let change = Change { table: 7, fingerprint: 0x0123_4567, position, op: Op::Delete, row: &row };
    check("delete.hex", envelope(300), Body::Change(change));
}

#[test]
fn a_token() {
    let gtids = "0-1-5,1-3311-1234567890123".parse().unwrap();
    let clock_us = 1_763_800_000_123_456;
    let token = Token {
        gtids,
        digest: DIGEST,
        writes: 99,
        clock_us,
        copied: true,
        // It was written before there were phases.
        phase: TokenPhase::Serving,
        fence: None,
        beat: false,
    };
    check("token.hex", envelope(44), Body::Token(token));
}

#[test]
fn a_token_of_a_fenced_shard() {
    let token = Token {
        gtids: "1-3311-1234567890123".parse().unwrap(),
        digest: DIGEST,
        writes: 100,
        clock_us: 1,
        copied: false,
        phase: TokenPhase::Fenced,
        fence: Some("run-7".to_owned()),
        beat: false,
    };
    check("token-fenced.hex", envelope(45), Body::Token(token));
}

#[test]
fn start_markers() {
    let initial = Start {
        gtids: "0-1-5".parse().unwrap(),
        digest: None,
        initial: true,
        anew: vec![],
        tables: 0,
        skipped: vec![],
    };
    check("start-initial.hex", envelope(0), Body::Start(initial));
    let gtids = "0-1-5,1-3311-1234567890123".parse().unwrap();
    let resumed = Start {
        gtids,
        digest: Some(DIGEST),
        initial: false,
        anew: vec![],
        tables: 0,
        skipped: vec![],
    };
    check("start-resumed.hex", envelope(0), Body::Start(resumed));
}

/// The forms of cells, spelt out byte by byte: the row writer's own word does not count here.
#[test]
fn cells() {
    let bytes = committed("upsert.hex");
    let (_, Body::Change(change)) = decode(&bytes).unwrap() else { panic!("no change") };
    let mut cells = Vec::new();
    RowView::parse(change.row).unwrap().collect(12, &mut cells).unwrap();
    let cell = |at: usize| cells[at].unwrap();
    assert_eq!(cell(0), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert_eq!(cell_int(cell(0)), Ok(i64::MIN));
    assert_eq!((cell(1), cell_int(cell(1))), (&[1][..], Ok(-1)));
    assert_eq!(cell_uint(cell(2)), Ok(u64::MAX));
    assert_eq!(cells[3], None);
    assert_eq!((cell(4), cell_float(cell(4))), (&[0, 0, 0, 0xbf][..], Ok(-0.5)));
    assert_eq!(cell_double(cell(5)), Ok(1e300));
    assert_eq!(cell(6), b"-123.4500");
    assert_eq!(cell_uint(cell(7)), Ok((2026 << 9) | (11 << 5) | 22));
    assert_eq!(cell_datetime(cell(8)), Ok(moment()));
    assert_eq!(cell_int(cell(9)), Ok(-3_020_399_999_999));
    assert_eq!(cell(10), "J\u{fc}rgen \0".as_bytes());
    assert_eq!((&cell(11)[..2], cell(11).len()), (&b"ab"[..], 200));
    assert!(cell(11)[2..].iter().all(|&byte| byte == 0));
}
