//! Rows that the server would not store as they are under strict rules, although it once did.
//!
//! An old row may hold what only a session without strict mode can write: the error value of an ENUM
//! (number 0), or values from which a generated column gets what is out of its range. It is written
//! without strict mode, where the server changes what it does not like instead of refusing it; so
//! each such row is read again and compared with what was to be written, byte for byte. The same
//! is done for every statement that ended with a warning.

use std::collections::HashMap;

use modshift_mariadb::value::{self, quote, same_value, select_expr, value_to_cell};
use modshift_mariadb::{ServerError, Value, error};
use modshift_proto::message::Op;
use modshift_proto::row::{RowView, RowWriter, cell_uint};
use modshift_proto::{Column, DataType};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::SqlPlaces;
use crate::batch::RowChange;
use crate::error::ApplyError;
use crate::target::TargetTable;

/// Whatever else the session's mode says stays.
const LENIENT: &str = "SET @modshift_sql_mode = @@sql_mode, sql_mode = \
     REPLACE(REPLACE(@@sql_mode, 'STRICT_ALL_TABLES', ''), 'STRICT_TRANS_TABLES', '')";
const STRICT: &str = "SET sql_mode = @modshift_sql_mode";
/// In one condition: the server plans a range for each.
const KEYS_PER_QUERY: usize = 200;

/// Has the row what strict mode refuses in every case? Found without asking the server, so that a
/// table full of such rows is still written in bulk.
pub(super) fn needs_lenience(table: &TargetTable, row: &RowChange<'_>) -> bool {
    if row.op == Op::Delete || table.enum_cells.is_empty() {
        return false;
    }
    let Ok(view) = RowView::parse(row.row) else { return false };
    let mut wanted = table.enum_cells.iter().peekable();
    for (place, cell) in view.cells().enumerate() {
        if wanted.next_if(|&&enum_cell| enum_cell == place).is_none() {
            continue;
        }
        if let Ok(Some(cell)) = cell
            && cell_uint(cell) == Ok(0)
        {
            return true;
        }
    }
    false
}

impl SqlPlaces<'_> {
    /// Runs the statement without strict mode. Afterwards the session is as it was, or lost.
    pub(super) async fn run_leniently(
        &mut self,
        sql: &str,
        doing: &'static str,
        params: Vec<Vec<Value>>,
    ) -> Result<(), ServerError> {
        let of = |error| error::of(self.at, doing, error);
        self.conn.query_drop(LENIENT).await.map_err(of)?;
        let result = self.run(sql, doing, params).await;
        if let Err(error) = self.conn.query_drop(STRICT).await {
            // Nobody may write with it any more.
            let detail = error::of(self.at, doing, error).to_string();
            return Err(ServerError::Lost { at: self.at.to_owned(), doing, detail });
        }
        result
    }

    /// Are the rows in the table what they were to be?
    pub(super) async fn are_stored(&mut self, rows: &[RowChange<'_>]) -> Result<bool, ApplyError> {
        for some in rows.chunks(KEYS_PER_QUERY) {
            if !self.are_some_stored(some).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn are_some_stored(&mut self, rows: &[RowChange<'_>]) -> Result<bool, ApplyError> {
        const DOING: &str = "reading rows again";
        let target = self.target;
        let (number, table) = (rows[0].table, target.table(rows[0].table));
        let schema = &table.schema;
        let value_error = |error| self.value_error(number, error);
        let keys: Vec<&Column> = schema.primary_key.iter().map(|&i| &schema.columns[i]).collect();
        let mut terms = Vec::with_capacity(rows.len());
        let mut cells = Vec::new();
        for row in rows {
            RowView::parse(row.key)
                .and_then(|view| view.collect(keys.len(), &mut cells))
                .map_err(|error| value_error(error.into()))?;
            let key: Vec<Vec<u8>> =
                cells.iter().map(|cell| cell.unwrap_or_default().to_vec()).collect();
            terms.push(value::key_equal(&keys, &key).map_err(value_error)?);
        }
        let columns: Vec<&Column> = table.sent.iter().map(|&i| &schema.columns[i]).collect();
        let select: Vec<String> = columns.iter().map(|column| select_expr(column)).collect();
        let sql = format!(
            "SELECT {} FROM {} FORCE INDEX (PRIMARY) WHERE {}",
            select.join(", "),
            quote(&schema.name),
            terms.join(" OR ")
        );
        // The binary protocol, but no statement for the driver to keep.
        let read = async {
            let statement = self.conn.prep(sql).await?;
            let rows: Vec<Row> = self.conn.exec(&statement, ()).await?;
            self.conn.close(statement).await?;
            Ok(rows)
        };
        let found: Vec<Row> =
            read.await.map_err(|error| self.failed(table, error::of(self.at, DOING, error)))?;
        let mut stored: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for row in found {
            let mut wire = Vec::new();
            let mut writer = RowWriter::new(&mut wire, columns.len());
            for (place, column) in columns.iter().enumerate() {
                let value = row.as_ref(place).unwrap_or(&Value::NULL);
                value_to_cell(column.data, value, &mut writer)
                    .map_err(|error| self.value_error(number, error))?;
            }
            writer.finish();
            if let Some(key) = key_of(table, &wire) {
                stored.insert(key, wire);
            }
        }
        let is_there = |row: &RowChange<'_>| {
            stored.get(row.key).is_some_and(|wire| are_same(&columns, wire, row.row))
        };
        Ok(rows.iter().all(is_there))
    }
}

/// The wire form of a row's primary key.
fn key_of(table: &TargetTable, row: &[u8]) -> Option<Vec<u8>> {
    let mut cells = Vec::new();
    RowView::parse(row).and_then(|view| view.collect(table.sent.len(), &mut cells)).ok()?;
    let mut key = Vec::new();
    let mut writer = RowWriter::new(&mut key, table.key_cells.len());
    for &cell in &table.key_cells {
        writer.bytes(cells[cell]?);
    }
    writer.finish();
    Some(key)
}

fn are_same(columns: &[&Column], one: &[u8], two: &[u8]) -> bool {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let read = RowView::parse(one)
        .and_then(|view| view.collect(columns.len(), &mut ours))
        .and_then(|()| RowView::parse(two)?.collect(columns.len(), &mut theirs));
    read.is_ok()
        && columns
            .iter()
            .zip(ours.iter().zip(&theirs))
            .all(|(column, (ours, theirs))| same_value(column.data, *ours, *theirs))
}

/// Places of the ENUM columns among the cells of a row.
pub fn enum_cells(columns: &[Column], sent: &[usize]) -> Vec<usize> {
    let is_enum = |(_, column): &(usize, &usize)| columns[**column].data == DataType::Enum;
    sent.iter().enumerate().filter(is_enum).map(|(place, _)| place).collect()
}
