//! The task that brings a server's binlog, and what it shares with the readers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use modshift_mariadb::connect;
use modshift_proto::plan::Endpoint;
use modshift_proto::{Gtid, GtidSet};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::judge::Judge;
use super::lock;
use super::ring::{BYTES_MAX, Concerned, Filling, Held, Place, Ring};
use crate::binlog::{BinlogError, EventKind, EventStream, kind};

/// A chunk is given out at the latest when it has so many bytes; before, only at the end of a group
/// that may concern few.
const CHUNK_BYTES: usize = 256 << 10;
/// All are woken when so much has come that concerns them or not: a long way before what they have
/// not passed by is let go.
const ASLEEP_BYTES: usize = BYTES_MAX / 8;

/// What a feed and its readers share. Each reader holds it; the feed's task does not, and ends with
/// the last reader.
pub(super) struct Feed {
    pub at: String,
    /// What the server knows its connection by.
    pub replica_id: u32,
    /// At the other end.
    server_id: u32,
    state: Arc<Mutex<State>>,
    _gone: DropGuard,
}

/// Wakes a reader.
pub(super) struct Bell {
    schema: Vec<u8>,
    pub rung: Notify,
}

struct State {
    ring: Ring,
    bells: Vec<Arc<Bell>>,
    /// What has come since everyone was woken.
    asleep_bytes: usize,
    /// Why nothing more comes.
    ended: Option<String>,
}

impl State {
    fn push(&mut self, filling: &mut Filling) {
        let (chunk, begun) = filling.take();
        self.asleep_bytes += chunk.bytes();
        match chunk.concerned() {
            Concerned::Schemas(schemas) if self.asleep_bytes < ASLEEP_BYTES => {
                let concerned = |bell: &&Arc<Bell>| schemas.contains(&bell.schema.as_slice());
                self.bells.iter().filter(concerned).for_each(|bell| bell.rung.notify_one());
            }
            Concerned::Schemas(_) | Concerned::Everyone => self.wake_all(),
        }
        self.ring.push(chunk, begun);
    }

    fn wake_all(&mut self) {
        self.asleep_bytes = 0;
        self.bells.iter().for_each(|bell| bell.rung.notify_one());
    }
}

/// However the task ends, its readers hear of it.
struct Ending(Arc<Mutex<State>>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.ended.get_or_insert_with(|| "its task is gone".to_owned());
        state.wake_all();
    }
}

impl Feed {
    /// `server_id`: where the address must lead.
    pub fn begin(
        endpoint: Endpoint,
        start: GtidSet,
        heartbeat: Duration,
        server_id: u32,
    ) -> Arc<Feed> {
        let ring = Ring::new(start.clone());
        let state = State { ring, bells: Vec::new(), asleep_bytes: 0, ended: None };
        let state = Arc::new(Mutex::new(state));
        let (at, replica_id) = (connect::label(&endpoint), endpoint.replica_server_id);
        tracing::debug!(server = at, %start, replica_id,
            "one binlog connection for all readers of the server");
        let (gone, ending) = (CancellationToken::new(), Ending(Arc::clone(&state)));
        let left = gone.clone();
        tokio::spawn(async move {
            let state = &ending.0;
            let feeding = feed(&endpoint, start, heartbeat, server_id, state);
            if let Some(ended) = left.run_until_cancelled(feeding).await {
                lock(state).ended = Some(ended);
            }
        });
        Arc::new(Feed { at, replica_id, server_id, state, _gone: gone.drop_guard() })
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.state).ended.is_some()
    }

    /// Where that group of that server begins.
    pub fn place(&self, server_id: u32, last: Gtid, before: &GtidSet) -> Option<Place> {
        if self.server_id != server_id {
            return None;
        }
        lock(&self.state).ring.find(last, before)
    }

    /// What is there, or why nothing more comes.
    pub fn held(&self, chunk: u64) -> Result<Held, BinlogError> {
        let state = lock(&self.state);
        let at = || self.at.clone();
        match (state.ring.held(chunk), &state.ended) {
            (Held::Gone, _) => Err(BinlogError::FellBehind { at: at() }),
            (Held::Coming, Some(why)) => {
                Err(BinlogError::FeedEnded { at: at(), detail: why.clone() })
            }
            (held, _) => Ok(held),
        }
    }

    pub fn bell(&self, schema: Vec<u8>) -> Arc<Bell> {
        let bell = Arc::new(Bell { schema, rung: Notify::new() });
        lock(&self.state).bells.push(Arc::clone(&bell));
        bell
    }

    pub fn leave(&self, bell: &Arc<Bell>) {
        lock(&self.state).bells.retain(|other| !Arc::ptr_eq(other, bell));
    }
}

/// Brings chunks until the stream ends; why it has.
async fn feed(
    endpoint: &Endpoint,
    start: GtidSet,
    heartbeat: Duration,
    server_id: u32,
    state: &Mutex<State>,
) -> String {
    let opened = EventStream::open(endpoint, &start, heartbeat).await;
    let (mut stream, mut judge) = match (opened, Judge::new()) {
        (Ok(stream), Ok(judge)) => (stream, judge),
        (Err(error), _) | (_, Err(error)) => return error.to_string(),
    };
    let found = stream.server_id();
    if found != server_id {
        return format!("its address leads to server {found} by now, and led to {server_id}");
    }
    let mut filling = Filling::new(start);
    loop {
        let taken = fill(&mut stream, &mut filling, &mut judge).await;
        if !filling.chunk().is_empty() {
            lock(state).push(&mut filling);
            // With a backlog nothing in this loop ever waits.
            tokio::task::yield_now().await;
        }
        if let Err(error) = taken {
            return error.to_string();
        }
    }
}

/// What comes next, and what is here with it; a group that may concern few as a whole.
async fn fill(
    stream: &mut EventStream,
    filling: &mut Filling,
    judge: &mut Judge,
) -> Result<(), BinlogError> {
    let take = |event: &[u8], judge: &mut Judge, filling: &mut Filling| {
        let begun = match kind(event)? {
            EventKind::Heartbeat => return Ok(0),
            EventKind::Group(gtid) => Some(gtid),
            EventKind::Other => None,
        };
        filling.push(event, begun, judge.event(event));
        Ok::<usize, BinlogError>(event.len())
    };
    let mut bytes = 0;
    loop {
        bytes += take(stream.next().await?, judge, filling)?;
        while bytes < CHUNK_BYTES {
            let Some(event) = stream.here()? else { break };
            bytes += take(event, judge, filling)?;
        }
        if bytes >= CHUNK_BYTES || !judge.midway() {
            return Ok(());
        }
    }
}
