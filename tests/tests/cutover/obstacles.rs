//! What would keep the application waiting is named by the gate; and what begins behind its back is
//! ended within the pause: events that run, and whoever holds a table whose triggers are handed over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use modshift_tests::{Address, Log, Modshift, estate::Shard, wait_until};
use mysql_async::{Conn, prelude::Queryable};

use crate::site::{LIMIT, Site, says};

/// An account that the plan does not name, and that reads.
const BI: &str = "bi";
/// Beyond what the undoing of a run takes of itself.
const UNDONE: Duration = Duration::from_secs(12);

async fn bi(shard: &Shard) -> Result<Conn> {
    let address = Address { user: BI.into(), password: BI.into(), ..shard.address() };
    let mut conn = address.connect().await?;
    conn.query_drop("SET autocommit = 1, wait_timeout = 600, idle_transaction_timeout = 0").await?;
    conn.query_drop("SET idle_readonly_transaction_timeout = 0, max_statement_time = 0").await?;
    Ok(conn)
}

/// Reads a table and stays in its transaction.
async fn reads(conn: &mut Conn, table: &str) -> Result<u64> {
    conn.query_drop("START TRANSACTION").await?;
    conn.query_drop(format!("SELECT 1 FROM {table} LIMIT 1")).await?;
    conn.query_first("SELECT CONNECTION_ID()").await?.context("no id")
}

/// Of an account that lives on new shard 2 of 3.
async fn foreign(shard: &Shard, id: u64) -> Result<()> {
    let sql = format!("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({id}, 2, 1, 1)");
    shard.address().run(sql).await
}

async fn has(shards: &[Shard], id: u64) -> Result<u64> {
    let mut found = 0;
    for shard in shards {
        let sql = format!("SELECT COUNT(*) FROM t_wallet WHERE id = {id}");
        found += shard.value::<u64>(&sql).await?;
    }
    Ok(found)
}

async fn named(site: &Site, daemons: &[Modshift], expected: &str) -> Result<()> {
    wait_until(&format!("the gate to name {expected}"), LIMIT, || async {
        let (code, said) = site.estate.modshift(["gate"]).finish(LIMIT).await?;
        Ok((code == 1 && said.contains(expected)).then_some(()))
    })
    .await
    .with_context(|| says(daemons))
}

