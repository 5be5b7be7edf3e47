//! What a reader says of itself, for `/status` and the demo.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_mariadb::Waits;
use modshift_proto::plan::Direction;
use serde::{Serialize, Serializer};

use crate::error::ReadError;

/// Shared between the reader and whoever shows it.
#[derive(Clone, Debug, Default)]
pub struct ReaderStatus(Arc<Mutex<ReaderState>>);

#[derive(Clone, Debug, Default, Serialize)]
pub struct ReaderState {
    pub phase: Phase,
    pub epoch: u64,
    /// May applications write to the shard, as of the log read so far? `None`: not connected yet.
    pub serving: Option<bool>,
    /// Complete event groups read.
    pub gtids: String,
    /// Row changes and copied rows sent.
    pub rows_sent: u64,
    /// Age of the newest token read, in milliseconds; `None`: none of this epoch yet.
    pub head_age_ms: Option<u64>,
    /// When that token was written, as far as it is known; before the first, when the reader began to try.
    #[serde(skip)]
    pub head: Option<Instant>,
    pub tables: Vec<TableState>,
    /// What passes by itself and is waited for, and since when.
    #[serde(serialize_with = "in_words")]
    pub waiting: Waits,
    /// Why the reader stopped, and what to do about it.
    pub halted: Option<String>,
}

fn in_words<S: Serializer>(waits: &Waits, serializer: S) -> Result<S::Ok, S::Error> {
    waits.line().serialize(serializer)
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TableState {
    pub table: String,
    pub rows_copied: u64,
    pub rows_estimated: u64,
    pub done: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Starting,
    /// The connection is gone and being made again.
    Reconnecting,
    Copying,
    Tailing,
    Stopped,
    Halted,
}

impl ReaderState {
    pub(crate) fn reconnecting(&mut self) {
        self.phase = Phase::Reconnecting;
        // What is known of the head is getting old.
        self.head_age_ms = None;
    }

    /// How old the head is by now, of a reader that cannot look.
    pub(crate) fn blind_for(&mut self, now: Instant) -> Option<Duration> {
        let head = *self.head.get_or_insert(now);
        let blind = matches!(self.phase, Phase::Starting | Phase::Reconnecting);
        blind.then(|| now.saturating_duration_since(head))
    }

    /// Goes on as soon as that has passed. How long it has waited.
    pub(crate) fn waits(&mut self, error: &ReadError, direction: Direction) -> Duration {
        self.reconnecting();
        self.waiting.begin(error.told(direction), error.hint_for(direction))
    }
}

impl ReaderStatus {
    pub fn get(&self) -> ReaderState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn update<T>(&self, change: impl FnOnce(&mut ReaderState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_grows_old_while_a_reader_cannot_look() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut state = ReaderState::default();
        let check = |state: &mut ReaderState, seconds, expected: Option<u64>| {
            assert_eq!(state.blind_for(at(seconds)), expected.map(Duration::from_secs));
        };
        // It was never there, for all that is known.
        check(&mut state, 10, Some(0));
        check(&mut state, 70, Some(60));
        (state.phase, state.head) = (Phase::Tailing, Some(at(80)));
        check(&mut state, 90, None);
        state.reconnecting();
        check(&mut state, 120, Some(40));
    }
}
