//! A row event: one kind of change to some rows of one table.

use std::borrow::Cow;
use std::sync::Arc;

use super::code;
use super::compress;
use super::error::BinlogError;
use super::input::{Fault, Input};
use super::row::{DecodedRow, Layout, Want};
use super::table_map::{TableMap, TableName};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKind {
    Insert,
    Update,
    Delete,
}

impl RowKind {
    pub fn name(self) -> &'static str {
        match self {
            RowKind::Insert => "insert",
            RowKind::Update => "update",
            RowKind::Delete => "delete",
        }
    }
}

/// Whose rows an event holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableRef {
    /// Index among the tables that the decoder was given.
    Planned(usize),
    Other(Arc<TableName>),
}

/// What the decoder remembers of a table id.
#[derive(Debug)]
pub(super) struct Mapped {
    /// The TABLE_MAP event after the table id: while it stays the same, nothing has changed.
    pub body: Vec<u8>,
    pub map: TableMap,
    pub planned: Option<usize>,
    /// The layout's version that fits `body`.
    pub version: u64,
}

/// Rows of one table. Reads row by row, or counts them for a table that nobody knows.
#[derive(Debug)]
pub struct RowsEvent<'a> {
    pub table: TableRef,
    pub kind: RowKind,
    /// Written with `skip_replication=1`.
    pub skip_replication: bool,
    /// The last row event of its statement.
    pub statement_end: bool,
    mapped: Arc<Mapped>,
    code: u8,
    /// Which columns the images hold; before and, for updates, after. Empty: all of them.
    present: [Cow<'a, [u8]>; 2],
    data: Cow<'a, [u8]>,
    at: usize,
}

/// The parts of a row event's body up to its rows.
pub(super) struct RowsHead<'a> {
    pub table_id: u64,
    rest: Input<'a>,
    statement_end: bool,
}

/// Flag of row events: end of statement.
const STMT_END_F: u64 = 1;

impl<'a> RowsHead<'a> {
    pub fn parse(code: u8, body: &'a [u8]) -> Result<RowsHead<'a>, Fault> {
        let mut input = Input::new(body);
        let table_id = input.le(6)?;
        let flags = input.le(2)?;
        if second_version(code) {
            // Extra data; its length counts itself.
            let extra = (input.le(2)? as usize).checked_sub(2).ok_or(Fault("bad extra length"))?;
            input.take(extra)?;
        }
        Ok(RowsHead { table_id, rest: input, statement_end: flags & STMT_END_F != 0 })
    }

    pub fn with(
        mut self,
        code: u8,
        skip_replication: bool,
        mapped: Arc<Mapped>,
    ) -> Result<RowsEvent<'a>, BinlogError> {
        let kind = kind(code);
        let columns = mapped.map.columns.len();
        let parts = (|| {
            if self.rest.lenenc()? != columns {
                return Err(Fault("number of columns is not that of the table map"));
            }
            let bitmap = columns.div_ceil(8);
            let before = self.rest.take(bitmap)?;
            let after = if kind == RowKind::Update { self.rest.take(bitmap)? } else { before };
            let data = if compressed(code) {
                let mut data = Vec::new();
                compress::event(self.rest.rest(), &mut data)?;
                Cow::Owned(data)
            } else {
                Cow::Borrowed(self.rest.rest())
            };
            Ok((before, after, data))
        })();
        let (before, after, data) = parts.map_err(|fault| BinlogError::malformed(code, fault))?;
        let complete = all_set(before, columns) && all_set(after, columns);
        let present = match complete {
            true => [Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..])],
            false => [Cow::Borrowed(before), Cow::Borrowed(after)],
        };
        let statement_end = self.statement_end;
        let table = match mapped.planned {
            Some(index) => TableRef::Planned(index),
            None => TableRef::Other(mapped.map.name.clone()),
        };
        Ok(RowsEvent {
            table,
            kind,
            skip_replication,
            statement_end,
            mapped,
            code,
            present,
            data,
            at: 0,
        })
    }
}

fn second_version(code: u8) -> bool {
    matches!(
        code,
        code::WRITE_ROWS_V2..=code::DELETE_ROWS_V2
            | code::WRITE_ROWS_COMPRESSED_V2..=code::DELETE_ROWS_COMPRESSED_V2
    )
}

