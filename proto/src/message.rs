//! Messages of the change log: written field by field into one buffer, read without copying rows.
//!
//! The format is `change.proto`; the encoder writes exactly what prost would, except that a row
//! always carries its NULL bitmap. `wire` holds the generated types; tests hold both against each
//! other and against committed bytes.

mod origin;

pub use origin::of_stream;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::gtid::{GroupDigest, Gtid, GtidSet, Position};
use crate::row::{RowError, RowView};
use crate::shard::OldShard;
use crate::wire;

/// The wire format written here. A reader refuses any other.
pub const WIRE_VERSION: u32 = 1;

/// Who sent a message, and its place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub source: OldShard,
    pub epoch: u64,
    pub number: u64,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The row is now as its image says: every column that is not generated.
    Upsert,
    /// The row is gone: primary key columns only.
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Number of the table in the plan.
    pub table: u32,
    pub fingerprint: u32,
    /// `None` for a row of a snapshot chunk.
    pub position: Option<Position>,
    pub op: Op,
    /// The encoded row, see [`crate::row`].
    pub row: &'a [u8],
}

/// A change but for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeHead {
    pub table: u32,
    pub fingerprint: u32,
    pub position: Option<Position>,
    pub op: Op,
}

impl<'a> Change<'a> {
    pub fn head(&self) -> ChangeHead {
        let Change { table, fingerprint, position, op, .. } = *self;
        ChangeHead { table, fingerprint, position, op }
    }

    pub fn row(&self) -> Result<RowView<'a>, RowError> {
        RowView::parse(self.row)
    }
}

/// Whether applications may write to a shard. It travels in the log: a token's phase holds for
/// everything that follows it, until another token says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenPhase {
    #[default]
    Serving,
    /// Nobody but modshift writes there.
    Fenced,
}

impl TokenPhase {
    /// As `modshift_token` stores it.
    pub fn name(self) -> &'static str {
        match self {
            TokenPhase::Serving => "serving",
            TokenPhase::Fenced => "fenced",
        }
    }

    pub fn from_name(name: &str) -> Option<TokenPhase> {
        [TokenPhase::Serving, TokenPhase::Fenced].into_iter().find(|phase| phase.name() == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub gtids: GtidSet,
    pub digest: GroupDigest,
    pub writes: u64,
    pub clock_us: i64,
    pub copied: bool,
    pub phase: TokenPhase,
    /// The run that wrote the last marker; never empty.
    pub fence: Option<String>,
    /// A heartbeat and no more: nobody waits for it.
    pub beat: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub gtids: GtidSet,
    pub digest: Option<GroupDigest>,
    pub initial: bool,
    /// Tables copied from their beginning: the receiver drops what it has of them from this source.
    pub anew: Vec<String>,
    /// CRC-32 of the names of the tables whose changes are sent, see [`tables_crc`].
    pub tables: u32,
    /// Groups that are passed over: of one that is half applied nothing more comes.
    pub skipped: Vec<Gtid>,
}

/// Of the names of tables, in whatever order.
pub fn tables_crc<'a>(names: impl IntoIterator<Item = &'a str>) -> u32 {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    let mut crc = crc32fast::Hasher::new();
    for name in names {
        crc.update(name.as_bytes());
        // No name holds it.
        crc.update(&[0]);
    }
    crc.finalize()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Change(Change<'a>),
    Token(Token),
    Start(Start),
}

/// The bytes are no message that this version understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("message has wire version {found}, this program reads version {WIRE_VERSION}")]
    Version { found: u32 },
    #[error("malformed message: {0}")]
    Malformed(String),
}

impl From<prost::DecodeError> for MessageError {
    fn from(error: prost::DecodeError) -> MessageError {
        MessageError::Malformed(error.to_string())
    }
}

fn malformed<T>(what: &str) -> Result<T, MessageError> {
    Err(MessageError::Malformed(what.to_owned()))
}

