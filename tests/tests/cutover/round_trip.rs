//! There, back, there again, and the end of it.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, server::PASSWORD};

use crate::site::{APP, LIMIT, Site, says};

/// Stops just before the other side is let in: both sides must be the same, row by row.
async fn switch(site: &Site, command: &str) -> Result<()> {
    let estate = &site.estate;
    let file = estate.dir().join("release");
    std::fs::remove_file(&file).ok();
    let launch = estate.modshift([command, "--wait", "150s"]);
    let process = launch.hold_until("before_open", 1, &file).start()?;
    process.wait_hold("before_open", LIMIT).await.with_context(|| process.output())?;
    ensure!(site.accepts(false).await? == "none", "a fenced side accepts a write");
    let there = command == "cutover";
    // The fence may fall between the application's writes of a broadcast row to each shard; it makes
    // them again on the other side, and the end compares them.
    let oracle = if there { estate.oracle() } else { estate.oracle_back() };
    oracle
        .without_broadcasts()
        .compare()
        .await?
        .ensure_clean()
        .with_context(|| format!("at the {command}"))?;
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    println!("{}", process.output());
    ensure!(status.success(), "{command} ended with {status}");
    ensure!(site.serves().await? == if there { "new" } else { "old" });
    Ok(())
}

/// `continuous`: the daemons verify, and what changed last is compared amid each fence.
async fn round_trip(log: Log, seed: u64, continuous: bool) -> Result<()> {
    let site = Site::start(3, 4, log, seed, "60s").await?;
    let estate = &site.estate;
    let plan = estate.plan().replace("verify_age = \"none\"", "verify_age = \"1h\"");
    let verify = format!("\n[verify]\ncontinuous = {continuous}\n");
    std::fs::write(estate.plan_path(), plan + &verify)?;
    let writer = site.writer(seed, 150.0).await?;
    let daemons = site.daemons()?;
    ensure!(site.serves().await? == "old");
    writer.commits(50, LIMIT).await.with_context(|| says(&daemons))?;

    if !continuous {
        let refused = site.command(&["cutover"], &[1]).await?;
        ensure!(refused.contains("never verified"), "{refused}");
        modshift_tests::copied(estate, LIMIT).await.with_context(|| says(&daemons))?;
        site.command(&["verify"], &[0]).await.with_context(|| says(&daemons))?;
    }
    switch(&site, "cutover").await.with_context(|| says(&daemons))?;
    writer.commits(150, LIMIT).await.with_context(|| says(&daemons))?;

    // What goes back is proven where one asks for it; a rollback does not wait for that.
    site.command(&["verify", "--back"], &[0]).await.with_context(|| says(&daemons))?;
    switch(&site, "rollback").await.with_context(|| says(&daemons))?;
    writer.commits(150, LIMIT).await.with_context(|| says(&daemons))?;

    // What was proven before the rollback is no proof of what was written since.
    if !continuous {
        let refused = site.command(&["cutover"], &[1]).await?;
        ensure!(refused.contains("never verified"), "{refused}");
        site.command(&["verify"], &[0]).await.with_context(|| says(&daemons))?;
    }
    switch(&site, "cutover").await.with_context(|| says(&daemons))?;
    writer.commits(150, LIMIT).await.with_context(|| says(&daemons))?;
    let ledger = writer.stop().await?;
    println!(
        "{} transactions, {} refused and made again, longest gap {:?}",
        ledger.transactions,
        ledger.retries,
        ledger.longest_gap().map(|(_, gap)| gap)
    );
    modshift_tests::drained_back(estate, LIMIT).await.with_context(|| says(&daemons))?;
    estate.oracle_back().compare().await?.ensure_clean()?;

    // The end: not while a daemon runs, and nothing is let go by it.
    let refused = site.command(&["finish"], &[2]).await?;
    ensure!(refused.contains("still runs"), "{refused}");
    for daemon in &daemons {
        let code = daemon.stop(LIMIT).await?;
        ensure!(code == 0, "a daemon ended with {code}:\n{}", says(&daemons));
    }
    site.command(&["unfence"], &[1]).await?;
    site.command(&["finish"], &[0]).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME IN ('modshift_token', 'modshift_progress', 'modshift_watermark', \
                   'modshift_parked', 'modshift_tables')";
        ensure!(shard.value::<u64>(sql).await? == 0, "tables are left on {}", shard.schema);
    }
    for shard in &estate.old {
        ensure!(shard.value::<bool>("SELECT @@read_only").await?, "an old shard was let go");
    }
    site.command(&["rollback"], &[1]).await?;
    let (code, output) = estate.modshift(["run"]).finish(LIMIT).await?;
    ensure!(code == 4 && output.contains("is finished"), "{code}: {output}");
    // To a reader the old shards would be new: what it must know is on each of them.
    estate.new[0].run("RENAME TABLE modshift_journal TO kept_journal").await?;
    let (code, output) = estate.modshift(["run"]).finish(LIMIT).await?;
    ensure!(code == 3 && output.contains("is finished"), "without a journal, {code}: {output}");
    for shard in estate.old.iter().chain(&estate.new) {
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME = 'modshift_token'";
        ensure!(shard.value::<u64>(sql).await? == 0, "a stream was begun anew on {}", shard.schema);
    }
    estate.new[0].run("RENAME TABLE kept_journal TO modshift_journal").await?;
    site.command(&["unfence"], &[0]).await?;
    for shard in &estate.old {
        let mut app = shard.address();
        (app.user, app.password) = (APP.to_owned(), APP.to_owned());
        app.run("UPDATE t_currency SET ver = ver + 1").await.context(PASSWORD)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_and_there_again_and_finished_over_direct() -> Result<()> {
    round_trip(Log::Direct, 11, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_and_there_again_and_finished_over_kafka() -> Result<()> {
    round_trip(Log::kafka(), 12, true).await
}
