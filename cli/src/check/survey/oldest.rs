//! How far back the binlog reaches.
//!
//! No SQL says when a binlog file was begun; its first event does. Asked for as
//! `mariadb-binlog` does, with server id 0: that cuts off no replica.

use std::time::Duration;

use futures_util::StreamExt;
use modshift_mariadb::{Session, connect};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest};

const LIMIT: Duration = Duration::from_secs(10);
/// Of FORMAT_DESCRIPTION_EVENT.
const DESCRIPTION: u8 = 15;
/// A fake rotate comes before the description, and on some versions a few control events.
const EVENTS_MAX: usize = 8;

/// `None` where it cannot be told.
pub async fn age(endpoint: &Endpoint) -> Option<Duration> {
    tokio::time::timeout(LIMIT, begun(endpoint)).await.ok().flatten()
}

async fn begun(endpoint: &Endpoint) -> Option<Duration> {
    let mut conn = connect(endpoint, Session::Plain).await.ok()?;
    let now: u64 = conn.query_first("SELECT UNIX_TIMESTAMP()").await.ok()??;
    // What a client must say that can take checksums and MariaDB's own events.
    let set =
        "SET @master_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4";
    conn.query_drop(set).await.ok()?;
    // No file name: the first there is.
    let request = BinlogStreamRequest::new(0).with_pos(4).with_non_blocking();
    let mut stream: BinlogStream = conn.get_binlog_stream(request).await.ok()?;
    for _ in 0..EVENTS_MAX {
        let event = stream.next().await?.ok()?;
        let header = event.header();
        if header.event_type_raw() == DESCRIPTION {
            let begun = u64::from(header.timestamp());
            return now.checked_sub(begun).map(Duration::from_secs);
        }
    }
    None
}
