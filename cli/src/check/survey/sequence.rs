//! Sequences of the schema: where they stand.

use std::collections::BTreeMap;

use modshift_cutover::sequences::{self, Sequence};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

/// Those of the names that the account may read; and of those that a run could not read, what they say.
pub(super) async fn all(
    conn: &mut Conn,
    names: &[String],
) -> mysql_async::Result<(BTreeMap<String, Sequence>, BTreeMap<String, String>)> {
    let (mut found, mut unknown) = (BTreeMap::new(), BTreeMap::new());
    for name in names {
        let row: mysql_async::Result<Option<String>> =
            conn.query_first(sequences::select(name)).await;
        let Some(row) = if_allowed(row)?.flatten() else { continue };
        match sequences::parse(&row) {
            Some(sequence) => drop(found.insert(name.clone(), sequence)),
            None => drop(unknown.insert(name.clone(), row)),
        }
    }
    Ok((found, unknown))
}
