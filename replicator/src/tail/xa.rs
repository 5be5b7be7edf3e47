//! Transactions that are prepared by XA in one group, and committed or rolled back by a later one.
//!
//! The rows are in the group that XA PREPARE ends; they count, and are sent, at the XA COMMIT. Until
//! then they are kept here, bounded. What was not kept, or was prepared before this reader began, is
//! looked for in the server's older binlogs ([`LookBack`]): so nothing has to survive a restart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use modshift_changelog::LogWriter;
use modshift_proto::{Gtid, OldShard};

use super::Tail;
use super::group::spill_error;
use super::held::{Held, HoldError, Spill};
use super::statement::{Names, Question};
use crate::binlog::{
    Decoder, Event, GtidEvent, Lexis, Savepoint, Statement, TableRef, Write, Xid, begins,
    read_statement, savepoint, without_values,
};
use crate::error::{Foreign, ReadError};
use crate::history::Opening;
use crate::publish::Publisher;

/// Transactions that are known to be prepared. An application has a few of them at a time.
const BRANCHES_MAX: usize = 10_000;
/// Rows of all of them. What is more is read again when it is committed.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// What a group has to do with XA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Xa {
    Prepares(Xid),
    Completes(Xid),
}

impl Xa {
    /// As the beginning of a group says; an error is what it says instead.
    pub(super) fn of(header: &GtidEvent) -> Result<Option<Xa>, Foreign> {
        match (&header.xid, header.prepared_xa, header.completed_xa) {
            (None, false, false) => Ok(None),
            (Some(xid), true, false) => Ok(Some(Xa::Prepares(xid.clone()))),
            (Some(xid), false, true) => Ok(Some(Xa::Completes(xid.clone()))),
            _ => Err(Foreign::Xa("a group")),
        }
    }
}

/// What a prepared transaction has changed.
pub enum Branch {
    /// No planned table.
    Nothing,
    Rows(Rows),
}

/// Rows of planned tables.
pub struct Rows(Held);

/// Prepared transactions by their names. What is missing here may be prepared as well.
#[derive(Default)]
pub(super) struct Branches {
    /// Each with its age.
    known: HashMap<Xid, (u64, Branch)>,
    /// The oldest first: a transaction whose PREPARE a crash has undone is never completed.
    ages: BTreeMap<u64, Xid>,
    next_age: u64,
    bytes: u64,
}

impl Branches {
    fn keep(&mut self, xid: Xid, mut branch: Branch) {
        self.take(&xid);
        if let Branch::Rows(Rows(held)) = &mut branch {
            held.shrink();
        }
        let size = size(&branch);
        if size > KEPT_BYTES_MAX {
            return;
        }
        while self.known.len() >= BRANCHES_MAX || self.bytes + size > KEPT_BYTES_MAX {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.take(&oldest);
        }
        self.bytes += size;
        self.next_age += 1;
        self.ages.insert(self.next_age, xid.clone());
        self.known.insert(xid, (self.next_age, branch));
    }

    fn take(&mut self, xid: &Xid) -> Option<Branch> {
        let (age, branch) = self.known.remove(xid)?;
        self.ages.remove(&age);
        self.bytes -= size(&branch);
        Some(branch)
    }
}

fn size(branch: &Branch) -> u64 {
    match branch {
        Branch::Nothing => 0,
        Branch::Rows(Rows(held)) => held.mark(),
    }
}

impl Tail {
    /// XA PREPARE: ends the group, and what is in it does not count yet.
    pub(super) async fn prepare_xa<W: LogWriter>(
        &mut self,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else {
            return Err(ReadError::NoGroup { shard: self.shard, what: "XA PREPARE" });
        };
        let (gtid, planned) = (group.gtid, group.planned);
        let Some(Xa::Prepares(xid)) = group.xa.clone() else {
            return Err(self.foreign(gtid, Foreign::Xa("XA PREPARE")));
        };
        if group.opening != Opening::Proof {
            let branch = match group.held.take_if(|_| planned) {
                Some(held) => Branch::Rows(Rows(held)),
                None => Branch::Nothing,
            };
            self.branches.keep(xid, branch);
        }
        self.close(false, out).await
    }

    pub(super) async fn commit_xa<W: LogWriter>(
        &mut self,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let (xid, opening) = self.completes()?;
        match self.branches.take(&xid) {
            Some(branch) => self.found(branch, out).await,
            None if opening == Opening::Proof => self.found(Branch::Nothing, out).await,
            None => {
                self.unprepared = Some(xid);
                Ok(())
            }
        }
    }

