//! The streams of this process: each runs, or has halted, and the others go on.
//!
//! A stream that halts stops alone. The process stays up, so that the halt stands in /status, in
//! the metrics and in the gate, until every stream has halted: then nothing is left to do, and the
//! process ends with [`Exit::Halted`]; or waits (`standby`), where another process has taken streams
//! from it. A stream that an operator may send on waits for that, halted like any other.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::metrics;

/// How long streams may take to bring what is in flight to its durable point. Less than systemd's
/// default patience of 90 s before SIGKILL; a batch takes well under a second.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a stream stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Halt {
    /// An invariant of our own broke: nothing in this process can be trusted any more.
    #[serde(skip)]
    pub fatal: bool,
    /// Another process has taken the stream.
    #[serde(skip)]
    pub displaced: bool,
    /// Short and of few values: a metric label.
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    Running,
    /// Cancelled, and everything that was in flight is durable or will be replayed.
    Stopped,
    Halted(Halt),
    /// By another process, where it goes on.
    Taken(Halt),
}

/// How it ended with the streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(Exit),
    /// Another process has taken some, or all.
    Displaced,
}

/// What a stream says of itself for /status.
type Detail = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

struct Entry {
    name: String,
    state: State,
    detail: Detail,
}

/// One line of /status.
#[derive(Serialize)]
pub struct StreamStatus {
    pub stream: String,
    #[serde(flatten)]
    pub state: State,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// The board on which every stream's state stands; the supervisor writes, HTTP reads.
#[derive(Clone, Default)]
pub struct Board {
    entries: Arc<Mutex<Vec<Entry>>>,
    changed: Arc<Notify>,
}

/// A stream's own place there.
pub struct Slot {
    board: Board,
    index: usize,
}

impl Slot {
    /// It stands still, though it has not ended.
    pub fn halted(&self, halt: Halt) {
        self.board.set(self.index, State::Halted(halt));
    }

    pub fn goes_on(&self) {
        self.board.set(self.index, State::Running);
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, index: usize, state: State) {
        let mut entries = self.lock();
        entries[index].state = state;
        let count = |is: fn(&State) -> bool| entries.iter().filter(|e| is(&e.state)).count();
        metrics::streams(
            count(|state| *state == State::Running),
            count(|state| matches!(state, State::Halted(_))),
            count(|state| matches!(state, State::Taken(_))),
        );
        drop(entries);
        self.changed.notify_one();
    }

