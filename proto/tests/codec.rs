//! The wire codec: what is written is read, by this code and by prost's; and no bytes are too odd.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

use modshift_proto::fuzz;
use modshift_proto::message::{
    Body, Change, Envelope, MessageError, Op, Start, Token, TokenPhase, WIRE_VERSION, decode,
};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{GroupDigest, Gtid, OldShard, Position, wire};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

type Cells = Vec<Option<Vec<u8>>>;

/// What a body is made of, owned.
#[derive(Clone, Debug)]
enum Kind {
    Change { table: u32, fingerprint: u32, position: Option<Position>, op: Op, cells: Cells },
    Token(Token),
    Start(Start),
}

/// Zero is left out on the wire, and each length of a varint is another path.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..300u64, any::<u64>(), (0..64u32).prop_map(|bits| u64::MAX >> bits)]
}

fn number32() -> impl Strategy<Value = u32> {
    number().prop_map(|number| number as u32)
}

fn gtid() -> impl Strategy<Value = Gtid> {
    (number32(), number32(), number()).prop_map(|(domain, server, seq)| Gtid {
        domain,
        server,
        seq,
    })
}

fn digest() -> impl Strategy<Value = GroupDigest> {
    (gtid(), number32()).prop_map(|(gtid, checksum)| GroupDigest { gtid, checksum })
}

fn kind() -> impl Strategy<Value = Kind> {
    let cell = || proptest::option::of(vec(any::<u8>(), 0..200));
    let position = (gtid(), number32()).prop_map(|(gtid, ordinal)| Position { gtid, ordinal });
    let op = prop_oneof![Just(Op::Upsert), Just(Op::Delete)];
    let change = (number32(), number32(), proptest::option::of(position), op, vec(cell(), 1..40))
        .prop_map(|(table, fingerprint, position, op, cells)| Kind::Change {
            table,
            fingerprint,
            position,
            op,
            cells,
        });
    let gtids = || vec(gtid(), 0..4).prop_map(|gtids| gtids.into_iter().collect());
    let phase = prop_oneof![
        Just((TokenPhase::Serving, None)),
        "[ -~]{1,64}".prop_map(|fence| (TokenPhase::Serving, Some(fence))),
        "[ -~]{1,64}".prop_map(|fence| (TokenPhase::Fenced, Some(fence))),
    ];
    let token = (gtids(), digest(), number(), any::<i64>(), any::<[bool; 2]>(), phase).prop_map(
        |(gtids, digest, writes, clock_us, [copied, beat], (phase, fence))| {
            Kind::Token(Token { gtids, digest, writes, clock_us, copied, phase, fence, beat })
        },
    );
    let anew = proptest::collection::vec("[a-z]{1,9}", 0..3);
    let skipped = vec(gtid(), 0..3);
    let digest = proptest::option::of(digest());
    let start = (gtids(), digest, any::<bool>(), anew, any::<u32>(), skipped).prop_map(
        |(gtids, digest, initial, anew, tables, skipped)| {
            Kind::Start(Start { gtids, digest, initial, anew, tables, skipped })
        },
    );
    prop_oneof![3 => change, 1 => token, 1 => start]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<u16>(), number(), number()).prop_map(|(source, epoch, number)| Envelope {
        source: OldShard(source),
        epoch,
        number,
    })
}

fn write_row(cells: &Cells) -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = RowWriter::new(&mut out, cells.len());
    for cell in cells {
        match cell {
            Some(bytes) => row.bytes(bytes),
            None => row.null(),
        }
    }
    row.finish();
    out
}

fn read_row(row: RowView<'_>, columns: usize) -> Cells {
    let mut cells = Vec::new();
    row.collect(columns, &mut cells).unwrap();
    cells.into_iter().map(|cell| cell.map(<[u8]>::to_vec)).collect()
}

fn write(envelope: &Envelope, kind: &Kind) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        Kind::Change { table, fingerprint, position, op, cells } => {
            let (table, fingerprint, position, op) = (*table, *fingerprint, *position, *op);
            let row = write_row(cells);
            let change = Change { table, fingerprint, position, op, row: &row };
            fuzz::encode(envelope, &Body::Change(change), &mut out);
        }
        Kind::Token(token) => fuzz::encode(envelope, &Body::Token(token.clone()), &mut out),
        Kind::Start(start) => fuzz::encode(envelope, &Body::Start(start.clone()), &mut out),
    }
    out
}

