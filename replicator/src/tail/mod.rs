//! The tail: binlog events in, changes and tokens out, in log order.
//!
//! Owns everything that moves with the log: the decoder, the history, the group in progress, the
//! phase, the keys touched while tables are being copied. Knows no sockets; the publisher is its
//! only way out.
//!
//! A group whose first row is of `modshift_watermark` was applied by modshift: what it changes came
//! from where it would be sent, and is only counted. While the shard is fenced any other change of
//! a planned table stops the reader, so a token that arrives from there proves that nobody wrote
//! before it. Only once the log itself has shown that the fence was undone are such changes followed,
//! up to the serving marker.
//!
//! A group is *held* until its end tells that it counts (`group`). One that an operator has asked for is
//! passed over (`skip`).

mod counts;
mod group;
mod held;
mod rows;
mod skip;
mod statement;
mod temporary;
mod token;
mod xa;

pub use held::Spill;
pub(crate) use skip::NOT_SERVING;
pub use statement::Question;
pub use token::TokenColumns;
pub(crate) use token::read_token;
pub use xa::{Branch, LookBack, Older};

use std::sync::Arc;

use modshift_changelog::LogWriter;
use modshift_mariadb::control;
use modshift_proto::message::TokenPhase;
use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard};

use self::counts::Counts;
use self::group::Group;
use self::held::Held;
use self::skip::Marks;
use self::statement::{Names, Plain, Relied, Said};
use self::temporary::Temporary;
use self::xa::{Branches, Xa};
use crate::binlog::{DecodedRow, Decoder, Event, GtidEvent, TableName, Xid};
use crate::epoch::ResumePoint;
use crate::error::{Foreign, ReadError};
use crate::feed::Passed;
use crate::history::{History, Opening};
use crate::publish::Publisher;
use crate::route::{Moduli, RoutedTable};
use crate::skip::{Skipped, Skips};
use crate::snapshot::Touched;

/// The shard's schema, as the binlog spells it.
struct Schema(String);

impl Schema {
    fn is_watermark(&self, name: &TableName) -> bool {
        name.table == control::WATERMARK.as_bytes() && name.schema == self.0.as_bytes()
    }
}

pub struct Tail {
    shard: OldShard,
    schema: Schema,
    epoch: u64,
    moduli: Moduli,
    tables: Arc<Vec<RoutedTable>>,
    token_table: usize,
    token_columns: TokenColumns,
    decoder: Decoder,
    history: History,
    group: Option<Group>,
    names: Arc<Names>,
    plain: Plain,
    relied: Relied,
    question: Option<Question>,
    temporary: Temporary,
    branches: Branches,
    /// Committed by the group in progress, and not among them.
    unprepared: Option<Xid>,
    /// By table: rows of it came by XA, which others may have seen only after the binlog had them.
    late: Vec<bool>,
    /// To be passed over.
    skip: Skips,
    /// Passed over, and not written down yet.
    skipped: Option<Skipped>,
    /// The same of what turned out not to be there.
    gone: Option<Gtid>,
    spill: Spill,
    /// What the last group was held in, and an event of it.
    spare: Option<Held>,
    event: Vec<u8>,
    /// As of the last complete group.
    phase: TokenPhase,
    /// The fence in force is undone further on in the log.
    undone: bool,
    /// By table; present while the table is being copied.
    touched: Vec<Option<Touched>>,
    /// By table: up to where its definition is known to have been the same.
    looked: Vec<GtidSet>,
    /// A table that came under a new id behind that: nothing more is taken in before it is looked
    /// up.
    unlooked: Option<usize>,
    /// Newest token of this epoch that the log has shown.
    token_seen: Option<u64>,
    /// Every chunk has entered: said by each token that is sent from now on.
    pub copied: bool,
    /// Row messages sent so far; for stages and the status.
    pub rows_sent: u64,
    counts: Counts,
    before: DecodedRow,
    after: DecodedRow,
    key_row: Vec<u8>,
    message_key: Vec<u8>,
}

pub struct TailParts {
    pub shard: OldShard,
    pub schema: String,
    pub epoch: u64,
    pub moduli: Moduli,
    pub tables: Arc<Vec<RoutedTable>>,
    pub token_columns: TokenColumns,
    pub decoder: Decoder,
    pub resume: ResumePoint,
    pub skip: Skips,
    pub fold_names: bool,
    pub spill: Spill,
}

