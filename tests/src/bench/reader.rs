//! The reader alone: binlog bytes to encoded, routed messages, which are counted and thrown away.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use modshift_changelog::{LogError, LogWriter};
use modshift_mariadb::pace::Throttle;
use modshift_proto::{NewShard, OldShard, plan::Plan};
use modshift_replicator::{ReaderStatus, Together, run_reader};
use mysql_async::prelude::Queryable;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    BenchOptions, Results, create, median, plan, plant_progress, run_command, say, server, shard,
};
use crate::{place::RunDir, server::MariaDbServer};

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    let many = options.scaled(2_000_000);
    compare("1000-row inserts", many, 1000, 1.5, results).await?;
    let single = options.scaled(300_000);
    compare("single-row transactions", single, 1, 2.5, results).await
}

async fn compare(
    what: &str,
    rows: u64,
    per_transaction: u64,
    aim: f64,
    results: &mut Results,
) -> Result<()> {
    say(&format!("reader: {rows} rows, {what}"));
    let old = server(901, &["--max-binlog-size=1073741824"]).await?;
    create(&old).await?;
    let start: String = old.value("SELECT @@gtid_binlog_pos").await?;
    let first = old.query("SHOW MASTER STATUS").await?;
    let first: String = first.first().and_then(|row| row.get(0)).context("a binlog")?;
    fill(&old, rows, per_transaction).await?;
    let bytes = binlog_bytes(&old).await?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(fetch_raw(&old, &first)?.as_secs_f64());
        ours.push(read(&old, &start, rows).await?.as_secs_f64());
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let rate = |seconds: f64| rows as f64 / seconds;
    let note = format!(
        "{:.0} MB/s against {:.0} MB/s of {:.0} MB",
        bytes / 1e6 / ours,
        bytes / 1e6 / theirs,
        bytes / 1e6
    );
    results.rate("reader", what, "rows/s", (rate(ours), rate(theirs)), Some(aim), note);
    Ok(())
}

async fn fill(old: &MariaDbServer, rows: u64, per_transaction: u64) -> Result<()> {
    let select = "seq, seq * 7, seq % 1000, CONCAT(MD5(seq), MD5(seq + 1), MD5(seq + 2)), \
                  CONCAT(MD5(seq), 'pad'), seq / 3, '2024-05-06 07:08:09.123456'";
    if per_transaction > 1 {
        let mut conn = shard(old).connect().await?;
        for from in (1..=rows).step_by(per_transaction as usize) {
            let to = (from + per_transaction - 1).min(rows);
            conn.query_drop(format!("INSERT INTO orders SELECT {select} FROM seq_{from}_to_{to}"))
                .await?;
        }
        return Ok(());
    }
    // A loop inside the server: no round trip for each of so many transactions.
    shard(old)
        .run(format!(
            "CREATE PROCEDURE fill(IN from_id BIGINT, IN to_id BIGINT)
             BEGIN DECLARE seq BIGINT DEFAULT from_id;
             WHILE seq <= to_id DO INSERT INTO orders VALUES ({select}); SET seq = seq + 1;
             END WHILE; END"
        ))
        .await?;
    let parts = 4;
    let fills = (0..parts).map(|part| {
        let (from, to) = (rows * part / parts + 1, rows * (part + 1) / parts);
        let address = shard(old);
        async move { address.run(format!("CALL fill({from}, {to})")).await }
    });
    futures_util::future::try_join_all(fills).await?;
    Ok(())
}

async fn binlog_bytes(old: &MariaDbServer) -> Result<f64> {
    let logs = old.query("SHOW BINARY LOGS").await?;
    let sizes = logs.iter().map(|row| row.get::<u64, _>(1).unwrap_or(0));
    Ok(sizes.sum::<u64>() as f64)
}

