//! `modshift verify` of 3 old shards against 4 new ones, and `CHECKSUM TABLE` of the same table on
//! the same seven servers at once: both read every row of both sides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{BenchOptions, Results, backlog, create, median, plan, say, server, shard};
use crate::{
    place::RunDir,
    process::{Launch, Modshift},
    server::MariaDbServer,
    wait_until,
};

const OLD: u32 = 3;
const NEW: u32 = 4;
const ROUNDS: usize = 3;
const AIM: f64 = 0.5;
const LIMIT: Duration = Duration::from_secs(300);

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    // Enough that a run takes seconds, beside which the start of a process is nothing.
    let rows_each = options.scaled(1_000_000);
    say(&format!("verify: {OLD} old shards with {rows_each} rows each, {NEW} new ones"));
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for index in 0..OLD {
        old.push(server(980 + index, &[]).await?);
    }
    for index in 0..NEW {
        new.push(server(990 + index, &[]).await?);
    }
    for server in old.iter().chain(&new) {
        create(server).await?;
    }
    backlog::base(&old, rows_each).await?;
    let dir = RunDir::create("verify")?;
    let path = dir.join("plan.toml");
    std::fs::write(&path, plan(&old, &new, "kind = \"direct\"")).context("writing the plan")?;
    let path = path.display().to_string();
    let daemon = Launch::new(["run", "--listen", "127.0.0.1:0", "--plan", &path]).start()?;
    copied(&new, &daemon).await?;

    let rows = rows_each * u64::from(OLD);
    let servers: Vec<Arc<MariaDbServer>> = old.iter().chain(&new).cloned().collect();
    let (mut ours, mut theirs) = (Cost::default(), Cost::default());
    for _ in 0..ROUNDS {
        theirs.add(&servers, checksum(&servers)).await?;
        ours.add(&servers, verify(&path)).await?;
    }
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "modshift ended with {code}:\n{}", daemon.output());
    let (ours, our_cpu) = (median(ours.elapsed), median(ours.cpu));
    let (theirs, their_cpu) = (median(theirs.elapsed), median(theirs.cpu));
    let rate = |seconds: f64| rows as f64 / seconds;
    let note = format!(
        "{rows} rows on each side; {ours:.2} s against {theirs:.2} s, processor time of the \
         servers {our_cpu:.2} s against {their_cpu:.2} s"
    );
    results.rate(
        "verify",
        "against CHECKSUM TABLE",
        "rows/s",
        (rate(ours), rate(theirs)),
        Some(AIM),
        note,
    );
    Ok(())
}

async fn copied(new: &[Arc<MariaDbServer>], daemon: &Modshift) -> Result<()> {
    wait_until("the copy to be complete", LIMIT, || async {
        ensure!(daemon.running()?, "modshift has ended:\n{}", daemon.output());
        for server in new {
            let sql = "SELECT COUNT(*) FROM modshift_watermark WHERE copied = 1";
            match shard(server).value::<u32>(sql).await {
                Ok(OLD) => {}
                // The daemon creates the table.
                _ => return Ok(None),
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Seconds, by run.
#[derive(Default)]
struct Cost {
    elapsed: Vec<f64>,
    /// Of all servers together.
    cpu: Vec<f64>,
}

impl Cost {
    async fn add(
        &mut self,
        servers: &[Arc<MariaDbServer>],
        run: impl Future<Output = Result<Duration>>,
    ) -> Result<()> {
        let used = || servers.iter().map(|server| server.cpu_time()).sum::<Result<Duration>>();
        let before = used()?;
        self.elapsed.push(run.await?.as_secs_f64());
        self.cpu.push((used()? - before).as_secs_f64());
        Ok(())
    }
}

async fn checksum(servers: &[Arc<MariaDbServer>]) -> Result<Duration> {
    let started = Instant::now();
    let sums = servers
        .iter()
        .map(|server| async { shard(server).query("CHECKSUM TABLE orders EXTENDED").await });
    futures_util::future::try_join_all(sums).await?;
    Ok(started.elapsed())
}

/// From the start of the process to its end.
async fn verify(plan: &str) -> Result<Duration> {
    let started = Instant::now();
    let launch = Launch::new(["verify", "--fresh", "--plan", plan]);
    let (code, output) = launch.finish(LIMIT).await?;
    let took = started.elapsed();
    ensure!(code == 0, "verify ended with {code}:\n{output}");
    Ok(took)
}