impl Tail {
    pub fn new(parts: TailParts) -> Tail {
        let planned = parts.tables.iter().map(|table| table.schema.name.clone()).collect();
        Tail {
            names: Arc::new(Names::new(parts.schema.clone(), parts.fold_names, planned)),
            shard: parts.shard,
            schema: Schema(parts.schema),
            epoch: parts.epoch,
            moduli: parts.moduli,
            token_table: parts.tables.len(),
            token_columns: parts.token_columns,
            touched: parts.tables.iter().map(|_| None).collect(),
            looked: vec![GtidSet::default(); parts.tables.len()],
            unlooked: None,
            counts: Counts { rows: vec![0; parts.tables.len() * 2], ..Counts::default() },
            decoder: parts.decoder,
            phase: parts.resume.phase,
            undone: false,
            history: History::new(parts.shard, parts.resume),
            group: None,
            plain: Plain::default(),
            relied: Relied::default(),
            question: None,
            temporary: Temporary::default(),
            branches: Branches::default(),
            unprepared: None,
            late: vec![false; parts.tables.len()],
            skip: parts.skip,
            skipped: None,
            gone: None,
            spill: parts.spill,
            spare: None,
            event: Vec::new(),
            tables: parts.tables,
            token_seen: None,
            copied: false,
            rows_sent: 0,
            before: DecodedRow::default(),
            after: DecodedRow::default(),
            key_row: Vec::new(),
            message_key: Vec::new(),
        }
    }

    /// Complete groups.
    pub fn done(&self) -> &GtidSet {
        self.history.done()
    }

    /// Between groups: the last one, and those before it. `None` also while the server has still to
    /// show that its log is the one that was read before.
    pub fn stands_behind(&self) -> Option<(Gtid, &GtidSet)> {
        self.history.stands_behind().filter(|_| self.group.is_none())
    }

    pub fn between_groups(&self) -> bool {
        self.group.is_none()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn phase(&self) -> TokenPhase {
        self.phase
    }

    pub fn token_columns(&self) -> TokenColumns {
        self.token_columns
    }

    /// The fence in force is known to be undone by the next serving marker: what was written behind
    /// it counts.
    pub fn follow(&mut self) {
        self.undone = true;
    }

    pub fn token_seen(&self) -> Option<u64> {
        self.token_seen
    }

    /// The connection is gone: where the next one starts. Events before that come again.
    pub fn reconnect(&mut self, decoder: Decoder) -> GtidSet {
        self.decoder = decoder;
        // It may be another server.
        self.looked.fill(GtidSet::default());
        self.unlooked = None;
        self.plain = Plain::default();
        self.question = None;
        self.unprepared = None;
        // Nor does the new connection tell whether the server was started meanwhile.
        self.temporary = Temporary::default();
        let partial = self.group.take().and_then(|group| group.partial());
        self.history.reconnect(partial).clone()
    }

    /// The same log comes from another connection to the same server, from the last group on: it is
    /// shown again, and what is known of the server stays known.
    pub fn shown_again(&mut self) {
        self.history.reconnect(None);
    }

    /// The table that must be looked up on the server before the next event.
    pub fn unlooked(&self) -> Option<usize> {
        self.unlooked
    }

    /// The table was looked up after everything in `up_to` had been written, and is what its rows
    /// are decoded by.
    pub fn looked(&mut self, table: usize, up_to: GtidSet) {
        self.looked[table] = up_to;
        self.unlooked = None;
    }

    /// Remember the keys touched in a table from now on. Needs a token of this epoch to count
    /// from.
    pub fn record(&mut self, table: usize, keys_max: usize) {
        if let Some(seen) = self.token_seen {
            self.touched[table].get_or_insert_with(|| Touched::new(seen, keys_max));
        }
    }

    pub fn touched(&self, table: usize) -> Option<&Touched> {
        self.touched[table].as_ref()
    }

    pub fn touched_mut(&mut self, table: usize) -> Option<&mut Touched> {
        self.touched[table].as_mut()
    }

    /// Have rows of this table come by XA?
    pub fn is_late(&self, table: usize) -> bool {
        self.late[table]
    }

    pub fn stop_recording(&mut self, table: usize) {
        self.touched[table] = None;
    }

    /// One event of the binlog, as it came.
    pub async fn event<W: LogWriter>(
        &mut self,
        bytes: &[u8],
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        self.counts.events += 1;
        self.counts.bytes += bytes.len() as u64;
        if self.is_passing() {
            return self.pass_over(bytes);
        }
        match self.decoder.decode(bytes)? {
            Event::Gtid(header) => {
                if let Some(group) = &self.group {
                    // The server never starts a group inside another.
                    return Err(self.foreign(group.gtid, Foreign::Group(header.gtid)));
                }
                self.begins(&header)
            }
            Event::Rows(rows) => {
                let statement_end = rows.statement_end;
                self.rows(rows, bytes, out).await?;
                if statement_end {
                    self.statement_ends()?;
                }
                self.compare_cut()
            }
            Event::Query { schema, sql, lexis, session } => {
                self.query(Said { schema, sql: &sql, lexis, session }, out).await
            }
            Event::Xid => match &self.group {
                None => Err(ReadError::NoGroup { shard: self.shard, what: "a commit" }),
                Some(Group { xa: Some(_), gtid, .. }) => {
                    Err(self.foreign(*gtid, Foreign::Xa("a commit")))
                }
                Some(_) => self.close(true, out).await,
            },
            Event::XaPrepare => self.prepare_xa(out).await,
            Event::NewId(table) => {
                self.hold_map(bytes)?;
                self.new_id(table);
                Ok(())
            }
            Event::TableMap => self.hold_map(bytes),
            Event::Format { started } => self.file_begins(started),
            Event::Control(_) | Event::Rotate { .. } => Ok(()),
        }
    }

    fn begins(&mut self, header: &GtidEvent) -> Result<(), ReadError> {
        let (gtid, xa) = (header.gtid, Xa::of(header));
        let opening = self.history.open(gtid)?;
        if self.skips(gtid, opening)? {
            let mut group = Group::new(header, opening, xa.unwrap_or_default());
            group.skip = Some(Marks::default());
            group.stood = self.skip.stood(gtid);
            self.group = Some(group);
            return Ok(());
        }
        let mut group = Group::new(header, opening, xa.map_err(|what| self.foreign(gtid, what))?);
        // One that was read before is not sent anyway.
        if opening != Opening::Proof {
            group.hold(self.spare());
        }
        self.group = Some(group);
        Ok(())
    }

    /// The next events have rows of this table, under an id that is new.
    fn new_id(&mut self, table: usize) {
        let group = self.group.as_ref().map(|group| group.gtid);
        let known = |looked: &GtidSet| group.is_some_and(|gtid| looked.covers(gtid));
        // Of the token's own table nobody keeps a definition.
        if self.looked.get(table).is_some_and(|looked| !known(looked)) {
            self.unlooked = Some(table);
        }
    }

    fn file_begins(&mut self, started: bool) -> Result<(), ReadError> {
        if started {
            self.temporary = Temporary::default();
        }
        self.cut_off()
    }

    /// The file ends amid an event. Behind what is whole the next one goes on; false: the connection
    /// had not shown yet that it has what was read before.
    pub fn file_cut(&mut self) -> Result<bool, ReadError> {
        self.cut_off()?;
        Ok(self.history.pass_on())
    }

    /// Another file begins within a group: the server was killed while it wrote that. What it had
    /// not written whole it has rolled back.
    fn cut_off(&mut self) -> Result<(), ReadError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let (shard, gtid) = (self.shard, group.gtid);
        if group.was_sent() {
            return Err(ReadError::GroupCut { shard, gtid });
        }
        tracing::warn!(shard = shard.0, %gtid, events = group.events,
            "the server was killed while it wrote this group to its binlog: it does not count");
        if group.skip.is_some() && group.opening != Opening::Proof {
            self.is_gone(gtid);
        }
        Ok(())
    }

