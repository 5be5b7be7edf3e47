//! A prepared backlog, drained by modshift (3 old → 4 new shards) and by three native replicas.
//!
//! Old shards, new shards and replicas have the same settings, those of a server that loses nothing
//! with its machine (`modshift check` asks for them); replicas log what they apply, as new shards
//! do. Everyone starts from the same rows, is stopped while the backlog is made, and is timed from
//! its start command to the last row. Before the clock starts every server has come to rest: what
//! one drain leaves to purge and to flush would otherwise be paid for by the next. Rounds rotate
//! who goes first; medians count, and the first round, in which the broker's code is compiled and
//! every page is first touched, does not.
//!
//! The same is timed with nothing to drain, which is the cost of starting (processes, connections,
//! epochs; over Kafka, topics and their metadata): rates are of the difference, and the note says
//! what was taken off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;

use super::settle::{cpu, settle};
use super::{BenchOptions, Results, backlog, create, median, plan, say, server, shard};
use crate::{
    place::RunDir,
    process::{Launch, Modshift},
    server::{ADMIN, KafkaBroker, KafkaOptions, MariaDbServer, PASSWORD},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(400);
const OLD: usize = 3;
const NEW: usize = 4;
/// One more is not counted.
const ROUNDS: usize = 3;
/// Who drains, in the order of their columns.
const SINGLE: usize = 0;
const PARALLEL: usize = 1;
const OURS: usize = 2;

struct Estate {
    old: Vec<Arc<MariaDbServer>>,
    new: Vec<Arc<MariaDbServer>>,
    /// With `slave_parallel_threads` 0 and 4.
    replicas: [Vec<Arc<MariaDbServer>>; 2],
    broker: Arc<KafkaBroker>,
    dir: RunDir,
}

/// One drain: how long, and how much processor time each part of it took.
#[derive(Default)]
struct Drain {
    took: Duration,
    /// Seconds of the old shards, of the new ones (or the replicas), of modshift and the broker.
    old: f64,
    new: f64,
    modshift: f64,
    broker: f64,
    /// Highest resident size of each process, in bytes.
    peaks: Vec<(String, u64)>,
}

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    let rows_each = options.scaled(60_000);
    say(&format!("drain: {OLD} old shards with {rows_each} rows each, {NEW} new ones, 6 replicas"));
    let estate = Estate::start(rows_each).await?;
    let workloads =
        [(10, options.scaled(120_000), [2.0, 1.5]), (1000, options.scaled(240_000), [1.0, 0.8])];
    let mut made = 0;
    // The in-process log first: what is acknowledged there has been applied, so another log can
    // take over. What Kafka has acknowledged may still lie in Kafka.
    for (index, log) in ["direct", "kafka"].into_iter().enumerate() {
        // Creates the topic.
        estate.reshard(log).await?;
        for (per_transaction, events, aims) in workloads {
            let mut rounds = Vec::new();
            let mut idle = Vec::new();
            for round in 0..=ROUNDS {
                idle.push(estate.round(log, round).await?);
                made += 1;
                estate.backlog(events, per_transaction, rows_each, made).await?;
                rounds.push(estate.round(log, round).await?);
                estate.compare().await?;
            }
            let workload = Workload { per_transaction, log, aim: aims[index] };
            report(results, &workload, events * OLD as u64, &rounds[1..], &idle[1..]);
        }
    }
    Ok(())
}

struct Workload {
    per_transaction: u64,
    log: &'static str,
    aim: f64,
}

fn report(
    results: &mut Results,
    workload: &Workload,
    total: u64,
    rounds: &[[Drain; 3]],
    idle: &[[Drain; 3]],
) {
    let Workload { per_transaction, log, aim } = workload;
    let took = |all: &[[Drain; 3]], who: usize| {
        median(all.iter().map(|round| round[who].took.as_secs_f64()).collect())
    };
    let start = [SINGLE, PARALLEL, OURS].map(|who| took(idle, who));
    let rates = [SINGLE, PARALLEL, OURS].map(|who| {
        let rate = |round: &[Drain; 3]| {
            total as f64 / (round[who].took.as_secs_f64() - start[who]).max(1e-3)
        };
        median(rounds.iter().map(rate).collect())
    });
    let best = if rates[PARALLEL] > rates[SINGLE] { PARALLEL } else { SINGLE };
    let per_million = |part: &dyn Fn(&Drain) -> f64, who: usize| {
        median(rounds.iter().map(|round| part(&round[who]) / total as f64 * 1e6).collect())
    };
    let ours = [
        per_million(&|drain| drain.old, OURS),
        per_million(&|drain| drain.new, OURS),
        per_million(&|drain| drain.modshift, OURS),
        per_million(&|drain| drain.broker, OURS),
    ];
    let note = format!(
        "took {:.2} s of which start {:.2} s, replicas {:.2} s of which {:.2} s, threads {}; CPU s \
         per million: ours {:.1} (old shards {:.1}, new {:.1}, modshift {:.1}, broker {:.1}), \
         replicas {:.1} (old shards {:.1})",
        took(rounds, OURS),
        start[OURS],
        took(rounds, best),
        start[best],
        [0, 4][best],
        ours.iter().sum::<f64>(),
        ours[0],
        ours[1],
        ours[2],
        ours[3],
        per_million(&|drain| drain.old + drain.new, best),
        per_million(&|drain| drain.old, best),
    );
    let what = format!("{per_transaction}-row transactions, {log}");
    results.rate("drain", &what, "rows/s", (rates[OURS], rates[best]), Some(*aim), note);
    let peaks = rounds.iter().flat_map(|round| &round[OURS].peaks);
    let mut highest: Vec<(&str, u64)> = Vec::new();
    for (role, bytes) in peaks {
        match highest.iter_mut().find(|(known, _)| known == role) {
            Some((_, peak)) => *peak = (*peak).max(*bytes),
            None => highest.push((role, *bytes)),
        }
    }
    for (role, bytes) in highest {
        let aim = match role {
            "replicator" => Some(64.0),
            "consumer" => Some(96.0),
            _ => None,
        };
        let what = format!("peak memory, {role}, {per_transaction}-row");
        let mib = bytes as f64 / f64::from(1 << 20);
        results.amount("memory", &what, "MiB", mib, aim, String::new());
    }
}

