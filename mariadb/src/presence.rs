//! Which daemons of a plan live, as new shard 0 knows it: each keeps a user lock there for as long as
//! it runs, whatever its streams have come to.
//!
//! It is no lock that keeps anyone out: epochs and watermarks decide who may write. It is for commands
//! that move what a daemon remembers, and would be undone, or missed, by one that runs.

use std::convert::Infallible;
use std::time::Duration;

use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep, timeout};

use crate::connect::{Session, connect, label};
use crate::desk::server_of;
use crate::error::{self, ServerError};

/// As the commands that start them are called.
pub const ROLES: [&str; 3] = ["replicator", "consumer", "run"];
/// Daemons of one role that are told apart; more of them are as good as so many.
const SLOTS: usize = 16;
/// How long the lock outlives a host that is gone without a word.
const IDLE_S: u64 = 30;
const PING: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);
/// A daemon that starts while new shard 0 is away starts all the same.
const ENTRY: Duration = Duration::from_secs(5);
/// A process that has just ended: its server notices within moments.
const LEAVING: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A server forgets its locks when it is started: those who live have them again by then.
const UP_MIN_S: u64 = 10;

const ENTERING: &str = "saying that a daemon runs";
const LOOKING: &str = "looking for running daemons";

/// A daemon that has said that it runs.
#[derive(Debug)]
pub struct Present {
    endpoint: Endpoint,
    role: &'static str,
    plan: String,
    conn: Option<Conn>,
}

impl Present {
    /// Before its first stream starts.
    pub async fn enter(plan: &Plan, role: &'static str) -> Present {
        let endpoint = server_of(home(plan));
        let mut present = Present { endpoint, role, plan: named(plan), conn: None };
        match timeout(ENTRY, present.connected()).await {
            Ok(Ok(())) => {}
            failed => tracing::debug!(?failed, "new shard 0 does not know yet that a daemon runs"),
        }
        present
    }

    async fn connected(&mut self) -> Result<(), ServerError> {
        let of = |error| error::of(&label(&self.endpoint), ENTERING, error);
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        conn.query_drop(format!("SET SESSION wait_timeout = {IDLE_S}")).await.map_err(of)?;
        let key = key(&mut conn, &self.plan).await.map_err(of)?;
        // One after the other, up to the first that is free.
        let locks: Vec<String> = (0..SLOTS)
            .map(|slot| format!("GET_LOCK({}, 0)", lock(&key, self.role, slot)))
            .collect();
        conn.query_drop(format!("SELECT {}", locks.join(" OR "))).await.map_err(of)?;
        self.conn = Some(conn);
        Ok(())
    }

    /// Never ends.
    pub async fn stay(mut self) -> Infallible {
        loop {
            let kept = match &mut self.conn {
                // One whose server went without a word never answers.
                Some(conn) => {
                    matches!(timeout(ANSWER, conn.query_drop("DO 1")).await, Ok(Ok(())))
                }
                None => self.connected().await.is_ok(),
            };
            if !kept {
                self.conn = None;
            }
            sleep(PING).await;
        }
    }
}

/// The daemons of this plan that run, each with the host that it is connected from; empty once there
/// has been none for a moment.
pub async fn daemons(plan: &Plan) -> Result<Vec<String>, ServerError> {
    let endpoint = server_of(home(plan));
    let mut conn = connect(&endpoint, Session::Plain).await?;
    let deadline = Instant::now() + LEAVING;
    loop {
        let (found, up_s) = look(&mut conn, &named(plan))
            .await
            .map_err(|error| error::of(&label(&endpoint), LOOKING, error))?;
        let settled = up_s >= UP_MIN_S;
        if (found.is_empty() && settled) || (!found.is_empty() && Instant::now() >= deadline) {
            // It has answered.
            let _ = conn.disconnect().await;
            return Ok(found);
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Those who run, and how long the server has.
async fn look(conn: &mut Conn, plan: &str) -> mysql_async::Result<(Vec<String>, u64)> {
    let key = key(conn, plan).await?;
    let mut locks = Vec::with_capacity(ROLES.len() * SLOTS);
    for role in ROLES {
        for slot in 0..SLOTS {
            let name = lock(&key, role, slot);
            locks.push(format!("SELECT '{role}' AS role, IS_USED_LOCK({name}) AS id"));
        }
    }
    // An account sees its own sessions whatever its rights, and daemons use this very login.
    let sql = format!(
        "SELECT h.role, SUBSTRING_INDEX(COALESCE(c.HOST, 'a host that is not shown'), ':', 1) \
         FROM ({}) h LEFT JOIN information_schema.PROCESSLIST c ON c.ID = h.id \
         WHERE h.id IS NOT NULL ORDER BY 1, 2",
        locks.join(" UNION ALL ")
    );
    let rows: Vec<(String, String)> = conn.query(sql).await?;
    let up_s: Option<u64> = conn
        .query_first(
            "SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM information_schema.GLOBAL_STATUS \
             WHERE VARIABLE_NAME = 'UPTIME'",
        )
        .await?;
    let found = rows.into_iter().map(|(role, host)| format!("modshift {role} on {host}")).collect();
    Ok((found, up_s.unwrap_or_default()))
}

/// As SQL.
fn lock(key: &str, role: &str, slot: usize) -> String {
    format!("'modshift.{key}.{role}.{slot}'")
}

/// Names of locks are short, those of plans are not.
async fn key(conn: &mut Conn, plan: &str) -> mysql_async::Result<String> {
    let key: Option<String> = conn.exec_first("SELECT MD5(?)", (plan,)).await?;
    Ok(key.unwrap_or_default())
}

/// Two plans of one name may have their new shard 0 on one server.
fn named(plan: &Plan) -> String {
    format!("{}/{}", plan.forward_name(), home(plan).schema)
}

fn home(plan: &Plan) -> &Endpoint {
    &plan.forward.as_deref().unwrap_or(plan).new[0]
}