mod tag {
    pub const VERSION: u8 = 1 << 3;
    pub const SOURCE: u8 = 2 << 3;
    pub const EPOCH: u8 = (3 << 3) | 1;
    pub const NUMBER: u8 = 4 << 3;
    pub const CHANGE: u8 = (5 << 3) | 2;
    pub const TABLE: u8 = 1 << 3;
    pub const SCHEMA: u8 = (2 << 3) | 5;
    pub const GTID: u8 = (3 << 3) | 2;
    pub const ORDINAL: u8 = 4 << 3;
    pub const UPSERT: u8 = (5 << 3) | 2;
    pub const DELETE: u8 = (6 << 3) | 2;
    pub const GTID_DOMAIN: u8 = 1 << 3;
    pub const GTID_SERVER: u8 = 2 << 3;
    pub const GTID_SEQ: u8 = 3 << 3;
}

/// Appends a change message.
pub fn encode_change(envelope: &Envelope, change: &Change<'_>, out: &mut Vec<u8>) {
    let [head, fields] = heads(envelope, &change.head(), change.row.len());
    out.reserve(head.len + fields.len + change.row.len());
    out.extend_from_slice(head.bytes());
    out.extend_from_slice(fields.bytes());
    out.extend_from_slice(change.row);
}

/// What precedes the row in a change message takes at most so many bytes.
pub const HEAD_ROOM: usize = 2 * HEAD_MAX;

/// Makes a change message around a row that lies behind [`HEAD_ROOM`] bytes of the buffer: the row
/// is not copied, and may get another head afterwards.
#[inline]
pub fn encode_around<'a>(
    envelope: &Envelope,
    change: &ChangeHead,
    buffer: &'a mut [u8],
) -> &'a [u8] {
    let [head, fields] = heads(envelope, change, buffer.len() - HEAD_ROOM);
    let fields_at = HEAD_ROOM - fields.len;
    buffer[fields_at..HEAD_ROOM].copy_from_slice(fields.bytes());
    let head_at = fields_at - head.len;
    buffer[head_at..fields_at].copy_from_slice(head.bytes());
    &buffer[head_at..]
}

/// What comes before the row: the envelope, and the change's own fields.
#[inline]
fn heads(envelope: &Envelope, change: &ChangeHead, row_len: usize) -> [Head; 2] {
    // Innermost length first: the outer one counts all of it.
    let mut fields = Head::default();
    fields.put(tag::TABLE, change.table.into());
    if change.fingerprint != 0 {
        fields.push(&[tag::SCHEMA]);
        fields.push(&change.fingerprint.to_le_bytes());
    }
    if let Some(Position { gtid, ordinal }) = &change.position {
        let mut inner = Head::default();
        inner.put(tag::GTID_DOMAIN, gtid.domain.into());
        inner.put(tag::GTID_SERVER, gtid.server.into());
        inner.put(tag::GTID_SEQ, gtid.seq);
        fields.push(&[tag::GTID, inner.len as u8]);
        fields.push(inner.bytes());
        fields.put(tag::ORDINAL, u64::from(*ordinal));
    }
    fields.push(&[match change.op {
        Op::Upsert => tag::UPSERT,
        Op::Delete => tag::DELETE,
    }]);
    fields.varint(row_len as u64);

    let mut head = envelope_head(envelope);
    head.push(&[tag::CHANGE]);
    head.varint((fields.len + row_len) as u64);
    [head, fields]
}

#[inline]
fn envelope_head(envelope: &Envelope) -> Head {
    let mut head = Head::default();
    head.put(tag::VERSION, u64::from(WIRE_VERSION));
    head.put(tag::SOURCE, u64::from(envelope.source.0));
    if envelope.epoch != 0 {
        head.push(&[tag::EPOCH]);
        head.push(&envelope.epoch.to_le_bytes());
    }
    head.put(tag::NUMBER, envelope.number);
    head
}

/// A run of short fields, built apart so that the buffer behind it grows once per message.
struct Head {
    buffer: [u8; HEAD_MAX],
    len: usize,
}

/// No head is longer: 6 for the table, 5 for its fingerprint, 2 + 23 for a GTID, 6 for an ordinal,
/// 11 for the row's tag and length; an envelope with the change's own length takes 40.
const HEAD_MAX: usize = 64;

impl Default for Head {
    fn default() -> Head {
        Head { buffer: [0; HEAD_MAX], len: 0 }
    }
}

impl Head {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        self.buffer[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.buffer[self.len] = value as u8;
        self.len += 1;
    }

    /// Proto3 leaves zero fields out.
    #[inline]
    fn put(&mut self, tag: u8, value: u64) {
        if value != 0 {
            self.push(&[tag]);
            self.varint(value);
        }
    }
}

