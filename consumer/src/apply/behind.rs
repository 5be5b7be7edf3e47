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
        let coming = match asked {
            Ok(Ok(None)) => return taken,
            Ok(Ok(Some(coming))) => coming,
            Ok(Err(error)) => return ApplyError::Server(error),
            Err(_) => {
                let detail = format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs());
                return ServerError::Lost { at: self.at.clone(), doing: DOING, detail }.into();
            }
        };
        let (new, at) = (self.shard, self.at.clone());
        match self.patience.holds(&coming, None) {
            true => ApplyError::NotThereYet { new, at, coming },
            false => ApplyError::CommitsLost { new, at, coming },
        }
    }

    /// `None`: another owner was there.
    async fn older(&self, moves: &[Move]) -> Result<Option<Coming>, ServerError> {
        let mut conn = connect(&self.endpoint, Session::Exact).await?;
        let found = versions(&mut conn, &self.at).await?;
        if !self.versions.older(moves, &found) {
            return Ok(None);
        }
        let coming = coming(&mut conn, &self.at, None).await?;
        let _ = conn.disconnect().await;
        Ok(Some(coming))
    }
}

async fn versions(conn: &mut Conn, at: &str) -> Result<Vec<(u16, u64)>, ServerError> {
    let sql = format!("SELECT source, version FROM {WATERMARK}");
    conn.query(sql).await.map_err(|error| error::of(at, DOING, error))
}
