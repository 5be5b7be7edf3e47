//! Binlogs that look complete and are not: the token flows, and rows do not. Refused before
//! anything is read, and noticed while it is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, MariaDbOptions, MariaDbServer, case::Size, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Exit code of what a plan or its servers do not allow.
const REFUSED: i32 = 3;

#[tokio::test]
async fn a_binlog_that_leaves_statements_of_other_schemas_out_is_refused() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(50),
        // Even one that names the shard's own schema.
        old_options: std::sync::Arc::new(|_, usual| usual.arg("--binlog-do-db=shard_old_0")),
        new_options: std::sync::Arc::new(|_, usual| usual.arg("--binlog-ignore-db=ctl")),
        ..EstateOptions::default()
    };
    let estate = Estate::start(1, 2, options).await?;

    // Why: the binlog has nothing of this, and the rows are gone.
    let server = &estate.old[0].server;
    let position = "SELECT @@gtid_binlog_pos";
    server.run("CREATE DATABASE ctl").await?;
    let before: String = server.value(position).await?;
    server.address().with_schema("ctl").run("TRUNCATE TABLE shard_old_0.t_wallet").await?;
    let after: String = server.value(position).await?;
    ensure!(before == after, "the binlog went from {before} to {after}");

    let (code, output) = estate.modshift(["run", "--listen", "127.0.0.1:0"]).finish(LIMIT).await?;
    let old = "old shard 0: binlog_do_db is shard_old_0, so that statements of sessions in other";
    ensure!(code == REFUSED && output.contains(old), "{code}: {output}");
    let (code, output) = estate.modshift(["check", "--quick"]).finish(LIMIT).await?;
    let new = "new shards 0, 1: binlog_ignore_db is ctl, so that statements of sessions in other";
    for line in [old, new, "mend: take binlog_do_db out under [mariadbd] in my.cnf"] {
        ensure!(code == 1 && output.contains(line), "{code}: no {line}:\n{output}");
    }
    Ok(())
}

/// Each of these is asked again while the replica is read: it takes no new connection of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_begins_to_leave_changes_out_halts_its_reader() -> Result<()> {
    let options = EstateOptions { size: Size::rows(200), ..EstateOptions::default() };
    let estate = Estate::start(1, 2, options).await?;
    let (primary, schema) = (&estate.old[0].server, &estate.old[0].schema);
    let usual = MariaDbOptions::with_server_id(303).arg("--log-slave-updates=ON");
    let replica = MariaDbServer::start(usual).await?;
    replica.follow(primary).await?;
    replica.catch_up(primary).await?;
    let address = format!("127.0.0.1:{}", replica.port());
    let shard = format!("schema = \"{schema}\"\n");
    let listed = format!("{shard}replicas = [\"{address}\"]\nread_from = \"{address}\"\n");
    std::fs::write(estate.plan_path(), estate.plan().replace(&shard, &listed))?;

    let open = async || -> Result<()> {
        let (code, output) = estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT).await?;
        ensure!(code == 0, "the gate ended with {code}:\n{output}");
        Ok(())
    };
    let change = async |setting: &str| -> Result<()> {
        for sql in ["STOP SLAVE", &format!("SET GLOBAL {setting}"), "START SLAVE"] {
            replica.run(sql).await.with_context(|| sql.to_owned())?;
        }
        Ok(())
    };
    let daemon = || estate.modshift(["run", "--listen", "127.0.0.1:0"]).start();
    let running = daemon()?;
    open().await.with_context(|| running.last_words(60))?;
    change(&format!("replicate_ignore_table = '{schema}.t_wallet'")).await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    let named = format!("replicate_ignore_table is {schema}.t_wallet, so that changes of the");
    ensure!(halted.contains(&named) && halted.contains(&address), "{halted}");
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains(&named), "the gate says {code}: {output}");
    running.stop(LIMIT).await?;

    // The way out: nothing was written meanwhile, and it goes on where it was.
    change("replicate_ignore_table = ''").await?;
    let running = daemon()?;
    open().await.with_context(|| running.last_words(60))?;
    running.stop(LIMIT).await?;
    change("slave_exec_mode = 'IDEMPOTENT'").await?;
    let running = daemon()?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("slave_exec_mode is IDEMPOTENT, so that events"), "{halted}");
    ensure!(halted.contains("SET GLOBAL slave_exec_mode = 'STRICT'"), "{halted}");
    running.stop(LIMIT).await?;

    // One that stands and forgets its source is no gap: nothing comes, and the gate says so.
    change("slave_exec_mode = 'STRICT'").await?;
    let running = daemon()?;
    open().await.with_context(|| running.last_words(60))?;
    replica.run("STOP SLAVE").await?;
    replica.run("RESET SLAVE ALL").await?;
    let row = "INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES (1 << 42, 4, 1, 1)";
    estate.old[0].run(row).await?;
    wait_until("the gate to close", LIMIT, || async {
        let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
        ensure!(!output.contains("halted"), "it is no fault of the log: {output}");
        Ok((code == 1 && output.contains("old shard 0")).then_some(()))
    })
    .await
    .with_context(|| running.last_words(60))?;
    replica.follow(primary).await?;
    open().await.with_context(|| running.last_words(60))?;
    let count = "SELECT COUNT(*) FROM t_wallet WHERE id = 1 << 42";
    ensure!(estate.new[0].value::<u64>(count).await? == 1, "the row is lost");
    Ok(())
}
