//! What is known, on the server that it is known of. In its binlog too, so that a replica which takes
//! the server's place has it, and as of its own log: position and rows are of one transaction.

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::Endpoint;
use modshift_proto::{Gtid, GtidSet};
use mysql_async::prelude::Queryable;

use super::known::{Known, Last, Op};
use super::sift::Closed;

const READING: &str = "reading what the misroute watch knows";
const WRITING: &str = "writing down what the misroute watch knows";
/// Rows of one statement.
const ROWS_AT_ONCE: usize = 500;

pub const CREATE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS modshift_misroute (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        since TEXT NOT NULL COMMENT 'GTID set: everything behind it has been looked at',
        gap TEXT NULL COMMENT 'why it is not known from earlier on',
        done TEXT NOT NULL COMMENT 'GTID set: up to where',
        before_last TEXT NOT NULL COMMENT 'the same without the last group',
        last VARCHAR(80) NULL COMMENT 'the last group, with its checksum',
        at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_misrouted (
        table_name VARCHAR(64) NOT NULL,
        hash BIGINT UNSIGNED NOT NULL COMMENT 'of the primary key; 0: any row of the table',
        gtid VARCHAR(60) NOT NULL COMMENT 'its last write',
        op VARCHAR(6) NOT NULL,
        primary_key_text VARCHAR(120) NOT NULL,
        belongs SMALLINT UNSIGNED NULL COMMENT 'the shard that has this row',
        at DATETIME(6) NOT NULL,
        PRIMARY KEY (table_name, hash)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
];

/// `None`: nothing has been written down there yet. Also where the tables are not there.
pub async fn load(conn: &mut Conn, endpoint: &Endpoint) -> Result<Option<Known>, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let at = label(endpoint);
    let of = |error| error::of(&at, READING, error);
    let sql = "SELECT since, gap, done, before_last, last FROM modshift_misroute WHERE id = 1";
    type State = (String, Option<String>, String, String, Option<String>);
    let state: Option<State> = match conn.query_first(sql).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => return Ok(None),
        state => state.map_err(of)?,
    };
    let Some((since, gap, done, before, last)) = state else { return Ok(None) };
    let set = |text: &str| text.parse::<GtidSet>().map_err(|_| damaged(&at, text));
    let mut known = Known {
        since: set(&since)?,
        gap,
        done: set(&done)?,
        before: set(&before)?,
        last: last.map(|text| text.parse().map_err(|_| damaged(&at, &text))).transpose()?,
        ..Known::default()
    };
    let sql = "SELECT table_name, hash, gtid, op FROM modshift_misrouted";
    let rows: Vec<(String, u64, String, String)> = conn.query(sql).await.map_err(of)?;
    for (table, hash, gtid, op) in rows {
        let (Ok(gtid), Some(op)) = (gtid.parse::<Gtid>(), Op::from_name(&op)) else {
            return Err(damaged(&at, &gtid));
        };
        match hash {
            0 => drop(known.clouded.insert(table, gtid)),
            hash => {
                known.rows.entry(table).or_default().insert(hash, Last { gtid, op });
            }
        }
    }
    Ok(Some(known))
}

/// Somebody has written something else there.
fn damaged(at: &str, text: &str) -> ServerError {
    let detail = format!("modshift_misroute or modshift_misrouted is damaged: {text}");
    ServerError::Driver { at: at.to_owned(), doing: READING, detail }
}

pub async fn begin(conn: &mut Conn, endpoint: &Endpoint, known: &Known) -> Result<(), ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, WRITING, error);
    for sql in CREATE {
        conn.query_drop(sql).await.map_err(of)?;
    }
    let sql = "INSERT IGNORE INTO modshift_misroute SET id = 1, since = ?, gap = NULL, done = ?, \
               before_last = ?, last = NULL, at = UTC_TIMESTAMP(6)";
    let sets = (known.since.to_string(), known.done.to_string(), known.before.to_string());
    conn.exec_drop(sql, sets).await.map_err(of)
}

/// Of `modshift_misrouted`, without the time.
type Row<'a> = (String, u64, String, &'a str, String, Option<u16>);

/// One transaction. False: another watch has written there since `from`.
pub async fn save(
    conn: &mut Conn,
    endpoint: &Endpoint,
    from: &GtidSet,
    known: &Known,
    closed: &[Closed],
) -> Result<bool, ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, WRITING, error);
    conn.query_drop("START TRANSACTION").await.map_err(of)?;
    let done = known.done.to_string();
    let sql = "UPDATE modshift_misroute SET since = ?, gap = ?, done = ?, before_last = ?, last = ?, \
               at = UTC_TIMESTAMP(6) WHERE id = 1 AND done = ?";
    let last = known.last.map(|last| last.to_string());
    let before = known.before.to_string();
    let state = (known.since.to_string(), known.gap.clone(), done, before, last, from.to_string());
    conn.exec_drop(sql, state).await.map_err(of)?;
    if conn.affected_rows() != 1 {
        conn.query_drop("ROLLBACK").await.map_err(of)?;
        return Ok(false);
    }
    let mut rows: Vec<Row<'_>> = Vec::new();
    for group in closed {
        let gtid = group.digest.gtid;
        for found in &group.found {
            // What is not kept is clouded.
            if known.rows.get(&found.table).is_some_and(|rows| rows.contains_key(&found.hash)) {
                rows.push((
                    found.table.clone(),
                    found.hash,
                    gtid.to_string(),
                    found.op.name(),
                    found.shown.clone(),
                    found.belongs,
                ));
            }
        }
    }
    for (table, gtid) in &known.clouded {
        let sql = "DELETE FROM modshift_misrouted WHERE table_name = ? AND hash <> 0";
        if !known.rows.contains_key(table) {
            conn.exec_drop(sql, (table,)).await.map_err(of)?;
        }
        rows.push((table.clone(), 0, gtid.to_string(), "update", "*".to_owned(), None));
    }
    for some in rows.chunks(ROWS_AT_ONCE) {
        let places = vec!["(?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6))"; some.len()].join(", ");
        let sql = format!(
            "REPLACE INTO modshift_misrouted (table_name, hash, gtid, op, primary_key_text, belongs, \
             at) VALUES {places}"
        );
        let mut values: Vec<mysql_async::Value> = Vec::with_capacity(some.len() * 6);
        for (table, hash, gtid, op, shown, belongs) in some {
            values.extend([
                table.into(),
                (*hash).into(),
                gtid.into(),
                (*op).into(),
                shown.into(),
                (*belongs).into(),
            ]);
        }
        conn.exec_drop(sql, values).await.map_err(of)?;
    }
    conn.query_drop("COMMIT").await.map_err(of)?;
    Ok(true)
}
