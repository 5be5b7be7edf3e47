//! What rows do not carry, what is fenced beside the shard's own server, and what is put back.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Address, EstateOptions, Log, MariaDbOptions, MariaDbServer,
    estate::Shard,
    rule::{Rule, TableRule},
    server::{ADMIN, PASSWORD},
    wait_until,
};

use crate::site::{APP, APP_ACCOUNT, LIMIT, Site, options, says};

/// Old shard 0 has events, a replica, and what it replicates from elsewhere under a name; nothing
/// of that runs behind the fence, and all of it again after an undoing.
#[tokio::test(flavor = "multi_thread")]
async fn events_replication_and_replicas_are_fenced_and_put_back() -> Result<()> {
    // What reaches it from elsewhere is in its own binlog too: without that it is refused.
    let usual = options(Log::Direct, 51, "60s", &format!("\"{APP_ACCOUNT}\""));
    let logs = Arc::new(|_, usual: MariaDbOptions| usual.arg("--log-slave-updates=ON"));
    let site = Site::open(2, 3, EstateOptions { old_options: logs, ..usual }).await?;
    let shard = &site.estate.old[0];
    let options = MariaDbOptions::with_server_id(301).arg("--event-scheduler=ON");
    let (replica, elsewhere) = tokio::try_join!(
        MariaDbServer::start(options),
        MariaDbServer::start(MariaDbOptions::with_server_id(302))
    )?;
    replicate(&shard.server, &replica, "").await?;
    replicate(&elsewhere, &shard.server, "elsewhere").await?;
    elsewhere.run("CREATE DATABASE inbound").await?;
    elsewhere.run("CREATE TABLE inbound.t (a INT PRIMARY KEY) ENGINE=InnoDB").await?;
    shard.server.run("SET GLOBAL event_scheduler = ON").await?;
    list_replica(&site, shard, &replica)?;
    let daemons = site.daemons()?;

    let held = site.estate.modshift(["cutover", "--wait", "100s"]);
    let held = held.hold("after_seal", 1).start()?;
    let reached = held.wait_hold("after_seal", LIMIT).await;
    reached.with_context(|| format!("{}\n{}", held.output(), says(&daemons)))?;
    for server in [&*shard.server, &replica] {
        let sql = "SELECT @@read_only AND @@event_scheduler = 'OFF'";
        ensure!(server.value::<bool>(sql).await?, "not fenced: {}", server.port());
    }
    ensure!(running(&shard.server, "elsewhere").await? == (false, false), "it still replicates");
    elsewhere.run("INSERT INTO inbound.t VALUES (1)").await?;
    held.kill_9()?;

    site.command(&["cutover", "--abort"], &[0]).await?;
    for server in [&*shard.server, &replica] {
        let sql = "SELECT NOT @@read_only AND @@event_scheduler = 'ON'";
        ensure!(server.value::<bool>(sql).await?, "not put back: {}", server.port());
    }
    wait_until("inbound replication", LIMIT, || async {
        let sql = "SELECT COUNT(*) FROM inbound.t";
        let rows = shard.server.value::<u64>(sql).await.unwrap_or(0);
        Ok((rows == 1).then_some(()))
    })
    .await?;
    ensure!(site.accepts(true).await? == "old");
    // Others were off, and stay off.
    let other = &site.estate.old[1];
    ensure!(other.value::<String>("SELECT @@event_scheduler").await? == "OFF");

    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    ensure!(site.accepts(true).await? == "new");
    ensure!(replica.value::<bool>("SELECT @@read_only").await?, "the replica takes writes");
    Ok(())
}

fn list_replica(site: &Site, shard: &Shard, replica: &MariaDbServer) -> Result<()> {
    let schema = format!("schema = \"{}\"\n", shard.schema);
    let listed = format!("{schema}replicas = [\"127.0.0.1:{}\"]\n", replica.port());
    let plan = site.estate.plan().replace(&schema, &listed);
    std::fs::write(site.estate.plan_path(), plan).context("writing the plan")
}

/// From its first event on.
async fn replicate(from: &MariaDbServer, to: &MariaDbServer, name: &str) -> Result<()> {
    for server in [from, to] {
        server.allow_replication().await?;
    }
    to.run(format!(
        "CHANGE MASTER '{name}' TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{ADMIN}',
         MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
        from.port()
    ))
    .await?;
    to.run(format!("START SLAVE '{name}'")).await
}

/// Of this connection: the one that reads, and the one that applies.
async fn running(server: &MariaDbServer, name: &str) -> Result<(bool, bool)> {
    let rows = server.query(format!("SHOW SLAVE '{name}' STATUS")).await?;
    let row = rows.first().context("no such connection")?;
    let is = |column: &str| row.get::<String, _>(column).is_some_and(|state| state != "No");
    Ok((is("Slave_IO_Running"), is("Slave_SQL_Running")))
}

