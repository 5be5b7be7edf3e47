//! Log lines, at most one of a kind in a while: a client without its broker says the same hundreds
//! of times a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Often enough to see that it goes on, seldom enough to read what else there is.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// By kind; librdkafka has a few dozen.
    kinds: Mutex<HashMap<String, Kind>>,
}

#[derive(Debug)]
struct Kind {
    said_at: Instant,
    held_back: u64,
}

impl Throttle {
    /// `Some`: it is time for a line, which should say how many of its kind were held back since
    /// the last.
    pub fn admit(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = kinds.get_mut(kind) else {
            kinds.insert(kind.to_owned(), Kind { said_at: now, held_back: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(known.said_at) < INTERVAL {
            known.held_back += 1;
            return None;
        }
        known.said_at = now;
        Some(std::mem::take(&mut known.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_kind_in_a_while_says_how_many_there_were() {
        let (throttle, begun) = (Throttle::default(), Instant::now());
        let admit = |kind: &str, ms| throttle.admit(kind, begun + Duration::from_millis(ms));
        assert_eq!(admit("down", 0), Some(0));
        assert_eq!(admit("down", 1), None);
        assert_eq!(admit("refused", 2), Some(0));
        assert_eq!(admit("down", 4_999), None);
        assert_eq!(admit("down", 5_000), Some(2));
        assert_eq!(admit("down", 5_001), None);
        assert_eq!(admit("down", 20_000), Some(1));
        assert_eq!(admit("down", 30_000), Some(0));
    }
}
