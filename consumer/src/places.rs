//! [`Places`] as a transaction on the new shard: bulk statements, cut well below what a packet
//! may hold.

mod exactly;
mod holder;
mod params;
mod refusal;

pub use exactly::enum_cells;
pub use holder::{holder_of, image, was_sent_past};
pub use refusal::MARK as REFUSED;

use std::collections::HashSet;

use modshift_mariadb::control::PARKED;
use modshift_mariadb::value::ValueError;
use modshift_mariadb::{Class, Conn, ServerError, Value, error};
use modshift_proto::message::Op;
use modshift_proto::{NewShard, OldShard};
use mysql_async::prelude::Queryable;

use crate::batch::{RowChange, runs};
use crate::error::ApplyError;
use crate::merge::{Held, Placed, Places};
use crate::parked::{LEFT_BY_SKIP, Parked, ParkedChanges, ParkedRow, Waits, another_row_of};
use crate::target::{Target, TargetTable};
use exactly::needs_lenience;
use holder::look;
use params::{key_params, place_params, row_params};
use refusal::Refusal;

/// A fixed-width value takes at most this much more as a parameter than in its wire form.
const PARAM_BYTES_MORE: usize = 12;

/// Head of a command, NULL bitmap and types.
const PACKET_BYTES_SPARE: usize = 64 * 1024;

/// Duplicate entry: of the unique key that the message names.
const DUPLICATE: u16 = 1062;
/// What a guard raises: "Subquery returns more than 1 row". And what an upsert raises that meets a
/// row of a table with a key WITHOUT OVERLAPS: the server cannot do that yet.
const GUARD: [u16; 2] = [1242, 1235];

pub struct SqlPlaces<'a> {
    pub conn: &'a mut Conn,
    pub at: &'a str,
    pub target: &'a Target,
    /// Parked rows as of the last commit.
    pub parked: &'a Parked,
    pub changes: ParkedChanges,
    /// Clock of each source's newest token.
    pub clocks: &'a [i64],
    /// For one bulk statement.
    pub bytes_max: usize,
    /// The server's `max_allowed_packet`. It answers a larger one by closing the connection, which
    /// would look like something to try again.
    pub packet_bytes_max: usize,
    /// Try rows again that the server did not take. What can have changed is the server.
    pub retry_refused: bool,
    /// Why the last insert was of no use.
    pub blocked: Option<Blocked>,
}

pub enum Blocked {
    /// The unique key that is taken, where the server says so.
    Place(Option<String>),
    Refused(Refusal),
}

/// What became of a statement.
enum Written {
    /// The rows are stored as they are.
    Exactly,
    Not(Blocked),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strict,
    /// Without strict mode; what has been stored is read again.
    Lenient,
}

/// Rows for one bulk statement.
struct Run<'r> {
    mode: Mode,
    rows: Vec<RowChange<'r>>,
}

