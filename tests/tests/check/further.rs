//! Servers beside the primaries: replicas, the one that is read, and where it is rehearsed.

use anyhow::{Context, Result, ensure};
use modshift_tests::place::free_port;
use modshift_tests::server::PASSWORD;
use modshift_tests::{MariaDbOptions, MariaDbServer};
use mysql_async::prelude::Queryable;

use crate::case::{Case, NEW, OLD, disks_are_told, options};

/// Nothing comes without a shard key: the way back has nothing to say of it.
const KEYED: &str = "id BIGINT NOT NULL, uid BIGINT NOT NULL, PRIMARY KEY (id, uid)";
const TAIL: &str = "[cutover]\naccounts = [\"app@%\"]\n";

/// Both old shards, and all new ones.
struct Servers {
    old: MariaDbServer,
    new: MariaDbServer,
}

impl Servers {
    /// With nothing for a check to find.
    async fn start(first_id: u32) -> Result<Servers> {
        let old = MariaDbServer::start(options(first_id)).await?;
        let new = MariaDbServer::start(options(first_id + 1)).await?;
        for server in [&old, &new] {
            server.run("DELETE FROM mysql.global_priv WHERE User = 'root'").await?;
            server.run("FLUSH PRIVILEGES").await?;
            server.run("CREATE USER app@'%' IDENTIFIED BY 'app'").await?;
            server.run("INSTALL SONAME 'disks'").await?;
        }
        Ok(Servers { old, new })
    }

    async fn case(&self) -> Result<Case<'_>> {
        let (old, new) = (&self.old, &self.new);
        let case = Case::on([old, old, new, new, new], KEYED).await?;
        Ok(Case { tail: TAIL.to_owned(), ..case })
    }
}

fn replica_options(server_id: u32) -> MariaDbOptions {
    options(server_id).arg("--log-slave-updates=ON").arg("--read-only=ON")
}

