//! A session on one server that acts only for the operator who owns the run, or that prints what it
//! would send.
//!
//! Before the first statement it takes a lock on that server, in the way of whoever held it before:
//! that connection is killed. Then it asks the journal whether this process still owns the run.
//! After that no other process can act on this server until this connection is gone; so an operator
//! who was cut off or stood still cannot do belated damage.
//!
//! A bystander takes the same lock, but only where it is free: it does nothing beside an operator,
//! and an operator who comes ends its connection like that of any other.

use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::silence::{self, LOOK_AFTER};
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::{FromRow, Queryable};

use crate::error::CutoverError;
use crate::register::Claim;

/// For one statement. `SET GLOBAL read_only` waits a second for running writes, and the rollback of
/// a killed one may follow.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the connection that held the lock before to be gone.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// For a connection with its lock, and for the journal's word on whose run it is.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections beside the first, for work that can be spread.
pub(crate) const LANES: usize = 3;

/// Which server one speaks to, whatever name it is reached by.
pub(crate) const PLACE: &str = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir)";

/// Whether statements with an effect are sent.
#[derive(Clone, Debug)]
pub enum Guard {
    /// They are written down instead. What only reads is sent.
    Dry,
    Owner(Box<Claim>),
    /// They are sent while no operator is at that server.
    Bystander,
    /// They are sent by whoever was told to act without the journal: the lock is taken from whoever
    /// holds it, and nobody can be asked whose run it is. So there is one connection to each server,
    /// and none after it: while it stands no other operator can have acted there.
    Alone,
}

#[derive(Debug)]
pub struct Server {
    /// As errors call it: `old shard 0`, `replica db:3307 of old shard 0`.
    pub name: String,
    pub endpoint: Endpoint,
    lock: String,
    guard: Guard,
    conn: Option<Conn>,
    /// A connection was made once.
    spent: bool,
    script: Vec<String>,
    /// Modshift's own logins there.
    pub(crate) own_users: Vec<String>,
    /// What was done to sessions of others, for whoever reads what the run has done.
    notes: Vec<String>,
}

impl Server {
    pub fn new(name: String, plan: &str, endpoint: Endpoint, guard: Guard) -> Server {
        // Lock names are limited to 64 characters; the schema tells apart shards on one server.
        let of = format!("{plan}\0{name}");
        let lock = format!("modshift.server.{:08x}", crc32fast::hash(of.as_bytes()));
        let own_users = vec![endpoint.user.clone()];
        Server {
            name,
            endpoint,
            lock,
            guard,
            conn: None,
            spent: false,
            script: Vec::new(),
            own_users,
            notes: Vec::new(),
        }
    }

    pub(crate) fn with_own_users(self, own_users: Vec<String>) -> Server {
        Server { own_users, ..self }
    }

    /// Who cannot ask whose run it is has one connection, and whoever only prints needs none.
    pub(crate) fn may_have_lanes(&self) -> bool {
        matches!(self.guard, Guard::Owner(_))
    }

