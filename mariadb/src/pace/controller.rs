//! From what one server shows to how fast it may be worked on. Pure.
//!
//! What is measured is divided by its limit; the largest quotient is the server's pressure. Above 1
//! the pace is halved with every sample that is no better than the last, so that a server that hurts is left alone within seconds;
//! it comes back in small steps, and stops well below the limit, so that it does not swing. One
//! sample alone changes nothing: of two in a row the milder counts against the pace, and the
//! harsher against its recovery.

/// The slowest there is: a piece of work of 200 ms, then 4 s of nothing. Work never stops unless
/// somebody says so, since a copy that never ends is no help to anyone.
pub const PACE_MIN: f64 = 0.05;

/// Where to stop: recovery ends before the limit is met again.
const HELD_FROM: f64 = 0.9;
/// Far from the limit recovery is quick.
const CALM_BELOW: f64 = 0.7;
const FALL: f64 = 0.5;
/// From below [`CALM_BELOW`] it cannot lead above [`HELD_FROM`], if pressure grows with the pace
/// at most in proportion.
const RECOVER: f64 = 1.25;
/// The same from below [`HELD_FROM`] to the limit.
const CREEP: f64 = 1.02;
/// Up to here, as a part of the pace that was too much, recovery is quick: beyond it the server
/// may need minutes to show that it is too much (a replica that falls behind).
const SAFE_SHARE: f64 = 0.8;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    ThreadsRunning {
        found: u32,
        limit: u32,
    },
    ReplicaLag {
        /// `db-2:3306`.
        replica: String,
        found_s: f64,
        limit_s: f64,
    },
    CommitLatency {
        found_s: f64,
        limit_s: f64,
    },
    /// It could not be asked.
    Silent {
        error: String,
    },
}

impl Reading {
    /// 1 at the limit.
    pub fn pressure(&self) -> f64 {
        match self {
            Reading::ThreadsRunning { found, limit } => f64::from(*found) / f64::from(*limit),
            Reading::ReplicaLag { found_s, limit_s, .. }
            | Reading::CommitLatency { found_s, limit_s } => found_s / limit_s,
            Reading::Silent { .. } => f64::INFINITY,
        }
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reading::ThreadsRunning { found, limit } => {
                write!(f, "{found} threads running, throttle.threads_running_max is {limit}")
            }
            Reading::ReplicaLag { replica, found_s, limit_s } => {
                write!(
                    f,
                    "{replica} is {found_s} s behind, throttle.replica_lag_max is {limit_s} s"
                )
            }
            Reading::CommitLatency { found_s, limit_s } => write!(
                f,
                "a commit takes {:.0} ms, throttle.commit_latency_max is {:.0} ms",
                found_s * 1e3,
                limit_s * 1e3
            ),
            Reading::Silent { error } => write!(f, "it does not answer: {error}"),
        }
    }
}

/// The pace that one server allows.
#[derive(Clone, Debug)]
pub struct Controller {
    pace: f64,
    /// The pace that was too much the last time.
    too_much: f64,
    falling: bool,
    /// Pressure of the sample before.
    before: f64,
    why: Option<String>,
}

impl Default for Controller {
    fn default() -> Controller {
        Controller { pace: 1.0, too_much: 1.0, falling: false, before: 0.0, why: None }
    }
}

impl Controller {
    /// Share of the time that may be spent on work, [`PACE_MIN`] to 1.
    pub fn pace(&self) -> f64 {
        self.pace
    }

