//! What an estate of many schemas on one server costs while nothing, or only the copy, is going on:
//! 16 old and 24 new shards on a single server, both directions followed by one `modshift run`.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    MariaDbOptions, MariaDbServer,
    place::RunDir,
    process::{Launch, Modshift, http_get},
    server::{ADMIN, PASSWORD},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);
const OLD: usize = 16;
const NEW: usize = 24;
const TABLES: usize = 4;
/// Of each table on each old shard, in many chunks: so that the copy lasts for seconds.
const ROWS: usize = 200;
const CHUNK_ROWS: usize = 100;
/// Enough that nobody is refused: what is counted is what modshift wants.
const MAX_CONNECTIONS: usize = 400;
const REST: Duration = Duration::from_secs(5);

/// Bounds, as the README states them. Connections are also held against what `modshift check` says.
const AT_REST: u64 = 145;
const COPYING: u64 = 160;
const LINES: usize = 3_000;
const PAGE_BYTES: usize = 250_000;
/// One for each core, and few beside them.
const THREADS_BESIDE_CORES: u64 = 8;
const RESIDENT_BYTES: u64 = 160 << 20;
/// Messages at rest: so many tokens a second for each stream, there and back.
const MESSAGES_PER_STREAM_S: f64 = 6.0;
/// Of one core, at rest; and what the tests build without optimisation, beside other tests.
const CPU: f64 = if cfg!(debug_assertions) { 0.5 } else { 0.1 };

struct Estate {
    server: MariaDbServer,
    dir: RunDir,
}

impl Estate {
    async fn start() -> Result<Estate> {
        let options = MariaDbOptions::with_server_id(101)
            .arg(&format!("--max-connections={MAX_CONNECTIONS}"))
            .arg("--table-definition-cache=2000")
            .arg("--table-open-cache=2000");
        let server = MariaDbServer::start(options).await?;
        let mut conn = server.connect().await?;
        let schemas = schemas("old", OLD).chain(schemas("new", NEW));
        for schema in schemas {
            let mut sql = format!("CREATE DATABASE {schema} CHARACTER SET utf8mb4;");
            for table in 0..TABLES {
                write!(
                    sql,
                    "CREATE TABLE {schema}.t_{table} (id BIGINT NOT NULL PRIMARY KEY, \
                     uid BIGINT NOT NULL, note VARCHAR(40) NOT NULL) ENGINE=InnoDB;"
                )?;
                if let Some(shard) = schema.strip_prefix("old_") {
                    write!(
                        sql,
                        "INSERT INTO {schema}.t_{table} SELECT seq * {OLD} + {shard}, \
                         seq * {OLD} + {shard}, REPEAT('x', 20) FROM {schema}.seq_1_to_{ROWS};"
                    )?;
                }
            }
            mysql_async::prelude::Queryable::query_drop(&mut conn, sql).await?;
        }
        let dir = RunDir::create("room")?;
        let estate = Estate { server, dir };
        std::fs::write(estate.plan_path(), estate.plan()?)?;
        Ok(estate)
    }

    fn plan_path(&self) -> std::path::PathBuf {
        self.dir.join("plan.toml")
    }

    fn plan(&self) -> Result<String> {
        let mut text = format!(
            "name = \"room\"\nmodulus = {{ old = {OLD}, new = {NEW} }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{ADMIN}\"\n\
             password = \"{PASSWORD}\"\ntls = \"off\"\n\
             [gate]\nverify_age = \"none\"\n[snapshot]\nchunk_rows_max = {CHUNK_ROWS}\n\
             [check]\naccept_unsafe_durability = true\naccept_session_binlog_control = true\n\
             [cutover]\nold_accounts = [\"app_old@%\"]\nnew_accounts = [\"app_new@%\"]\n",
            self.server.port()
        );
        for (kind, count) in [("old", OLD), ("new", NEW)] {
            for schema in schemas(kind, count) {
                write!(text, "[[{kind}]]\nschema = \"{schema}\"\n")?;
            }
        }
        for table in 0..TABLES {
            write!(text, "[[table]]\nname = \"t_{table}\"\nkey = \"uid\"\nrule = \"floor_mod\"\n")?;
        }
        Ok(text)
    }

    fn modshift(&self, args: &[&str]) -> Launch {
        Launch::new(args.iter().copied()).arg("--plan").arg(self.plan_path().display().to_string())
    }

    /// Of modshift, without the one that asks and the harness's own that sleep.
    async fn connections(&self) -> Result<u64> {
        let sql = format!(
            "SELECT COUNT(*) - 1 FROM information_schema.PROCESSLIST WHERE USER = '{ADMIN}'"
        );
        self.server.value(&sql).await
    }

    /// What `check` says that the server will have to carry, at rest and while copying.
    async fn counted(&self) -> Result<(u64, u64)> {
        let (_, said) = self.modshift(&["check", "--json"]).finish(LIMIT).await?;
        let report: serde_json::Value =
            serde_json::from_str(&said).with_context(|| said.clone())?;
        let mut found = Vec::new();
        for severity in ["faults", "warnings", "notes"] {
            found.extend(report[severity].as_array().context("no findings")?);
        }
        found.retain(|fault| fault["rule"] == "connections");
        ensure!(found.len() == 1, "one server, and {found:#?}");
        let actual = found[0]["actual"].as_str().context("no text")?;
        let numbers: Vec<u64> =
            actual.split(' ').filter_map(|word| word.parse().ok()).take(2).collect();
        ensure!(numbers.len() == 2, "{actual}");
        Ok((numbers[0], numbers[1]))
    }

