//! One binlog connection for all readers of a server within this process.
//!
//! The log of a server holds what all its schemas write, so readers of several shards there would
//! each be sent everything. Each reader begins, and after any trouble begins again, on a connection
//! of its own. Once that has nothing more to give it joins the server's *feed*, at
//! the group that it read last: the feed must have it behind the very same groups, and shows it
//! again, so the reader compares it as on every connection. Whoever falls behind what the feed keeps
//! leaves it and goes on alone; no reader waits for another.
//!
//! A reader that is alone on its server never joins: its own connection costs a copy less.

mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use modshift_mariadb::connect;
use modshift_proto::plan::Endpoint;
use modshift_proto::{Gtid, GtidSet};
use tokio::sync::watch;

use self::ring::{Chunk, Filling, Held, Place, Ring};
use crate::binlog::{BinlogError, EventKind, EventStream, kind};

/// A chunk is given out at the latest when it has so many bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// The feeds of a process, and who reads where.
#[derive(Clone, Default)]
pub struct Feeds(Arc<Mutex<Vec<Server>>>);

/// Readers of one server under one login.
struct Server {
    endpoint: Endpoint,
    /// How many readers read there, joined or not.
    readers: usize,
    feed: Weak<Feed>,
}

/// What a feed and its readers share. Each reader holds it; the feed's task does not, and ends with
/// the last reader.
struct Feed {
    at: String,
    state: Arc<Mutex<State>>,
    news: watch::Receiver<()>,
}

struct State {
    ring: Ring,
    /// The newest format description: who joins midway is shown it first.
    format: Option<Arc<[u8]>>,
    /// At the other end; `None`: not connected yet.
    server_id: Option<u32>,
    /// Why nothing more comes.
    ended: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The schema apart: the same server, reached in the same way.
fn same_server(one: &Endpoint, other: &Endpoint) -> bool {
    one.host.eq_ignore_ascii_case(&other.host)
        && one.port == other.port
        && one.user == other.user
        && one.password == other.password
        && one.tls == other.tls
        && one.tls_ca == other.tls_ca
}

impl Feeds {
    /// A reader begins to read there.
    pub fn enter(&self, tailed: &Endpoint) -> Seat {
        let mut servers = lock(&self.0);
        match servers.iter_mut().find(|server| same_server(&server.endpoint, tailed)) {
            Some(server) => server.readers += 1,
            None => {
                servers.push(Server { endpoint: tailed.clone(), readers: 1, feed: Weak::new() })
            }
        }
        Seat { feeds: self.clone(), endpoint: tailed.clone() }
    }
}

/// A reader's place among those of its server; given up when dropped.
pub struct Seat {
    feeds: Feeds,
    endpoint: Endpoint,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut servers = lock(&self.feeds.0);
        if let Some(index) =
            servers.iter().position(|server| same_server(&server.endpoint, &self.endpoint))
        {
            servers[index].readers -= 1;
            if servers[index].readers == 0 {
                servers.swap_remove(index);
            }
        }
    }
}

impl Seat {
    /// The feed of the server `server_id` at the group `last`, which came right after `before`; begins
    /// one where there is none. `None`: alone there, or the feed does not have that place. A feed that
    /// is still connected to where the address led before is none of that server's.
    pub fn join(
        &self,
        server_id: u32,
        (last, before): (Gtid, &GtidSet),
        heartbeat: Duration,
    ) -> Option<Joined> {
        let mut servers = lock(&self.feeds.0);
        let server = servers.iter_mut().find(|s| same_server(&s.endpoint, &self.endpoint))?;
        if server.readers < 2 {
            return None;
        }
        if let Some(feed) = server.feed.upgrade() {
            let state = lock(&feed.state);
            if state.ended.is_none() {
                if state.server_id != Some(server_id) {
                    return None;
                }
                let place = state.ring.find(last, before)?;
                let format = state.format.clone();
                drop(state);
                return Some(Joined::new(feed, place, format));
            }
        }
        let feed = Feed::begin(self.endpoint.clone(), before.clone(), heartbeat);
        server.feed = Arc::downgrade(&feed);
        Some(Joined::new(feed, Place { chunk: 0, event: 0 }, None))
    }
}

impl Feed {
    fn begin(endpoint: Endpoint, start: GtidSet, heartbeat: Duration) -> Arc<Feed> {
        let state =
            State { ring: Ring::new(start.clone()), format: None, server_id: None, ended: None };
        let state = Arc::new(Mutex::new(state));
        let (tell, news) = watch::channel(());
        let at = connect::label(&endpoint);
        tracing::debug!(server = at, %start, "one binlog connection for all readers of the server");
        let feeding = Arc::clone(&state);
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = tell.closed() => return,
                ended = feed(&endpoint, start, heartbeat, &feeding, &tell) => ended,
            };
            lock(&feeding).ended = Some(ended.to_string());
            tell.send_replace(());
        });
        Arc::new(Feed { at, state, news })
    }
}

