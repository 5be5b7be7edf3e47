//! An operator's process that dies, stands still, is slow, or is not alone.
//!
//! The points at which it is killed are drawn from a printed seed; `MODSHIFT_SEED` repeats them,
//! `MODSHIFT_SOAK=1` takes them all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, drained, drained_back, random::Random, wait_until};
use mysql_async::prelude::Queryable;

use crate::site::{LIMIT, Site, sample, says, seed};

/// Before and after each step, in order. From the last two on there is only forward.
const POINTS: [&str; 21] = [
    "before_close",
    "after_close",
    "before_gate",
    "after_gate",
    "before_fence",
    "after_fence",
    "before_drain",
    "after_drain",
    "before_counters",
    "after_counters",
    "before_handover",
    "shard_raised",
    "after_handover",
    "before_publish",
    "after_publish",
    "before_seal",
    "after_seal",
    "before_open",
    "mid_open",
    "after_open",
    "before_end",
];
const ONLY_FORWARD: [&str; 4] = ["before_open", "mid_open", "after_open", "before_end"];
/// Of a run that is being undone.
const UNDO_POINTS: [&str; 8] = [
    "before_turn",
    "before_undo_publish",
    "after_undo_publish",
    "before_undo_handover",
    "after_undo_handover",
    "before_undo_fence",
    "after_undo_fence",
    "before_end",
];
const KILLS: usize = 5;

async fn kill_at(site: &Site, args: &[&str], point: &'static str) -> Result<()> {
    let launch = site.estate.modshift(args.iter().copied()).hold(point, 1);
    let process = launch.start()?;
    let held = process.wait_hold(point, LIMIT).await;
    held.with_context(|| format!("modshift {}:\n{}", args.join(" "), process.output()))?;
    process.kill_9()?;
    println!("killed at {point} of {args:?}; {} serves", site.serves().await?);
    Ok(())
}

