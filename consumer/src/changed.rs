//! Rows that an applier has changed and nobody has compared since, for a verifier beside it. They
//! stay here until they have been compared: a comparison that fails, or dies, forgets none. Bounded;
//! beyond the bound everything is forgotten, and only a whole comparison begun later makes up for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hashbrown::HashMap;
use modshift_proto::OldShard;

use crate::apply::Cut;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChangedRow {
    pub source: OldShard,
    /// The table's number in the plan.
    pub table: u32,
    /// Primary key, wire form.
    pub key: Box<[u8]>,
}

#[derive(Debug)]
pub struct ChangedRows {
    state: Mutex<State>,
    keys_max: usize,
}

#[derive(Debug)]
struct State {
    /// The mark of its last change, or of the last look at it.
    marks: HashMap<Arc<ChangedRow>, u64>,
    /// The same by mark: the oldest is compared first.
    order: BTreeMap<u64, Arc<ChangedRow>>,
    newest: u64,
    /// Nothing is missing of what was applied since.
    whole_since: Instant,
    /// Count of the newest token applied. Index = old shard.
    token_writes: Vec<u64>,
}

impl State {
    fn put(&mut self, row: Arc<ChangedRow>) {
        self.newest += 1;
        if let Some(before) = self.marks.insert(row.clone(), self.newest) {
            self.order.remove(&before);
        }
        self.order.insert(self.newest, row);
    }

    /// As it was when it was taken.
    fn unchanged(&self, row: &ChangedRow, mark: u64) -> bool {
        self.marks.get(row) == Some(&mark)
    }
}

impl ChangedRows {
    pub fn new(sources: u16, keys_max: usize) -> ChangedRows {
        let state = State {
            marks: HashMap::new(),
            order: BTreeMap::new(),
            newest: 0,
            whole_since: Instant::now(),
            token_writes: vec![0; usize::from(sources)],
        };
        ChangedRows { state: Mutex::new(state), keys_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is durable. Its rows are here before anybody is told how far the applier is.
    pub(crate) fn applied(&self, cut: &Cut) {
        let rows = cut.batch.rows().map(|row| ChangedRow {
            source: row.source,
            table: row.table,
            key: row.key.into(),
        });
        self.add(rows);
        let mut state = self.lock();
        for moved in &cut.moves {
            let writes = &mut state.token_writes[usize::from(moved.source.0)];
            *writes = moved.mark.token_writes.max(*writes);
        }
    }

    pub(crate) fn add(&self, rows: impl IntoIterator<Item = ChangedRow>) {
        let mut state = self.lock();
        for row in rows {
            state.put(Arc::new(row));
            if state.marks.len() > self.keys_max {
                state.marks.clear();
                state.order.clear();
                state.whole_since = Instant::now();
            }
        }
    }

    /// Those that have waited longest, with their marks: of these old shards, or of all; none that was
    /// marked after `until`.
    pub fn oldest(
        &self,
        sources: Option<&BTreeSet<u16>>,
        until: u64,
        rows_max: usize,
    ) -> Vec<(u64, ChangedRow)> {
        let state = self.lock();
        let wanted = |row: &ChangedRow| sources.is_none_or(|some| some.contains(&row.source.0));
        let rows = state.order.range(..=until).filter(|(_, row)| wanted(row));
        rows.take(rows_max).map(|(mark, row)| (*mark, ChangedRow::clone(row))).collect()
    }

    /// These are compared, unless they have changed since they were given out.
    pub fn compared(&self, rows: &[(u64, ChangedRow)]) {
        let mut state = self.lock();
        for (mark, row) in rows {
            if state.unchanged(row, *mark) {
                state.marks.remove(row);
                state.order.remove(mark);
            }
        }
    }

    /// These are looked at again after all others.
    pub fn put_off(&self, rows: &[(u64, ChangedRow)]) {
        let mut state = self.lock();
        for (mark, row) in rows {
            if state.unchanged(row, *mark)
                && let Some(row) = state.order.get(mark).cloned()
            {
                state.put(row);
            }
        }
    }

    /// The mark of the newest.
    pub fn newest(&self) -> u64 {
        self.lock().newest
    }

    pub fn waiting(&self) -> usize {
        self.lock().marks.len()
    }

    pub fn is_waiting(&self, source: OldShard) -> bool {
        self.lock().marks.keys().any(|row| row.source == source)
    }

    pub fn whole_since(&self) -> Instant {
        self.lock().whole_since
    }

    /// Everything before the token of this count, of this old shard, has been applied and is here
    /// or has been compared.
    pub fn token_writes(&self, source: OldShard) -> u64 {
        self.lock().token_writes.get(usize::from(source.0)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: u16, key: u8) -> ChangedRow {
        ChangedRow { source: OldShard(source), table: 0, key: [key].into() }
    }

    fn keys(found: &[(u64, ChangedRow)]) -> Vec<u8> {
        found.iter().map(|(_, row)| row.key[0]).collect()
    }

    #[test]
    fn too_many_rows_are_all_forgotten_and_it_shows() {
        let changed = ChangedRows::new(1, 2);
        let begun = changed.whole_since();
        changed.add([row(0, 1), row(0, 2), row(0, 1)]);
        assert_eq!((changed.waiting(), changed.whole_since()), (2, begun));
        changed.add([row(0, 3), row(0, 4)]);
        assert_eq!(keys(&changed.oldest(None, u64::MAX, 9)), [4]);
        assert!(changed.whole_since() > begun);
    }

    #[test]
    fn a_row_stays_until_it_is_compared_as_it_is_now() {
        let changed = ChangedRows::new(2, 100);
        changed.add([row(0, 1), row(0, 2), row(1, 3)]);
        let given = changed.oldest(None, changed.newest(), 2);
        assert_eq!(keys(&given), [1, 2]);
        // Whoever had them died: they are given out again.
        assert_eq!(keys(&changed.oldest(None, changed.newest(), 9)), [1, 2, 3]);
        changed.add([row(0, 2)]);
        changed.compared(&given);
        assert_eq!(keys(&changed.oldest(None, u64::MAX, 9)), [3, 2]);
        assert!(changed.is_waiting(OldShard(0)) && changed.is_waiting(OldShard(1)));
        // What is put off comes after the others, and not again in the same pass.
        let until = changed.newest();
        changed.put_off(&changed.oldest(None, until, 1));
        assert_eq!(keys(&changed.oldest(None, until, 9)), [2]);
        assert_eq!(keys(&changed.oldest(None, u64::MAX, 9)), [2, 3]);
        let second = changed.oldest(Some(&BTreeSet::from([1])), u64::MAX, 9);
        assert_eq!(keys(&second), [3]);
        changed.compared(&second);
        assert!(!changed.is_waiting(OldShard(1)) && changed.waiting() == 1);
    }
}
