//! For applications: keeps the newest routing document of a source, and answers where a key lives.
//!
//! A thread of its own reads the source at an interval, and at a much shorter one while somebody
//! waits for a newer version. What a [`Router`] has seen it never goes back behind: a source that
//! is away, empty, broken or older than before leaves the last document in use, and
//! [`Router::health`] says since when and why.
//!
//! How an application writes across a cutover: it treats the errors that a fence causes like a
//! deadlock, as a reason to make the whole transaction again, once there is a newer routing.
//!
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use modshift_routing::{Route, Router, Source};
//! # enum Failed { Fenced, Other }
//! # fn transaction(_: &Route) -> Result<(), Failed> { Ok(()) }
//! let router = Router::follow(Source::File("/etc/shop/routing.json".into()))?;
//! let give_up = Instant::now() + Duration::from_secs(10);
//! router.wait_newer(0, give_up)?; // the first document
//! loop {
//!     let route = router.route("t_trade_order", 4711)?;
//!     match transaction(&route) {
//!         Ok(()) => break,
//!         // 1290 (read-only; or the row is not at home there any more, for the shard was split),
//!         // 1927 and 4151 (killed, account locked), a lost connection. Roll back; where COMMIT got
//!         // no answer, ask the shard that serves now whether it took place.
//!         Err(Failed::Fenced) if Instant::now() < give_up => {
//!             // Ends with a newer version; or without one, where the fence was lifted again.
//!             let soon = Instant::now() + Duration::from_millis(50);
//!             router.wait_newer(route.version, soon.min(give_up)).ok();
//!         }
//!         Err(_) => return Err("the transaction failed".into()),
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod source;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::source::Reader;
pub use self::source::{EtcdSource, HttpSource, Source};
use crate::document::{Document, Key, RouteError};

/// Where a row lives, and by which version of the routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub shard: u16,
    pub host: String,
    pub port: u16,
    pub schema: String,
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("no routing document yet from {source_name}: {why}")]
    NoDocument { source_name: String, why: String },
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("routing version {version} is the newest of {source_name}{why}")]
    NotNewer { source_name: String, version: u64, why: String },
    #[error("routing source {source_name}: {detail}")]
    Source { source_name: String, detail: String },
}

/// How well the document is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// 0 before the first document.
    pub version: u64,
    /// How long ago the source last confirmed what is in use; `None` if it never has.
    pub age: Option<Duration>,
    /// Why it does not now.
    pub fault: Option<String>,
}

/// How often the source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// As long as nobody waits.
    pub idle: Duration,
    /// While somebody waits for a newer version.
    pub waiting: Duration,
}

/// The newest document of a source. Clones share it; when the last is gone, reading ends.
#[derive(Clone, Debug)]
pub struct Router {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source_name: String,
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: Condvar,
    /// Read now, or stop.
    nudge: Condvar,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    document: Option<Arc<Document>>,
    confirmed: Option<Instant>,
    fault: Option<String>,
    waiting: usize,
    stop: bool,
}

impl Router {
    /// Begins to follow; the first document comes with [`Router::wait_newer`] of version 0. Fails
    /// only on what no waiting mends, such as a certificate file that cannot be read.
    pub fn follow(source: Source) -> Result<Router, ClientError> {
        let intervals = source.intervals();
        Router::follow_every(source, intervals)
    }

