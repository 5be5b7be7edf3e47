//! A part of a table's rows, read at places spread evenly over its primary key.
//!
//! That takes a key that begins with an integer. Tables with another are counted in full: what a
//! few pages of theirs would say of the rest nobody knows.

use modshift_mariadb::Conn;
use modshift_mariadb::value::quote;
use modshift_proto::schema::DataType;
use mysql_async::prelude::Queryable;

use super::matrix::Sharded;

/// Places in the table; the more, the less a cluster of keys decides.
const PLACES: i128 = 64;

/// Shard under the old modulus, shard under the new one, rows.
pub type Group = (u16, u16, u64);

/// Groups of about `wanted` rows, and whether that is only a part.
pub async fn groups(
    conn: &mut Conn,
    table: &Sharded<'_>,
    old: &str,
    new: &str,
    wanted: u64,
) -> mysql_async::Result<(Vec<Group>, bool)> {
    let name = quote(table.name);
    let first = table.schema.primary_key.first().map(|&index| &table.schema.columns[index]);
    let key = first.filter(|column| matches!(column.data, DataType::Int { .. }));
    let bounds = match key {
        None => None,
        Some(column) => {
            let key = quote(&column.name);
            let sql =
                format!("SELECT CAST(MIN({key}) AS CHAR), CAST(MAX({key}) AS CHAR) FROM {name}");
            let row: Option<(Option<String>, Option<String>)> = conn.query_first(sql).await?;
            let (low, high) = row.unwrap_or_default();
            let number = |text: Option<String>| text?.parse::<i128>().ok();
            number(low).zip(number(high)).map(|(low, high)| (key, low, high))
        }
    };
    let Some((key, low, high)) = bounds else {
        let sql = format!("SELECT {old}, {new}, COUNT(*) FROM {name} GROUP BY 1, 2");
        return Ok((conn.query(sql).await?, false));
    };
    let each = (wanted / PLACES as u64).max(1);
    let mut found: Vec<Group> = Vec::new();
    let mut previous = None;
    for place in 0..PLACES {
        let from = low + (high - low) * place / PLACES;
        // Where keys lie close the pages of two places could overlap.
        let until = low + (high - low) * (place + 1) / PLACES;
        if previous == Some(from) {
            continue;
        }
        previous = Some(from);
        let end = if place + 1 == PLACES { "<=" } else { "<" };
        let sql = format!(
            "SELECT o, n, COUNT(*) FROM (SELECT {old} AS o, {new} AS n FROM {name} \
             WHERE {key} >= {from} AND {key} {end} {until} ORDER BY {key} LIMIT {each}) page \
             GROUP BY 1, 2"
        );
        let groups: Vec<Group> = conn.query(sql).await?;
        found.extend(groups);
    }
    Ok((found, true))
}
