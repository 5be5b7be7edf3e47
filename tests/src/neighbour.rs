//! Others on the same server: a schema of their own, whose tables have names of ours, and an account
//! that goes on writing there. Whatever modshift does to a server it does beside them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use mysql_async::{Conn, prelude::Queryable};
use tokio::task::AbortHandle;

use crate::server::{Address, MariaDbServer};

/// User, password and schema.
pub const NEIGHBOUR: &str = "neighbour";
/// Often enough to lie between any two steps of a test that take their time, and of no weight.
const PAUSE: Duration = Duration::from_millis(200);

/// A table of the same name as a planned one, with other columns; one without a primary key; one
/// that no transaction can undo. And a trigger: theirs are none of our business.
const TABLES: [&str; 6] = [
    "CREATE DATABASE neighbour",
    "CREATE TABLE neighbour.t_trade_order (id INT AUTO_INCREMENT PRIMARY KEY, note VARCHAR(40), \
     seen INT NOT NULL DEFAULT 0)",
    "CREATE TABLE neighbour.heap_of_notes (note VARCHAR(40))",
    "CREATE TABLE neighbour.unsafe (n INT) ENGINE=MyISAM",
    "CREATE TRIGGER neighbour.noted BEFORE UPDATE ON neighbour.t_trade_order FOR EACH ROW \
     SET NEW.seen = OLD.seen + 1",
    "CREATE USER neighbour@'%' IDENTIFIED BY 'neighbour'",
];
const RIGHTS: &str = "GRANT ALL ON neighbour.* TO neighbour@'%'";

/// Each in turn: rows, a transaction, definitions, and a table emptied.
const WRITES: [&str; 8] = [
    "INSERT INTO t_trade_order (note) VALUES ('one'), ('two')",
    "BEGIN; UPDATE t_trade_order SET note = 'three' LIMIT 1; DELETE FROM t_trade_order LIMIT 1; \
     COMMIT",
    "INSERT INTO heap_of_notes VALUES ('a'), ('a')",
    "INSERT INTO unsafe VALUES (1)",
    "CREATE TABLE IF NOT EXISTS short_lived AS SELECT * FROM t_trade_order LIMIT 3",
    "UPDATE heap_of_notes SET note = 'b' LIMIT 1",
    "DROP TABLE IF EXISTS short_lived",
    "TRUNCATE TABLE heap_of_notes",
];

/// Writes on one server until it is dropped.
#[derive(Debug)]
pub struct Neighbour {
    task: AbortHandle,
    writes: Arc<AtomicU64>,
}

impl Neighbour {
    pub async fn start(server: &MariaDbServer) -> Result<Self> {
        let mut conn = server.connect().await?;
        for sql in TABLES.into_iter().chain([RIGHTS]) {
            conn.query_drop(sql).await?;
        }
        conn.disconnect().await?;
        let address = Address {
            user: NEIGHBOUR.to_owned(),
            password: NEIGHBOUR.to_owned(),
            ..server.address().with_schema(NEIGHBOUR)
        };
        let writes = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write(address, Arc::clone(&writes))).abort_handle();
        Ok(Self { task, writes })
    }

    /// How many statements have passed.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For ever, whatever becomes of the server: a refusal by a fence is theirs to bear.
async fn write(address: Address, writes: Arc<AtomicU64>) {
    let mut session: Option<Conn> = None;
    for sql in WRITES.into_iter().cycle() {
        tokio::time::sleep(PAUSE).await;
        let connected = match session.take() {
            Some(conn) => Ok(conn),
            None => address.connect().await,
        };
        let Ok(mut conn) = connected else { continue };
        if conn.query_drop(sql).await.is_ok() {
            writes.fetch_add(1, Ordering::Relaxed);
            session = Some(conn);
        }
    }
}