fn compressed(code: u8) -> bool {
    (code::WRITE_ROWS_COMPRESSED_V1..=code::DELETE_ROWS_COMPRESSED_V2).contains(&code)
}

fn kind(code: u8) -> RowKind {
    match code {
        code::WRITE_ROWS_V1
        | code::WRITE_ROWS_V2
        | code::WRITE_ROWS_COMPRESSED_V1
        | code::WRITE_ROWS_COMPRESSED_V2 => RowKind::Insert,
        code::UPDATE_ROWS_V1
        | code::UPDATE_ROWS_V2
        | code::UPDATE_ROWS_COMPRESSED_V1
        | code::UPDATE_ROWS_COMPRESSED_V2 => RowKind::Update,
        _ => RowKind::Delete,
    }
}

pub(super) fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}

fn all_set(bitmap: &[u8], bits: usize) -> bool {
    let (whole, last) = bitmap.split_at_checked(bits / 8).unwrap_or((bitmap, &[]));
    whole.iter().all(|&byte| byte == 0xff) && (bits / 8 * 8..bits).all(|i| bit(last, i % 8))
}

impl RowsEvent<'_> {
    pub fn name(&self) -> &TableName {
        &self.mapped.map.name
    }

    pub(super) fn name_arc(&self) -> &Arc<TableName> {
        &self.mapped.map.name
    }

    /// The row images as the server logged them, after decompression.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn present(&self) -> [&[u8]; 2] {
        [&self.present[0], &self.present[1]]
    }

    /// The next row: images that the kind of change lacks are left empty. False after the last.
    pub fn read_row(
        &mut self,
        layout: &Layout,
        want_before: Want,
        before: &mut DecodedRow,
        want_after: Want,
        after: &mut DecodedRow,
    ) -> Result<bool, BinlogError> {
        if layout.version() != self.mapped.version || self.mapped.planned.is_none() {
            return Err(BinlogError::WrongLayout { table: self.mapped.map.name.to_string() });
        }
        let rest = self.data.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        let [of_before, of_after] = self.present();
        let mut input = Input::new(rest);
        let result = (|| {
            match self.kind {
                RowKind::Insert => before.clear(),
                _ => layout.read(&mut input, of_before, want_before, before)?,
            }
            match self.kind {
                RowKind::Delete => after.clear(),
                _ => layout.read(&mut input, of_after, want_after, after)?,
            }
            Ok(())
        })();
        let left = input.rest().len();
        result.map_err(|fault| self.fault(fault))?;
        self.at = self.data.len() - left;
        Ok(true)
    }

    /// How many rows are left to read, by their cells' lengths alone.
    pub fn count_rows(&self) -> Result<u32, BinlogError> {
        let mut input = Input::new(self.data.get(self.at..).unwrap_or_default());
        let mut rows = 0u32;
        while !input.is_empty() {
            let left = input.rest().len();
            self.skip_image(&mut input, &self.present[0]).map_err(|fault| self.fault(fault))?;
            if self.kind == RowKind::Update {
                self.skip_image(&mut input, &self.present[1]).map_err(|fault| self.fault(fault))?;
            }
            if input.rest().len() == left {
                return Err(self.fault(Fault("rows without columns")));
            }
            rows = rows.checked_add(1).ok_or_else(|| self.fault(Fault("too many rows")))?;
        }
        Ok(rows)
    }

    /// The NULL bitmap has a bit for each column that is present.
    fn skip_image(&self, input: &mut Input<'_>, present: &[u8]) -> Result<(), Fault> {
        let columns = &self.mapped.map.columns;
        let is_present = |index: usize| present.is_empty() || bit(present, index);
        let count = match present.is_empty() {
            true => columns.len(),
            false => (0..columns.len()).filter(|&index| is_present(index)).count(),
        };
        let nulls = input.take(count.div_ceil(8))?;
        let mut cell = 0;
        for (index, column) in columns.iter().enumerate() {
            if is_present(index) {
                if !bit(nulls, cell) {
                    column.extent.take(input)?;
                }
                cell += 1;
            }
        }
        Ok(())
    }

    fn fault(&self, fault: Fault) -> BinlogError {
        let table = self.mapped.map.name.to_string();
        BinlogError::MalformedRow { table, event: code::name(self.code), what: fault.0 }
    }
}