async fn open(site: &Site, daemons: &[Modshift]) -> Result<()> {
    let open = site.command(&["gate", "--wait", "100s"], &[0]).await;
    open.map(drop).with_context(|| says(daemons))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_up_a_pause_is_named_before_it_and_ended_within() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 93, "60s").await?;
    let (old, new) = (&site.estate.old, &site.estate.new);
    for shard in old.iter().chain(new) {
        let server = &shard.server;
        server.run(&format!("CREATE USER {BI}@'%' IDENTIFIED BY '{BI}'")).await?;
        server.run(&format!("GRANT SELECT ON `{}`.* TO {BI}@'%'", shard.schema)).await?;
        // Events have the server's own settings.
        server.run("SET GLOBAL tx_read_only = 0, GLOBAL max_statement_time = 0").await?;
        server.run("SET GLOBAL autocommit = 1, GLOBAL sql_safe_updates = 0").await?;
    }
    for shard in old {
        for table in ["t_account_entry", "t_wallet"] {
            let sql = format!(
                "CREATE TRIGGER on_{table} BEFORE DELETE ON {table} FOR EACH ROW SET @gone = 1"
            );
            shard.run(&sql).await?;
        }
    }
    // One row that an event changes.
    let turning = 1_u64 << 42;
    let row =
        format!("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({turning}, 1, 1, 1)");
    old[1].run(&row).await?;
    old[1].server.run("CREATE DATABASE elsewhere").await?;
    let event = format!(
        "CREATE EVENT elsewhere.turn ON SCHEDULE EVERY 1 SECOND DISABLE DO BEGIN \
         DECLARE n INT DEFAULT 0; IF GET_LOCK('turn', 0) THEN REPEAT \
         UPDATE `{}`.t_wallet SET ver = ver + 1 WHERE id = {turning}; SET n = n + 1; \
         DO SLEEP(0.2); UNTIL n = 300 END REPEAT; END IF; END",
        old[1].schema
    );
    old[1].server.run(&event).await?;
    let daemons = site.daemons()?;
    open(&site, &daemons).await?;

    // A source that is down.
    old[0]
        .server
        .run("CHANGE MASTER 'up' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'")
        .await?;
    old[0].server.run("START SLAVE 'up'").await?;
    named(&site, &daemons, "old shard 0: it replicates from 127.0.0.1:1").await?;
    let refused = site.command(&["cutover", "--wait", "1s"], &[1]).await?;
    ensure!(refused.contains("STOP SLAVE `up`"), "{refused}");
    old[0].server.run("STOP SLAVE 'up'").await?;
    old[0].server.run("RESET SLAVE 'up' ALL").await?;

    // A reader, on either side; an event.
    for (shard, table) in [(&old[1], "t_wallet"), (&new[2], "t_account_entry")] {
        let mut reader = bi(shard).await?;
        let id = reads(&mut reader, table).await?;
        named(&site, &daemons, &format!("{BI} (connection {id}, open for")).await?;
        reader.query_drop("COMMIT").await?;
    }
    old[1].server.run("ALTER EVENT elsewhere.turn ENABLE").await?;
    old[1].server.run("SET GLOBAL event_scheduler = ON").await?;
    named(&site, &daemons, "event turn of").await?;
    old[1].server.run("SET GLOBAL event_scheduler = OFF").await?;
    old[1].server.run("ALTER EVENT elsewhere.turn DISABLE").await?;
    let sql = "SELECT MIN(ID) FROM information_schema.PROCESSLIST WHERE COMMAND = 'Connect' \
               AND DB = 'elsewhere'";
    let id: u64 = old[1].server.value(sql).await?;
    old[1].server.run(&format!("KILL {id}")).await?;
    open(&site, &daemons).await?;

    // Amid the pause, after the triggers have gone: an undoing does not wait for a reader.
    let killed = site.estate.modshift(["cutover", "--wait", "100s"]).hold("after_handover", 1);
    let killed = killed.start()?;
    let held = killed.wait_hold("after_handover", LIMIT).await;
    held.with_context(|| format!("{}\n{}", killed.output(), says(&daemons)))?;
    let mut reader = bi(&old[0]).await?;
    reads(&mut reader, "t_account_entry").await?;
    killed.kill_9()?;
    let begun = Instant::now();
    let undone = site.command(&["cutover", "--abort"], &[0]).await?;
    ensure!(begun.elapsed() < UNDONE, "undone after {:?}", begun.elapsed());
    ensure!(undone.contains("ended bi (connection"), "{undone}");
    ensure!(site.accepts(true).await? == "old");
    for shard in old {
        let sql =
            "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()";
        ensure!(shard.value::<u64>(sql).await? == 2, "{} lacks triggers", shard.schema);
    }
    let audit = site.command(&["audit"], &[0]).await?;
    ensure!(audit.contains("sessions ended by run cutover-"), "{audit}");

    // Behind the gate's back: readers on both sides, an event; and on a new shard that a former run
    // was barred from, a write that no reader may take for one of a shard that serves.
    let barred = "UPDATE modshift_token SET fence = 'cutover-0-00 barred' WHERE id = 1";
    new[2].address().run(barred).await?;
    let file = site.estate.dir().join("release");
    let launch = site.estate.modshift(["cutover", "--wait", "100s"]);
    let process = launch.hold_until("before_fence", 1, &file).start()?;
    process.wait_hold("before_fence", LIMIT).await.with_context(|| says(&daemons))?;
    let (mut here, mut there) = (bi(&old[0]).await?, bi(&new[1]).await?);
    reads(&mut here, "t_wallet").await?;
    reads(&mut there, "t_wallet").await?;
    old[1].server.run("ALTER EVENT elsewhere.turn ENABLE").await?;
    old[1].server.run("SET GLOBAL event_scheduler = ON").await?;
    let version = format!("SELECT ver FROM t_wallet WHERE id = {turning}");
    let before: u64 = old[1].value(&version).await?;
    wait_until("the event to run", LIMIT, || async {
        Ok((old[1].value::<u64>(&version).await? > before).then_some(()))
    })
    .await?;
    foreign(&new[2], turning + 1).await?;
    std::fs::write(&file, "")?;
    let status = process.wait_exit(LIMIT).await?;
    let said = process.output();
    ensure!(status.success(), "{said}\n{}", says(&daemons));
    ensure!(said.contains("ended a running event of"), "{said}");
    ensure!(said.matches("ended bi (connection").count() == 2, "{said}");
    let left: u64 = old[1].value(&version).await?;
    tokio::time::sleep(Duration::from_millis(800)).await;
    ensure!(old[1].value::<u64>(&version).await? == left, "the event goes on");
    let mut arrived = 0;
    for shard in new {
        let sql = format!("SELECT COALESCE(MAX(ver), 0) FROM t_wallet WHERE id = {turning}");
        arrived = shard.value::<u64>(&sql).await?.max(arrived);
    }
    ensure!(arrived == left, "{arrived} of {left} updates arrived");
    wait_until("the status to name the write", LIMIT, || async {
        let (code, said) = site.estate.modshift(["status"]).finish(LIMIT).await?;
        Ok((code == 4 && said.contains("new shard 2: group")).then_some(()))
    })
    .await
    .with_context(|| says(&daemons))?;
    ensure!(has(old, turning + 1).await? == 0, "it went to the old side");
    Ok(())
}