/// Appends a token message.
pub fn encode_token(envelope: &Envelope, token: &Token, out: &mut Vec<u8>) {
    let body = wire::message::Body::Token(wire::Token {
        gtids: gtids_to_wire(&token.gtids),
        digest: Some(digest_to_wire(&token.digest)),
        writes: token.writes,
        clock_us: token.clock_us,
        copied: token.copied,
        phase: match token.phase {
            TokenPhase::Serving => wire::Phase::Serving.into(),
            TokenPhase::Fenced => wire::Phase::Fenced.into(),
        },
        fence: token.fence.clone().unwrap_or_default(),
        beat: token.beat,
    });
    encode_body(envelope, body, out);
}

/// Appends a start marker.
pub fn encode_start(envelope: &Envelope, start: &Start, out: &mut Vec<u8>) {
    let body = wire::message::Body::Start(wire::Start {
        gtids: gtids_to_wire(&start.gtids),
        digest: start.digest.as_ref().map(digest_to_wire),
        initial: start.initial,
        anew: start.anew.clone(),
        tables: start.tables,
        skipped: start.skipped.iter().copied().map(gtid_to_wire).collect(),
    });
    encode_body(envelope, body, out);
}

fn encode_body(envelope: &Envelope, body: wire::message::Body, out: &mut Vec<u8>) {
    out.extend_from_slice(envelope_head(envelope).bytes());
    // Message fields of the body follow the envelope's: concatenation is merging in protobuf.
    body.encode(out);
}

/// Reads one message. Rows stay where they are.
pub fn decode(bytes: &[u8]) -> Result<(Envelope, Body<'_>), MessageError> {
    let mut rest = bytes;
    let (mut version, mut source, mut epoch, mut number) = (0, 0, 0, 0);
    let mut body = None;
    while !rest.is_empty() {
        match decode_key(&mut rest)? {
            (1, WireType::Varint) => version = decode_varint(&mut rest)?,
            (2, WireType::Varint) => source = decode_varint(&mut rest)?,
            (3, WireType::SixtyFourBit) => epoch = u64::from_le_bytes(take_array(&mut rest)?),
            (4, WireType::Varint) => number = decode_varint(&mut rest)?,
            (field @ 5..=7, WireType::LengthDelimited) => {
                body = Some((field, take_delimited(&mut rest)?));
            }
            (1..=7, _) => return malformed("a known field of another type"),
            (field, kind) => skip_field(kind, field, &mut rest, DecodeContext::default())?,
        }
    }
    if version != u64::from(WIRE_VERSION) {
        let found = u32::try_from(version).unwrap_or(u32::MAX);
        return Err(MessageError::Version { found });
    }
    let Ok(source) = u16::try_from(source) else {
        return malformed("source is no shard number");
    };
    let body = match body {
        Some((5, bytes)) => Body::Change(decode_change(bytes)?),
        Some((6, bytes)) => Body::Token(decode_token(bytes)?),
        Some((_, bytes)) => Body::Start(decode_start(bytes)?),
        None => return malformed("no body"),
    };
    Ok((Envelope { source: OldShard(source), epoch, number }, body))
}

fn decode_change(bytes: &[u8]) -> Result<Change<'_>, MessageError> {
    let mut rest = bytes;
    let (mut table, mut fingerprint, mut ordinal) = (0, 0, 0);
    let mut gtid = None;
    let mut row = None;
    while !rest.is_empty() {
        match decode_key(&mut rest)? {
            (1, WireType::Varint) => table = decode_varint(&mut rest)?,
            (2, WireType::ThirtyTwoBit) => fingerprint = u32::from_le_bytes(take_array(&mut rest)?),
            (3, WireType::LengthDelimited) => {
                gtid = Some(decode_gtid(take_delimited(&mut rest)?)?);
            }
            (4, WireType::Varint) => ordinal = decode_varint(&mut rest)?,
            (5, WireType::LengthDelimited) => {
                row = Some((Op::Upsert, take_delimited(&mut rest)?));
            }
            (6, WireType::LengthDelimited) => {
                row = Some((Op::Delete, take_delimited(&mut rest)?));
            }
            (1..=6, _) => return malformed("a known field of another type"),
            (field, kind) => skip_field(kind, field, &mut rest, DecodeContext::default())?,
        }
    }
    let (Ok(table), Ok(ordinal)) = (u32::try_from(table), u32::try_from(ordinal)) else {
        return malformed("number out of range in a change");
    };
    let Some((op, row)) = row else {
        return malformed("a change without a row");
    };
    let position = gtid.map(|gtid| Position { gtid, ordinal });
    Ok(Change { table, fingerprint, position, op, row })
}