    /// What made it slow, while it is.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref().filter(|_| self.pace < 1.0)
    }

    /// What one sample of the server has shown; nothing at all is as good as calm.
    pub fn observe(&mut self, readings: &[Reading]) {
        let worst = readings.iter().max_by(|a, b| a.pressure().total_cmp(&b.pressure()));
        let pressure = worst.map_or(0.0, Reading::pressure);
        let (mild, harsh) = (pressure.min(self.before), pressure.max(self.before));
        let easing = pressure < self.before;
        self.before = pressure;
        if mild > 1.0 {
            self.why = worst.map(Reading::to_string);
            // What gets better by itself, a lag that is being made up for, is waited for.
            if !easing {
                if !self.falling {
                    (self.falling, self.too_much) = (true, self.pace);
                }
                self.pace = (self.pace * FALL).max(PACE_MIN);
            }
        } else if harsh <= HELD_FROM {
            self.falling = false;
            let safe = self.too_much * SAFE_SHARE;
            self.pace = if harsh <= CALM_BELOW && self.pace < safe {
                (self.pace * RECOVER).min(safe)
            } else {
                (self.pace * CREEP).min(1.0)
            };
            self.too_much = self.too_much.max(self.pace);
        }
        assert!((PACE_MIN..=1.0).contains(&self.pace), "a pace of {}", self.pace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn threads(found: u32) -> Reading {
        Reading::ThreadsRunning { found, limit: 100 }
    }

    /// A server under this pressure of our own making and of others.
    fn under(pressure: f64) -> Reading {
        Reading::CommitLatency { found_s: pressure, limit_s: 1.0 }
    }

    #[test]
    fn a_server_that_hurts_is_left_alone_and_one_sample_is_not_enough() {
        let mut controller = Controller::default();
        controller.observe(&[threads(500)]);
        assert_eq!(controller.pace(), 1.0);
        controller.observe(&[threads(80)]);
        controller.observe(&[threads(500)]);
        assert_eq!((controller.pace(), controller.why()), (1.0, None));
        controller.observe(&[threads(501), threads(3)]);
        assert_eq!(controller.pace(), 0.5);
        let why = "501 threads running, throttle.threads_running_max is 100";
        assert_eq!(controller.why(), Some(why));
        controller.observe(&[threads(400)]);
        assert_eq!(controller.pace(), 0.5, "it gets better");
        for _ in 0..20 {
            controller.observe(&[Reading::Silent { error: "refused".into() }]);
        }
        assert_eq!(controller.pace(), PACE_MIN);
        assert_eq!(controller.why(), Some("it does not answer: refused"));
    }

    #[test]
    fn a_server_without_readings_is_calm() {
        let mut controller = Controller::default();
        for _ in 0..3 {
            controller.observe(&[threads(101)]);
        }
        assert_eq!(controller.pace(), 0.25);
        for _ in 0..40 {
            controller.observe(&[]);
        }
        assert_eq!((controller.pace(), controller.why()), (1.0, None));
    }

    #[test]
    fn a_replica_that_falls_behind_and_catches_up_gets_what_it_can_take() {
        // Behind by what is more than it can take, in seconds a second: the pace shows its effect
        // only in sum, which is where a controller swings.
        let (mut controller, can_take) = (Controller::default(), 0.4);
        let (mut behind, mut falls, mut work) = (0.0_f64, 0, 0.0);
        for sample in 0..3000 {
            behind = (behind + controller.pace() - can_take).max(0.0);
            let before = controller.pace();
            let replica = "db-2".to_owned();
            controller.observe(&[Reading::ReplicaLag { replica, found_s: behind, limit_s: 10.0 }]);
            if sample >= 1000 {
                falls += usize::from(controller.pace() < before);
                work += controller.pace();
            }
            assert!(behind < 40.0, "{behind} s");
        }
        let share = work / 2000.0 / can_take;
        assert!((0.7..=1.05).contains(&share), "{share} of what it could take");
        assert!(falls < 100, "{falls} falls in 2000 samples");
    }

    proptest! {
        /// Whatever others do on the server and whatever our own work costs it: the pace comes to
        /// rest, at the limit or below, and no slower than it must be.
        #[test]
        fn it_comes_to_rest(
            others in 0.0..1.5_f64,
            ours in 0.0..40.0_f64,
            start in proptest::collection::vec(0.0..3.0_f64, 0..60),
        ) {
            let mut controller = Controller::default();
            start.iter().for_each(|&pressure| controller.observe(&[under(pressure)]));
            let at = |pace: f64| others + ours * pace;
            for _ in 0..600 {
                controller.observe(&[under(at(controller.pace()))]);
            }
            let rest = controller.pace();
            for _ in 0..100 {
                controller.observe(&[under(at(controller.pace()))]);
                prop_assert_eq!(controller.pace(), rest);
            }
            prop_assert!(at(rest) <= 1.0 || rest == PACE_MIN);
            // Where others alone leave no more room than is kept, it stays where it is.
            prop_assert!(rest == 1.0 || at(rest) > HELD_FROM);
            prop_assert_eq!(controller.why().is_some(), rest < 1.0);
        }

        /// Never stopped, never faster than at full pace.
        #[test]
        fn it_never_starves(pressures in proptest::collection::vec(0.0..1e12_f64, 0..300)) {
            let mut controller = Controller::default();
            for pressure in pressures {
                controller.observe(&[under(pressure)]);
                prop_assert!((PACE_MIN..=1.0).contains(&controller.pace()));
            }
        }
    }
}
