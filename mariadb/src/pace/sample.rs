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
use modshift_proto::plan::{self, Endpoint, HostPort, Plan};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::controller::Reading;
use super::throttle::Throttle;
use crate::connect::{Session, connect, label};
use crate::control;
use crate::desk::server_of;
use crate::error::{self, ServerError};
use crate::seats::IDLE_MAX;
use crate::value::quote;

const INTERVAL: Duration = Duration::from_secs(1);
/// A server that takes longer to say how it is does not get more to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const NO_SUCH_TABLE: u16 = 1146;
const NO_SUCH_COLUMN: u16 = 1054;

/// Asks until dropped.
pub(super) async fn follow(plan: &Plan, throttle: &Throttle) {
    let servers = servers(plan);
    let asking = servers.into_iter().map(|server| follow_one(server, &plan.throttle, throttle));
    join(join_all(asking), close_idle(throttle)).await;
}

/// What workers leave open between two pieces is closed once nobody comes for it.
async fn close_idle(throttle: &Throttle) {
    let mut tick = interval(INTERVAL);
    loop {
        tick.tick().await;
        throttle.seats().close_idle(IDLE_MAX);
    }
}

/// Shards that are reached by one name and login are asked over one connection.
struct Server {
    primary: Asked,
    /// Of any of the shards; each has the same.
    replicas: Vec<Asked>,
    shards: Vec<Shard>,
}

struct Shard {
    /// In the throttle.
    index: usize,
    replicas: Vec<HostPort>,
    commits: Commits,
}

fn servers(plan: &Plan) -> Vec<Server> {
    let old = plan.old.iter().map(|endpoint| (endpoint, Commits::of_token(&endpoint.schema)));
    let new = plan.new.iter().map(|endpoint| (endpoint, Commits::of_watermark(&endpoint.schema)));
    let mut servers: Vec<Server> = Vec::new();
    for (index, (endpoint, commits)) in old.chain(new).enumerate() {
        let shard = Shard { index, replicas: endpoint.replicas.clone(), commits };
        let primary = server_of(endpoint);
        let login = primary.login();
        let known = servers.iter().position(|server| server.primary.endpoint.login() == login);
        let known = known.unwrap_or_else(|| {
            let primary = Asked::new(primary.clone());
            servers.push(Server { primary, replicas: Vec::new(), shards: Vec::new() });
            servers.len() - 1
        });
        let server = &mut servers[known];
        for replica in &endpoint.replicas {
            let replica = primary.on(replica);
            if server.replicas.iter().all(|asked| asked.endpoint.login() != replica.login()) {
                server.replicas.push(Asked::new(replica));
            }
        }
        server.shards.push(shard);
    }
    servers
}

async fn follow_one(mut server: Server, limits: &plan::Throttle, throttle: &Throttle) {
    let mut changes = throttle.changes();
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        changes.mark_unchanged();
        if !throttle.wanted() {
            // Nobody's connections are held for nothing.
            server.primary.conn = None;
            server.replicas.iter_mut().for_each(|replica| replica.conn = None);
            server.shards.iter().for_each(|shard| throttle.forget(shard.index));
            // The sender is in the throttle: it cannot be gone.
            let _ = changes.changed().await;
            continue;
        }
        let of_primary = of_primary(&mut server.primary, &mut server.shards, limits);
        let of_replicas =
            join_all(server.replicas.iter_mut().map(|asked| of_replica(asked, limits)));
        let ((primary, shards), replicas) = join(of_primary, of_replicas).await;
        for (place, shard) in server.shards.iter().enumerate() {
            let mut found = primary.clone();
            shards.get(place).into_iter().for_each(|more| found.add(more.clone()));
            for (asked, more) in server.replicas.iter().zip(&replicas) {
                let address = asked.endpoint.address();
                if shard.replicas.iter().any(|replica| replica.address() == address) {
                    found.add(more.clone());
                }
            }
            throttle.observe(shard.index, &found.readings, found.unknown);
        }
    }
}

/// What one server has answered.
#[derive(Clone, Default)]
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
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut Conn, &str) -> Result<T, ServerError>,
    ) -> Result<T, Found> {
        let at = label(&self.endpoint);
        let asking = async {
            let mut conn = self.conn().await?;
            let found = question(&mut conn, &at).await?;
            self.conn = Some(conn);
            Ok::<T, ServerError>(found)
        };
        let error = match timeout(ANSWER_WITHIN, asking).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{at}: no answer in {} s", ANSWER_WITHIN.as_secs()),
        };
        Err(Found { readings: vec![Reading::Silent { error }], unknown: Vec::new() })
    }
}

/// What is true of the whole server, and what of each shard there.
async fn of_primary(
    server: &mut Asked,
    shards: &mut [Shard],
    limits: &plan::Throttle,
) -> (Found, Vec<Found>) {
    let question = async |conn: &mut Conn, at: &str| {
        let (mut found, mut each) = (Found::default(), Vec::new());
        if let Some(limit) = limits.threads_running_max {
            let running = threads_running(conn, at).await?;
            found.readings.push(Reading::ThreadsRunning { found: running, limit });
        }
        if let Some(limit) = limits.replica_lag_max {
            found.add(lag(conn, at, limit).await?);
        }
        if let Some(limit) = limits.commit_latency_max {
            for shard in shards {
                each.push(shard.commits.ask(conn, at, limit).await?);
            }
        }
        Ok((found, each))
    };
    server.ask(question).await.unwrap_or_else(|silent| (silent, Vec::new()))
}

async fn of_replica(replica: &mut Asked, limits: &plan::Throttle) -> Found {
    let Some(limit) = limits.replica_lag_max else { return Found::default() };
    let asked = replica.ask(async |conn: &mut Conn, at: &str| lag(conn, at, limit).await).await;
    asked.unwrap_or_else(|silent| silent)
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
    fn of_token(schema: &str) -> Commits {
        Commits::of("id, writes", schema, control::TOKEN)
    }

    fn of_watermark(schema: &str) -> Commits {
        Commits::of("source, version", schema, control::WATERMARK)
    }

    fn of(row: &str, schema: &str, table: &str) -> Commits {
        let sql = format!("SELECT {row}, commit_us FROM {}.{table}", quote(schema));
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
        let mut commits = Commits::of_watermark("s");
        assert_eq!(commits.moved(vec![(0, 7, 900), (1, 1, 5)]), None, "who knows how old");
        assert_eq!(commits.moved(vec![(0, 7, 900), (1, 3, 5)]), Some(5));
        assert_eq!(commits.moved(vec![(0, 8, 900), (1, 4, 5)]), Some(900));
        assert_eq!(commits.moved(vec![(0, 8, 900), (1, 4, 5)]), None);
    }
}
