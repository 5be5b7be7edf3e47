//! What a cutover writes and waits for, by hand: markers, and watermarks that cover them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;

use crate::{Address, wait_until};

/// Changes the phase of a shard and gives the GTID of that change.
pub async fn mark(shard: &Address, phase: &str, run: &str) -> Result<String> {
    let mut conn = shard.connect().await?;
    conn.query_drop("START TRANSACTION").await?;
    let sql = "UPDATE modshift_token SET writes = writes + 1, clock = UTC_TIMESTAMP(6), phase = ?, \
               fence = ? WHERE id = 1";
    conn.exec_drop(sql, (phase, run)).await?;
    ensure!(conn.affected_rows() == 1, "modshift_token has no row");
    conn.query_drop("COMMIT").await?;
    let gtid: Option<String> = conn.query_first("SELECT @@last_gtid").await?;
    conn.disconnect().await?;
    gtid.context("no GTID")
}

/// The same on each of these shards.
pub async fn mark_all(shards: &[Address], phase: &str, run: &str) -> Result<Vec<String>> {
    let marks = shards.iter().map(|shard| mark(shard, phase, run));
    futures_util::future::try_join_all(marks).await
}

/// Every target has applied each source up to this GTID of it.
pub async fn covered(targets: &[Address], gtids: &[String], limit: Duration) -> Result<()> {
    let sequence = |gtid: &str| -> Option<(u32, u64)> {
        let mut parts = gtid.split('-');
        let domain = parts.next()?.parse().ok()?;
        Some((domain, parts.nth(1)?.parse().ok()?))
    };
    wait_until("markers to be applied", limit, || async {
        for target in targets {
            let sql = "SELECT source, gtids FROM modshift_watermark";
            let rows: Vec<(usize, String)> =
                target.query(sql).await?.into_iter().map(mysql_async::from_row).collect();
            for (source, gtid) in gtids.iter().enumerate() {
                let (domain, wanted) = sequence(gtid).context("no GTID")?;
                let had = rows.iter().find(|(other, _)| *other == source);
                let had = had.and_then(|(_, gtids)| {
                    gtids.split(',').filter_map(sequence).find(|had| had.0 == domain)
                });
                if had.is_none_or(|(_, had)| had < wanted) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    })
    .await
}
