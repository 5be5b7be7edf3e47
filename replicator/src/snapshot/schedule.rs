//! Which chunk to read next, and how large. Pure.
//!
//! Within a table chunks follow each other in key order, one being read at a time; several may
//! wait to enter. Different tables are read side by side. What is done is a prefix of each table,
//! so that a restart reads at most the chunks in flight again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::snapshot::chunk::{ChunkRequest, Which};

/// Rows of a table's first chunk, before anything is known about it.
pub(crate) const FIRST_CHUNK_ROWS: u32 = 500;
/// Never fewer rows than this, however slow the server.
pub(crate) const CHUNK_ROWS_MIN: u32 = 8;

/// How far one table has been copied, as stored in `modshift_progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableProgress {
    /// Primary key of the last row copied, one wire cell per key column; `None`: nothing yet.
    pub copied_to: Option<Vec<Vec<u8>>>,
    pub rows_copied: u64,
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TableState {
    table: usize,
    /// Where the next chunk starts.
    next_after: Option<Vec<Vec<u8>>>,
    /// A chunk of this table is being read.
    reading: bool,
    /// The last chunk has been read.
    read_to_end: bool,
    /// Chunks read or being read that have not entered yet.
    in_flight: u16,
    rows: u32,
    generation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    tables: VecDeque<TableState>,
    goal: Duration,
    rows_max: u32,
    bytes_max: usize,
    parallel: u16,
}

impl Schedule {
    /// `tables`: those still to copy, with where to go on.
    pub fn new(
        tables: impl IntoIterator<Item = (usize, Option<Vec<Vec<u8>>>)>,
        settings: &modshift_proto::plan::Snapshot,
    ) -> Schedule {
        let state = |(table, next_after)| TableState {
            table,
            next_after,
            reading: false,
            read_to_end: false,
            in_flight: 0,
            rows: FIRST_CHUNK_ROWS.min(settings.chunk_rows_max),
            generation: 0,
        };
        Schedule {
            tables: tables.into_iter().map(state).collect(),
            goal: settings.chunk_time,
            rows_max: settings.chunk_rows_max.max(CHUNK_ROWS_MIN),
            bytes_max: settings.chunk_bytes_max,
            parallel: settings.parallel.max(1),
        }
    }

    /// Everything has entered.
    pub fn finished(&self) -> bool {
        self.tables.is_empty()
    }

    pub fn in_flight(&self) -> u16 {
        self.tables.iter().map(|state| state.in_flight).sum()
    }

    /// The tables not finished yet.
    pub fn open_tables(&self) -> impl Iterator<Item = usize> + '_ {
        self.tables.iter().map(|state| state.table)
    }

    /// Would [`Schedule::next`] give a chunk?
    pub fn has_next(&self) -> bool {
        self.in_flight() < self.parallel
            && self.tables.iter().any(|state| !state.reading && !state.read_to_end)
    }

    /// The next chunk to read, if one may be opened beside those in flight.
    #[allow(clippy::should_implement_trait, reason = "what comes next depends on what was read")]
    pub fn next(&mut self) -> Option<ChunkRequest> {
        if self.in_flight() >= self.parallel {
            return None;
        }
        let index = self.tables.iter().position(|state| !state.reading && !state.read_to_end)?;
        // The table that was served goes to the end of the line.
        let mut state = self.tables.remove(index)?;
        state.reading = true;
        state.in_flight += 1;
        let request = ChunkRequest {
            table: state.table,
            after: state.next_after.clone(),
            which: Which::All,
            rows: state.rows,
            bytes_max: self.bytes_max,
            generation: state.generation,
        };
        self.tables.push_back(state);
        Some(request)
    }

    /// Is a chunk of this generation still wanted?
    pub fn wants(&self, table: usize, generation: u32) -> bool {
        self.tables.iter().any(|state| state.table == table && state.generation == generation)
    }

    /// A chunk could not be read: its place is free, and it will be asked for again.
    pub fn failed(&mut self, table: usize) {
        if let Some(state) = self.find(table) {
            state.reading = false;
            state.in_flight -= 1;
            // Perhaps it was too large for the server's limits.
            state.rows = (state.rows / 2).max(CHUNK_ROWS_MIN);
        }
    }

    /// A chunk was read: the next one of its table may be opened. `next_after` is `None` when the
    /// chunk reached the end of the table.
    pub fn was_read(
        &mut self,
        table: usize,
        rows: usize,
        bytes: usize,
        took: Duration,
        next_after: Option<Vec<Vec<u8>>>,
    ) {
        let (goal, rows_max, bytes_max) = (self.goal, self.rows_max, self.bytes_max);
        let Some(state) = self.find(table) else { return };
        state.reading = false;
        match next_after {
            Some(key) => state.next_after = Some(key),
            None => state.read_to_end = true,
        }
        if rows > 0 {
            state.rows = resize(state.rows, rows, bytes, took, goal, rows_max, bytes_max);
        }
    }

    /// A chunk has entered the log. Says whether that was the table's last.
    pub fn entered(&mut self, table: usize) -> bool {
        let Some(state) = self.find(table) else { return false };
        state.in_flight -= 1;
        let finished = state.read_to_end && state.in_flight == 0;
        if finished {
            self.tables.retain(|state| state.table != table);
        }
        finished
    }

    /// Every chunk of the table in flight is worthless: go on from `after`, with at most so many
    /// rows a chunk.
    pub fn rewind(&mut self, table: usize, after: Option<Vec<Vec<u8>>>, rows: u32) {
        if let Some(state) = self.find(table) {
            state.in_flight = 0;
            state.reading = false;
            state.read_to_end = false;
            state.next_after = after;
            state.generation += 1;
            state.rows = rows.clamp(CHUNK_ROWS_MIN, state.rows.max(CHUNK_ROWS_MIN));
        }
    }

    fn find(&mut self, table: usize) -> Option<&mut TableState> {
        self.tables.iter_mut().find(|state| state.table == table)
    }
}

