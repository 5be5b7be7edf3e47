//! How fast the verifier goes: whoever knows how the shards feel says so between two ranges.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Asked after each range, before the next one.
pub trait Pace: Send + Sync {
    /// Waits as long as the shards should rest now. `rows`: how many the last range read on the
    /// old shards. The wait may be dropped.
    fn rest(&self, rows: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// At most so many rows a second, or no limit.
#[derive(Debug)]
pub struct RowLimit {
    rows_per_s_max: Option<u32>,
    /// From when on the next range may be read.
    next_at: Mutex<Option<Instant>>,
}

impl RowLimit {
    pub fn new(rows_per_s_max: Option<u32>) -> RowLimit {
        RowLimit { rows_per_s_max, next_at: Mutex::new(None) }
    }

    /// How long to wait at `now` after reading `rows`.
    fn wait(&self, rows: u64, now: Instant) -> Duration {
        let Some(limit) = self.rows_per_s_max else { return Duration::ZERO };
        let mut next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(rows as f64 / f64::from(limit));
        // Time that was not used is lost: no burst follows a pause.
        let at = next_at.filter(|at| *at + cost > now).unwrap_or(now) + cost;
        *next_at = Some(at);
        at.saturating_duration_since(now)
    }
}

impl Pace for RowLimit {
    fn rest(&self, rows: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let wait = self.wait(rows, Instant::now());
        Box::pin(tokio::time::sleep(wait))
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
        assert_eq!(limit.wait(1000, begun), second);
        assert_eq!(limit.wait(500, begun + second), second / 2);
        assert_eq!(limit.wait(500, begun + 60 * second), second / 2);
        assert_eq!(RowLimit::new(None).wait(1 << 40, begun), Duration::ZERO);
    }
}
