//! What has been read of an old shard's log, and the proof that it is still the same log.
//!
//! After every connect the server is asked for the last complete group again, which must have the
//! checksum it had before: a server that lost the tail of its binlog gives the same GTIDs to other
//! changes. A group that was cut off in the middle is compared up to the event where it was cut.
//! Pure: GTIDs and checksums in, verdicts out.

use modshift_proto::message::TokenPhase;
use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard};

use crate::epoch::ResumePoint;
use crate::error::ReadError;

/// What is to be done with a group that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Read before: only its checksum matters.
    Proof,
    /// New, from the logged change with this number on; earlier ones were sent before the
    /// connection broke.
    New { from_change: u32 },
}

/// A group of which the connection delivered only a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partial {
    pub gtid: Gtid,
    pub events: u64,
    /// Checksum over those events.
    pub checksum: u32,
    /// Logged changes sent.
    pub changes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct History {
    shard: OldShard,
    /// Complete groups without the last one.
    before: GtidSet,
    last: Option<GroupDigest>,
    done: GtidSet,
    /// The last group is still to be shown again.
    proof_due: bool,
    partial: Option<Partial>,
    /// The next connection begins behind the last group, which has been shown already.
    shown: bool,
    /// Between the last group and the next one a file was cut off: whoever begins at the last group
    /// does not get past that.
    behind_cut: bool,
}

impl History {
    pub fn new(shard: OldShard, resume: ResumePoint) -> History {
        let done = resume.gtids();
        let proof_due = resume.last.is_some();
        let (before, last) = (resume.before, resume.last);
        let (partial, shown, behind_cut) = (None, false, false);
        History { shard, before, last, done, proof_due, partial, shown, behind_cut }
    }

    /// Complete groups.
    pub fn done(&self) -> &GtidSet {
        &self.done
    }

    /// The last complete group, and those before it; `None` while a proof is due, and while what
    /// follows is in another file that does not go on from there.
    pub fn stands_behind(&self) -> Option<(Gtid, &GtidSet)> {
        let whole = !self.proof_due && !self.behind_cut && self.partial.is_none();
        let last = self.last.filter(|_| whole)?;
        Some((last.gtid, &self.before))
    }

    /// Behind the last complete group, after which the shard is in this phase.
    pub fn resume_point(&self, phase: TokenPhase) -> ResumePoint {
        ResumePoint { before: self.before.clone(), last: self.last, phase }
    }

    /// Where to ask the server to start, after a connection has been lost in the middle of
    /// `partial` or between groups.
    pub fn reconnect(&mut self, partial: Option<Partial>) -> &GtidSet {
        if std::mem::take(&mut self.shown) && partial.is_none() && self.partial.is_none() {
            self.proof_due = false;
            self.behind_cut = true;
            return &self.done;
        }
        self.proof_due = self.last.is_some();
        if partial.is_some() {
            // A cut during the replay of a cut group: the longer part stays the one to compare.
            let longer = |old: &Partial| partial.is_some_and(|new| new.events >= old.events);
            if self.partial.as_ref().is_none_or(longer) {
                self.partial = partial;
            }
        }
        &self.before
    }

    /// What follows the last group lies in another file, which the server finds by that group alone.
    /// False: it was not shown, or more than it was read.
    pub fn pass_on(&mut self) -> bool {
        self.shown = self.last.is_some() && !self.proof_due && self.partial.is_none();
        self.shown
    }

    /// A group begins.
    pub fn open(&mut self, gtid: Gtid) -> Result<Opening, ReadError> {
        let shard = self.shard;
        if let (true, Some(last)) = (self.proof_due, self.last) {
            if gtid == last.gtid {
                return Ok(Opening::Proof);
            }
            return Err(ReadError::HistoryMissing { shard, expected: last.gtid, found: gtid });
        }
        if let Some(last) = self.done.get(gtid.domain)
            && gtid.seq <= last.seq
        {
            return Err(ReadError::SequenceBack { shard, last, found: gtid });
        }
        match self.partial {
            Some(partial) if partial.gtid == gtid => {
                Ok(Opening::New { from_change: partial.changes })
            }
            Some(partial) => {
                Err(ReadError::HistoryMissing { shard, expected: partial.gtid, found: gtid })
            }
            None => Ok(Opening::New { from_change: 0 }),
        }
    }

    /// The group in progress has shown this many events with this checksum.
    pub fn progress(&mut self, gtid: Gtid, events: u64, checksum: u32) -> Result<(), ReadError> {
        let Some(partial) = self.partial else { return Ok(()) };
        if self.proof_due || partial.gtid != gtid || partial.events != events {
            return Ok(());
        }
        self.partial = None;
        if partial.checksum == checksum {
            Ok(())
        } else {
            Err(ReadError::GroupChanged { shard: self.shard, gtid, events })
        }
    }

    /// Is a comparison due at this number of events? Saves computing a checksum for nothing.
    pub fn compares_at(&self, events: u64) -> bool {
        !self.proof_due && self.partial.is_some_and(|partial| partial.events == events)
    }

