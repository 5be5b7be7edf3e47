//! The common header and the small events: GTID, GTID list, rotate, query, format description.
//!
//! The header, GTID, GTID list and rotate events are read by `mysql_cdc`, whose parsing of them is
//! right; it panics or reads on where bytes are missing, so their lengths are checked here first.
//! It wants SQL in UTF-8 and copies it, so query events are read here.

use std::borrow::Cow;
use std::io::Cursor;

use modshift_proto::{Gtid, GtidSet};
use mysql_cdc::events::event_header::EventHeader;
use mysql_cdc::events::rotate_event::RotateEvent;
use mysql_cdc::providers::mariadb::events::gtid_event::GtidEvent as CdcGtidEvent;
use mysql_cdc::providers::mariadb::events::gtid_list_event::GtidListEvent;

use super::code;
use super::compress;
use super::error::BinlogError;
use super::input::{Fault, Input, TRUNCATED};
use super::sql::{Charset, Lexis};

/// Every event begins with so many bytes of common header.
pub const HEADER_LEN: usize = 19;

/// Offset of the flags within the header.
pub(super) const FLAGS_AT: usize = 17;

/// Header flag: depends on the session that it ran in (`LOG_EVENT_THREAD_SPECIFIC_F`).
pub(super) const THREAD_SPECIFIC_F: u16 = 4;

/// Header flag: written with `skip_replication=1`.
pub(super) const SKIP_REPLICATION_F: u16 = 0x8000;

/// The header, and the body behind it.
pub(super) fn split(event: &[u8]) -> Result<(EventHeader, &[u8]), BinlogError> {
    let cut = || BinlogError::Malformed { event: "binlog", what: "shorter than its header" };
    let (header, body) = event.split_at_checked(HEADER_LEN).ok_or_else(cut)?;
    let header = EventHeader::parse(header).map_err(|_| cut())?;
    Ok((header, body))
}

/// What an event is to somebody who only passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Begins this group.
    Group(Gtid),
    /// The server has nothing to say.
    Heartbeat,
    Other,
}

/// Offset of the type code within the header.
const TYPE_AT: usize = 4;

pub fn kind(event: &[u8]) -> Result<EventKind, BinlogError> {
    match event.get(TYPE_AT) {
        Some(&code::GTID) => {
            let (header, body) = split(event)?;
            let malformed = |fault| BinlogError::malformed(code::GTID, fault);
            GtidEvent::parse(&header, body)
                .map(|begun| EventKind::Group(begun.gtid))
                .map_err(malformed)
        }
        Some(&code::HEARTBEAT) => Ok(EventKind::Heartbeat),
        // The decoder of each reader says what is wrong with one that has no header.
        Some(_) | None => Ok(EventKind::Other),
    }
}

/// Does it begin a group or a file? Knows the type alone: what is between them is not looked at.
pub fn begins(event: &[u8]) -> bool {
    matches!(event.get(TYPE_AT), Some(&(code::GTID | code::FORMAT_DESCRIPTION | code::ROTATE)))
}

/// The name of a transaction that its client prepares and completes by XA.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Xid {
    format: u32,
    global: Vec<u8>,
    branch: Vec<u8>,
}

impl std::fmt::Display for Xid {
    /// As the server prints it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        write!(f, "X'{}',X'{}',{}", hex(&self.global), hex(&self.branch), self.format)
    }
}

/// Which session ran a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub thread: u32,
    /// Something of its own mattered, such as a temporary table.
    pub specific: bool,
}

/// Begins an event group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GtidEvent {
    pub gtid: Gtid,
    /// A single statement that ends its group without a commit.
    pub standalone: bool,
    /// All of its tables are transactional.
    pub transactional: bool,
    pub ddl: bool,
    /// Ends with XA PREPARE.
    pub prepared_xa: bool,
    /// XA COMMIT or XA ROLLBACK of a group prepared before.
    pub completed_xa: bool,
    /// Which one, in both cases.
    pub xid: Option<Xid>,
    /// First, and last, phase of a two-phase ALTER TABLE: the same text twice.
    pub start_alter: bool,
    pub commit_alter: bool,
    pub rollback_alter: bool,
    /// Written with `skip_replication=1`.
    pub skip_replication: bool,
}