fn at(server: &MariaDbServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// `[rehearse]` with these ports and schemas, in the order old, new; `user` where it is not empty.
fn rehearse(user: &str, shards: &[(u16, String)]) -> String {
    let mut text = "[rehearse]\n".to_owned();
    for (number, (port, schema)) in shards.iter().enumerate() {
        let side = if number < OLD { "old" } else { "new" };
        text += &format!("[[rehearse.{side}]]\nport = {port}\nschema = \"{schema}\"\n");
        if !user.is_empty() && number >= OLD {
            text += &format!("user = \"{user}\"\n");
        }
    }
    text
}

#[tokio::test]
async fn nothing_is_found_where_replicas_and_rehearsal_are_as_they_should_be() -> Result<()> {
    let servers = Servers::start(31).await?;
    let case = servers.case().await?;
    let replica = MariaDbServer::start(replica_options(41)).await?;
    replica.follow(&servers.old).await?;
    replica.catch_up(&servers.old).await?;
    let trial = MariaDbServer::start(options(51)).await?;
    let shards: Vec<_> = (0..OLD + NEW).map(|n| (trial.port(), format!("trial_{n}"))).collect();
    let replica_at = at(&replica);
    let case = Case {
        of_old_0: format!("replicas = [\"{replica_at}\"]\nread_from = \"{replica_at}\"\n"),
        tail: format!("{TAIL}{}", rehearse("", &shards)),
        ..case
    };
    // Which looks for keys that would meet, too; the binlog that it measures is the replica's.
    let list = case.dir.join("list.tsv").display().to_string();
    let report = case.check(&["--deep", "--collisions", &list]).await?;
    let read = format!("read_from {replica_at} of old shard 0");
    report.has("note", "retention", &[&read, "the binlog reaches back"], "")?;
    ensure!(report.of_rule("retention")?.len() == OLD, "{:#}", report.json);
    // What the harness has set by statements, a restart would forget.
    servers.old.run("SET GLOBAL sync_binlog = 1").await?;
    let report = case.quick().await?;
    let words =
        ["old shard 0", "sync_binlog = '1'", "set by SET GLOBAL since the server was started"];
    report.has("warning", "restart", &words, "under [mariadbd] in my.cnf: sync_binlog = 1, ")?;
    let findings = report.findings()?;
    let expected = |rule: &str| rule == "restart" || rule == "disk" && !disks_are_told();
    ensure!(findings.iter().all(|finding| expected(&finding.rule)), "{:#}", report.json);
    Ok(())
}

#[tokio::test]
async fn every_fault_of_a_replica_and_of_a_rehearsal_is_found_at_once() -> Result<()> {
    let servers = Servers::start(61).await?;
    let case = servers.case().await?;
    let old = &servers.old;
    // All may follow the primary with less than it has there.
    old.run(format!("CREATE USER poor@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    old.run("GRANT ALL ON *.* TO poor@'%' WITH GRANT OPTION").await?;

    let read = MariaDbServer::start(options(71)).await?;
    read.follow(old).await?;
    read.catch_up(old).await?;
    spoil(&read, &case.schema(0)).await?;
    case.run(
        0,
        "CREATE TABLE modshift_token (id TINYINT PRIMARY KEY, epoch BIGINT, clock DATETIME(6))",
    )
    .await?;
    case.run(0, "INSERT INTO modshift_token VALUES (1, 7, UTC_TIMESTAMP(6))").await?;

    let stranger = MariaDbServer::start(options(72)).await?;
    let stranger_user = format!("CREATE USER poor@'%' IDENTIFIED BY '{PASSWORD}'");
    stranger.run(stranger_user).await?;
    stranger.run("GRANT ALL ON *.* TO poor@'%'").await?;
    let dead = free_port()?;

    let trial = MariaDbServer::start(options(73).arg("--binlog-format=MIXED")).await?;
    trial.run(format!("CREATE USER weak@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
    trial.run("GRANT SELECT ON *.* TO weak@'%'").await?;
    trial.run("CREATE DATABASE trial_3").await?;
    trial.run("CREATE TABLE trial_3.orders (id INT PRIMARY KEY)").await?;

    let (read_at, stranger_at) = (at(&read), at(&stranger));
    let trial_on = |n: usize| (trial.port(), format!("trial_{n}"));
    let real = (old.port(), case.schema(1));
    let shards =
        [real, (read.port(), "trial".to_owned()), trial_on(2), trial_on(3), (dead, "x".to_owned())];
    // The plan's parser knows the same place by the same name: by another it is for the check.
    let tail = rehearse("weak", &shards).replacen("port", "host = \"localhost\"\nport", 1);
    let case = Case {
        of_old_0: format!(
            "user = \"poor\"\nreplica_server_id = 71\nread_from = \"{read_at}\"\n\
             replicas = [\"{read_at}\", \"{stranger_at}\", \"127.0.0.1:{dead}\"]\n"
        ),
        tail: format!("{TAIL}{tail}"),
        ..case
    };
    let report = case.quick().await?;
    let tailed = format!("read_from {read_at} of old shard 0");
    let other = format!("replica {stranger_at} of old shard 0");
    let rehearsal = format!("rehearsal server {}", at(&trial));
    let tailed_user = format!("{tailed}: user poor: lacks ");
    let dead_at = format!("replica 127.0.0.1:{dead}");
    let [tailed, other, rehearsal, tailed_user, dead_at] =
        [&tailed, &other, &rehearsal, &tailed_user, &dead_at].map(String::as_str);
    for (severity, rule, words, mend) in [
        ("fault", "reach", [dead_at, "refused"], "check host"),
        ("fault", "whole_log", [tailed, "log_slave_updates is OFF"], "log_slave_updates = ON"),
        ("fault", "whole_log", [tailed, "slave_exec_mode is IDEMPOTENT"], "= 'STRICT'"),
        ("fault", "binlog", [tailed, "binlog_row_image is MINIMAL"], "SET GLOBAL"),
        ("fault", "binlog", [tailed, "binlog_format is MIXED"], "SET GLOBAL"),
        ("warning", "binlog", [tailed, "binlog_checksum is off"], "SET GLOBAL"),
        ("fault", "durability", [tailed, "sync_binlog is 0"], "SET GLOBAL sync_binlog"),
        ("warning", "retention", [tailed, "3600 s only"], "binlog_expire_logs_seconds"),
        ("fault", "replica", [tailed, "held 1 h 0 min behind"], "MASTER_DELAY = 0"),
        ("warning", "replica", [tailed, "read_only is off"], "SET GLOBAL read_only = 1"),
        ("warning", "replica", [tailed, "written by itself, up to 71-71-"], "mariadb-binlog"),
        ("fault", "whole_log", [tailed, "replicate_wild_ignore_table is"], "SET GLOBAL"),
        ("fault", "read_from", [tailed, "modshift_token does not arrive"], "filters"),
        ("fault", "server_id", ["replica_server_id 71", tailed], "replica_server_id"),
        ("warning", "fence", [tailed, "has enabled events local_event"], "DISABLE ON SLAVE"),
        ("warning", "fence", [tailed, "local_boss@% may write"], "REVOKE READ_ONLY ADMIN"),
        ("warning", "fence", [tailed, "routine local_p of local_boss@%"], "take each down there"),
        ("warning", "xa", [tailed, "has prepared XA transactions"], "XA ROLLBACK"),
        ("fault", "grants", [tailed_user, "REPLICATION SLAVE"], "GRANT REPLICATION SLAVE"),
        ("warning", "grants", [tailed_user, "READ_ONLY ADMIN"], "GRANT READ_ONLY ADMIN"),
        ("warning", "replica", [other, "replicates from nobody"], "let it replicate from"),
        ("fault", "replica", [other, "shows no schema"], "replicate the schema"),
        ("warning", "replica", [other, "read_only is off"], "SET GLOBAL read_only = 1"),
        ("fault", "rehearsal", ["rehearsal of old shard 0", "of old shard 1 itself"], "name"),
        ("fault", "rehearsal", ["rehearsal of old shard 1", "its server is read_from"], "name"),
        ("warning", "rehearsal", ["rehearsal of new shard 1", "made: orders"], "name"),
        ("warning", "reach", ["rehearsal server 127.0.0.1", "refused"], "check host"),
        ("warning", "binlog", [rehearsal, "binlog_format is MIXED"], "SET GLOBAL"),
        ("warning", "grants", [rehearsal, "lacks REPLICATION SLAVE"], "GRANT REPLICATION SLAVE"),
        ("warning", "grants", [rehearsal, "on `trial_2`.*"], "WITH GRANT OPTION"),
    ] {
        report.has(severity, rule, &words, mend)?;
    }
    Ok(())
}

/// Everything that can be wrong with a replica that is read.
async fn spoil(replica: &MariaDbServer, schema: &str) -> Result<()> {
    let lax = ["--skip-log-slave-updates", "--skip-slave-start", "--event-scheduler=ON"];
    replica.stop().await?;
    replica.restart_with(&lax).await?;
    for setting in [
        "binlog_format = MIXED",
        "binlog_row_image = MINIMAL",
        "binlog_checksum = NONE",
        "sync_binlog = 0",
        "binlog_expire_logs_seconds = 3600",
        "slave_exec_mode = IDEMPOTENT",
        "replicate_wild_ignore_table = '%.modshift\\\\_%'",
    ] {
        replica.run(format!("SET GLOBAL {setting}")).await.with_context(|| setting.to_owned())?;
    }
    replica.run("CHANGE MASTER TO MASTER_DELAY = 3600").await?;
    replica.run("START SLAVE").await?;
    for own in [
        "CREATE USER local_boss@'%' IDENTIFIED BY 'x'".to_owned(),
        "GRANT READ_ONLY ADMIN ON *.* TO local_boss@'%'".to_owned(),
        format!("CREATE DEFINER=local_boss@'%' PROCEDURE {schema}.local_p() DELETE FROM t"),
        format!("CREATE EVENT {schema}.local_event ON SCHEDULE EVERY 1 DAY DO DO 1"),
    ] {
        replica.run(&own).await.with_context(|| own.clone())?;
    }
    let mut conn = replica.connect().await?;
    for statement in [
        "SET sql_log_bin = 0".to_owned(),
        "REVOKE REPLICATION SLAVE, READ_ONLY ADMIN ON *.* FROM poor@'%'".to_owned(),
        "XA START 'left'".to_owned(),
        format!("INSERT INTO {schema}.t VALUES (1, 1)"),
        "XA END 'left'".to_owned(),
        "XA PREPARE 'left'".to_owned(),
    ] {
        conn.query_drop(&statement).await.with_context(|| statement.clone())?;
    }
    conn.disconnect().await.map_err(Into::into)
}