    /// What was kept of it does not count.
    pub(super) fn forget_xa(&mut self, xid: &Xid) {
        self.branches.take(xid);
    }

    pub(super) fn roll_back_xa(&mut self) -> Result<(), ReadError> {
        let (xid, _) = self.completes()?;
        self.branches.take(&xid);
        Ok(())
    }

    /// Which transaction the group in progress completes.
    fn completes(&self) -> Result<(Xid, Opening), ReadError> {
        let Some(group) = &self.group else {
            return Err(ReadError::NoGroup { shard: self.shard, what: "the end of an XA" });
        };
        match &group.xa {
            Some(Xa::Completes(xid)) if group.changes == 0 => Ok((xid.clone(), group.opening)),
            _ => Err(self.foreign(group.gtid, Foreign::Xa("the end"))),
        }
    }

    /// The transaction that is committed here, and of which it is not known what it has changed. To
    /// be [found](Self::found) before the next event.
    pub fn unprepared(&mut self) -> Option<LookBack> {
        let (xid, group) = (self.unprepared.take()?, self.group.as_ref()?);
        Some(LookBack {
            shard: self.shard,
            committed: group.gtid,
            xid,
            names: Arc::clone(&self.names),
            spill: self.spill.clone(),
            questions: Vec::new(),
            group: None,
            ending: false,
            found: None,
            rolled_back: false,
        })
    }

    /// What the transaction that is committed here has changed.
    pub async fn found<W: LogWriter>(
        &mut self,
        branch: Branch,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        if let (Some(group), Branch::Rows(Rows(held))) = (&mut self.group, branch)
            && group.opening != Opening::Proof
        {
            group.planned = true;
            group.held = Some(held);
        }
        self.close(true, out).await
    }
}

/// Goes through binlogs for the last XA PREPARE of a transaction before the group that commits it.
pub struct LookBack {
    shard: OldShard,
    committed: Gtid,
    xid: Xid,
    names: Arc<Names>,
    spill: Spill,
    /// Of the group that prepares it.
    questions: Vec<Question>,
    /// That group, in progress.
    group: Option<Preparing>,
    /// The group in progress is of the same name, and commits it or rolls it back.
    ending: bool,
    found: Option<Branch>,
    /// And not prepared again since.
    rolled_back: bool,
}

/// What an older event was.
#[derive(Debug, PartialEq, Eq)]
pub enum Older {
    Passed,
    /// What follows is in this file.
    In(String),
    /// Begins the group that commits: nothing behind it matters.
    Commits,
}

struct Preparing {
    held: Held,
    changes: u32,
    planned: bool,
}

impl LookBack {
    pub fn xid(&self) -> &Xid {
        &self.xid
    }

    pub fn not_there(&self) -> ReadError {
        let what = Foreign::XaUnprepared(self.xid.to_string());
        ReadError::Statement { shard: self.shard, gtid: self.committed, what }
    }

    pub fn committed(&self) -> Gtid {
        self.committed
    }

    /// What the events so far have shown.
    pub fn branch(&mut self) -> Option<Branch> {
        self.found.take()
    }

    /// It was rolled back after it was prepared: what an older file has of it is over.
    pub fn is_over(&self) -> bool {
        self.rolled_back
    }

    /// The file ends here, whole or cut off.
    pub fn file_ends(&mut self) {
        self.group = None;
        self.ending = false;
    }

