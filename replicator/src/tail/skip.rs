//! A group that an operator has had passed over: none of its rows is sent, and all else goes on as if
//! it had been read: the history, what is known of temporary tables, XA and definitions.
//!
//! What it may have changed is noted, so that those tables are compared: the tables of its rows, those
//! that a DDL names, and all of them where a statement writes, or does not tell. Its keys do not count as
//! touched: a chunk that was read behind it has what it did, and nothing newer comes by the log. A chunk
//! that was read before it lacks that like everything else, and is compared with the rest.
//!
//! What modshift itself wrote (a token, what an applier applied) is never passed over: positions and
//! phases depend on it.

use std::collections::BTreeSet;

use modshift_proto::message::TokenPhase;
use modshift_proto::{GroupDigest, Gtid};

use super::Tail;
use super::statement::Said;
use super::xa::Xa;
use crate::binlog::{Event, Statement, TableRef, Touched, Write, read_statement};
use crate::error::ReadError;
use crate::history::Opening;
use crate::route::Target;
use crate::skip::{Skipped, Stands};

pub const NOT_SERVING: &str = "the shard does not serve";

/// Which planned tables it may have changed, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(BTreeSet<usize>);

impl Tail {
    /// Is the reader to pass over what it has come to? While the shard does not serve that is for the
    /// reader to hold at, as at any other write.
    pub(super) fn skips(&self, gtid: Gtid, opening: Opening) -> Result<bool, ReadError> {
        if !self.skip.has(gtid) {
            return Ok(false);
        }
        let serves = self.phase == TokenPhase::Serving || self.undone;
        match opening != Opening::Proof && !serves {
            true => {
                let table = "(some of a group to be passed over)".to_owned();
                Err(ReadError::ForeignWrite { shard: self.shard, gtid, table })
            }
            false => Ok(true),
        }
    }

