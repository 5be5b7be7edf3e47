//! One connection of the application.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{
    Ledger, Mix, Numbers, Outcome, Pace, Session, Shared, Statement, WriterOptions,
    book::{TABLES, load_sql, loaded},
    giant::Giant,
    plan::{Book, Plan},
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

/// One transaction of the application, whatever number of attempts it takes.
struct Turn {
    began: Instant,
    retries: u64,
}

impl Turn {
    fn begin() -> Self {
        Self { began: Instant::now(), retries: 0 }
    }
}

/// What has become of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    /// The application hears of it.
    Failed,
    Again,
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut low, mut high) = (a, b);
    while low != 0 {
        (low, high) = (high % low, low);
    }
    a / high * b
}

pub(super) async fn prepare(options: &WriterOptions, shared: &Shared) -> Result<Vec<Worker>> {
    let routes = shared.guide.routes();
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
        if self.ledger.faults.is_empty() {
            self.audit().await;
        }
        let faults = self.ledger.faults.iter().cloned();
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
        self.shared.idle.fetch_add(1, Ordering::Release);
        self.session.close().await;
        self.ledger
    }

    /// Looks on the serving side for everything that was acknowledged, where the test has no other
    /// side to compare with.
    async fn audit(&mut self) {
        let Some(followed) = self.shared.guide.followed() else { return };
        let live = self.book.live().map(|live| (live, Some(live.ver)));
        let dead = self.book.dead().iter().map(|dead| (dead, None));
        for (row, expected) in live.chain(dead) {
            let began = Instant::now();
            let found = loop {
                let routes = self.shared.guide.routes();
                let place = &routes.servers[row.row.shard(routes.modulus)];
                match self.session.query(place, &row.look_sql()).await {
                    Ok(found) => {
                        break Ok(found.into_iter().next().and_then(|mut row| row.take(0)));
                    }
                    Err(error) if began.elapsed() > followed.follow.give_up => break Err(error),
                    Err(_) => self.session.forget(place),
                }
                followed.breathe().await;
            };
            self.ledger.audited += 1;
            match found {
                Ok(found) if found == expected => {}
                Ok(found) => {
                    let what = format!("acknowledged {expected:?}, found {found:?}: {row:?}");
                    self.ledger.faults.push(what);
                }
                Err(error) => return self.ledger.faults.push(format!("audit: {error}")),
            }
        }
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
        let now = Instant::now();
        if self.broadcast.as_ref().is_some_and(|b| b.due <= now) {
            self.broadcast().await;
        }
        if self.giant.as_ref().is_some_and(|g| g.due <= now) {
            self.giant().await;
        } else {
            self.ordinary().await;
        }
    }

    /// The modulus of a new plan: now and then one under which rows lie together on either side.
    fn modulus(&mut self, serving: usize) -> usize {
        const TOGETHER_PERCENT: u32 = 75;
        let followed = self.shared.guide.followed();
        match followed.and_then(|followed| followed.follow.other_modulus) {
            Some(other) if self.book.random.percent(TOGETHER_PERCENT) => lcm(serving, other),
            _ => serving,
        }
    }

    async fn ordinary(&mut self) {
        let mut turn = Turn::begin();
        let mut plan: Option<Plan> = None;
        loop {
            let routes = self.shared.guide.routes();
            if let Some(spread) = plan.take_if(|p| p.shard_under(routes.modulus).is_none()) {
                self.ledger.replanned += 1;
                self.book.undo(spread);
            }
            let current = match plan.take() {
                Some(plan) => plan,
                None => {
                    let modulus = self.modulus(routes.modulus);
                    self.book.plan(modulus, &self.mix)
                }
            };
            let (Some(probe), Some(shard)) = (current.probe(), current.shard_under(routes.modulus))
            else {
                self.book.undo(current);
                return;
            };
            if let Some(followed) = self.shared.guide.followed()
                && let Some(wrong) = followed.misplaced(&probe.row.row)
                // Unless there is another document by now.
                && self.shared.guide.routes() == routes
            {
                self.ledger.faults.push(wrong);
                return;
            }
            let place = &routes.servers[shard];
            let guide = &self.shared.guide;
            let outcome = self.session.transact(place, &current.statements, &probe, guide).await;
            match self.record(outcome, &mut turn).await {
                Verdict::Done => {
                    for step in &current.steps {
                        self.ledger.count(step.kind, 1);
                    }
                    return self.book.keep(current);
                }
                Verdict::Failed => return self.book.undo(current),
                Verdict::Again => plan = Some(current),
            }
        }
    }

    async fn giant(&mut self) {
        let mut turn = Turn::begin();
        let mut verdict = Verdict::Again;
        while verdict == Verdict::Again {
            let Some(giant) = &mut self.giant else { return };
            let routes = self.shared.guide.routes();
            let act = giant.next(routes.modulus, &mut self.book);
            let place = &routes.servers[act.shard];
            let statements = std::slice::from_ref(&act.statement);
            let outcome =
                self.session.transact(place, statements, &act.probe, &self.shared.guide).await;
            verdict = self.record(outcome, &mut turn).await;
            if verdict == Verdict::Done {
                self.ledger.giants += 1;
                self.shared.giants.fetch_add(1, Ordering::Relaxed);
                self.ledger.count(act.kind, act.statement.rows);
                if let Some(giant) = &mut self.giant {
                    giant.done(act);
                }
            }
        }
    }

    async fn record(&mut self, outcome: Outcome, turn: &mut Turn) -> Verdict {
        let took = turn.began.elapsed();
        match outcome {
            Outcome::Committed(at) => {
                self.ledger.transactions += 1;
                match at {
                    Some(at) => self.ledger.acknowledged.push(at),
                    None => self.ledger.unanswered += 1,
                }
                self.ledger.longest = self.ledger.longest.max(took);
                self.shared.committed.fetch_add(1, Ordering::Relaxed);
                Verdict::Done
            }
            Outcome::Refused(why) => {
                let Some(followed) = self.shared.guide.followed() else {
                    self.ledger.refused += 1;
                    self.ledger.last_refusal = Some(why);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    return Verdict::Failed;
                };
                if took > followed.follow.give_up {
                    let tried = turn.retries;
                    let what =
                        format!("a transaction failed after {took:?}, {tried} retries: {why}");
                    self.ledger.faults.push(what);
                    return Verdict::Failed;
                }
                turn.retries += 1;
                self.ledger.retries += 1;
                self.ledger.last_refusal = Some(why);
                followed.breathe().await;
                Verdict::Again
            }
            Outcome::Fault(what) => {
                self.ledger.faults.push(what);
                Verdict::Failed
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
        let mut routes = self.shared.guide.routes();
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
                    let now = self.shared.guide.routes();
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