/// A table whose keys the server gives out, and a sequence.
#[tokio::test(flavor = "multi_thread")]
async fn keys_given_out_after_a_cutover_are_fresh_and_interleaved() -> Result<()> {
    let site = Site::start(2, 3, Log::Direct, 52, "60s").await?;
    let estate = &site.estate;
    for shard in estate.old.iter().chain(&estate.new) {
        let table =
            "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, accountNo BIGINT NOT NULL";
        shard.run(&format!("CREATE TABLE t_note ({table}) ENGINE=InnoDB")).await?;
        shard.run("CREATE SEQUENCE numbers CACHE 10").await?;
        // What is given out is the shard key.
        let table = "accountNo BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY";
        shard.run(&format!("CREATE TABLE t_key ({table}) ENGINE=InnoDB")).await?;
    }
    // In steps, each shard from a residue of its own: as check advises, up, down and round.
    for (shards, first) in [(&estate.old, 500), (&estate.new, 702)] {
        let step = shards.len();
        for (number, shard) in shards.iter().enumerate() {
            let (up, down) = (first + number, first - step + number);
            let low = 1 + number;
            for sql in [
                format!("CREATE SEQUENCE up START WITH {up} INCREMENT BY {step} CACHE 7"),
                format!(
                    "CREATE SEQUENCE down START WITH -{down} INCREMENT BY -{step} MINVALUE -9000000"
                ),
                format!(
                    "CREATE SEQUENCE round START WITH {low} INCREMENT BY {step} MINVALUE {low} \
                     MAXVALUE 5000 CACHE 3 CYCLE"
                ),
            ] {
                shard.run(&sql).await?;
            }
        }
    }
    let rules = ["t_note", "t_key"]
        .map(|name| TableRule::new(name, Rule::floor_mod("accountNo")).rule.plan_toml(name));
    let plan = estate.plan().replace("[gate]", &format!("{}[gate]", rules.concat()));
    std::fs::write(estate.plan_path(), plan)?;
    // Of a plan without that table.
    std::fs::remove_file(&site.routing)?;
    // Disjoint, as an application with shards would have it; the last ones are deleted again, so
    // that no row says how far the counter is.
    let mut given = Vec::new();
    for (number, shard) in estate.old.iter().enumerate() {
        let first = 1_000 * (number + 1);
        for id in first..first + 50 {
            let account = number + 2 * id;
            shard.run(&format!("INSERT INTO t_note VALUES ({id}, {account})")).await?;
        }
        shard.run("INSERT INTO t_note (accountNo) VALUES (0)").await?;
        shard.run(&format!("DELETE FROM t_note WHERE id > {}", first + 48)).await?;
        for _ in 0..=number * 25 {
            given.push(shard.value::<i64>("SELECT NEXTVAL(numbers)").await?);
        }
    }
    let mut stepped = Stepped::default();
    for number in 0..estate.old.len() {
        estate.old[number].run(&format!("INSERT INTO t_key VALUES ({})", 90 + number)).await?;
        // One is far ahead of the other.
        for _ in 0..30 + 90 * number {
            stepped.take(&estate.old, number).await?;
        }
    }
    let daemons = site.daemons()?;
    site.command(&["cutover", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    for number in 0..estate.new.len() {
        for _ in 0..3 {
            stepped.take(&estate.new, number).await?;
        }
        let app =
            Address { user: APP.into(), password: APP.into(), ..estate.new[number].address() };
        let key: usize = app.value("INSERT INTO t_key VALUES (NULL) RETURNING accountNo").await?;
        ensure!(key > 91 && key % estate.new.len() == number, "key {key} on new shard {number}");
    }
    let (modulus, most) = (estate.new.len() as u64, *given.iter().max().context("none given")?);
    for (number, shard) in estate.new.iter().enumerate() {
        let app = Address { user: APP.into(), password: APP.into(), ..shard.address() };
        let insert = format!("INSERT INTO t_note (accountNo) VALUES ({number})");
        for _ in 0..2 {
            let id: u64 = app.value(format!("{insert} RETURNING id")).await?;
            ensure!(id > 2_050, "{id} on new shard {number} was given out before");
            ensure!(id % modulus == number as u64, "{id} on new shard {number}");
        }
        let next: i64 = shard.value("SELECT NEXTVAL(numbers)").await?;
        ensure!(next > most, "sequence value {next} on new shard {number} was given out before");
    }
    // They meet neither on the way back, nor does what the old shards give out meet them.
    let highest: u64 = {
        let mut highest = 0;
        for shard in &estate.new {
            highest = highest.max(shard.value("SELECT MAX(id) FROM t_note").await?);
        }
        highest
    };
    modshift_tests::drained_back(estate, LIMIT).await?;
    site.command(&["rollback", "--wait", "100s"], &[0]).await.with_context(|| says(&daemons))?;
    for number in 0..estate.old.len() {
        for _ in 0..3 {
            stepped.take(&estate.old, number).await?;
        }
    }
    for (number, shard) in estate.old.iter().enumerate() {
        let app = Address { user: APP.into(), password: APP.into(), ..shard.address() };
        let insert = format!("INSERT INTO t_note (accountNo) VALUES ({number}) RETURNING id");
        let id: u64 = app.value(insert).await?;
        ensure!(id > highest, "{id} on old shard {number} was given out before");
        let rows: u64 = shard.value("SELECT COUNT(*) FROM t_note WHERE id > 2050").await?;
        ensure!(rows >= 2, "{rows} rows came back to old shard {number}");
    }
    Ok(())
}

/// What sequences in steps have given out so far, on both sides.
#[derive(Default)]
struct Stepped {
    given: std::collections::BTreeSet<(&'static str, i64)>,
    /// The residue of each shard's, by the number of shards of its side.
    residues: std::collections::BTreeMap<(&'static str, usize, usize), i64>,
}

impl Stepped {
    /// The next of each: never one that was given out, and of its own residue for ever.
    async fn take(&mut self, shards: &[Shard], number: usize) -> Result<()> {
        for name in ["up", "down", "round"] {
            let next: i64 =
                shards[number].value(format!("SELECT NEXTVAL({name})").as_str()).await?;
            let new = self.given.insert((name, next));
            ensure!(new, "{name} of shard {number} of {} gives {next} again", shards.len());
            let residue = next.rem_euclid(shards.len() as i64);
            let before = *self.residues.entry((name, shards.len(), number)).or_insert(residue);
            ensure!(before == residue, "{name} of shard {number} gives {next}, not its own");
        }
        Ok(())
    }
}
