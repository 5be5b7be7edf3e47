//! Waits until the new shards have everything, or are past the copy.

use std::time::Duration;

use anyhow::Result;

use crate::{Estate, estate::Shard, wait_until};

/// Everything committed on the old shards so far has been applied: every stream shows a token that
/// its old shard wrote after now, by that shard's own clock.
pub async fn drained(estate: &Estate, limit: Duration) -> Result<()> {
    between(&estate.old, &estate.new, limit).await
}

/// The same on the way back.
pub async fn drained_back(estate: &Estate, limit: Duration) -> Result<()> {
    between(&estate.new, &estate.old, limit).await
}

async fn between(from: &[Shard], to: &[Shard], limit: Duration) -> Result<()> {
    let mut clocks: Vec<i64> = Vec::new();
    for shard in from {
        let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
        clocks.push(shard.value(sql).await?);
    }
    wait_until("the other side to have everything", limit, || async {
        for shard in to {
            let sql = "SELECT source, token_clock_us FROM modshift_watermark ORDER BY source";
            let rows = shard.address().query(sql).await?;
            let marks: Vec<(usize, i64)> = rows.into_iter().map(mysql_async::from_row).collect();
            let done = marks.len() == clocks.len()
                && marks.iter().all(|(source, clock)| *clock > clocks[*source]);
            if !done {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Every stream says that its copy is complete.
pub async fn copied(estate: &Estate, limit: Duration) -> Result<()> {
    wait_until("complete copies", limit, || async {
        for shard in &estate.new {
            // The table is the consumer's to create.
            let sql = "SELECT COUNT(*) FROM modshift_watermark WHERE copied = 1";
            match shard.value::<usize>(sql).await {
                Ok(copied) if copied == estate.old.len() => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(()))
    })
    .await
}
