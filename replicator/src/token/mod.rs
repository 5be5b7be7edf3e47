//! Keeps writing modshift's token on the old shards, and the readers' progress beside it.
//!
//! Readers of one process whose shards are on the same server share a task with one connection to
//! it, [`server`]. Every write carries the epoch in its WHERE clause: if it touches no row, a later
//! reader has taken over, and this one must stop.
//!
//! While tables are copied most writes are quiet: see [`modshift_mariadb::control`].

mod beats;
mod member;
mod server;
mod statement;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use modshift_mariadb::{ServerError, Session, silence};
use modshift_proto::OldShard;
use modshift_proto::plan::{Endpoint, Login};
use mysql_async::prelude::Queryable;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::member::{Member, Request, Save, Times};
use self::server::Server;
use crate::epoch::{Epoch, ResumePoint};
use crate::error::{ReadError, server_error};
use crate::snapshot::TableProgress;

/// A server that does not answer in this time is taken to be gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a write gives up the lock that it waits for, see `server`.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Requests of a server's readers that may wait for its task. Each has at most a few at a time, and
/// asks again where there is no room.
const REQUESTS_MAX: usize = 256;

/// What is to be recorded once it is durable in every partition.
#[derive(Clone, Debug)]
pub struct Progress {
    pub resume: ResumePoint,
    pub tables: Vec<SavedTable>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SavedTable {
    pub name: String,
    pub progress: TableProgress,
    pub rows_estimated: u64,
}

/// The tasks of a process, one for each server and login; they end with the last clone of this.
#[derive(Clone, Default)]
pub struct TokenWriters(Arc<Mutex<Servers>>);

#[derive(Default)]
struct Servers {
    requests: Vec<(Login, mpsc::Sender<Request>)>,
    tasks: JoinSet<()>,
}

impl TokenWriters {
    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the token of this shard written from now on. The handle, and a future that lasts as long
    /// as that: it ends with an error, or when cancelled.
    pub fn join(
        &self,
        shard: OldShard,
        primary: &Endpoint,
        epoch: &Epoch,
        heartbeat: Duration,
        cancel: CancellationToken,
    ) -> (TokenWriter, impl Future<Output = Result<(), ReadError>> + Send + use<>) {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let requests = self.requests_to(primary);
        let (times, gone) = (Times::default(), CancellationToken::new());
        let (ended, why) = oneshot::channel();
        let (schema, number) = (primary.schema.clone(), epoch.number);
        let (member_times, leaves) = (times.clone(), gone.clone());
        let member = Member::new(id, shard, schema, number, heartbeat, member_times, leaves, ended);
        let handle = TokenWriter { id, requests: requests.clone(), interval: heartbeat, times };
        let writers = self.clone();
        let lasting = async move {
            // However this ends.
            let _leaving = gone.drop_guard();
            let joining = async {
                // A task that is gone drops the member, and `why` says so.
                let _ = requests.send(Request::Join(Box::new(member))).await;
                why.await
            };
            match cancel.run_until_cancelled(joining).await {
                None => return Ok(()),
                Some(Ok(error)) => return Err(error),
                Some(Err(_)) => writers.broken(),
            }
            // Another reader has the panic, with which the process ends.
            cancel.cancelled().await;
            Ok(())
        };
        (handle, lasting)
    }

    fn requests_to(&self, primary: &Endpoint) -> mpsc::Sender<Request> {
        let mut servers = self.lock();
        let login = primary.login();
        if let Some((_, requests)) = servers.requests.iter().find(|(known, _)| *known == login) {
            return requests.clone();
        }
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        servers.tasks.spawn(Server::new(primary, waiting).run());
        servers.requests.push((login, requests.clone()));
        requests
    }

    /// A task ends before its readers only where it panics.
    fn broken(&self) {
        while let Some(ended) = self.lock().tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct TokenWriter {
    id: u64,
    requests: mpsc::Sender<Request>,
    interval: Duration,
    times: Times,
}

impl TokenWriter {
    pub fn set_interval(&mut self, interval: Duration) {
        let ask = || self.requests.try_send(Request::Interval(self.id, interval)).is_ok();
        // Without room it is asked again soon.
        if self.interval != interval && ask() {
            self.interval = interval;
        }
    }

    /// When this token was sent to the server; `None` if it is older than all that is remembered.
    pub fn written_at(&self, writes: u64) -> Option<Instant> {
        self.times.at(writes)
    }

    /// Asks for the progress to be recorded, no later than with the next token, or at once; the
    /// receiver resolves when it is. At most one at a time. Gives the progress back where there is no
    /// room.
    pub fn save(
        &self,
        progress: Progress,
        at_once: bool,
    ) -> Result<oneshot::Receiver<()>, Progress> {
        let Ok(room) = self.requests.try_reserve() else { return Err(progress) };
        let (answer, receiver) = oneshot::channel();
        room.send(Request::Save(
            self.id,
            Save { progress, asked: Instant::now(), at_once, answer },
        ));
        Ok(receiver)
    }
}

/// An answer within [`WRITE_TIMEOUT`], or the error of a lost connection.
pub(crate) async fn within<T>(
    endpoint: &Endpoint,
    doing: &'static str,
    attempt: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    within_seen(endpoint, doing, attempt).await.0
}

/// The same, with why the server was silent meanwhile, if it shows that.
async fn within_seen<T>(
    endpoint: &Endpoint,
    doing: &'static str,
    attempt: impl Future<Output = Result<T, ReadError>>,
) -> (Result<T, ReadError>, Option<&'static str>) {
    let attempt = tokio::time::timeout(WRITE_TIMEOUT, attempt);
    let (outcome, seen) = silence::watched(endpoint, LOOK_AFTER, attempt, |_| {}).await;
    let late = |_| {
        let at = modshift_mariadb::connect::label(endpoint);
        let detail = silence::detail(WRITE_TIMEOUT, seen);
        Err(ReadError::Server(ServerError::Lost { at, doing, detail }))
    };
    (outcome.unwrap_or_else(late), seen)
}

/// Leaves the reason why this epoch's reader stopped, for `status` and the gate; `None`: it goes on.
pub async fn record_halt(
    primary: &Endpoint,
    epoch: u64,
    reason: Option<&str>,
) -> Result<(), ServerError> {
    let failed = |error| server_error(primary, "recording the halt", error);
    let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
    conn.exec_drop(
        "UPDATE modshift_token SET writes = writes + 1, halted = ? WHERE id = 1 AND epoch = ?",
        (reason, epoch),
    )
    .await
    .map_err(failed)?;
    conn.disconnect().await.map_err(failed)
}
