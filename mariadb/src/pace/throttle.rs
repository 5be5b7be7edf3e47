//! The throttle of one process: what its servers allow, what an operator wants, and the workers
//! that wait for both.
//!
//! A worker is slowed by the servers that its work touches, and by nobody else's. Everything here
//! lives in memory: a process that starts is neither paused nor slowed by hand.

mod lane;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use modshift_proto::plan::Plan;
use modshift_proto::{NewShard, OldShard};
use serde::Serialize;
use tokio::sync::watch;

pub use lane::Lane;

use super::controller::{Controller, Reading};
use super::sample;
use crate::desk::Desk;
use crate::few::Few;
use crate::seats::Seats;

/// The longest wait after one piece of work, short of a pause or a bound of rows: a piece that took
/// a minute because a disk was stuck shall not cost an hour.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Servers are asked only while somebody's work depends on what they say.
const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// The slowest that an operator can ask for, short of a pause.
pub const RATIO_MIN: f64 = 0.001;

/// Shared by all of a process; a clone is the same throttle.
#[derive(Clone, Debug)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: Plan,
    state: Mutex<State>,
    /// Told of every change that may end a wait.
    changed: watch::Sender<()>,
    seats: Seats,
    desk: Desk,
    few: Few,
}

#[derive(Debug)]
struct State {
    paused: Option<(String, Instant)>,
    /// Upper bound of the pace, set by hand.
    ratio: f64,
    rows_per_second: Option<u32>,
    /// Until then the rows done so far use up what `rows_per_second` allows.
    rows_until: Instant,
    /// Old shards, then new shards.
    servers: Vec<Server>,
    /// When a worker last wanted to know.
    asked: Option<Instant>,
    waited: Duration,
}

#[derive(Clone, Debug)]
struct Server {
    name: String,
    controller: Controller,
    /// What cannot be measured there, and why.
    unknown: Vec<String>,
}

