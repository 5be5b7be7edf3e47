//! The synthetic load: an application that writes all through the rehearsal, to whichever side
//! serves.
//!
//! One transaction takes a carried row away and puts it back as it was: two row events and one
//! commit, and the data stays what it is. (An UPDATE that sets a column to what it holds would
//! write no event.) It logs in with an account of the rehearsal, so the fence treats it as it will
//! treat the application: locked out, its connections ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use modshift_cutover::Side;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::{Endpoint, Plan, Secret};
use mysql_async::prelude::Queryable;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::rows::Written;

/// Connections at once for each shard, at most.
const WORKERS: usize = 8;
/// A transaction that takes longer is made again: its connection may have been cut.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Until a refused transaction is made again.
const RETRY: Duration = Duration::from_millis(10);
const FIRST_LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Counts {
    committed: AtomicU64,
    /// Ended by the fence, and made again.
    refused: AtomicU64,
    last_refusal: Mutex<String>,
}

impl Counts {
    fn refuse(&self, why: String) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        *self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

pub struct Load {
    counts: Arc<Counts>,
    side: watch::Sender<Side>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

struct Worker {
    old: Vec<Endpoint>,
    new: Vec<Endpoint>,
    plan: Arc<Plan>,
    rows: Arc<Vec<Written>>,
    number: usize,
    counts: Arc<Counts>,
    side: watch::Receiver<Side>,
}

impl Load {
    /// `None` where there is nothing to write, or the plan wants no load.
    pub fn start(
        plan: &Arc<Plan>,
        password: &Secret,
        rows: Vec<Written>,
        rate: u32,
    ) -> Option<Load> {
        if rows.is_empty() || rate == 0 {
            return None;
        }
        let (side, following) = watch::channel(Side::Old);
        let stop = CancellationToken::new();
        let counts = Arc::new(Counts::default());
        let cutover = &plan.cutover;
        let of = |endpoints: &[Endpoint], accounts: &[modshift_proto::plan::Account]| {
            let user = accounts.first().map(|account| account.user.clone()).unwrap_or_default();
            let with = |endpoint: &Endpoint| Endpoint {
                user: user.clone(),
                password: password.clone(),
                ..endpoint.clone()
            };
            endpoints.iter().map(with).collect::<Vec<_>>()
        };
        let (old, new) =
            (of(&plan.old, &cutover.old_accounts), of(&plan.new, &cutover.new_accounts));
        let count = WORKERS.min(rows.len());
        let every = Duration::from_secs_f64(count as f64 / f64::from(rate));
        let rows = Arc::new(rows);
        let mut workers = JoinSet::new();
        for number in 0..count {
            let worker = Worker {
                old: old.clone(),
                new: new.clone(),
                plan: plan.clone(),
                rows: rows.clone(),
                number,
                counts: counts.clone(),
                side: following.clone(),
            };
            let stop = stop.clone();
            workers.spawn(async move {
                stop.run_until_cancelled(worker.work(every, count)).await;
            });
        }
        Some(Load { counts, side, stop, workers })
    }

    /// From here on the other side is written to.
    pub fn turn(&self, side: Side) {
        self.side.send_replace(side);
    }

    pub fn committed(&self) -> u64 {
        self.counts.committed.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// A load that is let in nowhere would predict a pause that nobody waits through.
    pub async fn flows(&self) -> anyhow::Result<()> {
        let (before, deadline) = (self.committed(), Instant::now() + FIRST_LIMIT);
        while self.committed() == before {
            if Instant::now() >= deadline {
                let last = self.counts.last_refusal.lock().unwrap_or_else(PoisonError::into_inner);
                bail!("the load wrote nothing in {} s: {last}", FIRST_LIMIT.as_secs());
            }
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
    }
}

impl Worker {
    /// Each worker has rows of its own: they never wait for each other.
    async fn work(self, every: Duration, workers: usize) {
        let mut conns: HashMap<(bool, u16), Conn> = HashMap::new();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for row in self.rows.iter().skip(self.number).step_by(workers) {
                ticks.tick().await;
                self.write(row, &mut conns).await;
            }
        }
    }

    /// Until it is written, wherever that is by then.
    async fn write(&self, row: &Written, conns: &mut HashMap<(bool, u16), Conn>) {
        loop {
            let is_old = *self.side.borrow() == Side::Old;
            let (modulus, endpoints) = match is_old {
                true => (self.plan.old_modulus, &self.old),
                false => (self.plan.new_modulus, &self.new),
            };
            let shard = row.number.place(modulus);
            let endpoint = &endpoints[usize::from(shard)];
            let conn = conns.remove(&(is_old, shard));
            let written =
                tokio::time::timeout(TRANSACTION_TIMEOUT, transaction(endpoint, conn, row));
            let refusal = match written.await {
                Ok(Ok(conn)) => {
                    conns.insert((is_old, shard), conn);
                    self.counts.committed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{}: a transaction took too long", label(endpoint)),
            };
            self.counts.refuse(refusal);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The connection, if it can be used again.
async fn transaction(
    endpoint: &Endpoint,
    conn: Option<Conn>,
    row: &Written,
) -> Result<Conn, ServerError> {
    let of = |error| error::of(&label(endpoint), "writing as the application would", error);
    let mut conn = match conn {
        Some(conn) => conn,
        None => connect(endpoint, Session::Exact).await?,
    };
    conn.query_drop("START TRANSACTION").await.map_err(of)?;
    conn.query_drop(&row.delete).await.map_err(of)?;
    conn.exec_drop(&row.insert, row.values.clone()).await.map_err(of)?;
    conn.query_drop("COMMIT").await.map_err(of)?;
    Ok(conn)
}