    pub fn follow_every(source: Source, intervals: Intervals) -> Result<Router, ClientError> {
        let source_name = source.name();
        let refused = |detail| ClientError::Source { source_name: source_name.clone(), detail };
        let reader = Reader::new(source).map_err(refused)?;
        let shared = Arc::new(Shared {
            source_name: source_name.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
            nudge: Condvar::new(),
            version: watch::Sender::new(0),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("modshift-routing".to_owned())
            .spawn(move || of_thread.read(reader, intervals))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Router { handle: Arc::new(Handle { shared }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.handle.shared.state()
    }

    pub fn document(&self) -> Option<Arc<Document>> {
        self.state().document.clone()
    }

    /// Of the document in use; 0 before the first.
    pub fn version(&self) -> u64 {
        self.state().version()
    }

    pub fn health(&self) -> Health {
        let state = self.state();
        let age = state.confirmed.map(|confirmed| confirmed.elapsed());
        Health { version: state.version(), age, fault: state.fault.clone() }
    }

    /// The shard that holds the rows of a table with this key, by the newest document.
    pub fn route<'a>(&self, table: &str, key: impl Into<Key<'a>>) -> Result<Route, ClientError> {
        let document = self.document().ok_or_else(|| ClientError::NoDocument {
            source_name: self.handle.shared.source_name.clone(),
            why: self.state().why(),
        })?;
        let shard = document.route(table, key)?;
        Ok(Route {
            shard: shard.index,
            host: shard.host.clone(),
            port: shard.port,
            schema: shard.schema.clone(),
            version: document.version,
        })
    }

    /// Blocks until there is a version above this one, which it returns. Asks the source at once
    /// and then in quick succession.
    pub fn wait_newer(&self, version: u64, deadline: Instant) -> Result<u64, ClientError> {
        let _waiting = self.waiting();
        let shared = &self.handle.shared;
        let mut state = shared.state();
        loop {
            let found = state.version();
            if found > version {
                break Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (source_name, why) = (shared.source_name.clone(), state.why());
                let error = match found {
                    0 => ClientError::NoDocument { source_name, why },
                    _ => {
                        let why = state.fault.as_ref().map(|_| format!(" ({why})"));
                        let why = why.unwrap_or_default();
                        ClientError::NotNewer { source_name, version: found, why }
                    }
                };
                break Err(error);
            }
            let woken = shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same for asynchronous callers, with a deadline of their own making.
    pub async fn newer(&self, version: u64) -> u64 {
        let _waiting = self.waiting();
        let mut versions = self.handle.shared.version.subscribe();
        // The sender lives as long as this router.
        let found = versions.wait_for(|&found| found > version).await.map(|found| *found);
        found.unwrap_or(version)
    }

    fn waiting(&self) -> Waiting<'_> {
        let shared = &*self.handle.shared;
        shared.state().waiting += 1;
        shared.nudge.notify_one();
        Waiting(shared)
    }
}

/// Somebody who waits for a newer version.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.nudge.notify_one();
    }
}

impl State {
    fn version(&self) -> u64 {
        self.document.as_ref().map_or(0, |document| document.version)
    }

    fn why(&self) -> String {
        self.fault.clone().unwrap_or_else(|| "it has not answered yet".to_owned())
    }

    /// Takes what the source said; whether that is a newer version.
    fn take(&mut self, read: Result<Option<Document>, String>, now: Instant) -> bool {
        let document = match read {
            Err(fault) => {
                self.fault = Some(fault);
                return false;
            }
            // As it was when it was last read, whatever that was.
            Ok(None) => {
                if self.fault.is_none() {
                    self.confirmed = Some(now);
                }
                return false;
            }
            Ok(Some(document)) => document,
        };
        let newer = match &self.document {
            None => Ok(true),
            Some(held) if held.plan != document.plan => {
                Err(format!("it holds the routing of plan {} now", document.plan))
            }
            Some(held) if document.version < held.version => {
                Err(format!("it went back to version {}", document.version))
            }
            Some(held) if document.version > held.version => Ok(true),
            Some(held) if **held == document => Ok(false),
            Some(_) => Err(format!("it has another document of version {}", document.version)),
        };
        match newer {
            Ok(newer) => {
                (self.fault, self.confirmed) = (None, Some(now));
                if newer {
                    self.document = Some(Arc::new(document));
                }
                newer
            }
            Err(fault) => {
                self.fault = Some(fault);
                false
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn read(&self, mut reader: Reader, intervals: Intervals) {
        loop {
            let read = reader.read();
            let mut state = self.state();
            let before = state.fault.clone();
            if state.take(read, Instant::now()) {
                let version = state.version();
                tracing::info!(source = self.source_name, version, "new routing");
                self.version.send_replace(version);
            }
            if state.fault != before {
                match &state.fault {
                    Some(fault) => tracing::warn!(
                        source = self.source_name,
                        version = state.version(),
                        fault,
                        "routing source cannot be followed, last document stays in use"
                    ),
                    None => tracing::info!(source = self.source_name, "routing source is back"),
                }
            }
            self.changed.notify_all();
            let asked = Instant::now();
            loop {
                if state.stop {
                    return;
                }
                let interval = match state.waiting {
                    0 => intervals.idle,
                    _ => intervals.waiting,
                };
                let left = interval.saturating_sub(asked.elapsed());
                if left.is_zero() {
                    break;
                }
                let woken = self.nudge.wait_timeout(state, left);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
