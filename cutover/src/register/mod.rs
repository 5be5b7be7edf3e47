//! The journal on new shard 0: what a run has begun and done, who owns it, and what the servers
//! were before they were fenced.
//!
//! Two things keep a second operator out: a lock that lives as long as a connection of the first
//! (5 s at most once its process no longer stirs), and an owner's token. Every write begins with a
//! compare-and-set on the token; whoever takes over puts in one of his own.

mod claim;
mod entry;
mod lock;
mod quote;
mod table;
mod write;

pub use claim::Claim;
pub use entry::{Found, WATCHDOG, newest};
pub(crate) use quote::quote;
pub use table::{FENCE, JOURNAL, OPERATOR};

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::silence::{self, LOOK_AFTER};
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

use self::entry::damaged;
pub use self::lock::{Attended, LOCK_IDLE_S, attended};
use self::lock::{Lock, WATCHDOG_OF, lock};
use self::table::create;
use self::write::within;
use crate::decide::{Admission, Ask, Journal, Run, admit};
use crate::error::CutoverError;
use crate::step::Mode;

/// For taking a run: some ten statements. A server whose disk is full answers none of them.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps operators out for as long as it lives, without a run: for commands that change what a run
/// relies on.
#[derive(Debug)]
pub struct Hold {
    lock: Lock,
}

impl Hold {
    /// An error if there is an operator, or another such command, at it.
    pub async fn take(plan: &Plan) -> Result<Hold, CutoverError> {
        let forward = plan.forward.as_deref().unwrap_or(plan);
        Ok(Hold { lock: lock(&forward.name, &forward.new[0], false).await? })
    }

    /// Nobody else can have had it since.
    pub fn still(&self) -> bool {
        !self.lock.is_lost()
    }
}

/// The owner's hold on the journal.
#[derive(Debug)]
pub struct Register {
    plan: String,
    endpoint: Endpoint,
    conn: Option<Conn>,
    lock: Option<Lock>,
    token: String,
    who: String,
    number: u64,
    /// Written or tried to be: a number is used once, so that a late commit cannot be mistaken.
    entries: u64,
    /// Entries that may not be there, to be written with the next one: see
    /// [`owed`](crate::decide::owed).
    owed: Vec<(u64, String)>,
    pub run: Run,
    pub name: String,
    /// From-shards that the run goes without.
    pub lost: Vec<u16>,
    /// Of a run that was taken up amid its pause: when that began.
    pub waits_since: Option<Instant>,
    /// With which the routing was last begun to be published.
    pub detail: Option<String>,
    /// In place of writing; see [`Register::take_script`].
    script: Option<Vec<String>>,
}

impl Register {
    /// Takes the run that `ask` is about, if there is nobody at it and the last run admits it.
    /// `mode` counts for a new run. A dry one only looks.
    pub async fn take(
        plan: &str,
        endpoint: Endpoint,
        ask: Ask,
        mode: Mode,
        dry: bool,
    ) -> Result<(Register, Admission), CutoverError> {
        let at = label(&endpoint);
        let taking = Box::pin(Register::take_it(plan, endpoint.clone(), ask, mode, dry));
        let taking = tokio::time::timeout(TAKE_TIMEOUT, taking);
        let (taken, seen) = silence::watched(&endpoint, LOOK_AFTER, taking, |_| {}).await;
        taken.unwrap_or_else(|_| {
            let detail = silence::detail(TAKE_TIMEOUT, seen);
            Err(ServerError::Lost { at, doing: "taking the journal", detail }.into())
        })
    }