/// The next chunk's rows: towards the time goal, by at most a factor of two each time, within the
/// bounds of rows and bytes.
pub(crate) fn resize(
    asked: u32,
    rows: usize,
    bytes: usize,
    took: Duration,
    goal: Duration,
    rows_max: u32,
    bytes_max: usize,
) -> u32 {
    let per_row = took.as_secs_f64() / rows as f64;
    let by_time = goal.as_secs_f64() / per_row.max(1e-9);
    let by_bytes = bytes_max as f64 / (bytes as f64 / rows as f64).max(1.0);
    let wanted = by_time.min(f64::from(asked) * 2.0).max(f64::from(asked) / 2.0).min(by_bytes);
    (wanted as u32).clamp(CHUNK_ROWS_MIN, rows_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::plan::Snapshot;

    fn settings(parallel: u16) -> Snapshot {
        Snapshot {
            chunk_time: Duration::from_millis(200),
            chunk_rows_max: 10_000,
            chunk_bytes_max: 1 << 20,
            parallel,
            touched_keys_max: 100,
            xa_grace: Duration::from_secs(60),
        }
    }

    #[test]
    fn tables_take_turns_and_chunks_of_one_table_follow_each_other() {
        let mut schedule = Schedule::new([(0, None), (1, None)], &settings(2));
        assert_eq!(schedule.next().map(|r| r.table), Some(0));
        assert_eq!(schedule.next().map(|r| r.table), Some(1));
        assert!(!schedule.has_next() && schedule.next().is_none(), "two in flight");
        let key = Some(vec![b"k".to_vec()]);
        schedule.was_read(0, 500, 5000, Duration::from_millis(1), key.clone());
        assert!(!schedule.entered(0));
        assert!(schedule.has_next());
        let again = schedule.next().expect("a place is free");
        assert_eq!((again.table, again.after), (0, key));
        assert_eq!(again.rows, 1000, "at most twice as large");
        schedule.was_read(0, 10, 100, Duration::from_millis(1), None);
        assert!(schedule.entered(0));
        schedule.was_read(1, 0, 0, Duration::from_millis(1), None);
        assert!(schedule.entered(1));
        assert!(schedule.finished());
    }

    #[test]
    fn a_rewound_table_starts_again_with_smaller_chunks() {
        let mut schedule = Schedule::new([(0, None)], &settings(3));
        let first = schedule.next().expect("first");
        schedule.was_read(0, 500, 5000, Duration::from_millis(200), Some(vec![b"k".to_vec()]));
        schedule.next().expect("second");
        schedule.rewind(0, None, first.rows / 2);
        let again = schedule.next().expect("again");
        assert_eq!(again.after, None);
        assert!(again.rows < first.rows);
    }

    #[test]
    fn wide_rows_make_small_chunks() {
        let second = Duration::from_secs(1);
        assert_eq!(resize(1000, 1000, 100_000_000, second, second, 10_000, 1_000_000), 10);
        assert_eq!(resize(1000, 1000, 1000, second / 100, second, 10_000, 1_000_000), 2000);
        assert_eq!(resize(1000, 1000, 1000, second * 100, second, 10_000, 1_000_000), 500);
    }
}
