//! `make demo`: a reshard from start to verdict, before the user's eyes.
//!
//! Nothing here is part of the product: the demo plays the operator (the `modshift` commands) and
//! the application (the writer), and asks the oracle at the end.

mod progress;
mod summary;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Estate, EstateOptions, Log, Modshift, WriterOptions,
    application::{self, Application, pause_ms},
    case::Size,
    writer::Giants,
};
use progress::Progress;
pub use summary::Summary;

#[derive(Clone, Debug)]
pub struct DemoOptions {
    pub kafka: bool,
    pub old: usize,
    pub new: usize,
    pub rows: u64,
    /// Transactions per second of the application.
    pub rate: f64,
    pub seed: u64,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { kafka: false, old: 3, new: 4, rows: 220_000, rate: 400.0, seed: 1 }
    }
}

const STEP: Duration = Duration::from_secs(180);

/// The whole story. An error if anything went wrong that is not a difference between rows; those
/// are in the summary.
pub async fn run(options: DemoOptions) -> Result<Summary> {
    let started = Instant::now();
    say(&format!(
        "starting {} old and {} new MariaDB servers{}",
        options.old,
        options.new,
        if options.kafka { " and a Kafka broker" } else { "" }
    ));
    let estate = Estate::start(options.old, options.new, estate_options(&options)).await?;
    say(&format!("plan: {}", estate.plan_path().display()));

    command(&estate, &["schema", "--apply"], &[0]).await?;
    let application = Application::enter(&estate).await?;
    let writer = application.writer(writer_options(&options)).await?;
    say(&format!(
        "an application writes: 8 connections, {} transactions per second, key % {}, by the \
         routing document",
        options.rate, options.old
    ));
    command(&estate, &["check"], &[0]).await?;

    let daemons = start_daemons(&estate, options.kafka)?;
    let progress = Progress::start(&estate, &writer);
    crate::copied(&estate, STEP).await?;
    progress.note("every row is copied");
    // The gate asks for it: nobody is switched to rows that were never compared.
    command(&estate, &["verify"], &[0]).await?;
    command(&estate, &["gate", "--wait", "150s"], &[0]).await?;
    progress.note("the gate is open");
    let lag = progress.stop().await?;

    // The application goes on writing, and is told by the routing document alone.
    let before_switch = tokio::time::Instant::now();
    let output = command(&estate, &["cutover", "--wait", "60s"], &[0]).await?;
    let pause = Duration::from_secs_f64(pause_ms(&output)? / 1e3);
    let commits_before = writer.committed();
    let served = Instant::now();
    say(&format!("the application writes to the new shards, key % {}", options.new));
    writer.commits(options.rate as u64, STEP).await?;
    let commits_after = writer.committed() - commits_before;
    let served = served.elapsed();
    let after_switch = tokio::time::Instant::now();
    let ledger = writer.stop().await?;
    ensure!(ledger.faults.is_empty(), "the application met faults: {:?}", ledger.faults);

    say("the way back brings the application's new writes to the old shards");
    crate::drained_back(&estate, STEP).await?;
    say("comparing every row of both sides");
    let compared = Instant::now();
    let report = estate.oracle_back().compare().await?;
    let compared = compared.elapsed();
    let events = events(&estate).await?;
    for daemon in &daemons {
        let code = daemon.stop(STEP).await?;
        ensure!(code == 0, "modshift ended with code {code}:\n{}", tail(daemon));
    }
    let switch_gap = ledger.longest_gap_between(before_switch, after_switch);
    Ok(Summary {
        log: if options.kafka { "kafka" } else { "direct" },
        report,
        lag,
        events,
        pause,
        longest_gap: ledger.longest_gap().map(|(_, gap)| gap),
        switch_gap,
        commits_after,
        served,
        ledger,
        compared,
        took: started.elapsed(),
    })
}

fn estate_options(options: &DemoOptions) -> EstateOptions {
    EstateOptions {
        name: "demo".to_owned(),
        log: if options.kafka { Log::kafka() } else { Log::Direct },
        size: Size::rows(options.rows),
        seed: options.seed,
        create_new_tables: false,
        gate: ("1s".to_owned(), "5s".to_owned()),
        verify_age: "1h".to_owned(),
        plan_tail: application::plan_tail(""),
        ..EstateOptions::default()
    }
}

fn writer_options(options: &DemoOptions) -> WriterOptions {
    WriterOptions {
        rate: Some(options.rate),
        seed: options.seed,
        giants: Some(Giants { rows: 5_000, interval: Duration::from_secs(10) }),
        ..WriterOptions::default()
    }
}

pub(crate) fn say(text: &str) {
    println!("demo: {text}");
}

/// Runs an operator's command and shows what it says.
async fn command(estate: &Estate, args: &[&str], accepted: &[i32]) -> Result<String> {
    say(&format!("modshift {}", args.join(" ")));
    let (code, output) = estate.modshift(args.iter().copied()).finish(STEP).await?;
    for line in output.lines() {
        println!("  {line}");
    }
    ensure!(accepted.contains(&code), "modshift {} ended with code {code}", args.join(" "));
    Ok(output)
}

fn start_daemons(estate: &Estate, kafka: bool) -> Result<Vec<Modshift>> {
    let roles: &[&str] = if kafka { &["consumer", "replicator"] } else { &["run"] };
    let start = |role: &&str| {
        let port = free_port()?;
        say(&format!("modshift {role} --listen 127.0.0.1:{port}"));
        estate.modshift([*role, "--listen", &format!("127.0.0.1:{port}")]).start()
    };
    roles.iter().map(start).collect()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Event groups and row messages that went through, from the watermarks.
async fn events(estate: &Estate) -> Result<u64> {
    let mut events = 0;
    for shard in &estate.new {
        let sql = "SELECT CAST(COALESCE(SUM(number), 0) AS UNSIGNED) FROM modshift_watermark";
        events += shard.value::<u64>(sql).await?;
    }
    Ok(events)
}

fn tail(daemon: &Modshift) -> String {
    let lines = daemon.lines();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
