//! Tables that a source copies from their beginning again: what this new shard has of them from
//! that source goes first.
//!
//! Between the epochs of a reader a table may have been out of the plan. What its shard deleted
//! meanwhile nobody sent, so the rows of the former copy cannot stay under the new one. Each stream
//! clears what it owns, before the first row of its new copy; other streams do so themselves.
//!
//! In transactions of a bounded size, each of which begins with the watermark, as everything that
//! modshift applies: what reads this shard's binlog knows them by that. They follow the primary key:
//! what is deleted stays in the index until it is purged, so that each search from the beginning would
//! walk over all that went before. A batch that is tried again goes on where the last attempt had come
//! to. Safe to repeat.

use std::sync::Arc;

use modshift_changelog::stage;
use modshift_mariadb::control::{self, MISMATCH, PARKED, VERIFY, WATERMARK};
use modshift_mariadb::value::{self, ValueError};
use modshift_mariadb::{Conn, ServerError, Value, error};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{Column, OldShard};
use mysql_async::prelude::Queryable;
use tracing::info;

use super::parked::load_parked;
use super::transaction::query;
use super::{Cut, Keeper};
use crate::error::ApplyError;

/// Rows that one transaction looks at, whoever owns them.
const ROWS: u64 = 20_000;
const DOING: &str = "removing rows that are copied anew";
const NO_SUCH_TABLE: u16 = 1146;

/// How far a table of a source has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Cleared {
    #[default]
    Nothing,
    /// Up to this primary key, with it.
    To(Vec<Vec<u8>>),
    /// All that pages find.
    Pages,
    All,
}

impl Keeper {
    pub(super) async fn clear(&mut self, conn: &mut Conn, cut: &Cut) -> Result<(), ApplyError> {
        if cut.anew.is_empty() {
            return Ok(());
        }
        for &(source, table) in &cut.anew {
            // Without a watermark nothing of that source was ever applied here.
            let Some(version) = self.versions.of(source) else { continue };
            let target = Arc::clone(&self.target);
            let name = &target.table(table).schema.name;
            let mut removed = 0;
            let mut cleared = self.cleared.get(&(source, table)).cloned().unwrap_or_default();
            let before = cleared.clone();
            while cleared != Cleared::All {
                let (statements, next) = self.step(conn, source, table, &cleared).await?;
                let gone = self.remove(conn, source, version, name, &statements).await?;
                removed += gone;
                // What is not bounded by a key is repeated until it finds no more.
                if cleared != Cleared::Pages || gone < ROWS {
                    cleared = next;
                    self.cleared.insert((source, table), cleared.clone());
                }
            }
            if before == Cleared::All {
                continue;
            }
            // A proof of what was there says nothing of what comes.
            for of_verify in [VERIFY, MISMATCH] {
                self.forget(conn, of_verify, name).await?;
            }
            info!(
                target = self.shard.0,
                source = source.0,
                table = name,
                removed,
                "the table is copied anew: what was here of it is removed"
            );
        }
        self.parked = load_parked(conn, &self.at, &self.target).await?;
        Ok(())
    }

    /// What the next transaction deletes, and how far the table has come with it.
    async fn step(
        &self,
        conn: &mut Conn,
        source: OldShard,
        table: u32,
        cleared: &Cleared,
    ) -> Result<(Vec<String>, Cleared), ApplyError> {
        let target = self.target.table(table);
        let rows = target.sql.clear.replace('?', &source.0.to_string());
        let keys: Vec<&Column> =
            target.schema.primary_key.iter().map(|&index| &target.schema.columns[index]).collect();
        let name = &target.schema.name;
        let of = |error| ApplyError::Value { new: self.shard, table: name.clone(), error };
        let after = match cleared {
            Cleared::Nothing => None,
            Cleared::To(key) => Some(key.as_slice()),
            Cleared::Pages | Cleared::All => {
                let parked = format!(
                    "DELETE FROM {PARKED} WHERE source = {} AND table_name = {} LIMIT {ROWS}",
                    source.0,
                    control::name_literal(name)
                );
                let swept = value::unpageable(name, &keys).map(|_| format!("{rows} LIMIT {ROWS}"));
                return Ok((swept.into_iter().chain([parked]).collect(), Cleared::All));
            }
        };
        let until = match self.boundary(conn, name, &keys, after).await? {
            Ok(until) => until,
            // After such a key pages could leave out rows: the rest is found without them.
            Err(ValueError::Unordered { .. }) => return Ok((Vec::new(), Cleared::Pages)),
            Err(error) => return Err(of(error)),
        };
        let range = value::key_range(&keys, after, until.as_deref());
        let range = match range {
            Err(ValueError::Unordered { .. }) => return Ok((Vec::new(), Cleared::Pages)),
            range => range.map_err(of)?,
        };
        let link = if rows.contains(" WHERE ") { "AND" } else { "WHERE" };
        let statement = match range.is_empty() {
            true => rows,
            false => format!("{rows} {link} ({range})"),
        };
        Ok((vec![statement], until.map_or(Cleared::Pages, Cleared::To)))
    }

