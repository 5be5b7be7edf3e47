//! Sequences of the schema: where they stand.

use std::collections::BTreeMap;

use modshift_mariadb::value::quote;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Nothing at or beyond it has been given out.
    pub next: i64,
    pub minimum: i64,
    pub maximum: i64,
    /// 0: `auto_increment_increment` and `auto_increment_offset` of the session.
    pub increment: i64,
    pub cycles: bool,
}

type Row = (i64, i64, i64, i64, bool);

/// Those of the names that the account may read.
pub(super) async fn all(
    conn: &mut Conn,
    names: &[String],
) -> mysql_async::Result<BTreeMap<String, Sequence>> {
    let mut found = BTreeMap::new();
    for name in names {
        let sql = format!(
            "SELECT next_not_cached_value, minimum_value, maximum_value, increment, cycle_option \
             FROM {}",
            quote(name)
        );
        let row: mysql_async::Result<Option<Row>> = conn.query_first(sql).await;
        if let Some((next, minimum, maximum, increment, cycles)) = if_allowed(row)?.flatten() {
            found.insert(name.clone(), Sequence { next, minimum, maximum, increment, cycles });
        }
    }
    Ok(found)
}
