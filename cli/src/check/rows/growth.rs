//! How fast each server's binlog grows, measured over a short while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::connect::{Session, connect};
use mysql_async::prelude::Queryable;

use crate::check::fault::Side;
use crate::check::survey::{Server, Survey};

/// Shorter than this says little: a commit or two decide.
const SAMPLE_MIN: Duration = Duration::from_secs(1);

/// Bytes in a second; a server that does not answer any more is left out.
pub async fn measure(survey: &Survey) -> BTreeMap<Side, f64> {
    let first = survey.reached().map(|(_, facts)| facts.binlog.read_at).max();
    if let Some(rest) = first.and_then(|first| SAMPLE_MIN.checked_sub(first.elapsed())) {
        tokio::time::sleep(rest).await;
    }
    let rates = survey.reached().map(|(server, facts)| async move {
        let now = written(server).await?;
        let elapsed = Instant::now().duration_since(facts.binlog.read_at).as_secs_f64();
        // FLUSH STATUS or a restart in between: the average since then is all there is.
        let bytes = match now.checked_sub(facts.binlog.written_bytes) {
            Some(bytes) => bytes as f64 / elapsed,
            None => facts.binlog.written_bytes as f64 / facts.binlog.uptime.as_secs_f64().max(1.0),
        };
        Some((server.side, bytes))
    });
    join_all(rates).await.into_iter().flatten().collect()
}

async fn written(server: &Server) -> Option<u64> {
    let mut conn = connect(&server.endpoint, Session::Plain).await.ok()?;
    let sql = "SHOW GLOBAL STATUS LIKE 'Binlog_bytes_written'";
    let row: Option<(String, u64)> = conn.query_first(sql).await.ok()?;
    row.map(|(_, bytes)| bytes)
}
