//! One application connection per shard, and transactions with a known outcome.

use std::{collections::HashMap, time::Duration};

use mysql_async::{Conn, Error, prelude::Queryable};
use tokio::time::Instant;

use super::{Live, guide::Guide};
use crate::server::Address;

/// A statement and how many rows it must change.
#[derive(Clone, Debug)]
pub struct Statement {
    pub sql: String,
    pub rows: u64,
}

impl Statement {
    pub fn one(sql: String) -> Self {
        Self { sql, rows: 1 }
    }
}

#[derive(Debug)]
pub enum Outcome {
    /// Acknowledged at this time, or found committed afterwards (`None`).
    Committed(Option<Instant>),
    /// Not committed, for a reason that lies in the world: refused, locked, no connection.
    Refused(String),
    /// Something that must not be: a row that is not as it was left, an error no fault explains.
    Fault(String),
}

/// How the writer finds out whether a transaction whose COMMIT got no answer took place.
#[derive(Clone, Debug)]
pub struct Probe {
    pub row: Live,
    /// Committed if the row is there in this version; for `None`, if it is gone.
    pub version: Option<u64>,
}

/// The world's own errors: read-only, lock waits, deadlocks, shutdown, kill, too many connections,
/// access taken away, account locked.
const WORLD: [u16; 15] =
    [1290, 1205, 1213, 1053, 1927, 1317, 1040, 1045, 1044, 1142, 1227, 4151, 3118, 1836, 1180];
/// Of these, those that leave it open whether a COMMIT that met them took place.
const UNSURE_AT_COMMIT: [u16; 4] = [1053, 1927, 1317, 1180];
/// How long an outcome may stay unknown: a server that is killed and started again takes seconds.
const RESOLVE_LIMIT: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(25);

#[derive(Default)]
pub struct Session {
    connections: HashMap<(String, u16, String), Conn>,
}

impl Session {
    async fn connection(&mut self, place: &Address) -> Result<&mut Conn, Error> {
        let key = (place.host.clone(), place.port, place.schema.clone());
        if !self.connections.contains_key(&key) {
            let mut conn = Conn::new(place.opts()).await?;
            conn.query_drop("SET sql_mode='STRICT_ALL_TABLES,ALLOW_INVALID_DATES'").await?;
            self.connections.insert(key.clone(), conn);
        }
        Ok(self.connections.get_mut(&key).expect("just put there"))
    }

    pub fn forget(&mut self, place: &Address) {
        self.connections.remove(&(place.host.clone(), place.port, place.schema.clone()));
    }

    pub async fn query(
        &mut self,
        place: &Address,
        sql: &str,
    ) -> Result<Vec<mysql_async::Row>, Error> {
        let conn = self.connection(place).await?;
        conn.query(sql).await
    }

    /// All the statements in one transaction, or nothing of them.
    pub(super) async fn transact(
        &mut self,
        place: &Address,
        statements: &[Statement],
        probe: &Probe,
        guide: &Guide,
    ) -> Outcome {
        let conn = match self.connection(place).await {
            Ok(conn) => conn,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        if let Err(outcome) = body(conn, statements).await {
            // A connection that is whole is kept, once its transaction is undone.
            if conn.query_drop("ROLLBACK").await.is_err() {
                self.forget(place);
            }
            return outcome;
        }
        let error = match conn.query_drop("COMMIT").await {
            Ok(()) => return Outcome::Committed(Some(Instant::now())),
            Err(error) => error,
        };
        self.forget(place);
        match &error {
            Error::Server(server) if !UNSURE_AT_COMMIT.contains(&server.code) => {
                judge(&error, "COMMIT")
            }
            _ => self.resolve(place, probe, guide).await,
        }
    }

    /// The row of the probe travels with the data, so whichever side serves knows. One that is
    /// fenced refuses to lock it and says nothing; one that answers has every commit before it.
    async fn resolve(&mut self, place: &Address, probe: &Probe, guide: &Guide) -> Outcome {
        let before = guide.routes();
        let deadline = Instant::now() + RESOLVE_LIMIT;
        loop {
            // After a switch the answer lies where the row lies now.
            let now = guide.routes();
            let place =
                if now == before { place } else { &now.servers[probe.row.row.shard(now.modulus)] };
            match self.probe(place, probe).await {
                Ok(true) => return Outcome::Committed(None),
                Ok(false) => {
                    return Outcome::Refused("COMMIT was not answered, and not done".to_owned());
                }
                Err(error) if Instant::now() > deadline => {
                    return Outcome::Fault(format!("outcome unknown for too long: {error}"));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn probe(&mut self, place: &Address, probe: &Probe) -> Result<bool, Error> {
        self.forget(place);
        let conn = self.connection(place).await?;
        let found: Option<u64> = conn.query_first(probe.row.probe_sql()).await?;
        Ok(found == probe.version)
    }

    pub async fn close(self) {
        for conn in self.connections.into_values() {
            conn.disconnect().await.ok();
        }
    }
}

async fn body(conn: &mut Conn, statements: &[Statement]) -> Result<(), Outcome> {
    conn.query_drop("START TRANSACTION").await.map_err(|e| judge(&e, "START TRANSACTION"))?;
    for statement in statements {
        conn.query_drop(&statement.sql).await.map_err(|e| judge(&e, &statement.sql))?;
        let changed = conn.affected_rows();
        if changed != statement.rows {
            let wanted = statement.rows;
            let what = format!("{changed} rows changed instead of {wanted}: {}", statement.sql);
            return Err(Outcome::Fault(what));
        }
    }
    Ok(())
}

/// What an error before (or clearly at) COMMIT means: the transaction did not take place.
fn judge(error: &Error, sql: &str) -> Outcome {
    match error {
        Error::Server(server) if !WORLD.contains(&server.code) => {
            Outcome::Fault(format!("{error}: {sql}"))
        }
        _ => Outcome::Refused(error.to_string()),
    }
}
