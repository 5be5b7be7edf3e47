//! Under load: lag is no damage, and a verifier that dies goes on where it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{EstateOptions, Writer, WriterOptions, case::Size, drained, server::Delay};

use super::{LIMIT, estate, killed_midway, mismatches, stop, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_late_stream_and_a_live_writer_are_no_damage() -> Result<()> {
    let options = EstateOptions {
        seed: 73,
        size: Size::rows(3_000),
        proxies: true,
        plan_tail: "[verify]\nsettle_max = \"3s\"\n".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    let options = WriterOptions { seed: 73, rate: Some(150.0), giants: None, ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    for (delay_ms, new_too) in [(0, false), (100, false), (60, true)] {
        for (index, shard) in estate.old.iter().chain(&estate.new).enumerate() {
            let delayed = index < estate.old.len() || new_too;
            let delay = Delay::UpTo(Duration::from_millis(delay_ms));
            let proxy = shard.proxy.as_ref().context("a proxy")?;
            proxy.delay(if delayed && delay_ms > 0 { delay } else { Delay::None });
        }
        writer.commits(30, LIMIT).await?;
        let (code, report) = verify(&estate, &["--fresh"]).await?;
        ensure!(mismatches(&report).is_empty(), "lag is called damage: {report:#}");
        ensure!(code == 0 || code == 2, "{code}\n{report:#}");
    }
    estate
        .old
        .iter()
        .chain(&estate.new)
        .filter_map(|s| s.proxy.as_ref())
        .for_each(|p| p.delay(Delay::None));

    // A stream that does not move at all: what was written since is not settled, and not damage.
    let proxy = estate.old[0].proxy.as_ref().context("a proxy")?;
    writer.stop().await?;
    drained(&estate, LIMIT).await?;
    daemon.sigstop()?;
    estate.old[0]
        .run("UPDATE t_trade_order SET note = 'while nobody looks' ORDER BY id LIMIT 3")
        .await?;
    let (code, report) = verify(&estate, &["--table", "t_trade_order"]).await?;
    ensure!(code == 2 && mismatches(&report).is_empty(), "{code}\n{report:#}");
    ensure!(report["tables"][0]["unsettled"] == 3, "{report:#}");
    daemon.sigcont()?;
    proxy.reopen();
    drained(&estate, LIMIT).await?;
    let (code, report) = verify(&estate, &["--table", "t_trade_order"]).await?;
    ensure!(code == 0, "{code}\n{report:#}");
    stop(&daemon).await?;
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_is_killed_goes_on_where_it_was() -> Result<()> {
    let options = EstateOptions {
        seed: 74,
        size: Size::rows(3_000),
        plan_tail: "[verify]\nchunk_rows_max = 50\n".to_owned(),
        ..Default::default()
    };
    let (estate, daemon) = estate(2, 3, options).await?;
    // Missing from the beginning of the table: the second process does not look there again, and
    // still knows.
    let id: u64 = estate.new[1].value("SELECT MIN(id) FROM t_trade_order").await?;
    estate.new[1].run(&format!("DELETE FROM t_trade_order WHERE id = {id}")).await?;
    let args = ["--table", "t_trade_order", "--max-rows-per-s", "100"];
    killed_midway(&estate, &estate.new, &args).await?;
    let known: u64 = estate.new[1].value("SELECT COUNT(*) FROM modshift_mismatch").await?;
    ensure!(known == 1, "{known} mismatches recorded");
    let chunks: u64 = estate.new[0].value("SELECT chunk FROM modshift_verify").await?;
    let (code, report) = verify(&estate, &["--table", "t_trade_order"]).await?;
    ensure!(code == 1 && report["tables"][0]["resumed"] == true, "{code}\n{report:#}");
    ensure!(report["tables"][0]["chunks"].as_u64() > Some(chunks), "{chunks} before\n{report:#}");
    ensure!(mismatches(&report) == [format!("t_trade_order id={id} missing")], "{report:#}");
    let rows: u64 = report["tables"][0]["rows"].as_u64().context("rows")?;
    let mut there = 0;
    for shard in &estate.old {
        there += shard.value::<u64>("SELECT COUNT(*) FROM t_trade_order").await?;
    }
    ensure!(rows == there, "{rows} rows compared, {there} are there");
    stop(&daemon).await
}
