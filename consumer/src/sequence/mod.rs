//! Envelope and position of each message -> apply it, drop it, or stop.
//!
//! One [`Stream`] is what this new shard knows of one old shard: its watermark, moved forward by
//! every message that is taken. It guarantees invariants 1 and 2: no message is missing, none
//! counts twice, a reader that was replaced is not heard any more, and an old shard that lost the
//! tail of its binlog is noticed. It knows nothing of rows, tables or databases.

mod error;
#[cfg(test)]
mod tests;

pub use error::SequenceError;

use modshift_proto::message::{Body, Envelope, Start, Token};
use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard, Position};

/// What of one old shard has been applied: one row of `modshift_watermark`, without the columns
/// that belong to its keeper (version, offset, halt).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watermark {
    pub epoch: u64,
    /// Last message taken in this epoch.
    pub number: u64,
    /// Complete event groups.
    pub gtids: GtidSet,
    /// The event group of which changes up to an ordinal are in.
    pub partial: Option<Partial>,
    /// The newest token.
    pub token: Option<TokenMark>,
    /// The old shard's clock at that token; 0 before the first.
    pub token_clock_us: i64,
    /// Event groups that modshift itself had written there by then.
    pub token_writes: u64,
    /// Every snapshot chunk of the source is in.
    pub copied: bool,
    /// Which tables this epoch sends: [`Start::tables`].
    pub tables: u32,
}

/// An event group in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partial {
    /// Last change of it that is in.
    pub position: Position,
    pub awaited: Awaited,
}

/// Does the group in progress have to come again?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    No,
    /// Taken in an earlier epoch, and this epoch's reader has not come to it yet.
    Yes,
    /// The same, but tables have left or come since: what was taken of it may have been changes that
    /// nobody sends any more.
    Perhaps,
}

/// The group of the newest token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenMark {
    pub digest: GroupDigest,
    /// This epoch's reader resumed before it and has not shown it again yet: until then nothing
    /// proves that the old shard still has the binlog that was applied.
    pub awaited: bool,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A change that is new.
    Apply,
    /// A marker or token: the watermark has moved, no row has.
    Progress,
    Drop(Dropped),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The change is covered by the watermark. Counts as taken: the number has moved.
    Position,
    /// The message had been taken.
    Number,
    /// Sent by a reader that has been replaced.
    Epoch,
}

impl Dropped {
    pub fn name(self) -> &'static str {
        match self {
            Dropped::Position => "position",
            Dropped::Number => "number",
            Dropped::Epoch => "epoch",
        }
    }
}

/// One old shard's messages, in the order of the partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    source: OldShard,
    mark: Option<Watermark>,
    /// Last change seen per domain in this epoch, covered or not. Only in memory: it notices a
    /// server that gives out sequence numbers twice, which the reader should have noticed.
    seen: Vec<Position>,
}

impl Stream {
    pub fn new(source: OldShard, mark: Option<Watermark>) -> Stream {
        Stream { source, mark, seen: Vec::new() }
    }

    pub fn source(&self) -> OldShard {
        self.source
    }

    pub fn mark(&self) -> Option<&Watermark> {
        self.mark.as_ref()
    }

    /// Will a change be dropped because it is in already, or comes from a reader that was
    /// replaced? (The rest of a group in progress is left to [`Stream::accept`].)
    pub fn has(&self, envelope: &Envelope, position: Option<Position>) -> bool {
        self.mark.as_ref().is_some_and(|mark| {
            (envelope.epoch, envelope.number) <= (mark.epoch, mark.number)
                || position.is_some_and(|position| mark.gtids.covers(position.gtid))
        })
    }

    /// Decides about the next message of this source and moves the watermark over it. After an
    /// error the stream is where it was.
    pub fn accept(
        &mut self,
        envelope: &Envelope,
        body: &Body<'_>,
    ) -> Result<Verdict, SequenceError> {
        debug_assert_eq!(envelope.source, self.source);
        let Some(mark) = &mut self.mark else {
            self.mark = Some(first_mark(self.source, envelope, body)?);
            return Ok(Verdict::Progress);
        };
        let old = self.source;
        if envelope.epoch < mark.epoch {
            return Ok(Verdict::Drop(Dropped::Epoch));
        }
        if envelope.epoch > mark.epoch {
            open_epoch(old, mark, envelope, body)?;
            self.seen.clear();
            return Ok(Verdict::Progress);
        }
        if envelope.number <= mark.number {
            return Ok(Verdict::Drop(Dropped::Number));
        }
        if envelope.number != mark.number + 1 {
            return Err(SequenceError::Gap {
                old,
                epoch: mark.epoch,
                expected: mark.number + 1,
                found: envelope.number,
            });
        }
        let verdict = match body {
            Body::Start(_) => {
                return Err(SequenceError::MarkerInside { old, number: envelope.number });
            }
            Body::Token(token) => {
                mark.take_token(old, token)?;
                Verdict::Progress
            }
            // A snapshot row has no position: its place in the log is all that counts.
            Body::Change(change) => match change.position {
                None => Verdict::Apply,
                Some(position) => {
                    in_order(old, &self.seen, position)?;
                    let verdict = mark.take_position(old, position)?;
                    note_seen(&mut self.seen, position);
                    verdict
                }
            },
        };
        mark.number = envelope.number;
        Ok(verdict)
    }
}

