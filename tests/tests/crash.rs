//! Kills: nothing is lost and nothing is doubled, wherever a process dies.
//!
//! The daemons are killed with SIGKILL from outside at named points, each time only after they
//! reported rows in flight there; broker and servers are killed under load. At the end every row is
//! compared (nothing lost), the new shards' own binlogs are read (nothing doubled), and the
//! appliers must have dropped replayed changes, else the kills proved nothing.
//!
//! Which points are hit, and at which time that they are reached, is drawn from a seed that is
//! printed; `MODSHIFT_SEED` repeats it, `MODSHIFT_SOAK=1` hits them all.

#![allow(clippy::print_stdout, reason = "seeds and counts are part of the outcome")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use modshift_tests::{
    Estate, EstateOptions, Log, MariaDbOptions, Mix, Modshift, Writer, WriterOptions,
    case::Size,
    copied, drained,
    pages::{Dropped, dropped},
    random::Random,
    server::Delay,
    versions::ensure_rising,
    writer::Giants,
};

const LIMIT: Duration = Duration::from_secs(120);
const LINES_SHOWN: usize = 40;
/// How often each point is hit unless all are.
const HITS: usize = 5;
/// Points that are reached again and again.
const NTH_MOST: u32 = 6;

/// Small chunks and batches: each point is reached often, and inside of an event group too.
fn plan_tail(batch_rows: u32) -> String {
    format!(
        "[snapshot]\nchunk_rows_max = 60\n\n[reader]\nprogress_interval = \"200ms\"\n\n\
         [apply]\nbatch_rows = {batch_rows}\n"
    )
}

/// Small enough that versions of a row are seldom merged into one, so that the binlog shows them.
const BATCH_ROWS: u32 = 40;

/// A named point, and in which daemon it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    stage: &'static str,
    role: &'static str,
    /// The latest time that it is reached at which a kill may fall on it.
    nth_most: u32,
}

const POINTS: [Point; 5] = [
    Point { stage: "mid_chunk", role: "replicator", nth_most: NTH_MOST },
    Point { stage: "after_send_before_ack", role: "replicator", nth_most: NTH_MOST },
    Point { stage: "after_apply_before_commit", role: "consumer", nth_most: NTH_MOST },
    Point { stage: "after_commit_before_ack", role: "consumer", nth_most: NTH_MOST },
    // Each reader comes to it once: two of old shards, three of new ones.
    Point { stage: "epoch_raised_before_markers", role: "replicator", nth_most: 5 },
];

#[derive(Clone, Copy, Debug)]
struct Kill {
    point: Point,
    nth: u32,
    /// The other daemon is killed with it, wherever it is.
    both: bool,
}

/// Kills in the order in which they fall: first those that need a copy to be under way.
fn kills(random: &mut Random, one_process: bool) -> Vec<Kill> {
    let soak = std::env::var_os("MODSHIFT_SOAK").is_some();
    let mut early = Vec::new();
    let mut late = Vec::new();
    for point in POINTS {
        let mut all = Vec::new();
        for nth in 1..=point.nth_most {
            let alone = Kill { point, nth, both: false };
            all.push(alone);
            if !one_process {
                all.push(Kill { both: true, ..alone });
            }
        }
        shuffle(&mut all, random);
        all.truncate(if soak { all.len() } else { HITS });
        if point.stage == "mid_chunk" { early.extend(all) } else { late.extend(all) }
    }
    shuffle(&mut late, random);
    early.into_iter().chain(late).collect()
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.index(last + 1));
    }
}

/// The daemons of an estate, and what those that were killed had dropped.
struct Daemons<'a> {
    estate: &'a Estate,
    running: BTreeMap<&'static str, Modshift>,
    dropped: Dropped,
    hits: BTreeMap<&'static str, u32>,
    killed: BTreeMap<&'static str, u32>,
}

impl<'a> Daemons<'a> {
    fn new(estate: &'a Estate) -> Self {
        Self {
            estate,
            running: BTreeMap::new(),
            dropped: Dropped::default(),
            hits: BTreeMap::new(),
            killed: BTreeMap::new(),
        }
    }

