//! A new shard whose server does not have what was committed there. A virtual IP, or a name, leads to a
//! replica: one that is still applying its relay log is waited for, and one that has lost those commits
//! is never gone on from unseen.

use modshift_mariadb::applying::{Coming, coming};
use modshift_mariadb::control::WATERMARK;
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use mysql_async::prelude::Queryable;
use tokio::time::timeout;

use super::{ATTEMPT_TIMEOUT, Keeper};
use crate::error::ApplyError;
use crate::watermark::Move;

const DOING: &str = "asking how far it is";

impl Keeper {
    /// Its rows of the watermark are not as this owner left them: are they older?
    pub(super) async fn behind_or_taken(
        &mut self,
        taken: ApplyError,
        moves: &[Move],
    ) -> ApplyError {
        let asked = timeout(ATTEMPT_TIMEOUT, self.older(moves)).await;
        // It goes by a connection of its own: the address may lead elsewhere by now.
        self.conn = None;
        let (coming, found) = match asked {
            Ok(Ok(None)) => return taken,
            Ok(Ok(Some(older))) => older,
            Ok(Err(error)) => return ApplyError::Server(error),
            Err(_) => {
                let detail = format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs());
                return ServerError::Lost { at: self.at.clone(), doing: DOING, detail }.into();
            }
        };
        let (new, at) = (self.shard, self.at.clone());
        // As its relay log is applied the watermarks move.
        match self.patience.holds(&coming, &format!("{found:?}")) {
            true => ApplyError::NotThereYet { new, at, coming },
            false => ApplyError::CommitsLost { new, at, coming },
        }
    }

    /// Over a new connection, before the first write: every row of the watermark is as this owner left it.
    /// A batch compares those alone that it moves, and a server that is behind may have just these.
    pub(super) async fn as_left(
        &self,
        conn: &mut Conn,
        moves: &[Move],
        unknown: bool,
    ) -> Result<(), ApplyError> {
        let found = versions(conn, &self.at).await?;
        match self.versions.as_left(moves, unknown, &found) {
            true => Ok(()),
            false => Err(ApplyError::TakenOver { new: self.shard }),
        }
    }

    /// With what was found. `None`: another owner was there.
    async fn older(&self, moves: &[Move]) -> Result<Option<(Coming, Found)>, ServerError> {
        let mut conn = connect(&self.endpoint, Session::Exact).await?;
        let found = versions(&mut conn, &self.at).await?;
        if !self.versions.older(moves, &found) {
            return Ok(None);
        }
        let coming = coming(&mut conn, &self.at, None).await?;
        let _ = conn.disconnect().await;
        Ok(Some((coming, found)))
    }
}

/// Rows of the watermark: old shard and version.
type Found = Vec<(u16, u64)>;

async fn versions(conn: &mut Conn, at: &str) -> Result<Found, ServerError> {
    let sql = format!("SELECT source, version FROM {WATERMARK} ORDER BY source");
    conn.query(sql).await.map_err(|error| error::of(at, DOING, error))
}
