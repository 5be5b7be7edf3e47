//! What the last `check --deep` found, kept on every new shard: its applier refuses to start while
//! rows would meet there that nobody has accepted.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use modshift_mariadb::Conn;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_proto::plan::Plan;
use mysql_async::prelude::Queryable;

use super::collisions::RULE;
use crate::check::fault::{Fault, Severity};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS modshift_check (
    id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
    at DATETIME NOT NULL COMMENT 'UTC',
    meeting TEXT NOT NULL COMMENT 'values that would meet, by table, as JSON'
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// UTC, by the new shard's clock.
    pub at: String,
    /// Values that would meet; tables without any are left out.
    pub tables: BTreeMap<String, u64>,
}

pub async fn read(conn: &mut Conn) -> mysql_async::Result<Option<Record>> {
    const NO_TABLE: u16 = 1146;
    const DENIED: u16 = 1142;
    let row: mysql_async::Result<Option<(String, String)>> =
        conn.query_first("SELECT CAST(at AS CHAR), meeting FROM modshift_check WHERE id = 1").await;
    match row {
        Ok(row) => Ok(row.map(|(at, meeting)| Record {
            at,
            // Written by us; what else stands there names no table.
            tables: serde_json::from_str(&meeting).unwrap_or_default(),
        })),
        Err(mysql_async::Error::Server(error)) if [NO_TABLE, DENIED].contains(&error.code) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub async fn write(plan: &Plan, tables: &BTreeMap<String, u64>) -> Result<(), ServerError> {
    let meeting = serde_json::to_string(tables).unwrap_or_default();
    let writes = plan.new.iter().map(|endpoint| {
        let meeting = meeting.as_str();
        async move {
            let mut conn = connect(endpoint, Session::Plain).await?;
            let of = |error| error::of(&label(endpoint), "keeping what check found", error);
            conn.query_drop(CREATE).await.map_err(of)?;
            let sql = "INSERT INTO modshift_check (id, at, meeting) VALUES (1, UTC_TIMESTAMP(), ?) \
                       ON DUPLICATE KEY UPDATE at = VALUES(at), meeting = VALUES(meeting)";
            conn.exec_drop(sql, (meeting,)).await.map_err(of)
        }
    });
    try_join_all(writes).await.map(drop)
}

pub fn unkept(error: ServerError) -> Fault {
    let fault = Fault::new(Severity::Warning, RULE, "new shards", error.to_string());
    let hint = error.hint();
    fault
        .expected("to keep on every new shard what was found: daemons refuse to start by it")
        .mend(hint.unwrap_or_else(|| "modshift check --deep again".to_owned()))
}