    /// How many rows of the new shards' watermarks say that their copy is complete.
    async fn copied(&self) -> Result<bool> {
        let counts: Vec<String> = schemas("new", NEW)
            .map(|schema| {
                format!("SELECT COUNT(*) c FROM {schema}.modshift_watermark WHERE copied")
            })
            .collect();
        let sql = format!("SELECT SUM(c) FROM ({}) counts", counts.join(" UNION ALL "));
        // The tables are the daemon's to create.
        Ok(matches!(self.server.value::<u64>(&sql).await, Ok(done) if done == (OLD * NEW) as u64))
    }
}

fn schemas(kind: &str, count: usize) -> impl Iterator<Item = String> + use<'_> {
    (0..count).map(move |shard| format!("{kind}_{shard}"))
}

fn proc_status(pid: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    let number = line.trim_start_matches(':').split_whitespace().next().context("no number")?;
    Ok(number.parse()?)
}

struct Page(String);

impl Page {
    async fn of(daemon: &Modshift) -> Result<Page> {
        let url = format!("{}/metrics", daemon.pages(LIMIT).await?);
        let (code, page) = http_get(&url).await?;
        ensure!(code == 200, "{url} answered {code}");
        Ok(Page(page))
    }

    fn sum(&self, name: &str) -> f64 {
        let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let values = self.0.lines().filter(of).filter_map(|line| line.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    fn lines(&self) -> usize {
        self.0.lines().filter(|line| !line.is_empty()).count()
    }
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed as a whole")]
struct Measured {
    seconds: f64,
    /// The most at once.
    connections: u64,
    messages_per_s: f64,
    /// Of one core.
    cpu: f64,
    server_cpu: f64,
}

impl Estate {
    /// Until `done`, which is asked every 50 ms.
    async fn measure(
        &self,
        daemon: &Modshift,
        done: impl AsyncFn() -> Result<bool>,
    ) -> Result<Measured> {
        const MESSAGES: &str = "modshift_sent_messages_total";
        // The first scrape of a counter shows zero.
        Page::of(daemon).await?;
        let messages = Page::of(daemon).await?.sum(MESSAGES);
        let (began, cpu, server) = (Instant::now(), daemon.cpu_time()?, self.server.cpu_time()?);
        let mut connections = 0;
        while !done().await? {
            ensure!(began.elapsed() < LIMIT, "not done in time\n{}", daemon.last_words(30));
            connections = connections.max(self.connections().await?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let took = began.elapsed().as_secs_f64();
        Page::of(daemon).await?;
        Ok(Measured {
            seconds: took,
            connections,
            cpu: (daemon.cpu_time()? - cpu).as_secs_f64() / took,
            server_cpu: (self.server.cpu_time()? - server).as_secs_f64() / took,
            messages_per_s: (Page::of(daemon).await?.sum(MESSAGES) - messages) / took,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shards_of_one_server_leave_it_to_the_application() -> Result<()> {
    let estate = Estate::start().await?;
    let (at_rest, while_copying) = estate.counted().await?;
    println!("check: {at_rest} at rest, {while_copying} while copying");
    let daemon = estate.modshift(&["run", "--listen", "127.0.0.1:0"]).start()?;
    daemon.pages(LIMIT).await?;
    let copying = estate.measure(&daemon, async || estate.copied().await).await?;
    println!("copying: {copying:?}");

    // What only the copy needed is closed, and every stream there and back has its tokens.
    let gate = async || -> Result<Option<()>> {
        let (code, _) = http_get(&format!("{}/healthz", daemon.pages(LIMIT).await?)).await?;
        Ok((code == 200).then_some(()))
    };
    wait_until("healthy streams", LIMIT, gate).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    let resting = estate.measure(&daemon, async || Ok(began.elapsed() >= REST)).await?;
    println!("at rest: {resting:?}");

    let page = Page::of(&daemon).await?;
    let threads = proc_status(daemon.pid(), "Threads")?;
    let (rss, peak) = (proc_status(daemon.pid(), "VmRSS")?, daemon.peak_rss_bytes()?);
    println!(
        "metrics: {} lines, {} bytes; {threads} threads; {} MiB resident, {} MiB at most",
        page.lines(),
        page.0.len(),
        rss / 1024,
        peak >> 20
    );
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "{}", daemon.output());

    // What check counts is an upper bound, and near: some of it comes only now and then.
    for (what, measured, counted, bound) in [
        ("at rest", resting.connections, at_rest, AT_REST),
        ("while copying", copying.connections, while_copying, COPYING),
    ] {
        ensure!(measured <= counted, "{what}: {measured} connections, check counts {counted}");
        ensure!(measured * 3 >= counted, "{what}: {measured} connections, check counts {counted}");
        ensure!(counted <= bound, "{what}: check counts {counted}, expected at most {bound}");
    }
    ensure!(page.lines() < LINES && page.0.len() < PAGE_BYTES, "too much to scrape");
    let cores = std::thread::available_parallelism()?.get() as u64;
    ensure!(threads <= cores + THREADS_BESIDE_CORES, "{threads} threads on {cores} cores");
    ensure!(peak < RESIDENT_BYTES, "{peak} bytes resident");
    let streams = (2 * OLD * NEW) as f64;
    ensure!(resting.messages_per_s < streams * MESSAGES_PER_STREAM_S, "{resting:?}");
    ensure!(resting.cpu < CPU, "{resting:?}");
    Ok(())
}
