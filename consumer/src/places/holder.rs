//! Who holds a place that a row cannot take, and the images of the rows that wait for one.

use modshift_mariadb::control::{PARKED, skip};
use modshift_mariadb::value::value_to_cell;
use modshift_mariadb::{Conn, ServerError, Value, error};
use modshift_proto::row::RowWriter;
use modshift_proto::{NewShard, OldShard};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::params::place_params;
use crate::error::ApplyError;
use crate::parked::ParkedRow;
use crate::sql::Holder;
use crate::target::{Target, TargetTable};

/// A row that holds a place.
pub(super) struct Found {
    pub owner: OldShard,
    /// Its primary key, wire form, where it has one.
    pub key: Option<Box<[u8]>>,
}

/// Which row holds a place. All rows of a broadcast table come from one old shard.
pub(super) async fn look(
    conn: &mut Conn,
    at: &str,
    table: &TargetTable,
    place: &Holder,
    values: Vec<Value>,
    feeder: OldShard,
) -> Result<Option<Found>, ServerError> {
    let row: Option<Row> = conn
        .exec_first(place.select.as_str(), values)
        .await
        .map_err(|error| error::of(at, "looking for who holds a place", error))?;
    Ok(row.map(|row| {
        let owner = row.get_opt::<Option<u16>, _>(0).and_then(Result::ok).flatten();
        Found { owner: owner.map_or(feeder, OldShard), key: key(table, &row) }
    }))
}

/// The primary key behind the owner.
fn key(table: &TargetTable, row: &Row) -> Option<Box<[u8]>> {
    let columns = &table.schema.primary_key;
    let mut wire = Vec::new();
    let mut cells = RowWriter::new(&mut wire, columns.len());
    for (at, &column) in (1..).zip(columns) {
        value_to_cell(table.schema.columns[column].data, row.as_ref(at)?, &mut cells).ok()?;
    }
    cells.finish();
    Some(wire.into_boxed_slice())
}

/// Has an operator sent this old shard's reader past a group, and nobody proven since that its rows are
/// equal here?
pub async fn was_sent_past(conn: &mut Conn, at: &str, old: OldShard) -> Result<bool, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let asked: Result<Option<u8>, _> = conn.query_first(skip::sent_past(old)).await;
    match asked.map_err(|error| error::of(at, "asking what was passed over", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(false),
        asked => Ok(asked?.is_some()),
    }
}

/// The first unique key of a parked row that another row holds, and whose that row is.
pub async fn holder_of(
    conn: &mut Conn,
    at: &str,
    target: &Target,
    parked: &ParkedRow,
    image: &[u8],
) -> Result<Option<(String, OldShard)>, ApplyError> {
    let table = target.table(parked.table);
    for place in &table.sql.holders {
        let values = place_params(table, place, image).map_err(|error| ApplyError::Value {
            new: target.shard,
            table: table.schema.name.clone(),
            error,
        })?;
        if let Some(found) = look(conn, at, table, place, values, parked.source).await? {
            return Ok(Some((place.key.clone(), found.owner)));
        }
    }
    Ok(None)
}

/// The stored image of a parked row.
pub async fn image(
    conn: &mut Conn,
    at: &str,
    shard: NewShard,
    parked: &ParkedRow,
) -> Result<Vec<u8>, ApplyError> {
    let image: Option<Vec<u8>> = conn
        .exec_first(format!("SELECT image FROM {PARKED} WHERE id = ?"), (parked.id,))
        .await
        .map_err(|error| error::of(at, "reading a parked row", error))?;
    image.ok_or_else(|| ApplyError::Control {
        new: shard,
        table: PARKED,
        detail: format!("row {} is gone", parked.id),
    })
}