    async fn take_it(
        plan: &str,
        endpoint: Endpoint,
        ask: Ask,
        mode: Mode,
        dry: bool,
    ) -> Result<(Register, Admission), CutoverError> {
        let at = label(&endpoint);
        let of = |error| error::of(&at, "taking the journal", error);
        let mut conn = connect(&endpoint, Session::Plain).await?;
        let watches = matches!(ask, Ask::Watch(_));
        let lock = if dry { None } else { Some(lock(plan, &endpoint, !watches).await?) };
        if !dry {
            create(&mut conn, &endpoint).await?;
        }
        let last = newest(&mut conn, &at, plan).await?;
        let newest_number = last.as_ref().map_or(0, |found| found.number);
        let admission = admit(last.as_ref().map(|found| &found.run), ask)?;
        let random = RandomState::new().hash_one((std::process::id(), &at));
        let who = match ask {
            Ask::Watch(_) => format!("{WATCHDOG_OF}{}", who()),
            _ => who(),
        };
        // What is about a run that there is, or was.
        let kept = last.filter(|_| !matches!(ask, Ask::Start(_)) || admission != Admission::Begin);
        let waited = kept.as_ref().and_then(|found| found.since.waited);
        let waits_since = waited.and_then(|waited| Instant::now().checked_sub(waited));
        let lost = kept.as_ref().map(|found| found.lost.clone()).unwrap_or_default();
        let (number, name, run, entries, detail) = match (kept, ask) {
            (Some(found), _) => (found.number, found.name, found.run, found.entries, found.detail),
            (None, Ask::Start(direction)) => {
                let number = newest_number + 1;
                let name = format!("{direction}-{number}-{:08x}", random as u32);
                (number, name, Run { direction, journal: Journal::new(mode) }, 0, None)
            }
            // Nothing but a start is admitted without one.
            (None, _) => return Err(damaged("?", 0, "no run")),
        };
        let token = format!("{random:016x}");
        if !dry {
            let sql = "INSERT INTO modshift_operator (plan, token, writes, who, since)
                 VALUES (?, ?, 1, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE
                 token = VALUES(token), writes = writes + 1, who = VALUES(who),
                 since = VALUES(since)";
            conn.exec_drop(sql, (plan, &token, &who)).await.map_err(of)?;
            // Entries that the one before had under way are in by now, or never will be.
            let again = newest(&mut conn, &at, plan).await?;
            if again.is_some_and(|found| found.number == number && found.entries != entries) {
                return Err(CutoverError::Superseded { who: "another operator".to_owned() });
            }
        }
        let script = dry.then(Vec::new);
        let conn = Some(conn);
        let register = Register {
            plan: plan.to_owned(),
            endpoint,
            conn,
            lock,
            token,
            who,
            number,
            entries,
            owed: Vec::new(),
            run,
            name,
            lost,
            waits_since,
            detail,
            script,
        };
        Ok((register, admission))
    }

    pub fn journal(&self) -> &Journal {
        &self.run.journal
    }

    pub fn claim(&self) -> Claim {
        Claim {
            plan: self.plan.clone(),
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
        }
    }

    pub fn take_script(&mut self) -> Vec<String> {
        self.script.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Every server that is remembered.
    pub async fn remembered(&mut self) -> Result<Vec<(String, String)>, CutoverError> {
        let endpoint = self.endpoint.clone();
        Ok(within(&endpoint, self.ask_remembered()).await?)
    }

    async fn ask_remembered(&mut self) -> Result<Vec<(String, String)>, ServerError> {
        const NO_SUCH_TABLE: u16 = 1146;
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.endpoint, Session::Plain).await?,
        };
        let rows =
            conn.exec("SELECT server, was FROM modshift_fence WHERE plan = ?", (&self.plan,)).await;
        let rows = rows.map_err(|error| {
            error::of(&label(&self.endpoint), "reading what the servers were", error)
        });
        let rows = match rows {
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => Vec::new(),
            rows => rows?,
        };
        self.conn = Some(conn);
        Ok(rows)
    }

    /// Lets the next operator in at once.
    pub async fn release(mut self) {
        self.lock = None;
        if let Some(conn) = self.conn.take() {
            // Everything is written.
            let _ = conn.disconnect().await;
        }
    }
}

/// `user@host, process 123`.
fn who() -> String {
    format!("{}, process {}", modshift_mariadb::audit::operator(), std::process::id())
}
