//! Primary keys that the tail touched while chunks of their table are in flight.
//!
//! A touch is stamped with the newest token the tail had seen. A chunk whose snapshot held token
//! `s` lacks exactly the changes after the place of `s` in the log, so a row of it is stale if
//! its key was touched with a stamp of `s` or more.
//!
//! Memory is bounded: with too many keys everything is forgotten and the floor rises, so that
//! chunks whose token lies below it are read again.

use std::hash::{Hash, Hasher};

use hashbrown::HashMap;

/// Rows of an XA COMMIT are seen by others up to many groups after the binlog has it, for some
/// milliseconds. Of so many tokens, which come every few milliseconds, none shows them for sure.
const LATE: u64 = 10_000;

/// May a chunk with this token enter, as far as this memory goes back?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Enter,
    /// The memory does not reach back to the chunk's token.
    ReadAgain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    stamps: HashMap<Box<[u8]>, u64>,
    /// Touches stamped below this may be missing.
    floor: u64,
    keys_max: usize,
    /// Chunks read again because of `keys_max`.
    pub overflows: u64,
}

impl Touched {
    /// Recording starts now; `seen` is the newest token the tail has seen, so that only tokens
    /// after it are sure to come with a full record.
    pub fn new(seen: u64, keys_max: usize) -> Touched {
        Touched { stamps: HashMap::new(), floor: seen + 1, keys_max, overflows: 0 }
    }

    /// The tail touched the key after having seen token `seen`.
    pub fn touch(&mut self, key: &[u8], seen: u64) {
        self.stamp(key, seen, seen);
    }

    /// The same by an XA COMMIT: also of chunks whose snapshot is somewhat later the row may be stale.
    pub fn touch_late(&mut self, key: &[u8], seen: u64) {
        self.stamp(key, seen + LATE, seen);
    }

    fn stamp(&mut self, key: &[u8], as_of: u64, seen: u64) {
        if let Some(stamp) = self.stamps.get_mut(key) {
            *stamp = as_of.max(*stamp);
            return;
        }
        if self.stamps.len() >= self.keys_max {
            // What came by XA is what a newer snapshot may lack.
            self.stamps.retain(|_, stamp| *stamp > seen);
            self.floor = self.floor.max(seen + 1);
            self.overflows += 1;
            if self.stamps.len() >= self.keys_max {
                self.floor = self.stamps.values().fold(as_of, |most, &stamp| most.max(stamp)) + 1;
                self.stamps.clear();
            }
            if as_of == seen {
                return;
            }
        }
        self.stamps.insert(key.into(), as_of);
    }

    pub fn verdict(&self, token: u64) -> Verdict {
        if token >= self.floor { Verdict::Enter } else { Verdict::ReadAgain }
    }

    /// Was the key touched after the place of `token`?
    pub fn since(&self, key: &[u8], token: u64) -> bool {
        self.stamps.get(key).is_some_and(|&stamp| stamp >= token)
    }

    /// No chunk with a token below `token` will ask any more.
    pub fn forget_before(&mut self, token: u64) {
        if token > self.floor && !self.stamps.is_empty() {
            self.stamps.retain(|_, stamp| *stamp >= token);
            self.floor = token;
        }
    }
}

/// Whatever the order of the map.
impl Hash for Touched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut stamps: Vec<_> = self.stamps.iter().collect();
        stamps.sort_unstable();
        (stamps, self.floor, self.keys_max, self.overflows).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_counts_against_snapshots_that_cannot_show_it() {
        let mut touched = Touched::new(10, 100);
        assert_eq!(touched.verdict(10), Verdict::ReadAgain);
        assert_eq!(touched.verdict(11), Verdict::Enter);
        touched.touch(b"k", 12);
        assert!(touched.since(b"k", 11));
        assert!(touched.since(b"k", 12), "a touch right after the token is not in the snapshot");
        assert!(!touched.since(b"k", 13));
        assert!(!touched.since(b"other", 11));
        touched.touch(b"k", 13);
        assert!(touched.since(b"k", 13));
    }

    #[test]
    fn what_came_by_xa_is_lacking_in_later_snapshots_too_and_is_not_forgotten() {
        let mut touched = Touched::new(0, 2);
        touched.touch_late(b"x", 5);
        touched.touch(b"x", 6);
        assert!(touched.since(b"x", 5 + LATE) && !touched.since(b"x", 6 + LATE));
        touched.touch(b"a", 6);
        touched.touch(b"b", 7);
        assert_eq!(touched.verdict(8), Verdict::Enter);
        assert!(touched.since(b"x", 8), "kept, as a newer snapshot may lack it");
        touched.touch_late(b"y", 8);
        touched.touch(b"c", 9);
        assert_eq!(touched.verdict(8 + LATE), Verdict::ReadAgain, "nothing is known any more");
        assert_eq!(touched.verdict(9 + LATE), Verdict::Enter);
    }

    #[test]
    fn too_many_keys_send_older_chunks_back() {
        let mut touched = Touched::new(0, 2);
        touched.touch(b"a", 5);
        touched.touch(b"b", 5);
        assert_eq!(touched.verdict(5), Verdict::Enter);
        touched.touch(b"c", 6);
        assert_eq!(touched.verdict(6), Verdict::ReadAgain);
        assert_eq!(touched.verdict(7), Verdict::Enter);
        assert_eq!(touched.overflows, 1);
    }

    #[test]
    fn forgetting_never_lets_an_older_chunk_in() {
        let mut touched = Touched::new(0, 10);
        touched.touch(b"a", 5);
        touched.touch(b"b", 8);
        touched.forget_before(7);
        assert_eq!(touched.stamps.len(), 1);
        assert_eq!(touched.verdict(6), Verdict::ReadAgain);
        assert!(touched.since(b"b", 7));
    }
}