    /// Until no stream works, though some may wait to be sent on.
    async fn all_stand_still(&self) {
        let works = |entry: &Entry| entry.state == State::Running;
        loop {
            {
                let entries = self.lock();
                if !entries.is_empty() && !entries.iter().any(works) {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    pub fn status(&self) -> Vec<StreamStatus> {
        let entries = self.lock();
        let status = entries.iter().map(|entry| StreamStatus {
            stream: entry.name.clone(),
            state: entry.state.clone(),
            detail: (entry.detail)(),
        });
        status.collect()
    }

    /// What streams wait for that passes by itself, in words.
    pub fn waits(&self) -> Vec<String> {
        let waits = self.status().into_iter().filter_map(|one| {
            let waiting = one.detail.get("waiting")?.as_str()?;
            Some(format!("{} waits {waiting}", one.stream))
        });
        waits.collect()
    }

    /// What there is to say before there are streams; `None`: no more.
    pub fn note(&self, name: &str, waiting: Option<&str>) {
        let mut entries = self.lock();
        entries.retain(|entry| entry.name != name);
        if let Some(waiting) = waiting {
            let detail = serde_json::json!({ "waiting": waiting });
            let detail: Detail = Box::new(move || detail.clone());
            entries.push(Entry { name: name.to_owned(), state: State::Running, detail });
        }
    }

    /// All streams are gone, and others follow.
    pub fn clear(&self) {
        self.lock().clear();
        metrics::streams(0, 0, 0);
    }

    fn displaced(&self) -> bool {
        self.lock().iter().any(|entry| matches!(entry.state, State::Taken(_)))
    }

    /// Streams that have halted, with why. Those that go on elsewhere have not.
    pub fn halts(&self) -> Vec<(String, Halt)> {
        let entries = self.lock();
        let halts = entries.iter().filter_map(|entry| match &entry.state {
            State::Halted(halt) => Some((entry.name.clone(), halt.clone())),
            State::Running | State::Stopped | State::Taken(_) => None,
        });
        halts.collect()
    }

    /// The first that is over here, whatever the reason.
    pub fn first_over(&self) -> Option<(String, Halt)> {
        let entries = self.lock();
        entries.iter().find_map(|entry| match &entry.state {
            State::Halted(halt) | State::Taken(halt) => Some((entry.name.clone(), halt.clone())),
            State::Running | State::Stopped => None,
        })
    }
}

/// Owns the streams' tasks.
pub struct Streams {
    board: Board,
    tasks: JoinSet<(usize, Result<(), Halt>)>,
}

impl Streams {
    pub fn new(board: Board) -> Streams {
        Streams { board, tasks: JoinSet::new() }
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    #[cfg(test)]
    fn start<F>(&mut self, name: impl Into<String>, detail: Detail, stream: F)
    where
        F: Future<Output = Result<(), Halt>> + Send + 'static,
    {
        self.start_with(name, detail, |_| stream);
    }

    /// A stream that says itself when it stands still.
    pub fn start_with<F>(
        &mut self,
        name: impl Into<String>,
        detail: Detail,
        stream: impl FnOnce(Slot) -> F,
    ) where
        F: Future<Output = Result<(), Halt>> + Send + 'static,
    {
        let index = {
            let mut entries = self.board.lock();
            entries.push(Entry { name: name.into(), state: State::Running, detail });
            entries.len() - 1
        };
        self.board.set(index, State::Running);
        let stream = stream(Slot { board: self.board.clone(), index });
        self.tasks.spawn(async move { (index, stream.await) });
    }

    /// Runs until every stream has ended. `cancel` asks them to drain. `together`: none of them is of
    /// use without the others, so all end with one that another process has taken.
    pub async fn supervise(mut self, together: bool, cancel: CancellationToken) -> Ended {
        loop {
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                ended = self.tasks.join_next() => ended,
                () = self.board.all_stand_still() => None,
            };
            let Some(ended) = ended else { break };
            if self.note(ended).is_err() {
                cancel.cancel();
                self.drain().await;
                return Ended::Exit(Exit::Halted);
            }
            if together && self.board.displaced() {
                // What is in flight is not theirs to bring any further.
                self.tasks.shutdown().await;
                break;
            }
        }
        if !cancel.is_cancelled() {
            if self.board.displaced() {
                self.tasks.shutdown().await;
                return Ended::Displaced;
            }
            tracing::error!("every stream has halted");
            // Whoever waits to be sent on takes that up when it is started again.
            self.tasks.shutdown().await;
            return Ended::Exit(Exit::Halted);
        }
        self.drain().await;
        Ended::Exit(Exit::Done)
    }

    async fn drain(&mut self) {
        let drained = async {
            while let Some(ended) = self.tasks.join_next().await {
                // A second panic changes nothing: the process is ending already.
                let _ = self.note(ended);
            }
        };
        if tokio::time::timeout(DRAIN_TIME_MAX, drained).await.is_err() {
            let limit_s = DRAIN_TIME_MAX.as_secs();
            tracing::warn!(limit_s, "draining took too long: what is in flight will be replayed");
        }
    }

    /// `Err` where an invariant of ours broke: nothing here can be trusted any more.
    fn note(
        &self,
        ended: Result<(usize, Result<(), Halt>), tokio::task::JoinError>,
    ) -> Result<(), ()> {
        let (index, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a stream broke an invariant: stopping all");
                metrics::panicked();
                return Err(());
            }
        };
        let state = match result {
            Ok(()) => State::Stopped,
            Err(halt) => {
                let stream = self.board.lock()[index].name.clone();
                // The stream itself has said so at ERROR, and counted it.
                let hint = halt.hint.as_deref().unwrap_or("none");
                tracing::warn!(stream, reason = halt.reason, hint, "stream is over, others go on");
                if halt.displaced { State::Taken(halt) } else { State::Halted(halt) }
            }
        };
        let fatal = matches!(&state, State::Halted(halt) if halt.fatal);
        self.board.set(index, state);
        if fatal { Err(()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Detail {
        Box::new(|| serde_json::Value::Null)
    }

    fn halt(message: &str) -> Halt {
        let (reason, message) = ("stray".into(), message.into());
        Halt { fatal: false, displaced: false, reason, message, hint: None }
    }

    #[tokio::test]
    async fn one_halt_leaves_the_others_running() {
        let (board, cancel) = (Board::default(), CancellationToken::new());
        let mut streams = Streams::new(board.clone());
        let stop = cancel.clone();
        let (halted, seen) = tokio::sync::oneshot::channel::<()>();
        streams.start("old shard 0", silent(), async move {
            drop(halted);
            Err(halt("row of t belongs to old shard 1"))
        });
        streams.start("old shard 1", silent(), async move {
            assert!(seen.await.is_err());
            tokio::task::yield_now().await;
            stop.cancel();
            Ok(())
        });
        assert_eq!(streams.supervise(false, cancel).await, Ended::Exit(Exit::Done));
        assert_eq!(board.halts().len(), 1);
        assert_eq!(board.status()[1].state, State::Stopped);
    }

    #[tokio::test]
    async fn all_halted_ends_the_process_with_its_code() {
        let board = Board::default();
        let mut streams = Streams::new(board.clone());
        streams.start("new shard 0", silent(), async { Err(halt("a")) });
        streams.start("new shard 1", silent(), async { Err(halt("b")) });
        let ended = streams.supervise(true, CancellationToken::new()).await;
        assert_eq!(ended, Ended::Exit(Exit::Halted));
        assert_eq!(board.halts().len(), 2);
    }

    #[tokio::test]
    async fn a_halted_stream_is_sent_on_while_another_works() {
        let (board, cancel) = (Board::default(), CancellationToken::new());
        let mut streams = Streams::new(board.clone());
        let (send_on, sent_on) = tokio::sync::oneshot::channel::<()>();
        let (seen, stop) = (board.clone(), cancel.clone());
        streams.start_with("old shard 0", silent(), |slot| async move {
            slot.halted(halt("group 0-1-7 holds a statement"));
            let _ = sent_on.await;
            slot.goes_on();
            assert!(seen.halts().is_empty());
            stop.cancel();
            Ok(())
        });
        let seen = board.clone();
        streams.start("new shard 0", silent(), async move {
            while seen.halts().is_empty() {
                tokio::task::yield_now().await;
            }
            let _ = send_on.send(());
            Ok(())
        });
        assert_eq!(streams.supervise(false, cancel).await, Ended::Exit(Exit::Done));
        // Where none works nobody is waited for.
        let board = Board::default();
        let mut streams = Streams::new(board.clone());
        streams.start_with("old shard 0", silent(), |slot| async move {
            slot.halted(halt("group 0-1-7 holds a statement"));
            std::future::pending().await
        });
        let ended = streams.supervise(false, CancellationToken::new()).await;
        assert_eq!((ended, board.halts().len()), (Ended::Exit(Exit::Halted), 1));
    }

    #[tokio::test]
    async fn a_panic_stops_everything() {
        let cancel = CancellationToken::new();
        let mut streams = Streams::new(Board::default());
        let others = cancel.clone();
        streams.start("new shard 0", silent(), async { panic!("watermark moved back") });
        streams.start("new shard 1", silent(), async move {
            others.cancelled().await;
            Ok(())
        });
        assert_eq!(streams.supervise(false, cancel).await, Ended::Exit(Exit::Halted));
    }

    #[tokio::test]
    async fn streams_that_were_taken_are_waited_for_once_nothing_else_is_left() {
        let taken = || Err(Halt { displaced: true, ..halt("another reader has taken over") });
        let board = Board::default();
        let mut streams = Streams::new(board.clone());
        let (others_end, end) = tokio::sync::oneshot::channel::<()>();
        streams.start("old shard 0", silent(), async move { taken() });
        streams.start("old shard 1", silent(), async move {
            let _ = end.await;
            Err(halt("row of t belongs to old shard 0"))
        });
        let mut supervising = Box::pin(streams.supervise(false, CancellationToken::new()));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut supervising).await;
        assert!(early.is_err(), "the other one goes on");
        drop(others_end);
        assert_eq!(supervising.await, Ended::Displaced);
        // What goes on elsewhere is no halt.
        let halts: Vec<String> = board.halts().into_iter().map(|(stream, _)| stream).collect();
        assert_eq!(halts, ["old shard 1"]);
        assert_eq!(serde_json::to_value(&board.status()[0]).unwrap()["state"], "taken");
        board.clear();
        assert!(board.halts().is_empty() && board.status().is_empty());
        // In one process with its in-process log none is of use without the others.
        let mut streams = Streams::new(board.clone());
        streams.start("new shard 0", silent(), std::future::pending());
        streams.start("old shard 0", silent(), async move { taken() });
        let ended = streams.supervise(true, CancellationToken::new()).await;
        assert_eq!(ended, Ended::Displaced);
    }
}
