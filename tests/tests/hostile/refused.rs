//! Rows that no session can write any more, in the whole: set aside while the rest is copied, named
//! by the gate, and taken once they are changed on their old shards.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Daemons, copied, drained};

use crate::{LIMIT, estate, waits_for};

const PARKED: &str = "SELECT COUNT(*) FROM modshift_parked";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_session_can_write_wait_until_they_are_changed() -> Result<()> {
    let body = "id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, v INT";
    let estate = estate(2, 1, &[("t".to_owned(), body.to_owned())]).await?;
    for (home, shard) in estate.old.iter().enumerate() {
        // Of a column that is added the old rows get what nobody could insert.
        shard
            .run(&format!(
                "INSERT INTO t SELECT seq, {home}, 1 FROM seq_1_to_5 WHERE seq % 2 = {home}"
            ))
            .await?;
        shard.run("ALTER TABLE t ADD COLUMN place GEOMETRY NOT NULL").await?;
        shard
            .run(&format!(
                "INSERT INTO t SELECT 100 + 2 * seq + {home}, {home}, 2, POINT(1, 2) FROM seq_1_to_50"
            ))
            .await?;
    }
    estate.new[0].run("ALTER TABLE t ADD COLUMN place GEOMETRY NOT NULL").await?;
    let daemons = Daemons::start(&estate)?;
    waits_for("the other rows", &estate, "SELECT COUNT(*) FROM t", 100).await?;
    waits_for("the refused rows", &estate, PARKED, 5).await?;
    // Changed while it waits, and still what it was.
    estate.old[1].run("UPDATE t SET v = 7 WHERE id = 1").await?;
    drained(&estate, LIMIT).await?;
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("5 of them for a change"), "{code}\n{output}");
    let why: String =
        estate.new[0].value("SELECT DISTINCT blocked_by FROM modshift_parked").await?;
    let expected = "cannot be stored: column place: bytes that are no geometry (error 1416)";
    ensure!(why == expected, "{why}");
    for shard in &estate.old {
        shard.run("UPDATE t SET place = POINT(0, 0) WHERE place = ''").await?;
    }
    waits_for("the changed rows", &estate, PARKED, 0).await?;
    drained(&estate, LIMIT).await?;
    let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
    ensure!(code == 0, "verify ended with {code}:\n{output}");
    estate.oracle().compare().await?.ensure_clean()?;
    daemons.stop(LIMIT).await
}

/// A key that forbids overlaps, under a session that is not strict: what a portion of a period turns
/// into, and rows whose period is only free once another owner's row has left.
#[tokio::test(flavor = "multi_thread")]
async fn rows_with_a_key_without_overlaps_end_equal() -> Result<()> {
    let body = "id BIGINT NOT NULL, uid BIGINT NOT NULL, a DATE NOT NULL, b DATE NOT NULL, v INT, \
                PERIOD FOR p (a, b), PRIMARY KEY (id, p WITHOUT OVERLAPS)";
    let unique = "id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, room INT NOT NULL, a DATE NOT NULL, \
                  b DATE NOT NULL, v INT, PERIOD FOR p (a, b), UNIQUE r (room, p WITHOUT OVERLAPS)";
    let tables = [("t".to_owned(), body.to_owned()), ("u".to_owned(), unique.to_owned())];
    let estate = estate(2, 3, &tables).await?;
    for (home, shard) in estate.old.iter().enumerate() {
        shard
            .run(&format!(
                "INSERT INTO u SELECT seq, seq * 2 + {home}, seq, '2024-01-01', '2024-12-31', 1 FROM \
                 seq_1_to_60 WHERE seq % 2 = {home}"
            ))
            .await?;
        shard
            .run(&format!(
                "INSERT INTO t SELECT seq, seq * 2 + {home}, '2024-01-01', '2024-12-31', 1 FROM \
                 seq_1_to_60 WHERE seq % 2 = {home}"
            ))
            .await?;
    }
    let (code, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(code == 0, "check ended with {code}:\n{output}");
    let daemons = Daemons::start(&estate)?;
    let run = async {
        copied(&estate, LIMIT).await?;
        for shard in &estate.old {
            for sql in [
                "UPDATE t FOR PORTION OF p FROM '2024-03-01' TO '2024-04-01' SET v = 2 WHERE id < 20",
                "DELETE FROM t FOR PORTION OF p FROM '2024-06-01' TO '2024-07-01' WHERE id % 3 = 0",
                "UPDATE t SET v = v + 1 WHERE id > 40",
                "DELETE FROM t WHERE id > 55",
                "UPDATE u SET room = room + 100, a = '2024-02-01' WHERE id < 20",
                "UPDATE u SET v = v + 1 WHERE id > 40",
                "DELETE FROM u WHERE id > 55",
            ] {
                shard.run(sql).await?;
            }
        }
        drained(&estate, LIMIT).await?;
        // The same number on the other old shard and for the same new one, in a period that is taken.
        let row = "INSERT INTO t VALUES (1000, {uid}, '{a}', '2024-12-31', 1)";
        let row = |uid: i64, a: &str| row.replace("{uid}", &uid.to_string()).replace("{a}", a);
        estate.old[0].run(&row(0, "2024-02-01")).await?;
        drained(&estate, LIMIT).await?;
        estate.old[1].run(&row(3, "2024-01-01")).await?;
        waits_for("a row whose period is taken", &estate, PARKED, 1).await?;
        estate.old[0].run("DELETE FROM t WHERE id = 1000").await?;
        waits_for("the row to move in", &estate, PARKED, 0).await?;
        // A place that another row's period holds, in a key beside the primary one.
        let booked = "INSERT INTO u VALUES ({id}, {uid}, 7000, '{a}', '2024-12-31', 1)";
        let booked = |id: i64, uid: i64, a: &str| {
            let sql = booked.replace("{id}", &id.to_string()).replace("{uid}", &uid.to_string());
            sql.replace("{a}", a)
        };
        estate.old[0].run(&booked(1000, 0, "2024-02-01")).await?;
        drained(&estate, LIMIT).await?;
        estate.old[1].run(&booked(1001, 3, "2024-01-01")).await?;
        waits_for("a row whose room is taken", &estate, PARKED, 1).await?;
        estate.old[0].run("UPDATE u SET b = '2024-03-01' WHERE id = 1000").await?;
        estate.old[1].run("UPDATE u SET a = '2024-03-01' WHERE id = 1001").await?;
        waits_for("that row to move in", &estate, PARKED, 0).await?;
        drained(&estate, LIMIT).await?;
        let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
        ensure!(code == 0, "verify ended with {code}:\n{output}");
        estate.oracle().compare().await?.ensure_clean()
    };
    run.await.with_context(|| daemons.output())?;
    daemons.stop(LIMIT).await
}
