//! `modshift_routing` on a shard: the routing as seen from the database, for applications that ask
//! there and for `modshift status`, which learns from it which side serves.
//!
//! One row per plan. One statement compares the versions and writes, so that of two publishers at
//! once the higher version stays, whatever their order.

use modshift_mariadb::connect::label_of;
use modshift_mariadb::{Conn, ServerError, error as server};
use mysql_async::prelude::Queryable;

use super::error::Failure;
use super::{Ack, PublishError, judge};
use crate::document::Document;

pub const TABLE: &str = "modshift_routing";

/// For each shard, old and new; safe to repeat.
pub const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_routing (
        plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        version BIGINT UNSIGNED NOT NULL,
        side ENUM('old','new') NOT NULL COMMENT 'which shards serve',
        document LONGTEXT NOT NULL COMMENT 'JSON',
        published DATETIME(6) NOT NULL COMMENT 'UTC'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// `version` last: the assignments before it still see the old one.
const STORE: &str = "INSERT INTO modshift_routing (plan, version, side, document, published) \
     VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE \
     side = IF(VALUES(version) > version, VALUES(side), side), \
     document = IF(VALUES(version) > version, VALUES(document), document), \
     published = IF(VALUES(version) > version, VALUES(published), published), \
     version = GREATEST(version, VALUES(version))";

/// Stores the document unless the shard holds a newer one, and reads it back. The connection's
/// schema is the shard's, and it is in autocommit.
pub async fn store(conn: &mut Conn, document: &Document) -> Result<Ack, PublishError> {
    let target = format!("{TABLE} of {}", label_of(conn));
    store_in(conn, document).await.map_err(|failure| PublishError { target, failure })
}

async fn store_in(conn: &mut Conn, document: &Document) -> Result<Ack, Failure> {
    const DOING: &str = "publishing the routing";
    let label = label_of(conn);
    let values = (&document.plan, document.version, document.side.name(), document.to_json());
    conn.exec_drop(STORE, values).await.map_err(|error| server::of(&label, DOING, error))?;
    let changed = conn.affected_rows() > 0;
    match judge(read(conn, &document.plan).await?.as_ref(), document)? {
        Some(_) if changed => Ok(Ack::Stored),
        Some(ack) => Ok(ack),
        // A lower version than the one just written, or none: the shard lost it again.
        None => Err(Failure::Unanswered { detail: format!("{label} did not keep it") }),
    }
}

/// What a shard holds for a plan. Fails if the table is not there.
pub async fn held(conn: &mut Conn, plan: &str) -> Result<Option<Document>, PublishError> {
    let target = format!("{TABLE} of {}", label_of(conn));
    read(conn, plan).await.map_err(|failure| PublishError { target, failure })
}

async fn read(conn: &mut Conn, plan: &str) -> Result<Option<Document>, Failure> {
    let label = label_of(conn);
    let text: Option<Vec<u8>> = conn
        .exec_first("SELECT document FROM modshift_routing WHERE plan = ?", (plan,))
        .await
        .map_err(|error| -> ServerError { server::of(&label, "reading the routing", error) })?;
    let parse = |text: Vec<u8>| {
        Document::from_json(&text).map_err(|error| Failure::Foreign {
            place: format!("row {plan}"),
            detail: error.to_string(),
        })
    };
    text.map(parse).transpose()
}
