//! How fast the verifier goes: as fast as the shards allow it, like the copy, and no faster than the
//! plan or the command line says. But while an old shard is fenced the application waits, and nothing
//! slows down what it waits for; what it does not wait for stands still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_mariadb::Seats;
use modshift_mariadb::pace::{Lane, Pace as _};
use tokio::sync::watch;

/// Waits before each range.
pub struct Pace {
    lane: Lane,
    limit: RowLimit,
    haste: watch::Sender<Haste>,
    rows: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    Usual,
    /// The application waits for it.
    Urgent,
    /// The application waits for something else.
    Still,
}

impl Pace {
    pub fn new(lane: Lane, rows_per_s_max: Option<u32>) -> Pace {
        let (haste, _) = watch::channel(Haste::Usual);
        Pace { lane, limit: RowLimit::new(rows_per_s_max), haste, rows: AtomicU64::new(0) }
    }

    /// Compared so far, counted on the old shards: for people who wait.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(crate) fn seats(&self) -> &Seats {
        self.lane.seats()
    }

    pub(crate) fn set_haste(&self, haste: Haste) {
        self.haste.send_if_modified(|now| std::mem::replace(now, haste) != haste);
    }

    /// Until the next range may be read. May be dropped.
    pub async fn ready(&self) {
        let mut changes = self.haste.subscribe();
        loop {
            let haste = *changes.borrow_and_update();
            let usual = async {
                match haste {
                    Haste::Urgent => {}
                    Haste::Still => std::future::pending().await,
                    Haste::Usual => {
                        tokio::time::sleep(self.limit.left(Instant::now())).await;
                        self.lane.ready().await;
                    }
                }
            };
            tokio::select! {
                () = usual => return,
                // The sender is here: it cannot be gone.
                _ = changes.changed() => {}
            }
        }
    }

    /// May a small piece be read now? For who has other things to look after than to wait.
    pub(crate) fn may_start(&self) -> bool {
        match *self.haste.borrow() {
            Haste::Usual => self.lane.may_start(),
            Haste::Urgent => true,
            Haste::Still => false,
        }
    }

    /// A range is done: so many rows on the old shards.
    pub fn done(&self, rows: u64, took: Duration) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
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
