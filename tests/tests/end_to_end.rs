//! Whole reshards under a live writer, over both logs, every row compared at the end.

use std::time::Duration;

use anyhow::{Result, ensure};
use modshift_tests::{
    Daemons, Estate, EstateOptions, Log, Writer, WriterOptions, case::Size, drained, writer::Giants,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Reshards `old` shards to `new` ones while an application writes, asks the gate, and compares.
async fn reshard(old: usize, new: usize, log: Log, seed: u64) -> Result<()> {
    let options = EstateOptions {
        log,
        seed,
        size: Size::rows(12_000),
        create_new_tables: false,
        ..EstateOptions::default()
    };
    let estate = Estate::start(old, new, options).await?;
    let options = WriterOptions {
        seed,
        rate: Some(150.0),
        giants: Some(Giants { rows: 3_000, interval: Duration::from_secs(3) }),
        ..WriterOptions::default()
    };
    let writer = Writer::start(options, estate.old_routes()).await?;
    for command in [&["schema", "--apply"][..], &["check"]] {
        let (code, output) = estate.modshift(command.iter().copied()).finish(LIMIT).await?;
        ensure!(code == 0, "modshift {command:?} ended with {code}:\n{output}");
    }
    let daemons = Daemons::start(&estate)?;
    let (code, output) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemons.output());
    writer.commits(150, LIMIT).await?;
    let ledger = writer.stop().await?;
    drained(&estate, LIMIT).await?;
    daemons.stop(LIMIT).await?;
    ensure!(ledger.giants > 0, "no transaction of many rows took place");
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_four_in_one_process() -> Result<()> {
    reshard(3, 4, Log::Direct, 11).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_four_over_kafka() -> Result<()> {
    reshard(3, 4, Log::kafka(), 12).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_become_four_in_one_process() -> Result<()> {
    reshard(2, 4, Log::Direct, 13).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_become_four_over_kafka() -> Result<()> {
    reshard(2, 4, Log::kafka(), 14).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_become_three_in_one_process() -> Result<()> {
    reshard(4, 3, Log::Direct, 15).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_become_three_over_kafka() -> Result<()> {
    reshard(4, 3, Log::kafka(), 16).await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_become_one_in_one_process() -> Result<()> {
    reshard(5, 1, Log::Direct, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_become_one_over_kafka() -> Result<()> {
    reshard(5, 1, Log::kafka(), 18).await
}