impl SqlPlaces<'_> {
    fn new_shard(&self) -> NewShard {
        self.target.shard
    }

    fn table(&self, row: &RowChange<'_>) -> &TargetTable {
        self.target.table(row.table)
    }

    fn value_error(&self, table: u32, error: ValueError) -> ApplyError {
        let table = self.target.table(table).schema.name.clone();
        ApplyError::Value { new: self.new_shard(), table, error }
    }

    /// Runs one statement for rows of one table. More than one: as a single bulk command.
    async fn run(
        &mut self,
        sql: &str,
        doing: &'static str,
        mut params: Vec<Vec<Value>>,
    ) -> Result<(), ServerError> {
        let result = if params.len() == 1 {
            let params = params.swap_remove(0);
            let bytes: usize = params.iter().map(|value| value.bin_len() as usize).sum();
            if bytes + PACKET_BYTES_SPARE > self.packet_bytes_max {
                return Err(ServerError::TooLarge {
                    at: self.at.to_owned(),
                    doing,
                    message: format!(
                        "a row of {bytes} bytes, max_allowed_packet is {}",
                        self.packet_bytes_max
                    ),
                });
            }
            self.conn.exec_drop(sql, params).await
        } else {
            self.conn.exec_batch(sql, params).await
        };
        result.map_err(|error| error::of(self.at, doing, error))
    }

    fn upsert_params(&self, row: &RowChange<'_>, owner: bool) -> Result<Vec<Value>, ApplyError> {
        let table = self.table(row);
        row_params(table, row.row, owner.then_some(row.source))
            .map_err(|error| self.value_error(row.table, error))
    }

    fn cut<'r>(&self, rows: impl Iterator<Item = RowChange<'r>>) -> Vec<Vec<RowChange<'r>>> {
        runs(rows, self.bytes_max, |row| self.cost(row))
    }

    /// Rows to be written.
    fn runs<'r>(&self, rows: &[RowChange<'r>]) -> Vec<Run<'r>> {
        let (lenient, strict): (Vec<_>, Vec<_>) =
            rows.iter().copied().partition(|row| needs_lenience(self.table(row), row));
        let strict = self.cut(strict.into_iter()).into_iter().map(|rows| (Mode::Strict, rows));
        let lenient = self.cut(lenient.into_iter()).into_iter().map(|rows| (Mode::Lenient, rows));
        strict.chain(lenient).map(|(mode, rows)| Run { mode, rows }).collect()
    }

    /// A failed statement on rows of a table, with the names that a person needs.
    fn failed(&self, table: &TargetTable, error: ServerError) -> ApplyError {
        if error.class() == Class::Retry {
            return error.into();
        }
        let (table, columns) = (table.schema.name.clone(), table.key_names());
        ApplyError::Rows { new: self.new_shard(), table, columns, error: Box::new(error) }
    }

    /// Runs a statement that writes the rows. `owner`: the statement asks for it.
    async fn write(
        &mut self,
        run: &Run<'_>,
        sql: &str,
        doing: &'static str,
        owner: bool,
    ) -> Result<Written, ApplyError> {
        let target = self.target;
        let table = target.table(run.rows[0].table);
        let params = run
            .rows
            .iter()
            .map(|row| self.upsert_params(row, owner))
            .collect::<Result<Vec<_>, _>>()?;
        let result = match run.mode {
            Mode::Strict => self.run(sql, doing, params).await,
            Mode::Lenient => self.run_leniently(sql, doing, params).await,
        };
        let not = match result {
            Ok(()) => {
                let sure = run.mode == Mode::Strict && self.conn.get_warnings() == 0;
                if sure || self.are_stored(&run.rows).await? {
                    return Ok(Written::Exactly);
                }
                Blocked::Refused(Refusal::changed())
            }
            Err(error) if error.code() == Some(DUPLICATE) => {
                Blocked::Place(error.duplicate_key().map(str::to_owned))
            }
            Err(error) if error.code().is_some_and(|code| GUARD.contains(&code)) => {
                Blocked::Place(None)
            }
            Err(error) => match Refusal::of(&error, &table.schema) {
                Some(refusal) => Blocked::Refused(refusal),
                None => return Err(self.failed(table, error)),
            },
        };
        Ok(Written::Not(not))
    }

    fn cost(&self, row: &RowChange<'_>) -> usize {
        let columns = self.table(row).sent.len() + 1;
        match row.op {
            Op::Upsert => row.row.len() + columns * PARAM_BYTES_MORE,
            // Parts of the key may be sent twice.
            Op::Delete => 2 * (row.row.len() + columns * PARAM_BYTES_MORE),
        }
    }
}

