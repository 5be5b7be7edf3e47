//! Tables that a source copies from their beginning again: what this new shard has of them from
//! that source goes first.
//!
//! Between the epochs of a reader a table may have been out of the plan. What its shard deleted
//! meanwhile nobody sent, so the rows of the former copy cannot stay under the new one. Each stream
//! clears what it owns, before the first row of its new copy; other streams do so themselves.
//!
//! In transactions of a bounded size, each of which begins with the watermark, as everything that
//! modshift applies: what reads this shard's binlog knows them by that. Safe to repeat.

use std::sync::Arc;

use modshift_changelog::stage;
use modshift_mariadb::control::{self, MISMATCH, PARKED, VERIFY, WATERMARK};
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::OldShard;
use mysql_async::prelude::Queryable;
use tracing::info;

use super::parked::load_parked;
use super::transaction::query;
use super::{Cut, Keeper};
use crate::error::ApplyError;

/// Rows of one transaction.
const ROWS: u64 = 20_000;
const DOING: &str = "removing rows that are copied anew";
const NO_SUCH_TABLE: u16 = 1146;

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
            let rows = target.table(table).sql.clear.replace('?', &source.0.to_string());
            let parked = format!(
                "DELETE FROM {PARKED} WHERE source = {} AND table_name = {}",
                source.0,
                control::name_literal(name)
            );
            let mut removed = 0;
            loop {
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
                    return Err(ApplyError::Serves { new: self.shard, table: name.clone() });
                }
                let gone = self.affects(conn, &format!("{rows} LIMIT {ROWS}")).await?
                    + self.affects(conn, &format!("{parked} LIMIT {ROWS}")).await?;
                stage::reached("mid_clear", gone).await;
                self.affects(conn, "COMMIT").await?;
                removed += gone;
                stage::reached("after_clear", gone).await;
                if gone < ROWS {
                    break;
                }
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