fn decode_gtid(bytes: &[u8]) -> Result<Gtid, MessageError> {
    let mut rest = bytes;
    let (mut domain, mut server, mut seq) = (0, 0, 0);
    while !rest.is_empty() {
        match decode_key(&mut rest)? {
            (1, WireType::Varint) => domain = decode_varint(&mut rest)?,
            (2, WireType::Varint) => server = decode_varint(&mut rest)?,
            (3, WireType::Varint) => seq = decode_varint(&mut rest)?,
            (1..=3, _) => return malformed("a known field of another type"),
            (field, kind) => skip_field(kind, field, &mut rest, DecodeContext::default())?,
        }
    }
    let (Ok(domain), Ok(server)) = (u32::try_from(domain), u32::try_from(server)) else {
        return malformed("number out of range in a GTID");
    };
    Ok(Gtid { domain, server, seq })
}

fn decode_token(bytes: &[u8]) -> Result<Token, MessageError> {
    let token = wire::Token::decode(bytes)?;
    let Some(digest) = token.digest.as_ref().and_then(digest_from_wire) else {
        return malformed("a token without a digest");
    };
    // A phase that this version does not know may forbid what it would do.
    let phase = match wire::Phase::try_from(token.phase) {
        Ok(wire::Phase::Serving) => TokenPhase::Serving,
        Ok(wire::Phase::Fenced) => TokenPhase::Fenced,
        Err(_) => return malformed("a token of an unknown phase"),
    };
    Ok(Token {
        gtids: gtids_from_wire(&token.gtids),
        digest,
        writes: token.writes,
        clock_us: token.clock_us,
        copied: token.copied,
        phase,
        beat: token.beat,
        fence: Some(token.fence).filter(|fence| !fence.is_empty()),
    })
}

fn decode_start(bytes: &[u8]) -> Result<Start, MessageError> {
    let start = wire::Start::decode(bytes)?;
    let digest = match &start.digest {
        None => None,
        Some(digest) => match digest_from_wire(digest) {
            None => return malformed("a digest without a GTID"),
            some => some,
        },
    };
    let gtids = gtids_from_wire(&start.gtids);
    let skipped = start.skipped.iter().map(gtid_from_wire).collect();
    let wire::Start { initial, anew, tables, .. } = start;
    Ok(Start { gtids, digest, initial, anew, tables, skipped })
}

fn gtids_to_wire(set: &GtidSet) -> Vec<wire::Gtid> {
    set.iter().map(gtid_to_wire).collect()
}

fn gtids_from_wire(gtids: &[wire::Gtid]) -> GtidSet {
    gtids.iter().map(gtid_from_wire).collect()
}

fn gtid_to_wire(gtid: Gtid) -> wire::Gtid {
    wire::Gtid { domain: gtid.domain, server: gtid.server, seq: gtid.seq }
}

fn gtid_from_wire(gtid: &wire::Gtid) -> Gtid {
    Gtid { domain: gtid.domain, server: gtid.server, seq: gtid.seq }
}

fn digest_to_wire(digest: &GroupDigest) -> wire::Digest {
    wire::Digest { gtid: Some(gtid_to_wire(digest.gtid)), checksum: digest.checksum }
}

fn digest_from_wire(digest: &wire::Digest) -> Option<GroupDigest> {
    let gtid = digest.gtid.as_ref().map(gtid_from_wire)?;
    Some(GroupDigest { gtid, checksum: digest.checksum })
}

fn take_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], MessageError> {
    let len = decode_varint(rest)?;
    match usize::try_from(len) {
        Ok(len) if len <= rest.len() => {
            let (taken, after) = rest.split_at(len);
            *rest = after;
            Ok(taken)
        }
        _ => malformed("truncated"),
    }
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], MessageError> {
    match rest.split_first_chunk::<N>() {
        Some((taken, after)) => {
            *rest = after;
            Ok(*taken)
        }
        None => malformed("truncated"),
    }
}