const FL_STANDALONE: u8 = 1;
const FL_GROUP_COMMIT_ID: u8 = 2;
const FL_TRANSACTIONAL: u8 = 4;
const FL_DDL: u8 = 32;
const FL_PREPARED_XA: u8 = 64;
const FL_COMPLETED_XA: u8 = 128;
const FL_EXTRA_MULTI_ENGINE: u8 = 1;
const FL_EXTRA_START_ALTER: u8 = 2;
const FL_EXTRA_COMMIT_ALTER: u8 = 4;
const FL_EXTRA_ROLLBACK_ALTER: u8 = 8;
/// A thread id, from 11.x on.
const FL_EXTRA_THREAD_ID: u8 = 16;

impl GtidEvent {
    pub(super) fn parse(header: &EventHeader, body: &[u8]) -> Result<GtidEvent, Fault> {
        let mut rest = Input::new(body);
        rest.take(13)?;
        let base = CdcGtidEvent::parse(&mut Cursor::new(body), header).map_err(|_| TRUNCATED)?;
        // `Gtid_log_event` in log_event.cc; what is left is zero padding.
        let flags = base.flags;
        if flags & FL_GROUP_COMMIT_ID != 0 {
            rest.take(8)?;
        }
        let mut xid = None;
        if flags & (FL_PREPARED_XA | FL_COMPLETED_XA) != 0 {
            let format = rest.le(4)? as u32;
            let (global, branch) = (rest.byte()?, rest.byte()?);
            let global = rest.take(usize::from(global))?.to_vec();
            let branch = rest.take(usize::from(branch))?.to_vec();
            xid = Some(Xid { format, global, branch });
        }
        let extra = if rest.is_empty() { 0 } else { rest.byte()? };
        if extra & !(FL_EXTRA_MULTI_ENGINE | 0x0e | FL_EXTRA_THREAD_ID) != 0 {
            return Err(Fault("unknown extra flags"));
        }
        Ok(GtidEvent {
            gtid: Gtid {
                domain: base.gtid.domain_id,
                server: base.gtid.server_id,
                seq: base.gtid.sequence,
            },
            standalone: flags & FL_STANDALONE != 0,
            transactional: flags & FL_TRANSACTIONAL != 0,
            ddl: flags & FL_DDL != 0,
            prepared_xa: flags & FL_PREPARED_XA != 0,
            completed_xa: flags & FL_COMPLETED_XA != 0,
            xid,
            start_alter: extra & FL_EXTRA_START_ALTER != 0,
            commit_alter: extra & FL_EXTRA_COMMIT_ALTER != 0,
            rollback_alter: extra & FL_EXTRA_ROLLBACK_ALTER != 0,
            skip_replication: header.event_flags & SKIP_REPLICATION_F != 0,
        })
    }
}

/// What the binlog held before: sent at the start of each file and where a GTID start was found.
pub(super) fn gtid_list(body: &[u8]) -> Result<GtidSet, Fault> {
    // The upper four bits are flags of relay logs. An empty list is padded with two bytes.
    let count = Input::new(body).le(4)? as usize;
    if count > 0x0fff_ffff || body.len() < 4 + count * 16 {
        return Err(Fault("its length is not that of its GTIDs"));
    }
    let list = GtidListEvent::parse(&mut Cursor::new(body)).map_err(|_| TRUNCATED)?.gtid_list;
    // One domain may come with several servers; the last of them is the newest.
    Ok(list
        .gtids
        .iter()
        .map(|gtid| Gtid { domain: gtid.domain_id, server: gtid.server_id, seq: gtid.sequence })
        .collect())
}

/// The file that follows, and where in it. For display.
pub(super) fn rotate(body: &[u8]) -> Result<(String, u64), Fault> {
    if body.len() < 8 {
        return Err(TRUNCATED);
    }
    let rotate = RotateEvent::parse(&mut Cursor::new(body)).map_err(|_| Fault("file name"))?;
    Ok((rotate.binlog_filename, rotate.binlog_position))
}

