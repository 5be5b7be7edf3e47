//! Keeps writing modshift's token on the old shard, and the reader's progress beside it.
//!
//! One task with a connection of its own to the primary. Every write carries the epoch in its
//! WHERE clause: if it touches no row, a later reader has taken over, and this one must stop.
//!
//! While tables are copied most writes are quiet: see [`control`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_mariadb::{Conn, ServerError, Session, control};
use modshift_proto::OldShard;
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::epoch::{Epoch, ResumePoint, key_bytes};
use crate::error::{Class, ReadError, server_error};
use crate::metrics;
use crate::snapshot::TableProgress;

/// How many tokens' times are remembered; at 10 ms apart, ten seconds.
const TIMES_KEPT: usize = 1024;

/// Longer than the session's lock wait: a server that does not answer in this time is taken to be
/// gone, and what became of the write is found out over the next connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_WAIT_S: u64 = 5;

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

/// The reader's end of the task.
#[derive(Debug)]
pub struct TokenWriter {
    saves: mpsc::Sender<(Progress, oneshot::Sender<()>)>,
    interval: watch::Sender<Duration>,
    times: Arc<Mutex<VecDeque<(u64, Instant)>>>,
}

impl TokenWriter {
    /// The handle, and the task's body: it ends with an error, or when cancelled.
    pub fn new(
        shard: OldShard,
        primary: Endpoint,
        epoch: &Epoch,
        heartbeat: Duration,
        cancel: CancellationToken,
    ) -> (TokenWriter, impl Future<Output = Result<(), ReadError>> + Send + use<>) {
        let (saves, save_requests) = mpsc::channel(1);
        let (interval, interval_changes) = watch::channel(heartbeat);
        let times = Arc::new(Mutex::new(VecDeque::new()));
        let task = Task {
            shard,
            primary,
            epoch: epoch.number,
            writes: epoch.writes,
            beats: Beats { heartbeat, last: None },
            times: Arc::clone(&times),
            conn: None,
            commit_us: 0,
        };
        let body = task.run(save_requests, interval_changes, cancel);
        (TokenWriter { saves, interval, times }, body)
    }

    pub fn set_interval(&self, interval: Duration) {
        self.interval.send_if_modified(|current| {
            let changed = *current != interval;
            *current = interval;
            changed
        });
    }

    /// When this token was sent to the server; `None` if it is not among the newest ones.
    pub fn written_at(&self, writes: u64) -> Option<Instant> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().rev().find(|(number, _)| *number == writes).map(|&(_, at)| at)
    }

    /// Asks for the progress to be recorded; the receiver resolves when it is. Gives the progress
    /// back while an earlier request is still waiting.
    pub fn save(&self, progress: Progress) -> Result<oneshot::Receiver<()>, Progress> {
        use mpsc::error::TrySendError::{Closed, Full};
        let (done, receiver) = oneshot::channel();
        match self.saves.try_send((progress, done)) {
            Ok(()) => Ok(receiver),
            Err(Full((progress, _)) | Closed((progress, _))) => Err(progress),
        }
    }
}

/// Which writes the new shards hear of: one for each heartbeat.
struct Beats {
    heartbeat: Duration,
    /// When the last one of them was sent to the server.
    last: Option<Instant>,
}

impl Beats {
    /// May the write of this moment be quiet, when the next one comes after `interval`? Never while
    /// nothing is copied: so the first write after the end of a copy tells of it.
    fn quiet(&self, now: Instant, interval: Duration) -> bool {
        let early = |last| now.saturating_duration_since(last) + interval < self.heartbeat;
        interval < self.heartbeat && self.last.is_some_and(early)
    }
}

struct Task {
    shard: OldShard,
    primary: Endpoint,
    epoch: u64,
    writes: u64,
    beats: Beats,
    times: Arc<Mutex<VecDeque<(u64, Instant)>>>,
    conn: Option<Conn>,
    /// What the last write took: for the throttle, which may be in another process.
    commit_us: u32,
}

