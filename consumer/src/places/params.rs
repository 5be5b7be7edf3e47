//! Cells of the wire form as parameters of the statements.

use modshift_mariadb::Value;
use modshift_mariadb::value::{ValueError, cell_to_value};
use modshift_proto::row::{RowError, RowView};
use modshift_proto::{DataType, OldShard};

use crate::sql::Holder;
use crate::target::TargetTable;

/// Parameters of a whole row, and of its owner where the statement asks for it.
pub(super) fn row_params(
    table: &TargetTable,
    row: &[u8],
    owner: Option<OldShard>,
) -> Result<Vec<Value>, ValueError> {
    let mut values = Vec::with_capacity(table.sent.len() + 1);
    let mut columns = table.sent.iter();
    for cell in RowView::parse(row)?.cells() {
        let &column = columns.next().ok_or(TOO_MANY_CELLS)?;
        let (column, cell) = (&table.schema.columns[column], cell?);
        // Of some columns a server makes the present time of it, or a default.
        if cell.is_none() && !column.nullable {
            return Err(ValueError::Null { column: column.name.clone() });
        }
        values.push(cell_to_value(column.data, cell)?);
    }
    if columns.next().is_some() {
        return Err(TOO_MANY_CELLS.into());
    }
    if table.is_sharded()
        && let Some(owner) = owner
    {
        values.push(Value::UInt(u64::from(owner.0)));
    }
    Ok(values)
}

/// A value to compare a column with. The server compares a FLOAT as the double it widens to, and
/// takes a float parameter for the double that its digits say.
pub(super) fn to_compare(data: DataType, cell: Option<&[u8]>) -> Result<Value, ValueError> {
    Ok(match cell_to_value(data, cell)? {
        Value::Float(value) => Value::Double(f64::from(value)),
        value => value,
    })
}

const TOO_MANY_CELLS: RowError = RowError("the number of cells is not that of the columns");

/// Parameters of the guarded delete.
pub(super) fn key_params(
    table: &TargetTable,
    key: &[u8],
    source: OldShard,
) -> Result<Vec<Value>, ValueError> {
    let mut cells = Vec::with_capacity(table.schema.primary_key.len());
    RowView::parse(key)?.collect(table.schema.primary_key.len(), &mut cells)?;
    let mut values = Vec::with_capacity(table.sql.key_params.len() + 1);
    for &part in &table.sql.key_params {
        let column = table.schema.primary_key[part];
        values.push(to_compare(table.schema.columns[column].data, cells[part])?);
    }
    if table.is_sharded() {
        values.push(Value::UInt(u64::from(source.0)));
    }
    Ok(values)
}

/// Values of a row for a unique key, in the order of the query for its holder.
pub(super) fn place_params(
    table: &TargetTable,
    place: &Holder,
    row: &[u8],
) -> Result<Vec<Value>, ValueError> {
    let mut cells = Vec::new();
    RowView::parse(row)?.collect(table.sent.len(), &mut cells)?;
    place
        .params
        .iter()
        .map(|&column| {
            let cell = table.sent.iter().position(|&sent| sent == column);
            let cell = cell.and_then(|at| cells[at]);
            to_compare(table.schema.columns[column].data, cell)
        })
        .collect()
}