/// The first message that a new shard ever takes from a source.
fn first_mark(
    old: OldShard,
    envelope: &Envelope,
    body: &Body<'_>,
) -> Result<Watermark, SequenceError> {
    let start = match body {
        Body::Start(start) if envelope.number == 0 => start,
        _ => {
            return Err(SequenceError::NoMarker {
                old,
                epoch: envelope.epoch,
                found: envelope.number,
            });
        }
    };
    if !start.initial {
        return Err(SequenceError::NoWatermark { old, resumes_after: start.gtids.clone() });
    }
    Ok(Watermark {
        epoch: envelope.epoch,
        number: 0,
        gtids: start.gtids.clone(),
        partial: None,
        token: None,
        token_clock_us: 0,
        token_writes: 0,
        copied: false,
        tables: start.tables,
    })
}

/// A reader that replaces an earlier one: it must begin with a marker, at or before what was
/// applied, and its server must still have the binlog that was applied.
fn open_epoch(
    old: OldShard,
    mark: &mut Watermark,
    envelope: &Envelope,
    body: &Body<'_>,
) -> Result<(), SequenceError> {
    let start = match body {
        Body::Start(start) if envelope.number == 0 => start,
        _ => {
            return Err(SequenceError::NoMarker {
                old,
                epoch: envelope.epoch,
                found: envelope.number,
            });
        }
    };
    if !mark.gtids.contains(&start.gtids) {
        return Err(SequenceError::NotCovered {
            old,
            resumes_after: start.gtids.clone(),
            applied: mark.gtids.clone(),
        });
    }
    if let Some(token) = &mut mark.token {
        token.awaited = resumes_before(old, token.digest, start)?;
    }
    if let Some(partial) = &mut mark.partial {
        let same = start.tables == mark.tables && partial.awaited != Awaited::Perhaps;
        // An operator has had it passed over, wherever the reader stood in it: nothing more comes.
        let skipped = start.skipped.contains(&partial.position.gtid);
        partial.awaited = match (skipped, same) {
            (true, _) => Awaited::No,
            (false, true) => Awaited::Yes,
            (false, false) => Awaited::Perhaps,
        };
        // Groups before it may have changes of a table that was not in the plan then, so that they
        // were not sent; its rows come by the copy. Of all other tables they are in.
        let gtid = partial.position.gtid;
        let before = Gtid { seq: gtid.seq.saturating_sub(1), ..gtid };
        if !start.anew.is_empty() && !mark.gtids.covers(before) {
            mark.gtids.set(before);
        }
    }
    mark.epoch = envelope.epoch;
    mark.number = 0;
    // Until this reader says so: chunks that were in flight may be read again.
    mark.copied = false;
    mark.tables = start.tables;
    Ok(())
}

/// Will the new reader come by the newest token again? If not, it must have resumed at that very
/// token: a resume point is a token that every partition has, so it is never newer than ours.
fn resumes_before(
    old: OldShard,
    newest: GroupDigest,
    start: &Start,
) -> Result<bool, SequenceError> {
    if !start.gtids.covers(newest.gtid) {
        return Ok(true);
    }
    match &start.digest {
        Some(digest) if *digest == newest => Ok(false),
        Some(digest) if same_place(digest.gtid, newest.gtid) => {
            Err(SequenceError::LostTail { old, applied: newest, found: digest.to_string() })
        }
        // Also a reader that forgot everything ("initial") on a server that had been read.
        _ => Err(SequenceError::ForeignResume { old, resumes_after: start.gtids.clone(), newest }),
    }
}

impl Watermark {
    /// Is this at or after `earlier`? A watermark never moves back.
    pub fn follows(&self, earlier: &Watermark) -> bool {
        let within = |had: Partial| {
            let at = had.position;
            self.gtids.covers(at.gtid) || self.partial.is_some_and(|now| now.position >= at)
        };
        (self.epoch, self.number) >= (earlier.epoch, earlier.number)
            && self.gtids.contains(&earlier.gtids)
            && earlier.partial.is_none_or(within)
    }

