//! A range of primary keys that is copied again: how far that is, and what of it is durable.
//!
//! One range of a shard at a time, one chunk of it at a time. What a chunk's rows are worth is
//! recorded once every partition has acknowledged them, and only while the epoch is still this
//! reader's: rows that came into the log behind a later reader's marker do not count.

use std::collections::VecDeque;
use std::time::Duration;

use modshift_proto::plan::Snapshot as SnapshotPolicy;

use crate::epoch::key_bytes;
use crate::snapshot::schedule::{CHUNK_ROWS_MIN, FIRST_CHUNK_ROWS, resize};
use crate::snapshot::{Chunk, ChunkRequest, Which};

type Cells = Vec<Vec<u8>>;

/// A request as it stands in `modshift_resync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub id: u64,
    pub table: usize,
    pub from: Option<Cells>,
    pub to: Option<Cells>,
    pub copied_to: Option<Cells>,
    pub rows_copied: u64,
}

/// What may be recorded of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub id: u64,
    /// Wire form.
    pub to: Option<Vec<u8>>,
    pub rows: u64,
    pub done: bool,
}

/// Where the next chunk begins.
#[derive(Debug)]
struct Cursor {
    range: Range,
    after: Option<Cells>,
    rows_copied: u64,
    chunk_rows: u32,
    /// The last chunk has entered.
    done: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ranges {
    cursor: Option<Cursor>,
    /// In the log, each with the place that has to be acknowledged.
    entered: VecDeque<(Vec<u64>, Copied)>,
    /// Acknowledged, and not recorded yet.
    durable: Option<Copied>,
}

impl Ranges {
    /// Everything that entered has been recorded.
    pub(super) fn at_rest(&self) -> bool {
        self.entered.is_empty() && self.durable.is_none()
    }

    /// The next chunk of this range, which is the one that its table of requests has first. `None`: its
    /// last one is in the log, and only not recorded yet.
    pub(super) fn next(&mut self, range: Range, limits: &SnapshotPolicy) -> Option<ChunkRequest> {
        let same = |cursor: &Cursor| {
            let had = &cursor.range;
            (had.id, had.table) == (range.id, range.table)
                && (&had.from, &had.to) == (&range.from, &range.to)
        };
        // Of another one: it was taken back, or a person has changed it.
        let cursor = match self.cursor.take().filter(same) {
            Some(cursor) => cursor,
            None => Cursor {
                after: range.copied_to.clone(),
                rows_copied: range.rows_copied,
                chunk_rows: FIRST_CHUNK_ROWS.min(limits.chunk_rows_max.max(CHUNK_ROWS_MIN)),
                done: false,
                range,
            },
        };
        let cursor = self.cursor.insert(cursor);
        let Range { table, from, to, .. } = &cursor.range;
        (!cursor.done).then(|| ChunkRequest {
            table: *table,
            after: cursor.after.clone(),
            which: Which::Within { from: from.clone(), to: to.clone() },
            rows: cursor.chunk_rows,
            bytes_max: limits.chunk_bytes_max,
            generation: 0,
        })
    }

    /// All of the chunk was sent: the next one begins behind it. `place`: of the log by now.
    pub(super) fn entered(&mut self, chunk: Chunk, place: Vec<u64>, limits: &SnapshotPolicy) {
        let size = chunk.size_bytes();
        self.advance((chunk.rows.len(), size, chunk.took), chunk.next_after, place, limits);
    }

    fn advance(
        &mut self,
        (rows, bytes, took): (usize, usize, Duration),
        next_after: Option<Cells>,
        place: Vec<u64>,
        limits: &SnapshotPolicy,
    ) {
        let Some(cursor) = &mut self.cursor else { return };
        let (goal, rows_max) = (limits.chunk_time, limits.chunk_rows_max.max(CHUNK_ROWS_MIN));
        if rows > 0 {
            let asked = cursor.chunk_rows;
            cursor.chunk_rows =
                resize(asked, rows, bytes, took, goal, rows_max, limits.chunk_bytes_max);
        }
        cursor.rows_copied += rows as u64;
        cursor.done = next_after.is_none();
        if next_after.is_some() {
            cursor.after = next_after;
        }
        let copied = Copied {
            id: cursor.range.id,
            to: cursor.after.as_deref().map(key_bytes),
            rows: cursor.rows_copied,
            done: cursor.done,
        };
        self.entered.push_back((place, copied));
    }

