//! Servers that are to be promoted, each of them a real replica: what would go wrong with it, and where
//! the rows of each residue live.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::grants::grant;
use modshift_tests::place::RunDir;
use modshift_tests::process::Launch;
use modshift_tests::server::{ADMIN, PASSWORD};
use modshift_tests::{MariaDbOptions, MariaDbServer, wait_until};
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::case::{LIMIT, options};
use crate::report::Report;

const SCHEMA: &str = "pairs";
const WRITES_APART: Duration = Duration::from_millis(10);

/// One old shard with two replicas of which the first is promoted, and one that follows it.
struct Pair {
    primary: Arc<MariaDbServer>,
    replica: Arc<MariaDbServer>,
    dir: RunDir,
}

fn replica_options(server_id: u32) -> MariaDbOptions {
    options(server_id).arg("--log-slave-updates=ON").arg("--read-only=ON")
}

impl Pair {
    async fn start(first_id: u32) -> Result<Pair> {
        // Otherwise the replica would make its tables of another engine than its primary.
        let servers = [options(first_id), replica_options(first_id + 1)].map(MariaDbOptions::calm);
        let mut started = MariaDbServer::start_all(servers).await?.into_iter();
        let (Some(primary), Some(replica)) = (started.next(), started.next()) else {
            anyhow::bail!("no two servers");
        };
        let pair = Pair { primary, replica, dir: RunDir::create("promotion")? };
        pair.replica.follow(&pair.primary).await?;
        pair.run(&[
            &format!("CREATE DATABASE {SCHEMA}"),
            "CREATE TABLE t (id BIGINT, uid BIGINT, v INT NOT NULL DEFAULT 0, PRIMARY KEY (id, uid))",
            "CREATE TABLE other (id BIGINT PRIMARY KEY)",
            "CREATE USER app@'%' IDENTIFIED BY 'app'",
            "GRANT SELECT, INSERT ON pairs.* TO app@'%'",
            "INSERT INTO t SELECT seq, seq, 0 FROM seq_1_to_1000 WHERE seq % 10 < 7",
        ])
        .await?;
        Ok(pair)
    }

    /// On the primary, and waits until the replica has it.
    async fn run(&self, statements: &[&str]) -> Result<()> {
        for (number, sql) in statements.iter().enumerate() {
            let schema =
                if number == 0 && sql.starts_with("CREATE DATABASE") { "" } else { SCHEMA };
            self.primary
                .address()
                .with_schema(schema)
                .run(*sql)
                .await
                .with_context(|| sql.to_string())?;
        }
        self.replica.catch_up(&self.primary).await
    }

    async fn alone(&self, sql: &str) -> Result<()> {
        alone(&self.replica, sql).await
    }

