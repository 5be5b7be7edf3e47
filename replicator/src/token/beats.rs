//! When tokens are written, and of which the new shards hear. Pure.

use std::time::{Duration, Instant};

/// Time to the next beat. Beats are at multiples of the interval by the wall clock, so that those of
/// all shards, in every process, come together: one transaction on each server, and one of each new
/// shard. A clock that is set moves the next beat by no more than an interval.
pub(super) fn until_next(since_epoch: Duration, interval: Duration) -> Duration {
    let interval = interval.max(Duration::from_millis(1));
    let into = since_epoch.as_nanos() % interval.as_nanos();
    interval.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
}

/// Which writes the new shards hear of: one for each heartbeat.
#[derive(Debug)]
pub(super) struct Beats {
    heartbeat: Duration,
    /// When the last one of them was sent to the server.
    last: Option<Instant>,
}

impl Beats {
    pub(super) fn new(heartbeat: Duration) -> Beats {
        Beats { heartbeat, last: None }
    }

    /// May the write of this moment be quiet, when the next one comes after `interval`? Never while
    /// nothing is copied: so the first write after the end of a copy tells of it.
    pub(super) fn quiet(&self, now: Instant, interval: Duration) -> bool {
        let early = |last| now.saturating_duration_since(last) + interval < self.heartbeat;
        interval < self.heartbeat && self.last.is_some_and(early)
    }

    /// A write that was not quiet is in.
    pub(super) fn heard(&mut self, at: Instant) {
        self.last = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_shards_hear_of_one_write_in_each_heartbeat_and_of_each_at_rest() {
        let (heartbeat, copying) = (Duration::from_millis(200), Duration::from_millis(10));
        let start = Instant::now();
        let mut beats = Beats::new(heartbeat);
        assert!(!beats.quiet(start, copying), "the first one of an epoch");
        beats.heard(start);
        let quiet = |ms, interval| beats.quiet(start + Duration::from_millis(ms), interval);
        assert!(quiet(10, copying) && quiet(189, copying));
        assert!(!quiet(190, copying), "the next one would come after a heartbeat and more");
        assert!(!quiet(1000, copying));
        assert!(!quiet(1, heartbeat), "nothing is copied any more");
    }

    #[test]
    fn beats_of_any_interval_meet_at_those_of_a_longer_one() {
        let ms = Duration::from_millis;
        assert_eq!(until_next(ms(1_000), ms(200)), ms(200), "never at once");
        assert_eq!(until_next(ms(1_001), ms(200)), ms(199));
        assert_eq!(until_next(ms(1_199), ms(10)), ms(1));
        assert_eq!(until_next(ms(1_199), ms(200)), ms(1));
        assert_eq!(until_next(ms(5), Duration::ZERO), ms(1));
    }
}
