//! Ordinary life of an estate: what applications, monitoring tools and crashes write into a binlog
//! beside plain transactions. None of it ends a reshard, and none of it counts that did not happen.

use std::{fs::OpenOptions, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Modshift, Rule, TableRule, case::Size, drained, estate::Shard,
    wait_until,
};
use mysql_async::{Conn, prelude::Queryable};

const LIMIT: Duration = Duration::from_secs(90);
const TABLE: &str = "CREATE TABLE acct (id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, \
                     v INT, pad VARCHAR(2000))";

/// One old shard, two new ones, the daemons with everything copied.
async fn start(plan_tail: &str) -> Result<(Estate, Modshift)> {
    let options = EstateOptions {
        size: Size::rows(20),
        plan_tail: plan_tail.to_owned(),
        // A crash is to cut off what the test writes.
        neighbours: false,
        ..EstateOptions::default()
    };
    let mut estate = Estate::start(1, 2, options).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        shard.run(TABLE).await?;
    }
    estate.old[0].run("CREATE DATABASE ops").await?;
    estate.old[0].run("CREATE TABLE ops.noise (a INT) ENGINE=MyISAM").await?;
    estate.rules.push(TableRule::new("acct", Rule::floor_mod("uid")));
    std::fs::write(estate.plan_path(), estate.plan())?;
    estate.old[0].run("INSERT INTO acct (id, uid, v) VALUES (1, 1, 0), (2, 2, 0)").await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    Ok((estate, running))
}

fn daemon(estate: &Estate) -> Result<Modshift> {
    estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()
}

async fn opens(estate: &Estate, running: &Modshift) -> Result<()> {
    let (code, output) = estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", running.last_words(40));
    Ok(())
}

/// Both sides hold the same, and nothing has halted.
async fn correct(estate: &Estate, running: &Modshift) -> Result<()> {
    drained(estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))?;
    let halted = running.lines().into_iter().find(|line| line.contains("halted"));
    ensure!(halted.is_none(), "{halted:?}");
    Ok(())
}

