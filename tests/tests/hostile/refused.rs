//! Rows that no session can write any more, in the whole: set aside while the rest is copied, named
//! by the gate, and taken once they are changed on their old shards.

use anyhow::{Result, ensure};
use modshift_tests::{Daemons, drained};

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
