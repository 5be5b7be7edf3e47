//! Merging streams of different old shards into one new shard: the two roads of a batch.
//!
//! The fast road takes guarded deletes, then guarded upserts, and is only open to a batch that concerns
//! no parked row. Whatever gets in its way (another owner's row, a unique value that moves between rows
//! of the batch) closes it, and the same batch takes the exact road from the start: remove every
//! row of the batch that its source owns, and its parked image; insert; park what finds its place
//! taken by another owner; then try once every parked row for which the batch may have made room: the
//! row that was in its way is one of the batch. Both roads end in the same state.
//!
//! What a table is stays behind [`Places`]: a MariaDB transaction in production, maps in the model
//! that tries every interleaving.

use std::future::Future;

use modshift_proto::OldShard;
use modshift_proto::message::Op;

use crate::batch::{Batch, RowChange};

/// The tables and parked rows of one new shard, within one transaction.
pub trait Places {
    type Error;
    type Parked: Send;

    /// Deletes rows by bytes of the primary key, where the source owns them.
    fn delete(
        &mut self,
        rows: &[RowChange<'_>],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Inserts rows, or overwrites those with the same primary key bytes and the same owner.
    /// `Taken` if any other row is in the way; then the transaction is of no use any more.
    fn upsert(
        &mut self,
        rows: &[RowChange<'_>],
    ) -> impl Future<Output = Result<Placed, Self::Error>> + Send;

    /// Inserts all of the rows, or none of them and `Taken`. The transaction stays usable.
    fn insert(
        &mut self,
        rows: &[RowChange<'_>],
    ) -> impl Future<Output = Result<Placed, Self::Error>> + Send;

    /// Who holds the place that the last `insert`, of this one row, found taken?
    fn holder(
        &mut self,
        row: &RowChange<'_>,
    ) -> impl Future<Output = Result<Held, Self::Error>> + Send;

    /// Is a row of these parked, or may one make room for a row that is?
    fn concerns_parked(&self, rows: &[RowChange<'_>]) -> bool;

    /// Removes the parked images of these rows, where there are any.
    fn unpark(
        &mut self,
        rows: &[RowChange<'_>],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    fn park(
        &mut self,
        row: &RowChange<'_>,
        held: &Held,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The parked rows for which a change of these may have made room.
    fn parked(
        &mut self,
        rows: &[RowChange<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Parked>, Self::Error>> + Send;

    /// Inserts a parked row and removes its image, if all its places are free. Else notes which row is
    /// in its way now.
    fn settle(
        &mut self,
        parked: &Self::Parked,
    ) -> impl Future<Output = Result<Placed, Self::Error>> + Send;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    All,
    Taken,
}

/// Which place was taken, and by whose row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Name of the unique key, or why the row cannot be stored.
    pub key: String,
    /// `None`: a row that its values do not find (a key over a prefix or a generated column), or
    /// nobody's: the server does not store the row as it is.
    pub owner: Option<OldShard>,
    /// Its primary key, wire form: the place is taken until that row changes. `None` where nobody can
    /// tell which row it is.
    pub row: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    pub parked: u64,
    pub settled: u64,
}

/// The fast road. `Taken`: roll back and take the exact one.
pub async fn fast_road<P: Places>(places: &mut P, batch: &Batch) -> Result<Placed, P::Error> {
    debug_assert!(
        !places.concerns_parked(&batch.rows().collect::<Vec<_>>()),
        "the fast road does not see parked rows"
    );
    // Deletes first: an upsert may take a unique value that a deleted row had.
    let deletes: Vec<_> = of(batch, Op::Delete);
    if !deletes.is_empty() {
        places.delete(&deletes).await?;
    }
    let upserts = of(batch, Op::Upsert);
    if upserts.is_empty() { Ok(Placed::All) } else { places.upsert(&upserts).await }
}

/// The exact road.
pub async fn exact_road<P: Places>(places: &mut P, batch: &Batch) -> Result<Merged, P::Error> {
    let rows: Vec<_> = batch.rows().collect();
    places.delete(&rows).await?;
    places.unpark(&rows).await?;
    // Rows parked below need no second try: from here on nothing is removed.
    let waiting = places.parked(&rows).await?;
    let mut merged = Merged::default();
    let upserts = of(batch, Op::Upsert);
    // Halves in place of rows one by one: with few conflicts, few statements; the same outcome,
    // since a half is inserted whole or taken apart before the next begins.
    let mut pending: Vec<&[RowChange<'_>]> = vec![&upserts];
    while let Some(rows) = pending.pop() {
        if rows.is_empty() || places.insert(rows).await? == Placed::All {
            continue;
        }
        if let [row] = rows {
            let held = places.holder(row).await?;
            places.park(row, &held).await?;
            merged.parked += 1;
        } else {
            let (first, second) = rows.split_at(rows.len() / 2);
            pending.push(second);
            pending.push(first);
        }
    }
    // One pass: placing frees nothing.
    for parked in &waiting {
        if places.settle(parked).await? == Placed::All {
            merged.settled += 1;
        }
    }
    Ok(merged)
}

fn of<'a>(batch: &'a Batch, op: Op) -> Vec<RowChange<'a>> {
    batch.rows().filter(|row| row.op == op).collect()
}
