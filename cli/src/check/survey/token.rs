//! The row that a reader keeps writing on its shard, and that replication carries on.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub epoch: u64,
    /// Of the primary's clock when it was written, since 1970.
    pub clock: Duration,
}

/// `None`: no reader was ever started, or its token does not come as far as here.
pub(super) async fn read(conn: &mut Conn) -> mysql_async::Result<Option<Token>> {
    // The session is in UTC, as the clock is.
    let sql = "SELECT epoch, CAST(UNIX_TIMESTAMP(clock) * 1000000 AS UNSIGNED) \
               FROM modshift_token WHERE id = 1";
    let row: mysql_async::Result<Option<(u64, Option<u64>)>> = conn.query_first(sql).await;
    let token = |(epoch, clock_us): (u64, Option<u64>)| Token {
        epoch,
        clock: Duration::from_micros(clock_us.unwrap_or_default()),
    };
    Ok(if_allowed(row)?.flatten().map(token))
}
