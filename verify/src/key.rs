//! Primary keys: from what a server gives to wire form, back to cells, and to words for a person.

use modshift_mariadb::Value;
use modshift_mariadb::value::{ValueError, canonical_text, value_to_cell};
use modshift_proto::row::{RowError, RowView, RowWriter};
use modshift_proto::{Column, TableSchema};
use mysql_async::Row;

/// Columns of the primary key, in key order.
pub fn columns(schema: &TableSchema) -> Vec<&Column> {
    schema.primary_key.iter().map(|&index| &schema.columns[index]).collect()
}

/// The wire form of the key whose values are the first ones of a row.
pub fn of_row(schema: &TableSchema, row: &Row) -> Result<Vec<u8>, ValueError> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, schema.primary_key.len());
    for (place, column) in columns(schema).into_iter().enumerate() {
        value_to_cell(column.data, row.as_ref(place).unwrap_or(&Value::NULL), &mut writer)?;
    }
    writer.finish();
    Ok(wire)
}

/// The cells of a key in wire form.
pub fn cells(schema: &TableSchema, wire: &[u8]) -> Result<Vec<Vec<u8>>, RowError> {
    let mut cells = Vec::with_capacity(schema.primary_key.len());
    RowView::parse(wire)?.collect(schema.primary_key.len(), &mut cells)?;
    cells
        .into_iter()
        .map(|cell| Ok(cell.ok_or(RowError("NULL in a primary key"))?.to_vec()))
        .collect()
}

/// The wire form of a key's cells.
pub fn wire(cells: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, cells.len());
    cells.iter().for_each(|cell| writer.bytes(cell));
    writer.finish();
    wire
}

/// `id=7, name=x`, for a report.
pub fn shown(schema: &TableSchema, wire: &[u8]) -> String {
    let Ok(cells) = cells(schema, wire) else { return "(not readable)".to_owned() };
    let part = |(column, cell): (&Column, &Vec<u8>)| {
        format!("{}={}", column.name, canonical_text(column, cell))
    };
    columns(schema).into_iter().zip(&cells).map(part).collect::<Vec<_>>().join(", ")
}
