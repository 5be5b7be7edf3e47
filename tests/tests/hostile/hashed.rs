//! Unique values that are too long for an index: the server keeps them by hashes in hidden columns,
//! which its binlog shows and no catalog does.

use anyhow::{Context, Result, ensure};
use modshift_tests::{Daemons, copied, drained};

use crate::{LIMIT, estate, waits_for};

const PARKED: &str = "SELECT COUNT(*) FROM modshift_parked";

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_unique_values_kept_by_a_hash_end_equal() -> Result<()> {
    let body = "id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, a TEXT, \
                n INT INVISIBLE DEFAULT 7, g INT AS (id + 1) VIRTUAL, \
                b VARCHAR(3000) CHARACTER SET latin1, c BLOB, UNIQUE (a), UNIQUE by_two (b, c)";
    let estate = estate(2, 3, &[("t".to_owned(), body.to_owned())]).await?;
    for (home, shard) in estate.old.iter().enumerate() {
        shard
            .run(&format!(
                "INSERT INTO t (id, uid, a, b, c) SELECT seq, seq, CONCAT('a', seq), \
                 REPEAT('é', seq), x'00ff' FROM seq_1_to_60 WHERE seq % 2 = {home}"
            ))
            .await?;
    }
    let daemons = Daemons::start(&estate)?;
    let run = async {
        copied(&estate, LIMIT).await?;
        for shard in &estate.old {
            for sql in [
                "UPDATE t SET n = n + 1, c = CONCAT(c, id) WHERE id < 20",
                "UPDATE t SET a = NULL WHERE id % 5 = 0",
                "UPDATE t SET a = CONCAT(a, ' ') WHERE id % 7 = 0",
                "DELETE FROM t WHERE id > 50",
            ] {
                shard.run(sql).await?;
            }
        }
        drained(&estate, LIMIT).await?;
        // A value moves from one old shard to the other, and arrives on their new one before it left.
        let row = "INSERT INTO t (id, uid, a, b) VALUES";
        estate.old[0].run(&format!("{row} (1000, 0, 'moves', 'x')")).await?;
        drained(&estate, LIMIT).await?;
        estate.old[1].run(&format!("{row} (1001, 3, 'moves', 'y')")).await?;
        waits_for("a row whose value is taken", &estate, PARKED, 1).await?;
        let key: String = estate.new[0].value("SELECT blocked_by FROM modshift_parked").await?;
        ensure!(key == "a of old shard 0", "{key}");
        estate.old[0].run("UPDATE t SET a = 'gone' WHERE id = 1000").await?;
        waits_for("the row to move in", &estate, PARKED, 0).await?;
        drained(&estate, LIMIT).await?;
        let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
        ensure!(code == 0, "verify ended with {code}:\n{output}");
        estate.oracle().compare().await?.ensure_clean()
    };
    run.await.with_context(|| daemons.output())?;
    daemons.stop(LIMIT).await
}