impl Estate {
    async fn start(rows_each: u64) -> Result<Self> {
        let mut old = Vec::new();
        let mut replicas = [Vec::new(), Vec::new()];
        let mut new = Vec::new();
        for index in 0..OLD as u32 {
            old.push(server(910 + index, &["--max-binlog-size=1073741824"]).await?);
        }
        for index in 0..NEW as u32 {
            new.push(server(920 + index, &["--max-binlog-size=1073741824"]).await?);
        }
        for (set, threads) in replicas.iter_mut().zip([0, 4]) {
            for index in 0..OLD as u32 {
                let threads_option = format!("--slave-parallel-threads={threads}");
                let extra =
                    ["--log-slave-updates=ON", "--max-binlog-size=1073741824", &threads_option];
                set.push(server(930 + 10 * threads + index, &extra).await?);
            }
        }
        for server in &new {
            create(server).await?;
        }
        for server in &old {
            create(server).await?;
        }
        backlog::base(&old, rows_each).await?;
        let broker = KafkaBroker::start_with(KafkaOptions {
            tuned_for_speed: true,
            ..KafkaOptions::default()
        });
        let estate =
            Self { old, new, replicas, broker: broker.await?, dir: RunDir::create("bench")? };
        estate.attach_replicas().await?;
        say("drain: everyone takes in the first rows");
        estate.replicate(0).await?;
        estate.replicate(1).await?;
        estate.reshard("direct").await?;
        estate.compare().await?;
        Ok(estate)
    }

    async fn attach_replicas(&self) -> Result<()> {
        for (index, old) in self.old.iter().enumerate() {
            for set in &self.replicas {
                set[index]
                    .run(format!(
                        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, \
                         MASTER_USER='{ADMIN}', MASTER_PASSWORD='{PASSWORD}', \
                         MASTER_USE_GTID=slave_pos",
                        old.port()
                    ))
                    .await?;
            }
        }
        Ok(())
    }

    /// Everyone catches up with the old shards, one after the other.
    async fn round(&self, log: &str, round: usize) -> Result<[Drain; 3]> {
        let mut drains = [Drain::default(), Drain::default(), Drain::default()];
        for turn in 0..drains.len() {
            let who = (turn + round) % drains.len();
            settle(&self.servers(), &self.broker).await?;
            drains[who] = match who {
                OURS => self.reshard(log).await?,
                set => self.replicate(set).await?,
            };
        }
        Ok(drains)
    }

    /// Made with the disk left out, which everyone reads it back without.
    async fn backlog(&self, events: u64, per: u64, rows_each: u64, number: u64) -> Result<()> {
        for (sync, flush) in [(0, 2), (1, 1)] {
            for old in &self.old {
                let sql = format!(
                    "SET GLOBAL sync_binlog = {sync}, GLOBAL innodb_flush_log_at_trx_commit = {flush}"
                );
                old.run(sql).await?;
            }
            if sync == 0 {
                backlog::make(&self.old, events, per, rows_each, number).await?;
            }
        }
        Ok(())
    }

    fn servers(&self) -> Vec<Arc<MariaDbServer>> {
        let replicas = self.replicas.iter().flatten();
        self.old.iter().chain(&self.new).chain(replicas).cloned().collect()
    }

