//! What is known of rows that were written where they are not at home. Pure.

use std::collections::HashMap;
use std::fmt;

use modshift_proto::{GroupDigest, Gtid, GtidSet};

use super::sift::{Closed, Found};

/// Of one server. A table of which more rows were written is clouded; a row takes about 100 bytes.
pub const ROWS_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    pub const fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        }
    }

    pub fn from_name(name: &str) -> Option<Op> {
        [Op::Insert, Op::Update, Op::Delete].into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The last write of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub gtid: Gtid,
    pub op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not since then.
    Never,
    Written(Last),
    /// Something was written there of which the log does not say the rows.
    Perhaps {
        gtid: Gtid,
    },
    /// Nobody can say: the watch began later, or has not come so far.
    Unknown {
        why: String,
    },
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Fresh,
    /// It was taken in before.
    Same,
    /// Another one was, under the same GTID.
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Everything behind it has been looked at, up to `done`.
    pub since: GtidSet,
    /// Why it is not known from earlier on.
    pub gap: Option<String>,
    pub done: GtidSet,
    /// Without the last group; and what that was. The next connection has it shown again, and compares.
    pub(crate) before: GtidSet,
    pub(crate) last: Option<GroupDigest>,
    /// What keeps the watch from reading on at present.
    pub trouble: Option<String>,
    /// By table and the hash of a primary key. Two keys of one hash are one row: the answer errs towards
    /// "written".
    pub(crate) rows: HashMap<String, HashMap<u64, Last>>,
    /// Any row of the table may have been written by then.
    pub(crate) clouded: HashMap<String, Gtid>,
    /// Rows seen by this process.
    pub seen: u64,
}

impl Known {
    pub fn begin(begin: GtidSet) -> Known {
        Known { since: begin.clone(), done: begin.clone(), before: begin, ..Known::default() }
    }

    /// Nothing is known any more of what lies before `now`. What was seen stays seen.
    pub(crate) fn lose(&mut self, now: GtidSet, why: String) {
        (self.since, self.done, self.before) = (now.clone(), now.clone(), now);
        (self.last, self.gap) = (None, Some(why));
    }

    /// Where the next connection begins.
    pub(crate) fn start(&self) -> &GtidSet {
        match self.last {
            Some(_) => &self.before,
            None => &self.done,
        }
    }

    /// Only the last group is shown twice. Any other that is covered, by its number, was never read: the
    /// log has gone back, and another server gave out that number again.
    pub(crate) fn take(&mut self, closed: &Closed) -> Taken {
        let gtid = closed.digest.gtid;
        if self.done.covers(gtid) {
            return match self.last {
                Some(last) if last == closed.digest => Taken::Same,
                _ => Taken::Other,
            };
        }
        for found in &closed.found {
            self.found(found, gtid);
        }
        for table in &closed.clouded {
            self.clouded.insert(table.clone(), gtid);
            self.rows.remove(table);
        }
        self.before = self.done.clone();
        self.done.set(gtid);
        self.last = Some(closed.digest);
        Taken::Fresh
    }

    fn found(&mut self, found: &Found, gtid: Gtid) {
        self.seen += 1;
        let kept: usize = self.rows.values().map(HashMap::len).sum();
        let rows = self.rows.entry(found.table.clone()).or_default();
        if kept < ROWS_MAX || rows.contains_key(&found.hash) {
            rows.insert(found.hash, Last { gtid, op: found.op });
        } else {
            self.clouded.insert(found.table.clone(), gtid);
        }
    }

    pub fn answer(&self, table: &str, key_row: &[u8], position: &GtidSet) -> Answer {
        if !position.contains(&self.since) {
            let why = self.gap.as_deref().unwrap_or("the watch began there");
            return Answer::Unknown {
                why: format!("not known since before {}: {why}", self.since),
            };
        }
        let row = self.rows.get(table).and_then(|rows| rows.get(&hash(key_row)));
        if let Some(last) = row.filter(|last| !position.covers(last.gtid)) {
            return Answer::Written(*last);
        }
        match self.clouded.get(table).filter(|gtid| !position.covers(**gtid)) {
            Some(gtid) => Answer::Perhaps { gtid: *gtid },
            None => Answer::Never,
        }
    }

