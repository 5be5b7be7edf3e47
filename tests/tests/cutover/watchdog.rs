//! A run without its operator: a daemon ends it, and the application waits for the budget and little
//! more.
//!
//! The points at which the operator dies are drawn from a printed seed; `MODSHIFT_SEED` repeats them,
//! `MODSHIFT_SOAK=1` takes them all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, Modshift, drained, drained_back, random::Random, wait_until};

use crate::site::{LIMIT, Site, metric, sample, says, seed};

const BUDGET: Duration = Duration::from_secs(6);
/// As `modshift_cutover::watch` states it, and as much again for the load of this machine.
const BEYOND: Duration = modshift_cutover::watch::BEYOND.saturating_mul(2);

/// From the fence on the application waits.
const POINTS: [&str; 14] = [
    "before_fence",
    "after_fence",
    "before_drain",
    "after_drain",
    "before_counters",
    "after_counters",
    "before_publish",
    "after_publish",
    "before_seal",
    "after_seal",
    "before_open",
    "mid_open",
    "shard_opened",
    "before_end",
];
const ONLY_FORWARD: [&str; 4] = ["before_open", "mid_open", "shard_opened", "before_end"];
const KILLS: usize = 3;

/// Who serves, and whether the run is over, by what `status` says.
async fn ended(site: &Site, side: &str) -> Result<()> {
    wait_until("the run to be ended by a daemon", LIMIT, || async {
        let (_, said) = site.estate.modshift(["status"]).finish(LIMIT).await?;
        let serves = format!("the {side} shards serve");
        let over = ["finishes it", " is at it)", " tries to end it"];
        Ok((said.contains(&serves) && !over.iter().any(|words| said.contains(words))).then_some(()))
    })
    .await
}

