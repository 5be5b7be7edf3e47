//! What is asked for in `modshift_repair` and `modshift_resync`, and what is written down there of it.

use std::sync::Arc;

use modshift_mariadb::{Desk, control, value};
use modshift_proto::NewShard;
use modshift_proto::plan::Endpoint;
use modshift_proto::row::{RowError, RowView};
use mysql_async::Conn;
use mysql_async::prelude::{FromRow, Queryable};

use super::range::{Copied, Range};
use super::{Refused, Request};
use crate::epoch::key_cells;
use crate::error::{ReadError, server_error};
use crate::route::{Moduli, RoutedTable, Target};

/// Keys of one look, and their bytes.
const KEYS_MAX: usize = 2000;
const KEYS_BYTES_MAX: usize = 1 << 20;
const NO_SUCH_TABLE: u16 = 1146;

/// Where requests stand, and by what they are understood.
#[derive(Clone)]
pub(super) struct Book {
    pub primary: Endpoint,
    pub desk: Desk,
    pub moduli: Moduli,
    pub tables: Arc<Vec<RoutedTable>>,
    pub epoch: u64,
}

/// To be written down.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub sent: Vec<u64>,
    pub refused: Vec<u64>,
    pub ranges_refused: Vec<Refused>,
    pub copied: Option<Copied>,
}

impl Marks {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
            && self.refused.is_empty()
            && self.ranges_refused.is_empty()
            && self.copied.is_none()
    }

    /// How many are refused by these.
    pub(super) fn refusals(&self) -> u64 {
        (self.refused.len() + self.ranges_refused.len()) as u64
    }
}

#[derive(Debug, Default)]
pub(super) struct Asked {
    pub keys: Vec<Request>,
    pub refused: Vec<Refused>,
    pub range: Option<Range>,
    pub range_refused: Option<Refused>,
}

impl Book {
    fn table(&self, name: &str) -> String {
        format!("{}.{name}", value::quote(&self.primary.schema))
    }

    /// Writes down what has become of requests.
    pub(super) async fn mark(&self, marks: &Marks) -> Result<(), ReadError> {
        let doing = "marking repairs as done";
        let mut conn = self.desk.turn(&self.primary).await?;
        let failed = |error| server_error(&self.primary, doing, error);
        let states =
            [(&marks.sent, control::REPAIR_SENT), (&marks.refused, control::REPAIR_REFUSED)];
        for (ids, state) in states.into_iter().filter(|(ids, _)| !ids.is_empty()) {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            let (table, ids) = (self.table(control::REPAIR), ids.join(", "));
            let sql = format!("UPDATE {table} SET sent = {state} WHERE id IN ({ids})");
            conn.query_drop(sql).await.map_err(failed)?;
        }
        let ranges = self.table(control::RESYNC);
        for Refused { id, why } in &marks.ranges_refused {
            let state = control::RESYNC_REFUSED;
            let sql = format!("UPDATE {ranges} SET state = {state}, why = ? WHERE id = {id}");
            conn.exec_drop(sql, (why,)).await.map_err(failed)?;
        }
        if let Some(copied) = &marks.copied {
            let (id, rows) = (copied.id, copied.rows);
            let state = if copied.done { control::RESYNC_COPIED } else { control::RESYNC_WAITS };
            // What was acknowledged before this still finds the epoch in force precedes the marker of
            // any later one.
            let (token, epoch) = (self.table(control::TOKEN), self.epoch);
            let sql = format!(
                "UPDATE {ranges} SET copied_to = ?, rows_copied = {rows}, state = {state} \
                 WHERE id = {id} AND state = {} \
                 AND EXISTS (SELECT 1 FROM {token} t WHERE t.id = 1 AND t.epoch = {epoch})",
                control::RESYNC_WAITS
            );
            conn.exec_drop(sql, (copied.to.clone(),)).await.map_err(failed)?;
        }
        conn.done();
        Ok(())
    }

