//! Rows that an applier has changed and nobody has compared since: what a verifier beside it takes
//! out again. Bounded; beyond the bound everything is forgotten, and only a whole comparison begun
//! later makes up for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hashbrown::HashSet;
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
    rows: HashSet<ChangedRow>,
    /// Nothing is missing of what was applied since.
    whole_since: Instant,
    /// Count of the newest token applied. Index = old shard.
    token_writes: Vec<u64>,
}

impl ChangedRows {
    pub fn new(sources: u16, keys_max: usize) -> ChangedRows {
        let state = State {
            rows: HashSet::new(),
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

    /// Also for rows that were taken out and could not be compared.
    pub fn add(&self, rows: impl IntoIterator<Item = ChangedRow>) {
        let mut state = self.lock();
        for row in rows {
            state.rows.insert(row);
            if state.rows.len() > self.keys_max {
                state.rows.clear();
                state.whole_since = Instant::now();
            }
        }
    }

    pub fn take(&self) -> Vec<ChangedRow> {
        self.lock().rows.drain().collect()
    }

    pub fn whole_since(&self) -> Instant {
        self.lock().whole_since
    }

    /// Everything before the token of this count, of this old shard, has been applied and is here
    /// or has been taken.
    pub fn token_writes(&self, source: OldShard) -> u64 {
        self.lock().token_writes.get(usize::from(source.0)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_rows_are_all_forgotten_and_it_shows() {
        let row = |key: u8| ChangedRow { source: OldShard(0), table: 0, key: [key].into() };
        let changed = ChangedRows::new(1, 2);
        let begun = changed.whole_since();
        changed.add([row(1), row(2), row(1)]);
        assert_eq!((changed.take().len(), changed.whole_since()), (2, begun));
        assert_eq!(changed.take(), []);
        changed.add([row(1), row(2), row(3), row(4)]);
        assert_eq!(changed.take(), [row(4)]);
        assert!(changed.whole_since() > begun);
    }
}