    fn roles(&self) -> &'static [&'static str] {
        if self.estate.broker.is_some() { &["consumer", "replicator"] } else { &["run"] }
    }

    /// Which of the daemons plays this part.
    fn process(&self, role: &'static str) -> &'static str {
        if self.estate.broker.is_some() { role } else { "run" }
    }

    /// Starts whatever does not run yet.
    fn start_all(&mut self) -> Result<()> {
        for role in self.roles() {
            if !self.running.contains_key(role) {
                let daemon = self.estate.modshift([*role, "--listen", "127.0.0.1:0"]).stages();
                self.running.insert(role, daemon.start()?);
            }
        }
        Ok(())
    }

    fn daemon(&self, role: &'static str) -> Result<&Modshift> {
        let process = self.process(role);
        self.running.get(process).with_context(|| format!("{process} does not run"))
    }

    async fn kill(&mut self, process: &'static str) -> Result<()> {
        let Some(daemon) = self.running.remove(process) else { return Ok(()) };
        ensure!(daemon.running()?, "{process} ended by itself:\n{}", daemon.output());
        if process != "replicator" {
            self.dropped.add(&dropped(&daemon).await?);
        }
        daemon.kill_9()?;
        *self.killed.entry(process).or_default() += 1;
        Ok(())
    }

    /// Starts the daemon so that it stops at the point, waits for it there, and kills it.
    async fn hit(&mut self, kill: Kill) -> Result<()> {
        let process = self.process(kill.point.role);
        self.kill(process).await?;
        let launch = self.estate.modshift([process, "--listen", "127.0.0.1:0"]);
        let daemon = launch.hold(kill.point.stage, kill.nth).start()?;
        self.running.insert(process, daemon);
        self.start_all()?;
        let held = self.daemon(process)?.wait_hold(kill.point.stage, LIMIT).await?;
        ensure!(held.rows > 0, "nothing was in flight");
        let others = self.roles().iter().filter(|other| kill.both && **other != process);
        for victim in [process].iter().chain(others) {
            self.kill(victim).await?;
        }
        *self.hits.entry(kill.point.stage).or_default() += 1;
        Ok(())
    }

    /// Waits until a daemon says that it is at the point, once more than so far.
    async fn next_at(&self, point: Point) -> Result<()> {
        self.daemon(point.role)?.next_stage(point.stage, LIMIT).await
    }

    /// What is written from now on arrives.
    async fn recovered(&self, writer: &Writer) -> Result<()> {
        writer.commits(20, LIMIT).await?;
        drained(self.estate, LIMIT).await.with_context(|| self.says())
    }

    fn says(&self) -> String {
        let words = |(process, daemon): (&&str, &Modshift)| {
            format!("--- {process} says last:\n{}\n", daemon.last_words(LINES_SHOWN))
        };
        self.running.iter().map(words).collect()
    }

    /// Lets everything come to its end and judges it.
    async fn judge(mut self, writer: Writer) -> Result<()> {
        let estate = self.estate;
        self.start_all()?;
        writer.commits(50, LIMIT).await?;
        let ledger = writer.stop().await?;
        copied(estate, LIMIT).await.with_context(|| self.says())?;
        drained(estate, LIMIT).await.with_context(|| self.says())?;
        let mut unanswered = 0;
        for (process, daemon) in std::mem::take(&mut self.running) {
            if process != "replicator" {
                self.dropped.add(&dropped(&daemon).await?);
            }
            let code = daemon.stop(LIMIT).await?;
            ensure!(code == 0, "{process} ended with {code}:\n{}", daemon.output());
            let output = daemon.lines();
            unanswered += output.iter().filter(|l| l.contains("unanswered commit")).count();
        }
        estate.oracle().compare().await?.ensure_clean()?;
        let versions = ensure_rising(estate).await?;
        println!(
            "points hit {:?}, processes killed {:?}, dropped {:?}, commits without answer found \
             done {unanswered}, writer: {} transactions, {} giants, {} unanswered; new binlogs: \
             {} inserts, {} updates, {} deletes, {} replaced",
            self.hits,
            self.killed,
            self.dropped.0,
            ledger.transactions,
            ledger.giants,
            ledger.unanswered,
            versions.inserts,
            versions.updates,
            versions.deletes,
            versions.replaced,
        );
        ensure!(ledger.giants > 0, "no transaction of many rows took place");
        ensure!(self.dropped.of("position") > 0, "no replay was dropped: the kills proved nothing");
        Ok(())
    }
}