/// Brings chunks until the stream ends.
async fn feed(
    endpoint: &Endpoint,
    start: GtidSet,
    heartbeat: Duration,
    state: &Mutex<State>,
    tell: &watch::Sender<()>,
) -> BinlogError {
    let mut stream = match EventStream::open(endpoint, &start, heartbeat).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    lock(state).server_id = Some(stream.server_id());
    let mut filling = Filling::new(start);
    let mut format = None;
    loop {
        let taken = fill(&mut stream, &mut filling, &mut format).await;
        if !filling.chunk().is_empty() {
            let (chunk, begun) = filling.take();
            {
                let mut state = lock(state);
                state.format = format.clone();
                state.ring.push(chunk, begun);
            }
            tell.send_replace(());
            // With a backlog nothing in this loop ever waits.
            tokio::task::yield_now().await;
        }
        if let Err(error) = taken {
            return error;
        }
    }
}

/// What comes next, and what is here with it.
async fn fill(
    stream: &mut EventStream,
    filling: &mut Filling,
    format: &mut Option<Arc<[u8]>>,
) -> Result<(), BinlogError> {
    let mut take = |event: &[u8]| -> Result<usize, BinlogError> {
        let mut group = None;
        match kind(event)? {
            EventKind::Heartbeat => return Ok(0),
            EventKind::Format => *format = Some(Arc::from(event)),
            EventKind::Group(gtid) => group = Some(gtid),
            EventKind::Other => {}
        }
        filling.push(event, group);
        Ok(event.len())
    };
    let mut bytes = take(stream.next().await?)?;
    while bytes < CHUNK_BYTES {
        let Some(event) = stream.here()? else { break };
        bytes += take(event)?;
    }
    Ok(())
}

/// A reader's place in a feed.
pub struct Joined {
    feed: Arc<Feed>,
    news: watch::Receiver<()>,
    /// Of the event that comes next.
    place: Place,
    chunk: Option<Arc<Chunk>>,
    /// To be shown before anything else.
    format: Option<Arc<[u8]>>,
    /// That, once it is.
    shown: Option<Arc<[u8]>>,
}

impl Joined {
    fn new(feed: Arc<Feed>, place: Place, format: Option<Arc<[u8]>>) -> Joined {
        let news = feed.news.clone();
        Joined { feed, news, place, chunk: None, format, shown: None }
    }

    /// Is the next event here?
    fn ready(&mut self) -> Result<bool, BinlogError> {
        if self.format.is_some() {
            return Ok(true);
        }
        loop {
            if let Some(chunk) = &self.chunk {
                if chunk.event(self.place.event).is_some() {
                    return Ok(true);
                }
                self.chunk = None;
                self.place = Place { chunk: self.place.chunk + 1, event: 0 };
            }
            let state = lock(&self.feed.state);
            let at = || self.feed.at.clone();
            match (state.ring.held(self.place.chunk), &state.ended) {
                (Held::Chunk(chunk), _) => self.chunk = Some(chunk),
                (Held::Gone, _) => return Err(BinlogError::FellBehind { at: at() }),
                (Held::Coming, Some(why)) => {
                    return Err(BinlogError::FeedEnded { at: at(), detail: why.clone() });
                }
                (Held::Coming, None) => return Ok(false),
            }
        }
    }

    /// The event that is [ready](Self::ready).
    fn take(&mut self) -> Option<&[u8]> {
        if let Some(format) = self.format.take() {
            return self.shown.insert(format).get(..);
        }
        let event = self.place.event;
        self.place.event += 1;
        self.chunk.as_ref()?.event(event)
    }

    fn here(&mut self) -> Result<Option<&[u8]>, BinlogError> {
        Ok(if self.ready()? { self.take() } else { None })
    }

    /// Cancel safe.
    async fn next(&mut self) -> Result<&[u8], BinlogError> {
        while !self.ready()? {
            self.news.borrow_and_update();
            // Between the two something may have come.
            if self.ready()? {
                break;
            }
            let at = self.feed.at.clone();
            let broken = |_| BinlogError::FeedEnded { at, detail: "its task is gone".to_owned() };
            self.news.changed().await.map_err(broken)?;
        }
        let at = self.feed.at.clone();
        self.take().ok_or(BinlogError::NotAnEvent { at })
    }
}

/// Where a reader's events come from.
pub enum Source {
    Own(Box<EventStream>),
    Joined(Joined),
}

impl Source {
    /// The server at the other end of the reader's own connection.
    pub fn own(&self) -> Option<u32> {
        match self {
            Source::Own(stream) => Some(stream.server_id()),
            Source::Joined(_) => None,
        }
    }

    /// The next event if it is here already.
    #[inline]
    pub fn here(&mut self) -> Result<Option<&[u8]>, BinlogError> {
        match self {
            Source::Own(stream) => stream.here(),
            Source::Joined(joined) => joined.here(),
        }
    }

    /// The next event. Cancel safe.
    #[inline]
    pub async fn next(&mut self) -> Result<&[u8], BinlogError> {
        match self {
            Source::Own(stream) => stream.next().await,
            Source::Joined(joined) => joined.next().await,
        }
    }
}
