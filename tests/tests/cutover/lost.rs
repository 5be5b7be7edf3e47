//! A new shard that is dead for good after the cutover; and servers that say nothing while an operator
//! waits for them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{EstateOptions, Log, MariaDbOptions, MariaDbServer, drained_back, wait_until};

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

/// From the opening on nothing waits for it, and what is missing is named with what goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_of_a_new_shard_holds_up_nothing_but_itself() -> Result<()> {
    let site = Site::unwatched(1, 2, Log::Direct, 94, "60s").await?;
    let shard = &site.estate.new[1];
    let replica = MariaDbServer::start(MariaDbOptions::with_server_id(305)).await?;
    replica.follow(&shard.server).await?;
    replica.catch_up(&shard.server).await?;
    let plain = site.estate.plan();
    let schema = format!("schema = \"{}\"\n", shard.schema);
    let listed = format!("{schema}replicas = [\"127.0.0.1:{}\"]\n", replica.port());
    std::fs::write(site.estate.plan_path(), plain.replace(&schema, &listed))?;
    let daemons = site.daemons()?;
    let file = site.estate.dir().join("release");
    let process = site.estate.modshift(["cutover", "--wait", "100s"]);
    let process = process.hold_until("before_open", 1, &file).start()?;
    let held = process.wait_hold("before_open", LIMIT).await;
    held.with_context(|| format!("{}\n{}", process.output(), says(&daemons)))?;
    replica.kill()?;
    std::fs::write(&file, "")?;
    process.wait_line("the new shards serve; the pause was", LIMIT).await?;
    ensure!(site.accepts(true).await? == "new");
    let waits = process.wait_line("not done yet, and tried again until it is: ", LIMIT).await?;
    ensure!(waits.contains(&replica.port().to_string()), "{waits}");
    ensure!(waits.contains("modshift cutover --resume goes on"), "{waits}");
    process.sigterm()?;
    let status = process.wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(2), "{status}: {}", process.output());
    // As its hint says: it is gone for good, and goes out of the plan.
    ensure!(process.output().contains("take out of the plan first what is gone for good"));
    std::fs::write(site.estate.plan_path(), plain)?;
    site.command(&["cutover", "--resume"], &[0]).await?;
    ensure!(site.serves().await? == "new" && site.accepts(true).await? == "new");
    drained_back(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    site.estate.oracle_back().compare().await?.ensure_clean()
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
