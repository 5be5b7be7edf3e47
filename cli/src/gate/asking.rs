//! Whoever asks the gate: again and again, with what `check` finds kept fresh beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use modshift_consumer::gate::{Evaluator, Outside, evaluator::SAMPLE_INTERVAL};
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_proto::plan::Plan;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::answer::Answer;
use crate::{check, cutover, obstacles};

/// Schemas change rarely, and a change halts the streams anyway: the comparison is for the change
/// that nobody has written a row after.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// After one that some shard did not answer.
const CHECK_RETRY: Duration = Duration::from_secs(2);
/// A server that takes longer to describe its shards, four at a time, is as good as silent. What stands in
/// a fence's way takes a second or two of each.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// The journal is one row of new shard 0.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The run that is under way.
    Run,
    Other,
}

/// Asks again and again, with what `check` finds kept fresh beside it.
pub(super) struct Asking {
    plan: Arc<Plan>,
    asker: Asker,
    evaluator: Evaluator,
    /// `None`: not known.
    found: Option<Found>,
    /// At most one look under way.
    checking: JoinSet<Option<Found>>,
    /// When to look again; `None`: never looked yet.
    check_at: Option<Instant>,
    journal: Option<Conn>,
    /// Rows copied and rows there are, by the last sample.
    copied: Option<(u64, u64)>,
}

/// What `check` found on which correct rows depend.
#[derive(Clone, Debug, Default)]
struct Found {
    /// `None`: some shard did not answer. A lock on a table is enough for that, so what stands in
    /// the way is known all the same.
    differences: Option<Vec<String>>,
    faults: Vec<String>,
    obstacles: Vec<String>,
}

impl Asking {
    pub(super) fn new(plan: Arc<Plan>, asker: Asker) -> Asking {
        Asking {
            evaluator: Evaluator::new(plan.clone()),
            plan,
            asker,
            found: None,
            checking: JoinSet::new(),
            check_at: None,
            journal: None,
            copied: None,
        }
    }

    /// The first answer waits for the first look; later ones take the last there is.
    async fn check(&mut self) {
        let first = self.check_at.is_none();
        if self.checking.is_empty() && self.check_at.is_none_or(|at| at <= Instant::now()) {
            self.look();
        }
        let found = match first {
            true => self.checking.join_next().await,
            false => self.checking.try_join_next(),
        };
        if let Some(found) = found {
            self.take(found.ok().flatten());
        }
    }

    fn look(&mut self) {
        let (plan, runtime) = (self.plan.clone(), tokio::runtime::Handle::current());
        let look = async |plan| {
            let plan: Arc<Plan> = plan;
            let standing = timeout(CHECK_TIMEOUT, check::standing(plan.clone()));
            let obstacles = timeout(CHECK_TIMEOUT, obstacles::find(&plan));
            let (standing, obstacles) = join(standing, obstacles).await;
            let (standing, obstacles) = (standing.ok().flatten(), obstacles.ok()?.ok()?);
            let lines = |faults: Vec<check::Fault>| -> Vec<String> {
                faults.iter().map(|fault| fault.to_string()).collect()
            };
            let (differences, faults) = match standing {
                Some(standing) => (Some(lines(standing.tables)), lines(standing.others)),
                None => (None, Vec::new()),
            };
            Some(Found { differences, faults, obstacles })
        };
        // A survey cannot be moved between threads while it waits: it gets one of its own.
        self.checking.spawn_blocking(move || runtime.block_on(look(plan)));
    }

    fn take(&mut self, found: Option<Found>) {
        // What is in the way now may be gone in a moment.
        let clear = |found: &Found| found.differences.is_some() && found.obstacles.is_empty();
        let clear = found.as_ref().is_some_and(clear);
        let wait = if clear { CHECK_INTERVAL } else { CHECK_RETRY };
        self.found = found;
        self.check_at = Some(Instant::now() + wait);
    }

    /// A look that begins only now, to its end. It may take longer than the hold lasts unwatched.
    pub(super) async fn check_anew(&mut self) {
        // One under way may have begun before the last change: it ends unheard.
        self.checking = JoinSet::new();
        self.look();
        let mut every = interval(SAMPLE_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let found = loop {
            tokio::select! {
                found = self.checking.join_next() => break found,
                _ = every.tick() => {}
            }
            self.sample(Vec::new()).await;
        };
        self.take(found.and_then(Result::ok).flatten());
    }

    pub(super) async fn ask(&mut self, daemons: Vec<String>) -> Answer {
        self.check().await;
        self.sample(daemons).await
    }

    async fn sample(&mut self, daemons: Vec<String>) -> Answer {
        let asked_at = Instant::now();
        let journal = match self.asker {
            Asker::Run => None,
            Asker::Other => Some(self.journal().await),
        };
        let told = match &journal {
            Some(Ok((_, told))) => *told,
            _ => cutover::Told::Nothing,
        };
        let journal = journal.map(|said| said.map(|(against, _)| against));
        let found = self.found.clone();
        let outside = Outside {
            schema_differences: found.as_ref().and_then(|found| found.differences.clone()),
            faults: found.as_ref().map(|found| found.faults.clone()).unwrap_or_default(),
            obstacles: found.map(|found| found.obstacles).unwrap_or_default(),
            daemons,
            journal,
            ..Outside::default()
        };
        let (decision, facts) = self.evaluator.sample(outside).await;
        if self.asker == Asker::Other {
            cutover::show(told, &cutover::Words::of(&self.plan, &facts));
        }
        let tables = facts.old.iter().flatten().flat_map(|old| &old.tables);
        let unfinished = tables.clone().any(|table| !table.done);
        let rows = tables.fold((0, 0), |(copied, all), table| {
            let there = table.rows_estimated.max(table.rows_copied);
            let there = if table.done { table.rows_copied } else { there };
            (copied + table.rows_copied, all + there)
        });
        self.copied = unfinished.then_some(rows);
        Answer::of(&decision, asked_at)
    }

    /// In percent; `None`: all, or not known.
    pub(super) fn copied(&self) -> Option<f64> {
        let (copied, all) = self.copied.filter(|(_, all)| *all > 0)?;
        Some(100.0 * copied as f64 / all as f64)
    }

    async fn journal(&mut self) -> Result<(Option<String>, cutover::Told), String> {
        let endpoint = &self.plan.new[0];
        let conn = self.journal.take();
        let ask = async {
            let mut conn = match conn {
                Some(conn) => conn,
                None => connect(endpoint, Session::Plain).await.map_err(|e| e.to_string())?,
            };
            let said =
                cutover::against(&mut conn, &label(endpoint), self.plan.forward_name()).await;
            Ok((conn, said.map_err(|error| error.to_string())?))
        };
        let late = |_| Err(format!("no answer within {} s", JOURNAL_TIMEOUT.as_secs()));
        let (conn, said) = timeout(JOURNAL_TIMEOUT, ask).await.unwrap_or_else(late)?;
        self.journal = Some(conn);
        Ok(said)
    }
}
