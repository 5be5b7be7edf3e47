//! The definitions by which a shard's binlog and rows are read, and whether they are still those of
//! its servers.
//!
//! A DDL that the binlog shows halts where it stands. One that it does not show (`sql_log_bin = 0`,
//! rolled over all servers) leaves number and types of the columns as they were, or nearly, and the
//! values go to other columns. So a planned table is looked up again when its rows come under a new
//! table id, which every ALTER brings; after the rows of each chunk, inside its transaction, in
//! which nobody can alter it; and now and then. What the log was read by is kept on the shard, for
//! the next reader. Cheap: one SHOW CREATE TABLE, and the catalog only where its text is another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, Session, catalog};
use modshift_proto::plan::{Endpoint, Placement, Plan};
use modshift_proto::{OldShard, differences};

use crate::error::ReadError;
use crate::route::RoutedTable;

pub struct Definitions {
    shard: OldShard,
    tables: Arc<Vec<RoutedTable>>,
    /// How a server last made a table in words, where the catalog agreed to it. By who asked, too:
    /// sessions of another kind get other words.
    agreed: Mutex<HashMap<(String, usize), String>>,
}

impl Definitions {
    pub fn new(shard: OldShard, tables: Arc<Vec<RoutedTable>>) -> Definitions {
        Definitions { shard, tables, agreed: Mutex::default() }
    }

    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Is the table on this server what it is taken for? In a transaction that has read the table
    /// the answer holds for what was read.
    pub async fn hold(
        &self,
        conn: &mut Conn,
        session: Session,
        endpoint: &Endpoint,
        table: usize,
    ) -> Result<(), ReadError> {
        let known = &self.tables[table].schema;
        let key = (format!("{session:?} {}", label(endpoint)), table);
        let made = catalog::made(conn, &endpoint.schema, &known.name).await?;
        if self.agreed.lock().unwrap_or_else(PoisonError::into_inner).get(&key) == Some(&made) {
            return Ok(());
        }
        let found = match session {
            Session::Plain => catalog::table(conn, &endpoint.schema, &known.name).await?,
            // A session for exact values compares names by their bytes: one of its own.
            Session::Exact => {
                let mut plain = modshift_mariadb::connect(endpoint, Session::Plain).await?;
                let found = catalog::table(&mut plain, &endpoint.schema, &known.name).await?;
                // What it said is known; the server closes what we cannot.
                let _ = plain.disconnect().await;
                found
            }
        };
        let differ = differences(&known.described(), &found.described());
        if !differ.is_empty() {
            return Err(drift(self.shard, endpoint, &known.name, &differ));
        }
        if catalog::made(conn, &endpoint.schema, &known.name).await? == made {
            self.agreed.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made);
        }
        Ok(())
    }
}

pub fn drift(shard: OldShard, at: &Endpoint, table: &str, differ: &[String]) -> ReadError {
    const SHOWN_MAX: usize = 6;
    let mut shown = differ[..differ.len().min(SHOWN_MAX)].join("; ");
    if let Some(more @ 1..) = differ.len().checked_sub(SHOWN_MAX) {
        shown += &format!("; and {more} more");
    }
    ReadError::Drift { shard, at: label(at), table: table.to_owned(), differences: shown }
}

/// What is kept of a table on its shard: how the plan places its rows, and its definition.
pub fn kept(plan: &Plan, index: usize, table: &RoutedTable) -> String {
    let (old, new) = (plan.old_modulus.get(), plan.new_modulus.get());
    let placed = match &plan.tables[index].placement {
        Placement::Sharded { key, rule } => format!("by {key}, {}", rule.name()),
        Placement::Broadcast { source } => format!("everywhere, from shard {}", source.0),
    };
    format!("placement\t{placed}, {old} to {new}\n{}", table.schema.described())
}