fn fetch_raw(old: &MariaDbServer, first: &str) -> Result<Duration> {
    let dir = RunDir::create("raw")?;
    let address = old.address();
    let args = [
        "--no-defaults".to_owned(),
        "--read-from-remote-server".to_owned(),
        "--raw".to_owned(),
        "--to-last-log".to_owned(),
        format!("--result-file={}/", memory_dir(&dir)?.display()),
        format!("--host={}", address.host),
        format!("--port={}", address.port),
        "--protocol=tcp".to_owned(),
        format!("--user={}", address.user),
        format!("--password={}", address.password),
        first.to_owned(),
    ];
    let started = Instant::now();
    run_command("mariadb-binlog", &args)?;
    let took = started.elapsed();
    std::fs::remove_dir_all(memory_dir(&dir)?).context("removing the fetched binlog")?;
    Ok(took)
}

/// The yardstick writes to memory: its disk must not count.
fn memory_dir(dir: &RunDir) -> Result<std::path::PathBuf> {
    let name = dir.path().file_name().context("a directory with a name")?;
    let path = std::path::Path::new("/dev/shm").join(name);
    std::fs::create_dir_all(&path).context("a directory in memory")?;
    Ok(path)
}

/// From a reader's start marker to its last row message: its start-up, which raises an epoch and
/// reads the catalog, is not what is compared.
async fn read(old: &Arc<MariaDbServer>, start: &str, rows: u64) -> Result<Duration> {
    plant_progress(&shard(old), start).await?;
    let none = |_: &str| None;
    // The new shards of this plan are never connected to.
    let new = [old.clone(), old.clone(), old.clone(), old.clone()];
    let text = plan(std::slice::from_ref(old), &new, "kind = \"direct\"");
    let text = distinct_schemas(&text);
    let plan = Arc::new(Plan::parse(&text, &none)?);
    let counter = Arc::new(Counter::default());
    let cancel = CancellationToken::new();
    let counting = counter.clone();
    let mut reader = tokio::spawn(run_reader(
        plan.clone(),
        OldShard(0),
        move |_| std::future::ready(Ok(CountingWriter::new(counting.clone(), 4))),
        ReaderStatus::default(),
        Throttle::new(&plan),
        Together::default(),
        cancel.clone(),
    ));
    let all = async {
        while counter.messages.load(Ordering::Relaxed) < rows {
            counter.grown.notified().await;
        }
    };
    tokio::select! {
        stopped = &mut reader => bail!("the reader has stopped: {stopped:?}"),
        () = all => {}
        () = tokio::time::sleep(LIMIT) => bail!("the reader does not get to the end"),
    }
    let started = counter.started.get().context("a start marker")?;
    let took = started.elapsed();
    cancel.cancel();
    reader.await??;
    Ok(took)
}

/// The same server four times would be a fault of the plan.
fn distinct_schemas(text: &str) -> String {
    let mut number = 0;
    text.lines()
        .map(|line| {
            number += usize::from(line == "[[new]]");
            match line == "[[new]]" {
                true => format!("{line}\nschema = \"new_{number}\"\n"),
                false => format!("{line}\n"),
            }
        })
        .collect()
}

#[derive(Default)]
struct Counter {
    messages: AtomicU64,
    bytes: AtomicU64,
    grown: Notify,
    started: OnceLock<Instant>,
}

/// Takes every message as acknowledged at once.
struct CountingWriter {
    counter: Arc<Counter>,
    sent: Vec<u64>,
    rows: u64,
    bytes: u64,
}

impl CountingWriter {
    fn new(counter: Arc<Counter>, partitions: usize) -> Self {
        Self { counter, sent: vec![0; partitions], rows: 0, bytes: 0 }
    }
}

impl LogWriter for CountingWriter {
    async fn send(&mut self, to: NewShard, key: &[u8], message: &[u8]) -> Result<(), LogError> {
        if self.sent[usize::from(to.0)] == 0 {
            self.counter.started.get_or_init(Instant::now);
        }
        self.sent[usize::from(to.0)] += 1;
        // Tokens and markers have no key.
        self.rows += u64::from(!key.is_empty());
        self.bytes += message.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LogError> {
        if self.rows > 0 {
            self.counter.messages.fetch_add(std::mem::take(&mut self.rows), Ordering::Relaxed);
            self.counter.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
            self.counter.grown.notify_one();
        }
        Ok(())
    }

    fn acked(&self, to: NewShard) -> u64 {
        self.sent[usize::from(to.0)]
    }

    async fn acknowledged(&mut self) -> Result<(), LogError> {
        std::future::pending().await
    }
}
