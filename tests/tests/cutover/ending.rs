//! Going back for good or going on for good: the proof that a rollback may ask for, and a finish
//! that dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, drained_back, wait_until};
use mysql_async::prelude::Queryable;

use crate::site::{LIMIT, Site, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_for_a_proof_where_the_plan_asks_for_one() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 81, "60s").await?;
    let estate = &site.estate;
    std::fs::write(estate.plan_path(), estate.plan() + "\n[back]\nverify_age = \"1h\"\n")?;
    let writer = site.writer(81, 60.0).await?;
    let daemons = site.daemons()?;
    // Nothing of it is asked for on the way there.
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    writer.commits(30, LIMIT).await?;
    let refused = site.command(&["rollback"], &[1]).await?;
    ensure!(refused.contains("the rows were never verified"), "{refused}");
    ensure!(refused.contains("hint: modshift verify --back"), "{refused}");
    ensure!(refused.contains("take back.verify_age out of the plan"), "{refused}");
    ensure!(site.accepts(true).await? == "new", "a refused rollback changed who serves");

    site.command(&["verify", "--back"], &[0]).await.with_context(|| says(&daemons))?;
    let back = site.command(&["rollback", "--wait", "150s"], &[0]).await;
    let back = back.with_context(|| says(&daemons))?;
    ensure!(!back.contains("is asked for"), "{back}");
    writer.commits(30, LIMIT).await?;

    // The proof was of that time. Without the key a rollback goes as it always did.
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    let refused = site.command(&["rollback"], &[1]).await?;
    ensure!(refused.contains("the rows were never verified"), "{refused}");
    std::fs::write(estate.plan_path(), estate.plan())?;
    let back = site.command(&["rollback", "--wait", "150s"], &[0]).await;
    let back = back.with_context(|| says(&daemons))?;
    ensure!(back.contains("note: no proof of the way back is asked for"), "{back}");
    writer.stop().await?;
    ensure!(site.accepts(true).await? == "old");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_that_died_is_finished_by_another() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 82, "60s").await?;
    let estate = &site.estate;
    let daemons = site.daemons()?;
    let cut = site.command(&["cutover", "--wait", "150s"], &[0]).await;
    cut.with_context(|| says(&daemons))?;
    drained_back(estate, LIMIT).await?;
    for daemon in &daemons {
        daemon.stop(LIMIT).await?;
    }
    signals_end_what_waits(&site).await?;
    let refuses = async || {
        let (code, output) = estate.modshift(["run"]).finish(LIMIT).await?;
        // One of those after which the units of the daemons do not start them again.
        ensure!([3, 4].contains(&code) && output.contains("is finished"), "{code}: {output}");
        Ok(())
    };
    // Journaled and on no shard; then on some.
    for (point, nth) in [("finish_journaled", 1), ("finish_marked", 2)] {
        let held = estate.modshift(["finish"]).hold(point, nth).start()?;
        held.wait_hold(point, LIMIT).await.with_context(|| held.output())?;
        held.kill_9()?;
        refuses().await.with_context(|| format!("killed at {point}"))?;
        let refused = site.command(&["rollback"], &[1]).await?;
        ensure!(refused.contains("the reshard is finished"), "{refused}");
    }
    site.command(&["finish"], &[0]).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME IN ('modshift_token', 'modshift_progress', 'modshift_watermark', \
                   'modshift_parked', 'modshift_tables')";
        ensure!(shard.value::<u64>(sql).await? == 0, "tables are left on {}", shard.schema);
        let marks: u64 = shard.value("SELECT COUNT(*) FROM modshift_finished").await?;
        ensure!(marks == 1, "{marks} marks on {}", shard.schema);
    }
    refuses().await?;
    // What stands there now is the application's own.
    let late = "CREATE TRIGGER late BEFORE UPDATE ON t_user FOR EACH ROW SET NEW.ver = NEW.ver";
    estate.new[0].run(late).await?;
    let said = site.command(&["check", "--quick"], &[1]).await?;
    ensure!(said.contains("is finished") && !said.contains("late"), "{said}");
    // With its triggers back; let go; nobody's, and with no other reshard yet.
    for (point, nth) in [("unfence_put_back", 1), ("unfence_released", 1), ("unfence_forgotten", 1)]
    {
        let held = estate.modshift(["unfence"]).hold(point, nth).start()?;
        held.wait_hold(point, LIMIT).await.with_context(|| held.output())?;
        held.kill_9()?;
    }
    // One that is away keeps no other closed.
    estate.old[1].server.kill()?;
    let said = site.command(&["unfence"], &[2]).await?;
    ensure!(said.contains(&estate.old[1].server.port().to_string()), "{said}");
    estate.old[1].server.restart().await?;
    site.command(&["unfence"], &[0]).await?;
    for shard in &estate.old {
        ensure!(
            !shard.value::<bool>("SELECT @@read_only").await?,
            "{} is still fenced",
            shard.schema
        );
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME IN ('modshift_plan', 'modshift_handover')";
        ensure!(shard.value::<u64>(sql).await? == 0, "tables are left on {}", shard.schema);
    }
    let left: u64 = estate.new[0].value("SELECT COUNT(*) FROM modshift_fence").await?;
    ensure!(left == 0, "{left} servers are remembered");
    Ok(())
}

