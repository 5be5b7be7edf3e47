//! A logged row change becomes changes for new shards. Pure: images in, (partition, change) out.
//!
//! The row's old place must be the shard it was read from, before and after: otherwise it is a
//! stray and the stream halts. An update that moves the row to another new shard, or changes its
//! primary key, is a delete of the old place and an upsert at the new one.

use modshift_proto::message::Op;
use modshift_proto::plan::{Placement, Plan};
use modshift_proto::row::{RowWriter, cell_int, cell_uint};
use modshift_proto::rule::BoundRule;
use modshift_proto::schema::TableSchema;
use modshift_proto::{Modulus, NewShard, OldShard};

use crate::error::ReadError;

/// A planned table as one old shard's reader sees it.
#[derive(Clone, Debug)]
pub struct RoutedTable {
    pub schema: TableSchema,
    pub fingerprint: u32,
    pub target: Target,
}

#[derive(Clone, Debug)]
pub enum Target {
    /// The new shard of the key in this column.
    Keyed { column: usize, rule: BoundRule, form: KeyForm },
    /// Every new shard.
    Everywhere,
    /// Fed by another old shard.
    Nowhere,
}

/// How a shard key reads as a message key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    Signed,
    Unsigned,
    Bytes,
}

/// The two moduli and the shard that is read.
#[derive(Clone, Copy, Debug)]
pub struct Moduli {
    pub source: OldShard,
    pub old: Modulus,
    pub new: Modulus,
}

impl RoutedTable {
    /// Binds a table's placement in the plan to what the table is on this shard.
    pub fn bind(
        plan: &Plan,
        table: usize,
        schema: TableSchema,
        shard: OldShard,
    ) -> Result<RoutedTable, ReadError> {
        let name = || schema.name.clone();
        if schema.primary_key.is_empty() {
            return Err(ReadError::NoPrimaryKey { shard, table: name() });
        }
        let target = match &plan.tables[table].placement {
            Placement::Broadcast { source } if *source == shard => Target::Everywhere,
            Placement::Broadcast { .. } => Target::Nowhere,
            Placement::Sharded { key, rule } => {
                let Some(column) = schema.column(key) else {
                    let column = key.clone();
                    return Err(ReadError::NoKeyColumn { shard, table: name(), column });
                };
                let rule = rule
                    .bind(&schema.columns[column])
                    .map_err(|source| ReadError::Rule { shard, table: name(), source })?;
                let form = match schema.columns[column].data.form() {
                    modshift_proto::row::CellForm::Int => KeyForm::Signed,
                    modshift_proto::row::CellForm::UInt => KeyForm::Unsigned,
                    _ => KeyForm::Bytes,
                };
                Target::Keyed { column, rule, form }
            }
        };
        Ok(RoutedTable { fingerprint: schema.fingerprint(), schema, target })
    }

    /// Index of the shard key column.
    pub fn shard_key(&self) -> Option<usize> {
        match &self.target {
            Target::Keyed { column, .. } => Some(*column),
            Target::Everywhere | Target::Nowhere => None,
        }
    }
}

/// Cells by table column index, in wire form; `None` is NULL. What rows from the binlog and rows
/// from a chunk have in common.
pub trait Cells {
    fn cell(&self, column: usize) -> Option<&[u8]>;
}

/// Where a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    One(NewShard),
    All,
    Nowhere,
}

/// A stray: the shard on which its key places the row instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    pub placed: u16,
}

/// What to say of [`RouteError::Null`].
pub const NULL_KEY: modshift_proto::row::RowError = modshift_proto::row::RowError(
    "the shard key is NULL, which no shard has: give the row a value there, or delete it",
);

#[derive(Debug)]
pub enum RouteError {
    Stray(Stray),
    /// Its shard key is NULL.
    Null,
    Row(modshift_proto::row::RowError),
}

