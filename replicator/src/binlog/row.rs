//! Row images to wire form, in one pass over the event's bytes and without an allocation per cell.
//!
//! A [`Layout`] joins what the catalog says of a table to what its last TABLE_MAP said, and knows
//! for each column how to convert it. A [`DecodedRow`] is filled again and again.

use std::sync::Arc;

use modshift_proto::message::HEAD_ROOM;
use modshift_proto::row::{RowWriter, first_cell};
use modshift_proto::{DataType, TableSchema};

use super::error::BinlogError;
use super::input::{Fault, Input};
use super::metadata::Collations;
use super::rows::bit;
use super::table_map::{Extent, TableMap, column};
use super::value::Conversion;

/// A table of the plan, as the catalog of the old shard describes it.
#[derive(Clone, Debug)]
pub struct PlannedTable {
    pub schema_name: String,
    pub table: Arc<TableSchema>,
    /// Index of the shard key's column; none for a broadcast table.
    pub shard_key: Option<usize>,
}

/// What of a row is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All columns that travel.
    Row,
    /// The columns of the primary key and the shard key only.
    Keys,
}

#[derive(Clone, Copy, Debug)]
struct ColumnPlan {
    extent: Extent,
    conversion: Conversion,
    sent: bool,
    key: bool,
}

/// How the rows of one planned table are read.
#[derive(Debug)]
pub struct Layout {
    planned: PlannedTable,
    columns: Vec<ColumnPlan>,
    sent: usize,
    keys: usize,
    /// Raised by every TABLE_MAP that differs from the one before. 0: none seen yet.
    version: u64,
}

impl Layout {
    pub(super) fn new(planned: PlannedTable) -> Result<Layout, BinlogError> {
        let schema = &planned.table;
        let keys = schema.primary_key.iter().copied().chain(planned.shard_key);
        for index in keys {
            let usable = schema.columns.get(index).is_some_and(|column| !column.generated);
            if !usable {
                let column = schema.columns.get(index);
                return Err(BinlogError::KeyColumn {
                    table: schema.name.clone(),
                    column: column.map_or_else(|| index.to_string(), |column| column.name.clone()),
                });
            }
        }
        Ok(Layout { planned, columns: Vec::new(), sent: 0, keys: 0, version: 0 })
    }

    pub fn table(&self) -> &Arc<TableSchema> {
        &self.planned.table
    }

