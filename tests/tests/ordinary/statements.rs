//! Statements in the log.

use anyhow::{Result, ensure};
use modshift_tests::grants::{grant, grant_with};
use modshift_tests::server::ADMIN;
use mysql_async::prelude::Queryable;

use crate::{LIMIT, all, correct, daemon, estate, opens, start};

/// Statements that change no row of a planned table, in a session that logs them as they are.
const PASS: [&str; 60] = [
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
    "UPDATE ops.acct a JOIN ops.heartbeat h ON h.server_id = a.id SET a.acct = 1, h.pos = 2",
    "DELETE a FROM ops.acct a JOIN acct b ON a.id = b.id",
    "DELETE FROM h USING ops.heartbeat h, ops.acct a WHERE h.pos = a.id",
    "SELECT 7, 8 INTO OUTFILE 'some.txt'",
    "LOAD DATA INFILE 'some.txt' REPLACE INTO TABLE ops.heartbeat (server_id, pos) SET ts = 'x'",
    "CREATE PROCEDURE ops.p(x INT) BEGIN INSERT INTO ops.acct (acct) VALUES (x); \
     DELETE FROM ops.acct WHERE acct = x; END",
    "CALL ops.p(77)",
    "DO SLEEP(0)",
    "SET @x = LAST_INSERT_ID()",
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
    "ALTER TABLE acct ADD b INT, ADD c INT",
    "INSERT INTO acct VALUES (1, 2, 3)",
    "INSERT INTO acct SELECT 4, 5, 6",
    "UPDATE acct SET a = 7",
    "INSERT INTO ops.acct (acct) SELECT a FROM acct",
    "CREATE INDEX i ON acct (b)",
    "DROP INDEX i ON acct",
    "DELETE FROM acct WHERE b = 5",
    "TRUNCATE TABLE acct",
    "CREATE TEMPORARY TABLE tmp LIKE acct",
    "INSERT INTO tmp SELECT * FROM acct",
    "ALTER TABLE acct DROP COLUMN c",
    "DROP TABLE tmp",
    "DROP TABLE acct",
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
    // By a login that may do what an operator's file gives it, and no more.
    let estate = estate("").await?;
    let shard = &estate.old[0];
    grant_with(
        &shard.server.address(),
        &shard.schema,
        "least",
        "grants-old.sql",
        "@other = 'ops'",
    )?;
    for shard in &estate.new {
        grant(&shard.server.address(), &shard.schema, "least", "grants-new.sql")?;
    }
    let plan = estate.plan().replace(&format!("user = \"{ADMIN}\""), "user = \"least\"");
    std::fs::write(estate.plan_path(), plan)?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
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
        "CREATE VIEW ops.slyer AS SELECT a FROM ops.sly",
        "INSERT INTO ops.noise SELECT a FROM ops.slyer",
    ];
    let before: i64 = shard.value("SELECT v FROM acct WHERE id = 1").await?;
    // There is a stored function; but none of these calls it.
    all(&mut conn, &sly[..2]).await?;
    all(
        &mut conn,
        &[
            &format!("CREATE VIEW ops.plain AS SELECT id, uid FROM {}.acct", shard.schema),
            "CREATE VIEW ops.nested AS SELECT a.uid FROM ops.plain a JOIN ops.plain b USING (id)",
            "INSERT INTO ops.noise SELECT COUNT(*) FROM ops.nested WHERE uid < ABS(-100)",
            "INSERT INTO ops.noise SELECT COALESCE(BIT_XOR(CRC32(CONCAT(id, v))), 0) % 100 FROM acct",
        ],
    )
    .await?;
    correct(&estate, &running).await?;
    all(&mut conn, &sly[2..]).await?;
    let after: i64 = shard.value("SELECT v FROM acct WHERE id = 1").await?;
    ensure!(after > before, "nothing was written unseen");
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(
        halted.contains("it reads the view ops.sly: it calls functions, and ops.bump"),
        "{halted}"
    );
    running.stop(LIMIT).await.map(drop)
}
