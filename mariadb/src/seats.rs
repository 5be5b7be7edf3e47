//! Connections for work that can wait, at most so many to one server: chunks of the copy, and what a
//! verification reads.
//!
//! A seat is the right to have one of them for one piece of work. Seats are given out in the order in
//! which they are asked for, and nobody waits for a second one, or for anything that needs one, while
//! having one: so nothing waits in a circle. A connection stays open between two pieces, until its
//! place is needed for another login or nobody has used it for a while. It is used again only for the
//! same schema: what was prepared on it means that schema's tables. Those who qualify every name ask
//! for [`server_of`](crate::desk::server_of) their shard, and share with all shards of the server.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use modshift_proto::plan::{Address, Endpoint};
use mysql_async::Conn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connect::{Session, connect};
use crate::error::ServerError;

/// The rest between two pieces of a verification at a low pace, and more than that of the copy.
pub const IDLE_MAX: Duration = Duration::from_secs(3);

/// A handle that everyone who works has a clone of.
#[derive(Clone)]
pub struct Seats(Arc<All>);

struct All {
    per_server: usize,
    servers: Mutex<Vec<(Address, Arc<Server>)>>,
}

struct Server {
    per_server: usize,
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Open and not used, the longest idle first.
    idle: Vec<Idle>,
}

struct Idle {
    endpoint: Endpoint,
    conn: Conn,
    since: Instant,
}

/// One connection's worth of room on a server. Dropped, it is the next one's.
pub struct Seat {
    server: Arc<Server>,
    endpoint: Endpoint,
    conn: Option<Conn>,
    /// Of another place: closed before this one's is opened.
    in_the_way: Option<Conn>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&mut self, endpoint: &Endpoint) -> Option<Conn> {
        let found = self.idle.iter().rposition(|idle| idle.endpoint == *endpoint)?;
        Some(self.idle.remove(found).conn)
    }
}

impl Seats {
    pub fn new(per_server: u16) -> Seats {
        let per_server = usize::from(per_server.max(1));
        Seats(Arc::new(All { per_server, servers: Mutex::default() }))
    }

    /// Waits until there is one on that server. Cancel safe.
    pub async fn seat(&self, endpoint: &Endpoint) -> Seat {
        let server = self.server(endpoint);
        // An error only for a semaphore that was closed, which this one never is.
        let permit = server.free.clone().acquire_owned().await.ok();
        sit(server, endpoint, permit)
    }

    /// The same, if nobody else has to wait for it.
    pub fn free(&self, endpoint: &Endpoint) -> Option<Seat> {
        let server = self.server(endpoint);
        let permit = server.free.clone().try_acquire_owned().ok()?;
        Some(sit(server, endpoint, Some(permit)))
    }

    /// Closes what nobody has used for so long.
    pub fn close_idle(&self, unused: Duration) {
        let servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, server) in servers.iter() {
            server.state().idle.retain(|idle| idle.since.elapsed() < unused);
        }
    }

    fn server(&self, endpoint: &Endpoint) -> Arc<Server> {
        let address = endpoint.address();
        let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, server)) = servers.iter().find(|(known, _)| *known == address) {
            return server.clone();
        }
        let per_server = self.0.per_server;
        let free = Arc::new(Semaphore::new(per_server));
        let server = Arc::new(Server { per_server, free, state: Mutex::default() });
        servers.push((address, server.clone()));
        server
    }
}

fn sit(server: Arc<Server>, endpoint: &Endpoint, permit: Option<OwnedSemaphorePermit>) -> Seat {
    let (conn, in_the_way) = {
        let mut state = server.state();
        state.taken += 1;
        let conn = state.of(endpoint);
        let full = state.taken + state.idle.len() > server.per_server;
        let in_the_way = match conn.is_none() && full && !state.idle.is_empty() {
            true => Some(state.idle.remove(0).conn),
            false => None,
        };
        (conn, in_the_way)
    };
    Seat { server, endpoint: endpoint.clone(), conn, in_the_way, _permit: permit }
}

impl Seat {
    /// For values as they are stored. What is not handed back with [`Seat::keep`] is closed.
    pub async fn conn(&mut self) -> Result<Conn, ServerError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        if let Some(conn) = self.in_the_way.take() {
            // Gone is gone, however it went.
            let _ = conn.disconnect().await;
        }
        connect(&self.endpoint, Session::Exact).await
    }

    /// The piece is done: the seat is free, and the connection stays open for the next piece of the
    /// same shard.
    pub fn keep(mut self, conn: Conn) {
        self.conn = Some(conn);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.taken -= 1;
        if let Some(conn) = self.conn.take() {
            state.idle.push(Idle { endpoint: self.endpoint.clone(), conn, since: Instant::now() });
        }
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("per_server", &self.0.per_server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(schema: &str) -> Endpoint {
        Endpoint { schema: schema.to_owned(), ..Endpoint::sample() }
    }

    #[tokio::test]
    async fn seats_are_given_out_in_the_order_in_which_they_were_asked_for() {
        let seats = Seats::new(2);
        let (a, b) = (endpoint("a"), endpoint("b"));
        let one = seats.seat(&a).await;
        let two = seats.seat(&b).await;
        assert!(seats.free(&a).is_none(), "a third one");
        let mut waiting = Box::pin(seats.seat(&b));
        let early = tokio::time::timeout(Duration::from_millis(10), &mut waiting).await;
        assert!(early.is_err());
        drop(one);
        assert!(seats.free(&a).is_none(), "past who waits");
        let three = waiting.await;
        drop((two, three));
        assert!(seats.free(&a).is_some());
    }
}
