//! The application: connections that change rows in transactions across tables, and remember every
//! row so well that a lost or doubled write shows by itself.
//!
//! Each connection works on rows of its own, and every change names the version that the row must
//! have: an update that matches nothing is a fault, before and after a cutover. What the
//! application was told is in the [`Ledger`].

mod book;
mod giant;
mod guide;
mod ledger;
mod moves;
mod plan;
mod session;
mod worker;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{sync::watch, task::JoinSet};

use crate::{server::Address, wait::wait_until};

pub use book::{Live, Numbers, Row, TABLES};
pub use guide::Follow;
use guide::Guide;
pub use ledger::Ledger;
pub use moves::{MoveLedger, MoveOptions, UserMoves};
pub use session::{Outcome, Probe, Session, Statement};

/// Where the rows live: the shard of index *i* under `modulus` is `servers[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    pub modulus: usize,
    pub servers: Vec<Address>,
}

impl Routes {
    pub fn new(servers: Vec<Address>) -> Self {
        Self { modulus: servers.len(), servers }
    }
}

/// How often each kind of change occurs, in relation to the others.
#[derive(Clone, Debug)]
pub struct Mix {
    pub insert: u32,
    /// A deleted row again, under its old primary key.
    pub reinsert: u32,
    pub update: u32,
    pub delete: u32,
    /// The shard key changes by a multiple of the modulus.
    pub move_key: u32,
    pub change_primary_key: u32,
    /// Two rows exchange a unique value.
    pub swap: u32,
    /// Fewest and most changes in a transaction.
    pub changes: (u32, u32),
    /// Indexes into [`TABLES`].
    pub tables: Vec<usize>,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            insert: 22,
            reinsert: 4,
            update: 46,
            delete: 14,
            move_key: 9,
            change_primary_key: 3,
            swap: 2,
            changes: (1, 6),
            tables: vec![0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5],
        }
    }
}

impl Mix {
    /// Rows stay where they are, under their keys.
    pub fn without_moves() -> Self {
        Self { move_key: 0, change_primary_key: 0, ..Self::default() }
    }

    fn total(&self) -> u32 {
        self.insert
            + self.reinsert
            + self.update
            + self.delete
            + self.move_key
            + self.change_primary_key
            + self.swap
    }
}

/// A transaction of many rows now and then: inserted, updated, moved, deleted, in turn.
#[derive(Clone, Copy, Debug)]
pub struct Giants {
    pub rows: u64,
    pub interval: Duration,
}

#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub connections: usize,
    pub seed: u64,
    /// Transactions per second of all connections together; as fast as they go for `None`.
    pub rate: Option<f64>,
    pub mix: Mix,
    pub giants: Option<Giants>,
    /// Changes of the broadcast table, made on every shard.
    pub broadcast_interval: Option<Duration>,
    /// How many of the rows to begin with each connection takes on, per table and shard.
    pub rows_known: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            connections: 8,
            seed: 1,
            rate: Some(300.0),
            mix: Mix::default(),
            giants: Some(Giants { rows: 5000, interval: Duration::from_secs(4) }),
            broadcast_interval: Some(Duration::from_secs(1)),
            rows_known: 300,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Run,
    Pause,
    Stop,
}

/// What the connections share.
#[derive(Clone)]
struct Shared {
    guide: Guide,
    pace: watch::Receiver<Pace>,
    /// Connections that have nothing in flight, because of a pause or at their end.
    idle: Arc<AtomicUsize>,
    committed: Arc<AtomicU64>,
    giants: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
}

pub struct Writer {
    connections: usize,
    routes: watch::Sender<Routes>,
    pace: watch::Sender<Pace>,
    shared: Shared,
    workers: JoinSet<Ledger>,
}

impl Writer {
    /// Returns when every connection knows its rows and has begun.
    pub async fn start(options: WriterOptions, routes: Routes) -> Result<Self> {
        ensure!(routes.modulus == routes.servers.len(), "a server for each shard");
        let (sender, receiver) = watch::channel(routes);
        Self::start_with(options, Guide::Fixed(receiver), sender).await
    }

    /// The same with the routes of a routing document, whatever version it has by then.
    pub async fn follow(options: WriterOptions, follow: Follow) -> Result<Self> {
        let guide = Guide::follow(follow).await?;
        let (unused, _) = watch::channel(guide.routes());
        Self::start_with(options, guide, unused).await
    }

    async fn start_with(
        options: WriterOptions,
        guide: Guide,
        routes: watch::Sender<Routes>,
    ) -> Result<Self> {
        ensure!(options.mix.total() > 0 && options.connections > 0, "nothing to write");
        let (pace_sender, pace_receiver) = watch::channel(Pace::Run);
        let shared = Shared {
            guide,
            pace: pace_receiver,
            idle: Arc::default(),
            committed: Arc::default(),
            giants: Arc::default(),
            faults: Arc::default(),
        };
        let connections = options.connections;
        let mut workers = JoinSet::new();
        for worker in worker::prepare(&options, &shared).await? {
            workers.spawn(worker.run());
        }
        Ok(Self { connections, routes, pace: pace_sender, shared, workers })
    }

    /// From the next transaction on, rows are looked for there. A writer that follows a routing
    /// document is told by that alone.
    pub fn switch(&self, routes: Routes) {
        self.routes.send_replace(routes);
    }

    /// Returns when nothing is in flight any more.
    pub async fn pause(&self) -> Result<()> {
        self.pace.send_replace(Pace::Pause);
        wait_until("an idle writer", Duration::from_secs(180), || async {
            let idle = self.shared.idle.load(Ordering::Acquire);
            Ok((idle == self.connections).then_some(()))
        })
        .await
    }

    pub fn resume(&self) {
        self.pace.send_replace(Pace::Run);
    }

    /// Transactions committed so far.
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Of these, transactions of many rows.
    pub fn giants(&self) -> u64 {
        self.shared.giants.load(Ordering::Relaxed)
    }

    /// What it has seen so far that must not be; a connection that met a fault has stopped.
    pub fn faults(&self) -> Vec<String> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same number, to be looked at from elsewhere.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.committed)
    }

    /// Waits for so many further commits.
    pub async fn commits(&self, more: u64, limit: Duration) -> Result<()> {
        let goal = self.committed() + more;
        wait_until(&format!("{more} commits of the writer"), limit, || async {
            let faults = self.faults();
            ensure!(faults.is_empty(), "the writer met faults:\n{}", faults.join("\n"));
            Ok((self.committed() >= goal).then_some(()))
        })
        .await
    }

    /// Lets every transaction come to its end. An error if the application saw anything that must
    /// not be.
    pub async fn stop(self) -> Result<Ledger> {
        let ledger = self.stop_whatever_happened().await?;
        ensure!(
            ledger.faults.is_empty(),
            "the writer met {} faults:\n{}",
            ledger.faults.len(),
            ledger.faults.join("\n")
        );
        Ok(ledger)
    }

    /// The same, with the faults in the ledger.
    pub async fn stop_whatever_happened(mut self) -> Result<Ledger> {
        self.pace.send_replace(Pace::Stop);
        let mut ledger = Ledger::default();
        while let Some(done) = self.workers.join_next().await {
            ledger.merge(done.context("a connection of the writer panicked")?);
        }
        Ok(ledger)
    }
}
