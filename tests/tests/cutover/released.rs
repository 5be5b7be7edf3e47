//! An operator's process that dies between any two of the statements that open a shard again: whoever
//! goes on leaves every server as it was before the run.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, estate::Shard};

use crate::site::{APP_ACCOUNT, LIMIT, Site, options, says, unwatched};

/// An account of the plan that was locked before anything began.
const SLEEPER: &str = "sleeper@%";
const POINT: &str = "mid_release";
/// Of one shard: its row, read_only, an account, replication, events, its row.
const POINTS: u32 = 6;

/// What a run changes and has to put back, and the rows that say so.
async fn state(shards: &[&Shard]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for shard in shards {
        let sql = "SELECT CONCAT_WS(' ', @@read_only, @@event_scheduler, (SELECT \
                   GROUP_CONCAT(User ORDER BY User) FROM mysql.global_priv \
                   WHERE JSON_VALUE(Priv, '$.account_locked') IN ('1', 'true')))";
        let mut found: String = shard.value(sql).await?;
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES \
                   WHERE TABLE_SCHEMA = 'modshift' AND TABLE_NAME = 'fences'";
        if shard.value::<u64>(sql).await? == 1 {
            let rows: u64 = shard.value("SELECT COUNT(*) FROM modshift.fences").await?;
            found += &format!(", {rows} rows");
        } else {
            found += ", 0 rows";
        }
        all.push(found);
    }
    Ok(all)
}

/// Whether the process came so far.
async fn killed(site: &Site, args: &[&str], nth: u32) -> Result<bool> {
    let process = site.estate.modshift(args.iter().copied()).hold(POINT, nth).start()?;
    match process.wait_hold(POINT, LIMIT).await {
        Ok(_) => process.kill_9().map(|_| true),
        Err(error) if process.running()? => Err(error),
        Err(_) => Ok(false),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_it_opens_a_shard_leaves_what_another_needs_to_finish_that() -> Result<()> {
    let accounts = format!("\"{APP_ACCOUNT}\", \"{SLEEPER}\"");
    let site = Site::open(1, 2, unwatched(options(Log::Direct, 67, "120s", &accounts))).await?;
    let (old, new) = (&site.estate.old, &site.estate.new);
    let shards: Vec<&Shard> = old.iter().chain(new).collect();
    for shard in &shards {
        for sql in [
            "CREATE USER sleeper@'%' ACCOUNT LOCK",
            "SET GLOBAL event_scheduler = ON",
            "SET GLOBAL read_only = 0",
        ] {
            shard.run(sql).await?;
        }
    }
    let before = state(&shards).await?;
    ensure!(before.iter().all(|state| state == "OFF ON mariadb.sys,sleeper, 0 rows"), "{before:?}");

    // The gate is closed, so the new shards, which were kept out, are let in again.
    let mut points = 0;
    while killed(&site, &["cutover"], points + 1).await? {
        points += 1;
        let half = state(&shards).await?;
        site.command(&["cutover", "--abort"], &[0]).await?;
        let after = state(&shards).await?;
        ensure!(after == before, "let in, killed at {points}: {half:?}, and then {after:?}");
    }
    ensure!(points == 2 * POINTS, "{points} points");
    let after = state(&shards).await?;
    ensure!(after == before, "not killed: {after:?}");

    // A fence that is undone.
    let daemons = site.daemons()?;
    modshift_tests::copied(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    for nth in 1..=POINTS {
        let fence = ["cutover", "--stop-writes", "--wait", "100s"];
        let process = site.estate.modshift(fence).hold("after_fence", 1).start()?;
        let held = process.wait_hold("after_fence", LIMIT).await;
        held.with_context(|| format!("{}\n{}", process.output(), says(&daemons)))?;
        process.kill_9()?;
        let fenced = state(&shards[..1]).await?;
        ensure!(fenced[0].starts_with("ON OFF"), "{fenced:?}");
        ensure!(killed(&site, &["cutover", "--abort"], nth).await?, "no point {nth}");
        let half = state(&shards).await?;
        site.command(&["cutover", "--abort"], &[0]).await.with_context(|| says(&daemons))?;
        let after = state(&shards).await?;
        ensure!(after == before, "undone, killed at {nth}: {half:?}, and then {after:?}");
    }
    ensure!(site.serves().await? == "old");
    Ok(())
}