    /// The chunk cannot be trusted: it is read again, with fewer rows, of which fewer are touched.
    pub(super) fn read_again(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            cursor.chunk_rows = (cursor.chunk_rows / 2).max(CHUNK_ROWS_MIN);
        }
    }

    /// What is acknowledged may be recorded.
    pub(super) fn settle(&mut self, has_acked: impl Fn(&[u64]) -> bool) {
        while self.entered.front().is_some_and(|(place, _)| has_acked(place)) {
            self.durable = self.entered.pop_front().map(|(_, copied)| copied);
        }
    }

    /// To be recorded now.
    pub(super) fn take_durable(&mut self) -> Option<Copied> {
        self.durable.take()
    }

    pub(super) fn is_done(&self) -> bool {
        self.durable.as_ref().is_some_and(|copied| copied.done)
    }

    /// What was taken could not be recorded, unless something newer can by now.
    pub(super) fn not_recorded(&mut self, copied: Copied) {
        self.durable.get_or_insert(copied);
    }

    /// Begins where its table of requests says. What is not recorded is copied once more.
    pub(super) fn forget(&mut self) {
        *self = Ranges::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SnapshotPolicy = SnapshotPolicy {
        chunk_time: Duration::from_millis(200),
        chunk_rows_max: 10_000,
        chunk_bytes_max: 1 << 20,
        parallel: 2,
        touched_keys_max: 100,
        xa_grace: Duration::from_secs(60),
    };

    fn range(id: u64, copied_to: Option<u8>) -> Range {
        let (from, copied_to) = (Some(vec![vec![1]]), copied_to.map(|key| vec![vec![key]]));
        Range { id, table: 3, from, to: None, copied_to, rows_copied: 7 }
    }

    fn advance(ranges: &mut Ranges, rows: usize, next: Option<u8>, place: u64) {
        let took = Duration::from_millis(200);
        ranges.advance((rows, 9, took), next.map(|key| vec![vec![key]]), vec![place], &LIMITS);
    }

    #[test]
    fn a_range_goes_on_where_it_was_and_counts_once_it_is_durable() {
        let mut ranges = Ranges::default();
        let first = ranges.next(range(1, Some(5)), &LIMITS).unwrap();
        assert_eq!((first.table, first.after), (3, Some(vec![vec![5]])));
        advance(&mut ranges, 10, Some(6), 4);
        // What the table of requests says is older than what has entered.
        let second = ranges.next(range(1, Some(5)), &LIMITS).unwrap();
        assert_eq!(second.after, Some(vec![vec![6]]));
        ranges.settle(|place| place[0] <= 3);
        assert_eq!((ranges.take_durable(), ranges.at_rest()), (None, false));
        advance(&mut ranges, 3, None, 5);
        assert_eq!(ranges.next(range(1, Some(5)), &LIMITS), None, "its last chunk is in the log");
        ranges.settle(|place| place[0] <= 4);
        let recorded = ranges.take_durable().unwrap();
        let to = Some(key_bytes(&[vec![6]]));
        assert_eq!(recorded, Copied { id: 1, to: to.clone(), rows: 17, done: false });
        ranges.settle(|_| true);
        // It could not be recorded: by now there is more.
        ranges.not_recorded(recorded);
        let recorded = ranges.take_durable().unwrap();
        assert_eq!(recorded, Copied { id: 1, to, rows: 20, done: true });
        assert!(ranges.at_rest());
        let other = ranges.next(range(2, None), &LIMITS).unwrap();
        assert_eq!(other.after, None);
    }

    #[test]
    fn a_range_that_was_changed_by_hand_begins_as_it_stands() {
        let mut ranges = Ranges::default();
        ranges.next(range(1, None), &LIMITS).unwrap();
        advance(&mut ranges, 1, Some(9), 1);
        let changed = Range { to: Some(vec![vec![4]]), ..range(1, Some(2)) };
        assert_eq!(ranges.next(changed, &LIMITS).unwrap().after, Some(vec![vec![2]]));
        ranges.read_again();
        let again = Range { to: Some(vec![vec![4]]), ..range(1, None) };
        let again = ranges.next(again, &LIMITS).unwrap();
        assert_eq!((again.after, again.rows), (Some(vec![vec![2]]), FIRST_CHUNK_ROWS / 2));
    }
}
