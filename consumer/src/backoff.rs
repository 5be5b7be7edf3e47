//! How long to wait between attempts: longer each time, never the same for two appliers.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// After a deadlock the other transaction is done almost at once.
const FIRST: Duration = Duration::from_millis(20);
/// A server that restarts is back within seconds; nobody should wait much longer than it takes.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Backoff {
        Backoff { next: FIRST }
    }

    /// Some number that another process, or the next call, does not have.
    pub fn random() -> u64 {
        RandomState::new().hash_one(())
    }

    /// Waits; `false` at once when cancelled.
    pub async fn wait(&mut self, cancel: &CancellationToken) -> bool {
        let wait = with_jitter(self.next, Backoff::random());
        self.next = (self.next * 2).min(LONGEST);
        tokio::select! {
            biased;
            () = cancel.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

/// Between half of it and all of it.
fn with_jitter(wait: Duration, random: u64) -> Duration {
    let half = wait / 2;
    half + half.mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all() {
        for random in 0..4096 {
            let wait = with_jitter(LONGEST, random);
            assert!(wait >= LONGEST / 2 && wait <= LONGEST);
        }
    }
}