async fn all(conn: &mut Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

/// Statements in the current binlog file that begin like this.
async fn logged(shard: &Shard, beginning: &str) -> Result<usize> {
    let file: String = shard.value("SHOW MASTER STATUS").await?;
    let events = shard.address().query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let infos = events.iter().filter_map(|row| row.get::<String, _>("Info"));
    Ok(infos.filter(|info| info.starts_with(beginning)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_and_logged_all_the_same_does_not_count() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    let mut conn = shard.address().connect().await?;
    // All of it at once, with the temporary table made within and taken down within.
    let cases: [&[&str]; 4] = [
        &[
            "CREATE TEMPORARY TABLE tmp (a INT)",
            "INSERT INTO acct VALUES (10, 10, 1, '')",
            "UPDATE acct SET v = v + 1 WHERE id = 1",
            "DELETE FROM acct WHERE id = 2",
            "ROLLBACK",
        ],
        &["INSERT INTO acct VALUES (11, 11, 1, '')", "DROP TEMPORARY TABLE tmp", "ROLLBACK"],
        // To a savepoint, and committed then. The names are equal to the server.
        &[
            "INSERT INTO acct VALUES (20, 20, 1, '')",
            "SAVEPOINT `One`",
            "INSERT INTO acct VALUES (21, 21, 1, '')",
            "INSERT INTO ops.noise VALUES (1)",
            "SAVEPOINT two",
            "INSERT INTO acct VALUES (22, 22, 1, '')",
            "UPDATE acct SET uid = uid + 1, v = 7 WHERE id IN (1, 20)",
            "ROLLBACK TO one",
            "INSERT INTO acct VALUES (23, 23, 1, '')",
            "SAVEPOINT one",
            "INSERT INTO acct VALUES (24, 24, 1, '')",
            "ROLLBACK TO ONE",
            "UPDATE acct SET v = 9 WHERE id = 20",
            "COMMIT",
        ],
        &[
            "SAVEPOINT a",
            "INSERT INTO acct VALUES (30, 30, 1, '')",
            "RELEASE SAVEPOINT a",
            "INSERT INTO acct VALUES (31, 31, 1, '')",
            "COMMIT",
        ],
    ];
    for case in cases {
        all(&mut conn, &["START TRANSACTION"]).await?;
        all(&mut conn, case).await?;
    }
    // More than is kept in memory; then one of the kind that counts.
    for end in ["ROLLBACK", "COMMIT"] {
        all(&mut conn, &["START TRANSACTION", "CREATE TEMPORARY TABLE big (a INT)"]).await?;
        conn.query_drop(
            "INSERT INTO acct SELECT seq, seq, 1, REPEAT('x', 1500) FROM seq_1000_to_3000",
        )
        .await?;
        all(&mut conn, &[end, "DROP TEMPORARY TABLE IF EXISTS big"]).await?;
    }
    // The client goes away amid its transaction.
    let mut gone = shard.address().connect().await?;
    let case = ["START TRANSACTION", "CREATE TEMPORARY TABLE tmp (a INT)"];
    all(&mut gone, &case).await?;
    all(&mut gone, &["INSERT INTO acct VALUES (40, 40, 1, '')"]).await?;
    let id = gone.id();
    all(&mut conn, &[&format!("KILL {id}")]).await?;
    drop(gone);
    let rolled_back = wait_until("the rollbacks in the binlog", LIMIT, || async {
        let count = logged(shard, "ROLLBACK").await?;
        Ok((count >= 6).then_some(count))
    });
    rolled_back.await?;
    ensure!(logged(shard, "ROLLBACK TO").await? >= 2);

    correct(&estate, &running).await?;
    let there = "SELECT GROUP_CONCAT(id ORDER BY id) FROM acct WHERE id < 1000";
    let ids = shard.value::<String>(there).await?;
    ensure!(ids == "1,2,20,23,30,31", "{ids}");
    // The same from a log that is read again, in which everything may have been cut off.
    running.stop(LIMIT).await?;
    let running = daemon(&estate)?;
    all(&mut conn, &["UPDATE acct SET v = v + 1"]).await?;
    correct(&estate, &running).await?;
    running.stop(LIMIT).await.map(drop)
}

/// Where the server writes its binlog now.
async fn binlog(shard: &Shard) -> Result<PathBuf> {
    let file: String = shard.value("SHOW MASTER STATUS").await?;
    Ok(shard.server.data_dir().join(file))
}

/// The server is killed while it writes its binlog: the transaction under way is in it in part, and
/// its GTID is given out again.
async fn cut_off(estate: &Estate, rows: &str, keep: &str) -> Result<()> {
    let shard = &estate.old[0];
    let before: String = shard.value("SELECT @@gtid_binlog_pos").await?;
    shard.run(rows).await?;
    let path = binlog(shard).await?;
    let file = path.file_name().and_then(|name| name.to_str()).context("a file")?.to_owned();
    let events = shard.address().query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let mut ends = events.iter().filter(|row| {
        row.get::<String, _>("Event_type").is_some_and(|event| event.starts_with(keep))
    });
    let end: u64 =
        ends.next_back().and_then(|row| row.get("End_log_pos")).context("no such event")?;
    shard.server.kill()?;
    OpenOptions::new().write(true).open(&path)?.set_len(end)?;
    shard.server.restart().await?;
    let after: String = shard.value("SELECT @@gtid_binlog_pos").await?;
    ensure!(before == after, "the group is whole: {before}, then {after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_crash_cut_off_does_not_count() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    ensure!(running.stop(LIMIT).await? == 0);
    let rows = "INSERT INTO acct SELECT seq, seq, 1, REPEAT('x', 1500) FROM seq_1000_to_3000";
    for keep in ["Write_rows", "Gtid"] {
        cut_off(&estate, rows, keep).await?;
        // The storage engine had not committed it either.
        let mut conn = shard.address().connect().await?;
        all(&mut conn, &["SET sql_log_bin = 0", "DELETE FROM acct WHERE id >= 1000"]).await?;
        conn.disconnect().await?;
        // With the very GTID of what was cut off, and its keys.
        shard.run("INSERT INTO acct VALUES (1000, 1000, 2, 'other')").await?;
        shard.run("DELETE FROM acct WHERE id = 1000").await?;
        shard.run("UPDATE acct SET v = v + 1").await?;
    }
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    correct(&estate, &running).await?;
    let said = "the server was killed while it wrote this group to its binlog";
    let said = running.lines().iter().filter(|line| line.contains(said)).count();
    ensure!(said == 2, "said {said} times:\n{}", running.last_words(40));
    running.stop(LIMIT).await.map(drop)
}

/// Statements that change no row of a planned table, in a session that logs them as they are.
const PASS: [&str; 38] = [
    // Monitoring and maintenance, in schemas of their own.
    "CREATE TABLE ops.heartbeat (ts VARCHAR(26) NOT NULL, server_id INT PRIMARY KEY, pos BIGINT)",
    "REPLACE INTO ops.heartbeat (ts, server_id, pos) VALUES ('2026-01-01T00:00:00', 101, 4)",
    "UPDATE ops.heartbeat SET ts = NOW(), pos = pos + 1 WHERE server_id = 101",
    "CREATE TABLE ops.acct (id INT AUTO_INCREMENT PRIMARY KEY, acct DOUBLE, s VARCHAR(99))",
    "INSERT INTO ops.acct (acct) VALUES (RAND()), (LAST_INSERT_ID())",
    "SET @note = 'acct'",
    "INSERT INTO ops.acct (s) VALUES (@note), ('ALTER TABLE acct DROP v')",
    "DELETE FROM ops.acct WHERE acct > 0.5",
    "CREATE TABLE ops.checksums (db CHAR(64), tbl CHAR(64), crc CHAR(40), cnt INT)",
    "REPLACE INTO ops.checksums SELECT 'app', 'acct', COALESCE(LOWER(CONV(BIT_XOR(CAST(CRC32(\
     CONCAT_WS('#', id, uid)) AS UNSIGNED)), 10, 16)), 0), COUNT(*) FROM acct",
    "CREATE TABLE ops.copied AS SELECT id, COUNT(*) AS n FROM acct GROUP BY id",
    "DROP TABLE ops.copied",
    "ALTER TABLE ops.acct DROP COLUMN s, ADD uid INT",
    "TRUNCATE ops.acct",
    // Names that are only mentioned.
    "CREATE TABLE t_bak LIKE acct",
    "CREATE TABLE u2 (acct INT, KEY acct (acct)) COMMENT 'acct'",
    "CREATE INDEX v ON u2 (acct)",
    "ALTER TABLE u2 ADD uid INT, COMMENT = 'RENAME TO acct'",
    "RENAME TABLE u2 TO u3, t_bak TO ops.t_bak",
    "DROP TABLE u3",
    "CREATE DATABASE IF NOT EXISTS acct",
    "DROP DATABASE acct",
    "CREATE TEMPORARY TABLE acct (a INT)",
    "DROP TEMPORARY TABLE acct",
    "CREATE VIEW ops.seen AS SELECT 1 AS acct",
    // What changes no row of the planned table.
    "CREATE INDEX by_v ON acct (v)",
    "ALTER TABLE acct ADD INDEX by_uid (uid), ADD KEY (v, uid), COMMENT 'it is acct'",
    "ALTER TABLE acct ENGINE=InnoDB",
    "ALTER TABLE acct FORCE",
    "ALTER TABLE acct AUTO_INCREMENT = 7",
    "ALTER TABLE acct DROP INDEX by_uid, ALTER v SET DEFAULT 5",
    "DROP INDEX by_v ON acct",
    "CREATE TABLE IF NOT EXISTS acct (a INT)",
    "ANALYZE TABLE acct",
    "OPTIMIZE TABLE acct",
    "REPAIR TABLE acct",
    "ALTER TABLE acct PARTITION BY HASH (id) PARTITIONS 3",
    "ALTER TABLE acct REMOVE PARTITIONING",
];

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_change_no_planned_row_pass_and_others_halt() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    let mut conn = shard.address().connect().await?;
    all(&mut conn, &["SET SESSION binlog_format = 'STATEMENT'"]).await?;
    let mut rows = shard.address().connect().await?;
    for (index, sql) in PASS.into_iter().enumerate() {
        let before = "SELECT COALESCE(SUM(id * 31 + uid * 7 + v), 0) FROM acct";
        let was: i64 = shard.value(before).await?;
        all(&mut conn, &[sql]).await?;
        ensure!(shard.value::<i64>(before).await? == was, "{sql} changes rows");
        // And what comes after it is read as before.
        let sql = format!("INSERT INTO acct (id, uid, v) VALUES ({0}, {0}, 3)", 100 + index);
        rows.query_drop(sql).await?;
    }
    correct(&estate, &running).await?;
    let passes =
        running.lines().iter().filter(|l| l.contains("changes no row of a planned")).count();
    ensure!(passes >= 9, "{passes} are noted:\n{}", running.last_words(60));

    // A trigger writes where its statement does not say.
    let trigger = format!(
        "CREATE TRIGGER ops.moves AFTER INSERT ON ops.acct FOR EACH ROW \
         UPDATE {}.acct SET v = v + 1 WHERE id = 1",
        shard.schema
    );
    all(&mut conn, &[&trigger, "INSERT INTO ops.acct (acct) VALUES (1)"]).await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("a statement-format INSERT: INSERT INTO ops.acct"), "{halted}");
    ensure!(halted.contains("ops.acct has triggers"), "{halted}");
    running.stop(LIMIT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_may_call_what_writes_planned_rows_unseen() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    let mut conn = shard.address().connect().await?;
    let function = format!(
        "CREATE FUNCTION ops.bump() RETURNS INT DETERMINISTIC MODIFIES SQL DATA \
         BEGIN UPDATE {}.acct SET v = v + 1 WHERE id = 1; RETURN 1; END",
        shard.schema
    );
    let sly = [
        "SET SESSION binlog_format = 'STATEMENT'",
        &function,
        "CREATE VIEW ops.sly AS SELECT ops.bump() AS a",
        "INSERT INTO ops.noise SELECT a FROM ops.sly",
    ];
    let before: i64 = shard.value("SELECT v FROM acct WHERE id = 1").await?;
    all(&mut conn, &sly).await?;
    let after: i64 = shard.value("SELECT v FROM acct WHERE id = 1").await?;
    ensure!(after > before, "nothing was written unseen");
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("one of which may be a view that calls ops.bump"), "{halted}");
    running.stop(LIMIT).await.map(drop)
}
