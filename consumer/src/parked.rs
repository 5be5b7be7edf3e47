//! Parked rows: which there are, in memory; their images stay in `modshift_parked`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use modshift_proto::OldShard;

use crate::batch::RowChange;
use crate::merge::Held;
use crate::places::REFUSED;

/// Rows of which nobody knows what they wait for are tried so many at a time: an applier that begins
/// with ten thousand of them must not need minutes for its first batch.
const UNTRIED_AT_ONCE: usize = 500;

/// What a parked row waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It has not been tried since the applier began.
    Untried,
    /// A change of this row of its table, by primary key in wire form.
    For(Box<[u8]>),
    /// A change of some row of its table.
    Table,
}

impl Waits {
    pub fn of(held: &Held) -> Waits {
        held.row.clone().map_or(Waits::Table, Waits::For)
    }
}
/// How `blocked_by` begins where a stream was sent past a group, and its rows may be where they are not
/// on the old shard any more.
pub const LEFT_BY_SKIP: &str = "left by modshift skip: ";

/// What holds a place where it is a row of the same old shard, which cannot have both: one that is too
/// many on the new shard, or whose own change is still to come. The comparison finds it.
pub fn another_row_of(source: OldShard) -> String {
    format!("{ANOTHER_ROW} {source}")
}

/// As it begins in `blocked_by`, behind the key.
pub const ANOTHER_ROW: &str = "another row of";

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
    /// Not of one that is [refused](Self::is_refused).
    pub waits: Waits,
}

impl ParkedRow {
    /// It waits for a change of the row itself, not for a place.
    pub fn is_refused(&self) -> bool {
        self.blocked_by.starts_with(REFUSED)
    }

    /// A row of its own old shard was in its way.
    pub fn waits_for_own(&self) -> bool {
        self.blocked_by.ends_with(&format!(" of {}", another_row_of(self.source)))
    }
}

#[derive(Debug, Default)]
pub struct Parked {
    rows: HashTable<ParkedRow>,
    hasher: DefaultHashBuilder,
    waiting: Waiting,
}

/// How many wait for what.
#[derive(Debug, Default)]
struct Waiting {
    refused: usize,
    untried: usize,
    tables: HashMap<u32, usize>,
    /// By table and primary key.
    rows: HashMap<u32, HashMap<Box<[u8]>, usize>>,
}

impl Waiting {
    fn add(&mut self, row: &ParkedRow) {
        match &row.waits {
            _ if row.is_refused() => self.refused += 1,
            Waits::Untried => self.untried += 1,
            Waits::Table => *self.tables.entry(row.table).or_default() += 1,
            Waits::For(key) => {
                let keys = self.rows.entry(row.table).or_default();
                *keys.entry(key.clone()).or_default() += 1;
            }
        }
    }

