//! One new shard as maps, and old shards that only ever do what a database would let them.
//!
//! The batches, their coalescing and both roads are the shipped ones; the model is what stands
//! behind [`Places`].

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use modshift_consumer::batch::{Batch, RowChange};
use modshift_consumer::merge::{Held, Placed, Places, exact_road, fast_road};
use modshift_proto::OldShard;
use modshift_proto::message::Op;
use modshift_proto::row::{RowView, RowWriter, cell_uint};

/// A rule of the design left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    Nothing,
    OwnerGuardOfDelete,
    OwnerGuardOfUpsert,
    /// An upsert's own older row stays where it is.
    Removal,
    /// A delete or a newer image leaves the parked one.
    Unparking,
    Retry,
    /// INSERT IGNORE.
    Parking,
    /// A parked row takes its place whoever holds it.
    FreePlaces,
    /// The fast road is taken whichever rows are parked.
    ExactRoad,
    /// A parked row that was tried in vain waits for the row that was in its way before.
    NotedAnew,
    /// Coalescing looks at the key alone.
    Sources,
}

impl Without {
    pub const RULES: [Without; 10] = [
        Without::OwnerGuardOfDelete,
        Without::OwnerGuardOfUpsert,
        Without::Removal,
        Without::Unparking,
        Without::Retry,
        Without::Parking,
        Without::FreePlaces,
        Without::ExactRoad,
        Without::NotedAnew,
        Without::Sources,
    ];
}

/// What an old shard did to one of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// The row has this unique value now, and this version.
    Put {
        id: u8,
        unique: u8,
        version: u8,
    },
    Delete {
        id: u8,
    },
}

impl Act {
    pub fn id(self) -> u8 {
        match self {
            Act::Put { id, .. } | Act::Delete { id } => id,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub owner: u16,
    pub unique: u8,
    pub version: u8,
}

/// Rows by id: an old shard's own, or the right outcome on the new one.
pub type Rows = BTreeMap<u8, Row>;

/// What an old shard holds after an act; `None` where its database would refuse it or nothing
/// would change.
pub fn perform(rows: &Rows, owner: u16, act: Act) -> Option<Rows> {
    let mut after = rows.clone();
    match act {
        Act::Delete { id } => {
            after.remove(&id)?;
        }
        Act::Put { id, unique, version } => {
            if rows.iter().any(|(&other, row)| other != id && row.unique == unique) {
                return None;
            }
            after.insert(id, Row { owner, unique, version });
        }
    }
    Some(after)
}

/// All old shards together; `None` where two rows cannot live on one shard.
pub fn merged(shards: &[Rows]) -> Option<Rows> {
    let mut all = Rows::new();
    let mut unique = BTreeSet::new();
    for (&id, &row) in shards.iter().flatten() {
        if all.insert(id, row).is_some() || !unique.insert(row.unique) {
            return None;
        }
    }
    Some(all)
}

fn key(id: u8) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut row = RowWriter::new(&mut wire, 1);
    row.uint(id.into());
    row.finish();
    wire
}

fn push(batch: &mut Batch, owner: u16, act: Act) {
    let key = key(act.id());
    let (op, row) = match act {
        Act::Delete { .. } => (Op::Delete, key.clone()),
        Act::Put { id, unique, version } => {
            let mut wire = Vec::new();
            let mut row = RowWriter::new(&mut wire, 3);
            for value in [id, unique, version] {
                row.uint(value.into());
            }
            row.finish();
            (Op::Upsert, wire)
        }
    };
    let change = RowChange { source: OldShard(owner), table: 0, key: &key, op, row: &[] };
    let len = row.len();
    batch.push(Bytes::from(row), 0..len, change);
}

fn read(row: &RowChange<'_>) -> (u8, Row) {
    let mut cells = Vec::new();
    RowView::parse(row.row).unwrap().collect(3, &mut cells).unwrap();
    let cell = |index: usize| cell_uint(cells[index].unwrap()).unwrap() as u8;
    (cell(0), Row { owner: row.source.0, unique: cell(1), version: cell(2) })
}

fn read_key(row: &RowChange<'_>) -> u8 {
    read_id(row.key)
}

fn read_id(key: &[u8]) -> u8 {
    let cell = RowView::parse(key).unwrap().cells().next().unwrap().unwrap();
    cell_uint(cell.unwrap()).unwrap() as u8
}

/// The new shard.
#[derive(Clone, Debug)]
pub struct Model {
    pub rows: Rows,
    /// By owner and id: at most one image for each row of each source.
    pub parked: BTreeMap<(u16, u8), Row>,
    /// The id of the row that is in the way of a parked one; of one that has not been tried since this
    /// was made, none.
    waits: BTreeMap<(u16, u8), u8>,
    without: Without,
    taken: Option<u8>,
    own_in_the_way: Option<u8>,
}

impl Model {
    pub fn new(rows: Rows, without: Without) -> Model {
        Model {
            rows,
            parked: BTreeMap::new(),
            waits: BTreeMap::new(),
            without,
            taken: None,
            own_in_the_way: None,
        }
    }

