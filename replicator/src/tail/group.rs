//! The group in progress, and what of it is held until its end tells whether it counts.
//!
//! A server logs a transaction that was rolled back, in full or to a savepoint, where it made or
//! dropped a temporary table or wrote to a table that cannot be rolled back; and a server that is
//! killed leaves a group without its end. Nothing at a group's beginning tells: MariaDB calls such
//! groups transactional as well. So the rows of planned tables are sent when the end has come.

use modshift_changelog::LogWriter;
use modshift_proto::{Gtid, OldShard};

use super::Tail;
use super::held::{Held, HoldError};
use super::skip::Marks;
use super::token::TokenRow;
use super::xa::Xa;
use crate::binlog::{Event, GroupHash, GtidEvent};
use crate::error::ReadError;
use crate::history::{Opening, Partial};
use crate::publish::Publisher;
use crate::skip::Stands;

/// Held events sent in a row before other tasks of the thread get their turn.
const EVENTS_PER_TURN: usize = 512;
/// One giant event must not hold its memory for ever.
const EVENT_KEPT_MAX: usize = 1 << 20;

pub(super) struct Group {
    pub gtid: Gtid,
    pub opening: Opening,
    pub standalone: bool,
    pub events: u64,
    /// Row changes as logged so far, planned or not.
    pub changes: u32,
    pub hash: GroupHash,
    pub token: Option<TokenRow>,
    /// Some of its changes were of planned tables, and not modshift's own.
    pub planned: bool,
    /// Applied by modshift; known from the first row on.
    pub own: Option<bool>,
    /// Logged changes up to which it was sent by this connection.
    sent: u32,
    pub held: Option<Held>,
    pub xa: Option<Xa>,
    /// It is passed over, and may have changed these.
    pub skip: Option<Marks>,
    /// Where the reader stood in the one that is to be passed over, until that has been compared.
    pub stood: Option<Stands>,
    /// Where the savepoints that are set lie among what is held, in their order.
    savepoints: Vec<(Vec<u8>, u64)>,
    /// Where what names the tables of the statement in progress begins among what is held, while
    /// no row follows that needs it.
    maps_from: Option<u64>,
}

/// Which savepoint is meant, or whether rows before it are concerned, cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear;

impl Group {
    pub(super) fn new(header: &GtidEvent, opening: Opening, xa: Option<Xa>) -> Group {
        Group {
            gtid: header.gtid,
            opening,
            standalone: header.standalone,
            events: 0,
            changes: 0,
            hash: GroupHash::new(header.gtid),
            token: None,
            planned: false,
            own: None,
            sent: 0,
            held: None,
            xa,
            skip: None,
            stood: None,
            savepoints: Vec::new(),
            maps_from: None,
        }
    }

    /// Nothing is sent before the end.
    pub(super) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Something of it has reached the change log, now or over an earlier connection.
    pub(super) fn was_sent(&self) -> bool {
        match self.opening {
            Opening::Proof => false,
            Opening::New { from_change } => self.sent.max(from_change) > 0,
        }
    }

    /// What was sent of it, where the connection ends amid it.
    pub(super) fn partial(&self) -> Option<Partial> {
        let Opening::New { from_change } = self.opening else { return None };
        // Of what was not sent nothing needs to be compared.
        self.was_sent().then(|| Partial {
            gtid: self.gtid,
            events: self.events,
            checksum: self.hash.value(),
            changes: self.sent.max(from_change),
        })
    }

    pub(super) fn sent_up_to(&mut self, change: u32) {
        self.sent = self.sent.max(change);
        self.changes = self.changes.max(change);
    }

    pub(super) fn savepoint(&mut self, name: Vec<u8>) {
        let Some(held) = &self.held else { return };
        // Set anew, one of the same name moves. What may be the same is found out when it matters.
        self.savepoints.retain(|(other, _)| same(other, &name) != Some(true));
        self.savepoints.push((name, held.mark()));
    }

    pub(super) fn release(&mut self, name: &[u8]) -> Result<(), Unclear> {
        if self.held.is_some() {
            let index = self.find(name)?;
            self.savepoints.truncate(index);
        }
        Ok(())
    }