    /// Lets one set of replicas catch up with the old shards, and stops it again.
    async fn replicate(&self, set: usize) -> Result<Drain> {
        let mut goals = Vec::new();
        for old in &self.old {
            goals.push(old.value::<String>("SELECT @@gtid_binlog_pos").await?);
        }
        let before = (cpu(&self.old)?, cpu(&self.replicas[set])?);
        let started = Instant::now();
        for replica in &self.replicas[set] {
            replica.run("START SLAVE").await?;
        }
        let waits = self.replicas[set].iter().zip(&goals).map(|(replica, goal)| async move {
            let reached = replica.value::<i64>(format!("SELECT MASTER_GTID_WAIT('{goal}', 300)"));
            ensure!(reached.await? == 0, "a replica does not get to {goal}");
            Ok(())
        });
        futures_util::future::try_join_all(waits).await?;
        let took = started.elapsed();
        for replica in &self.replicas[set] {
            replica.run("STOP SLAVE").await?;
        }
        let (old, new) = (cpu(&self.old)? - before.0, cpu(&self.replicas[set])? - before.1);
        Ok(Drain { took, old, new, ..Drain::default() })
    }

    /// Lets modshift catch up, and stops it again.
    async fn reshard(&self, log: &str) -> Result<Drain> {
        let (text, roles): (String, &[&str]) = match log {
            "direct" => ("kind = \"direct\"".to_owned(), &["run"]),
            _ => {
                let brokers = self.broker.bootstrap();
                let text = format!("kind = \"kafka\"\nbrokers = \"{brokers}\"\nreplication = 1");
                (text, &["consumer", "replicator"])
            }
        };
        let path = self.dir.join(&format!("{log}.toml"));
        std::fs::write(&path, plan(&self.old, &self.new, &text)).context("writing the plan")?;
        // What is before this in each old shard's binlog is what has to be drained.
        let mut clocks = Vec::new();
        for old in &self.old {
            let now = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
            clocks.push(old.value::<i64>(now).await?);
        }
        let before = (cpu(&self.old)?, cpu(&self.new)?, self.broker.cpu_time()?);
        let started = Instant::now();
        let daemons: Vec<Modshift> = roles
            .iter()
            .map(|role| {
                Launch::new([*role, "--listen", "127.0.0.1:0"])
                    .arg("--plan")
                    .arg(path.display().to_string())
                    .start()
            })
            .collect::<Result<_>>()?;
        let waits = self.new.iter().map(|new| self.caught_up(new, &clocks, &daemons));
        let waited = futures_util::future::try_join_all(waits).await;
        waited
            .with_context(|| daemons.iter().map(Modshift::output).collect::<Vec<_>>().join("\n"))?;
        let took = started.elapsed();
        let mut drain = Drain {
            took,
            old: cpu(&self.old)? - before.0,
            new: cpu(&self.new)? - before.1,
            modshift: 0.0,
            broker: (self.broker.cpu_time()? - before.2).as_secs_f64(),
            peaks: Vec::new(),
        };
        for (daemon, role) in daemons.iter().zip(roles) {
            drain.modshift += daemon.cpu_time()?.as_secs_f64();
            drain.peaks.push(((*role).to_owned(), daemon.peak_rss_bytes()?));
            let code = daemon.stop(LIMIT).await?;
            ensure!(code == 0, "modshift {role} ended with {code}:\n{}", daemon.output());
        }
        Ok(drain)
    }

    async fn caught_up(
        &self,
        new: &MariaDbServer,
        clocks: &[i64],
        daemons: &[Modshift],
    ) -> Result<()> {
        let mut conn = shard(new).connect().await?;
        let conn = tokio::sync::Mutex::new(&mut conn);
        let conn = &conn;
        wait_until("modshift to catch up", LIMIT, || async move {
            for daemon in daemons {
                ensure!(daemon.running()?, "modshift has ended:\n{}", daemon.output());
            }
            let sql = "SELECT source, token_clock_us, copied FROM modshift_watermark";
            let mut conn = conn.lock().await;
            // Before the first start there is no such table.
            let Ok(marks) = conn.query::<(usize, i64, bool), _>(sql).await else { return Ok(None) };
            let done = marks.len() == clocks.len()
                && marks.iter().all(|(source, clock, copied)| *copied && *clock > clocks[*source]);
            Ok(done.then_some(()))
        })
        .await
    }

    /// Replicas against old shards, new shards against old shards: the same rows.
    async fn compare(&self) -> Result<()> {
        let sql = "SELECT COUNT(*), BIT_XOR(CAST(CONV(LEFT(MD5(CONCAT_WS('|', id, account_no, k, c, pad, \
                   amount, created)), 16), 16, 10) AS UNSIGNED)) FROM orders";
        let mut totals = Vec::new();
        for servers in [&self.old, &self.new, &self.replicas[0], &self.replicas[1]] {
            let mut total = (0_u64, 0_u64);
            for server in servers {
                let rows = shard(server).query(sql).await?;
                let row = rows.into_iter().next().context("an aggregate")?;
                let (count, xor): (u64, u64) = mysql_async::from_row(row);
                total = (total.0 + count, total.1 ^ xor);
            }
            totals.push(total);
        }
        ensure!(totals.iter().all(|total| *total == totals[0]), "rows differ: {totals:?}");
        Ok(())
    }
}
