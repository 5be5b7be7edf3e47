//! What passes by itself is waited for, and said: in the log, on `/status` and by `modshift status`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Log, MariaDbOptions, MariaDbServer, Modshift, case::Size, copied,
    drained, grants::grant, process::http_get, wait_until,
};
use mysql_async::prelude::Queryable;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const TABLE: &str = "t_account_entry";
const ACCOUNT: &str = "resharder";

async fn daemon(estate: &Estate) -> Result<Modshift> {
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    copied(estate, LIMIT).await.with_context(|| daemon.last_words(40))?;
    Ok(daemon)
}

/// What it says on its page that it waits for, once that holds this text; and what `modshift status`
/// says of it.
async fn waits(estate: &Estate, daemon: &Modshift, text: &str) -> Result<()> {
    let pages = daemon.pages(LIMIT).await?;
    let what = format!("a wait for \"{text}\"");
    wait_until(&what, LIMIT, || async {
        let (_, body) = http_get(&format!("{pages}/status")).await?;
        let page: Value = serde_json::from_str(&body).context("no JSON")?;
        let lines = page["waits"].as_array().context("no waits")?.iter();
        let said = lines.filter_map(Value::as_str).any(|line| {
            line.contains(text) && (line.contains(" waits since ") || line.contains(" since "))
        });
        Ok(said.then_some(()))
    })
    .await
    .with_context(|| daemon.last_words(60))?;
    // As an operator would read it, who gives the address that the daemon listens on.
    let address = pages.trim_start_matches("http://").to_owned();
    // Over Kafka there could be one daemon for each end: here one is both.
    let roles = ["run", "replicator", "consumer"].map(|role| format!("{role} = \"{address}\"\n"));
    let plan = format!("{}\n[http]\n{}", estate.plan(), roles.concat());
    let path = estate.dir().join("told.toml");
    std::fs::write(&path, plan)?;
    let launch = modshift_tests::process::Launch::new(["status", "--plan"])
        .arg(path.display().to_string())
        .env("MODSHIFT_PASSWORD", modshift_tests::server::PASSWORD);
    let (_, said) = launch.finish(LIMIT).await?;
    ensure!(said.contains(text), "modshift status does not say \"{text}\":\n{said}");
    well(daemon).await
}

/// No stream of it has stopped.
async fn well(daemon: &Modshift) -> Result<()> {
    let (status, text) = http_get(&format!("{}/healthz", daemon.pages(LIMIT).await?)).await?;
    ensure!(status == 200, "/healthz answers {status}: {text}\n{}", daemon.last_words(60));
    Ok(())
}

