//! The lock that keeps a second operator out while the first one's process stirs.

use std::time::Duration;

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, Session, connect, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use super::claim::operator;
use super::entry::newest;
use crate::error::CutoverError;

/// How long a lock outlives a process that no longer stirs: what a daemon waits for beyond the budget
/// of a run whose operator is frozen, or cut off.
pub const LOCK_IDLE_S: u64 = 5;
const LOCK_PING: Duration = Duration::from_secs(1);
/// With which a daemon's name begins, where it is the operator.
pub(super) const WATCHDOG_OF: &str = "the watchdog of ";

/// Ends with the process, or with [`Register`](super::Register).
#[derive(Debug)]
pub(super) struct Lock(JoinHandle<()>);

impl Lock {
    pub(super) fn is_lost(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn name(plan: &str) -> String {
    format!("modshift.operator.{:08x}", crc32fast::hash(plan.as_bytes()))
}

/// Held beside the lock by an operator who is at a run: neither by a daemon that tries to end one, nor by a
/// command that only keeps operators out.
fn at_run(plan: &str) -> String {
    format!("modshift.run.{:08x}", crc32fast::hash(plan.as_bytes()))
}

/// Who is at a run that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attended {
    Operator,
    /// A daemon tries to end it. That it tries does not say that it can.
    Daemon,
    Nobody,
}

/// `conn`: to the server of the journal.
pub async fn attended(conn: &mut Conn, at: &str, plan: &str) -> Result<Attended, CutoverError> {
    let sql = format!(
        "SELECT IS_USED_LOCK('{}') IS NOT NULL, IS_USED_LOCK('{}') IS NOT NULL, (SELECT MAX(who \
         LIKE '{WATCHDOG_OF}%') FROM modshift_operator WHERE plan = ?)",
        at_run(plan),
        name(plan)
    );
    let row: Result<Option<(bool, bool, Option<bool>)>, _> = conn.exec_first(sql, (plan,)).await;
    let row = row.map_err(|error| error::of(at, "looking for an operator", error))?;
    Ok(match row.unwrap_or_default() {
        (true, ..) => Attended::Operator,
        (false, true, Some(true)) => Attended::Daemon,
        _ => Attended::Nobody,
    })
}

/// `for_run`: an operator wants it who is at a run then.
pub(super) async fn lock(
    plan: &str,
    endpoint: &Endpoint,
    for_run: bool,
) -> Result<Lock, CutoverError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let at = label(endpoint);
    let of = |error| error::of(&at, "locking the journal", error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!("SET SESSION wait_timeout = {LOCK_IDLE_S}");
    conn.query_drop(sql).await.map_err(of)?;
    let name = name(plan);
    let got: Option<Option<u8>> =
        conn.query_first(format!("SELECT GET_LOCK('{name}', 0)")).await.map_err(of)?;
    if got != Some(Some(1)) {
        let row = match operator(&mut conn, endpoint, plan).await {
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => None,
            row => row?,
        };
        let found = newest(&mut conn, &at, plan).await?;
        let run = found.map_or_else(|| "about to begin".to_owned(), |found| found.name);
        let (_, who, since) = row.unwrap_or_else(|| {
            (String::new(), "another operator".to_owned(), "just now".to_owned())
        });
        return Err(CutoverError::Busy { who, since, run });
    }
    if for_run {
        // Whoever had it had the lock as well, so it is free.
        let sql = format!("DO GET_LOCK('{}', 0)", at_run(plan));
        conn.query_drop(sql).await.map_err(of)?;
    }
    Ok(Lock(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOCK_PING).await;
            if let Err(error) = conn.query_drop("DO 1").await {
                // The token still tells the owner.
                tracing::warn!(error = %error, "the lock on the journal is lost");
                return;
            }
        }
    })))
}
