//! The row that a reader keeps writing on its shard, and that replication carries on.

use std::time::Duration;

use modshift_proto::message::TokenPhase;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

const NO_COLUMN: u16 = 1054;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub epoch: u64,
    /// Of the primary's clock when it was written, since 1970.
    pub clock: Duration,
    /// May applications write here, as far as the last marker says?
    pub phase: TokenPhase,
}

/// `None`: no reader was ever started, or its token does not come as far as here.
pub(super) async fn read(conn: &mut Conn) -> mysql_async::Result<Option<Token>> {
    // The session is in UTC, as the clock is.
    let sql = "SELECT epoch, CAST(UNIX_TIMESTAMP(clock) * 1000000 AS UNSIGNED) \
               FROM modshift_token WHERE id = 1";
    let row: mysql_async::Result<Option<(u64, Option<u64>)>> = conn.query_first(sql).await;
    let Some((epoch, clock_us)) = if_allowed(row)?.flatten() else { return Ok(None) };
    let clock = Duration::from_micros(clock_us.unwrap_or_default());
    let phase: mysql_async::Result<Option<Option<String>>> =
        conn.query_first("SELECT phase FROM modshift_token WHERE id = 1").await;
    let phase = match phase {
        // Made before there were phases: nobody has cut over yet.
        Err(mysql_async::Error::Server(error)) if error.code == NO_COLUMN => None,
        phase => if_allowed(phase)?.flatten().flatten(),
    };
    let phase = phase.as_deref().and_then(TokenPhase::from_name);
    Ok(Some(Token { epoch, clock, phase: phase.unwrap_or(TokenPhase::Serving) }))
}
