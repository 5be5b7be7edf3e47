//! How fast the verifier goes: as fast as the shards allow it, like the copy, and no faster than the
//! plan or the command line says.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_mariadb::pace::{Lane, Pace as _};

/// Waits before each range.
pub struct Pace {
    lane: Lane,
    limit: RowLimit,
}

impl Pace {
    pub fn new(lane: Lane, rows_per_s_max: Option<u32>) -> Pace {
        Pace { lane, limit: RowLimit::new(rows_per_s_max) }
    }

    /// Until the next range may be read. May be dropped.
    pub async fn ready(&self) {
        tokio::time::sleep(self.limit.left(Instant::now())).await;
        self.lane.ready().await;
    }

    /// A range is done: so many rows on the old shards.
    pub fn done(&self, rows: u64, took: Duration) {
        self.limit.add(rows, Instant::now());
        self.lane.done(rows, took);
    }
}

/// At most so many rows a second, or no limit.
#[derive(Debug)]
struct RowLimit {
    rows_per_s_max: Option<u32>,
    /// From when on the next range may be read.
    next_at: Mutex<Option<Instant>>,
}

impl RowLimit {
    fn new(rows_per_s_max: Option<u32>) -> RowLimit {
        RowLimit { rows_per_s_max, next_at: Mutex::new(None) }
    }

    fn add(&self, rows: u64, now: Instant) {
        let Some(limit) = self.rows_per_s_max else { return };
        let mut next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(rows as f64 / f64::from(limit));
        // Time that was not used is lost: no burst follows a pause.
        *next_at = Some(next_at.filter(|at| *at > now).unwrap_or(now) + cost);
    }

    fn left(&self, now: Instant) -> Duration {
        let next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
        next_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_their_time_and_pauses_are_not_made_up_for() {
        let limit = RowLimit::new(Some(1000));
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        limit.add(1000, begun);
        assert_eq!(limit.left(begun), second);
        limit.add(500, begun + second);
        assert_eq!(limit.left(begun + second), second / 2);
        limit.add(500, begun + 60 * second);
        assert_eq!(limit.left(begun + 60 * second), second / 2);
        let none = RowLimit::new(None);
        none.add(1 << 40, begun);
        assert_eq!(none.left(begun), Duration::ZERO);
    }
}