/// Nothing is waited for any more, and old and new shards are equal.
async fn over(estate: &Estate, daemon: &Modshift) -> Result<()> {
    drained(estate, LIMIT).await.with_context(|| daemon.last_words(60))?;
    let pages = daemon.pages(LIMIT).await?;
    wait_until("the end of all waits", LIMIT, || async {
        let (_, body) = http_get(&format!("{pages}/status")).await?;
        let page: Value = serde_json::from_str(&body).context("no JSON")?;
        Ok(page["waits"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    well(daemon).await?;
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "the daemon ended with {code}:\n{}", daemon.last_words(60));
    estate.oracle().compare().await?.ensure_clean()
}

fn small(options: EstateOptions) -> EstateOptions {
    EstateOptions { size: Size::rows(300), neighbours: false, ..options }
}

/// A replica of this server from its first event on, whose binlog has everything too. What it writes
/// once it is promoted is of the same domain.
async fn replica(primary: &MariaDbServer, server_id: u32) -> Result<MariaDbServer> {
    let options = MariaDbOptions::with_server_id(server_id)
        .arg("--log-slave-updates=ON")
        .arg(&format!("--gtid-domain-id={}", primary.server_id()));
    let replica = MariaDbServer::start(options).await?;
    replica.follow(primary).await?;
    replica.catch_up(primary).await?;
    Ok(replica)
}

async fn logged_by(servers: &[&MariaDbServer]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for server in servers {
        all.push(server.value("SELECT @@gtid_binlog_pos").await?);
    }
    Ok(all)
}

/// Has it received all that the primary has logged by now?
async fn received(replica: &MariaDbServer, primary: &MariaDbServer) -> Result<()> {
    let at: String = primary.value("SELECT @@gtid_binlog_pos").await?;
    wait_until("the relay log", LIMIT, || async {
        let rows = replica.query("SHOW ALL SLAVES STATUS").await?;
        let row = rows.first().context("it follows nobody")?;
        let got: String = row.get_opt("Gtid_IO_Pos").context("no column")??;
        let (got, at): (modshift_proto::GtidSet, modshift_proto::GtidSet) =
            (got.parse()?, at.parse()?);
        Ok(got.contains(&at).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_moves_to_a_replica_before_its_relay_log_is_applied() -> Result<()> {
    // Without the way back and a verifier nothing but the applier writes on new shard 1.
    let plan_tail = "[back]\nenabled = false\n[verify]\ncontinuous = false\n".to_owned();
    let options = EstateOptions { proxies: true, seed: 91, plan_tail, ..EstateOptions::default() };
    // Of the other old shard there is always something to commit, on whatever server that would be.
    let mut estate = Estate::start(2, 3, small(options)).await?;
    let (old, new) = (estate.old[0].clone(), estate.new[1].clone());
    let (next_old, next_new) =
        tokio::try_join!(replica(&old.server, 301), replica(&new.server, 302))?;
    // The account that an operator creates.
    for (shards, file) in [(&estate.old, "grants-old.sql"), (&estate.new, "grants-new.sql")] {
        for shard in shards {
            grant(&shard.server.address(), &shard.schema, ACCOUNT, file)?;
        }
    }
    let plan = estate.plan().replace("user = \"modshift\"", &format!("user = \"{ACCOUNT}\""));
    std::fs::write(estate.plan_path(), plan)?;
    let daemon = daemon(&estate).await?;
    for (shard, next) in [(&old, &next_old), (&new, &next_new)] {
        next.catch_up(&shard.server).await?;
        next.run("STOP SLAVE SQL_THREAD").await?;
    }
    // Modshift's login may write there all the same, as it may on that of the new shard.
    next_old.run("SET GLOBAL read_only = 1").await?;
    old.run(&format!("UPDATE {TABLE} SET memo = 'late', ver = ver + 1")).await?;
    drained(&estate, LIMIT).await.with_context(|| daemon.last_words(60))?;
    let logged = logged_by(&[&next_old]).await?;
    for (shard, next, said) in [
        (&new, &next_new, "does not have all that was committed there yet"),
        (&old, &next_old, "has not applied all of its relay log yet"),
    ] {
        received(next, &shard.server).await?;
        shard.server.kill()?;
        shard.proxy.as_ref().context("no proxy")?.lead_to(next.port());
        waits(&estate, &daemon, said).await?;
    }
    let now = logged_by(&[&next_old]).await?;
    ensure!(logged == now, "a replica that was behind was written to: {logged:?}, {now:?}");

    // The promotion, as a failover tool does it.
    for next in [&next_old, &next_new] {
        next.run("START SLAVE SQL_THREAD").await?;
        applied(next).await?;
        next.run("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0").await?;
    }
    let schema = &old.schema;
    next_old.run(format!("UPDATE `{schema}`.{TABLE} SET memo = 'later', ver = ver + 1")).await?;
    estate.old[0].server = Arc::new(next_old);
    estate.new[1].server = Arc::new(next_new);
    over(&estate, &daemon).await
}

/// All that it has received.
async fn applied(replica: &MariaDbServer) -> Result<()> {
    wait_until("an applied relay log", LIMIT, || async {
        let rows = replica.query("SHOW ALL SLAVES STATUS").await?;
        let row = rows.first().context("it follows nobody")?;
        let text = |column: &str| -> Result<String> {
            Ok(row.get_opt::<String, _>(column).context("no column")??)
        };
        let received: modshift_proto::GtidSet = text("Gtid_IO_Pos")?.parse()?;
        let has: String = replica.value("SELECT @@gtid_slave_pos").await?;
        let has: modshift_proto::GtidSet = has.parse()?;
        Ok(has.contains(&received).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_shard_that_is_locked_or_without_room_says_so_and_goes_on_after_that() -> Result<()> {
    // One tablespace for all tables, of a size that somebody else's table fills.
    let full = |index: usize, options: MariaDbOptions| match index {
        0 => options
            .arg("--innodb-file-per-table=OFF")
            .arg("--innodb-data-file-path=ibdata1:12M:autoextend:max:40M"),
        _ => options,
    };
    let options =
        small(EstateOptions { new_options: Arc::new(full), seed: 92, ..EstateOptions::default() });
    let estate = Estate::start(1, 2, options).await?;
    let daemon = daemon(&estate).await?;
    let new = &estate.new[0];
    // As a backup holds it.
    let mut backup = new.server.connect().await?;
    backup.query_drop("FLUSH TABLES WITH READ LOCK").await?;
    let touched = format!("UPDATE {TABLE} SET ver = ver + 1");
    estate.old[0].run(&touched).await?;
    waits(&estate, &daemon, "a global read lock is held").await?;
    waits(&estate, &daemon, "wait until its backup is done").await?;
    let (code, said) = estate.modshift(["cutover"]).finish(LIMIT).await?;
    ensure!(code == 2 && said.contains("no answer in 10 s: a global read lock is held"), "{said}");
    backup.query_drop("UNLOCK TABLES").await?;
    new.server.run("CREATE DATABASE other; CREATE TABLE other.filler (b LONGBLOB)").await?;
    // Until no more goes in, by halves.
    let mut bytes = 4 << 20;
    while bytes > 4096 {
        let sql = format!("INSERT INTO other.filler VALUES (REPEAT('x', {bytes}))");
        if new.server.run(sql).await.is_err() {
            bytes /= 2;
        }
    }
    let note = "REPEAT('n', 100)";
    let more = format!(
        "INSERT INTO {TABLE} (accountNo, line_no, amount, memo, posted, ver) \
         SELECT seq, 9000000 + seq, 1, {note}, '2026-01-01', 1 FROM seq_1_to_20000"
    );
    estate.old[0].run(&more).await?;
    waits(&estate, &daemon, "has no room left").await?;
    waits(&estate, &daemon, "is full").await?;
    // A full tablespace does not even let a table go.
    new.server.stop().await?;
    let more = "--innodb-data-file-path=ibdata1:12M:autoextend:max:120M";
    new.server.restart_with(&["--innodb-file-per-table=OFF", more]).await?;
    over(&estate, &daemon).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_smaller_messages_for_a_while() -> Result<()> {
    let options = small(EstateOptions { log: Log::kafka(), seed: 93, ..EstateOptions::default() });
    let estate = Estate::start(1, 2, options).await?;
    let daemon = daemon(&estate).await?;
    let topics = estate.broker.as_ref().context("no broker")?.topics()?;
    let topic = "modshift.orders.changes";
    // The largest that the plan needs, as the daemon has made it.
    let limit = topics.setting(topic, "max.message.bytes").await?;
    topics.alter(topic, "max.message.bytes", "20000").await?;
    // Nothing that could be made smaller.
    let large = "UPDATE t_user SET ver = ver + 1, profile = (SELECT CONCAT('{\"a\":\"', \
                 GROUP_CONCAT(HEX(RANDOM_BYTES(1000)) SEPARATOR ''), '\"}') FROM seq_1_to_60) LIMIT 1";
    estate.old[0].run(large).await?;
    waits(&estate, &daemon, "does not take messages").await?;
    waits(&estate, &daemon, "max.message.bytes is 20000").await?;
    topics.alter(topic, "max.message.bytes", &limit).await?;
    over(&estate, &daemon).await
}
