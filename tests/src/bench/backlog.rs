//! A backlog on the old shards: a mix of changes in transactions of a given size.

use std::sync::Arc;

use anyhow::Result;
use mysql_async::prelude::Queryable;

use super::{say, shard};
use crate::server::MariaDbServer;

/// Rows of each old shard to begin with.
pub async fn base(old: &[Arc<MariaDbServer>], rows_each: u64) -> Result<()> {
    let fills = old.iter().enumerate().map(|(index, server)| {
        let modulus = old.len();
        async move {
            let mut conn = shard(server).connect().await?;
            for from in (1..=rows_each).step_by(5000) {
                let to = (from + 4999).min(rows_each);
                // Both the key and the id of a row are congruent to its shard's number.
                conn.query_drop(format!(
                    "INSERT INTO orders SELECT seq * {modulus} + {index}, \
                     (seq * 7919 % 1000003) * {modulus} + {index}, seq % 1000, \
                     CONCAT(MD5(seq), MD5(seq + 1), MD5(seq + 2)), CONCAT(MD5(seq), 'pad'), \
                     seq / 3, '2024-05-06 07:08:09.123456' FROM seq_{from}_to_{to}"
                ))
                .await?;
            }
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(fills).await?;
    Ok(())
}

/// `events` changes on each old shard in transactions of `per_transaction` single-row statements:
/// 70 % updates of a random row, 20 % inserts, 10 % deletes. Made inside the server.
pub async fn make(
    old: &[Arc<MariaDbServer>],
    events: u64,
    per_transaction: u64,
    rows_each: u64,
    round: u64,
) -> Result<()> {
    say(&format!(
        "backlog: {events} changes on each of {} old shards, {per_transaction} a transaction",
        old.len()
    ));
    let makes = old.iter().enumerate().map(|(index, server)| {
        let modulus = old.len() as u64;
        let index = index as u64;
        async move {
            let mut conn = shard(server).connect().await?;
            conn.query_drop("DROP PROCEDURE IF EXISTS changes").await?;
            let first_new = 100_000_000 * round;
            conn.query_drop(format!(
                "CREATE PROCEDURE changes()
                 BEGIN
                   DECLARE done, inserted, dice, target BIGINT DEFAULT 0;
                   SET @a = {round} * 1000 + {index} + 1;
                   WHILE done < {events} DO
                     START TRANSACTION;
                     REPEAT
                       SET @a = (@a * 1103515245 + 12345) MOD 2147483648;
                       SET dice = (@a DIV 65536) MOD 10;
                       SET @a = (@a * 1103515245 + 12345) MOD 2147483648;
                       SET target = ((@a DIV 8) MOD {rows_each} + 1) * {modulus} + {index};
                       IF dice < 7 THEN
                         UPDATE orders SET c = CONCAT(MD5(@a), MD5(done), 'updated'),
                           amount = @a / 7, k = IF(dice < 2, done MOD 1000, k),
                           created = '2025-01-02 03:04:05.000006' WHERE id = target;
                       ELSEIF dice < 9 THEN
                         SET inserted = inserted + 1;
                         INSERT INTO orders VALUES (
                           ({first_new} + inserted) * {modulus} + {index},
                           (inserted * 7919 MOD 1000003) * {modulus} + {index}, done MOD 1000,
                           CONCAT(MD5(done), MD5(@a), 'inserted'), MD5(inserted), done / 3,
                           '2025-01-02 03:04:05.000006');
                       ELSE
                         DELETE FROM orders WHERE id = target;
                       END IF;
                       SET done = done + 1;
                     UNTIL done MOD {per_transaction} = 0 OR done >= {events} END REPEAT;
                     COMMIT;
                   END WHILE;
                 END"
            ))
            .await?;
            conn.query_drop("CALL changes()").await?;
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(makes).await?;
    Ok(())
}