    /// Rows that were written where they are not at home, by table; more where one is clouded.
    pub fn written(&self) -> Vec<(&str, usize)> {
        let mut all: Vec<(&str, usize)> =
            self.rows.iter().map(|(table, rows)| (table.as_str(), rows.len())).collect();
        all.sort_unstable();
        all
    }

    /// Tables of which any row may have been written.
    pub fn clouded(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.clouded.keys().map(String::as_str).collect();
        all.sort_unstable();
        all
    }
}

/// FNV-1a, never 0: that stands for all rows of a table.
pub(crate) fn hash(key_row: &[u8]) -> u64 {
    let hash = key_row.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> GtidSet {
        text.parse().unwrap()
    }

    fn gtid(seq: u64) -> Gtid {
        Gtid { domain: 0, server: 1, seq }
    }

    fn closed(seq: u64, checksum: u32, keys: &[&[u8]], clouded: &[&str]) -> Closed {
        let found = |key: &&[u8]| Found {
            table: "t".to_owned(),
            hash: hash(key),
            op: Op::Update,
            shown: String::new(),
            belongs: None,
        };
        Closed {
            digest: GroupDigest { gtid: gtid(seq), checksum },
            own: false,
            found: keys.iter().map(found).collect(),
            clouded: clouded.iter().map(|table| (*table).to_owned()).collect(),
            redefined: false,
        }
    }

    #[test]
    fn nobody_wrote_a_row_only_where_everything_since_was_read() {
        let mut known = Known::begin(set("0-1-10"));
        assert_eq!(known.take(&closed(11, 1, &[b"a"], &[])), Taken::Fresh);
        assert_eq!(known.take(&closed(12, 2, &[], &["u"])), Taken::Fresh);
        let last = Last { gtid: gtid(11), op: Op::Update };
        let answer = |table: &str, key: &[u8], since: &str| known.answer(table, key, &set(since));
        assert_eq!(answer("t", b"a", "0-1-10"), Answer::Written(last));
        assert_eq!(answer("t", b"a", "0-1-11"), Answer::Never);
        assert_eq!(answer("t", b"b", "0-1-10"), Answer::Never);
        assert_eq!(answer("u", b"b", "0-1-11"), Answer::Perhaps { gtid: gtid(12) });
        assert_eq!(answer("u", b"b", "0-1-12"), Answer::Never);
        let unknown = |answer: Answer| matches!(answer, Answer::Unknown { .. });
        assert!(unknown(answer("t", b"b", "0-1-9")) && unknown(answer("t", b"a", "1-1-20")));
        // Behind a gap nothing is known of what came before it, and what was seen stays seen.
        known.lose(set("0-1-20"), "purged".to_owned());
        assert!(unknown(known.answer("t", b"b", &set("0-1-10"))));
        assert_eq!(known.answer("t", b"b", &set("0-1-20")), Answer::Never);
        assert_eq!(known.written(), [("t", 1)]);
    }

    #[test]
    fn a_log_that_shows_another_last_group_is_another_log() {
        let mut known = Known::begin(set("0-1-10"));
        assert_eq!(known.start(), &set("0-1-10"));
        known.take(&closed(11, 1, &[], &[]));
        known.take(&closed(12, 2, &[], &[]));
        assert_eq!(known.start(), &set("0-1-11"));
        assert_eq!(known.take(&closed(12, 2, &[b"a"], &[])), Taken::Same);
        assert_eq!(known.seen, 0);
        assert_eq!(known.take(&closed(12, 3, &[], &[])), Taken::Other);
        // A server that lacked the last group has given out an earlier number again.
        let mut earlier = closed(11, 4, &[b"a"], &[]);
        earlier.digest.gtid.server = 2;
        assert_eq!(known.take(&earlier), Taken::Other);
    }

    #[test]
    fn what_is_kept_is_bounded_and_says_so() {
        let mut known = Known::begin(set("0-1-1"));
        let keys: Vec<[u8; 8]> = (0..=ROWS_MAX as u64).map(u64::to_be_bytes).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 8]>::as_slice).collect();
        known.take(&closed(2, 1, &keys, &[]));
        assert_eq!(known.written(), [("t", ROWS_MAX)]);
        assert_eq!(known.answer("t", b"x", &set("0-1-1")), Answer::Perhaps { gtid: gtid(2) });
    }
}