    /// What came after the savepoint does not count; the savepoint stays.
    pub(super) fn roll_back_to(&mut self, name: &[u8]) -> Result<(), RollbackError> {
        if self.opening == Opening::Proof || !self.planned && self.token.is_none() {
            return Ok(());
        }
        let index = self.find(name)?;
        let (Some(held), None) = (&mut self.held, &self.token) else {
            return Err(RollbackError::Unclear);
        };
        let Some(&(_, mark)) = self.savepoints.get(index) else {
            return Err(RollbackError::Unclear);
        };
        held.truncate(mark)?;
        self.savepoints.truncate(index + 1);
        self.maps_from = None;
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<usize, Unclear> {
        let candidates = self.savepoints.iter().enumerate();
        let mut candidates = candidates.filter_map(|(index, (other, _))| {
            Some((index, same(other, name))).filter(|(_, same)| *same != Some(false))
        });
        match (candidates.next(), candidates.next()) {
            (Some((index, Some(true))), None) => Ok(index),
            _ => Err(Unclear),
        }
    }
}

pub(super) enum RollbackError {
    Unclear,
    Io(std::io::Error),
}

impl From<Unclear> for RollbackError {
    fn from(Unclear: Unclear) -> RollbackError {
        RollbackError::Unclear
    }
}

impl From<std::io::Error> for RollbackError {
    fn from(error: std::io::Error) -> RollbackError {
        RollbackError::Io(error)
    }
}

/// Do these name the same savepoint? The server compares by utf8_general_ci, to which more letters
/// are equal than those of ASCII; `None` where that may be so.
fn same(one: &[u8], other: &[u8]) -> Option<bool> {
    if one.is_ascii() && other.is_ascii() {
        return Some(one.eq_ignore_ascii_case(other));
    }
    (one == other).then_some(true)
}

impl Tail {
    pub(super) fn spare(&mut self) -> Held {
        self.spare.take().unwrap_or_else(|| Held::new(&self.spill))
    }

    /// What names the tables of rows that may follow, should they be held.
    pub(super) fn hold_map(&mut self, event: &[u8]) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let Some(held) = group.held.as_mut().filter(|_| group.own != Some(true)) else {
            return Ok(());
        };
        let mark = held.mark();
        match held.push(group.changes, event) {
            Ok(()) => group.maps_from.get_or_insert(mark),
            // The rows will tell.
            Err(HoldError::TooLarge) => return Ok(()),
            Err(HoldError::Io(error)) => {
                return Err(spill_error(self.shard, group.gtid, &self.spill.dir, &error));
            }
        };
        Ok(())
    }

    /// The statement's last row was there.
    pub(super) fn statement_ends(&mut self) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        if let (Some(mark), Some(held)) = (group.maps_from.take(), &mut group.held) {
            let dir = &self.spill.dir;
            held.truncate(mark)
                .map_err(|error| spill_error(self.shard, group.gtid, dir, &error))?;
        }
        Ok(())
    }

    /// Rows of a planned table that are not sent yet. False: there is no room, and what is held may
    /// be sent.
    pub(super) fn hold_rows(&mut self, count: u32, event: &[u8]) -> Result<bool, ReadError> {
        let (shard, dir) = (self.shard, &self.spill.dir);
        let Some(group) = &mut self.group else { return Ok(false) };
        let Some(held) = &mut group.held else { return Ok(false) };
        match held.push(group.changes, event) {
            Ok(()) => {
                group.maps_from = None;
                group.changes = group.changes.saturating_add(count);
                Ok(true)
            }
            // So large a transaction is hardly one that was rolled back. Should it be, that halts.
            Err(HoldError::TooLarge) if group.savepoints.is_empty() && group.xa.is_none() => {
                Ok(false)
            }
            Err(HoldError::TooLarge) => {
                Err(ReadError::HeldTooLarge { shard, gtid: group.gtid, max: self.spill.max })
            }
            Err(HoldError::Io(error)) => Err(spill_error(shard, group.gtid, dir, &error)),
        }
    }

    /// Everything held counts.
    pub(super) async fn send_held<W: LogWriter>(
        &mut self,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let Some(mut held) = group.held.take() else { return Ok(()) };
        let (shard, gtid, dir) = (self.shard, group.gtid, self.spill.dir.clone());
        let failed = |error: std::io::Error| spill_error(shard, gtid, &dir, &error);
        let mut event = std::mem::take(&mut self.event);
        held.rewind().map_err(failed)?;
        let mut taken = 0;
        while let Some(first) = held.next(&mut event).map_err(failed)? {
            if let Event::Rows(rows) = self.decoder.decode(&event)? {
                self.send_rows(rows, first, out).await?;
            }
            taken += 1;
            if taken % EVENTS_PER_TURN == 0 {
                out.flush().await?;
                tokio::task::yield_now().await;
            }
        }
        if event.capacity() <= EVENT_KEPT_MAX {
            self.event = event;
        }
        self.keep(held);
        Ok(())
    }

    /// For the next group.
    pub(super) fn keep(&mut self, mut held: Held) {
        held.clear();
        self.spare = Some(held);
    }
}

pub(super) fn spill_error(
    shard: OldShard,
    gtid: Gtid,
    dir: &std::path::Path,
    error: &std::io::Error,
) -> ReadError {
    let (dir, detail) = (dir.display().to_string(), error.to_string());
    ReadError::Spill { shard, gtid, dir, detail }
}
