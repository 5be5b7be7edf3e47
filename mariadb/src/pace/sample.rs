//! Asks every server of the plan once a second how it is, while somebody's work depends on it.
//!
//! | asked | where |
//! |---|---|
//! | `Threads_running`, our own left out | the shard's primary |
//! | how far behind: `SHOW ALL SLAVES STATUS` | the primary, and each of its replicas |
//! | what modshift's own commits take | `modshift_token` on an old shard, `modshift_watermark` on a new one: whoever commits there leaves it in the row |
//!
//! What an account may not see is said to be unknown, and slows nothing down; a server that does
//! not answer does.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::{join, join_all};
use modshift_proto::plan::{self, Endpoint, Plan};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::controller::Reading;
use super::throttle::Throttle;
use crate::connect::{Session, connect, label};
use crate::control;
use crate::error::{self, ServerError};

const INTERVAL: Duration = Duration::from_secs(1);
/// A server that takes longer to say how it is does not get more to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const NO_SUCH_TABLE: u16 = 1146;
const NO_SUCH_COLUMN: u16 = 1054;

/// Asks until dropped.
pub(super) async fn follow(plan: &Plan, throttle: &Throttle) {
    let old = plan.old.iter().map(|endpoint| (endpoint, Commits::of_token()));
    let new = plan.new.iter().map(|endpoint| (endpoint, Commits::of_watermark()));
    let servers = old.chain(new).enumerate();
    let asking = servers.map(|(index, (endpoint, commits))| {
        follow_one(index, endpoint, commits, &plan.throttle, throttle)
    });
    join_all(asking).await;
}

async fn follow_one(
    index: usize,
    endpoint: &Endpoint,
    mut commits: Commits,
    limits: &plan::Throttle,
    throttle: &Throttle,
) {
    let mut changes = throttle.changes();
    let mut servers = endpoint.servers().into_iter().map(Asked::new);
    let Some(mut server) = servers.next() else { return };
    let mut replicas: Vec<Asked> = servers.collect();
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        changes.mark_unchanged();
        if !throttle.wanted() {
            // Nobody's connections are held for nothing.
            server.conn = None;
            replicas.iter_mut().for_each(|replica| replica.conn = None);
            throttle.forget(index);
            // The sender is in the throttle: it cannot be gone.
            let _ = changes.changed().await;
            continue;
        }
        let of_primary = of_primary(&mut server, &mut commits, limits);
        let of_replicas = join_all(replicas.iter_mut().map(|asked| of_replica(asked, limits)));
        let (primary, replicas) = join(of_primary, of_replicas).await;
        let mut found = Found::default();
        std::iter::once(primary).chain(replicas).for_each(|more| found.add(more));
        throttle.observe(index, &found.readings, found.unknown);
    }
}

/// What one server has answered.
#[derive(Default)]
struct Found {
    readings: Vec<Reading>,
    unknown: Vec<String>,
}

impl Found {
    fn add(&mut self, more: Found) {
        self.readings.extend(more.readings);
        self.unknown.extend(more.unknown);
    }
}

/// A server and the connection to it, if there is one.
struct Asked {
    endpoint: Endpoint,
    conn: Option<Conn>,
}

impl Asked {
    fn new(endpoint: Endpoint) -> Asked {
        Asked { endpoint, conn: None }
    }

    async fn conn(&mut self) -> Result<Conn, ServerError> {
        match self.conn.take() {
            Some(conn) => Ok(conn),
            None => connect(&self.endpoint, Session::Plain).await,
        }
    }

    /// One answer in time, or silence. A connection that failed is not used again.
    async fn ask(
        &mut self,
        question: impl AsyncFnOnce(&mut Conn, &str) -> Result<Found, ServerError>,
    ) -> Found {
        let at = label(&self.endpoint);
        let asking = async {
            let mut conn = self.conn().await?;
            let found = question(&mut conn, &at).await?;
            self.conn = Some(conn);
            Ok::<Found, ServerError>(found)
        };
        let error = match timeout(ANSWER_WITHIN, asking).await {
            Ok(Ok(found)) => return found,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{at}: no answer in {} s", ANSWER_WITHIN.as_secs()),
        };
        Found { readings: vec![Reading::Silent { error }], unknown: Vec::new() }
    }
}