    pub(super) async fn ask(&self) -> Result<Asked, ReadError> {
        let mut conn = self.desk.turn(&self.primary).await?;
        let mut asked = Asked::default();
        let sql = format!(
            "SELECT id, table_name, target, pk FROM {} WHERE sent = {} ORDER BY id LIMIT {KEYS_MAX}",
            self.table(control::REPAIR),
            control::REPAIR_WAITS
        );
        let mut bytes = 0;
        let rows: Vec<(u64, String, u16, Vec<u8>)> = self.rows(&mut conn, sql).await?;
        for (id, table, target, key) in rows {
            bytes += key.len();
            if bytes > KEYS_BYTES_MAX && !asked.keys.is_empty() {
                break;
            }
            match self.request(id, &table, target, key) {
                Ok(request) => asked.keys.push(request),
                Err(why) => asked.refused.push(Refused { id, why }),
            }
        }
        let sql = format!(
            "SELECT id, table_name, key_from, key_to, copied_to, rows_copied FROM {} \
             WHERE state = {} ORDER BY id LIMIT 1",
            self.table(control::RESYNC),
            control::RESYNC_WAITS
        );
        type Key = Option<Vec<u8>>;
        let rows: Vec<(u64, String, Key, Key, Key, u64)> = self.rows(&mut conn, sql).await?;
        conn.done();
        if let Some((id, table, from, to, copied_to, rows_copied)) = rows.into_iter().next() {
            match self.range(&table, [from, to, copied_to]) {
                Ok((table, [from, to, copied_to])) => {
                    asked.range = Some(Range { id, table, from, to, copied_to, rows_copied });
                }
                Err(why) => asked.range_refused = Some(Refused { id, why }),
            }
        }
        Ok(asked)
    }

    /// None where nobody has ever asked for any.
    async fn rows<T>(&self, conn: &mut Conn, sql: String) -> Result<Vec<T>, ReadError>
    where
        T: FromRow + Send + 'static,
    {
        match conn.query(sql).await {
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => Ok(Vec::new()),
            rows => rows
                .map_err(|error| server_error(&self.primary, "looking for repairs", error).into()),
        }
    }

    fn number(&self, name: &str) -> Result<usize, String> {
        let table = self.tables.iter().position(|table| table.schema.name == name);
        table.ok_or_else(|| format!("the plan has no table {name}"))
    }

    /// A request as it stands in its table; the error is why it can never be served.
    fn request(&self, id: u64, name: &str, target: u16, key: Vec<u8>) -> Result<Request, String> {
        let table = self.number(name)?;
        if target >= self.moduli.new.get() {
            return Err(format!("the plan has no shard {target} to send it to"));
        }
        let cells = cells(&self.tables[table], &key)
            .map_err(|error| format!("its key of table {name} cannot be read: {error}"))?;
        Ok(Request { id, table, target: NewShard(target), key, cells })
    }

    #[allow(clippy::type_complexity, reason = "from, to, and how far it is")]
    fn range(
        &self,
        name: &str,
        keys: [Option<Vec<u8>>; 3],
    ) -> Result<(usize, [Option<Vec<Vec<u8>>>; 3]), String> {
        let table = self.number(name)?;
        if matches!(self.tables[table].target, Target::Nowhere) {
            return Err(format!("table {name} is not sent from this shard"));
        }
        let mut parsed = [None, None, None];
        for (cells, key) in parsed.iter_mut().zip(keys) {
            *cells = key
                .map(|key| key_cells(&key))
                .transpose()
                .map_err(|error| format!("a key of table {name} in it cannot be read: {error}"))?;
        }
        Ok((table, parsed))
    }
}

/// The cells of a primary key in wire form.
fn cells(table: &RoutedTable, key: &[u8]) -> Result<Vec<Vec<u8>>, RowError> {
    let mut cells = Vec::new();
    RowView::parse(key)?.collect(table.schema.primary_key.len(), &mut cells)?;
    let owned = cells.into_iter().map(|cell| cell.map(<[u8]>::to_vec));
    owned.collect::<Option<_>>().ok_or(RowError("NULL in a primary key"))
}