    pub fn shard_key(&self) -> Option<usize> {
        self.planned.shard_key
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Holds the catalog against what the server logs now.
    pub(super) fn fit(
        &mut self,
        map: &TableMap,
        collations: &Collations,
    ) -> Result<(), BinlogError> {
        let schema = &self.planned.table;
        // Of each unique key that is kept by a hash, behind the table's own columns.
        let hidden = schema.unique_keys.iter().filter(|key| key.hashed).count();
        if map.columns.len() != schema.columns.len() + hidden {
            return Err(BinlogError::ColumnCount {
                table: schema.name.clone(),
                logged: map.columns.len(),
                catalog: schema.columns.len() + hidden,
            });
        }
        let mut columns = Vec::with_capacity(map.columns.len());
        for (index, (column, logged)) in schema.columns.iter().zip(&map.columns).enumerate() {
            let Some(conversion) = Conversion::between(*logged, column.data) else {
                return Err(BinlogError::SchemaMismatch {
                    table: schema.name.clone(),
                    column: column.name.clone(),
                    logged: format!("{} ({})", column::name(logged.code), logged.meta),
                    catalog: column.type_text.clone(),
                });
            };
            let key = schema.primary_key.contains(&index) || self.planned.shard_key == Some(index);
            let sent = !column.generated;
            columns.push(ColumnPlan { extent: logged.extent, conversion, sent, key });
        }
        let hash = DataType::Int { bytes: 8, unsigned: true };
        for logged in &map.columns[schema.columns.len()..] {
            let Some(conversion) = Conversion::between(*logged, hash) else {
                return Err(BinlogError::SchemaMismatch {
                    table: schema.name.clone(),
                    column: "DB_ROW_HASH, of a unique key,".to_owned(),
                    logged: format!("{} ({})", column::name(logged.code), logged.meta),
                    catalog: "bigint".to_owned(),
                });
            };
            let extent = logged.extent;
            columns.push(ColumnPlan { extent, conversion, sent: false, key: false });
        }
        let differs = map.metadata.difference(&map.columns, schema, collations);
        if let Some((column, logged, catalog)) = differs {
            let table = schema.name.clone();
            return Err(BinlogError::SchemaMismatch { table, column, logged, catalog });
        }
        self.columns = columns;
        self.sent = self.columns.iter().filter(|column| column.sent).count();
        self.keys = self.columns.iter().filter(|column| column.key).count();
        self.version += 1;
        Ok(())
    }

    /// Do images of these columns hold all that travels? (Empty: they hold every column.) MariaDB
    /// 11.8 leaves columns that it computes out of the images of UPDATE and DELETE.
    pub(super) fn is_whole(&self, present: &[u8]) -> bool {
        let mut columns = self.columns.iter().enumerate();
        present.is_empty()
            || columns.all(|(index, column)| bit(present, index) || !(column.sent || column.key))
    }

    /// One row image off the front of `input`, which [is whole](Self::is_whole).
    pub(super) fn read(
        &self,
        input: &mut Input<'_>,
        present: &[u8],
        want: Want,
        into: &mut DecodedRow,
    ) -> Result<(), Fault> {
        into.clear();
        into.at.resize(self.columns.len(), ABSENT);
        let all = present.is_empty();
        let count = match all {
            true => self.columns.len(),
            false => (0..self.columns.len()).filter(|&index| bit(present, index)).count(),
        };
        // A bit for each column that is there.
        let nulls = input.take(count.div_ceil(8))?;
        let mut cell = 0;
        let wanted = match want {
            Want::Row => self.sent,
            Want::Keys => self.keys,
        };
        let mut row = RowWriter::new(&mut into.wire, wanted);
        let places = self.columns.iter().zip(&mut into.at);
        for (index, (column, at)) in places.enumerate() {
            if !all && !bit(present, index) {
                continue;
            }
            let wanted = match want {
                Want::Row => column.sent,
                Want::Keys => column.key,
            };
            let null = nulls[cell / 8] & (1 << (cell % 8)) != 0;
            cell += 1;
            if null {
                if wanted {
                    row.null();
                }
                continue;
            }
            let raw = column.extent.take(input)?;
            if wanted {
                *at = row.written() as u32;
                column.conversion.write(raw, &mut row, &mut into.scratch)?;
                // Offsets are 32 bits wide; an image of an event under 1 GiB stays well below,
                // compressed columns alone could pass it.
                if row.written() > ROW_BYTES_MAX {
                    return Err(Fault("a row above 2 GiB"));
                }
            }
        }
        row.finish();
        Ok(())
    }
}

/// The column is NULL, or was not wanted.
const ABSENT: u32 = u32::MAX;

const ROW_BYTES_MAX: usize = 1 << 31;

/// One row image, decoded. Its buffers are kept and used again.
#[derive(Debug, Default)]
pub struct DecodedRow {
    /// Behind room for the head of its message; nothing at all before the first row.
    wire: Vec<u8>,
    /// Per column of the table, where its cell begins in `wire`.
    at: Vec<u32>,
    scratch: Vec<u8>,
}

impl DecodedRow {
    /// Empty, as before the first row.
    pub fn clear(&mut self) {
        self.wire.resize(HEAD_ROOM, 0);
        self.at.clear();
        // One giant row must not hold its memory for ever.
        if self.wire.capacity() > KEPT_MAX {
            self.wire.shrink_to(KEPT_MAX);
        }
        if self.scratch.capacity() > KEPT_MAX {
            self.scratch.clear();
            self.scratch.shrink_to(KEPT_MAX);
        }
    }

    /// The row in the wire form of `modshift_proto::row`, all columns that are not generated. With
    /// [`Want::Keys`], of the key columns only, in table order.
    pub fn wire(&self) -> &[u8] {
        self.wire.get(HEAD_ROOM..).unwrap_or_default()
    }

    /// The same with [`HEAD_ROOM`] in front, for [`modshift_proto::message::encode_around`].
    pub fn roomy(&mut self) -> &mut [u8] {
        &mut self.wire
    }

    /// A cell in wire form by its column's index in the table; none for NULL, and for what was not
    /// wanted.
    #[inline]
    pub fn cell(&self, column: usize) -> Option<&[u8]> {
        let at = *self.at.get(column)?;
        let from = self.wire.get(at as usize..)?;
        first_cell(from).ok()
    }
}

/// Capacity that is kept from row to row.
const KEPT_MAX: usize = 1 << 20;