/// The same message in prost's types.
fn to_prost(envelope: &Envelope, kind: &Kind) -> wire::Message {
    let gtid = |gtid: Gtid| wire::Gtid { domain: gtid.domain, server: gtid.server, seq: gtid.seq };
    let digest = |digest: &GroupDigest| wire::Digest {
        gtid: Some(gtid(digest.gtid)),
        checksum: digest.checksum,
    };
    let body = match kind {
        Kind::Change { table, fingerprint, position, op, cells } => {
            let mut nulls = vec![0; cells.len().div_ceil(8)];
            for (at, _) in cells.iter().enumerate().filter(|(_, cell)| cell.is_none()) {
                nulls[at / 8] |= 1 << (at % 8);
            }
            let cells = cells.iter().map(|cell| cell.clone().unwrap_or_default()).collect();
            let row = wire::Row { nulls, cells };
            wire::message::Body::Change(wire::Change {
                table: *table,
                schema: *fingerprint,
                gtid: position.map(|position| gtid(position.gtid)),
                ordinal: position.map_or(0, |position| position.ordinal),
                row: Some(match op {
                    Op::Upsert => wire::change::Row::Upsert(row),
                    Op::Delete => wire::change::Row::Delete(row),
                }),
            })
        }
        Kind::Token(token) => wire::message::Body::Token(wire::Token {
            gtids: token.gtids.iter().map(gtid).collect(),
            digest: Some(digest(&token.digest)),
            writes: token.writes,
            clock_us: token.clock_us,
            copied: token.copied,
            phase: match token.phase {
                TokenPhase::Serving => wire::Phase::Serving.into(),
                TokenPhase::Fenced => wire::Phase::Fenced.into(),
            },
            fence: token.fence.clone().unwrap_or_default(),
            beat: token.beat,
        }),
        Kind::Start(start) => wire::message::Body::Start(wire::Start {
            gtids: start.gtids.iter().map(gtid).collect(),
            digest: start.digest.as_ref().map(digest),
            initial: start.initial,
            anew: start.anew.clone(),
            tables: start.tables,
            skipped: start.skipped.iter().copied().map(gtid).collect(),
        }),
    };
    wire::Message {
        version: WIRE_VERSION,
        source: u32::from(envelope.source.0),
        epoch: envelope.epoch,
        number: envelope.number,
        body: Some(body),
    }
}

#[test]
fn what_is_written_is_read_and_is_what_prost_writes() {
    let config = support::cases("codec", 10_000);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let test = |(envelope, kind): (Envelope, Kind)| {
        let bytes = write(&envelope, &kind);
        prop_assert_eq!(&bytes, &to_prost(&envelope, &kind).encode_to_vec());
        let (read_envelope, body) = decode(&bytes).unwrap();
        prop_assert_eq!(read_envelope, envelope);
        match (body, kind) {
            (Body::Change(found), Kind::Change { table, fingerprint, position, op, cells }) => {
                prop_assert_eq!((found.table, found.fingerprint), (table, fingerprint));
                prop_assert_eq!((found.position, found.op), (position, op));
                prop_assert_eq!(read_row(found.row().unwrap(), cells.len()), cells);
            }
            (Body::Token(found), Kind::Token(token)) => prop_assert_eq!(found, token),
            (Body::Start(found), Kind::Start(start)) => prop_assert_eq!(found, start),
            (body, kind) => prop_assert!(false, "{body:?} is not {kind:?}"),
        }
        prop_assert!(fuzz::message(&bytes));
        Ok(())
    };
    runner.run(&(envelope(), kind()), test).unwrap();
}