    /// The key of the last row of a page; `None`: it ends with the table.
    async fn boundary(
        &self,
        conn: &mut Conn,
        name: &str,
        keys: &[&Column],
        after: Option<&[Vec<u8>]>,
    ) -> Result<Result<Option<Vec<Vec<u8>>>, ValueError>, ServerError> {
        let page = match value::key_page(keys, after) {
            Ok(page) if page.is_empty() => page,
            Ok(page) => format!("WHERE {page}"),
            Err(error) => return Ok(Err(error)),
        };
        let columns: Vec<String> = keys.iter().map(|column| value::select_expr(column)).collect();
        let sql = format!(
            "SELECT {} FROM {} FORCE INDEX (PRIMARY) {page} ORDER BY {} LIMIT {}, 1",
            columns.join(", "),
            value::quote(name),
            value::key_order(keys),
            ROWS - 1,
        );
        // In the binary protocol, as values are read everywhere.
        let row: Option<mysql_async::Row> =
            conn.exec_first(sql, ()).await.map_err(|error| error::of(&self.at, DOING, error))?;
        Ok(row.map(|row| cells(keys, &row)).transpose())
    }

    /// One transaction; how many rows have gone.
    async fn remove(
        &self,
        conn: &mut Conn,
        source: OldShard,
        version: u64,
        table: &str,
        statements: &[String],
    ) -> Result<u64, ApplyError> {
        // The row must change: its event is what the group is known by.
        let own = format!(
            "UPDATE {WATERMARK} SET commit_us = commit_us ^ 1 \
             WHERE source = {} AND version = {version}",
            source.0
        );
        self.affects(conn, "BEGIN").await?;
        if self.affects(conn, &own).await? != 1 {
            query(conn, &self.at, "rolling back", "ROLLBACK").await?;
            return Err(ApplyError::TakenOver { new: self.shard });
        }
        // The reader has asked as well. What is removed here nobody could bring again.
        if control::serves(conn, &self.at).await? {
            query(conn, &self.at, "rolling back", "ROLLBACK").await?;
            return Err(ApplyError::Serves { new: self.shard, table: table.to_owned() });
        }
        let mut gone = 0;
        for statement in statements {
            gone += self.affects(conn, statement).await?;
        }
        stage::reached("mid_clear", gone).await;
        self.affects(conn, "COMMIT").await?;
        stage::reached("after_clear", gone).await;
        Ok(gone)
    }

    async fn affects(&self, conn: &mut Conn, sql: &str) -> Result<u64, ServerError> {
        let of = |error| error::of(&self.at, DOING, error);
        conn.query_drop(sql).await.map_err(of)?;
        Ok(conn.affected_rows())
    }

    async fn forget(&self, conn: &mut Conn, table: &str, name: &str) -> Result<(), ServerError> {
        let sql = format!("DELETE FROM {table} WHERE table_name = ?");
        let done = conn.exec_drop(sql, (name,)).await;
        match done.map_err(|error| error::of(&self.at, DOING, error)) {
            // Nobody has ever verified here.
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(()),
            done => done,
        }
    }
}

/// Of a row with nothing but its key.
fn cells(keys: &[&Column], row: &mysql_async::Row) -> Result<Vec<Vec<u8>>, ValueError> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, keys.len());
    for (place, column) in keys.iter().enumerate() {
        let cell = row.as_ref(place).unwrap_or(&Value::NULL);
        value::value_to_cell(column.data, cell, &mut writer)?;
    }
    writer.finish();
    let mut cells = Vec::with_capacity(keys.len());
    RowView::parse(&wire)?.collect(keys.len(), &mut cells)?;
    Ok(cells.into_iter().map(|cell| cell.unwrap_or_default().to_vec()).collect())
}

/// Of a start marker, by number; a table that this plan does not have halts.
pub fn numbers(
    target: &crate::target::Target,
    source: OldShard,
    names: &[String],
) -> Result<Vec<(OldShard, u32)>, crate::target::ChangeError> {
    let number = |name: &String| {
        let unknown = || crate::target::ChangeError::UnplannedTable { table: name.clone() };
        Ok((source, target.number(name).ok_or_else(unknown)?))
    };
    names.iter().map(number).collect()
}
