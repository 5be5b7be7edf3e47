//! Parked rows of the new shard: read when its applier begins, counted after each batch, and called
//! true duplicates, or rows that cannot be stored, when they have waited their time.

use std::sync::Arc;

use modshift_mariadb::control::PARKED;
use modshift_mariadb::{Conn, error};
use modshift_proto::OldShard;
use mysql_async::prelude::Queryable;
use tracing::warn;

use super::Keeper;
use crate::error::{ApplyError, Duplicate, Refused};
use crate::parked::{Parked, ParkedRow, Waits, another_row_of};
use crate::places::{image, was_sent_past};
use crate::render;
use crate::target::Target;

impl Keeper {
    /// There were `before`. What makes them fewer, or leaves them, is applied however many there are: it
    /// comes by no other way than this.
    pub(super) fn check_parked_count(&self, before: usize) -> Result<(), ApplyError> {
        let (parked, limit) = (self.parked.len(), self.parked_rows_max);
        if parked <= limit || parked <= before {
            return Ok(());
        }
        Err(ApplyError::TooManyParked { new: self.shard, parked, limit })
    }

    /// A parked row that every other stream has had time to make room for is a true duplicate.
    pub(super) async fn check_overdue(&mut self) -> Result<(), ApplyError> {
        if self.parked.is_empty() {
            return Ok(());
        }
        // 0: a source of which no token has been applied yet.
        let clock_us = self.clocks.iter().copied().min().unwrap_or_default();
        if clock_us == 0 {
            return Ok(());
        }
        self.parked.begin_waiting(clock_us);
        let overdue = self.parked.overdue(clock_us, self.parked_age_us);
        let Some(row) = overdue else { return Ok(()) };
        let row = row.clone();
        let target = Arc::clone(&self.target);
        let table = target.table(row.table);
        let waited_s = (clock_us - row.clock_us) / 1_000_000;
        let values = render::key(&table.schema, &row.key);
        if row.is_refused() {
            return Err(ApplyError::Refused(Box::new(Refused {
                new: self.shard,
                table: table.schema.name.clone(),
                columns: table.key_names(),
                old: row.source,
                why: row.blocked_by,
                waited_s,
                values,
            })));
        }
        let Some(Blocked { key, holder, owner }) = self.blocked_now(&row).await else {
            // By hand, perhaps: no change came.
            self.parked.try_again(&row, clock_us);
            return Ok(());
        };
        let why = if holder == row.source.to_string() || holder == another_row_of(row.source) {
            // No old shard has both rows: the one in the way is too many here, and goes with a repair,
            // which comes by this very stream.
            Some(
                self.direction.advice(
                    "the row in its way is too many here: modshift verify --repair removes it",
                ),
            )
        } else if self.was_sent_past(owner).await? || self.was_sent_past(Some(row.source)).await? {
            // What was passed over may have made room on the holder's old shard, or deleted the row.
            Some(
                "a group was passed over; the gate says what is to be compared and mended"
                    .to_owned(),
            )
        } else {
            None
        };
        if let Some(why) = why {
            let (target, source) = (self.shard.0, row.source.0);
            let table = table.schema.name.as_str();
            warn!(target, source, table, key, holder, waited_s, why, "a row waits for its place");
            self.parked.try_again(&row, clock_us);
            return Ok(());
        }
        Err(ApplyError::Duplicate(Box::new(Duplicate {
            new: self.shard,
            table: table.schema.name.clone(),
            columns: table.key_names(),
            key,
            old: row.source,
            holder,
            waited_s,
            values,
        })))
    }

    /// Which key of a parked row is taken and by whom: as it is now, or else as it was. `None`: the row
    /// that was in its way is gone, and no other is.
    async fn blocked_now(&mut self, row: &ParkedRow) -> Option<Blocked> {
        let was = || {
            let (key, holder) = match row.blocked_by.split_once(" of ") {
                Some((key, holder)) => (key.to_owned(), holder.to_owned()),
                None => (row.blocked_by.clone(), "another old shard".to_owned()),
            };
            Blocked { key, holder, owner: None }
        };
        let now = match &mut self.conn {
            Some(conn) => holder_now(conn, &self.at, &self.target, row).await.ok(),
            None => None,
        };
        match now {
            Some(Some((key, owner))) => {
                Some(Blocked { key, holder: owner.to_string(), owner: Some(owner) })
            }
            Some(None) if matches!(row.waits, Waits::For(_)) => None,
            Some(None) | None => Some(was()),
        }
    }

    async fn was_sent_past(&mut self, owner: Option<OldShard>) -> Result<bool, ApplyError> {
        match (&mut self.conn, owner) {
            (Some(conn), Some(owner)) => Ok(was_sent_past(conn, &self.at, owner).await?),
            _ => Ok(false),
        }
    }
}

/// What is in a parked row's way.
struct Blocked {
    key: String,
    holder: String,
    /// Where it could be asked.
    owner: Option<OldShard>,
}

pub(super) async fn load_parked(
    conn: &mut Conn,
    at: &str,
    target: &Target,
) -> Result<Parked, ApplyError> {
    type Stored = (u64, u16, String, Vec<u8>, i64, String);
    let rows: Vec<Stored> = conn
        .query(format!(
            "SELECT id, source, table_name, pk, parked_clock_us, blocked_by FROM {PARKED}"
        ))
        .await
        .map_err(|error| error::of(at, "reading parked rows", error))?;
    let mut parked = Parked::default();
    for (id, source, name, key, clock_us, blocked_by) in rows {
        // Of a table that has left the plan: should it come back it is copied anew, without them.
        let Some(table) = target.number(&name) else { continue };
        let key = key.into_boxed_slice();
        let source = OldShard(source);
        let waits = Waits::Untried;
        parked.insert(ParkedRow { id, source, table, key, clock_us, blocked_by, waits });
    }
    Ok(parked)
}

/// The first unique key of a parked row that a row of another old shard holds.
async fn holder_now(
    conn: &mut Conn,
    at: &str,
    target: &Target,
    row: &ParkedRow,
) -> Result<Option<(String, OldShard)>, ApplyError> {
    let image = image(conn, at, target.shard, row).await?;
    crate::places::holder_of(conn, at, target, row, &image).await
}