    /// One event of an older binlog. Only within the group that is sought anything is decoded by
    /// definitions: tables may have been altered since, after that and before.
    pub fn event(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> Result<Older, ReadError> {
        if self.group.is_none() && !self.ending && !begins(bytes) {
            return Ok(Older::Passed);
        }
        match decoder.decode(bytes)? {
            Event::Gtid(header) => {
                self.file_ends();
                // Or a group behind it, on a server that never had that one.
                let behind = header.gtid.seq >= self.committed.seq;
                if header.gtid.domain == self.committed.domain && behind {
                    return Ok(Older::Commits);
                }
                if header.xid.as_ref() == Some(&self.xid) {
                    self.begins(&header);
                }
            }
            Event::Rows(rows) => {
                let count = rows.count_rows()?;
                let planned =
                    matches!(rows.table, TableRef::Planned(table) if self.names.is_planned(table));
                if planned {
                    self.hold(bytes)?;
                }
                let too_large =
                    ReadError::GroupTooLarge { shard: self.shard, gtid: self.committed };
                if let Some(group) = &mut self.group {
                    group.planned |= planned;
                    group.changes = group.changes.checked_add(count).ok_or(too_large)?;
                }
            }
            Event::TableMap | Event::NewId(_) => self.hold(bytes)?,
            Event::Query { schema, sql, lexis, .. } => self.statement(schema, &sql, lexis)?,
            Event::XaPrepare => {
                if let Some(group) = self.group.take() {
                    self.rolled_back = false;
                    self.found = Some(match group.planned {
                        true => Branch::Rows(Rows(group.held)),
                        false => Branch::Nothing,
                    });
                }
            }
            // Amid a group: its server was killed while it wrote it.
            Event::Format { .. } => self.file_ends(),
            Event::Rotate { file, .. } => return Ok(Older::In(file)),
            Event::Xid | Event::Control(_) => {}
        }
        Ok(Older::Passed)
    }

    /// A group of the same name.
    fn begins(&mut self, header: &GtidEvent) {
        if header.prepared_xa {
            self.questions.clear();
            let held = Held::new(&self.spill);
            self.group = Some(Preparing { held, changes: 0, planned: false });
        }
        self.ending = header.completed_xa;
    }

    fn statement(&mut self, schema: &[u8], sql: &[u8], lexis: Lexis) -> Result<(), ReadError> {
        match read_statement(sql, lexis) {
            // Not so by XA COMMIT: a server that is killed behind that shows the transaction as
            // prepared again, with its rows locked, and its client commits it once more.
            Statement::XaRollback if self.ending => {
                self.found = None;
                self.rolled_back = true;
            }
            Statement::Savepoint => match savepoint(sql, lexis) {
                Some(Savepoint::Set(_) | Savepoint::Release(_)) => {}
                Some(Savepoint::RollBackTo(_)) | None => self.taken_back()?,
            },
            Statement::Rollback => self.taken_back()?,
            Statement::Begin | Statement::Harmless(_) | Statement::XaGoesOn => {}
            // In statement format: a row of a planned table is never seen.
            Statement::Write(write) => self.writes(schema, sql, write)?,
            Statement::MakesTemporary { runs, .. } => {
                let write = Write { verb: "SELECT".to_owned(), targets: Vec::new(), runs };
                self.writes(schema, sql, write)?;
            }
            Statement::DropsTemporary(_) => {}
            // That of another group, which is not looked into; in this one nothing else can be, since
            // it would commit what is open.
            _ if self.group.is_none() => {}
            _ => return Err(self.foreign(Foreign::Unknown { statement: without_values(sql) })),
        }
        Ok(())
    }

    fn writes(&mut self, schema: &[u8], sql: &[u8], write: Write) -> Result<(), ReadError> {
        let statement = without_values(sql);
        if write.targets.iter().any(|table| self.names.has(schema, table)) {
            let what = Foreign::StatementFormat { verb: write.verb, statement };
            return Err(self.foreign(what));
        }
        match Question::of(self.committed, schema, statement.clone(), write) {
            Some(question) if question.is_empty() => {}
            Some(question) => self.questions.push(question),
            None => return Err(self.foreign(Foreign::Unknown { statement })),
        }
        Ok(())
    }

    fn foreign(&self, what: Foreign) -> ReadError {
        ReadError::Statement { shard: self.shard, gtid: self.committed, what }
    }

    /// What the server must be asked of the group that was found.
    pub fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// Some of what is held may not count.
    fn taken_back(&self) -> Result<(), ReadError> {
        match &self.group {
            Some(group) if group.planned => {
                let gtid = self.committed;
                Err(ReadError::RollbackInGroup { shard: self.shard, gtid })
            }
            _ => Ok(()),
        }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        // At the group that commits the reader stands.
        let (shard, max, gtid) = (self.shard, self.spill.max, self.committed);
        let Some(group) = &mut self.group else { return Ok(()) };
        group.held.push(group.changes, bytes).map_err(|error| match error {
            HoldError::TooLarge => ReadError::HeldTooLarge { shard, gtid, max },
            HoldError::Io(error) => spill_error(shard, gtid, &self.spill.dir, &error),
        })
    }
}

#[cfg(test)]
mod tests;