/// The new shard of a row, after making sure that it was where the old modulus puts it.
#[inline]
pub fn place(table: &RoutedTable, moduli: Moduli, row: &impl Cells) -> Result<Place, RouteError> {
    match &table.target {
        Target::Everywhere => Ok(Place::All),
        Target::Nowhere => Ok(Place::Nowhere),
        Target::Keyed { column, rule, .. } => {
            let cell = row.cell(*column).ok_or(RouteError::Null)?;
            let key = rule.number(cell).map_err(RouteError::Row)?;
            let old = key.place(moduli.old);
            if old != moduli.source.0 {
                return Err(RouteError::Stray(Stray { placed: old }));
            }
            Ok(Place::One(NewShard(key.place(moduli.new))))
        }
    }
}

/// One change on its way: ordinal offset within the logged change, destination, operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    pub to: Place,
    pub op: Op,
    /// 0 for the first half of a logged change, 1 for the second.
    pub half: u32,
    /// Which image the row and its key come from.
    pub image: Image,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Before,
    After,
}

/// What a logged change turns into, one or two changes, in order.
#[inline]
pub fn route(
    before: Option<Place>,
    after: Option<Place>,
    same_primary_key: bool,
) -> (Option<Routed>, Option<Routed>) {
    let delete = |to| Routed { to, op: Op::Delete, half: 0, image: Image::Before };
    let upsert = |to, half| Routed { to, op: Op::Upsert, half, image: Image::After };
    match (before, after) {
        (None, None) | (Some(Place::Nowhere), _) | (_, Some(Place::Nowhere)) => (None, None),
        (Some(from), None) => (Some(delete(from)), None),
        (None, Some(to)) => (Some(upsert(to, 1)), None),
        (Some(from), Some(to)) if from == to && same_primary_key => (Some(upsert(to, 1)), None),
        (Some(from), Some(to)) => (Some(delete(from)), Some(upsert(to, 1))),
    }
}

/// Appends the primary key cells of a row as a wire row: what a delete carries.
pub fn write_key_row(table: &TableSchema, row: &impl Cells, out: &mut Vec<u8>) {
    let mut writer = RowWriter::new(out, table.primary_key.len());
    for &column in &table.primary_key {
        match row.cell(column) {
            Some(cell) => writer.bytes(cell),
            None => writer.null(),
        }
    }
    writer.finish();
}

/// Appends the shard key as a message key: decimal digits for integers, the bytes of strings,
/// nothing for a broadcast table.
pub fn write_message_key(table: &RoutedTable, row: &impl Cells, out: &mut Vec<u8>) {
    let Target::Keyed { column, form, .. } = &table.target else { return };
    let Some(cell) = row.cell(*column) else { return };
    let mut digits = itoa::Buffer::new();
    // A malformed cell was refused by `place` before.
    out.extend_from_slice(match form {
        KeyForm::Bytes => cell,
        KeyForm::Signed => digits.format(cell_int(cell).unwrap_or_default()).as_bytes(),
        KeyForm::Unsigned => digits.format(cell_uint(cell).unwrap_or_default()).as_bytes(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place::One(NewShard(0));
    const B: Place = Place::One(NewShard(1));

    fn check(
        before: Option<Place>,
        after: Option<Place>,
        same_key: bool,
        expected: &[(Place, Op)],
    ) {
        let (first, second) = route(before, after, same_key);
        let got: Vec<_> = [first, second].into_iter().flatten().map(|r| (r.to, r.op)).collect();
        assert_eq!(got, expected);
        let halves: Vec<_> = [first, second].into_iter().flatten().map(|r| r.half).collect();
        assert!(halves.is_sorted() && halves.iter().all(|&half| half < 2));
    }

    #[test]
    fn an_update_splits_only_when_the_row_moves_or_its_key_changes() {
        check(None, Some(A), true, &[(A, Op::Upsert)]);
        check(Some(A), None, true, &[(A, Op::Delete)]);
        check(Some(A), Some(A), true, &[(A, Op::Upsert)]);
        check(Some(A), Some(A), false, &[(A, Op::Delete), (A, Op::Upsert)]);
        check(Some(A), Some(B), true, &[(A, Op::Delete), (B, Op::Upsert)]);
        check(Some(Place::All), Some(Place::All), true, &[(Place::All, Op::Upsert)]);
        check(Some(Place::Nowhere), Some(Place::Nowhere), true, &[]);
    }
}
