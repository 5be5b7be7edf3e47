//! Events to what they mean, one at a time. Pure: bytes in, borrowed parts of them out.
//!
//! The only memory from event to event are the table maps. Whatever carries data and is not
//! handled is an error with its name; so is a code that nobody has heard of.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;

use super::code;
use super::compress::UNCOMPRESSED_MAX;
use super::error::BinlogError;
use super::event::{self, GtidEvent, SKIP_REPLICATION_F, Session, THREAD_SPECIFIC_F};
use super::input::{Fault, Input};
use super::metadata::Collations;
use super::row::{Layout, PlannedTable};
use super::rows::{Mapped, RowsEvent, RowsHead, TableRef};
use super::sql::Lexis;
use super::table_map::TableMap;

/// A decoded event, borrowing from its bytes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Begins a group.
    Gtid(GtidEvent),
    /// Rows of any table, planned or not.
    Rows(RowsEvent<'a>),
    /// A statement; see [`super::read_statement`]. Owned only where the server sent it compressed.
    Query { schema: &'a [u8], sql: Cow<'a, [u8]>, lexis: Lexis, session: Session },
    /// Commits and ends a group.
    Xid,
    /// Ends a group whose rows count, or do not, by another that names the same xid.
    XaPrepare,
    /// The events that follow are in another file. For display.
    Rotate { file: String, position: u64 },
    /// A planned table comes under an id that this file has not shown yet: the server has opened it
    /// anew, perhaps after a change of its definition.
    NewId(usize),
    /// Says which table an id stands for.
    TableMap,
    /// Another file begins, or the connection does. A group that is still open was cut off: its
    /// server was killed while it wrote it, and gives its GTID out again.
    Format {
        /// It is the first file since the server was started.
        started: bool,
    },
    /// Something without data, by its name.
    Control(&'static str),
}

/// Table ids change with every reopening of a table, so maps of old ones pile up within a file.
/// Above so many they are dropped at the end of a statement; each statement brings its own.
const TABLE_MAPS_KEPT: usize = 1024;
/// No statement maps more tables.
const TABLE_MAPS_MAX: usize = 65_536;

pub struct Decoder {
    layouts: Vec<Layout>,
    /// By schema, then table.
    planned: HashMap<Vec<u8>, HashMap<Vec<u8>, usize>>,
    maps: HashMap<u64, Arc<Mapped>>,
    collations: Arc<Collations>,
}

impl Decoder {
    /// The index of a table is its place among `tables`.
    pub fn new(tables: Vec<PlannedTable>) -> Result<Decoder, BinlogError> {
        let mut planned: HashMap<Vec<u8>, HashMap<Vec<u8>, usize>> = HashMap::new();
        let mut layouts = Vec::with_capacity(tables.len());
        for (index, table) in tables.into_iter().enumerate() {
            let schema = planned.entry(table.schema_name.clone().into_bytes()).or_default();
            if schema.insert(table.table.name.clone().into_bytes(), index).is_some() {
                return Err(BinlogError::PlannedTwice { table: table.table.name.clone() });
            }
            layouts.push(Layout::new(table)?);
        }
        Ok(Decoder { layouts, planned, maps: HashMap::new(), collations: Arc::default() })
    }

    /// With the server's numbers of collations, by which table maps name character sets.
    pub fn with_collations(self, collations: Arc<Collations>) -> Decoder {
        Decoder { collations, ..self }
    }

    /// One event: header and body, without checksum.
    pub fn decode<'a>(&mut self, event: &'a [u8]) -> Result<Event<'a>, BinlogError> {
        if event.len() > UNCOMPRESSED_MAX {
            return Err(BinlogError::TooLarge { bytes: event.len() });
        }
        let (header, body) = event::split(event)?;
        let code = header.event_type;
        let skip = header.event_flags & SKIP_REPLICATION_F != 0;
        let malformed = |fault| BinlogError::malformed(code, fault);
        match code {
            code::TABLE_MAP => self.table_map(body),
            code::WRITE_ROWS_V1..=code::DELETE_ROWS_V1
            | code::WRITE_ROWS_V2..=code::DELETE_ROWS_V2
            | code::WRITE_ROWS_COMPRESSED_V1..=code::DELETE_ROWS_COMPRESSED_V2 => {
                self.rows(code, skip, body)
            }
            code::GTID => GtidEvent::parse(&header, body).map(Event::Gtid).map_err(malformed),
            code::XID => match body.len() {
                8 => Ok(Event::Xid),
                _ => Err(malformed(Fault("not eight bytes"))),
            },
            code::QUERY | code::QUERY_COMPRESSED | code::EXECUTE_LOAD_QUERY => {
                let (schema, sql, lexis, thread) = event::query(code, body).map_err(malformed)?;
                let specific = header.event_flags & THREAD_SPECIFIC_F != 0;
                Ok(Event::Query { schema, sql, lexis, session: Session { thread, specific } })
            }
            // A byte, a number and two lengths come before the xid, which the group's GTID has too.
            // The byte tells of one that is committed at once; MariaDB logs that as any other.
            code::XA_PREPARE => match body.first() {
                Some(0) if body.len() >= 13 => Ok(Event::XaPrepare),
                _ => Err(malformed(Fault("not the preparing of a transaction"))),
            },
            code::ROTATE => {
                let (file, position) = event::rotate(body).map_err(malformed)?;
                Ok(Event::Rotate { file, position })
            }
            code::FORMAT_DESCRIPTION => {
                let started = event::format(body)?;
                // A new file, perhaps after a restart: table ids begin again.
                self.maps.clear();
                Ok(Event::Format { started })
            }
            code::GTID_LIST => {
                event::gtid_list(body).map_err(malformed)?;
                Ok(Event::Control(code::name(code)))
            }
            // START_ENCRYPTION says how the *file* is encrypted; what is streamed is not.
            // Values for the statement that follows, which is looked at itself, or its file.
            code::INTVAR
            | code::RAND
            | code::USER_VAR
            | code::BEGIN_LOAD_QUERY
            | code::APPEND_BLOCK => Ok(Event::Control(code::name(code))),
            code::HEARTBEAT
            | code::ANNOTATE_ROWS
            | code::BINLOG_CHECKPOINT
            | code::STOP
            | code::START_ENCRYPTION => Ok(Event::Control(code::name(code))),
            code::INCIDENT => Err(BinlogError::Incident { message: event::incident(body) }),
            // The flag LOG_EVENT_IGNORABLE_F does not help: nothing says to whom it is ignorable.
            _ => Err(BinlogError::Unsupported { code }),
        }
    }

    /// How to read the rows of a planned table.
    pub fn layout(&self, table: usize) -> &Layout {
        &self.layouts[table]
    }

    fn table_map<'a>(&mut self, body: &'a [u8]) -> Result<Event<'a>, BinlogError> {
        let fault = |fault| BinlogError::malformed(code::TABLE_MAP, fault);
        let mut input = Input::new(body);
        let table_id = input.le(6).map_err(fault)?;
        let body = input.rest();
        let done = Event::TableMap;
        if let Some(mapped) = self.maps.get(&table_id)
            && mapped.body == body
            && mapped.planned.is_none_or(|index| self.is_current(index, mapped.version))
        {
            return Ok(done);
        }
        let map = TableMap::parse(body)?;
        let planned = self
            .planned
            .get(&map.name.schema)
            .and_then(|tables| tables.get(&map.name.table))
            .copied();
        let mut version = 0;
        if let Some(layout) = planned.and_then(|index| self.layouts.get_mut(index)) {
            layout.fit(&map, &self.collations)?;
            version = layout.version();
        }
        if self.maps.len() >= TABLE_MAPS_MAX {
            return Err(BinlogError::TooManyTables { max: TABLE_MAPS_MAX });
        }
        let mapped = Mapped { body: body.to_vec(), map, planned, version };
        let had = self.maps.insert(table_id, Arc::new(mapped));
        match planned {
            // The same once more, since maps of other ids of this table came between.
            Some(_) if had.is_some_and(|had| had.body == body) => Ok(done),
            Some(table) => Ok(Event::NewId(table)),
            None => Ok(done),
        }
    }

    fn is_current(&self, table: usize, version: u64) -> bool {
        self.layouts.get(table).is_some_and(|layout| layout.version() == version)
    }

    fn rows<'a>(&mut self, code: u8, skip: bool, body: &'a [u8]) -> Result<Event<'a>, BinlogError> {
        let head =
            RowsHead::parse(code, body).map_err(|fault| BinlogError::malformed(code, fault))?;
        let table_id = head.table_id;
        let mapped =
            self.maps.get(&table_id).cloned().ok_or(BinlogError::NoTableMap { table_id })?;
        let rows = head.with(code, skip, mapped)?;
        if let TableRef::Planned(index) = rows.table
            && let Some(layout) = self.layouts.get(index)
            && !rows.present().iter().all(|present| layout.is_whole(present))
        {
            return Err(BinlogError::IncompleteImage { table: rows.name().to_string() });
        }
        if rows.statement_end && self.maps.len() > TABLE_MAPS_KEPT {
            self.maps.clear();
        }
        Ok(Event::Rows(rows))
    }
}
