//! A reader that reads a replica and writes its token through the primary.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, MariaDbOptions, MariaDbServer, Writer, WriterOptions, case::Size,
    drained, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

/// A replica of this server from its first event on, whose binlog has everything too.
async fn replicate(primary: &MariaDbServer, server_id: u32) -> Result<MariaDbServer> {
    let options = MariaDbOptions::with_server_id(server_id).arg("--log-slave-updates=ON");
    let replica = MariaDbServer::start(options).await?;
    replica.follow(primary).await?;
    Ok(replica)
}

/// How many connections read this server's binlog.
async fn dumps(server: &MariaDbServer) -> Result<u64> {
    let sql =
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
    server.value(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reshard_from_a_replica_loses_nothing() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(4_000),
        gate: ("3s".to_owned(), "1s".to_owned()),
        ..EstateOptions::default()
    };
    let estate = Estate::start(2, 3, options).await?;
    let primary = &estate.old[0].server;
    let replica = replicate(primary, 301).await?;
    let address = format!("127.0.0.1:{}", replica.port());
    let shard = format!("schema = \"{}\"\n", estate.old[0].schema);
    let listed = format!("{shard}replicas = [\"{address}\"]\nread_from = \"{address}\"\n");
    std::fs::write(estate.plan_path(), estate.plan().replace(&shard, &listed))?;

    // The first position is the primary's: a replica that is behind has to be waited for.
    replica.catch_up(primary).await?;
    let options = WriterOptions { rate: Some(150.0), ..WriterOptions::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    writer.commits(50, LIMIT).await?;
    replica.run("STOP SLAVE SQL_THREAD").await?;
    writer.commits(50, LIMIT).await?;
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let waits = daemon.wait_line("from which it is read, is not as far as", LIMIT).await?;
    ensure!(waits.contains(&address), "{waits}");
    replica.run("START SLAVE").await?;
    let (code, output) = estate.modshift(["gate", "--wait", "100s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemon.last_words(60));
    ensure!(dumps(&replica).await? == 1, "nobody reads the replica's binlog");
    ensure!(dumps(primary).await? == 1, "somebody beside the replica reads the primary's binlog");
    writer.commits(100, LIMIT).await?;

    // The replica dies and comes back; the token goes on meanwhile.
    replica.kill()?;
    writer.commits(50, LIMIT).await?;
    replica.restart().await?;
    wait_until("the replica to go on", LIMIT, || async {
        // It begins by itself, or has to be told.
        replica.run("START SLAVE").await.ok();
        Ok((dumps(primary).await? == 1).then_some(()))
    })
    .await?;
    writer.commits(100, LIMIT).await?;
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemon.last_words(60))?;
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "the daemon ended with {code}:\n{}", daemon.last_words(60));
    estate.oracle().compare().await?.ensure_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_passes_nothing_on_is_refused() -> Result<()> {
    let options = EstateOptions { size: Size::rows(100), ..EstateOptions::default() };
    let estate = Estate::start(2, 3, options).await?;
    let silent = MariaDbServer::start(MariaDbOptions::with_server_id(302)).await?;
    let schema = &estate.old[1].schema;
    silent.run(format!("CREATE DATABASE `{schema}`")).await?;
    let address = format!("127.0.0.1:{}", silent.port());
    let shard = format!("schema = \"{schema}\"\n");
    let listed = format!("{shard}replicas = [\"{address}\"]\nread_from = \"{address}\"\n");
    std::fs::write(estate.plan_path(), estate.plan().replace(&shard, &listed))?;
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let line = daemon.wait_line("reader halted", LIMIT).await?;
    ensure!(line.contains("log_slave_updates") && line.contains(&address), "{line}");
    Ok(())
}
