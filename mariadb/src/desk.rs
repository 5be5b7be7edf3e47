//! One connection to each server and login, for small questions that many ask now and then: forty
//! shards of one server would otherwise hold forty connections that sleep.
//!
//! Its schema is no shard's. So a name that is not qualified is an error, and never the table of
//! another shard; nothing changes the schema of a connection. Who asks waits for whoever asks before:
//! a question is one small statement or a few.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use modshift_proto::plan::Endpoint;
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

type Slot = Arc<tokio::sync::Mutex<Option<Conn>>>;

/// A handle that everyone who asks has a clone of.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Vec<(Endpoint, Slot)>>>);

/// The connection, while its turn lasts.
pub struct Turn {
    slot: OwnedMutexGuard<Option<Conn>>,
    conn: Conn,
}

impl Desk {
    /// Waits for its turn. Session: plain.
    pub async fn turn(&self, endpoint: &Endpoint) -> Result<Turn, ServerError> {
        let server = server_of(endpoint);
        let mut slot = self.slot(&server).lock_owned().await;
        // Taken out: a connection whose answer did not come, or that failed, is not used again.
        let conn = match slot.take() {
            Some(conn) => conn,
            None => connect(&server, Session::Plain).await?,
        };
        Ok(Turn { slot, conn })
    }

    fn slot(&self, server: &Endpoint) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = slots.iter().find(|(known, _)| known == server) {
            return slot.clone();
        }
        let slot = Slot::default();
        slots.push((server.clone(), slot.clone()));
        slot
    }
}

impl Turn {
    /// All was answered: the next one has the connection as it is.
    pub fn done(mut self) {
        *self.slot = Some(self.conn);
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