/// `MODSHIFT_SEED`, or one of this run; printed.
fn seed(test: &str) -> Result<u64> {
    let seed = match std::env::var("MODSHIFT_SEED") {
        Ok(text) => text.parse().context("MODSHIFT_SEED is a number")?,
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .subsec_nanos()
            .into(),
    };
    println!("{test}: MODSHIFT_SEED={seed}");
    Ok(seed)
}

/// Two old shards and three new ones, on servers that keep what they have acknowledged.
async fn estate(
    log: Log,
    proxies: bool,
    batch_rows: u32,
    mix: Mix,
    seed: u64,
) -> Result<(Estate, Writer)> {
    let durable = |_: usize, options: MariaDbOptions| MariaDbOptions {
        sync_binlog: 1,
        innodb_flush_log_at_trx_commit: 1,
        ..options
    };
    let options = EstateOptions {
        log,
        seed,
        proxies,
        size: Size::rows(3_000),
        old_options: Arc::new(durable),
        new_options: Arc::new(durable),
        plan_tail: plan_tail(batch_rows),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    let options = WriterOptions {
        seed,
        connections: 6,
        rate: Some(100.0),
        mix,
        giants: Some(Giants { rows: 500, interval: Duration::from_secs(1) }),
        ..WriterOptions::default()
    };
    let writer = Writer::start(options, estate.old_routes()).await?;
    Ok((estate, writer))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_killed_at_every_point_over_kafka() -> Result<()> {
    let mut random = Random::new(seed("kafka")?);
    let (estate, writer) =
        estate(Log::kafka(), false, BATCH_ROWS, Mix::default(), random.next()).await?;
    let mut daemons = Daemons::new(&estate);
    for kill in kills(&mut random, false) {
        daemons.hit(kill).await.with_context(|| format!("{kill:?}"))?;
    }
    daemons.judge(writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_killed_at_every_point_over_direct() -> Result<()> {
    let mut random = Random::new(seed("direct")?);
    let (estate, writer) =
        estate(Log::Direct, false, BATCH_ROWS, Mix::default(), random.next()).await?;
    let mut daemons = Daemons::new(&estate);
    for kill in kills(&mut random, true) {
        daemons.hit(kill).await.with_context(|| format!("{kill:?}"))?;
    }
    daemons.judge(writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_and_servers_killed_under_load() -> Result<()> {
    const ROUNDS: usize = 3;
    const SLOW_ANSWER: Duration = Duration::from_millis(150);
    let [_, sent, applied, _, _] = POINTS;
    let mut random = Random::new(seed("servers")?);
    let (estate, writer) =
        estate(Log::kafka(), true, BATCH_ROWS, Mix::default(), random.next()).await?;
    let broker = estate.broker.clone().context("no broker")?;
    let mut daemons = Daemons::new(&estate);
    daemons.start_all()?;
    for round in 0..ROUNDS {
        daemons.next_at(sent).await?;
        broker.kill()?;
        // What comes meanwhile has to wait.
        writer.commits(20, LIMIT).await?;
        broker.restart().await?;
        daemons
            .recovered(&writer)
            .await
            .with_context(|| format!("broker killed, round {round}"))?;

        let old = &random.pick(&estate.old).server;
        daemons.next_at(sent).await?;
        old.kill()?;
        old.restart().await?;
        daemons
            .recovered(&writer)
            .await
            .with_context(|| format!("old server killed, round {round}"))?;

        // All of them: the one that has the rows in flight is among them. Answers are slow, so
        // that now and then a COMMIT is done whose answer never arrives.
        let proxies = || estate.new.iter().filter_map(|shard| shard.proxy.as_ref());
        proxies().for_each(|proxy| proxy.delay(Delay::Fixed(SLOW_ANSWER)));
        daemons.next_at(applied).await?;
        proxies().for_each(|proxy| proxy.cut());
        for shard in &estate.new {
            shard.server.kill()?;
        }
        proxies().for_each(|proxy| proxy.delay(Delay::None));
        try_join_all(estate.new.iter().map(|shard| shard.server.restart())).await?;
        daemons
            .recovered(&writer)
            .await
            .with_context(|| format!("new servers killed, round {round}"))?;
    }
    println!("broker, old server and new servers killed {ROUNDS} times each");
    // A crash of ours on top, so that there is a replay to be dropped.
    daemons.hit(Kill { point: sent, nth: 2, both: true }).await?;
    daemons.judge(writer).await
}

/// The instrument can fail: with watermarks and resume points set back to where they stood before
/// (all of them, so that they fit together) changes are applied a second time. Every row is right
/// in the end, and only the binlogs show it.
#[tokio::test(flavor = "multi_thread")]
async fn watermarks_set_back_by_hand_show_in_the_binlogs() -> Result<()> {
    const MARK: &str = "number, epoch, gtids, group_gtid, group_ordinal, token_digest, \
        token_writes, token_clock_us";
    // Neither unique values nor keys that differ in bytes only: an old one that comes back would
    // run into its new owner, and halt.
    let mix = Mix { swap: 0, tables: vec![0, 1, 5], ..Mix::default() };
    let (estate, writer) = estate(Log::Direct, false, 4, mix, seed("set back")?).await?;
    let start = || estate.modshift(["run", "--listen", "127.0.0.1:0"]).start();
    let daemon = start()?;
    copied(&estate, LIMIT).await.with_context(|| daemon.output())?;
    writer.pause().await?;
    drained(&estate, LIMIT).await?;
    ensure!(daemon.stop(LIMIT).await? == 0, "{}", daemon.output());

    let mut resume = Vec::new();
    for shard in &estate.old {
        let sql = "SELECT gtids, digest FROM modshift_progress WHERE name = '@resume'";
        let row = shard.address().query(sql).await?.pop().context("no resume point")?;
        resume.push(mysql_async::from_row::<(String, String)>(row));
    }
    for shard in &estate.new {
        let sql =
            format!("CREATE TABLE saved.mark AS SELECT source, {MARK} FROM modshift_watermark");
        shard.run("CREATE DATABASE saved").await?;
        shard.run(&sql).await?;
    }
    let daemon = start()?;
    writer.resume();
    writer.commits(150, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| format!("before: {}", daemon.output()))?;
    ensure!(daemon.stop(LIMIT).await? == 0, "{}", daemon.output());
    ensure_rising(&estate).await?;

    for (shard, (gtids, digest)) in estate.old.iter().zip(resume) {
        let sql = format!(
            "UPDATE modshift_progress SET gtids = '{gtids}', digest = '{digest}' \
             WHERE name = '@resume'"
        );
        shard.run(&sql).await?;
    }
    for shard in &estate.new {
        let columns = MARK.split(", ").map(|name| format!("w.{name} = s.{name}"));
        let columns: Vec<String> = columns.collect();
        let sql = "UPDATE modshift_watermark w JOIN saved.mark s USING (source) SET ";
        shard.run(&format!("{sql}{}", columns.join(", "))).await?;
    }
    let daemon = start()?;
    drained(&estate, LIMIT).await.with_context(|| daemon.output())?;
    ensure!(daemon.stop(LIMIT).await? == 0, "{}", daemon.output());
    estate.oracle().compare().await?.ensure_clean()?;
    let verdict = ensure_rising(&estate).await;
    let doubled = verdict.err().context("changes were applied twice, and nobody noticed")?;
    let doubled = format!("{doubled:#}");
    println!("{}", doubled.lines().take(3).collect::<Vec<_>>().join("\n"));
    ensure!(doubled.contains("applied changes twice"), "another fault: {doubled}");
    Ok(())
}
