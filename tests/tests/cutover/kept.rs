//! Fences that a server forgets at its restart, with nobody at them but the daemons.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, Log, Modshift, drained_back, estate::Shard, pages, process::http_get, wait_until,
};

use crate::site::{LIMIT, Site, says};

/// An account that no plan names, and that is not on its way to a planned table: what it may write
/// halts no reader.
const LATE: &str = "late";

async fn late(site: &Site) -> Result<()> {
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        for sql in [
            format!("CREATE USER {LATE}@'%' IDENTIFIED BY '{LATE}'"),
            "CREATE DATABASE elsewhere".to_owned(),
            "CREATE TABLE elsewhere.t (a INT AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB".to_owned(),
            format!("GRANT INSERT ON elsewhere.* TO {LATE}@'%'"),
        ] {
            shard.server.run(sql).await?;
        }
    }
    Ok(())
}

/// Its server is started again, and takes no write of that account some time later.
async fn closed_after_restart(shard: &Shard, daemons: &[Modshift]) -> Result<()> {
    shard.server.restart().await?;
    refused(shard).await.with_context(|| says(daemons))
}

async fn refused(shard: &Shard) -> Result<()> {
    let late = Address { user: LATE.into(), password: LATE.into(), ..shard.server.address() };
    wait_until("a write to be refused", LIMIT, || async {
        let written = late.run("INSERT INTO elsewhere.t () VALUES ()").await;
        Ok(written.is_err_and(|error| format!("{error:#}").contains("read-only")).then_some(()))
    })
    .await
}