    /// The group is complete.
    pub fn close(&mut self, digest: GroupDigest) -> Result<(), ReadError> {
        let shard = self.shard;
        if let (true, Some(last)) = (self.proof_due, self.last) {
            if last != digest {
                let (expected, found) = (last, digest);
                return Err(ReadError::HistoryChanged { shard, expected, found });
            }
            self.proof_due = false;
            return Ok(());
        }
        if let Some(partial) = self.partial.take() {
            // The group ended before the event at which it had been cut off.
            let (gtid, events) = (partial.gtid, partial.events);
            return Err(ReadError::GroupChanged { shard, gtid, events });
        }
        // What is done is what was before the last one, and that.
        if let Some(last) = self.last.replace(digest) {
            self.before.set(last.gtid);
        }
        self.done.set(digest.gtid);
        self.behind_cut = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gtid(seq: u64) -> Gtid {
        Gtid { domain: 0, server: 1, seq }
    }

    fn digest(seq: u64, checksum: u32) -> GroupDigest {
        GroupDigest { gtid: gtid(seq), checksum }
    }

    fn history() -> History {
        let before = "0-1-4".parse().expect("a set");
        let phase = TokenPhase::Serving;
        History::new(OldShard(0), ResumePoint { before, last: Some(digest(5, 50)), phase })
    }

    #[test]
    fn the_last_group_must_come_again_and_be_the_same() {
        let mut history = history();
        assert_eq!(history.open(gtid(5)).expect("proof"), Opening::Proof);
        history.close(digest(5, 50)).expect("same");
        assert_eq!(history.open(gtid(6)).expect("new"), Opening::New { from_change: 0 });
        history.close(digest(6, 60)).expect("new");
        assert_eq!(history.done().to_string(), "0-1-6");
        assert_eq!(history.reconnect(None).to_string(), "0-1-5");
        assert_eq!(history.open(gtid(6)).expect("proof"), Opening::Proof);
        assert!(matches!(history.close(digest(6, 61)), Err(ReadError::HistoryChanged { .. })));
    }

    #[test]
    fn a_gap_or_a_step_back_halts() {
        assert!(matches!(history().open(gtid(6)), Err(ReadError::HistoryMissing { .. })));
        let mut history = history();
        history.open(gtid(5)).expect("proof");
        history.close(digest(5, 50)).expect("same");
        assert!(matches!(history.open(gtid(5)), Err(ReadError::SequenceBack { .. })));
    }

    #[test]
    fn behind_a_file_that_was_cut_off_no_group_is_shown_again_once() {
        let mut history = history();
        assert!(!history.pass_on(), "the last group was not shown yet");
        assert_eq!(history.reconnect(None).to_string(), "0-1-4");
        history.open(gtid(5)).expect("proof");
        history.close(digest(5, 50)).expect("same");
        assert!(history.pass_on());
        assert_eq!(history.reconnect(None).to_string(), "0-1-5");
        assert_eq!(history.open(gtid(6)).expect("new"), Opening::New { from_change: 0 });
        let part = Partial { gtid: gtid(6), events: 3, checksum: 33, changes: 7 };
        assert_eq!(history.reconnect(Some(part)).to_string(), "0-1-4", "shown again");
        assert!(!history.pass_on(), "a part of the next was sent");
    }

    #[test]
    fn behind_a_cut_file_nothing_is_shared_until_another_group_is_complete() {
        let mut history = history();
        history.open(gtid(5)).expect("proof");
        history.close(digest(5, 50)).expect("same");
        assert!(history.stands_behind().is_some());
        assert!(history.pass_on());
        history.reconnect(None);
        assert_eq!(history.stands_behind(), None);
        // Another connection, from before the cut.
        history.reconnect(None);
        history.open(gtid(5)).expect("proof");
        history.close(digest(5, 50)).expect("same");
        assert_eq!(history.stands_behind(), None, "the cut comes again");
        assert!(history.pass_on());
        history.reconnect(None);
        history.open(gtid(6)).expect("new");
        history.close(digest(6, 60)).expect("new");
        assert_eq!(history.stands_behind().map(|(last, _)| last), Some(gtid(6)));
    }

    #[test]
    fn a_group_cut_off_goes_on_where_it_was_cut_if_it_is_the_same() {
        let cut = || {
            let mut history = history();
            history.open(gtid(5)).expect("proof");
            history.close(digest(5, 50)).expect("same");
            history.open(gtid(6)).expect("new");
            history.reconnect(Some(Partial { gtid: gtid(6), events: 3, checksum: 33, changes: 7 }));
            history.open(gtid(5)).expect("proof again");
            history.close(digest(5, 50)).expect("same again");
            assert_eq!(history.open(gtid(6)).expect("cut"), Opening::New { from_change: 7 });
            history
        };
        let mut same = cut();
        same.progress(gtid(6), 2, 22).expect("not there yet");
        same.progress(gtid(6), 3, 33).expect("the same");
        same.close(digest(6, 66)).expect("complete");
        let mut other = cut();
        assert!(matches!(other.progress(gtid(6), 3, 34), Err(ReadError::GroupChanged { .. })));
        let mut short = cut();
        assert!(matches!(short.close(digest(6, 22)), Err(ReadError::GroupChanged { .. })));
    }
}
