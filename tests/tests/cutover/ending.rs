//! Going back for good or going on for good: the proof that a rollback may ask for, and a finish
//! that dies.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, drained_back};

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
    site.command(&["unfence"], &[0]).await.map(drop)
}