    /// A complete group in which no row is of this shard but its token's. Only of a log that was
    /// joined between groups: of none of them a part was read before.
    pub async fn passed_by<W: LogWriter>(
        &mut self,
        passed: Passed<'_>,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Passed { digest, events, bytes, token } = passed;
        self.counts.events += events;
        self.counts.bytes += bytes;
        if let Some(group) = &self.group {
            return Err(self.foreign(group.gtid, Foreign::Group(digest.gtid)));
        }
        let opening = self.history.open(digest.gtid)?;
        let token = match opening {
            Opening::Proof => None,
            Opening::New { .. } => self.token_in(digest.gtid, token)?,
        };
        if token.is_none() && self.skips(digest.gtid, opening)? {
            return self.skipped_whole(digest, opening, Marks::default(), false);
        }
        self.history.close(digest)?;
        match token {
            Some(token) => self.token(token, digest, out).await,
            None => Ok(()),
        }
    }

    /// Checks the group in progress against what was seen of it before the connection broke.
    fn compare_cut(&mut self) -> Result<(), ReadError> {
        if let Some(group) = &self.group
            && self.history.compares_at(group.events)
        {
            self.history.progress(group.gtid, group.events, group.hash.value())?;
        }
        Ok(())
    }

    /// The group's end: `committed`, or else rolled back.
    async fn close<W: LogWriter>(
        &mut self,
        committed: bool,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        self.compare_cut()?;
        if committed {
            self.send_held(out).await?;
        }
        let Some(mut group) = self.group.take() else { return Ok(()) };
        if let Some(held) = group.held.take() {
            self.keep(held);
        }
        let digest = GroupDigest { gtid: group.gtid, checksum: group.hash.value() };
        self.history.close(digest)?;
        match group.token.filter(|_| committed) {
            Some(token) if group.opening != Opening::Proof => self.token(token, digest, out).await,
            _ => Ok(()),
        }
    }
}