impl Task {
    async fn run(
        mut self,
        mut saves: mpsc::Receiver<(Progress, oneshot::Sender<()>)>,
        mut interval: watch::Receiver<Duration>,
        cancel: CancellationToken,
    ) -> Result<(), ReadError> {
        let mut due = Instant::now();
        let mut waiting: Option<(Progress, oneshot::Sender<()>)> = None;
        let mut backoff = Backoff::default();
        loop {
            if waiting.is_none() {
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    request = saves.recv() => match request {
                        Some(request) => waiting = Some(request),
                        None => return Ok(()), // the reader is gone
                    },
                    changed = interval.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        due = due.min(Instant::now() + *interval.borrow());
                        continue;
                    }
                    () = tokio::time::sleep_until(due.into()) => {}
                }
            }
            let now = Instant::now();
            let until_next = *interval.borrow();
            due = now + until_next;
            let quiet = self.beats.quiet(now, until_next);
            let progress = waiting.as_ref().map(|(progress, _)| progress);
            let primary = self.primary.clone();
            match within(&primary, "writing the token", self.write(progress, quiet)).await {
                Ok(()) => {
                    backoff.reset();
                    if !quiet {
                        self.beats.last = Some(now);
                    }
                    if let Some((_, done)) = waiting.take() {
                        // A reader that went away needs no answer.
                        let _ = done.send(());
                    }
                }
                Err(error) if error.class() == Class::Retry => {
                    self.conn = None;
                    metrics::retry(self.shard, "token");
                    tracing::warn!(shard = self.shard.0, error = %error, "token not written, retrying");
                    tokio::select! {
                        () = cancel.cancelled() => return Ok(()),
                        () = tokio::time::sleep(backoff.next()) => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One event group on the old shard: the token, and the progress if there is any to record.
    async fn write(&mut self, progress: Option<&Progress>, quiet: bool) -> Result<(), ReadError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        {
            // Noted before it is sent: an age taken from it errs on the side of too old.
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.push_back((self.writes + 1, Instant::now()));
            if times.len() > TIMES_KEPT {
                times.pop_front();
            }
        }
        let began = Instant::now();
        if let Some(progress) = progress {
            self.query(&mut conn, "START TRANSACTION").await?;
            self.bump(&mut conn, quiet).await?;
            self.record(&mut conn, progress).await?;
            self.query(&mut conn, "COMMIT").await?;
        } else {
            self.bump(&mut conn, quiet).await?;
        }
        self.commit_us = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.writes += 1;
        self.conn = Some(conn);
        Ok(())
    }

    async fn bump(&self, conn: &mut Conn, quiet: bool) -> Result<(), ReadError> {
        conn.exec_drop(
            "UPDATE modshift_token
             SET beat = writes + 1, quiet = ?, writes = writes + 1,
               clock = UTC_TIMESTAMP(6), commit_us = ?
             WHERE id = 1 AND epoch = ?",
            (quiet, self.commit_us, self.epoch),
        )
        .await
        .map_err(|error| self.failed(error))?;
        if conn.affected_rows() == 1 { Ok(()) } else { Err(self.superseded(conn).await?) }
    }

    async fn record(&self, conn: &mut Conn, progress: &Progress) -> Result<(), ReadError> {
        // Not by the rows that an UPDATE touched: it touches none where nothing changes.
        let present: Option<u8> = conn
            .exec_first(
                "SELECT 1 FROM modshift_progress WHERE name = ? AND epoch = ? FOR UPDATE",
                (control::RESUME_ROW, self.epoch),
            )
            .await
            .map_err(|error| self.failed(error))?;
        if present.is_none() {
            return Err(ReadError::ProgressLost { shard: self.shard });
        }
        conn.exec_drop(
            "UPDATE modshift_progress SET gtids = ?, digest = ?, phase = ?
             WHERE name = ? AND epoch = ?",
            (
                progress.resume.before.to_string(),
                progress.resume.last.map(|last| last.to_string()),
                progress.resume.phase.name(),
                control::RESUME_ROW,
                self.epoch,
            ),
        )
        .await
        .map_err(|error| self.failed(error))?;
        for table in &progress.tables {
            // The token row, locked by `bump`, keeps every later epoch out until the commit.
            conn.exec_drop(
                "INSERT INTO modshift_progress
                   (name, epoch, copied_to, rows_copied, rows_estimated, done)
                 VALUES (?, ?, ?, ?, ?, ?)
                 ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), copied_to = VALUES(copied_to),
                   rows_copied = VALUES(rows_copied), rows_estimated = VALUES(rows_estimated),
                   done = VALUES(done)",
                (
                    &table.name,
                    self.epoch,
                    table.progress.copied_to.as_deref().map(key_bytes),
                    table.progress.rows_copied,
                    table.rows_estimated,
                    table.progress.done,
                ),
            )
            .await
            .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// After a lost connection the last write may or may not have happened: the row says.
    async fn connect(&mut self) -> Result<Conn, ReadError> {
        let mut conn = modshift_mariadb::connect(&self.primary, Session::Plain).await?;
        let sql = format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}");
        self.query(&mut conn, &sql).await?;
        let row: Option<(u64, u64)> = conn
            .query_first("SELECT epoch, writes FROM modshift_token WHERE id = 1 FOR UPDATE")
            .await
            .map_err(|error| self.failed(error))?;
        match row {
            Some((epoch, writes)) if epoch == self.epoch => {
                self.writes = writes;
                Ok(conn)
            }
            other => Err(ReadError::Superseded {
                shard: self.shard,
                ours: self.epoch,
                theirs: other.map_or(0, |(epoch, _)| epoch),
            }),
        }
    }

    async fn superseded(&self, conn: &mut Conn) -> Result<ReadError, ReadError> {
        let theirs: Option<u64> = conn
            .query_first("SELECT epoch FROM modshift_token WHERE id = 1")
            .await
            .map_err(|error| self.failed(error))?;
        let (shard, ours) = (self.shard, self.epoch);
        Ok(ReadError::Superseded { shard, ours, theirs: theirs.unwrap_or(0) })
    }

    async fn query(&self, conn: &mut Conn, sql: &str) -> Result<(), ReadError> {
        Ok(conn.query_drop(sql).await.map_err(|error| self.failed(error))?)
    }

    fn failed(&self, error: mysql_async::Error) -> ServerError {
        server_error(&self.primary, "writing the token", error)
    }
}

/// An answer within [`WRITE_TIMEOUT`], or the error of a lost connection.
pub(crate) async fn within<T>(
    endpoint: &Endpoint,
    doing: &'static str,
    attempt: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    match tokio::time::timeout(WRITE_TIMEOUT, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ReadError::Server(ServerError::Lost {
            at: modshift_mariadb::connect::label(endpoint),
            doing,
            detail: format!("no answer in {} s", WRITE_TIMEOUT.as_secs()),
        })),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_shards_hear_of_one_write_in_each_heartbeat_and_of_each_at_rest() {
        let (heartbeat, copying) = (Duration::from_millis(200), Duration::from_millis(10));
        let start = Instant::now();
        let mut beats = Beats { heartbeat, last: None };
        assert!(!beats.quiet(start, copying), "the first one of an epoch");
        beats.last = Some(start);
        let quiet = |ms, interval| beats.quiet(start + Duration::from_millis(ms), interval);
        assert!(quiet(10, copying) && quiet(189, copying));
        assert!(!quiet(190, copying), "the next one would come after a heartbeat and more");
        assert!(!quiet(1000, copying));
        assert!(!quiet(1, heartbeat), "nothing is copied any more");
    }
}
