//! How long a cutover keeps a busy application waiting: there and back again, while it writes at a
//! steady rate, follows the routing document and makes again what is refused.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{BenchOptions, Results, say};
use crate::{
    Daemons, Estate, EstateOptions, Log, WriterOptions,
    application::{self, Application, pause_ms},
    case::Size,
    writer::Mix,
};

const RUNS: u64 = 20;
const RATE: f64 = 2000.0;
const CONNECTIONS: usize = 16;
/// Of the 99th percentile, in milliseconds.
const AIM: f64 = 250.0;
const LIMIT: Duration = Duration::from_secs(180);

pub async fn run(options: &BenchOptions, results: &mut Results) -> Result<()> {
    let runs = options.scaled(RUNS).max(2);
    say(&format!("cutover: {runs} times there or back, {RATE} transactions/s asked for"));
    let estate_options = EstateOptions {
        name: "pauses".to_owned(),
        log: Log::Direct,
        size: Size::rows(20_000),
        gate: ("1s".to_owned(), "1s".to_owned()),
        plan_tail: application::plan_tail("budget = \"10s\"\n"),
        // What is measured is ours alone.
        neighbours: false,
        ..EstateOptions::default()
    };
    let estate = Estate::start(3, 4, estate_options).await?;
    let application = Application::enter(&estate).await?;
    let daemons = Daemons::start(&estate)?;
    let writer = application
        .writer(WriterOptions {
            connections: CONNECTIONS,
            rate: Some(RATE),
            giants: None,
            mix: Mix { changes: (1, 2), ..Mix::default() },
            ..WriterOptions::default()
        })
        .await?;
    writer.commits(RATE as u64, LIMIT).await?;

    let mut pauses = Vec::new();
    for number in 0..runs {
        let command = if number % 2 == 0 { "cutover" } else { "rollback" };
        let (code, output) = estate.modshift([command, "--wait", "120s"]).finish(LIMIT).await?;
        ensure!(code == 0, "{command} ended with {code}:\n{output}");
        pauses.push(pause_ms(&output)?);
        writer.commits(RATE as u64, LIMIT).await?;
    }
    let ledger = writer.stop().await?;
    ensure!(ledger.faults.is_empty(), "the application met faults: {:?}", ledger.faults);
    daemons.stop(LIMIT).await?;

    pauses.sort_by(f64::total_cmp);
    let at = |share: f64| pauses[((pauses.len() - 1) as f64 * share).round() as usize];
    let note = format!(
        "{runs} runs, p50 {:.0} ms, max {:.0} ms; {:.0} transactions/s, {} failed, {} made again, \
         the longest took {} ms",
        at(0.5),
        at(1.0),
        ledger.rate(),
        ledger.faults.len(),
        ledger.retries,
        ledger.longest.as_millis()
    );
    results.amount("cutover", "pause p99", "ms", at(0.99), Some(AIM), note);
    Ok(())
}