    fn plan(&self) -> Result<PathBuf> {
        let (primary, replica) = (self.primary.port(), self.replica.port());
        let text = format!(
            "name = \"pairs\"\nscheme = \"promote\"\nmodulus = {{ old = 1, new = 2 }}\n\
             [defaults]\nhost = \"127.0.0.1\"\nuser = \"{ADMIN}\"\nschema = \"{SCHEMA}\"\n\
             password = \"${{MODSHIFT_PASSWORD}}\"\ntls = \"off\"\n\
             [[old]]\nport = {primary}\nreplicas = [\"127.0.0.1:{replica}\"]\n\
             application_host = \"vip-1\"\n[[new]]\n[[new]]\napplication_host = \"vip-2\"\n\
             [[table]]\nname = \"t\"\nkey = \"uid\"\nrule = \"floor_mod\"\n\
             [cutover]\naccounts = [\"app@%\"]\n"
        );
        let path = self.dir.join("plan.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn launch(&self, args: &[&str]) -> Result<Launch> {
        let plan = self.plan()?.display().to_string();
        let launch = Launch::new(args.iter().copied()).arg("--plan").arg(plan);
        Ok(launch.env("MODSHIFT_PASSWORD", PASSWORD))
    }

    async fn check(&self, args: &[&str]) -> Result<Report> {
        let args = [&["check", "--json"], args].concat();
        self.report(self.launch(&args)?).await
    }

    async fn report(&self, launch: Launch) -> Result<Report> {
        let (code, output) = launch.finish(LIMIT).await?;
        let json: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
        let report = Report { code, json };
        report.is_whole()?;
        Ok(report)
    }

    /// A fault with these words that is there, and goes with what mends it.
    async fn faulty(&self, rule: &str, words: &[&str], mend: &[&str]) -> Result<()> {
        let report = self.check(&["--quick"]).await?;
        let found = report.has("fault", rule, words, "")?;
        ensure!(
            !found.contains('*') && !format!("{:#}", report.json).contains("PASSWORD '*"),
            "{found}"
        );
        for sql in mend {
            self.replica.run(*sql).await.with_context(|| sql.to_string())?;
        }
        self.runs().await
    }

    /// Until the replica applies again.
    async fn runs(&self) -> Result<()> {
        self.run(&["INSERT INTO other SELECT COALESCE(MAX(id), 0) + 1 FROM other"]).await
    }
}

/// On this server alone, in no binlog.
async fn alone(server: &MariaDbServer, sql: &str) -> Result<()> {
    let mut conn = server.address().with_schema(SCHEMA).connect().await?;
    conn.query_drop("SET SESSION sql_log_bin = 0").await?;
    conn.query_drop(sql).await.with_context(|| sql.to_owned())
}

fn places(report: &Report) -> Result<Vec<(u64, u64, u64, bool)>> {
    let shards = report.json["mapping"]["shards"].as_array().context("no mapping")?;
    let number = |place: &Value, key: &str| place[key].as_u64().context(key.to_owned());
    let place = |place: &Value| {
        let in_place = place["in_place"].as_bool().context("in_place")?;
        let (rows, redundant) = (number(place, "rows")?, number(place, "rows_redundant")?);
        Ok((number(place, "residue")?, rows, redundant, in_place))
    };
    shards.iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_promoted_only_as_what_it_should_be() -> Result<()> {
    let pair = Pair::start(91).await?;
    // As it should be; of 700 rows 400 have an even key.
    let report = pair.check(&[]).await?;
    let faults: Vec<_> =
        report.findings()?.into_iter().filter(|finding| finding.severity != "note").collect();
    let ours = |rule: &str| rule != "restart" && rule != "disk";
    let faults: Vec<_> = faults.iter().filter(|finding| ours(&finding.rule)).collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    ensure!(places(&report)? == [(0, 400, 300, true), (1, 300, 400, false)], "{:#}", report.json);
    let (code, text) = pair.launch(&["check"])?.finish(LIMIT).await?;
    ensure!(code == 0 && text.contains("1 mod 2  old 0 127.0.0.1:"), "{code}: {text}");
    ensure!(text.contains("vip-2:") && !text.contains("move matrix"), "{text}");

    // What replicates otherwise than it should.
    for sql in ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 3600", "START SLAVE"] {
        pair.replica.run(sql).await?;
    }
    let undo = ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"];
    pair.faulty("promotion", &["new shard 1", "is held 1 h 0 min behind"], &undo).await?;
    pair.replica.run("STOP SLAVE SQL_THREAD").await?;
    pair.faulty("promotion", &["does not replicate", "Slave_SQL_Running No"], &["START SLAVE"])
        .await?;
    for sql in ["STOP SLAVE", "CHANGE MASTER TO MASTER_USE_GTID = no", "START SLAVE"] {
        pair.replica.run(sql).await?;
    }
    let undo = ["STOP SLAVE", "CHANGE MASTER TO MASTER_USE_GTID = slave_pos", "START SLAVE"];
    pair.faulty("promotion", &["by file and offset"], &undo).await?;
    for sql in
        ["STOP SLAVE", "SET GLOBAL replicate_do_table = 'pairs.t,pairs.other'", "START SLAVE"]
    {
        pair.replica.run(sql).await?;
    }
    let undo = ["STOP SLAVE", "SET GLOBAL replicate_do_table = ''", "START SLAVE"];
    pair.faulty("whole_log", &["new shard 1", "pairs.other"], &undo).await?;
    let set = |value: &str| format!("SET GLOBAL slave_run_triggers_for_rbr = {value}");
    for sql in ["STOP SLAVE", &set("YES"), "START SLAVE"] {
        pair.replica.run(sql).await?;
    }
    let undo = ["STOP SLAVE", &set("NO"), "START SLAVE"];
    pair.faulty("whole_log", &["slave_run_triggers_for_rbr is YES"], &undo).await?;

    // What it holds otherwise. No hash of a password is shown.
    pair.alone("ALTER USER app@'%' IDENTIFIED BY 'other'").await?;
    pair.faulty("accounts", &["app@%", "another password", "old shard 0"], &[]).await?;
    pair.alone("ALTER USER app@'%' IDENTIFIED BY 'app'").await?;
    pair.alone("REVOKE INSERT ON pairs.* FROM app@'%'").await?;
    pair.faulty("accounts", &["app@% lacks GRANT SELECT, INSERT ON `pairs`.*"], &[]).await?;
    pair.alone("DROP USER app@'%'").await?;
    pair.faulty("accounts", &["account app@% is missing"], &[]).await?;
    pair.alone("CREATE USER app@'%' IDENTIFIED BY 'app'").await?;
    pair.alone("GRANT SELECT, INSERT ON pairs.* TO app@'%'").await?;
    pair.alone("CREATE TABLE left_over (id INT PRIMARY KEY)").await?;
    pair.faulty("objects", &["table left_over"], &[]).await?;
    pair.alone("DROP TABLE left_over").await?;
    pair.alone("ALTER TABLE t ADD COLUMN extra INT").await?;
    pair.faulty("tables", &["new shard 1: table t", "extra"], &[]).await?;
    pair.alone("ALTER TABLE t DROP COLUMN extra").await?;

    // An account that may not look says so, and what lets it.
    pair.run(&[
        &format!("CREATE USER look@'%' IDENTIFIED BY '{PASSWORD}'"),
        "GRANT SELECT ON pairs.* TO look@'%'",
        "GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO look@'%'",
    ])
    .await?;
    let as_look = || -> Result<Launch> {
        let launch = pair.launch(&["check", "--json", "--quick"])?;
        let plan = pair.dir.join("plan.toml");
        let text = std::fs::read_to_string(&plan)?.replace(&format!("\"{ADMIN}\""), "\"look\"");
        std::fs::write(&plan, text)?;
        Ok(launch)
    };
    let report = pair.report(as_look()?).await?;
    for (rule, words) in [
        ("accounts", "cannot compare app@%: look may not"),
        ("followers", "look may not see what replicates from it"),
    ] {
        let mend = report.has("warning", rule, &[words], "GRANT")?;
        let (grant, _) = mend.split_once(';').context("no statement")?;
        pair.run(&[grant]).await?;
    }
    let report = pair.report(as_look()?).await?;
    report.has_no("accounts", &[])?;
    report.has_no("followers", &[])?;
    // That nobody is sent the binlog shows to who sees all sessions, too.
    pair.run(&[
        "REVOKE REPLICATION MASTER ADMIN ON *.* FROM look@'%'",
        "GRANT PROCESS ON *.* TO look@'%'",
    ])
    .await?;
    pair.report(as_look()?).await?.has_no("followers", &[])?;

    // Who follows it would be cut off from the other half.
    let follower = MariaDbServer::start(options(93)).await?;
    follower.follow(&pair.replica).await?;
    wait_until("the follower to be registered", LIMIT, || async {
        Ok((!pair.replica.query("SHOW SLAVE HOSTS").await?.is_empty()).then_some(()))
    })
    .await?;
    pair.faulty("followers", &["server_id 93", "cut off"], &[]).await?;
    follower.run("STOP SLAVE").await?;
    drop(follower);

    // What it wrote by itself is on no other server.
    pair.replica.address().with_schema(SCHEMA).run("INSERT INTO other VALUES (5000)").await?;
    pair.faulty("errant", &["has transactions that its primary lacks, up to 92-92-"], &[]).await?;

    // Years ago somebody has split them: there is nothing to promote, and each has its own rows.
    for sql in ["STOP SLAVE", "RESET SLAVE ALL"] {
        pair.replica.run(sql).await?;
    }
    let report = pair.check(&["--quick"]).await?;
    report.has("fault", "promotion", &["transactions of its own, and read_only is ON"], "")?;
    let joined = report.of_rule("promotion")?.iter().any(|f| f.mend.contains("START SLAVE"));
    ensure!(!joined, "a server with rows of its own is told to follow: {:#}", report.json);
    pair.replica.run("SET GLOBAL read_only = 0").await?;
    let replica = pair.replica.address().with_schema(SCHEMA);
    replica.run("DELETE FROM t WHERE uid % 2 = 0 AND id <= 500").await?;
    let report = pair.check(&[]).await?;
    report.has("note", "promotion", &["split already"], "")?;
    report.has_no("errant", &[])?;
    ensure!(report.code == 0, "{:#}", report.json);
    let gone = 200;
    ensure!(
        places(&report)? == [(0, 400, 300, true), (1, 300, 400 - gone, false)],
        "{:#}",
        report.json
    );
    Ok(())
}

/// Writes of an application until told to stop; no faster than a replica follows on a busy machine.
async fn write(primary: Arc<MariaDbServer>, stop: Arc<AtomicBool>) -> Result<()> {
    let address = primary.address().with_schema(SCHEMA);
    let mut conn = address.connect().await?;
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = n * 7919 % 1000;
        conn.query_drop(format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {key} AND {key} + 20"))
            .await?;
        conn.query_drop(format!("INSERT INTO t VALUES ({0}, {0}, 0)", 10_000 + n)).await?;
        conn.query_drop(format!("DELETE FROM t WHERE id = {}", 9_990 + n)).await?;
        tokio::time::sleep(WRITES_APART).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared_with_their_primary_while_it_is_written() -> Result<()> {
    let pair = Pair::start(94).await?;
    let second = MariaDbServer::start(replica_options(96).calm()).await?;
    second.follow(&pair.primary).await?;
    second.catch_up(&pair.primary).await?;
    // It needs no more rights than a reader has, and those come to the replicas by replication.
    grant(&pair.primary.address(), SCHEMA, "lean", "grants-old.sql")?;
    let three = |args: &[&str]| -> Result<Launch> {
        let launch = pair.launch(args)?;
        let path = pair.dir.join("plan.toml");
        let text = std::fs::read_to_string(&path)?.replace("new = 2", "new = 3");
        let text = text.replace(&format!("\"{ADMIN}\""), "\"lean\"");
        let text = text.replace("[[new]]\n[[new]]\napplication_host = \"vip-2\"\n", "");
        let listed = format!("\", \"127.0.0.1:{}\"]", second.port());
        std::fs::write(
            &path,
            text.replacen("\"]", &listed, 1)
                + "[verify]\nsettle_max = \"20s\"\n[gate]\nhold = \"1s\"\n",
        )?;
        Ok(launch)
    };
    let verify = async || -> Result<(i32, Value)> {
        let (code, output) = three(&["verify", "--json"])?.finish(LIMIT).await?;
        let json = serde_json::from_str(&output).with_context(|| format!("{code}: {output}"))?;
        Ok((code, json))
    };
    // What a reshard of an earlier time has left is not cleared away: it would be written on a replica.
    pair.run(&[
        "CREATE TABLE modshift_skip (what VARCHAR(9), source INT, name VARCHAR(99), \
         table_name VARCHAR(99) DEFAULT '', state VARCHAR(9), at DATETIME(6))",
        "INSERT INTO modshift_skip (what, source, name, state, at) VALUES \
         ('stream', 0, '1-1-1', 'asked', NOW(6)), ('group', 0, '1-1-1', 'passed', NOW(6))",
    ])
    .await?;
    second.catch_up(&pair.primary).await?;
    // Equal, whatever is written meanwhile.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(pair.primary.clone(), stop.clone()));
    let (code, report) = verify().await?;
    stop.store(true, Ordering::Relaxed);
    writer.await??;
    ensure!(code == 0 && report["tables"][0]["proof"] == true, "{code}: {report:#}");
    ensure!(report["tables"][0]["rows"].as_u64() >= Some(700), "{report:#}");
    let kept = "SELECT COUNT(*) FROM pairs.modshift_verify WHERE proof IS NOT NULL";
    ensure!(pair.primary.value::<u64>(kept).await? == 1, "no proof is kept on the primary");
    // Nothing was written on a replica: it goes on.
    let left = "SELECT COUNT(*) FROM pairs.modshift_skip WHERE what = 'stream'";
    ensure!(pair.replica.value::<u64>(left).await? == 1, "it was deleted on a replica");
    pair.run(&["INSERT INTO other VALUES (1)"]).await?;
    second.catch_up(&pair.primary).await?;
    ensure!(second.value::<u64>(kept).await? == 1, "the proof has not come to the replica");

    // The gate asks for that proof, for what check finds, and for a lag that holds.
    let (code, output) = three(&["gate", "--wait", "30s"])?.finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("gate: open"), "{code}: {output}");

    // Nobody writes now: what differs is found all the same, on the server that has it.
    for (server, sql) in [
        (&pair.replica, "UPDATE t SET v = -1 WHERE id = 10"),
        (&pair.replica, "DELETE FROM t WHERE id = 11"),
    ] {
        alone(server, sql).await?;
    }
    alone(&second, "INSERT INTO t VALUES (8888, 8888, 5)").await?;
    let (code, output) = three(&["gate"])?.finish(LIMIT).await?;
    ensure!(code == 0, "what was proven just now counts: {code}: {output}");
    let (code, report) = verify().await?;
    ensure!(code == 1 && report["tables"][0]["proof"] == false, "{code}: {report:#}");
    let found = report["mismatches"].as_array().context("no mismatches")?;
    let mut found: Vec<_> =
        found.iter().map(|row| (row["new"].as_u64(), row["kind"].as_str().unwrap_or(""))).collect();
    found.sort();
    ensure!(
        found == [(Some(1), "differs"), (Some(1), "missing"), (Some(2), "extra")],
        "{report:#}"
    );
    let (code, output) = three(&["gate"])?.finish(LIMIT).await?;
    ensure!(
        code == 1 && output.contains("old shard 0: 3 rows are known to differ"),
        "{code}: {output}"
    );
    // Mended, it is equal again, and the rows that were known are forgotten.
    let v: i64 = pair.primary.value("SELECT v FROM pairs.t WHERE id = 10").await?;
    alone(&pair.replica, &format!("UPDATE t SET v = {v} WHERE id = 10")).await?;
    let v: i64 = pair.primary.value("SELECT v FROM pairs.t WHERE id = 11").await?;
    alone(&pair.replica, &format!("INSERT INTO t VALUES (11, 11, {v})")).await?;
    alone(&second, "DELETE FROM t WHERE id = 8888").await?;
    let (code, report) = verify().await?;
    ensure!(code == 0 && report["tables"][0]["proof"] == true, "{code}: {report:#}");

    // One that does not follow has no position to be compared at.
    second.run("STOP SLAVE SQL_THREAD").await?;
    let (code, output) = three(&["verify"])?.finish(LIMIT).await?;
    let said = format!("replication into 127.0.0.1:{}", second.port());
    ensure!(code == 2 && output.contains(&said), "{code}: {output}");
    let (code, output) = three(&["gate"])?.finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("its lag is unknown"), "{code}: {output}");
    for option in ["--back", "--repair", "--continuous"] {
        let (code, output) = three(&["verify", option])?.finish(LIMIT).await?;
        ensure!(code == 3 && output.contains("scheme = \"copy\""), "{code}: {output}");
    }
    Ok(())
}

#[tokio::test]
async fn other_commands_refuse_such_a_plan_by_name() -> Result<()> {
    let dir = RunDir::create("promotion")?;
    let path = dir.join("plan.toml");
    let text = "name = \"pairs\"\nscheme = \"promote\"\nmodulus = { old = 1, new = 2 }\n\
                [defaults]\nuser = \"u\"\npassword = \"p\"\nschema = \"s\"\n\
                [[old]]\nhost = \"a\"\nreplicas = [\"b:1\"]\n\
                [[table]]\nname = \"t\"\nkey = \"id\"\nrule = \"floor_mod\"\n";
    std::fs::write(&path, text)?;
    for command in ["run", "cutover", "status"] {
        let launch = Launch::new([command, "--plan", &path.display().to_string()]);
        let (code, output) = launch.finish(LIMIT).await?;
        let said = format!("modshift {command} is for plans with scheme = \"copy\"");
        ensure!(code == 3 && output.contains(&said), "{code}: {output}");
        ensure!(output.contains("such a plan is for modshift check, "), "{output}");
    }
    Ok(())
}
