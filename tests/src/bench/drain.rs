//! A prepared backlog, drained by modshift (3 old → 4 new shards) and by three native replicas.
//!
//! Old shards, new shards and replicas have the same settings; replicas log what they apply, as new
//! shards do. Everyone starts from the same rows, is stopped while the backlog is made, and is
//! timed from its start command to the last row. The same is timed with nothing to drain, which is
//! the cost of starting (processes, connections, epochs; over Kafka, topics and their metadata):
//! rates are of the difference, and the note says what was taken off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;

use super::{BenchOptions, Results, backlog, create, plan, say, server, shard};
use crate::{
    place::RunDir,
    process::{Launch, Modshift},
    server::{ADMIN, KafkaBroker, KafkaOptions, MariaDbServer, PASSWORD},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(400);
const OLD: usize = 3;
const NEW: usize = 4;

struct Estate {
    old: Vec<Arc<MariaDbServer>>,
    new: Vec<Arc<MariaDbServer>>,
    /// With `slave_parallel_threads` 0 and 4.
    replicas: [Vec<Arc<MariaDbServer>>; 2],
    broker: Arc<KafkaBroker>,
    dir: RunDir,
}

/// One drain: how long, and how much processor time each part of it took.
struct Drain {
    took: Duration,
    /// Seconds of servers, modshift and broker.
    servers: f64,
    modshift: f64,
    broker: f64,
    /// Highest resident size of each process, in bytes.
    peaks: Vec<(String, u64)>,
}

/// The same drains with nothing to drain.
struct Idle {
    native: [Duration; 2],
    ours: Duration,
}

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    let rows_each = options.scaled(60_000);
    say(&format!("drain: {OLD} old shards with {rows_each} rows each, {NEW} new ones, 6 replicas"));
    let estate = Estate::start(rows_each).await?;
    let workloads =
        [(10, options.scaled(120_000), [2.0, 1.5]), (1000, options.scaled(240_000), [1.0, 0.8])];
    let mut round = 1;
    // The in-process log first: what is acknowledged there has been applied, so another log can
    // take over. What Kafka has acknowledged may still lie in Kafka.
    for (index, log) in ["direct", "kafka"].into_iter().enumerate() {
        // Creates the topic; then twice with nothing to do.
        estate.reshard(log).await?;
        let idle = Idle {
            native: [estate.replicate(0).await?.took, estate.replicate(1).await?.took],
            ours: estate.reshard(log).await?.took,
        };
        for (per_transaction, events, aims) in workloads {
            backlog::make(&estate.old, events, per_transaction, rows_each, round).await?;
            round += 1;
            let total = events * OLD as u64;
            let native = [estate.replicate(0).await?, estate.replicate(1).await?];
            let ours = estate.reshard(log).await?;
            estate.compare().await?;
            report(results, per_transaction, log, aims[index], total, &native, &ours, &idle);
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // one line of the report
fn report(
    results: &mut Results,
    per_transaction: u64,
    log: &str,
    aim: f64,
    total: u64,
    native: &[Drain; 2],
    ours: &Drain,
    idle: &Idle,
) {
    let rate = |drain: &Drain, idle: Duration| {
        total as f64 / drain.took.saturating_sub(idle).as_secs_f64()
    };
    let rates = [0, 1].map(|set| rate(&native[set], idle.native[set]));
    let set = usize::from(rates[1] > rates[0]);
    let (threads, best) = ([0, 4][set], &native[set]);
    let per_million = |seconds: f64| seconds / total as f64 * 1e6;
    let note = format!(
        "took {:.2} s of which start {:.2} s; replica threads {threads}; CPU s per million: ours {:.1} (servers {:.1}, modshift {:.1}, \
         broker {:.1}), replicas {:.1}",
        ours.took.as_secs_f64(),
        idle.ours.as_secs_f64(),
        per_million(ours.servers + ours.modshift + ours.broker),
        per_million(ours.servers),
        per_million(ours.modshift),
        per_million(ours.broker),
        per_million(best.servers),
    );
    let what = format!("{per_transaction}-row transactions, {log}");
    results.rate("drain", &what, "rows/s", (rate(ours, idle.ours), rates[set]), Some(aim), note);
    for (role, bytes) in &ours.peaks {
        let aim = match role.as_str() {
            "replicator" => Some(64.0),
            "consumer" => Some(96.0),
            _ => None,
        };
        let what = format!("peak memory, {role}, {per_transaction}-row");
        let mib = *bytes as f64 / f64::from(1 << 20);
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

    /// Lets one set of replicas catch up with the old shards, and stops it again.
    async fn replicate(&self, set: usize) -> Result<Drain> {
        let mut goals = Vec::new();
        for old in &self.old {
            goals.push(old.value::<String>("SELECT @@gtid_binlog_pos").await?);
        }
        let servers: Vec<_> = self.old.iter().chain(&self.replicas[set]).cloned().collect();
        let before = cpu(&servers)?;
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
        let servers = cpu(&servers)? - before;
        Ok(Drain { took, servers, modshift: 0.0, broker: 0.0, peaks: Vec::new() })
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
        let servers: Vec<_> = self.old.iter().chain(&self.new).cloned().collect();
        let before = (cpu(&servers)?, self.broker.cpu_time()?);
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
        let after = (cpu(&servers)?, self.broker.cpu_time()?);
        let mut drain = Drain {
            took,
            servers: after.0 - before.0,
            modshift: 0.0,
            broker: (after.1 - before.1).as_secs_f64(),
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

/// Processor time of these servers so far, in seconds.
fn cpu(servers: &[Arc<MariaDbServer>]) -> Result<f64> {
    servers.iter().map(|server| Ok(server.cpu_time()?.as_secs_f64())).sum()
}
