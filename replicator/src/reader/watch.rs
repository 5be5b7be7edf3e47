//! What must stay true while a shard is read, and shows in no event: asked now and then, beside the
//! tail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::{Desk, Session};
use modshift_proto::OldShard;
use modshift_proto::plan::Endpoint;
use tokio::task::JoinSet;

use super::Together;
use crate::definitions::Definitions;
use crate::error::{Class, ReadError};
use crate::token::within;
use crate::whole::WholeLogs;

/// A change of these settings that comes with no event is noticed so soon. A handful of small
/// questions for each shard.
const INTERVAL: Duration = Duration::from_secs(10);
/// What another reader of the server was told so recently will do.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Watch {
    shard: OldShard,
    primary: Endpoint,
    definitions: Arc<Definitions>,
    logs: WholeLogs,
    desk: Desk,
    due: Instant,
    /// At most one round under way.
    work: JoinSet<Result<(), ReadError>>,
}

impl Watch {
    pub(super) fn new(
        shard: OldShard,
        primary: Endpoint,
        definitions: Arc<Definitions>,
        together: &Together,
        desk: &Desk,
    ) -> Watch {
        let due = Instant::now() + INTERVAL;
        let (logs, desk) = (together.logs.clone(), desk.clone());
        Watch { shard, primary, definitions, logs, desk, due, work: JoinSet::new() }
    }

    /// Begins a round when it is time, and says what the last one found. A server that does not
    /// answer is for the tail to notice.
    pub(super) fn look_after(&mut self) -> Result<(), ReadError> {
        while let Some(done) = self.work.try_join_next() {
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.class() == Class::Retry => {
                    tracing::debug!(shard = self.shard.0, error = %error, "not looked at this time");
                }
                Ok(Err(error)) => return Err(error),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {} // aborted
            }
        }
        if self.work.is_empty() && Instant::now() >= self.due {
            self.due = Instant::now() + INTERVAL;
            let (primary, definitions) = (self.primary.clone(), self.definitions.clone());
            let (logs, desk) = (self.logs.clone(), self.desk.clone());
            self.work.spawn(async move {
                // Of a host that has been up for less there is no such time.
                let now = Instant::now();
                let since = now.checked_sub(TOLD_WITHIN).unwrap_or(now);
                logs.ask(&primary, &desk, since).await?;
                let replica = primary.read_from.as_ref().map(|_| primary.tailed());
                for server in [primary.clone()].into_iter().chain(replica) {
                    let asking = tables(&definitions, &server, &desk);
                    within(&server, "looking at the tables", asking).await?;
                }
                Ok(())
            });
        }
        Ok(())
    }
}

/// Are all tables there what they are read as?
async fn tables(
    definitions: &Definitions,
    server: &Endpoint,
    desk: &Desk,
) -> Result<(), ReadError> {
    let mut conn = desk.turn(server).await?;
    for table in 0..definitions.tables() {
        definitions.hold(&mut conn, Session::Plain, server, table).await?;
    }
    conn.done();
    Ok(())
}
