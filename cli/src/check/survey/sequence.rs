//! Sequences of the schema: where they stand.

use std::collections::BTreeMap;

use modshift_cutover::sequences::{self, Sequence};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

/// Those of the names that the account may read.
pub(super) async fn all(
    conn: &mut Conn,
    names: &[String],
) -> mysql_async::Result<BTreeMap<String, Sequence>> {
    let mut found = BTreeMap::new();
    for name in names {
        let row: mysql_async::Result<Option<String>> =
            conn.query_first(sequences::select(name)).await;
        let row = if_allowed(row)?.flatten();
        if let Some(sequence) = row.and_then(|row| sequences::parse(&row)) {
            found.insert(name.clone(), sequence);
        }
    }
    Ok(found)
}
