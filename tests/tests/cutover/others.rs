//! A server belongs to others too: another plan, another schema, the operator who set it up.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Log, estate::Shard, wait_until};

use crate::site::{APP_ACCOUNT, LIMIT, Site, says};

const LOCKED: &str = "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), 'false') = 'true' \
                      FROM mysql.global_priv WHERE User = 'app'";

async fn held(shard: &Shard) -> Result<Vec<String>> {
    let sql = "SELECT CONCAT(plan, ' ', shard, ' ', abandoned, server) FROM modshift.fences";
    let rows = shard.address().query(sql).await?;
    Ok(rows.into_iter().map(mysql_async::from_row::<String>).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_that_comes_to_nothing_is_undone() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 91, "60s").await?;
    let new = &site.estate.new[1];
    for sql in ["SET GLOBAL read_only = 0", "SET GLOBAL event_scheduler = ON"] {
        new.server.run(sql).await?;
    }
    // What stands there during an attempt that comes to nothing, and is ended after it.
    let (maintained, app) = (&site.estate.old[1], APP_ACCOUNT.replace('@', "'@'"));
    let lock = async |word: &str| {
        maintained.server.run(&format!("ALTER USER '{app}' ACCOUNT {word}")).await
    };
    for sql in ["SET GLOBAL read_only = 1", "SET GLOBAL event_scheduler = OFF"] {
        maintained.server.run(sql).await?;
    }
    lock("LOCK").await?;
    // Nobody has started the daemons.
    let gate = site.command(&["cutover", "--wait", "1s"], &[1]).await?;
    for sql in ["SET GLOBAL read_only = 0", "SET GLOBAL event_scheduler = ON"] {
        maintained.server.run(sql).await?;
    }
    lock("UNLOCK").await?;
    ensure!(gate.contains("undone"), "{gate}");
    ensure!(!new.value::<bool>("SELECT @@read_only").await?, "it stayed closed");
    ensure!(new.value::<String>("SELECT @@event_scheduler").await? == "ON", "its events stopped");
    ensure!(!new.value::<bool>(LOCKED).await?, "its accounts stayed locked");
    let shut = &site.estate.new[0];
    ensure!(shut.value::<bool>("SELECT @@read_only").await?, "one that was closed was opened");
    ensure!(held(new).await?.is_empty() && held(shut).await?.is_empty());

    // Killed before the gate: whoever comes next undoes the closing.
    let killed = site.estate.modshift(["cutover", "--wait", "60s"]).hold("after_close", 1);
    let killed = killed.start()?;
    killed.wait_hold("after_close", LIMIT).await?;
    ensure!(new.value::<bool>("SELECT @@read_only").await?, "not closed");
    ensure!(held(new).await? == ["orders new shard 1 01"], "{:?}", held(new).await?);
    killed.kill_9()?;
    site.command(&["cutover", "--abort"], &[0, 1]).await?;
    ensure!(!new.value::<bool>("SELECT @@read_only").await?, "it stayed closed");
    ensure!(new.value::<String>("SELECT @@event_scheduler").await? == "ON", "its events stopped");
    ensure!(held(new).await?.is_empty());
    ensure!(site.serves().await? == "old");

    // A later run that is undone leaves the old shards as it found them, not as the first attempt did.
    new.server.run("SET GLOBAL read_only = 1").await?;
    let daemons = site.daemons()?;
    let fenced = site.estate.modshift(["cutover", "--wait", "150s"]).hold("after_fence", 1);
    let fenced = fenced.start()?;
    let held = fenced.wait_hold("after_fence", LIMIT).await;
    held.with_context(|| format!("{}\n{}", fenced.output(), says(&daemons)))?;
    ensure!(site.accepts(false).await? == "none");
    fenced.kill_9()?;
    let undone = site.command(&["cutover", "--abort"], &[0]).await?;
    ensure!(site.accepts(true).await? == "old", "{undone}");
    let events = "SELECT @@event_scheduler";
    ensure!(maintained.value::<String>(events).await? == "ON", "its events stay stopped");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_opened_by_the_last_who_closed_it() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 92, "60s").await?;
    let (old, new) = (&site.estate.old[0], &site.estate.new[0]);
    let daemons = site.daemons()?;
    let other = "INSERT INTO modshift.fences VALUES \
                 ('other', 'old shard 7', 1, 1, '[]', UTC_TIMESTAMP(6))";
    // Sessions of an operator who waits are older than a server lets idle ones grow.
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        shard.server.run("SET GLOBAL wait_timeout = 1").await?;
    }
    let file = site.estate.dir().join("release");
    let process = site.estate.modshift(["cutover", "--wait", "100s"]);
    let process = process.hold_until("before_fence", 1, &file).start()?;
    process.wait_hold("before_fence", LIMIT).await.with_context(|| says(&daemons))?;
    let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND = 'Sleep' \
               AND TIME >= 2 AND USER <> 'event_scheduler'";
    wait_until("sessions that are older than that", LIMIT, || async {
        Ok((new.value::<u64>(sql).await? > 0).then_some(()))
    })
    .await?;
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    ensure!(status.success(), "{}\n{}", process.output(), says(&daemons));
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        shard.server.run("SET GLOBAL wait_timeout = 28800").await?;
    }
    ensure!(held(old).await? == ["orders old shard 0 11"], "{:?}", held(old).await?);
    ensure!(held(new).await?.is_empty());

    // Another plan has closed the same server since: it cannot serve.
    old.server.run(other).await?;
    let refused = site.command(&["rollback", "--wait", "100s"], &[1]).await?;
    ensure!(refused.contains("kept closed for old shard 7 of plan other"), "{refused}");
    ensure!(site.accepts(true).await? == "new");
    old.server.run("DELETE FROM modshift.fences WHERE plan = 'other'").await?;

    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "old");
    ensure!(held(old).await?.is_empty());
    ensure!(held(new).await? == ["orders new shard 0 11"], "{:?}", held(new).await?);
    Ok(())
}
