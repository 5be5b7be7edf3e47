//! A reader's chunks: opened, read in a snapshot, and let into the log beside the tail.

use std::time::Duration;

use modshift_proto::message::Op;
use modshift_replicator::pure::admit::{Passed, Shown, admit};
use modshift_replicator::pure::{Admission, SavedTable, Touched};

use super::super::case::{Case, Without};
use super::super::log::Log;
use super::super::old::Old;
use super::super::table::{Cells, Table};
use super::{Chunk, Reader, enters};
use crate::places::Row;

impl Reader {
    /// May a chunk be opened?
    pub fn can_open_chunk(&self) -> bool {
        self.seen.is_some() && self.guard.is_some() && self.schedule.clone().next().is_some()
    }

    pub fn open_chunk(&mut self, case: &Case) {
        let Some(seen) = self.seen else { return };
        let early = case.without != Without::RecordingBeforeChunk;
        if early {
            let any_token = case.without == Without::OwnToken;
            let floor = if any_token { 0 } else { seen };
            self.touched.get_or_insert_with(|| Touched::new(floor, case.touched_keys_max));
        }
        if let Some(request) = self.schedule.next() {
            self.opened_at.push(seen);
            self.requests.push(request);
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// May a chunk that shows the first `visible` groups be read? Once a table has been begun
    /// again, only with a token that will do: the model need not try for ever.
    pub fn can_read_chunk(&self, index: usize, visible: usize, old: &Old, case: &Case) -> bool {
        let (epoch, token) = old.token_at(visible);
        let will_do = case.without == Without::RecordingBeforeChunk
            || (epoch == self.epoch
                && self.seen >= Some(token)
                && self.touched.as_ref().is_some_and(|t| enters(t, token)));
        self.requests[index].generation == 0 || will_do
    }

    /// Reads a chunk in a snapshot that shows the first `visible` groups.
    pub fn read_chunk(&mut self, index: usize, visible: usize, old: &Old, case: &Case) {
        let request = self.requests.remove(index);
        if case.without == Without::RecordingBeforeChunk {
            self.touched.get_or_insert_with(|| Touched::new(0, case.touched_keys_max));
        }
        let (epoch, token) = old.token_at(visible);
        let after = request.after.as_ref().map(|key| key[0][0]);
        let mut left: Vec<(u8, Row)> = old
            .rows_at(visible, 0)
            .into_iter()
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .collect();
        let more = case.small_chunks && !left.is_empty();
        if more {
            left.truncate(1);
        }
        let next_after = more.then(|| vec![vec![left[0].0]]);
        let goal = Duration::from_millis(1);
        self.schedule.was_read(0, left.len(), left.len(), goal, next_after.clone());
        let high = old.set(old.shown);
        self.waiting.push_back(Chunk { request, epoch, token, high, rows: left, next_after });
    }

    /// What becomes of the chunk that is next to enter; `None` while there is nothing to decide.
    pub fn admission(&self, case: &Case) -> Option<Admission> {
        let chunk = self.waiting.front()?;
        let any_token = case.without == Without::OwnToken;
        let shown = Shown {
            epoch: if any_token { self.epoch } else { chunk.epoch },
            token: chunk.token,
            high: if case.without == Without::High { &self.resume.before } else { &chunk.high },
        };
        let passed = Passed {
            epoch: self.epoch,
            done: self.history.done(),
            token_seen: if any_token { Some(u64::MAX) } else { self.seen },
            guard: self.guard.as_ref(),
        };
        match admit(shown, passed, self.touched.as_ref()) {
            Admission::Wait => None,
            decided => Some(decided),
        }
    }

    /// The chunk that is next enters the log, or is read again.
    pub fn enter(&mut self, admission: Admission, log: &mut Log, table: &Table, case: &Case) {
        let Some(chunk) = self.waiting.pop_front() else { return };
        if admission == Admission::ReadAgain {
            self.waiting.clear();
            self.requests.clear();
            self.opened_at.clear();
            self.schedule.rewind(0, chunk.request.after, chunk.request.rows / 2);
            return;
        }
        for (id, row) in &chunk.rows {
            let touched =
                self.touched.as_ref().is_some_and(|t| t.since(&table.key(*id), chunk.token));
            if touched && case.without != Without::TouchedKeys {
                continue;
            }
            let to = table.place(self.shard, &Cells::new(*id, row));
            self.send(*id, row, Op::Upsert, to, None, log, table);
        }
        let finished = self.schedule.entered(0);
        self.opened_at.remove(0);
        self.progress.rows_copied += chunk.rows.len() as u64;
        self.progress.done = finished;
        if let Some(key) = chunk.next_after {
            self.progress.copied_to = Some(key);
        }
        let saved =
            SavedTable { name: "t".to_owned(), progress: self.progress.clone(), rows_estimated: 0 };
        if case.without == Without::TokenAfterChunk {
            let resume = self.resume.clone();
            self.unsaved.get_or_insert_with(|| (resume, Vec::new())).1.push(saved);
        } else {
            self.tokens.entered(saved);
        }
        self.entered = true;
        if finished {
            self.touched = None;
        } else if let (Some(touched), Some(seen)) = (&mut self.touched, self.seen) {
            touched.forget_before(self.opened_at.iter().copied().min().unwrap_or(seen));
        }
        self.copied = self.schedule.finished();
    }
}
