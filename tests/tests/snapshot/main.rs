//! Tables are copied while their rows are changed, deleted, inserted again and moved, faster than
//! a chunk is read; and a copy that is interrupted goes on where it was.

#![allow(clippy::print_stdout, reason = "a test says what it has seen")]

mod hot;
mod load;
mod resume;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Writer, WriterOptions, case::Size, copied, drained,
    process::http_get,
};

use crate::{hot::add_hot_tables, load::Load};

const LIMIT: Duration = Duration::from_secs(120);

/// The sum of a metric over its labels.
async fn metric(pages: &str, name: &str) -> Result<f64> {
    // A new counter shows 0 at its first scrape.
    http_get(&format!("{pages}/metrics")).await?;
    let (status, page) = http_get(&format!("{pages}/metrics")).await?;
    ensure!(status == 200, "/metrics answers {status}");
    let samples = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then_some(value.parse::<f64>())
    });
    let sum = samples.sum::<Result<f64, _>>().with_context(|| format!("{name} is no number"))?;
    // Of nothing it is minus zero.
    Ok(sum + 0.0)
}

async fn create_new_tables(estate: &Estate) -> Result<()> {
    let (code, output) = estate.modshift(["schema", "--apply"]).finish(LIMIT).await?;
    ensure!(code == 0, "modshift schema --apply ended with {code}:\n{output}");
    Ok(())
}

/// Copies hot tables under a hammer, with this `[snapshot]`. Counts of the reader: rows of chunks
/// left out, chunks read again.
async fn copy_under_load(old: usize, new: usize, snapshot: &str, seed: u64) -> Result<(f64, f64)> {
    const ROWS: u64 = 800;
    let options = EstateOptions {
        seed,
        size: Size::rows(2_400),
        create_new_tables: false,
        plan_tail: format!("[snapshot]\n{snapshot}\n"),
        ..EstateOptions::default()
    };
    let mut estate = Estate::start(old, new, options).await?;
    add_hot_tables(&mut estate, ROWS).await?;
    create_new_tables(&estate).await?;
    let load = Load::start(&estate, ROWS, &[0, 1, 2], 3, seed);
    let options = WriterOptions { seed, rate: Some(200.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let daemons = Daemons::start(&estate)?;
    let pages = daemons.reader()?.pages(LIMIT).await?;
    copied(&estate, LIMIT).await.with_context(|| daemons.output())?;
    let superseded = metric(&pages, "modshift_snapshot_rows_superseded_total").await?;
    let again = metric(&pages, "modshift_snapshot_chunks_read_again_total").await?;
    let rows = metric(&pages, "modshift_snapshot_rows").await?;
    let (commits, looks) = load.stop().await?;
    let ledger = writer.stop().await?;
    drained(&estate, LIMIT).await?;
    daemons.stop(LIMIT).await?;
    println!(
        "{old} -> {new}, seed {seed}: {rows} rows copied under {commits} transactions of the \
         hammer, {} of the writer and {looks} looks at the status; {superseded} rows of chunks \
         left out, {again} chunks read again",
        ledger.transactions
    );
    ensure!(commits > 0 && looks > 0, "there was no load");
    estate.oracle().compare().await?.ensure_clean()?;
    Ok((superseded, again))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_change_in_every_way_while_their_chunk_is_read() -> Result<()> {
    let snapshot = "chunk_rows_max = 40\nparallel = 8";
    let (superseded, _) = copy_under_load(2, 3, snapshot, 51).await?;
    ensure!(superseded > 0.0, "no row was changed while its chunk was on its way");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_whose_changed_keys_cannot_be_remembered_are_read_again() -> Result<()> {
    let snapshot = "chunk_rows_max = 100\nparallel = 4\ntouched_keys_max = 50";
    let (_, again) = copy_under_load(2, 3, snapshot, 52).await?;
    ensure!(again > 0.0, "50 keys were enough");
    Ok(())
}