    /// Is the proof still to come that the old shard has the binlog that was applied here?
    pub fn proof_pending(&self) -> bool {
        self.token.is_some_and(|token| token.awaited)
    }

    fn take_token(&mut self, old: OldShard, token: &Token) -> Result<(), SequenceError> {
        let awaited = self.token.filter(|newest| newest.awaited).map(|newest| newest.digest);
        let proven = awaited == Some(token.digest);
        if let Some(newest) = awaited
            && !proven
            && (token.gtids.covers(newest.gtid) || at_or_after(token.digest.gtid, newest.gtid))
        {
            let found = token.digest.to_string();
            return Err(SequenceError::LostTail { old, applied: newest, found });
        }
        let completed = self.partial.filter(|had| token.gtids.covers(had.position.gtid));
        if let Some(partial) = completed
            && partial.awaited == Awaited::Yes
        {
            let (had, found) = (partial.position.gtid, token.digest.gtid);
            return Err(SequenceError::OtherGroup { old, had, found });
        }
        // Nothing below fails.
        self.copied = token.copied;
        let replayed = self.gtids.contains(&token.gtids);
        if proven || (!replayed && awaited.is_none()) {
            self.token = Some(TokenMark { digest: token.digest, awaited: false });
        }
        if replayed {
            return Ok(());
        }
        if completed.is_some() {
            self.partial = None;
        }
        for gtid in token.gtids.iter() {
            if !self.gtids.covers(gtid) {
                self.gtids.set(gtid);
            }
        }
        self.token_clock_us = token.clock_us;
        self.token_writes = token.writes;
        Ok(())
    }

    fn take_position(
        &mut self,
        old: OldShard,
        position: Position,
    ) -> Result<Verdict, SequenceError> {
        let gtid = position.gtid;
        if let Some(newest) = self.token.filter(|newest| newest.awaited)
            && at_or_after(gtid, newest.digest.gtid)
        {
            return Err(SequenceError::LostTail {
                old,
                applied: newest.digest,
                found: gtid.to_string(),
            });
        }
        if self.gtids.covers(gtid) {
            return Ok(Verdict::Drop(Dropped::Position));
        }
        if let Some(partial) = &mut self.partial {
            let (had, awaited) = (partial.position, partial.awaited);
            if had.gtid.domain != gtid.domain {
                // Groups do not interleave in one binlog, but another server of the shard may have
                // the domains in another order: then the rest of the old group is still to come.
                let (partial, found) = (had.gtid, gtid);
                match awaited {
                    Awaited::No => {}
                    Awaited::Yes => return Err(SequenceError::Domains { old, partial, found }),
                    // It may be the same server, on which nothing more of that group is sent; and
                    // which it is nobody can tell. With the former tables the group comes again.
                    Awaited::Perhaps => {
                        return Err(SequenceError::DomainsWithoutTables { old, partial, found });
                    }
                }
                self.gtids.set(had.gtid);
            } else if had.gtid.seq == gtid.seq {
                if had.gtid != gtid {
                    return Err(SequenceError::OtherGroup { old, had: had.gtid, found: gtid });
                }
                partial.awaited = Awaited::No;
                if position.ordinal <= had.ordinal {
                    return Ok(Verdict::Drop(Dropped::Position));
                }
            } else if had.gtid.seq < gtid.seq {
                // This reader began before the group, so it had to come by it again.
                if partial.awaited == Awaited::Yes {
                    return Err(SequenceError::OtherGroup { old, had: had.gtid, found: gtid });
                }
                // All of an earlier group came before this in the same stream.
                self.gtids.set(had.gtid);
            } else {
                return Err(SequenceError::Backwards { old, had, found: position });
            }
        }
        self.partial = Some(Partial { position, awaited: Awaited::No });
        Ok(Verdict::Apply)
    }
}

fn same_place(a: Gtid, b: Gtid) -> bool {
    a.domain == b.domain && a.seq == b.seq
}

fn at_or_after(gtid: Gtid, other: Gtid) -> bool {
    gtid.domain == other.domain && gtid.seq >= other.seq
}

fn in_order(old: OldShard, seen: &[Position], position: Position) -> Result<(), SequenceError> {
    match seen.iter().find(|had| had.gtid.domain == position.gtid.domain) {
        Some(&had) if position <= had => {
            Err(SequenceError::Backwards { old, had, found: position })
        }
        _ => Ok(()),
    }
}

fn note_seen(seen: &mut Vec<Position>, position: Position) {
    match seen.iter_mut().find(|had| had.gtid.domain == position.gtid.domain) {
        Some(had) => *had = position,
        None => seen.push(position),
    }
}
