//! The pace of one worker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{ASKED_WITHIN, State, Throttle, WAIT_MAX};
use crate::pace::Pace;
use crate::seats::Seats;

/// The pace of one worker.
#[derive(Debug)]
pub struct Lane {
    throttle: Throttle,
    servers: Vec<usize>,
    parallel: u32,
    work: Mutex<Work>,
}

/// Work done that has not been waited for yet.
#[derive(Clone, Copy, Debug)]
struct Work {
    owed: Duration,
    since: Instant,
    /// Since when [`Lane::may_start`] has said no.
    held: Option<Instant>,
}

impl Work {
    /// What is still to be waited at this pace. Pure but for the clock that it is given.
    fn wait(&self, pace: f64, now: Instant) -> Duration {
        let whole = self.owed.mul_f64((1.0 / pace - 1.0).max(0.0)).min(WAIT_MAX);
        whole.saturating_sub(now.saturating_duration_since(self.since))
    }

    /// So much more has been done; what has been waited already counts.
    fn add(&mut self, took: Duration, pace: f64, now: Instant) {
        let per_work = (1.0 / pace - 1.0).max(0.0);
        let left = match self.wait(pace, now) {
            left if per_work > 0.0 => left.div_f64(per_work),
            _ => Duration::ZERO,
        };
        (self.owed, self.since) = ((left + took).min(WAIT_MAX), now);
    }
}

impl Lane {
    /// For pieces that touch these servers, so many at once.
    pub(super) fn new(throttle: Throttle, servers: Vec<usize>, parallel: u16) -> Lane {
        let work = Work { owed: Duration::ZERO, since: Instant::now(), held: None };
        Lane { throttle, servers, parallel: u32::from(parallel.max(1)), work: Mutex::new(work) }
    }

    pub fn seats(&self) -> &Seats {
        self.throttle.seats()
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self, state: &State) -> f64 {
        let servers = self.servers.iter().map(|&server| state.servers[server].controller.pace());
        servers.fold(state.ratio, f64::min)
    }

    /// How long until the next piece may start, as things are: zero for now, `Duration::MAX` while
    /// paused.
    pub fn delay(&self) -> Duration {
        let now = Instant::now();
        let (delay, first) = {
            let mut state = self.throttle.lock();
            let first = state.asked.is_none_or(|asked| asked.elapsed() >= ASKED_WITHIN);
            state.asked = Some(now);
            let by_rows = match state.rows_per_second {
                Some(_) => state.rows_until.saturating_duration_since(now),
                None => Duration::ZERO,
            };
            let by_pace = self.lock().wait(self.pace(&state), now);
            (if state.paused.is_some() { Duration::MAX } else { by_rows.max(by_pace) }, first)
        };
        if first {
            self.throttle.0.changed.send_replace(());
        }
        delay
    }

    /// May a piece start now? For workers that have other things to look after than to wait: they
    /// ask again and again while they have a piece to start.
    pub fn may_start(&self) -> bool {
        let free = self.delay().is_zero();
        let held = {
            let mut work = self.lock();
            match free {
                true => work.held.take(),
                false => {
                    work.held.get_or_insert_with(Instant::now);
                    None
                }
            }
        };
        if let Some(held) = held {
            self.throttle.lock().waited += held.elapsed();
        }
        free
    }
}

impl Pace for Lane {
    async fn ready(&self) {
        let mut changes = self.throttle.changes();
        let began = Instant::now();
        loop {
            // First, so that a change between the two is not missed.
            changes.mark_unchanged();
            let delay = self.delay();
            if delay.is_zero() {
                break;
            }
            // Asked again before the servers are forgotten, whatever the delay.
            let again = delay.min(ASKED_WITHIN / 2);
            // The sender is in the throttle that this lane holds: it cannot be gone.
            let _ = tokio::time::timeout(again, changes.changed()).await;
        }
        self.throttle.lock().waited += began.elapsed();
    }

    fn done(&self, rows: u64, took: Duration) {
        let now = Instant::now();
        let mut state = self.throttle.lock();
        if let Some(limit) = state.rows_per_second {
            let more = Duration::from_secs_f64(rows as f64 / f64::from(limit));
            state.rows_until = state.rows_until.max(now) + more;
        }
        let pace = self.pace(&state);
        self.lock().add(took / self.parallel, pace, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn work_is_waited_for_in_proportion() {
        let now = Instant::now();
        let mut work = Work { owed: Duration::ZERO, since: now, held: None };
        assert_eq!(work.wait(0.1, now), Duration::ZERO);
        work.add(SECOND, 0.5, now);
        assert_eq!(work.wait(0.5, now), SECOND);
        assert_eq!(work.wait(0.25, now), 3 * SECOND, "the pace of now counts");
        assert_eq!(work.wait(1.0, now), Duration::ZERO);
        assert_eq!(work.wait(0.5, now + SECOND / 4), SECOND * 3 / 4);
        // A second piece, finished beside the first.
        work.add(SECOND, 0.5, now + SECOND / 2);
        assert_eq!(work.wait(0.5, now + SECOND / 2), SECOND * 3 / 2);
        work.add(SECOND * 1000, 0.5, now);
        assert_eq!(work.wait(0.001, now), WAIT_MAX);
    }
}
