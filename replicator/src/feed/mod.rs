//! One binlog connection for all readers of a server within this process.
//!
//! The log of a server holds what all its schemas write, so readers of several shards there would
//! each be sent everything. Each reader begins, and after any trouble begins again, on a connection
//! of its own. Once that has nothing more to give it joins the server's *feed*, at
//! the group that it read last: the feed must have it behind the very same groups, and shows it
//! again, so the reader compares it as on every connection. Whoever falls behind what the feed keeps
//! leaves it and goes on alone; no reader waits for another.
//!
//! Which readers a group concerns is decided once, by `judge`. The others are told no more than its
//! GTID and checksum, and are not even woken for it.
//!
//! A reader that is alone on its server never joins: its own connection costs a copy less.

mod feeding;
mod joined;
mod judge;
mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use modshift_proto::plan::{Endpoint, Login};
use modshift_proto::{Gtid, GtidSet};

use self::feeding::Feed;
pub use self::joined::{Item, Joined, Source};
pub use self::ring::Passed;
use self::ring::Place;

/// The feeds of a process, and who reads where.
#[derive(Clone, Default)]
pub struct Feeds(Arc<Mutex<Vec<Server>>>);

/// Readers of one server under one login.
struct Server {
    login: Login,
    /// Of those who read there, joined or not.
    chairs: Vec<Chair>,
    next: u64,
    feed: Weak<Feed>,
}

/// What is kept of a reader.
struct Chair {
    number: u64,
    /// Its own, by the plan.
    replica_id: u32,
    /// What its own connection is known to the server by, if it has one.
    used: Option<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn feed(&self) -> Option<Arc<Feed>> {
        self.feed.upgrade().filter(|feed| !feed.has_ended())
    }

    /// The replica id for a connection of this reader's own. A server ends the connection of the
    /// same id that it has already: the reader by whose id the feed is known would end it for all.
    /// The readers that are joined do not use theirs, so there is one for whoever leaves.
    fn take_id(&mut self, number: u64, feed: Option<u32>) -> Option<u32> {
        let others = || self.chairs.iter().filter(|chair| chair.number != number);
        let free = |id: u32| feed != Some(id) && others().all(|chair| chair.used != Some(id));
        let own = self.chairs.iter().find(|chair| chair.number == number)?.replica_id;
        let mut ids = [own].into_iter().chain(others().map(|chair| chair.replica_id));
        let id = ids.find(|&id| free(id)).unwrap_or(own);
        self.chair(number)?.used = Some(id);
        Some(id)
    }

    fn chair(&mut self, number: u64) -> Option<&mut Chair> {
        self.chairs.iter_mut().find(|chair| chair.number == number)
    }
}

impl Feeds {
    /// A reader of this schema, as the binlog spells it, begins to read there.
    pub fn enter(&self, tailed: &Endpoint, schema: &str) -> Seat {
        let mut servers = lock(&self.0);
        let login = tailed.login();
        let known = servers.iter().position(|server| server.login == login);
        let index = known.unwrap_or_else(|| {
            let login = login.clone();
            servers.push(Server { login, chairs: Vec::new(), next: 0, feed: Weak::new() });
            servers.len() - 1
        });
        let server = &mut servers[index];
        let number = server.next;
        server.next += 1;
        let replica_id = tailed.replica_server_id;
        server.chairs.push(Chair { number, replica_id, used: None });
        let schema = schema.as_bytes().to_vec();
        Seat { feeds: self.clone(), login, endpoint: tailed.clone(), schema, number }
    }
}

/// A reader's place among those of its server; given up when dropped.
pub struct Seat {
    feeds: Feeds,
    login: Login,
    endpoint: Endpoint,
    schema: Vec<u8>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut servers = lock(&self.feeds.0);
        for server in servers.iter_mut().filter(|server| server.login == self.login) {
            server.chairs.retain(|chair| chair.number != self.number);
        }
        servers.retain(|server| !server.chairs.is_empty());
    }
}

impl Seat {
    /// For a connection of the reader's own, which takes the place of one that it had.
    pub fn alone(&self) -> Endpoint {
        let mut servers = lock(&self.feeds.0);
        let server = servers.iter_mut().find(|server| server.login == self.login);
        let id = server.and_then(|server| {
            let feed = server.feed().map(|feed| feed.replica_id);
            server.take_id(self.number, feed)
        });
        let replica_server_id = id.unwrap_or(self.endpoint.replica_server_id);
        Endpoint { replica_server_id, ..self.endpoint.clone() }
    }

    /// The feed of the server `server_id`, to which the reader is connected, at the group `last`,
    /// which came right after `before`; begins one where there is none. `None`: alone there, or the
    /// feed does not have that place. A feed that is still connected to where the address led before
    /// is none of that server's. Whoever gets a place gives up a connection of its own.
    pub fn join(
        &self,
        server_id: u32,
        (last, before): (Gtid, &GtidSet),
        heartbeat: Duration,
    ) -> Option<Joined> {
        let mut servers = lock(&self.feeds.0);
        let server = servers.iter_mut().find(|server| server.login == self.login)?;
        if server.chairs.len() < 2 {
            return None;
        }
        let (feed, place) = match server.feed() {
            Some(feed) => {
                let place = feed.place(server_id, last, before)?;
                (feed, place)
            }
            None => {
                let used = server.chair(self.number)?.used;
                let replica_server_id = used.unwrap_or(self.endpoint.replica_server_id);
                let endpoint = Endpoint { replica_server_id, ..self.endpoint.clone() };
                let feed = Feed::begin(endpoint, before.clone(), heartbeat, server_id);
                server.feed = Arc::downgrade(&feed);
                (feed, Place { chunk: 0, event: 0 })
            }
        };
        server.chair(self.number)?.used = None;
        Some(Joined::new(feed, place, self.schema.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(replica_server_id: u32) -> Endpoint {
        Endpoint {
            schema: format!("s{replica_server_id}"),
            replica_server_id,
            ..Endpoint::sample()
        }
    }

    #[test]
    fn who_leaves_a_feed_that_goes_on_never_takes_the_id_that_it_is_known_by() {
        let feeds = Feeds::default();
        let seats: Vec<Seat> = (71..=73).map(|id| feeds.enter(&endpoint(id), "s")).collect();
        let alone = |seat: usize| seats[seat].alone().replica_server_id;
        assert_eq!((alone(0), alone(1), alone(2)), (71, 72, 73), "each its own");
        assert_eq!(alone(1), 72, "again, after trouble");
        {
            let mut servers = lock(&feeds.0);
            let server = &mut servers[0];
            let joined = |server: &mut Server, at: usize| server.chairs[at].used = None;
            // All have joined a feed that is known by the first one's id.
            (0..3).for_each(|number| joined(server, number));
            assert_eq!(server.take_id(0, Some(71)), Some(72), "one that nobody uses");
            assert_eq!(server.take_id(1, Some(71)), Some(73), "its own is lent");
            // Once it is back the other one can have its own again.
            joined(server, 0);
            assert_eq!(server.take_id(1, Some(71)), Some(72));
            joined(server, 1);
            assert_eq!(server.take_id(0, None), Some(71), "the feed is gone");
        }
        drop(seats);
        assert!(lock(&feeds.0).is_empty());
    }
}
