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
        if let Some(stamp) = self.stamps.get_mut(key) {
            *stamp = seen;
            return;
        }
        if self.stamps.len() >= self.keys_max {
            self.stamps.clear();
            self.floor = seen + 1;
            self.overflows += 1;
            return;
        }
        self.stamps.insert(key.into(), seen);
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
