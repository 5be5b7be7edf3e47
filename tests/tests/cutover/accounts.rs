//! A fence of accounts alone, for servers on which others live: there and back, and nobody else is
//! stopped.

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, EstateOptions, Log, drained, drained_back, estate::Shard, wait_until,
};
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says, unwatched};

const OTHER: &str = "blogger";
/// Reads in both schemas, and is none of the application's accounts.
const READER: &str = "reader";
/// The application's other account, for clients on the server's own host.
const APP_HERE: &str = "app@localhost";

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
    ensure!(checked.contains(&format!("new shards 0-{}: {named}", new.len() - 1)), "{checked}");
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

fn of(shard: &Shard, user: &str, schema: &str) -> Address {
    let (user, password) = (user.to_owned(), user.to_owned());
    Address { user, password, ..shard.address() }.with_schema(schema)
}

/// A session that has read a table and stays in its transaction; its connection.
async fn reads(address: &Address, table: &str) -> Result<(Conn, u64)> {
    let mut conn = address.connect().await?;
    conn.query_drop("SET wait_timeout = 600, idle_transaction_timeout = 0").await?;
    conn.query_drop("SET idle_readonly_transaction_timeout = 0, max_statement_time = 0").await?;
    conn.query_drop("START TRANSACTION").await?;
    conn.query_drop(format!("SELECT 1 FROM {table} LIMIT 1")).await?;
    let id = conn.query_first("SELECT CONNECTION_ID()").await?.context("no id")?;
    Ok((conn, id))
}

/// By the server's socket, as a client on its own host.
async fn by_socket(shard: &Shard) -> Result<Conn> {
    let path: String = shard.value("SELECT CONCAT(@@datadir, @@socket)").await?;
    let opts = OptsBuilder::from_opts(of(shard, APP, &shard.schema).opts()).socket(Some(path));
    Conn::new(opts).await.context("connecting by the socket")
}

/// On every shard of a side, and on none of the other.
async fn ticks_on(side: &[Shard], other: &[Shard]) -> Result<()> {
    let sql = "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE() \
               AND STATUS = 'ENABLED'";
    for (shards, expected) in [(side, 1), (other, 0)] {
        for shard in shards {
            let found: u64 = shard.value(sql).await?;
            ensure!(found == expected, "{} has {found} events", shard.schema);
        }
    }
    Ok(())
}

/// It changes the row, wherever that lives.
async fn ticks(shard: &Shard, row: u64) -> Result<()> {
    let sql = format!("SELECT ver FROM t_wallet WHERE id = {row}");
    let before: u64 = shard.value(&sql).await?;
    wait_until("the event to run", LIMIT, || async {
        Ok((shard.value::<u64>(&sql).await? > before).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_shared_server_only_sessions_that_may_hold_what_is_put_back_are_ended() -> Result<()> {
    let accounts = format!("\"{APP_ACCOUNT}\", \"{APP_HERE}\"");
    let usual = unwatched(options(Log::Direct, 64, "60s", &accounts));
    let plan_tail = usual.plan_tail.replace("[cutover]\n", "[cutover]\nfence = \"accounts\"\n");
    let site = Site::open(2, 3, EstateOptions { plan_tail, ..usual }).await?;
    let (old, new) = (&site.estate.old, &site.estate.new);
    let row = 1_u64 << 42;
    for shard in old.iter().chain(new) {
        neighbour(shard).await?;
        let schema = &shard.schema;
        for sql in [
            format!("CREATE USER {READER}@'%' IDENTIFIED BY '{READER}'"),
            format!("GRANT SELECT ON `{schema}`.* TO {READER}@'%'"),
            format!("GRANT SELECT ON blog.* TO {READER}@'%'"),
            format!("CREATE USER {APP_HERE} IDENTIFIED BY '{APP}'"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{schema}`.* TO {APP_HERE}"),
            // Events have the server's own settings.
            "SET GLOBAL tx_read_only = 0, GLOBAL max_statement_time = 0".to_owned(),
            "SET GLOBAL autocommit = 1, GLOBAL sql_safe_updates = 0".to_owned(),
        ] {
            shard.server.run(sql).await?;
        }
    }
    for shard in old {
        for sql in [
            "CREATE TRIGGER gone BEFORE DELETE ON t_wallet FOR EACH ROW SET @gone = 1".to_owned(),
            format!(
                "CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO UPDATE t_wallet SET ver = ver + 1 \
                 WHERE id = {row}"
            ),
        ] {
            shard.run(&sql).await?;
        }
    }
    // Old shard 1 of 2, new shard 1 of 3.
    let sql = format!("INSERT INTO t_wallet (id, accountNo, balance, ver) VALUES ({row}, 1, 1, 1)");
    old[1].run(&sql).await?;
    let daemons = site.daemons()?;
    let open = site.command(&["gate", "--wait", "100s"], &[0]).await;
    open.with_context(|| says(&daemons))?;

    // The triggers have gone, and are to be made again.
    let killed = site.estate.modshift(["cutover", "--wait", "100s"]).hold("after_handover", 1);
    let killed = killed.start()?;
    let held = killed.wait_hold("after_handover", LIMIT).await;
    held.with_context(|| format!("{}\n{}", killed.output(), says(&daemons)))?;
    killed.kill_9()?;
    // Nothing tells who holds a table: only one of these can.
    let (mut stranger, _) = reads(&of(&old[0], OTHER, "blog"), "post").await?;
    let of_both = of(&old[0], READER, "blog");
    let (mut elsewhere, first) = reads(&of_both, &format!("`{}`.t_wallet", old[0].schema)).await?;
    // Here the server tells it.
    old[1].server.run("INSTALL SONAME 'metadata_lock_info'").await?;
    let within = of(&old[1], READER, &old[1].schema);
    let (mut innocent, _) = reads(&within, "t_user").await?;
    let (mut guilty, second) = reads(&within, "t_wallet").await?;
    let undone = site.command(&["cutover", "--abort"], &[0]).await;
    let undone = undone.with_context(|| says(&daemons))?;
    ensure!(undone.matches("ended reader (connection").count() == 2, "{undone}");
    for (shard, id, held) in [(0, first, "may have held"), (1, second, "held")] {
        let named = format!("note: old shard {shard}: ended reader (connection {id}, open for");
        let line = undone.lines().find(|line| line.contains(&named));
        let held = format!("which {held} t_wallet");
        ensure!(line.is_some_and(|line| line.ends_with(&held)), "{named}, {held}: {undone}");
    }
    for conn in [&mut stranger, &mut innocent] {
        conn.query_drop("COMMIT").await.context("ended, and holds nothing of ours")?;
    }
    for conn in [&mut elsewhere, &mut guilty] {
        ensure!(conn.query_drop("COMMIT").await.is_err(), "not ended, and named");
    }
    ensure!(site.serves().await? == "old");
    ticks_on(old, new).await?;
    ticks(&old[1], row).await?;

    // There and back: with the events, and without whoever came by the socket.
    let mut here = by_socket(&old[0]).await?;
    let shown: String = here.query_first("SELECT USER()").await?.context("nobody")?;
    ensure!(shown == format!("{APP}@localhost"), "{shown}");
    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(here.query_drop("DO 1").await.is_err(), "a session by the socket outlived the fence");
    ensure!(by_socket(&old[0]).await.is_err(), "the socket is open");
    by_socket(&new[0]).await?.disconnect().await?;
    ticks_on(new, old).await?;
    ticks(&new[1], row).await?;
    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ticks_on(old, new).await?;
    ticks(&old[1], row).await?;
    by_socket(&old[0]).await?.disconnect().await?;
    Ok(())
}
