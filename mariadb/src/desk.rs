//! One connection to each server and login, for small questions that many ask now and then: forty
//! shards of one server would otherwise hold forty connections that sleep.
//!
//! Its schema is no shard's. So a name that is not qualified is an error, and never the table of
//! another shard; nothing changes the schema of a connection. Who asks waits for whoever asks before:
//! a question is one small statement or a few.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_proto::plan::{Endpoint, Login};
use mysql_async::Conn;
use tokio::sync::OwnedMutexGuard;

use crate::connect::{Session, connect};
use crate::error::ServerError;

/// There on every server, and for every account.
pub(crate) const NOWHERE: &str = "information_schema";

/// The server of a shard, by the name and the login that the plan has for it.
pub fn server_of(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        schema: NOWHERE.to_owned(),
        replicas: Vec::new(),
        read_from: None,
        replica_server_id: 0,
        ..endpoint.clone()
    }
}

/// A connection stays where the address led to when it was made, and keeps the rights of then.
const AGE_MAX: Duration = Duration::from_secs(10);

type Slot = Arc<tokio::sync::Mutex<Option<Kept>>>;

struct Kept {
    conn: Conn,
    since: Instant,
}

/// A handle that everyone who asks has a clone of.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Vec<(Login, Slot)>>>);

/// The connection, while its turn lasts.
pub struct Turn {
    slot: OwnedMutexGuard<Option<Kept>>,
    conn: Conn,
    since: Instant,
}

impl Desk {
    /// Waits for its turn. Session: plain.
    pub async fn turn(&self, endpoint: &Endpoint) -> Result<Turn, ServerError> {
        self.turn_within(endpoint, AGE_MAX).await
    }

    /// The same over a new connection, for what must be asked where the address leads to now.
    pub async fn turn_anew(&self, endpoint: &Endpoint) -> Result<Turn, ServerError> {
        self.turn_within(endpoint, Duration::ZERO).await
    }

    async fn turn_within(&self, endpoint: &Endpoint, age: Duration) -> Result<Turn, ServerError> {
        let server = server_of(endpoint);
        let mut slot = self.slot(server.login()).lock_owned().await;
        // Taken out: a connection whose answer did not come, or that failed, is not used again.
        let Kept { conn, since } = match slot.take().filter(|kept| kept.since.elapsed() < age) {
            Some(kept) => kept,
            None => Kept { since: Instant::now(), conn: connect(&server, Session::Plain).await? },
        };
        Ok(Turn { slot, conn, since })
    }

    fn slot(&self, login: Login) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = slots.iter().find(|(known, _)| *known == login) {
            return slot.clone();
        }
        let slot = Slot::default();
        slots.push((login, slot.clone()));
        slot
    }
}

impl Turn {
    /// All was answered: the next one has the connection as it is.
    pub fn done(mut self) {
        *self.slot = Some(Kept { conn: self.conn, since: self.since });
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Deref for Turn {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}
