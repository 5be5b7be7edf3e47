//! Parked rows: which there are, in memory; their images stay in `modshift_parked`.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use modshift_proto::OldShard;

use crate::places::REFUSED;

/// One parked row: at most one for each row of each source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRow {
    /// Of `modshift_parked`.
    pub id: u64,
    pub source: OldShard,
    pub table: u32,
    /// Primary key, wire form.
    pub key: Box<[u8]>,
    /// Clock of the source's newest token when the row was first parked; 0: there was none yet.
    pub clock_us: i64,
    /// Unique key that was taken, and by whom; or why the server does not store the row.
    pub blocked_by: String,
}

impl ParkedRow {
    /// It waits for a change of the row itself, not for a place.
    pub fn is_refused(&self) -> bool {
        self.blocked_by.starts_with(REFUSED)
    }
}

#[derive(Debug, Default)]
pub struct Parked {
    rows: HashTable<ParkedRow>,
    hasher: DefaultHashBuilder,
}

impl Parked {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &ParkedRow> {
        self.rows.iter()
    }

    pub fn get(&self, source: OldShard, table: u32, key: &[u8]) -> Option<&ParkedRow> {
        let hash = self.hasher.hash_one((source, table, key));
        self.rows.find(hash, |row| row.source == source && row.table == table && *row.key == *key)
    }

    pub fn insert(&mut self, row: ParkedRow) {
        let hash = self.hasher.hash_one((row.source, row.table, &*row.key));
        let hasher = &self.hasher;
        self.rows
            .insert_unique(hash, row, |row| hasher.hash_one((row.source, row.table, &*row.key)));
    }

    pub fn remove(&mut self, row: &ParkedRow) {
        let hash = self.hasher.hash_one((row.source, row.table, &*row.key));
        if let Ok(found) = self.rows.find_entry(hash, |had| had.id == row.id) {
            found.remove();
        }
    }

    /// Lets no row have waited since before this clock.
    pub fn wait_since(&mut self, clock_us: i64) {
        for row in self.rows.iter_mut() {
            row.clock_us = row.clock_us.max(clock_us);
        }
    }

    /// Rows that were parked before any token of their source begin to wait now.
    pub fn begin_waiting(&mut self, clock_us: i64) {
        for row in self.rows.iter_mut().filter(|row| row.clock_us == 0) {
            row.clock_us = clock_us;
        }
    }

    /// The row that has waited longest of those that nothing can make room for any more: every
    /// old shard has been applied up to `clock_us`, which is `age_us` later than its parking.
    pub fn overdue(&self, clock_us: i64, age_us: i64) -> Option<&ParkedRow> {
        self.rows
            .iter()
            .filter(|row| clock_us >= row.clock_us.saturating_add(age_us))
            .min_by_key(|row| (row.clock_us, row.id))
    }
}

/// What one transaction does to the parked rows, kept apart until it has committed.
#[derive(Debug, Default)]
pub struct ParkedChanges {
    pub removed: Vec<ParkedRow>,
    pub added: Vec<ParkedRow>,
}

impl ParkedChanges {
    /// Rows that the server does not store: how many of each source and table, and why the first.
    pub fn refused(&self) -> BTreeMap<(OldShard, u32), (u64, &str)> {
        let mut counts = BTreeMap::new();
        for row in self.added.iter().filter(|row| row.is_refused()) {
            let first = (0, row.blocked_by.as_str());
            counts.entry((row.source, row.table)).or_insert(first).0 += 1;
        }
        counts
    }

    pub fn commit(self, parked: &mut Parked) {
        for row in &self.removed {
            parked.remove(row);
        }
        for row in self.added {
            parked.insert(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, key: &[u8], clock_us: i64) -> ParkedRow {
        ParkedRow {
            id,
            source: OldShard(0),
            table: 0,
            key: key.into(),
            clock_us,
            blocked_by: String::new(),
        }
    }

    #[test]
    fn changes_count_once_committed() {
        let mut parked = Parked::default();
        parked.insert(row(1, b"a", 10));
        let changes =
            ParkedChanges { removed: vec![row(1, b"a", 10)], added: vec![row(2, b"a", 10)] };
        assert_eq!(parked.get(OldShard(0), 0, b"a").unwrap().id, 1);
        changes.commit(&mut parked);
        assert_eq!(parked.get(OldShard(0), 0, b"a").unwrap().id, 2);
        assert_eq!((parked.len(), parked.get(OldShard(1), 0, b"a")), (1, None));
    }

    #[test]
    fn refused_rows_are_counted_by_source_and_table() {
        let refused = |id, source, why: &str| ParkedRow {
            source: OldShard(source),
            blocked_by: format!("{REFUSED}{why}"),
            ..row(id, b"k", 10)
        };
        let added =
            vec![refused(1, 1, "a"), row(2, b"a", 10), refused(3, 1, "b"), refused(4, 0, "c")];
        let changes = ParkedChanges { added, ..ParkedChanges::default() };
        let counts: Vec<_> = changes.refused().into_iter().collect();
        let texts = [format!("{REFUSED}c"), format!("{REFUSED}a")];
        let of =
            |source, count, text: usize| ((OldShard(source), 0), (count, texts[text].as_str()));
        assert_eq!(counts, [of(0, 1, 0), of(1, 2, 1)]);
    }

    #[test]
    fn a_row_is_overdue_when_every_clock_is_past_its_age() {
        let mut parked = Parked::default();
        parked.insert(row(1, b"a", 20));
        parked.insert(row(2, b"b", 10));
        parked.insert(row(3, b"c", 0));
        parked.begin_waiting(25);
        assert_eq!(parked.overdue(19, 10), None);
        assert_eq!(parked.overdue(30, 10).unwrap().id, 2);
    }
}
