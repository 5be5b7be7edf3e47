//! The application moves users between old shards: it inserts all rows of a user on another shard,
//! under the same primary keys and with the same unique values, and deletes them on the first one,
//! in one order or the other, there and often straight back. Unique values change hands between
//! such users too.
//!
//! On the new shards the two halves come by way of different streams, in any order.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{Live, Numbers, Outcome, Probe, Routes, Row, Session, Statement, guide::Guide};
use crate::{
    place::writer_slot,
    random::Random,
    rule::{number_on, shard_of_number},
};

#[derive(Clone, Debug)]
pub struct MoveOptions {
    pub seed: u64,
    /// Each works on users of its own.
    pub connections: usize,
    pub users_each: usize,
    /// Orders that go along with a user's wallet.
    pub orders_each: usize,
    /// Acts per second of all connections together; as fast as they go for `None`.
    pub rate: Option<f64>,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self { seed: 1, connections: 4, users_each: 20, orders_each: 2, rate: Some(100.0) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MoveLedger {
    /// Moves that deleted first.
    pub delete_first: u64,
    /// Moves that inserted first: for a while both shards held the user.
    pub insert_first: u64,
    pub straight_back: u64,
    /// Unique values that went from one user to another.
    pub handed_over: u64,
    pub updates: u64,
    /// Attempts that did not take place and were made again.
    pub refused: u64,
}

impl MoveLedger {
    pub fn moves(&self) -> u64 {
        self.delete_first + self.insert_first
    }

    fn merge(&mut self, other: Self) {
        self.delete_first += other.delete_first;
        self.insert_first += other.insert_first;
        self.straight_back += other.straight_back;
        self.handed_over += other.handed_over;
        self.updates += other.updates;
        self.refused += other.refused;
    }
}

pub struct UserMoves {
    stop: watch::Sender<bool>,
    workers: JoinSet<Result<MoveLedger>>,
}

impl UserMoves {
    /// Creates the users, and returns when all connections move them about.
    pub async fn start(options: MoveOptions, routes: Routes) -> Result<Self> {
        ensure!(routes.modulus > 1, "users move between two shards at least");
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for index in 0..options.connections {
            let (_, fixed) = watch::channel(routes.clone());
            let mut mover = Mover {
                interval: options
                    .rate
                    .map(|rate| Duration::from_secs_f64(options.connections as f64 / rate)),
                guide: Guide::Fixed(fixed),
                session: Session::default(),
                random: Random::new(options.seed).fork(index as u64),
                numbers: Numbers::new(writer_slot()),
                users: Vec::new(),
                ledger: MoveLedger::default(),
            };
            for _ in 0..options.users_each.max(2) {
                mover.create(options.orders_each).await?;
            }
            workers.spawn(mover.run(stopped.clone()));
        }
        Ok(Self { stop, workers })
    }

    /// Lets every move come to its end.
    pub async fn stop(mut self) -> Result<MoveLedger> {
        self.stop.send_replace(true);
        let mut ledger = MoveLedger::default();
        while let Some(done) = self.workers.join_next().await {
            ledger.merge(done.context("a connection that moves users panicked")??);
        }
        Ok(ledger)
    }
}

/// The same version for all rows of a user: each act changes them all, or just the wallet's phone
/// with the others following.
#[derive(Clone, Debug)]
struct User {
    account: i64,
    wallet: u64,
    orders: Vec<u64>,
    phone: Option<u64>,
    ver: u64,
}

struct Mover {
    interval: Option<Duration>,
    guide: Guide,
    session: Session,
    random: Random,
    numbers: Numbers,
    users: Vec<User>,
    ledger: MoveLedger,
}

const ACT_LIMIT: Duration = Duration::from_secs(120);
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

impl Mover {
    async fn create(&mut self, orders: usize) -> Result<()> {
        let modulus = self.guide.routes().modulus;
        let shard = self.random.index(modulus);
        let user = User {
            account: number_on(shard, modulus, self.random.between(1_000_000, 2_000_000)),
            wallet: self.numbers.take(),
            orders: (0..orders).map(|_| self.numbers.take()).collect(),
            phone: Some(self.numbers.take()),
            ver: 1,
        };
        self.act(shard, user.inserts(), user.there()).await?;
        self.users.push(user);
        Ok(())
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<MoveLedger> {
        let mut due = Instant::now();
        while !*stop.borrow_and_update() {
            if let Some(interval) = self.interval {
                tokio::time::sleep_until(due).await;
                due = Instant::now().max(due + interval);
            }
            let at = self.random.index(self.users.len());
            match self.random.below(10) {
                0..6 => self.move_user(at).await?,
                6..8 => self.hand_over(at).await?,
                _ => self.update(at).await?,
            }
        }
        self.session.close().await;
        Ok(self.ledger)
    }

    async fn move_user(&mut self, at: usize) -> Result<()> {
        let modulus = self.guide.routes().modulus;
        let home = shard_of_number(self.users[at].account, modulus);
        let away = (home + 1 + self.random.index(modulus - 1)) % modulus;
        self.move_to(at, home, away).await?;
        if self.random.percent(40) {
            self.move_to(at, away, home).await?;
            self.ledger.straight_back += 1;
        }
        Ok(())
    }

    async fn move_to(&mut self, at: usize, from: usize, to: usize) -> Result<()> {
        let modulus = self.guide.routes().modulus;
        let before = self.users[at].clone();
        let near = self.random.between(1_000_000, 2_000_000);
        let after =
            User { account: number_on(to, modulus, near), ver: before.ver + 1, ..before.clone() };
        if self.random.percent(50) {
            self.act(from, before.deletes(), before.gone()).await?;
            self.act(to, after.inserts(), after.there()).await?;
            self.ledger.delete_first += 1;
        } else {
            self.act(to, after.inserts(), after.there()).await?;
            self.act(from, before.deletes(), before.gone()).await?;
            self.ledger.insert_first += 1;
        }
        self.users[at] = after;
        Ok(())
    }

    /// One user's phone number becomes another's, wherever the two are; sometimes the giver moves
    /// in between.
    async fn hand_over(&mut self, at: usize) -> Result<()> {
        let Some(phone) = self.users[at].phone else { return self.update(at).await };
        let mut to = self.random.index(self.users.len());
        if to == at {
            to = (to + 1) % self.users.len();
        }
        self.set_phone(at, None).await?;
        if self.random.percent(30) {
            self.move_user(at).await?;
        }
        self.set_phone(to, Some(phone)).await?;
        let fresh = self.numbers.take();
        self.set_phone(at, Some(fresh)).await?;
        self.ledger.handed_over += 1;
        Ok(())
    }

    async fn set_phone(&mut self, at: usize, phone: Option<u64>) -> Result<()> {
        self.users[at].phone = phone;
        self.update(at).await
    }

    async fn update(&mut self, at: usize) -> Result<()> {
        let modulus = self.guide.routes().modulus;
        let before = self.users[at].clone();
        let after = User { ver: before.ver + 1, ..before.clone() };
        let shard = shard_of_number(before.account, modulus);
        self.act(shard, before.updates(), after.there()).await?;
        self.users[at] = after;
        self.ledger.updates += 1;
        Ok(())
    }

    /// One transaction, made again until it has taken place.
    async fn act(&mut self, shard: usize, statements: Vec<Statement>, probe: Probe) -> Result<()> {
        let place = self.guide.routes().servers[shard].clone();
        let deadline = Instant::now() + ACT_LIMIT;
        loop {
            let outcome = self.session.transact(&place, &statements, &probe, &self.guide).await;
            match outcome {
                Outcome::Committed(_) => return Ok(()),
                Outcome::Fault(what) => anyhow::bail!("moving users: {what}"),
                Outcome::Refused(why) if Instant::now() > deadline => {
                    anyhow::bail!("moving users: refused for {ACT_LIMIT:?}: {why}")
                }
                Outcome::Refused(_) => {
                    self.ledger.refused += 1;
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }
}

impl User {
    fn wallet(&self) -> Live {
        Live { row: Row::Wallet { id: self.wallet, account: self.account }, ver: self.ver }
    }

    fn orders(&self) -> impl Iterator<Item = Live> {
        self.orders
            .iter()
            .map(|&id| Live { row: Row::Order { id, account: self.account }, ver: self.ver })
    }

    fn phone_sql(&self) -> String {
        self.phone.map_or("NULL".to_owned(), |phone| format!("'+7-{phone}'"))
    }

    fn inserts(&self) -> Vec<Statement> {
        let Self { account, wallet, ver, .. } = self;
        let wallet = format!(
            "INSERT INTO t_wallet VALUES ({wallet},{account},{},'MOVE','M{wallet}',{ver},{ver})",
            self.phone_sql()
        );
        let orders = self.orders.iter().map(|id| {
            format!(
                "INSERT INTO t_trade_order (id,accountNo,symbol,side,quantity,price,created,ver) \
                 VALUES ({id},{account},'MOVE',1,{ver},{ver},NOW(6),{ver})"
            )
        });
        std::iter::once(wallet).chain(orders).map(Statement::one).collect()
    }

    fn deletes(&self) -> Vec<Statement> {
        let rows = self.orders().chain([self.wallet()]);
        rows.map(|live| Statement::one(live.delete_sql())).collect()
    }

    fn updates(&self) -> Vec<Statement> {
        let phone = format!("phone={}, balance=balance+1", self.phone_sql());
        let wallet = self.wallet().update_with(&phone);
        let orders = self.orders().map(|live| live.update_with("quantity=quantity+1"));
        std::iter::once(wallet).chain(orders).map(Statement::one).collect()
    }

    fn there(&self) -> Probe {
        Probe { row: self.wallet(), version: Some(self.ver) }
    }

    fn gone(&self) -> Probe {
        Probe { row: self.wallet(), version: None }
    }
}
