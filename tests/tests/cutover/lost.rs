//! A new shard that is dead for good after the cutover; and servers that say nothing while an operator
//! waits for them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{EstateOptions, Log, drained_back, wait_until};

use crate::site::{APP, LIMIT, Site, options, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_without_a_dead_shard_is_refused_with_the_loss_and_goes_when_that_is_accepted()
-> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 92, "60s").await?;
    let daemons = site.daemons()?;
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "new");
    drained_back(&site.estate, LIMIT).await?;
    let refused = site.command(&["rollback", "--accept-loss", "2"], &[1]).await?;
    ensure!(refused.contains("new shard 2 answers"), "{refused}");

    site.estate.new[2].server.kill()?;
    let refused = site.command(&["rollback", "--wait", "5s"], &[1]).await?;
    for expected in [
        "new shard 2 does not answer",
        "s ago, has not come to all old shards and would be lost",
        "old shard 1 has it up to GTID",
        "rollback --accept-loss 2 goes without",
    ] {
        ensure!(refused.contains(expected), "{expected} is not in {refused}");
    }
    let back = site.command(&["rollback", "--accept-loss", "2", "--wait", "100s"], &[0]).await;
    back.with_context(|| says(&daemons))?;
    ensure!(site.serves().await? == "old");
    ensure!(site.accepts(true).await? == "old");
    // What had come over is there: the row that `accepts` wrote on the shard that died.
    let mut found = 0;
    for shard in &site.estate.old {
        let sql = "SELECT COUNT(*) FROM t_wallet WHERE accountNo = 3000002";
        found += shard.value::<u64>(sql).await?;
    }
    ensure!(found > 0, "what had come from the dead shard is gone");
    Ok(())
}

/// They take connections, and nothing moves: a disk that is full looks the same.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_hangs_on_a_server_that_says_nothing() -> Result<()> {
    let usual = options(Log::Direct, 93, "12s", &format!("\"{APP}@%\""));
    let site = Site::open(2, 3, EstateOptions { proxies: true, ..usual }).await?;
    let daemons = site.daemons()?;
    site.command(&["gate", "--wait", "150s"], &[0]).await.with_context(|| says(&daemons))?;
    for shard in [&site.estate.new[0], &site.estate.old[1]] {
        let proxy = shard.proxy.as_deref().context("no proxy")?;
        proxy.stall();
        let begun = Instant::now();
        site.command(&["cutover", "--wait", "10s"], &[1, 2]).await?;
        let took = begun.elapsed();
        println!("{} says nothing: {:.1} s", shard.schema, took.as_secs_f64());
        ensure!(took < Duration::from_secs(60), "{took:?}");
        proxy.reopen();
        wait_until("the run to be out of the way", LIMIT, || async {
            let (code, said) = site.estate.modshift(["cutover", "--abort"]).finish(LIMIT).await?;
            Ok((code == 0 || said.contains("no cutover is under way")).then_some(()))
        })
        .await?;
        ensure!(site.accepts(true).await? == "old");
    }
    Ok(())
}
