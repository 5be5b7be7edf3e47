//! The register's tables on new shard 0. They outlive `modshift finish`, and a later reshard may have the
//! same new shard 0: every row says of which plan it is.

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;

pub const JOURNAL: &str = "modshift_journal";
pub const OPERATOR: &str = "modshift_operator";
pub const FENCE: &str = "modshift_fence";

const TABLES: [(&str, &str); 3] = [
    (
        JOURNAL,
        "CREATE TABLE modshift_journal (
            plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            run BIGINT UNSIGNED NOT NULL,
            entry BIGINT UNSIGNED NOT NULL,
            name VARCHAR(64) NOT NULL COMMENT 'of the run, as in modshift_token.fence',
            direction VARCHAR(16) NOT NULL,
            mode VARCHAR(16) NOT NULL,
            state VARCHAR(16) NOT NULL COMMENT 'begun, done, undone, resumed, turned back, ended, finished',
            step VARCHAR(16) NULL COMMENT 'of ended: the side that serves',
            at DATETIME(6) NOT NULL COMMENT 'UTC',
            who VARCHAR(255) NOT NULL,
            detail LONGTEXT NULL COMMENT 'JSON',
            PRIMARY KEY (plan, run, entry)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
    (
        OPERATOR,
        "CREATE TABLE modshift_operator (
            plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
            token VARCHAR(64) NOT NULL,
            writes BIGINT UNSIGNED NOT NULL,
            who VARCHAR(255) NOT NULL,
            since DATETIME(6) NOT NULL COMMENT 'UTC'
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
    (
        FENCE,
        "CREATE TABLE modshift_fence (
            plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            server VARCHAR(255) NOT NULL,
            was LONGTEXT NOT NULL COMMENT 'JSON: its settings before the fence',
            at DATETIME(6) NOT NULL COMMENT 'UTC',
            PRIMARY KEY (plan, server)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
];

/// Only what is missing: even `IF NOT EXISTS` would write an event group.
pub(super) async fn create(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "creating the journal", error);
    let sql = "SELECT TABLE_NAME, MAX(COLUMN_NAME = 'plan') FROM information_schema.COLUMNS \
               WHERE TABLE_SCHEMA = ? AND TABLE_NAME LIKE 'modshift\\_%' GROUP BY TABLE_NAME";
    let present: Vec<(String, bool)> = conn.exec(sql, (&endpoint.schema,)).await.map_err(of)?;
    for (name, sql) in TABLES {
        match present.iter().find(|(table, _)| table == name) {
            None => conn.query_drop(sql).await.map_err(of)?,
            Some((_, true)) => {}
            Some((_, false)) => return Err(earlier(at, name)),
        }
    }
    Ok(())
}

/// Made by a version of modshift that did not tell plans apart.
pub(super) fn earlier(at: String, table: &'static str) -> ServerError {
    ServerError::EarlierTable { at, table, column: "plan" }
}
