//! From the acknowledgement of a commit on an old shard to the moment at which a poller sees the
//! row on its new shard, at a steady rate that does not wait for answers to come (open loop: a late
//! commit does not slow the next one's schedule). The first seconds do not count: daemons and brokers
//! run for days, and a JVM that has just begun is busy compiling itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use super::{BenchOptions, Results, create, plan, say, server, shard};
use crate::{
    place::RunDir,
    process::{Launch, Modshift},
    server::{Address, KafkaBroker, KafkaOptions, MariaDbServer},
    wait_until,
};

const OLD: usize = 3;
const NEW: usize = 4;
const RATE: f64 = 1000.0;
const LIMIT: Duration = Duration::from_secs(60);
const WARM_UP_SECONDS: u64 = 10;
/// Ids of one writing connection lie together: within them they rise in commit order.
const SPAN: u64 = 1_000_000_000;
const CONNECTIONS: usize = 2;

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    let seconds = options.scaled(20).max(3);
    for (log, aim) in [("direct", 50.0), ("kafka", 100.0)] {
        let mut samples = measure(log, seconds).await?;
        ensure!(!samples.is_empty(), "no row was seen");
        samples.sort();
        let at = |share: f64| {
            let index = ((samples.len() - 1) as f64 * share) as usize;
            samples[index].as_secs_f64() * 1e3
        };
        let note = format!(
            "{} rows at {RATE} transactions/s; p50 {:.1} ms, max {:.1} ms",
            samples.len(),
            at(0.5),
            at(1.0)
        );
        results.amount(
            "latency",
            &format!("commit to visible p99, {log}"),
            "ms",
            at(0.99),
            Some(aim),
            note,
        );
    }
    Ok(())
}

type Acknowledged = Arc<Mutex<HashMap<u64, Instant>>>;

async fn measure(log: &str, seconds: u64) -> Result<Vec<Duration>> {
    say(&format!("latency: {log}, {seconds} s at {RATE} transactions/s"));
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for index in 0..OLD as u32 {
        old.push(server(960 + index, &[]).await?);
    }
    for index in 0..NEW as u32 {
        new.push(server(970 + index, &[]).await?);
    }
    for server in old.iter().chain(&new) {
        create(server).await?;
    }
    let broker = match log {
        "kafka" => {
            let options = KafkaOptions { tuned_for_speed: true, ..KafkaOptions::default() };
            Some(KafkaBroker::start_with(options).await?)
        }
        _ => None,
    };
    let dir = RunDir::create("latency")?;
    let daemons = start(&old, &new, broker.as_deref(), &dir)?;
    ready(&new, &daemons).await?;

    let acknowledged: Acknowledged = Arc::default();
    let cancel = CancellationToken::new();
    let pollers: Vec<_> =
        new.iter().map(|server| tokio::spawn(poll(shard(server), cancel.clone()))).collect();
    let writers: Vec<_> = (0..OLD * CONNECTIONS)
        .map(|number| {
            let address = shard(&old[number % OLD]);
            tokio::spawn(write(address, number, WARM_UP_SECONDS + seconds, acknowledged.clone()))
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await??;
    }
    let count = "SELECT COUNT(*) FROM orders";
    wait_until("every row on the new shards", LIMIT, || async {
        let mut rows = 0;
        for server in &new {
            rows += shard(server).value::<u64>(count).await?;
        }
        Ok((rows == written).then_some(()))
    })
    .await?;
    cancel.cancel();
    let mut samples = Vec::new();
    let warm = rows_in(WARM_UP_SECONDS);
    for poller in pollers {
        for (id, seen) in poller.await?? {
            if id % SPAN <= warm {
                continue;
            }
            let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            let at = acknowledged.get(&id).context("a row that nobody wrote")?;
            // Seen before the writer had its answer: as fast as can be told.
            samples.push(seen.saturating_duration_since(*at));
        }
    }
    for daemon in &daemons {
        let code = daemon.stop(LIMIT).await?;
        ensure!(code == 0, "modshift ended with {code}:\n{}", daemon.output());
    }
    Ok(samples)
}

fn start(
    old: &[Arc<MariaDbServer>],
    new: &[Arc<MariaDbServer>],
    broker: Option<&KafkaBroker>,
    dir: &RunDir,
) -> Result<Vec<Modshift>> {
    let (log, roles): (String, &[&str]) = match broker {
        Some(broker) => (
            format!("kind = \"kafka\"\nbrokers = \"{}\"\nreplication = 1", broker.bootstrap()),
            &["consumer", "replicator"],
        ),
        None => ("kind = \"direct\"".to_owned(), &["run"]),
    };
    let path = dir.join("plan.toml");
    std::fs::write(&path, plan(old, new, &log)).context("writing the plan")?;
    let path = path.display().to_string();
    let launch =
        |role: &&str| Launch::new([*role, "--listen", "127.0.0.1:0", "--plan", &path]).start();
    roles.iter().map(launch).collect()
}

async fn ready(new: &[Arc<MariaDbServer>], daemons: &[Modshift]) -> Result<()> {
    wait_until("all streams to be copied", LIMIT, || async {
        for daemon in daemons {
            ensure!(daemon.running()?, "modshift has ended:\n{}", daemon.output());
        }
        for server in new {
            let sql = "SELECT COUNT(*) FROM modshift_watermark WHERE copied";
            match shard(server).value::<usize>(sql).await {
                Ok(OLD) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Between two transactions of one connection.
fn interval() -> Duration {
    Duration::from_secs_f64((OLD * CONNECTIONS) as f64 / RATE)
}

/// Of one connection.
fn rows_in(seconds: u64) -> u64 {
    (seconds as f64 / interval().as_secs_f64()) as u64
}

/// One row each transaction, at the times of the schedule.
async fn write(
    address: Address,
    number: usize,
    seconds: u64,
    acknowledged: Acknowledged,
) -> Result<u64> {
    let mut conn = address.connect().await?;
    let interval = interval();
    let rows = rows_in(seconds);
    let begin = Instant::now() + interval.mul_f64(number as f64 / (OLD * CONNECTIONS) as f64);
    for row in 1..=rows {
        tokio::time::sleep_until((begin + interval * row as u32).into()).await;
        let id = number as u64 * SPAN + row;
        let account = (row * 31 + number as u64) * OLD as u64 + (number % OLD) as u64;
        let insert = "INSERT INTO orders VALUES (?, ?, 1, 'c', 'pad', 1.5, NOW(6))";
        conn.exec_drop(insert, (id, account)).await?;
        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now());
    }
    conn.disconnect().await?;
    Ok(rows)
}

/// Asks for rows with higher ids than those seen, again and again.
async fn poll(address: Address, cancel: CancellationToken) -> Result<Vec<(u64, Instant)>> {
    let mut conn = address.connect().await?;
    let mut newest: Vec<u64> = (0..OLD * CONNECTIONS).map(|n| n as u64 * SPAN).collect();
    let mut seen = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !cancel.is_cancelled() {
        ticks.tick().await;
        let ranges: Vec<String> = newest
            .iter()
            .enumerate()
            .map(|(n, id)| format!("id > {id} AND id < {}", (n as u64 + 1) * SPAN))
            .collect();
        let sql = format!("SELECT id FROM orders WHERE {}", ranges.join(" OR "));
        let ids: Vec<u64> = conn.query(sql).await?;
        let now = Instant::now();
        for id in ids {
            let newest = &mut newest[(id / SPAN) as usize];
            *newest = (*newest).max(id);
            seen.push((id, now));
        }
    }
    conn.disconnect().await?;
    Ok(seen)
}
