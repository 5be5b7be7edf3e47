//! An old shard: a binlog, and whatever can be read from a server that has it.
//!
//! Rows, `modshift_token` and `modshift_progress` are what the binlog's groups made of them, so
//! that a server that loses the end of its binlog loses that of its tables too.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use modshift_proto::{GroupDigest, Gtid, GtidSet};
use modshift_replicator::pure::{ResumePoint, TableProgress};

use super::case::Write;
use crate::places::{Act, Rows, perform};

/// What `modshift_progress` holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    pub resume: ResumePoint,
    pub table: TableProgress,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Rows(Write),
    /// A write to `modshift_token`, and to `modshift_progress` with it.
    Token {
        epoch: u64,
        writes: u64,
        /// It stays with the reader.
        quiet: bool,
        progress: Option<Progress>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub kind: Kind,
    /// Raised when the server loses groups: no two that were written are the same.
    era: u8,
    /// That wrote it.
    server: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Old {
    pub shard: u16,
    begin: Rows,
    /// Sequence numbers are places, from 1.
    pub binlog: Vec<Arc<Group>>,
    /// What the application is still going to do.
    pub script: Arc<Vec<Write>>,
    pub written: usize,
    /// The server's clock. A failover does not turn it back.
    pub clock: u64,
    /// Groups that the server which is read has; on the primary, all.
    pub shown: usize,
    era: u8,
    server: u32,
}

pub fn place_of(set: &GtidSet) -> usize {
    set.get(0).map_or(0, |last| last.seq as usize)
}

fn checksum(of: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish() as u32
}

impl Old {
    pub fn new(shard: u16, begin: &[Act], script: &[Write]) -> Old {
        let begin = begin.iter().fold(Rows::new(), |rows, &act| {
            perform(&rows, shard, act).expect("the beginning is legal")
        });
        let mut old = Old {
            shard,
            begin,
            binlog: Vec::new(),
            script: Arc::new(script.to_vec()),
            written: 0,
            clock: 10,
            shown: 0,
            era: 0,
            server: 1,
        };
        // A server that has written nothing yet has no position to begin from.
        old.log(Kind::Rows(Vec::new()), false);
        old.shown = 1;
        old
    }

    pub fn log(&mut self, kind: Kind, replica: bool) {
        self.binlog.push(Arc::new(Group { kind, era: self.era, server: self.server }));
        if !replica {
            self.shown = self.binlog.len();
        }
    }

    pub fn gtid(&self, seq: usize) -> Gtid {
        Gtid { domain: 0, server: self.binlog[seq - 1].server, seq: seq as u64 }
    }

    /// The groups up to this one.
    pub fn set(&self, seq: usize) -> GtidSet {
        [self.gtid(seq)].into_iter().collect()
    }

    /// Loses the newest groups. Who goes on writing is `other`, a server of its own, or the same.
    pub fn lose(&mut self, groups: usize, other: bool) {
        self.binlog.truncate(self.binlog.len() - groups);
        self.shown = self.shown.min(self.binlog.len());
        self.era += 1;
        self.server += u32::from(other);
    }

    pub fn digest(&self, seq: usize) -> GroupDigest {
        GroupDigest { gtid: self.gtid(seq), checksum: checksum(&self.binlog[seq - 1]) }
    }

    /// Checksum over the first changes of a group.
    pub fn part_checksum(&self, seq: usize, changes: usize) -> u32 {
        let group = &self.binlog[seq - 1];
        match &group.kind {
            Kind::Rows(write) => checksum(&(&write[..changes], group.era)),
            Kind::Token { .. } => checksum(group),
        }
    }

    /// Rows after the first `groups` groups, and the first `changes` changes of the next.
    pub fn rows_at(&self, groups: usize, changes: usize) -> Rows {
        let whole = self.binlog[..groups].iter().map(|group| (group, usize::MAX));
        let next = self.binlog.get(groups).filter(|_| changes > 0).map(|group| (group, changes));
        whole.chain(next).fold(self.begin.clone(), |rows, (group, changes)| match &group.kind {
            Kind::Rows(write) => write.iter().take(changes).fold(rows, |rows, &act| {
                perform(&rows, self.shard, act).expect("what was logged was legal")
            }),
            Kind::Token { .. } => rows,
        })
    }

    /// Epoch and writes of `modshift_token` after so many groups; zeros before the first start.
    pub fn token_at(&self, groups: usize) -> (u64, u64) {
        let newest = self.binlog[..groups].iter().rev().find_map(|group| match group.kind {
            Kind::Token { epoch, writes, .. } => Some((epoch, writes)),
            Kind::Rows(_) => None,
        });
        newest.unwrap_or((0, 0))
    }

    pub fn token(&self) -> (u64, u64) {
        self.token_at(self.binlog.len())
    }

    pub fn progress(&self) -> Option<&Progress> {
        self.binlog.iter().rev().find_map(|group| match &group.kind {
            Kind::Token { progress, .. } => progress.as_ref(),
            Kind::Rows(_) => None,
        })
    }

    /// Where a reader would resume.
    pub fn resume(&self) -> usize {
        self.progress().map_or(self.binlog.len(), |progress| place_of(&progress.resume.gtids()))
    }

    /// Rows or tokens after the last token of any epoch?
    pub fn rows_since_token(&self) -> bool {
        matches!(self.binlog.last().map(|group| &group.kind), Some(Kind::Rows(_)))
    }

    /// The application's next transaction; what the database would refuse is not done.
    pub fn write(&mut self, replica: bool) {
        let write = self.script[self.written].clone();
        self.written += 1;
        let rows = self.rows_at(self.binlog.len(), 0);
        let legal = write.iter().try_fold(rows, |rows, &act| perform(&rows, self.shard, act));
        if legal.is_some() {
            self.log(Kind::Rows(write), replica);
        }
    }
}
