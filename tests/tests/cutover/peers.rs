//! A primary that replicates from its own replica: what that one took is not lost, and a restart does
//! not bring it in behind the fence.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, EstateOptions, Log, MariaDbOptions, MariaDbServer, estate::Shard, wait_until,
};

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says};

/// How long the primary is kept behind its peer.
const DELAY: &str = "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 2; START SLAVE";
const CLOSED: &str = "SELECT @@read_only = 1 AND @@event_scheduler <> 'ON'";

/// Old shard 0 has a peer, its replica and its source; the plan lists it as the former.
async fn with_peer() -> Result<(Site, MariaDbServer)> {
    let logs = Arc::new(|_, options: MariaDbOptions| options.arg("--log-slave-updates"));
    let usual = options(Log::Direct, 81, "60s", &format!("\"{APP_ACCOUNT}\""));
    let site = Site::open(2, 3, EstateOptions { old_options: logs, ..usual }).await?;
    let options = MariaDbOptions::with_server_id(301).arg("--log-slave-updates");
    let peer = MariaDbServer::start(options).await?;
    let first = &site.estate.old[0];
    peer.follow(&first.server).await?;
    peer.catch_up(&first.server).await?;
    first.server.follow(&peer).await?;
    let line = format!("schema = \"{}\"\n", first.schema);
    let listed = format!("{line}replicas = [\"127.0.0.1:{}\"]\n", peer.port());
    std::fs::write(site.estate.plan_path(), site.estate.plan().replacen(&line, &listed, 1))?;
    Ok((site, peer))
}

async fn closed(server: &MariaDbServer) -> Result<()> {
    wait_until("a server to be closed", LIMIT, || async {
        Ok(server.value::<bool>(CLOSED).await.unwrap_or_default().then_some(()))
    })
    .await
}

/// Neither thread of its connection runs.
async fn takes_nothing(first: &Shard) -> Result<bool> {
    let rows = first.server.query("SHOW SLAVE STATUS").await?;
    let state = |column: &str| rows.first().and_then(|row| row.get::<String, _>(column));
    let states = ["Slave_IO_Running", "Slave_SQL_Running"].map(state);
    Ok(states.iter().all(|state| state.as_deref() == Some("No")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_took_before_it_was_closed_is_on_the_new_shards() -> Result<()> {
    let (site, peer) = with_peer().await?;
    let first = &site.estate.old[0];
    // An attempt that came to nothing while replication was stopped counts for nothing later.
    first.server.run("STOP SLAVE").await?;
    site.command(&["cutover", "--wait", "1s"], &[1]).await?;
    first.server.run("START SLAVE").await?;
    let daemons = site.daemons()?;
    let gate = site.command(&["gate", "--wait", "100s"], &[0]).await;
    gate.with_context(|| says(&daemons))?;
    first.server.run(DELAY).await?;
    let app = Address {
        user: APP.into(),
        password: APP.into(),
        ..peer.address().with_schema(&first.schema)
    };
    let file = site.estate.dir().join("release");
    let process = site.estate.modshift(["cutover", "--wait", "100s"]);
    let process = process.hold_until("before_fence", 1, &file).start()?;
    process.wait_hold("before_fence", LIMIT).await.with_context(|| says(&daemons))?;
    let ids: Vec<u64> = (0..20).map(|n| (1 << 41) + n).collect();
    for id in &ids {
        // Of accounts that live on old shard 0.
        let account = id * 2;
        app.run(format!(
            "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({id}, {account}, 1, 1)"
        ))
        .await?;
    }
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    ensure!(status.success(), "{}\n{}", process.output(), says(&daemons));
    let mut found = 0;
    for shard in &site.estate.new {
        found += shard.value::<usize>("SELECT COUNT(*) FROM t_wallet WHERE id >= 1 << 41").await?;
    }
    ensure!(found == ids.len(), "{found} of {} acknowledged rows", ids.len());
    ensure!(takes_nothing(first).await?, "replication into the fenced shard runs");

    // The primary is away, and its peer starts again as its file has it.
    first.server.kill()?;
    peer.kill()?;
    peer.restart_with(&["--event-scheduler=ON"]).await?;
    peer.allow_replication().await?;
    closed(&peer).await.with_context(|| says(&daemons))?;
    ensure!(app.run("UPDATE t_wallet SET ver = ver + 1 LIMIT 1").await.is_err());
    first.server.restart_with(&["--event-scheduler=ON"]).await?;
    first.server.allow_replication().await?;
    closed(&first.server).await.with_context(|| says(&daemons))?;
    wait_until("replication to be stopped", LIMIT, || async {
        Ok(takes_nothing(first).await?.then_some(()))
    })
    .await
    .with_context(|| says(&daemons))?;
    // Its replica goes on.
    peer.catch_up(&first.server).await?;

    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "old");
    ensure!(!takes_nothing(first).await?, "replication is not put back");
    Ok(())
}