fn a_start() -> wire::Message {
    let envelope = Envelope { source: OldShard(2), epoch: 7, number: 0 };
    let start = Start {
        gtids: "0-1-5".parse().unwrap(),
        digest: None,
        initial: true,
        anew: vec![],
        tables: 0,
        skipped: vec![],
    };
    to_prost(&envelope, &Kind::Start(start))
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    let newer = wire::Message { version: 2, ..a_start() }.encode_to_vec();
    let error = decode(&newer).unwrap_err();
    assert_eq!(error, MessageError::Version { found: 2 });
    assert_eq!(error.to_string(), "message has wire version 2, this program reads version 1");
    // Whatever else a newer version may hold, its number is what counts.
    let bodiless = wire::Message { version: 2, body: None, ..a_start() }.encode_to_vec();
    assert_eq!(decode(&bodiless).unwrap_err(), MessageError::Version { found: 2 });
    let none = wire::Message { version: 0, ..a_start() }.encode_to_vec();
    assert_eq!(decode(&none).unwrap_err(), MessageError::Version { found: 0 });
}

#[test]
fn fields_of_a_later_day_are_skipped() {
    let plain = a_start().encode_to_vec();
    // Field 90 as varint, 64 bits, bytes, a group with something in it, and 32 bits.
    let unknown: [&[u8]; 5] = [
        &[0xd0, 0x05, 0xff, 0x01],
        &[0xd1, 0x05, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xd2, 0x05, 3, b'a', b'b', b'c'],
        &[0xd3, 0x05, 0x08, 0x01, 0xd4, 0x05],
        &[0xd5, 0x05, 1, 2, 3, 4],
    ];
    for field in unknown {
        for message in [[field, &plain].concat(), [&plain, field].concat()] {
            assert_eq!(decode(&message).unwrap(), decode(&plain).unwrap(), "{field:x?}");
        }
        assert_eq!(
            decode(&change_with(field)).unwrap(),
            decode(&change_with(&[])).unwrap(),
            "{field:x?} within a change and its GTID"
        );
    }
}

/// A change whose body and whose GTID end with further bytes.
fn change_with(more: &[u8]) -> Vec<u8> {
    let gtid = [&[0x08, 1, 0x10, 2, 0x18, 3], more].concat();
    let row = write_row(&vec![Some(b"x".to_vec())]);
    let change = [
        &[0x08, 4, 0x1a, gtid.len() as u8],
        &gtid[..],
        &[0x20, 6, 0x2a, row.len() as u8],
        &row,
        more,
    ]
    .concat();
    [&[0x08, 1, 0x2a, change.len() as u8], &change[..]].concat()
}

#[test]
fn what_no_writer_makes_is_refused() {
    let check = |message: wire::Message, expected: &str| {
        let error = decode(&message.encode_to_vec()).unwrap_err().to_string();
        assert_eq!(error, format!("malformed message: {expected}"));
    };
    let with = |body| wire::Message { body: Some(body), ..a_start() };
    check(wire::Message { source: 65_536, ..a_start() }, "source is no shard number");
    check(wire::Message { body: None, ..a_start() }, "no body");
    let change = wire::Change::default();
    check(with(wire::message::Body::Change(change)), "a change without a row");
    let token = wire::Token::default();
    check(with(wire::message::Body::Token(token)), "a token without a digest");
    let gtid = Some(wire::Gtid::default());
    let digest = Some(wire::Digest { gtid, checksum: 0 });
    let token = wire::Token { digest, phase: 2, ..wire::Token::default() };
    check(with(wire::message::Body::Token(token)), "a token of an unknown phase");
    let digest = Some(wire::Digest::default());
    let start = wire::Start { digest, ..wire::Start::default() };
    check(with(wire::message::Body::Start(start)), "a digest without a GTID");
    let retyped = [&a_start().encode_to_vec()[..], &[0x0d, 1, 0, 0, 0]].concat();
    let error = decode(&retyped).unwrap_err().to_string();
    assert_eq!(error, "malformed message: a known field of another type");
}