/// What the throttle does and why, for /status.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    pub paused: Option<Paused>,
    /// By hand: share of the time that may be spent on work.
    pub ratio: f64,
    /// By hand; `None`: as many as there are.
    pub rows_per_second: Option<u32>,
    /// The lowest of all servers' and of `ratio`; 0 while paused.
    pub pace: f64,
    /// Why the pace is below 1.
    pub why: Option<String>,
    /// What the workers of this process have waited so far, together.
    pub waited_s: f64,
    pub servers: Vec<ServerView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paused {
    pub by: String,
    pub for_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerView {
    /// `old shard 1`.
    pub server: String,
    pub pace: f64,
    pub why: Option<String>,
    pub unknown: Vec<String>,
}

impl Throttle {
    /// At full pace until [`Throttle::follow`] has seen something else.
    pub fn new(plan: &Plan) -> Throttle {
        let seats = Seats::new(plan.limits.connections_per_server);
        Throttle::sharing(plan, (seats, Desk::default(), Few::default()))
    }

    /// Of the same process over another plan, such as that of the way back: a pace of its own, and no
    /// connections beyond what this one's workers may have.
    pub fn beside(&self, plan: &Plan) -> Throttle {
        let Shared { seats, desk, few, .. } = &*self.0;
        Throttle::sharing(plan, (seats.clone(), desk.clone(), few.clone()))
    }

    fn sharing(plan: &Plan, (seats, desk, few): (Seats, Desk, Few)) -> Throttle {
        let old = plan.old_shards().map(|shard| shard.to_string());
        let names = old.chain(plan.new_shards().map(|shard| shard.to_string()));
        let server = |name| Server { name, controller: Controller::default(), unknown: Vec::new() };
        let state = State {
            paused: None,
            ratio: 1.0,
            rows_per_second: None,
            rows_until: Instant::now(),
            servers: names.map(server).collect(),
            asked: None,
            waited: Duration::ZERO,
        };
        let (changed, _) = watch::channel(());
        let (plan, state) = (plan.clone(), Mutex::new(state));
        Throttle(Arc::new(Shared { plan, state, changed, seats, desk, few }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.lock());
        self.0.changed.send_replace(());
        done
    }

    /// Keeps asking the servers while there is work that depends on them. Never ends: runs beside
    /// the work, and is dropped with it.
    pub async fn follow(&self) {
        sample::follow(&self.0.plan, self).await;
    }

    /// Where its workers get their connections.
    pub fn seats(&self) -> &Seats {
        &self.0.seats
    }

    /// Turns at what streams do when they begin.
    pub fn few(&self) -> &Few {
        &self.0.few
    }

    /// For what its workers ask now and then.
    pub fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// The pace of one worker, whose pieces touch these servers; so many are done at once.
    pub fn lane(&self, old: &[OldShard], new: &[NewShard], parallel: u16) -> Lane {
        let old_shards = usize::from(self.0.plan.old_modulus.get());
        let old = old.iter().map(|shard| usize::from(shard.0));
        let servers = old.chain(new.iter().map(|shard| old_shards + usize::from(shard.0)));
        Lane::new(self.clone(), servers.collect(), parallel)
    }

    /// Says whether it was not paused before.
    pub fn pause(&self, by: &str) -> bool {
        self.change(|state| {
            let first = state.paused.is_none();
            state.paused.get_or_insert_with(|| (by.to_owned(), Instant::now()));
            first
        })
    }

    /// Says whether it was paused.
    pub fn resume(&self) -> bool {
        self.change(|state| state.paused.take().is_some())
    }

    /// Of the time, [`RATIO_MIN`] to 1; servers that hurt may make it less.
    pub fn set_ratio(&self, ratio: f64) {
        assert!((RATIO_MIN..=1.0).contains(&ratio), "a ratio of {ratio}");
        self.change(|state| state.ratio = ratio);
    }

    /// For all workers of this process together.
    pub fn set_rows_per_second(&self, rows: Option<u32>) {
        self.change(|state| {
            state.rows_per_second = rows.map(|rows| rows.max(1));
            state.rows_until = Instant::now();
        });
    }

    pub(super) fn wanted(&self) -> bool {
        self.lock().asked.is_some_and(|asked| asked.elapsed() < ASKED_WITHIN)
    }

    /// Resolves after the next change, or when a worker asks.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    pub(super) fn observe(&self, server: usize, readings: &[Reading], unknown: Vec<String>) {
        let mut state = self.lock();
        let server = &mut state.servers[server];
        let before = server.controller.pace();
        server.controller.observe(readings);
        server.unknown = unknown;
        let after = server.controller.pace();
        let (name, why) = (server.name.clone(), server.controller.why().map(str::to_owned));
        drop(state);
        if before >= 1.0 && after < 1.0 {
            let why = why.unwrap_or_default();
            tracing::info!(server = name, why, "slowing down copying and verifying");
        } else if before < 1.0 && after >= 1.0 {
            tracing::info!(server = name, "copying and verifying at full pace again");
        }
        if before != after {
            self.0.changed.send_replace(());
        }
    }

    /// Nobody's work depends on this server just now: what it showed last is soon no longer true.
    pub(super) fn forget(&self, server: usize) {
        let server = &mut self.lock().servers[server];
        (server.controller, server.unknown) = (Controller::default(), Vec::new());
    }

    pub fn view(&self) -> View {
        let state = self.lock();
        let servers: Vec<ServerView> = state.servers.iter().map(Server::view).collect();
        let slowest = servers.iter().min_by(|a, b| a.pace.total_cmp(&b.pace));
        let allowed = slowest.map_or(1.0, |server| server.pace);
        let paused = state.paused.as_ref();
        let by_hand = || {
            let ratio = (state.ratio < 1.0)
                .then(|| format!("slowed down to {} % by hand", state.ratio * 100.0));
            let rows =
                state.rows_per_second.map(|rows| format!("held at {rows} rows a second by hand"));
            ratio.or(rows)
        };
        let why = match (paused, slowest) {
            (Some((by, _)), _) => Some(format!("paused by {by}")),
            (None, Some(server)) if server.pace < state.ratio => {
                Some(format!("{}: {}", server.server, server.why.as_deref().unwrap_or("?")))
            }
            (None, _) => by_hand(),
        };
        View {
            paused: paused.map(|(by, since)| {
                let for_s = since.elapsed().as_secs();
                Paused { by: by.clone(), for_s }
            }),
            ratio: state.ratio,
            rows_per_second: state.rows_per_second,
            pace: if paused.is_some() { 0.0 } else { allowed.min(state.ratio) },
            why,
            waited_s: state.waited.as_secs_f64(),
            servers,
        }
    }
}

impl Server {
    fn view(&self) -> ServerView {
        ServerView {
            server: self.name.clone(),
            pace: self.controller.pace(),
            why: self.controller.why().map(str::to_owned),
            unknown: self.unknown.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan() -> Plan {
        let mut text = "name = \"p\"\nmodulus = { old = 2, new = 3 }\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n\
             [[table]]\nname = \"t\"\nkey = \"k\"\nrule = \"floor_mod\"\n"
            .to_owned();
        for (side, shards) in [("old", 2), ("new", 3)] {
            for shard in 0..shards {
                text += &format!("[[{side}]]\nschema = \"{side}_{shard}\"\n");
            }
        }
        Plan::parse(&text, &|_| None).unwrap()
    }

    fn hot() -> [Reading; 1] {
        [Reading::ThreadsRunning { found: 9, limit: 3 }]
    }

    #[test]
    fn a_worker_is_slowed_by_the_servers_it_touches() {
        let throttle = Throttle::new(&plan());
        let [zero, one] = [0, 1].map(|old| throttle.lane(&[OldShard(old)], &[NewShard(2)], 1));
        for _ in 0..3 {
            throttle.observe(1, &hot(), Vec::new());
        }
        for lane in [&zero, &one] {
            lane.done(10, 4 * SECOND);
        }
        assert!(zero.may_start() && !one.may_start());
        let view = throttle.view();
        assert_eq!(view.pace, 0.25);
        let why = "old shard 1: 9 threads running, throttle.threads_running_max is 3";
        assert_eq!(view.why.as_deref(), Some(why));
        // The last of two old and three new shards.
        for _ in 0..2 {
            throttle.observe(4, &hot(), Vec::new());
        }
        assert!(!zero.may_start());
        assert_eq!(throttle.view().servers[4].server, "new shard 2");
    }

    #[test]
    fn an_operator_pauses_slows_down_and_lifts_it_again() {
        let throttle = Throttle::new(&plan());
        let lane = throttle.lane(&[OldShard(0)], &[], 1);
        assert!(throttle.pause("alice@db") && !throttle.pause("bob@db"));
        assert_eq!(lane.delay(), Duration::MAX);
        assert!(!lane.may_start());
        let view = throttle.view();
        assert_eq!((view.pace, view.why.as_deref()), (0.0, Some("paused by alice@db")));
        assert!(throttle.resume() && !throttle.resume());
        assert!(lane.may_start());
        throttle.set_rows_per_second(Some(10));
        lane.done(100, Duration::ZERO);
        assert!(lane.delay() > 9 * SECOND && lane.delay() <= 10 * SECOND, "{:?}", lane.delay());
        throttle.set_rows_per_second(None);
        assert!(lane.may_start());
        throttle.set_ratio(0.5);
        lane.done(1, 20 * SECOND);
        assert!(lane.delay() > 19 * SECOND, "{:?}", lane.delay());
        assert_eq!(throttle.view().why.as_deref(), Some("slowed down to 50 % by hand"));
        throttle.set_ratio(1.0);
        assert!(lane.may_start());
        assert_eq!(throttle.view().why, None);
        assert!(throttle.view().waited_s > 0.0);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_resume() {
        let throttle = Throttle::new(&plan());
        let lane = Arc::new(throttle.lane(&[OldShard(0)], &[NewShard(0)], 2));
        lane.ready().await;
        throttle.pause("alice@db");
        let waiting = tokio::spawn({
            let lane = lane.clone();
            async move { lane.ready().await }
        });
        let mut waiting = std::pin::pin!(waiting);
        tokio::task::yield_now().await;
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "it did not wait");
        throttle.resume();
        // Far less than the time after which it looks by itself.
        let woken = tokio::time::timeout(Duration::from_secs(3), waiting).await;
        woken.expect("it was not woken").expect("no panic");
    }
}