async fn of_primary(server: &mut Asked, commits: &mut Commits, limits: &plan::Throttle) -> Found {
    let question = async |conn: &mut Conn, at: &str| {
        let mut found = Found::default();
        if let Some(limit) = limits.threads_running_max {
            let running = threads_running(conn, at).await?;
            found.readings.push(Reading::ThreadsRunning { found: running, limit });
        }
        if let Some(limit) = limits.replica_lag_max {
            found.add(lag(conn, at, limit).await?);
        }
        if let Some(limit) = limits.commit_latency_max {
            found.add(commits.ask(conn, at, limit).await?);
        }
        Ok(found)
    };
    server.ask(question).await
}

async fn of_replica(replica: &mut Asked, limits: &plan::Throttle) -> Found {
    let Some(limit) = limits.replica_lag_max else { return Found::default() };
    replica.ask(async |conn: &mut Conn, at: &str| lag(conn, at, limit).await).await
}

async fn threads_running(conn: &mut Conn, at: &str) -> Result<u32, ServerError> {
    let row: Option<(String, u32)> = conn
        .query_first("SHOW GLOBAL STATUS LIKE 'Threads_running'")
        .await
        .map_err(|error| error::of(at, "counting running threads", error))?;
    // The one that answers runs too.
    Ok(row.map_or(0, |(_, running)| running.saturating_sub(1)))
}

/// How far a server is behind those that it replicates from, if there are any.
async fn lag(conn: &mut Conn, at: &str, limit: Duration) -> Result<Found, ServerError> {
    let mut found = Found::default();
    let asked: Result<Vec<Row>, _> = conn.query("SHOW ALL SLAVES STATUS").await;
    let rows = match asked.map_err(|e| error::of(at, "reading the replication state", e)) {
        Ok(rows) => rows,
        Err(ServerError::Privilege { missing, .. }) => {
            found.unknown.push(format!("replication lag of {at}: missing privilege {missing}"));
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    for row in rows {
        match row.get_opt::<Option<u64>, _>("Seconds_Behind_Master") {
            Some(Ok(Some(behind))) => found.readings.push(Reading::ReplicaLag {
                replica: at.to_owned(),
                found_s: behind as f64,
                limit_s: limit.as_secs_f64(),
            }),
            // Stopped, perhaps on purpose: going slowly would not help it.
            _ => found.unknown.push(format!("replication lag of {at}: replication is not running")),
        }
    }
    Ok(found)
}

/// What whoever commits on a server leaves in a row there about the commit before.
struct Commits {
    sql: String,
    /// How often each row had been written when it was last looked at: what has not moved since
    /// says nothing about now.
    seen: HashMap<u64, u64>,
}

impl Commits {
    fn of_token() -> Commits {
        let sql = format!("SELECT id, writes, commit_us FROM {}", control::TOKEN);
        Commits { sql, seen: HashMap::new() }
    }

    fn of_watermark() -> Commits {
        let sql = format!("SELECT source, version, commit_us FROM {}", control::WATERMARK);
        Commits { sql, seen: HashMap::new() }
    }

    async fn ask(
        &mut self,
        conn: &mut Conn,
        at: &str,
        limit: Duration,
    ) -> Result<Found, ServerError> {
        let asked: Result<Vec<(u64, u64, u64)>, _> = conn.query(&self.sql).await;
        let rows = match asked {
            Ok(rows) => rows,
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => Vec::new(),
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_COLUMN => {
                let unknown = vec![format!("commit latency of {at}: {}", error.message)];
                return Ok(Found { readings: Vec::new(), unknown });
            }
            Err(other) => return Err(error::of(at, "reading the commit latency", other)),
        };
        let moved = self.moved(rows).map(|commit_us| Reading::CommitLatency {
            found_s: commit_us as f64 / 1e6,
            limit_s: limit.as_secs_f64(),
        });
        Ok(Found { readings: moved.into_iter().collect(), unknown: Vec::new() })
    }

    /// The longest of the commits since the last look.
    fn moved(&mut self, rows: Vec<(u64, u64, u64)>) -> Option<u64> {
        let moved = rows.into_iter().filter_map(|(row, writes, commit_us)| {
            let before = self.seen.insert(row, writes);
            before.is_some_and(|before| before != writes).then_some(commit_us)
        });
        moved.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_has_not_moved_says_nothing_about_now() {
        let mut commits = Commits::of_watermark();
        assert_eq!(commits.moved(vec![(0, 7, 900), (1, 1, 5)]), None, "who knows how old");
        assert_eq!(commits.moved(vec![(0, 7, 900), (1, 3, 5)]), Some(5));
        assert_eq!(commits.moved(vec![(0, 8, 900), (1, 4, 5)]), Some(900));
        assert_eq!(commits.moved(vec![(0, 8, 900), (1, 4, 5)]), None);
    }
}