async fn left_at(site: &Site, command: &str, point: &'static str) -> Result<Modshift> {
    let process = site.estate.modshift([command, "--wait", "150s"]).hold(point, 1).start()?;
    let held = process.wait_hold(point, LIMIT).await;
    held.with_context(|| format!("modshift {command}:\n{}", process.output()))?;
    Ok(process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_operator_dies_is_ended_by_a_daemon() -> Result<()> {
    let mut random = Random::new(seed("watched")?);
    let budget = format!("{}s", BUDGET.as_secs());
    let site = Site::start(2, 3, Log::Direct, random.next(), &budget).await?;
    let writer = site.writer(random.next(), 60.0).await?;
    let daemons = site.daemons()?;
    let mut serving = "old";
    // At least one of either kind.
    let mut points = sample(&mut random, &POINTS[..10], KILLS - 1);
    points.extend(sample(&mut random, &ONLY_FORWARD, 1));
    for point in points {
        let (command, other) =
            if serving == "old" { ("cutover", "new") } else { ("rollback", "old") };
        let context = || format!("{point} of {command}\n{}", says(&daemons));
        let process = left_at(&site, command, point).await.with_context(context)?;
        // The pause has begun a moment before.
        let begun = Instant::now();
        process.kill_9()?;
        let end = if ONLY_FORWARD.contains(&point) { other } else { serving };
        writer.commits(10, LIMIT).await.with_context(context)?;
        let waited = begun.elapsed();
        println!("killed at {point} of {command}: {:.1} s", waited.as_secs_f64());
        ensure!(waited < BUDGET + BEYOND, "{waited:?}: {}", context());
        ended(&site, end).await.with_context(context)?;
        ensure!(site.accepts(true).await? == end, "{}", context());
        serving = end;
        writer.commits(20, LIMIT).await.with_context(context)?;
    }
    let audit = site.command(&["audit"], &[0]).await?;
    ensure!(audit.contains("watchdog on run"), "{audit}");
    writer.stop().await.with_context(|| says(&daemons))?;
    if serving == "old" {
        drained(&site.estate, LIMIT).await?;
        site.estate.oracle().compare().await?.ensure_clean()
    } else {
        drained_back(&site.estate, LIMIT).await?;
        site.estate.oracle_back().compare().await?.ensure_clean()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_stood_still_is_told_that_a_daemon_has_taken_over() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 35, "6s").await?;
    let writer = site.writer(35, 60.0).await?;
    let daemons = site.daemons()?;
    let file = site.estate.dir().join("release");
    let launch = site.estate.modshift(["cutover", "--wait", "150s"]);
    let first = launch.hold_until("after_publish", 1, &file).start()?;
    let held = first.wait_hold("after_publish", LIMIT).await;
    held.with_context(|| format!("{}\n{}", first.output(), says(&daemons)))?;
    let begun = Instant::now();
    first.sigstop()?;
    writer.commits(20, LIMIT).await.with_context(|| says(&daemons))?;
    let waited = begun.elapsed();
    println!("frozen: {:.1} s", waited.as_secs_f64());
    ensure!(waited < BUDGET + BEYOND, "{waited:?}: {}", says(&daemons));
    ended(&site, "old").await.with_context(|| says(&daemons))?;
    // From the fence on, and not since the daemon has been at it.
    let told = daemons[0].wait_line("undone by this daemon; clients waited for ", LIMIT).await?;
    let told = told.split("waited for ").nth(1).and_then(|rest| rest.split(' ').next());
    let told: f64 = told.context("no time in the line")?.parse()?;
    ensure!((BUDGET.as_secs_f64()..=begun.elapsed().as_secs_f64() + 5.0).contains(&told), "{told}");

    std::fs::write(&file, "")?;
    first.sigcont()?;
    let status = first.wait_exit(LIMIT).await?;
    let said = first.output();
    ensure!(status.code() == Some(2), "{status}: {said}");
    ensure!(said.contains("the watchdog of") && said.contains("has taken over"), "{said}");
    ensure!(site.accepts(true).await? == "old");
    writer.commits(20, LIMIT).await.with_context(|| says(&daemons))?;
    writer.stop().await?;

    // One that tries in vain, for a dead shard keeps the run from its end, is as good as nobody.
    let killed = left_at(&site, "cutover", "after_fence").await?;
    site.estate.old[1].server.kill()?;
    killed.kill_9()?;
    let said = wait_until("all that answer to serve", LIMIT, || async {
        let (_, serves) = site.said().await?;
        let (side, at_it) = (&serves["side"], &serves["attended"]);
        Ok((side == "old" && at_it == "daemon").then_some(serves))
    });
    let said = said.await.with_context(|| says(&daemons))?;
    ensure!(metric(&daemons[0], "modshift_run_left").await? == 1.0, "{said}");
    let text = said["text"].as_str().unwrap_or_default();
    ensure!(text.starts_with("the old shards that answer serve (run cutover-"), "{text}");
    wait_until("the metric", LIMIT, || async {
        let serves = metric(&daemons[0], "modshift_serving{side=\"old\"}").await?;
        Ok((serves == 1.0).then_some(()))
    })
    .await?;
    site.estate.old[1].server.restart().await?;
    ended(&site, "old").await.with_context(|| says(&daemons))?;
    wait_until("the metric", LIMIT, || async {
        Ok((metric(&daemons[0], "modshift_run_left").await? == 0.0).then_some(()))
    })
    .await?;

    // One that could not end a run says so, and what it lacks.
    daemons[0].stop(LIMIT).await?;
    let command = "\n[[routing]]\nkind = \"command\"\nargv = [\"/no/such/program\"]\n";
    std::fs::write(site.estate.plan_path(), format!("{}{command}", site.estate.plan()))?;
    let unfit = site.daemons()?;
    unfit[0].wait_line("cannot end a cutover whose operator is gone", LIMIT).await?;
    let said = unfit[0].wait_line("there is no program /no/such/program", LIMIT).await?;
    ensure!(said.contains("routing target command-"), "{said}");
    drained(&site.estate, LIMIT).await?;
    site.estate.oracle().compare().await?.ensure_clean()
}