#[test]
fn a_row_that_contradicts_itself_is_refused() {
    let check = |row: &[u8], columns: usize, expected: &str| {
        let read = RowView::parse(row).and_then(|row| row.collect(columns, &mut Vec::new()));
        assert_eq!(read.unwrap_err().0, expected);
    };
    check(&[0x0a, 1, 0, 0x12, 1, b'x'], 2, "the number of cells is not that of the columns");
    check(&[0x0a, 2, 0, 0, 0x12, 1, b'x'], 1, "the NULL bitmap has not one bit per column");
    check(&[0x12, 1, b'x'], 1, "the NULL bitmap has not one bit per column");
    check(&[0x0a, 1, 1, 0x12, 1, b'x'], 1, "a NULL with a value");
    check(&[0x0a, 1, 0, 0x12, 2, b'x'], 1, "truncated");
    check(&[0x0a, 1, 0, 0x1a, 0], 1, "unexpected field");
    check(&[0x0a, 0x80], 0, "bad length");
}

/// Xorshift: fast enough that a million cases take seconds.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Plain noise seldom passes the first byte, so most cases are messages with a few bytes changed,
/// cut out or doubled.
#[test]
fn a_million_odd_messages_are_read_or_refused() {
    const EXECUTIONS: usize = 1_000_000;
    let mut random = Random(support::seed("odd messages") | 1);
    let gtid = Gtid { domain: 0, server: 300, seq: u64::MAX };
    let digest = GroupDigest { gtid, checksum: 5 };
    let gtids = "0-1-5,7-8-9".parse::<modshift_proto::GtidSet>().unwrap();
    let cells = vec![Some(vec![1; 9]), None, Some(vec![0x80; 3]), Some(vec![])];
    let kinds = [
        Kind::Change {
            table: 3,
            fingerprint: 0xdead_beef,
            position: Some(Position { gtid, ordinal: 6 }),
            op: Op::Upsert,
            cells,
        },
        Kind::Token(Token {
            gtids: gtids.clone(),
            digest,
            writes: 4,
            clock_us: -1,
            copied: true,
            phase: TokenPhase::Fenced,
            fence: Some("run".to_owned()),
            beat: true,
        }),
        Kind::Start(Start {
            gtids,
            digest: Some(digest),
            initial: false,
            anew: vec![],
            tables: 7,
            skipped: vec![digest.gtid],
        }),
    ];
    let envelope = Envelope { source: OldShard(300), epoch: 1 << 50, number: 77 };
    let seeds: Vec<Vec<u8>> = kinds.iter().map(|kind| write(&envelope, kind)).collect();
    let (mut bytes, mut read) = (Vec::new(), 0);
    for execution in 0..EXECUTIONS {
        bytes.clear();
        if execution % 8 == 0 {
            let len = random.below(24);
            bytes.extend((0..len).map(|_| random.next() as u8));
        } else {
            bytes.extend_from_slice(&seeds[random.below(seeds.len())]);
        }
        for _ in 0..=random.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, random.next() as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        read += usize::from(fuzz::message(&bytes));
        fuzz::row(&bytes);
    }
    assert!(read > EXECUTIONS / 100, "only {read} were messages: the test proves little");
    assert!(read < EXECUTIONS, "none was refused: the test proves nothing");
}

#[test]
fn a_message_made_around_its_row_is_the_one_that_is_appended() {
    use modshift_proto::message::{HEAD_ROOM, encode_around, encode_change};
    let row: Vec<u8> = (0..200).collect();
    let gtid = Gtid { domain: u32::MAX, server: u32::MAX, seq: u64::MAX };
    for len in [0, 1, 127, 128, 200] {
        for position in [None, Some(Position { gtid, ordinal: u32::MAX })] {
            for number in [0, 1, u64::MAX] {
                let envelope = Envelope { source: OldShard(u16::MAX), epoch: u64::MAX, number };
                let change = Change {
                    table: u32::MAX,
                    fingerprint: u32::MAX,
                    position,
                    op: Op::Upsert,
                    row: &row[..len],
                };
                let mut appended = Vec::new();
                encode_change(&envelope, &change, &mut appended);
                let mut buffer = vec![0; HEAD_ROOM];
                buffer.extend_from_slice(&row[..len]);
                // Twice: what the first head left there does not matter.
                for _ in 0..2 {
                    assert_eq!(encode_around(&envelope, &change.head(), &mut buffer), appended);
                }
            }
        }
    }
}