impl Places for SqlPlaces<'_> {
    type Error = ApplyError;
    type Parked = ParkedRow;

    async fn delete(&mut self, rows: &[RowChange<'_>]) -> Result<(), ApplyError> {
        for run in self.cut(rows.iter().copied()) {
            let table = self.target.table(run[0].table);
            let params = run
                .iter()
                .map(|row| key_params(table, row.key, row.source))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| self.value_error(run[0].table, error))?;
            self.run(&table.sql.delete, "deleting rows", params)
                .await
                .map_err(|error| self.failed(table, error))?;
        }
        Ok(())
    }

    async fn upsert(&mut self, rows: &[RowChange<'_>]) -> Result<Placed, ApplyError> {
        for run in self.runs(rows) {
            let sql = &self.target.table(run.rows[0].table).sql.upsert;
            if let Written::Not(_) = self.write(&run, sql, "writing rows", true).await? {
                return Ok(Placed::Taken);
            }
        }
        Ok(Placed::All)
    }

    async fn insert(&mut self, rows: &[RowChange<'_>]) -> Result<Placed, ApplyError> {
        self.query("SAVEPOINT modshift_insert").await?;
        for run in &self.runs(rows) {
            let mut written = self.insert_run(run).await?;
            // It is one row, and has been stored before.
            if let (Written::Not(Blocked::Refused(_)), Mode::Strict, [_]) =
                (&written, run.mode, rows)
            {
                self.query("ROLLBACK TO SAVEPOINT modshift_insert").await?;
                let again = Run { mode: Mode::Lenient, rows: run.rows.clone() };
                match self.insert_run(&again).await? {
                    // The strict session says what is wrong.
                    Written::Not(Blocked::Refused(_)) => {}
                    other => written = other,
                }
            }
            if let Written::Not(blocked) = written {
                self.blocked = Some(blocked);
                self.query("ROLLBACK TO SAVEPOINT modshift_insert").await?;
                return Ok(Placed::Taken);
            }
        }
        Ok(Placed::All)
    }

    async fn holder(&mut self, row: &RowChange<'_>) -> Result<Held, ApplyError> {
        let table = self.target.table(row.table);
        let key = match self.blocked.take() {
            Some(Blocked::Refused(refusal)) => {
                return Ok(Held { key: refusal.to_string(), owner: None, row: None });
            }
            Some(Blocked::Place(Some(key))) => key,
            Some(Blocked::Place(None)) | None => "a unique key".to_owned(),
        };
        let place = table.sql.holders.iter().find(|holder| holder.key == key);
        let Some(place) = place else { return Ok(Held { key, owner: None, row: None }) };
        let values =
            place_params(table, place, row.row).map_err(|e| self.value_error(row.table, e))?;
        let found = look(self.conn, self.at, table, place, values, row.source)
            .await
            .map_err(|error| self.failed(table, error))?;
        let (owner, row) = found.map_or((None, None), |found| (Some(found.owner), found.key));
        match owner {
            // On its old shard it may have made room long ago, in what was passed over.
            Some(owner) if was_sent_past(self.conn, self.at, owner).await? => {
                Ok(Held { key: format!("{LEFT_BY_SKIP}{key} of {owner}"), owner: None, row })
            }
            owner => Ok(Held { key, owner, row }),
        }
    }

    fn concerns_parked(&self, rows: &[RowChange<'_>]) -> bool {
        self.parked.concerned(rows.iter().copied())
    }

    async fn unpark(&mut self, rows: &[RowChange<'_>]) -> Result<(), ApplyError> {
        let gone: Vec<ParkedRow> = rows
            .iter()
            .filter_map(|row| self.parked.get(row.source, row.table, row.key))
            .cloned()
            .collect();
        for ids in gone.chunks(1000) {
            self.remove_images(ids).await?;
        }
        self.changes.removed.extend(gone);
        Ok(())
    }

    async fn park(&mut self, row: &RowChange<'_>, held: &Held) -> Result<(), ApplyError> {
        // A row that waits already does not begin to wait anew with each of its changes.
        let waits_since = self
            .changes
            .removed
            .iter()
            .find(|had| (had.source, had.table) == (row.source, row.table) && *had.key == *row.key)
            .map(|had| had.clock_us);
        let clock_us = waits_since.unwrap_or(self.clocks[usize::from(row.source.0)]);
        let blocked_by = blocked_by(row.source, held);
        let target = self.target;
        let name = target.table(row.table).schema.name.as_str();
        self.conn
            .exec_drop(
                format!(
                    "INSERT INTO {PARKED} \
                     (source, table_name, pk, image, parked_clock_us, blocked_by) \
                     VALUES (?, ?, ?, ?, ?, ?)"
                ),
                (row.source.0, name, row.key, row.row, clock_us, &blocked_by),
            )
            .await
            .map_err(|error| error::of(self.at, "parking a row", error))?;
        let id = self.conn.last_insert_id().unwrap_or_default();
        assert_ne!(id, 0, "modshift_parked numbers its rows");
        self.changes.added.push(ParkedRow {
            id,
            source: row.source,
            table: row.table,
            key: row.key.into(),
            clock_us,
            blocked_by,
            waits: Waits::of(held),
        });
        Ok(())
    }

    async fn parked(&mut self, rows: &[RowChange<'_>]) -> Result<Vec<ParkedRow>, ApplyError> {
        let removed: HashSet<u64> = self.changes.removed.iter().map(|row| row.id).collect();
        let mut waiting = self.parked.with_room(rows, self.retry_refused);
        waiting.retain(|row| !removed.contains(&row.id));
        Ok(waiting)
    }

    async fn settle(&mut self, parked: &ParkedRow) -> Result<Placed, ApplyError> {
        let image = image(self.conn, self.at, self.new_shard(), parked).await?;
        let row = RowChange {
            source: parked.source,
            table: parked.table,
            key: &parked.key,
            op: Op::Upsert,
            row: &image,
        };
        let placed = self.insert(&[row]).await?;
        if placed == Placed::All {
            self.remove_images(std::slice::from_ref(parked)).await?;
            self.changes.removed.push(parked.clone());
        } else if !parked.is_refused() {
            let waits = Waits::of(&self.holder(&row).await?);
            self.changes.waits.push((parked.clone(), waits));
        }
        Ok(placed)
    }
}

impl SqlPlaces<'_> {
    /// One statement: all or none.
    async fn insert_run(&mut self, run: &Run<'_>) -> Result<Written, ApplyError> {
        let sql = &self.target.table(run.rows[0].table).sql.insert;
        self.write(run, sql, "inserting rows", false).await
    }

    async fn query(&mut self, text: &str) -> Result<(), ServerError> {
        let done = self.conn.query_drop(text).await;
        done.map_err(|error| error::of(self.at, "inserting rows", error))
    }

    async fn remove_images(&mut self, rows: &[ParkedRow]) -> Result<(), ApplyError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        self.conn
            .query_drop(format!("DELETE FROM {PARKED} WHERE id IN ({})", ids.join(", ")))
            .await
            .map_err(|error| error::of(self.at, "removing parked images", error))?;
        Ok(())
    }
}

fn blocked_by(source: OldShard, held: &Held) -> String {
    match held.owner {
        Some(owner) if owner == source => format!("{} of {}", held.key, another_row_of(owner)),
        Some(owner) => format!("{} of {owner}", held.key),
        None => held.key.clone(),
    }
}
