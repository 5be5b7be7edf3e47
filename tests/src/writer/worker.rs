//! One connection of the application.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{
    Ledger, Mix, Numbers, Outcome, Pace, Routes, Session, Shared, Statement, WriterOptions,
    book::{TABLES, load_sql, loaded},
    giant::Giant,
    plan::Book,
};
use crate::{place::writer_slot, random::Random, server::Address};

/// After a refusal; an application would not hammer a fenced server either.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// How far behind its schedule a connection may fall before it gives up catching up.
const CATCH_UP_MOST: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    shared: Shared,
    mix: Mix,
    interval: Option<Duration>,
    book: Book,
    giant: Option<Giant>,
    broadcast: Option<Broadcast>,
    session: Session,
    ledger: Ledger,
}

/// Changes of the table that is the same everywhere: one connection makes them all, each with its
/// whole outcome in the statement, so that a repetition changes nothing.
struct Broadcast {
    interval: Duration,
    due: Instant,
    ver: u64,
}

pub(super) async fn prepare(options: &WriterOptions, shared: &Shared) -> Result<Vec<Worker>> {
    let routes = shared.routes.borrow().clone();
    let random = Random::new(options.seed);
    let mut workers = Vec::new();
    for index in 0..options.connections {
        let slot = writer_slot();
        let mut worker = Worker {
            shared: shared.clone(),
            mix: options.mix.clone(),
            interval: options
                .rate
                .map(|rate| Duration::from_secs_f64(options.connections as f64 / rate)),
            book: Book::new(Numbers::new(slot), random.fork(index as u64)),
            giant: None,
            broadcast: None,
            session: Session::default(),
            ledger: Ledger::default(),
        };
        for place in &routes.servers {
            worker.load(place, index, options).await?;
        }
        workers.push(worker);
    }
    if let (Some(giants), Some(last)) = (options.giants, workers.last_mut()) {
        last.giant = Some(Giant::new(giants));
    }
    if let (Some(interval), Some(first)) = (options.broadcast_interval, workers.first_mut()) {
        let place = &routes.servers[0];
        let ver = place.value("SELECT MAX(ver) FROM t_currency").await?;
        first.broadcast = Some(Broadcast { interval, due: Instant::now() + interval, ver });
    }
    Ok(workers)
}

impl Worker {
    async fn load(&mut self, place: &Address, index: usize, options: &WriterOptions) -> Result<()> {
        let workers = options.connections as u64;
        for (table, name) in TABLES.into_iter().enumerate() {
            let sql = load_sql(table, index as u64, workers, options.rows_known);
            for row in self.session.query(place, &sql).await? {
                let live = loaded(table, row);
                self.book.add(live.with_context(|| format!("a row of {name}"))?);
            }
        }
        Ok(())
    }

    pub async fn run(mut self) -> Ledger {
        let mut due = Instant::now();
        while self.go_on().await && self.ledger.faults.is_empty() {
            if let Some(interval) = self.interval {
                tokio::time::sleep_until(due).await;
                let now = Instant::now();
                due += interval;
                if due + CATCH_UP_MOST < now {
                    due = now;
                }
            }
            self.one_turn().await;
        }
        let faults = self.ledger.faults.iter().cloned();
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
        self.shared.idle.fetch_add(1, Ordering::Release);
        self.session.close().await;
        self.ledger
    }

    /// Waits through a pause; false at the end.
    async fn go_on(&mut self) -> bool {
        let mut pace = *self.shared.pace.borrow_and_update();
        if pace == Pace::Pause {
            self.shared.idle.fetch_add(1, Ordering::Release);
            while pace == Pace::Pause {
                // The sender is gone only when the writer is: an end like any other.
                pace = match self.shared.pace.changed().await {
                    Ok(()) => *self.shared.pace.borrow_and_update(),
                    Err(_) => Pace::Stop,
                };
            }
            self.shared.idle.fetch_sub(1, Ordering::Release);
        }
        pace == Pace::Run
    }

    async fn one_turn(&mut self) {
        let routes = self.shared.routes.borrow().clone();
        let now = Instant::now();
        if self.broadcast.as_ref().is_some_and(|b| b.due <= now) {
            self.broadcast().await;
        }
        if self.giant.as_ref().is_some_and(|g| g.due <= now) {
            self.giant(&routes).await;
        } else {
            self.ordinary(&routes).await;
        }
    }

    async fn ordinary(&mut self, routes: &Routes) {
        let plan = self.book.plan(routes.modulus, &self.mix);
        let Some(probe) = plan.probe() else { return };
        let place = &routes.servers[plan.shard];
        let routes = &self.shared.routes;
        let outcome = self.session.transact(place, &plan.statements, &probe, routes).await;
        if self.record(outcome).await {
            for step in &plan.steps {
                self.ledger.count(step.kind, 1);
            }
            self.book.keep(plan);
        } else {
            self.book.undo(plan);
        }
    }

    async fn giant(&mut self, routes: &Routes) {
        let Some(giant) = &mut self.giant else { return };
        let act = giant.next(routes.modulus, &mut self.book);
        let place = &routes.servers[act.shard];
        let statements = std::slice::from_ref(&act.statement);
        let outcome =
            self.session.transact(place, statements, &act.probe, &self.shared.routes).await;
        if self.record(outcome).await {
            self.ledger.giants += 1;
            self.shared.giants.fetch_add(1, Ordering::Relaxed);
            self.ledger.count(act.kind, act.statement.rows);
            if let Some(giant) = &mut self.giant {
                giant.done(act);
            }
        }
    }

    /// Whether the transaction took place.
    async fn record(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Committed(at) => {
                self.ledger.transactions += 1;
                match at {
                    Some(at) => self.ledger.acknowledged.push(at),
                    None => self.ledger.unanswered += 1,
                }
                self.shared.committed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Outcome::Refused(why) => {
                self.ledger.refused += 1;
                self.ledger.last_refusal = Some(why);
                tokio::time::sleep(REFUSED_PAUSE).await;
                false
            }
            Outcome::Fault(what) => {
                self.ledger.faults.push(what);
                false
            }
        }
    }

    /// Made on every shard before anything else happens, whatever it takes.
    async fn broadcast(&mut self) {
        const LIMIT: Duration = Duration::from_secs(120);
        let Some(broadcast) = &mut self.broadcast else { return };
        broadcast.due = Instant::now() + broadcast.interval;
        broadcast.ver += 1;
        let (ver, rate) = (broadcast.ver, self.book.random.between(1, 1_000_000));
        let codes = ["EUR", "USD", "JPY", "CHF", "GBP", "XXX"];
        let code = codes[self.book.random.index(codes.len())];
        let sql = format!("UPDATE t_currency SET rate={rate}/10000, ver={ver} WHERE code='{code}'");
        let deadline = Instant::now() + LIMIT;
        let mut routes = self.shared.routes.borrow().clone();
        let mut next = 0;
        while next < routes.servers.len() {
            match self.session.query(&routes.servers[next], &sql).await {
                Ok(_) => next += 1,
                Err(error) if Instant::now() > deadline => {
                    self.ledger.faults.push(format!("broadcast: {error}"));
                    return;
                }
                Err(_) => {
                    self.session.forget(&routes.servers[next]);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    let now = self.shared.routes.borrow().clone();
                    if now != routes {
                        (routes, next) = (now, 0);
                    }
                }
            }
        }
        self.ledger.count("broadcast", 1);
    }
}

impl Statement {
    pub(super) fn many(sql: String, rows: u64) -> Self {
        Self { sql, rows }
    }
}
