//! A fence of accounts alone, for servers on which others live: there and back, and nobody else is
//! stopped.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Address, EstateOptions, Log, drained, drained_back, estate::Shard};
use mysql_async::prelude::Queryable;

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says};

const OTHER: &str = "blogger";

/// Another schema on the server, its account, and an event that works there.
async fn neighbour(shard: &Shard) -> Result<Address> {
    for sql in [
        "CREATE DATABASE blog".to_owned(),
        "CREATE TABLE blog.post (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY)".to_owned(),
        format!("CREATE USER {OTHER}@'%' IDENTIFIED BY '{OTHER}'"),
        format!("GRANT ALL ON blog.* TO {OTHER}@'%'"),
        "SET GLOBAL event_scheduler = ON".to_owned(),
        "SET GLOBAL read_only = 0".to_owned(),
    ] {
        shard.server.run(sql).await?;
    }
    let address = Address::admin(shard.server.port(), "blog");
    Ok(Address { user: OTHER.into(), password: OTHER.into(), ..address })
}

/// The others write on each server, and its events run.
async fn undisturbed(site: &Site, others: &[Address], when: &str) -> Result<()> {
    for other in others {
        let wrote = other.run("INSERT INTO post VALUES ()").await;
        wrote.with_context(|| format!("{when}: {other} is stopped"))?;
    }
    for shard in site.estate.old.iter().chain(&site.estate.new) {
        let sql = "SELECT NOT @@read_only AND @@event_scheduler = 'ON'";
        ensure!(
            shard.value::<bool>(sql).await?,
            "{when}: the server of {} is closed",
            shard.schema
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_of_accounts_goes_there_and_back_and_stops_nobody_else() -> Result<()> {
    let usual = options(Log::Direct, 63, "60s", &format!("\"{APP_ACCOUNT}\""));
    let plan_tail = usual.plan_tail.replace("[cutover]\n", "[cutover]\nfence = \"accounts\"\n");
    let site = Site::open(2, 3, EstateOptions { plan_tail, ..usual }).await?;
    let all = || site.estate.old.iter().chain(&site.estate.new);
    let (old, new) = (&site.estate.old, &site.estate.new);
    // Their servers are read-only, which such a fence does not end.
    let named = "is read-only, and a fence of accounts neither sets that nor ends it";
    let checked = site.command(&["check", "--quick"], &[1]).await?;
    for number in 0..new.len() {
        ensure!(checked.contains(&format!("new shard {number}: {named}")), "{checked}");
    }
    let refused = site.command(&["cutover", "--wait", "1s"], &[1, 2]).await?;
    ensure!(
        refused.contains("is read-only, and a fence of accounts does not end that"),
        "{refused}"
    );
    let mut others = Vec::new();
    for shard in all() {
        others.push(neighbour(shard).await?);
    }
    let checked = site.command(&["check", "--quick"], &[0, 1]).await?;
    ensure!(!checked.contains(named) && !checked.contains("schemas of others"), "{checked}");

    let daemons = site.daemons()?;
    let writer = site.writer(63, 60.0).await?;
    writer.commits(20, LIMIT).await?;
    let app = Address { user: APP.into(), password: APP.into(), ..old[1].address() };
    let mut pooled = app.connect().await?;
    let read = "SELECT COUNT(*) FROM t_wallet";
    pooled.query_drop(read).await?;
    let file = site.estate.dir().join("release");
    let process = site.estate.modshift(["cutover", "--wait", "100s"]);
    let process = process.hold_until("after_seal", 1, &file).start()?;
    let held = process.wait_hold("after_seal", LIMIT).await;
    held.with_context(|| format!("{}\n{}", process.output(), says(&daemons)))?;
    ensure!(site.accepts(false).await? == "none", "a side takes writes in the pause");
    ensure!(pooled.query_drop(read).await.is_err(), "a pooled session outlived the fence");
    undisturbed(&site, &others, "in the pause").await?;
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    ensure!(status.success(), "{}\n{}", process.output(), says(&daemons));
    ensure!(site.accepts(true).await? == "new");
    undisturbed(&site, &others, "behind the cutover").await?;
    writer.commits(30, LIMIT).await.with_context(|| says(&daemons))?;
    drained_back(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;

    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "old");
    undisturbed(&site, &others, "behind the rollback").await?;
    writer.commits(30, LIMIT).await.with_context(|| says(&daemons))?;
    writer.stop().await?;
    drained(&site.estate, LIMIT).await.with_context(|| says(&daemons))?;
    site.estate.oracle().compare().await?.ensure_clean()
}