async fn triggers_are_on(site: &Site, side: &str) -> Result<()> {
    for (shards, of) in [(&site.estate.old, "old"), (&site.estate.new, "new")] {
        for shard in shards {
            let sql = "SELECT COUNT(*) FROM information_schema.TRIGGERS \
                       WHERE TRIGGER_SCHEMA = DATABASE()";
            let count: u64 = shard.value(sql).await?;
            ensure!(count == u64::from(of == side), "{count} triggers on {}", shard.schema);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_anywhere_leaves_what_can_be_resumed_or_undone() -> Result<()> {
    let mut random = Random::new(seed("killed")?);
    let site = Site::unwatched(2, 3, Log::Direct, random.next(), "120s").await?;
    for shard in &site.estate.old {
        shard.run("CREATE TRIGGER kept BEFORE UPDATE ON t_wallet FOR EACH ROW SET @a = 1").await?;
    }
    let writer = site.writer(random.next(), 100.0).await?;
    let daemons = site.daemons()?;
    let wait = ["--wait", "150s"];
    let mut serving = "old";
    for point in sample(&mut random, &POINTS, KILLS) {
        let (command, other) =
            if serving == "old" { ("cutover", "new") } else { ("rollback", "old") };
        let context = || format!("{point} of {command}\n{}", says(&daemons));
        kill_at(&site, &[command, wait[0], wait[1]], point).await.with_context(context)?;
        let before = site.serves().await?;
        let forward = random.percent(50);
        // A run that is killed before its first entry has never been.
        let end = if forward || ONLY_FORWARD.contains(&point) {
            if !forward {
                let refused = site.command(&[command, "--abort"], &[2]).await?;
                ensure!(refused.contains("may serve already"), "{refused}");
            }
            site.command(&[command, "--resume", wait[0], wait[1]], &[0])
                .await
                .with_context(context)?;
            other
        } else {
            site.command(&[command, "--abort"], &[0]).await.with_context(context)?;
            serving
        };
        let serves = site.serves().await?;
        ensure!(serves == end, "{serves} serves, not {end}; before: {before}; {}", context());
        triggers_are_on(&site, end).await.with_context(context)?;
        serving = end;
        writer.commits(40, LIMIT).await.with_context(context)?;
    }
    for point in sample(&mut random, &UNDO_POINTS, 2) {
        let command = if serving == "old" { "cutover" } else { "rollback" };
        let context = || format!("{point} while undoing {command}\n{}", says(&daemons));
        kill_at(&site, &[command, wait[0], wait[1]], "after_seal").await.with_context(context)?;
        kill_at(&site, &[command, "--abort"], point).await.with_context(context)?;
        // Whatever is asked for, it goes on undoing, but for a kill before it was written down.
        let ask = if point == "before_turn" { "--abort" } else { "--resume" };
        // A resume that only undoes is no success.
        let code = i32::from(ask == "--resume");
        site.command(&[command, ask], &[code]).await.with_context(context)?;
        ensure!(site.serves().await? == serving, "{}", context());
        triggers_are_on(&site, serving).await.with_context(context)?;
        writer.commits(40, LIMIT).await.with_context(context)?;
    }
    let ledger = writer.stop().await.with_context(|| says(&daemons))?;
    println!("{} transactions, {} made again", ledger.transactions, ledger.retries);
    if serving == "old" {
        drained(&site.estate, LIMIT).await?;
        site.estate.oracle().compare().await?.ensure_clean()
    } else {
        drained_back(&site.estate, LIMIT).await?;
        site.estate.oracle_back().compare().await?.ensure_clean()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operator_is_refused_by_name() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 31, "120s").await?;
    let daemons = site.daemons()?;
    let first =
        site.estate.modshift(["cutover", "--wait", "100s"]).hold("after_fence", 1).start()?;
    first.wait_hold("after_fence", LIMIT).await.with_context(|| says(&daemons))?;
    for ask in [&["cutover"][..], &["cutover", "--resume"], &["cutover", "--abort"], &["rollback"]]
    {
        let refused = site.command(ask, &[1]).await?;
        let name = format!("process {}", first.pid());
        ensure!(refused.contains(&name), "{name} is not named: {refused}");
    }
    first.kill_9()?;
    site.command(&["cutover"], &[1]).await?;
    site.command(&["cutover", "--abort"], &[0]).await?;
    ensure!(site.serves().await? == "old");
    Ok(())
}

/// Keeps read_only from being set on old shard 0, as the account that the fence does not kill. Not
/// before the copy: it would be in its way too.
async fn obstacle(site: &Site) -> Result<mysql_async::Conn> {
    site.command(&["gate", "--wait", "150s"], &[0]).await?;
    let mut conn = site.estate.old[0].address().connect().await?;
    // Of nobody's plan: the gate would find it, and no fence would be tried.
    conn.query_drop("CREATE DATABASE IF NOT EXISTS elsewhere").await?;
    conn.query_drop("CREATE TABLE IF NOT EXISTS elsewhere.held (id INT PRIMARY KEY)").await?;
    conn.query_drop("LOCK TABLES elsewhere.held WRITE").await?;
    Ok(conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_stood_still_can_do_nothing_once_another_has_taken_over() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 32, "600s").await?;
    let daemons = site.daemons()?;
    let obstacle = obstacle(&site).await.with_context(|| says(&daemons))?;
    let first = site.estate.modshift(["cutover", "--wait", "100s"]).stages().start()?;
    first.wait_stage("before_fence", LIMIT).await.with_context(|| says(&daemons))?;
    first.sigstop()?;
    // Its lock goes with its idle connection.
    wait_until("the second operator to be let in", LIMIT, || async {
        let launch = site.estate.modshift(["cutover", "--abort"]);
        let (code, output) = launch.finish(LIMIT).await?;
        ensure!(code == 0 || output.contains("is at it"), "{code}: {output}");
        if code != 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok((code == 0).then_some(()))
    })
    .await?;
    drop(obstacle);
    first.sigcont()?;
    let status = first.wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(2), "{status}: {}", first.output());
    ensure!(first.output().contains("has taken over"), "{}", first.output());
    for shard in &site.estate.old {
        ensure!(!shard.value::<bool>("SELECT @@read_only").await?, "fenced by a belated operator");
    }
    ensure!(site.serves().await? == "old");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_beyond_the_budget_is_undone_by_itself() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 33, "3s").await?;
    let writer = site.writer(33, 60.0).await?;
    let daemons = site.daemons()?;
    let obstacle = obstacle(&site).await.with_context(|| says(&daemons))?;
    let undone = site.command(&["cutover", "--wait", "100s"], &[1]).await?;
    ensure!(undone.contains("pause budget of 3000 ms"), "{undone}\n{}", says(&daemons));
    drop(obstacle);
    ensure!(site.serves().await? == "old");
    writer.commits(60, LIMIT).await?;
    writer.stop().await?;
    drained(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    site.estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_every_statement_and_changes_nothing() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 34, "60s").await?;
    let daemons = site.daemons()?;
    let gate = site.command(&["gate", "--wait", "100s"], &[0]).await;
    gate.with_context(|| says(&daemons))?;
    let script = site.command(&["cutover", "--dry-run"], &[0]).await?;
    for expected in [
        "old shard 0: SET GLOBAL read_only = 1;",
        "old shard 1: ALTER USER 'app'@'127.0.0.%' ACCOUNT LOCK;",
        "old shard 1: XA RECOVER;",
        "phase = 'fenced'",
        "new shard 0: SET GLOBAL read_only = 0;",
        "phase = 'serving'",
    ] {
        ensure!(script.contains(expected), "{expected} is not in\n{script}");
    }
    let of = |text: &str| script.find(text).context("not in the script");
    ensure!(of("phase = 'fenced'")? < of("phase = 'serving'")?);
    for shard in &site.estate.old {
        ensure!(!shard.value::<bool>("SELECT @@read_only").await?);
        let sql = "SELECT CAST(fence AS CHAR) FROM modshift_token";
        ensure!(shard.value::<Option<String>>(sql).await?.is_none(), "a marker was written");
    }
    let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME IN ('modshift_journal', 'modshift_operator', 'modshift_fence')";
    ensure!(site.estate.new[0].value::<u64>(sql).await? == 0, "a table was created");
    site.command(&["cutover", "--resume"], &[1]).await.map(drop)
}
