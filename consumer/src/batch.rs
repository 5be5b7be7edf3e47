//! Changes -> one batch: at most one change for each row of each source, the last.
//!
//! Coalescing is per (source, table, primary key) and never across sources: changes of different
//! old shards are not ordered against each other, and what each did to its own row still counts.
//! Rows stay in the messages that brought them.

use std::hash::BuildHasher;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use modshift_proto::OldShard;
use modshift_proto::message::Op;

/// A change of one row, and the bytes that say which.
#[derive(Clone, Copy, Debug)]
pub struct RowChange<'a> {
    pub source: OldShard,
    /// The table's number in the plan.
    pub table: u32,
    /// Primary key, wire form.
    pub key: &'a [u8],
    pub op: Op,
    /// Wire form: the whole row of an upsert; of a delete, the key.
    pub row: &'a [u8],
}

#[derive(Debug)]
struct Entry {
    source: OldShard,
    table: u32,
    op: Op,
    key: Range<usize>,
    message: Bytes,
    row: Range<usize>,
}

/// When a batch is full. Any one of them suffices.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

/// A row that changes again and again takes one place in the batch; this bounds how many of its
/// changes go by before the batch is applied.
const CHANGES_PER_ROW_MAX: u64 = 16;

#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<Entry>,
    /// Primary keys of the entries, one after the other.
    keys: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: usize,
    changes: u64,
}

impl Batch {
    /// Takes the next change in. `row` lies within `message`.
    pub fn push(&mut self, message: Bytes, row: Range<usize>, change: RowChange<'_>) {
        self.changes += 1;
        self.bytes += message.len();
        let RowChange { source, table, key, op, .. } = change;
        let hash = self.hasher.hash_one((source, table, key));
        let (entries, keys) = (&self.entries, &self.keys);
        let same = |&at: &u32| {
            let had = &entries[at as usize];
            had.source == source && had.table == table && keys[had.key.clone()] == *key
        };
        if let Some(&at) = self.index.find(hash, same) {
            let had = &mut self.entries[at as usize];
            (had.op, had.message, had.row) = (op, message, row);
            return;
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        let at = self.entries.len() as u32;
        let key = start..self.keys.len();
        self.entries.push(Entry { source, table, op, key, message, row });
        let (entries, keys, hasher) = (&self.entries, &self.keys, &self.hasher);
        self.index.insert_unique(hash, at, |&at| {
            let entry = &entries[at as usize];
            hasher.hash_one((entry.source, entry.table, &keys[entry.key.clone()]))
        });
    }

    /// Drops what was taken in of a table of a source: all its rows go before this batch.
    pub fn forget(&mut self, source: OldShard, table: u32) {
        self.entries.retain(|entry| (entry.source, entry.table) != (source, table));
        self.index.clear();
        let (entries, keys, hasher) = (&self.entries, &self.keys, &self.hasher);
        let hash =
            |entry: &Entry| hasher.hash_one((entry.source, entry.table, &keys[entry.key.clone()]));
        for (at, entry) in entries.iter().enumerate() {
            self.index.insert_unique(hash(entry), at as u32, |&at| hash(&entries[at as usize]));
        }
    }

    /// Rows to be changed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of messages taken in. Those that were replaced count, since they may lie in one
    /// buffer with others that are still needed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes taken in, those included that a later one replaced.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn is_full(&self, limits: &Limits) -> bool {
        self.entries.len() >= limits.rows
            || self.bytes >= limits.bytes
            || self.changes >= limits.rows as u64 * CHANGES_PER_ROW_MAX
    }

    /// In the order in which the rows first came up.
    pub fn rows(&self) -> impl Iterator<Item = RowChange<'_>> + Clone {
        self.entries.iter().map(|entry| RowChange {
            source: entry.source,
            table: entry.table,
            key: &self.keys[entry.key.clone()],
            op: entry.op,
            row: &entry.message[entry.row.clone()],
        })
    }

    pub fn of(&self, op: Op) -> impl Iterator<Item = RowChange<'_>> + Clone {
        self.rows().filter(move |row| row.op == op)
    }
}

/// Cuts rows into runs of one table that one bulk statement can take: never more bytes than
/// `bytes_max`, as `cost` counts them, unless a single row has them.
pub fn runs<'a>(
    rows: impl Iterator<Item = RowChange<'a>>,
    bytes_max: usize,
    cost: impl Fn(&RowChange<'a>) -> usize,
) -> Vec<Vec<RowChange<'a>>> {
    let mut done = Vec::new();
    // Tables are few: the open run of each.
    let mut open: Vec<(Vec<RowChange<'a>>, usize)> = Vec::new();
    for row in rows {
        let bytes = cost(&row);
        match open.iter_mut().find(|(run, _)| run[0].table == row.table) {
            None => open.push((vec![row], bytes)),
            Some((run, held)) if *held + bytes > bytes_max => {
                done.push(std::mem::replace(run, vec![row]));
                *held = bytes;
            }
            Some((run, held)) => {
                run.push(row);
                *held += bytes;
            }
        }
    }
    done.extend(open.into_iter().map(|(run, _)| run));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(batch: &mut Batch, source: u16, table: u32, key: &[u8], op: Op, row: &'static [u8]) {
        let message = Bytes::from_static(row);
        let source = OldShard(source);
        batch.push(message, 0..row.len(), RowChange { source, table, key, op, row: &[] });
    }

    #[test]
    fn the_last_change_of_a_row_wins_within_its_source_only() {
        let mut batch = Batch::default();
        push(&mut batch, 0, 0, b"k", Op::Upsert, b"old");
        push(&mut batch, 1, 0, b"k", Op::Upsert, b"other source");
        push(&mut batch, 0, 1, b"k", Op::Upsert, b"other table");
        push(&mut batch, 0, 0, b"l", Op::Upsert, b"other key");
        push(&mut batch, 0, 0, b"k", Op::Delete, b"");
        let rows: Vec<_> = batch.rows().map(|row| (row.op, row.row)).collect();
        assert_eq!(
            rows,
            [
                (Op::Delete, &b""[..]),
                (Op::Upsert, b"other source"),
                (Op::Upsert, b"other table"),
                (Op::Upsert, b"other key"),
            ]
        );
        assert_eq!((batch.len(), batch.changes()), (4, 5));
        assert_eq!(batch.bytes(), 3 + 12 + 11 + 9);
    }

    #[test]
    fn a_run_has_one_table_and_stays_below_its_bytes() {
        let mut batch = Batch::default();
        for (table, row) in
            [(0, &b"aaaa"[..]), (1, b"b"), (0, b"aaaa"), (0, b"a"), (1, b"bbbbbbbb")]
        {
            let key = [batch.len() as u8];
            push(&mut batch, 0, table, &key, Op::Upsert, row);
        }
        let cut: Vec<Vec<usize>> = runs(batch.rows(), 6, |row| row.row.len())
            .iter()
            .map(|run| run.iter().map(|row| row.row.len()).collect())
            .collect();
        assert_eq!(cut, [vec![4], vec![1], vec![4, 1], vec![8]]);
    }

    #[test]
    fn a_batch_is_full_by_rows_bytes_or_changes() {
        let limits = Limits { rows: 2, bytes: 10 };
        let mut batch = Batch::default();
        push(&mut batch, 0, 0, b"k", Op::Upsert, b"12345");
        assert!(!batch.is_full(&limits));
        for _ in 0..40 {
            push(&mut batch, 0, 0, b"k", Op::Upsert, b"12345");
        }
        assert!(batch.is_full(&limits) && batch.len() == 1);
    }
}