    fn remove(&mut self, row: &ParkedRow) {
        match &row.waits {
            _ if row.is_refused() => self.refused -= 1,
            Waits::Untried => self.untried -= 1,
            Waits::Table => {
                let count = self.tables.entry(row.table).or_default();
                *count = count.saturating_sub(1);
            }
            Waits::For(key) => {
                let Some(keys) = self.rows.get_mut(&row.table) else { return };
                if let Some(count) = keys.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        keys.remove(key);
                    }
                }
            }
        }
    }

    fn concerned(&self, row: &RowChange<'_>) -> bool {
        self.untried > 0
            || self.tables.get(&row.table).is_some_and(|&count| count > 0)
            || self.rows.get(&row.table).is_some_and(|keys| keys.contains_key(row.key))
    }
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

    /// Is a row of these parked, or may one make room for a row that is?
    pub fn concerned<'r>(&self, mut rows: impl Iterator<Item = RowChange<'r>>) -> bool {
        !self.is_empty()
            && rows.any(|row| {
                self.waiting.concerned(&row) || self.get(row.source, row.table, row.key).is_some()
            })
    }

    pub fn any_refused(&self) -> bool {
        self.waiting.refused > 0
    }

    /// Those for which a change of these rows may have made room, the longest parked first.
    pub fn with_room(&self, rows: &[RowChange<'_>], refused: bool) -> Vec<ParkedRow> {
        let touched: HashSet<(u32, &[u8])> = rows.iter().map(|row| (row.table, row.key)).collect();
        let tables: HashSet<u32> = rows.iter().map(|row| row.table).collect();
        let due = |row: &&ParkedRow| match &row.waits {
            _ if row.is_refused() => refused,
            Waits::Untried => true,
            Waits::Table => tables.contains(&row.table),
            Waits::For(key) => touched.contains(&(row.table, &**key)),
        };
        let mut waiting: Vec<ParkedRow> = self.iter().filter(due).cloned().collect();
        waiting.sort_by_key(|row| row.id);
        let mut untried = 0;
        waiting.retain(|row| {
            untried += usize::from(row.waits == Waits::Untried && !row.is_refused());
            row.waits != Waits::Untried || row.is_refused() || untried <= UNTRIED_AT_ONCE
        });
        waiting
    }

    pub fn insert(&mut self, row: ParkedRow) {
        self.waiting.add(&row);
        let hash = self.hasher.hash_one((row.source, row.table, &*row.key));
        let hasher = &self.hasher;
        self.rows
            .insert_unique(hash, row, |row| hasher.hash_one((row.source, row.table, &*row.key)));
    }

    pub fn remove(&mut self, row: &ParkedRow) {
        let hash = self.hasher.hash_one((row.source, row.table, &*row.key));
        if let Ok(found) = self.rows.find_entry(hash, |had| had.id == row.id) {
            let (had, _) = found.remove();
            self.waiting.remove(&had);
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

    /// Nobody is in the way of this row any more, as it seems: it is tried with the next batch, and
    /// waits its whole time again.
    pub fn try_again(&mut self, row: &ParkedRow, clock_us: i64) {
        self.remove(row);
        self.insert(ParkedRow { clock_us, waits: Waits::Untried, ..row.clone() });
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
    /// Rows that stay, and what they wait for now.
    pub waits: Vec<(ParkedRow, Waits)>,
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

    /// Rows in whose way another row of their own old shard is: how many of each source and table.
    pub fn beside_own(&self) -> BTreeMap<(OldShard, u32), u64> {
        let mut counts = BTreeMap::new();
        for row in self.added.iter().filter(|row| row.waits_for_own()) {
            *counts.entry((row.source, row.table)).or_default() += 1;
        }
        counts
    }

    pub fn commit(self, parked: &mut Parked) {
        for (row, waits) in self.waits {
            parked.remove(&row);
            parked.insert(ParkedRow { waits, ..row });
        }
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
    use modshift_proto::message::Op;

    use super::*;

    fn row(id: u64, key: &[u8], clock_us: i64) -> ParkedRow {
        ParkedRow {
            id,
            source: OldShard(0),
            table: 0,
            key: key.into(),
            clock_us,
            blocked_by: String::new(),
            waits: Waits::Table,
        }
    }

    fn change(source: u16, table: u32, key: &[u8]) -> RowChange<'_> {
        RowChange { source: OldShard(source), table, key, op: Op::Delete, row: &[] }
    }

    #[test]
    fn a_batch_concerns_the_rows_that_wait_for_one_of_its_rows_and_no_others() {
        let waiting = |id, key: &[u8], waits| ParkedRow { waits, ..row(id, key, 10) };
        let mut parked = Parked::default();
        for id in 0..10_000_u32 {
            let holder = format!("h{id}").into_bytes().into();
            parked.insert(waiting(u64::from(id), &id.to_be_bytes(), Waits::For(holder)));
        }
        let own = 7_u32.to_be_bytes();
        let concerned = |parked: &Parked, change| parked.concerned(std::iter::once(change));
        let ids = |parked: &Parked, change| -> Vec<u64> {
            parked.with_room(&[change], false).iter().map(|row| row.id).collect()
        };
        for other in [change(1, 0, b"x"), change(1, 1, b"h7"), change(1, 0, &own)] {
            assert!(!concerned(&parked, other), "{other:?}");
            assert!(ids(&parked, other).is_empty());
        }
        // A change of the row itself, of whoever holds its place; nothing waits for the former.
        assert!(concerned(&parked, change(0, 0, &own)));
        assert!(concerned(&parked, change(1, 0, b"h7")));
        assert_eq!(ids(&parked, change(1, 0, b"h7")), [7]);
        // It was tried, and another row is in its way.
        let seventh = parked.get(OldShard(0), 0, &own).unwrap().clone();
        let waits = vec![(seventh.clone(), Waits::For(b"h8".as_slice().into()))];
        ParkedChanges { waits, ..ParkedChanges::default() }.commit(&mut parked);
        assert!(!concerned(&parked, change(1, 0, b"h7")));
        assert_eq!(ids(&parked, change(1, 0, b"h8")), [7, 8]);
        // Once it is not known what a row waits for, it may be anything; of its table, if that is.
        parked.try_again(&seventh, 20);
        assert!(concerned(&parked, change(1, 1, b"x")));
        assert_eq!(ids(&parked, change(1, 1, b"x")), [7]);
        assert_eq!(parked.get(OldShard(0), 0, &own).unwrap().clock_us, 20);
        parked.remove(&seventh);
        parked.insert(waiting(20_000, b"t", Waits::Table));
        assert!(concerned(&parked, change(1, 0, b"x")) && !concerned(&parked, change(1, 1, b"x")));
        // A row that the server does not store waits for none of them.
        let blocked_by = format!("{REFUSED}why");
        let mut parked = Parked::default();
        parked.insert(ParkedRow { blocked_by, ..row(1, b"a", 10) });
        assert!(parked.any_refused() && !concerned(&parked, change(1, 0, b"x")));
        assert_eq!(parked.with_room(&[change(1, 0, b"x")], true).len(), 1);
        // After a start not all at once.
        let mut parked = Parked::default();
        for id in 0..10_000_u32 {
            parked.insert(waiting(u64::from(id), &id.to_be_bytes(), Waits::Untried));
        }
        assert_eq!(parked.with_room(&[change(1, 1, b"x")], false).len(), UNTRIED_AT_ONCE);
    }

    #[test]
    fn changes_count_once_committed() {
        let mut parked = Parked::default();
        parked.insert(row(1, b"a", 10));
        let changes = ParkedChanges {
            removed: vec![row(1, b"a", 10)],
            added: vec![row(2, b"a", 10)],
            waits: Vec::new(),
        };
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