async fn metric(daemon: &Modshift, line: &str) -> Result<()> {
    let address = pages::address(daemon).await?;
    wait_until(line, LIMIT, || async {
        let (_, text) = http_get(&format!("http://{address}/metrics")).await?;
        Ok(text.lines().any(|found| found == line).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_was_left_stays_closed_through_restarts() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 71, "60s").await?;
    late(&site).await?;
    let daemons = site.daemons()?;
    let (old, new) = (&site.estate.old[0], &site.estate.new[1]);
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    metric(&daemons[0], "modshift_fence_restored_total{side=\"old\",shard=\"0\"} 0").await?;

    old.server.kill()?;
    closed_after_restart(old, &daemons).await?;
    metric(&daemons[0], "modshift_fence_restored_total{side=\"old\",shard=\"0\"} 1").await?;
    metric(&daemons[0], "modshift_fence_open{side=\"old\",shard=\"0\"} 0").await?;
    wait_until("the status to say so", LIMIT, || async {
        let status = site.command(&["status"], &[0, 1, 2]).await?;
        Ok(status.contains("fence of old shard 0 put up again 1 times").then_some(()))
    })
    .await?;

    // A rollback opens what was closed again; and what it leaves is kept in turn.
    let back = site.command(&["rollback", "--wait", "150s"], &[0]).await;
    let said = back.with_context(|| says(&daemons))?;
    ensure!(said.contains("no proof of the way back is asked for"), "{said}");
    ensure!(site.accepts(true).await? == "old");
    new.server.kill()?;
    closed_after_restart(new, &daemons).await?;
    metric(&daemons[0], "modshift_fence_restored_total{side=\"new\",shard=\"1\"} 1").await?;
    // Meanwhile it has looked at the old shards several times.
    ensure!(site.accepts(true).await? == "old", "{}", says(&daemons));
    // One that serves is started again: nobody closes it.
    old.server.kill()?;
    old.server.restart().await?;
    new.server.kill()?;
    closed_after_restart(new, &daemons).await?;
    ensure!(site.accepts(true).await? == "old", "{}", says(&daemons));
    Ok(())
}

/// One object a line, in order of time; the steps with what they took, and the end with its exit code.
fn said_for_programs(output: &str) -> Result<()> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<serde_json::Value> =
        lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let at: Vec<&str> = lines.iter().filter_map(|line| line["at"].as_str()).collect();
    let whole = at.len() == lines.len() && at.iter().all(|at| at.len() == 24 && at.ends_with('Z'));
    ensure!(whole && at.is_sorted(), "{output}");
    let took = |what: &str| {
        let line = lines.iter().find(|line| line["kind"] == "measured" && line["what"] == what);
        line.and_then(|line| line["ms"].as_f64())
    };
    for what in ["fence", "drain", "publish", "open", "pause"] {
        ensure!(took(what).is_some_and(|ms| ms > 0.0), "no {what}: {output}");
    }
    let last = lines.last().context("nothing was said")?;
    let ended = last["kind"] == "end" && last["exit"] == 0 && last["text"] == "cutover: done";
    ensure!(ended, "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_close_again_is_said_loudly() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 72, "60s").await?;
    let daemons = site.daemons()?;
    let summary = site.command(&["cutover", "--dry-run", "--summary"], &[0]).await?;
    for (step, what) in [("fence", "statement"), ("routing", "version"), ("open", "statement")] {
        let is = |line: &str| line.starts_with(step) && line.contains(what);
        ensure!(summary.lines().any(is), "no {step} in it:\n{summary}");
    }
    ensure!(!summary.contains("UPDATE ") && summary.lines().count() < 80, "{summary}");
    let cut = site.command(&["cutover", "--wait", "150s", "--json"], &[0]).await;
    said_for_programs(&cut.with_context(|| says(&daemons))?)?;
    daemons[0].stop(LIMIT).await?;
    let old = &site.estate.old[0];
    old.server.run("SET GLOBAL read_only = 0").await?;
    let said = site.command(&["status"], &[4]).await?;
    ensure!(said.contains("FENCE OF old shard 0 IS OPEN"), "{said}");

    // With an account that may write there and no more.
    let user = "meek";
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        for sql in [
            format!("CREATE USER {user}@'%' IDENTIFIED BY '{}'", modshift_tests::server::PASSWORD),
            format!("GRANT ALL ON *.* TO {user}@'%'"),
            format!("REVOKE READ_ONLY ADMIN ON *.* FROM {user}@'%'"),
        ] {
            shard.server.run(sql).await?;
        }
    }
    let admin = format!("user = \"{}\"", modshift_tests::server::ADMIN);
    let plan = site.estate.plan().replace(&admin, &format!("user = \"{user}\""));
    std::fs::write(site.estate.plan_path(), plan)?;
    let meek = site.daemons()?;
    meek[0].wait_line("A FENCED SHARD TAKES WRITES", LIMIT).await?;
    metric(&meek[0], "modshift_fence_open{side=\"old\",shard=\"0\"} 1").await?;
    old.server.run("SET GLOBAL read_only = 1").await?;
    metric(&meek[0], "modshift_fence_open{side=\"old\",shard=\"0\"} 0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_cut_short_opens_the_rest_without_an_old_shard() -> Result<()> {
    let site = Site::unwatched(2, 3, Log::Direct, 73, "120s").await?;
    late(&site).await?;
    let writer = site.writer(73, 60.0).await?;
    let daemons = site.daemons()?;
    writer.commits(40, LIMIT).await.with_context(|| says(&daemons))?;
    let held =
        site.estate.modshift(["cutover", "--wait", "150s"]).hold("shard_opened", 1).start()?;
    held.wait_hold("shard_opened", LIMIT).await.with_context(|| says(&daemons))?;
    held.kill_9()?;
    let gone = &site.estate.old[1];
    gone.server.kill()?;
    // As it would be had it been killed a moment earlier.
    let shut = &site.estate.new[2];
    shut.server.run("SET GLOBAL read_only = 1").await?;

    let said = site.command(&["cutover", "--resume"], &[0]).await;
    let said = said.with_context(|| says(&daemons))?;
    ensure!(said.contains("old shard 1 does not answer"), "{said}");
    for shard in &site.estate.new {
        ensure!(!shard.value::<bool>("SELECT @@read_only").await?, "{} is shut", shard.schema);
    }
    writer.commits(60, LIMIT).await.with_context(|| says(&daemons))?;
    let said = site.command(&["status"], &[2]).await?;
    ensure!(said.contains("old shard 1 does not answer: whether its fence holds"), "{said}");
    ensure!(said.contains("the new shards serve"), "{said}");

    closed_after_restart(gone, &daemons).await?;
    writer.commits(40, LIMIT).await.with_context(|| says(&daemons))?;
    writer.stop().await?;
    drained_back(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "new");
    drained_back(&site.estate, LIMIT).await?;
    site.estate.oracle_back().compare().await?.ensure_clean()
}