    pub(super) fn is_passing(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.skip.is_some())
    }

    /// May an operator have the group passed over at which the reader has halted? Why not.
    pub fn firm(&self, gtid: Gtid) -> Option<&'static str> {
        if self.phase == TokenPhase::Fenced && !self.undone {
            return Some(NOT_SERVING);
        }
        let group = self.group.as_ref().filter(|group| group.gtid == gtid);
        let ours = group.is_some_and(|group| group.token.is_some() || group.own == Some(true));
        ours.then_some("the group holds rows of modshift's own")
    }

    /// Where it stands in the group at which the reader has halted.
    pub fn stands(&self, gtid: Gtid) -> Option<Stands> {
        let group = self.group.as_ref().filter(|group| group.gtid == gtid && group.events > 0)?;
        Some(Stands { events: group.events, checksum: group.hash.value() })
    }

    /// Is the group that is passed over still the one at which the reader stood, up to where it stood or,
    /// at its end, as a whole? A server that is killed while it writes a group rolls it back, and gives
    /// its GTID to another one.
    fn same_group(&mut self, ends: bool) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let Some(stood) = group.stood else { return Ok(()) };
        if group.events < stood.events && !ends {
            return Ok(());
        }
        let here = Stands { events: group.events, checksum: group.hash.value() };
        if here == stood {
            group.stood = None;
            return Ok(());
        }
        let gtid = group.gtid;
        self.is_gone(gtid);
        Err(ReadError::GroupGone { shard: self.shard, gtid })
    }

    /// The group that was to be passed over does not count, and the next one of its GTID is another.
    pub(super) fn is_gone(&mut self, gtid: Gtid) {
        if self.skip.forget(gtid) {
            tracing::warn!(shard = self.shard.0, %gtid,
                "the group that was to be passed over is not there any more: its server was killed while it \
                 wrote it, and another one gets its GTID, which is read as any other");
            self.gone = Some(gtid);
        }
    }

    /// To be written down, as what was passed over is.
    pub fn gone(&self) -> Option<Gtid> {
        self.gone
    }

    /// Rows of modshift's own: the reader has never stood in such a group.
    fn own_group(&mut self) -> ReadError {
        let shard = self.shard;
        match self.group.as_ref().map(|group| (group.gtid, group.stood.is_some())) {
            Some((gtid, true)) => {
                self.is_gone(gtid);
                ReadError::GroupGone { shard, gtid }
            }
            Some((gtid, false)) => ReadError::OwnGroup { shard, gtid },
            None => ReadError::NoGroup { shard, what: "rows" },
        }
    }

    /// One event of the group that is passed over.
    pub(super) fn pass_over(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        match self.decoder.decode(bytes)? {
            // It has no end of its own.
            Event::Gtid(header) => {
                self.mark_all();
                self.passed_over()?;
                self.begins(&header)
            }
            Event::Rows(rows) => {
                let Some(group) = &mut self.group else { return Ok(()) };
                group.events += 1;
                group.hash.rows(&rows);
                match &rows.table {
                    TableRef::Planned(table) if *table != self.token_table => self.mark(*table),
                    TableRef::Planned(_) => return Err(self.own_group()),
                    TableRef::Other(name) if self.schema.is_watermark(name) => {
                        return Err(self.own_group());
                    }
                    TableRef::Other(_) => {}
                }
                self.same_group(false)
            }
            Event::Query { schema, sql, lexis, session } => {
                self.statement_passed(Said { schema, sql: &sql, lexis, session })
            }
            Event::Xid => self.passed_over(),
            Event::XaPrepare => {
                // Its XA COMMIT finds out that it is not known, and looks for it.
                self.forget_branch();
                self.passed_over()
            }
            Event::NewId(table) => {
                self.new_id(table);
                Ok(())
            }
            Event::Format { started } => self.file_begins(started),
            Event::TableMap | Event::Control(_) | Event::Rotate { .. } => Ok(()),
        }
    }

    fn statement_passed(&mut self, said: Said<'_>) -> Result<(), ReadError> {
        let statement = read_statement(said.sql, said.lexis);
        let Some(group) = &mut self.group else { return Ok(()) };
        if !matches!(statement, Statement::Begin) {
            group.events += 1;
            group.hash.query(said.sql);
        }
        self.same_group(false)?;
        let Some(group) = &mut self.group else { return Ok(()) };
        let standalone = group.standalone;
        let ends = match statement {
            Statement::Commit | Statement::Rollback => true,
            Statement::XaCommit => {
                self.mark_all();
                self.forget_branch();
                true
            }
            Statement::XaRollback => {
                self.forget_branch();
                true
            }
            Statement::Begin | Statement::Savepoint | Statement::XaGoesOn => false,
            Statement::Harmless(_) => standalone,
            Statement::MakesTemporary { table, runs } => {
                self.makes_temporary(said, &table);
                let write = Write { verb: "SELECT".to_owned(), targets: Vec::new(), runs };
                self.writes(said, write, true);
                standalone
            }
            Statement::DropsTemporary(tables) => {
                self.drops_temporary(said, &tables);
                standalone
            }
            Statement::Definition { undoes, .. } => {
                self.plain = Default::default();
                if undoes.is_some() {
                    // Of what ran before it.
                    self.mark_all();
                }
                standalone
            }
            Statement::Tables { what, touched, runs } => {
                self.plain = Default::default();
                if touched.len() > 1 {
                    self.renames_temporary(said);
                }
                let changed = touched.into_iter().filter(|Touched { changes, .. }| *changes);
                let targets = changed.map(|touched| touched.table).collect();
                self.writes(said, Write { verb: what, targets, runs }, true);
                standalone
            }
            Statement::Write(write) => {
                self.writes(said, write, false);
                standalone
            }
            Statement::Schema { .. } | Statement::Unknown => {
                self.plain = Default::default();
                self.mark_all();
                standalone
            }
        };
        if ends { self.passed_over() } else { Ok(()) }
    }

    /// What the statement names is to be compared; and everything, if it writes rows or runs anything:
    /// triggers and functions may have written to others, and the server knows only those of today.
    fn writes(&mut self, said: Said<'_>, mut write: Write, defines: bool) {
        write.targets.retain(|table| !self.is_temporary(said, table));
        write.runs.reads.retain(|table| !self.is_temporary(said, table));
        for target in &write.targets {
            for table in 0..self.tables.len() {
                if self.names.may_be(said.schema, target, table) {
                    self.mark(table);
                }
            }
        }
        let runs = !(write.runs.calls.is_empty() && write.runs.reads.is_empty());
        if runs || !(defines || write.targets.is_empty()) {
            self.mark_all();
        }
    }

    fn mark(&mut self, table: usize) {
        let fed = !matches!(self.tables[table].target, Target::Nowhere);
        if let Some(marks) = self.group.as_mut().and_then(|group| group.skip.as_mut())
            && fed
        {
            marks.0.insert(table);
        }
    }

    /// Nobody can tell which.
    pub fn mark_all(&mut self) {
        (0..self.tables.len()).for_each(|table| self.mark(table));
        if let Some(skipped) = &mut self.skipped {
            let fed = self.tables.iter().filter(|table| !matches!(table.target, Target::Nowhere));
            skipped.tables = fed.map(|table| table.schema.name.clone()).collect();
        }
    }

    fn forget_branch(&mut self) {
        let xid = self.group.as_ref().and_then(|group| match &group.xa {
            Some(Xa::Prepares(xid) | Xa::Completes(xid)) => Some(xid.clone()),
            None => None,
        });
        if let Some(xid) = xid {
            self.forget_xa(&xid);
        }
    }

    /// Its end.
    fn passed_over(&mut self) -> Result<(), ReadError> {
        self.same_group(true)?;
        let Some(mut group) = self.group.take() else { return Ok(()) };
        if let Some(held) = group.held.take() {
            self.keep(held);
        }
        let marks = group.skip.take().unwrap_or_default();
        let digest = GroupDigest { gtid: group.gtid, checksum: group.hash.value() };
        let late = group.xa.is_some();
        self.skipped_whole(digest, group.opening, marks, late)
    }

    /// A group in which nothing is of this shard, as far as the feed can tell.
    pub(super) fn skipped_whole(
        &mut self,
        digest: GroupDigest,
        opening: Opening,
        marks: Marks,
        late: bool,
    ) -> Result<(), ReadError> {
        let before = self.skip.before(digest.gtid);
        if let Some(checksum) = before.filter(|&checksum| checksum != digest.checksum) {
            // Another group has got its GTID.
            let expected = GroupDigest { checksum, ..digest };
            return Err(ReadError::HistoryChanged { shard: self.shard, expected, found: digest });
        }
        self.history.close(digest)?;
        if opening == Opening::Proof {
            // Shown once more; it is written down.
            return Ok(());
        }
        let name = |table: &usize| self.tables[*table].schema.name.clone();
        let tables: Vec<String> = marks.0.iter().map(name).collect();
        tracing::warn!(shard = self.shard.0, gtid = %digest.gtid, tables = tables.join(", "),
            "a group is passed over, as an operator has asked for");
        self.skipped = Some(Skipped { digest, tables, late });
        Ok(())
    }

    /// To be written down before anything else is read.
    pub fn skipped(&self) -> Option<&Skipped> {
        self.skipped.as_ref()
    }

    pub fn skipped_recorded(&mut self) {
        self.skipped = None;
        self.gone = None;
    }
}
