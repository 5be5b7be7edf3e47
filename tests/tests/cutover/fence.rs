//! No acknowledged write is missing on the side that serves, whoever writes, and however.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use modshift_tests::{Address, EstateOptions, Log, server::MariaDbOptions, wait_until};
use mysql_async::{Conn, prelude::Queryable};
use tokio::task::JoinSet;

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says};

/// How a writer that knows nothing of the cutover writes to its old shard.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Autocommit,
    /// Ten inserts, a wait in which the fence may fall, COMMIT.
    LongTransaction,
    /// The same with the table locked.
    LockTables,
}

struct Stubborn {
    address: Address,
    way: Way,
    number: u64,
    account: u64,
}

/// What was acknowledged, by all writers.
#[derive(Clone, Default)]
struct Acknowledged(Arc<Mutex<BTreeSet<u64>>>);

impl Acknowledged {
    fn add(&self, ids: &[u64]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    fn all(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Stubborn {
    /// Writes until told to stop; after an error over a new connection.
    async fn run(self, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
        let mut next = (1 << 40) + (self.number << 24);
        let mut conn: Option<Conn> = None;
        while !stop.load(Ordering::Relaxed) {
            let mut open = match conn.take() {
                Some(open) => open,
                None => match self.address.connect().await {
                    Ok(open) => open,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                },
            };
            let count = if self.way == Way::Autocommit { 1 } else { 10 };
            let ids: Vec<u64> = (next..next + count).collect();
            // Whatever became of them, these ids are used.
            next += count;
            if self.write(&mut open, &ids).await.is_ok() {
                acknowledged.add(&ids);
                conn = Some(open);
            }
        }
    }

    async fn write(&self, conn: &mut Conn, ids: &[u64]) -> Result<(), mysql_async::Error> {
        match self.way {
            // The readers share two cores with sixteen writers.
            Way::Autocommit => tokio::time::sleep(Duration::from_millis(2)).await,
            Way::LongTransaction => conn.query_drop("START TRANSACTION").await?,
            Way::LockTables => {
                conn.query_drop("SET autocommit = 0").await?;
                conn.query_drop("LOCK TABLES t_wallet WRITE").await?;
            }
        }
        for id in ids {
            let account = self.account;
            conn.query_drop(format!(
                "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({id}, {account}, 1, 1)"
            ))
            .await?;
        }
        if self.way != Way::Autocommit {
            tokio::time::sleep(Duration::from_millis(self.number % 40)).await;
            conn.query_drop("COMMIT").await?;
        }
        if self.way == Way::LockTables {
            // What was committed is acknowledged, whatever becomes of this.
            conn.query_drop("UNLOCK TABLES").await.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

const PRIVILEGED: &str = "batch";

/// Sixteen of them, spread over the old shards.
fn sixteen(site: &Site, privileged: bool) -> Vec<Stubborn> {
    let shards = &site.estate.old;
    let stubborn = |number: u64| {
        let shard = number as usize % shards.len();
        let mut address = shards[shard].address();
        let user = if privileged && number % 8 >= 6 { PRIVILEGED } else { APP };
        (address.user, address.password) = (user.to_owned(), user.to_owned());
        let way = match number {
            0..7 => Way::Autocommit,
            7..14 => Way::LongTransaction,
            _ => Way::LockTables,
        };
        Stubborn { address, way, number, account: (number * shards.len() as u64) + shard as u64 }
    };
    (0..16).map(stubborn).collect()
}

struct Running {
    acknowledged: Acknowledged,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Running {
    fn start(writers: Vec<Stubborn>) -> Self {
        let (acknowledged, stop) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for writer in writers {
            tasks.spawn(writer.run(acknowledged.clone(), Arc::clone(&stop)));
        }
        Self { acknowledged, stop, tasks }
    }

    async fn more(&self, count: usize) -> Result<()> {
        let goal = self.acknowledged.all().len() + count;
        wait_until("acknowledged writes", LIMIT, || async {
            Ok((self.acknowledged.all().len() >= goal).then_some(()))
        })
        .await
    }

    async fn stop(mut self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.acknowledged.all()
    }
}

async fn ids_on(shards: &[modshift_tests::estate::Shard]) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for shard in shards {
        let rows = shard.address().query("SELECT id FROM t_wallet WHERE id >= 1 << 40").await?;
        found.extend(rows.into_iter().map(mysql_async::from_row::<u64>));
    }
    Ok(found)
}

async fn privileged(site: &Site) -> Result<()> {
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        let server = &shard.server;
        server.run(format!("CREATE USER {PRIVILEGED}@'%' IDENTIFIED BY '{PRIVILEGED}'")).await?;
        server.run(format!("GRANT READ ONLY ADMIN ON *.* TO {PRIVILEGED}@'%'")).await?;
        for account in [format!("{PRIVILEGED}@'%'"), format!("{APP}@'127.0.0.%'")] {
            let schema = shard.schema.replace('_', "\\_");
            let sql = format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE, LOCK TABLES ON `{schema}`.* TO {account}"
            );
            server.run(sql).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_of_all_kinds_lose_nothing_that_was_acknowledged() -> Result<()> {
    let accounts = format!("\"{APP_ACCOUNT}\", \"{PRIVILEGED}@%\"");
    let site = Site::start_with(2, 3, Log::Direct, 21, "60s", &accounts).await?;
    privileged(&site).await?;
    let daemons = site.daemons()?;
    let writers = Running::start(sixteen(&site, true));
    writers.more(100).await?;

    // A transaction that is prepared and forgotten, unseen by the binlog.
    let other = &site.estate.old[0].server;
    other.run("CREATE DATABASE elsewhere").await?;
    other.run("CREATE TABLE elsewhere.t (a INT PRIMARY KEY) ENGINE=InnoDB").await?;
    let mut conn = other.connect().await?;
    for sql in [
        "SET sql_log_bin = 0",
        "XA START 'forgotten'",
        "INSERT INTO elsewhere.t VALUES (1)",
        "XA END 'forgotten'",
        "XA PREPARE 'forgotten'",
    ] {
        conn.query_drop(sql).await?;
    }
    conn.disconnect().await.ok();
    let refused = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
    ensure!(refused.contains("prepared XA"), "{refused}");
    ensure!(site.serves().await? == "old");
    writers.more(50).await?;
    let mut conn = other.connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    conn.query_drop("XA ROLLBACK 'forgotten'").await?;
    conn.disconnect().await.ok();

    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    let acknowledged = writers.stop().await;
    let found = ids_on(&site.estate.new).await?;
    let missing: Vec<_> = acknowledged.difference(&found).take(5).collect();
    println!("{} acknowledged, {} on the new shards", acknowledged.len(), found.len());
    ensure!(missing.is_empty(), "acknowledged and missing: {missing:?}");
    site.estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_through_the_fence_is_noticed_and_the_old_shards_serve_on() -> Result<()> {
    // The privileged account is not named: it writes through read_only.
    let site = Site::start(2, 3, Log::Direct, 22, "20s").await?;
    privileged(&site).await?;
    let daemons = site.daemons()?;
    let writers = Running::start(sixteen(&site, true));
    writers.more(100).await?;
    let undone = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
    ensure!(undone.contains("undone"), "{undone}\n{}", says(&daemons));
    ensure!(site.serves().await? == "old");
    writers.more(100).await?;
    let acknowledged = writers.stop().await;
    let found = ids_on(&site.estate.old).await?;
    ensure!(acknowledged.is_subset(&found), "an acknowledged write is missing");
    for shard in &site.estate.new {
        ensure!(shard.value::<bool>("SELECT @@read_only").await?, "a new shard was opened");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_started_again_under_the_fence_is_fenced_again() -> Result<()> {
    // The other tests resolve names.
    let usual = options(Log::Direct, 23, "120s", &format!("\"{APP_ACCOUNT}\""));
    let numbers = Arc::new(|_, options: MariaDbOptions| options.arg("--skip-name-resolve=ON"));
    let options = EstateOptions { old_options: numbers.clone(), new_options: numbers, ..usual };
    let site = Site::open(2, 3, options).await?;
    let daemons = site.daemons()?;
    privileged(&site).await?;
    let writers = Running::start(sixteen(&site, false));
    writers.more(100).await?;
    // Between fence and drain: the operator dies, and a server loses its read_only.
    let held =
        site.estate.modshift(["cutover", "--wait", "100s"]).hold("after_fence", 1).start()?;
    held.wait_hold("after_fence", LIMIT).await.with_context(|| says(&daemons))?;
    held.kill_9()?;
    ensure!(site.serves().await? == "none");
    site.estate.old[0].server.kill()?;
    site.estate.old[0].server.restart().await?;
    site.command(&["cutover", "--resume"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.estate.old[0].value::<bool>("SELECT @@read_only").await?, "not fenced again");
    let acknowledged = writers.stop().await;
    let found = ids_on(&site.estate.new).await?;
    ensure!(acknowledged.is_subset(&found), "an acknowledged write is missing");
    site.estate.oracle().compare().await?.ensure_clean()
}