    /// A connection beside this one, with a lock of its own: who takes over ends it, too.
    pub(crate) fn lane(&self, lane: usize) -> Server {
        Server {
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            lock: lane_lock(&self.lock, lane),
            guard: self.guard.clone(),
            conn: None,
            spent: false,
            script: Vec::new(),
            own_users: self.own_users.clone(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    pub fn is_dry(&self) -> bool {
        matches!(self.guard, Guard::Dry)
    }

    /// The connection of the last statement still stands as far as is known.
    pub fn is_live(&self) -> bool {
        self.conn.is_some()
    }

    /// A connection whose session is not as it should be is not used again.
    pub(crate) fn abandon(&mut self) {
        self.conn = None;
    }

    /// What would have been sent since it was last asked.
    pub fn take_script(&mut self) -> Vec<String> {
        std::mem::take(&mut self.script)
    }

    /// A statement with an effect; how many rows it changed.
    pub async fn run(&mut self, doing: &'static str, sql: &str) -> Result<u64, CutoverError> {
        if self.is_dry() {
            self.script.push(sql.to_owned());
            return Ok(1);
        }
        let conn = self.reached().await?;
        let work = async |conn: &mut Conn| {
            conn.query_drop(sql).await?;
            Ok(conn.affected_rows())
        };
        self.send(conn, doing, work).await
    }

    /// A statement that only reads.
    pub async fn ask<T>(&mut self, doing: &'static str, sql: &str) -> Result<Vec<T>, CutoverError>
    where
        T: FromRow + Send + 'static,
    {
        if self.is_dry() {
            self.script.push(sql.to_owned());
        }
        let conn = self.reached().await?;
        self.send(conn, doing, async |conn: &mut Conn| conn.query(sql).await).await
    }

    /// Several statements that belong together and only read, or leave no transaction open.
    pub(crate) async fn talk<T>(
        &mut self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, ServerError>,
    ) -> Result<T, CutoverError> {
        let mut conn = self.reached().await?;
        let at = label(&self.endpoint);
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, work(&mut conn));
        let (answer, seen) = silence::watched(&self.endpoint, LOOK_AFTER, answer, |_| {}).await;
        let Ok(answer) = answer else {
            let detail = silence::detail(STATEMENT_TIMEOUT, seen);
            return Err(ServerError::Lost { at, doing, detail }.into());
        };
        if !answer.as_ref().is_err_and(ServerError::is_connection_lost) {
            self.conn = Some(conn);
        }
        Ok(answer?)
    }

    /// The connection is out of its place meanwhile: if this future is dropped, or no answer comes,
    /// its state is unknown and it is not used again.
    async fn send<T>(
        &mut self,
        mut conn: Conn,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, mysql_async::Error>,
    ) -> Result<T, CutoverError> {
        let at = label(&self.endpoint);
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, work(&mut conn));
        let (answer, seen) = silence::watched(&self.endpoint, LOOK_AFTER, answer, |_| {}).await;
        let Ok(answer) = answer else {
            let detail = silence::detail(STATEMENT_TIMEOUT, seen);
            return Err(ServerError::Lost { at, doing, detail }.into());
        };
        let answer = answer.map_err(|error| error::of(&at, doing, error));
        if !answer.as_ref().is_err_and(ServerError::is_connection_lost) {
            self.conn = Some(conn);
        }
        Ok(answer?)
    }

    /// A server that takes a connection and says nothing does not hold up the operator.
    async fn reached(&mut self) -> Result<Conn, CutoverError> {
        let at = label(&self.endpoint);
        let reaching = Box::pin(self.connected());
        tokio::time::timeout(REACH_TIMEOUT, reaching).await.unwrap_or_else(|_| {
            let detail = format!("no answer in {} s", REACH_TIMEOUT.as_secs());
            Err(ServerError::Unreachable { at, detail }.into())
        })
    }

    async fn connected(&mut self) -> Result<Conn, CutoverError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        if matches!(self.guard, Guard::Alone) && std::mem::replace(&mut self.spent, true) {
            let what =
                "its connection is lost, and without the journal it is not made again: repeat \
                        the command"
                    .to_owned();
            return Err(CutoverError::Unfit { server: self.name.clone(), what });
        }
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        match &self.guard {
            Guard::Dry => {}
            Guard::Owner(claim) => {
                let claim = claim.clone();
                self.lock(&mut conn).await?;
                claim.verify().await?;
            }
            Guard::Alone => self.lock(&mut conn).await?,
            Guard::Bystander => {
                if !self.try_lock(&mut conn).await? {
                    return Err(CutoverError::Attended { server: self.name.clone() });
                }
            }
        }
        Ok(conn)
    }

    async fn try_lock(&self, conn: &mut Conn) -> Result<bool, ServerError> {
        let of = |error| error::of(&label(&self.endpoint), "locking it for this process", error);
        let sql = format!("SELECT GET_LOCK('{}', 0)", self.lock);
        let got: Option<Option<u8>> = conn.query_first(sql).await.map_err(of)?;
        Ok(got == Some(Some(1)))
    }

    async fn lock(&self, conn: &mut Conn) -> Result<(), ServerError> {
        let at = label(&self.endpoint);
        let of = |error| error::of(&at, "locking it for this operator", error);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            let ours = self.try_lock(conn).await?;
            // With its lanes: none of them gets its lock again, for the journal has another owner.
            let locks = (0..LANES).map(|lane| lane_lock(&self.lock, lane));
            let locks = std::iter::once(self.lock.clone()).filter(|_| !ours).chain(locks);
            let used = locks.map(|lock| format!("SELECT IS_USED_LOCK('{lock}')"));
            let sql = used.collect::<Vec<_>>().join(" UNION ALL ");
            let holders: Vec<Option<u64>> = conn.query(sql).await.map_err(of)?;
            if ours && holders.iter().all(Option::is_none) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let detail = "another operator's connection does not end".to_owned();
                return Err(ServerError::Unreachable { at, detail });
            }
            for id in holders.into_iter().flatten() {
                kill(conn, id).await.map_err(of)?;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn lane_lock(lock: &str, lane: usize) -> String {
    format!("{lock}.{lane}")
}

/// Fine if it is gone already.
pub(crate) async fn kill(conn: &mut Conn, id: u64) -> Result<(), mysql_async::Error> {
    const NO_SUCH_THREAD: u16 = 1094;
    match conn.query_drop(format!("KILL HARD CONNECTION {id}")).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(()),
        outcome => outcome,
    }
}