    /// One batch, as the applier does it. Fails where a row of the same owner was in the way: of what an old shard holds at one time no two
    /// rows need the same place.
    pub fn apply(&mut self, acts: &[(u16, Act)]) -> Result<(), String> {
        let mut batch = Batch::default();
        for (at, &(owner, act)) in acts.iter().enumerate() {
            let later = |(_, other): &(u16, Act)| other.id() == act.id();
            let hidden = self.without == Without::Sources && acts[at + 1..].iter().any(later);
            if !hidden {
                push(&mut batch, owner, act);
            }
        }
        if !self.concerns_parked(&batch.rows().collect::<Vec<_>>()) {
            let before = self.clone();
            let fast = fast_road(self, &batch).now_or_never().unwrap();
            if fast == Ok(Placed::All) {
                return Ok(());
            }
            *self = before;
        }
        let Ok(_) = exact_road(self, &batch).now_or_never().unwrap();
        match self.own_in_the_way.take() {
            Some(id) => Err(format!("row {id} found another row of its owner in its place")),
            None => Ok(()),
        }
    }

    /// The id of the row that holds a place which this one needs.
    fn blocker(&self, id: u8, row: &Row) -> Option<u8> {
        if self.rows.contains_key(&id) {
            return Some(id);
        }
        self.rows.iter().find(|(_, held)| held.unique == row.unique).map(|(&id, _)| id)
    }
}

impl Places for Model {
    type Error = Infallible;
    type Parked = (u16, u8);

    async fn delete(&mut self, rows: &[RowChange<'_>]) -> Result<(), Infallible> {
        for row in rows {
            if self.without == Without::Removal && row.op == Op::Upsert {
                continue;
            }
            let id = read_key(row);
            let own = self.rows.get(&id).is_some_and(|held| held.owner == row.source.0);
            if own || self.without == Without::OwnerGuardOfDelete {
                self.rows.remove(&id);
            }
        }
        Ok(())
    }

    async fn upsert(&mut self, rows: &[RowChange<'_>]) -> Result<Placed, Infallible> {
        for row in rows {
            let (id, row) = read(row);
            if let Some(held) = self.rows.get(&id)
                && held.owner != row.owner
                && self.without != Without::OwnerGuardOfUpsert
            {
                return Ok(Placed::Taken);
            }
            if self.rows.iter().any(|(&other, held)| other != id && held.unique == row.unique) {
                return Ok(Placed::Taken);
            }
            self.rows.insert(id, row);
        }
        Ok(Placed::All)
    }

    async fn insert(&mut self, rows: &[RowChange<'_>]) -> Result<Placed, Infallible> {
        let before = self.rows.clone();
        for row in rows {
            let (id, row) = read(row);
            self.taken = self.blocker(id, &row);
            if self.taken.is_some() {
                self.rows = before;
                return Ok(Placed::Taken);
            }
            self.rows.insert(id, row);
        }
        Ok(Placed::All)
    }

    async fn holder(&mut self, _row: &RowChange<'_>) -> Result<Held, Infallible> {
        let owner = self.taken.and_then(|id| self.rows.get(&id)).map(|row| OldShard(row.owner));
        let row = self.taken.map(|id| key(id).into_boxed_slice());
        Ok(Held { key: "k".to_owned(), owner, row })
    }

    fn concerns_parked(&self, rows: &[RowChange<'_>]) -> bool {
        let concerned = |row: &RowChange<'_>| {
            let id = read_key(row);
            self.parked.contains_key(&(row.source.0, id))
                || self.waits.values().any(|&blocker| blocker == id)
        };
        let untried = self.parked.keys().any(|parked| !self.waits.contains_key(parked));
        self.without != Without::ExactRoad && (untried || rows.iter().any(concerned))
    }

    async fn unpark(&mut self, rows: &[RowChange<'_>]) -> Result<(), Infallible> {
        if self.without != Without::Unparking {
            for row in rows {
                self.parked.remove(&(row.source.0, read_key(row)));
                self.waits.remove(&(row.source.0, read_key(row)));
            }
        }
        Ok(())
    }

    async fn park(&mut self, row: &RowChange<'_>, held: &Held) -> Result<(), Infallible> {
        let (id, row) = read(row);
        if held.owner == Some(OldShard(row.owner)) {
            self.own_in_the_way = Some(id);
        }
        if self.without != Without::Parking {
            self.parked.insert((row.owner, id), row);
            let blocker = held.row.as_ref().map(|key| read_id(key)).unwrap();
            self.waits.insert((row.owner, id), blocker);
        }
        Ok(())
    }

    async fn parked(&mut self, rows: &[RowChange<'_>]) -> Result<Vec<(u16, u8)>, Infallible> {
        let touched: BTreeSet<u8> = rows.iter().map(read_key).collect();
        let due = |parked: &&(u16, u8)| {
            self.waits.get(*parked).is_none_or(|blocker| touched.contains(blocker))
        };
        let none = self.without == Without::Retry;
        Ok(if none { Vec::new() } else { self.parked.keys().filter(due).copied().collect() })
    }

    async fn settle(&mut self, parked: &(u16, u8)) -> Result<Placed, Infallible> {
        let Some(&row) = self.parked.get(parked) else { return Ok(Placed::Taken) };
        let id = parked.1;
        if self.without == Without::FreePlaces {
            self.rows.retain(|_, held| held.unique != row.unique);
        } else if let Some(blocker) = self.blocker(id, &row) {
            if self.without != Without::NotedAnew {
                self.waits.insert(*parked, blocker);
            }
            return Ok(Placed::Taken);
        }
        self.rows.insert(id, row);
        self.parked.remove(parked);
        self.waits.remove(parked);
        Ok(Placed::All)
    }
}
