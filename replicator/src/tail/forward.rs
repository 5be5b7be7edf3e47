//! Which tokens go to the partitions. Pure.
//!
//! While tables are being copied a token is written every few milliseconds, for the bounds of
//! chunks. Those bounds are the tail's own business: sent on, each would be a message in every
//! partition, N × M × 100 a second in all.

use std::time::Duration;

use modshift_proto::message::TokenPhase;

/// What the partitions know of the newest token that went to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forwarded {
    pub epoch: u64,
    pub clock_us: i64,
    pub phase: TokenPhase,
    pub fence: Option<String>,
    pub copied: bool,
}

/// Must the partitions have this token? Pure.
///
/// They need every change of state, every token of a fenced shard (each may be a marker on which a
/// cutover waits), the first one of an epoch, and otherwise one for each heartbeat of the old
/// shard's clock. A clock that went back starts a new interval.
pub fn forwards(last: Option<&Forwarded>, token: &Forwarded, heartbeat: Duration) -> bool {
    let Some(last) = last else { return true };
    let same_state = Forwarded { clock_us: token.clock_us, ..last.clone() } == *token;
    let since_us = i128::from(token.clock_us) - i128::from(last.clock_us);
    let due = since_us < 0 || since_us >= heartbeat.as_micros() as i128;
    token.phase == TokenPhase::Fenced || !same_state || due
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(200);

    fn token(clock_ms: i64) -> Forwarded {
        Forwarded {
            epoch: 7,
            clock_us: clock_ms * 1000,
            phase: TokenPhase::Serving,
            fence: None,
            copied: false,
        }
    }

    fn check(last: &Forwarded, next: &Forwarded, expected: bool) {
        assert_eq!(forwards(Some(last), next, HEARTBEAT), expected, "{last:?} {next:?}");
    }

    #[test]
    fn a_token_that_says_nothing_new_is_forwarded_once_a_heartbeat() {
        assert!(forwards(None, &token(0), HEARTBEAT));
        check(&token(0), &token(10), false);
        check(&token(0), &token(199), false);
        check(&token(0), &token(200), true);
        // A clock set back must not silence the stream until it is where it was.
        check(&token(5000), &token(4990), true);
        check(
            &Forwarded { clock_us: i64::MIN, ..token(0) },
            &Forwarded { clock_us: i64::MAX, ..token(0) },
            true,
        );
    }

    #[test]
    fn every_change_of_state_is_forwarded_at_once() {
        let last = token(0);
        check(&last, &Forwarded { epoch: 8, ..token(1) }, true);
        check(&last, &Forwarded { copied: true, ..token(1) }, true);
        check(&last, &Forwarded { fence: Some("run".to_owned()), ..token(1) }, true);
        let fenced = Forwarded { phase: TokenPhase::Fenced, ..token(1) };
        check(&last, &fenced, true);
        // The second marker of a cutover looks like the first.
        check(&fenced, &Forwarded { clock_us: 2000, ..fenced.clone() }, true);
        check(&fenced, &token(2), true);
    }
}