/// A statement: default schema and text, in whatever character set the client used, how that is to
/// be read, and the session's number.
pub(super) type Query<'a> = (&'a [u8], Cow<'a, [u8]>, Lexis, u32);

pub(super) fn query(code: u8, body: &[u8]) -> Result<Query<'_>, Fault> {
    let mut input = Input::new(body);
    let thread = input.le(4)? as u32;
    input.take(4)?; // seconds it took
    let schema_len = usize::from(input.byte()?);
    input.take(2)?; // error code
    let status_len = input.le(2)? as usize;
    if code == code::EXECUTE_LOAD_QUERY {
        // File, where its name stands in the text, what becomes of duplicates.
        input.take(13)?;
    }
    let lexis = lexis(input.take(status_len)?)?;
    let schema = input.take(schema_len)?;
    if input.byte()? != 0 {
        return Err(Fault("unterminated schema name"));
    }
    if code != code::QUERY_COMPRESSED {
        return Ok((schema, Cow::Borrowed(input.rest()), lexis, thread));
    }
    let mut sql = Vec::new();
    compress::event(input.rest(), &mut sql)?;
    Ok((schema, Cow::Owned(sql), lexis, thread))
}

/// `MODE_ANSI_QUOTES` and `MODE_NO_BACKSLASH_ESCAPES` in sql_class.h.
const ANSI_QUOTES: u64 = 4;
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// From the status variables of a query event (`Query_log_event::write`), as far as they matter.
fn lexis(status: &[u8]) -> Result<Lexis, Fault> {
    let mut lexis = Lexis::default();
    let mut input = Input::new(status);
    while !input.is_empty() {
        match input.byte()? {
            // Q_FLAGS2, Q_AUTO_INCREMENT
            0 | 3 => {
                input.take(4)?;
            }
            // Q_SQL_MODE
            1 => {
                let mode = input.le(8)?;
                lexis.ansi_quotes = mode & ANSI_QUOTES != 0;
                lexis.backslash = mode & NO_BACKSLASH_ESCAPES == 0;
            }
            // Q_CHARSET: of the client, of the connection, of the server. The last that counts.
            4 => {
                lexis.charset = Charset::of(input.le(2)? as u16);
                break;
            }
            // Q_CATALOG_NZ
            6 => {
                let len = usize::from(input.byte()?);
                input.take(len)?;
            }
            // Whatever else there is comes behind those.
            _ => break,
        }
    }
    Ok(lexis)
}

/// Refuses a server whose events are laid out otherwise than this decoder reads them. True: it was
/// started when it began this file.
pub(super) fn format(body: &[u8]) -> Result<bool, BinlogError> {
    let fault = |fault| BinlogError::malformed(code::FORMAT_DESCRIPTION, fault);
    let mut input = Input::new(body);
    let version = input.le(2).map_err(fault)? as u16;
    let server = input.take(50).map_err(fault)?;
    let server = server.split(|&byte| byte == 0).next().unwrap_or_default();
    let server = String::from_utf8_lossy(server).into_owned();
    // 0 in a file that follows on another one, and in what begins a connection amid a file
    // (`Start_log_event_v3` in log_event.h, `send_format_descriptor_event` in sql_repl.cc).
    let created = input.le(4).map_err(fault)?;
    let header_len = usize::from(input.byte().map_err(fault)?);
    // Post-header lengths, by type code from 1 on.
    let lens = input.rest();
    let is = |code: u8, len: u8| lens.get(usize::from(code) - 1) == Some(&len);
    let known = version == 4
        && header_len == HEADER_LEN
        && is(code::QUERY, 13)
        && is(code::TABLE_MAP, 8)
        && is(code::WRITE_ROWS_V1, 8)
        && is(code::UPDATE_ROWS_V1, 8)
        && is(code::DELETE_ROWS_V1, 8)
        && is(code::GTID, 19)
        && is(code::GTID_LIST, 4);
    if known { Ok(created != 0) } else { Err(BinlogError::Format { version, server }) }
}

/// The message of an incident: a number, a byte of length, the text.
pub(super) fn incident(body: &[u8]) -> String {
    let text = body.get(3..).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