/// Each command amid a wait for a server: the first signal ends it, with a word about what may be left.
async fn signals_end_what_waits(site: &Site) -> Result<()> {
    /// The lock that it waits for would hold it for ever; far more than it takes under load.
    const PROMPT: Duration = Duration::from_secs(10);
    let estate = &site.estate;
    let (home, old) = (&estate.new[0], &estate.old[0]);
    let mut locked = home.address().connect().await?;
    locked.query_drop("LOCK TABLES modshift_audit WRITE").await?;
    let mut rows = old.address().connect().await?;
    rows.query_drop("LOCK TABLES t_wallet WRITE").await?;
    let waiting = "SELECT CAST(ID AS UNSIGNED) FROM information_schema.PROCESSLIST \
                   WHERE STATE LIKE 'Waiting for table%'";
    let done = "the same command";
    for (args, terminated, left) in [
        (&["check"][..], false, "ended by SIGINT"),
        (&["schema", "--apply"], true, "the same command creates the rest"),
        (&["finish"], false, done),
        (&["unfence"], true, done),
        (&["rearm", "--shard", "0", "--old"], false, "give the same command again"),
        (&["audit"], true, "ended by SIGTERM"),
    ] {
        let shard = if args[0] == "check" { old } else { home };
        let mut conn = shard.address().connect().await?;
        let before: Vec<u64> = conn.query(waiting).await?;
        let process = estate.modshift(args.iter().copied()).start()?;
        wait_until("it to wait for a table", LIMIT, async || {
            let now: Vec<u64> = shard.address().connect().await?.query(waiting).await?;
            ensure!(process.running()?, "it ended: {}", process.output());
            Ok(now.iter().any(|id| !before.contains(id)).then_some(()))
        })
        .await
        .with_context(|| format!("{args:?}: {}", process.output()))?;
        let begun = Instant::now();
        match terminated {
            true => process.sigterm()?,
            false => process.interrupt(LIMIT).await?,
        }
        let status = process.wait_exit(LIMIT).await?;
        let said = process.output();
        ensure!(begun.elapsed() < PROMPT, "{args:?} ended after {:?}", begun.elapsed());
        ensure!(status.code() == Some(2), "{args:?}: {status}\n{said}");
        ensure!(said.contains("modshift: ended by SIG") && said.contains(left), "{args:?}: {said}");
    }
    for conn in [&mut locked, &mut rows] {
        conn.query_drop("UNLOCK TABLES").await?;
    }
    let (code, said) = estate.modshift(["status"]).finish(LIMIT).await?;
    ensure!(said.contains("the new shards serve"), "status ended with {code}: {said}");
    Ok(())
}
