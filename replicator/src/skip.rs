//! What an operator has had passed over of a shard's log: `modshift_skip` there.
//!
//! A reader that halts for a reason that lies in one group writes that group down. An operator may
//! then ask for it to be passed over; the next epoch of the reader does so, and so does every later
//! one that comes by the group again. Which tables may lack what it changed is written down before
//! anything behind it is read: so nobody ever sees that the reader has gone on, and not what that cost.

use std::collections::BTreeMap;
use std::time::Duration;

use modshift_mariadb::control::skip;
use modshift_mariadb::{Conn, ServerError, Session};
use modshift_proto::plan::Endpoint;
use modshift_proto::{GroupDigest, Gtid, OldShard};
use mysql_async::prelude::Queryable;

use crate::error::{ReadError, server_error};
use crate::token::within;

const NO_SUCH_TABLE: u16 = 1146;
const RECORDING: &str = "recording that a group is passed over";
const OURS: &str = "UPDATE modshift_token SET writes = writes + 1 WHERE id = 1 AND epoch = ?";

/// Where a reader stands in a group: so many of its events it has read, with this checksum over them. By
/// that the group is known again, for a server that crashes may give its GTID to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    pub events: u64,
    pub checksum: u32,
}

/// What is known of a group that is to be passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Its checksum, where it was passed over before.
    before: Option<u32>,
    stood: Option<Stands>,
    /// It does not count: the server was killed while it wrote it.
    gone: bool,
}

/// Groups to be passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips(BTreeMap<Gtid, Asked>);

/// A row of `modshift_skip`: GTID, state, checksum, events, checksum of those.
type Row = (String, String, Option<u32>, Option<u64>, Option<u32>);

impl Skips {
    pub fn has(&self, gtid: Gtid) -> bool {
        self.0.contains_key(&gtid)
    }

    /// Of these nothing is sent.
    pub fn iter(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.0.iter().filter(|(_, asked)| !asked.gone).map(|(gtid, _)| *gtid)
    }

    /// What follows under this GTID is another group. True: that is to be written down.
    pub fn forget(&mut self, gtid: Gtid) -> bool {
        self.0.remove(&gtid).is_some_and(|asked| !asked.gone)
    }

    /// The checksum of this group when it was passed over before.
    pub fn before(&self, gtid: Gtid) -> Option<u32> {
        self.0.get(&gtid).and_then(|asked| asked.before)
    }

    /// Where the reader stood in this group, which has not been passed over yet.
    pub fn stood(&self, gtid: Gtid) -> Option<Stands> {
        self.0.get(&gtid).filter(|asked| asked.before.is_none()).and_then(|asked| asked.stood)
    }
}

/// A group that was passed over just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub digest: GroupDigest,
    /// Planned tables that may lack what it changed.
    pub tables: Vec<String>,
    /// By XA: others may see it only some time after the binlog has it.
    pub late: bool,
}

/// What this epoch's reader passes over. Nothing is asked for where nobody ever halted.
pub async fn begin(
    conn: &mut Conn,
    primary: &Endpoint,
    shard: OldShard,
) -> Result<Skips, ReadError> {
    let doing = "asking what is to be passed over";
    let rows: Result<Vec<Row>, _> = conn.query(skip::asked(shard)).await;
    let rows = match rows.map_err(|error| server_error(primary, doing, error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => return Ok(Skips::default()),
        rows => rows?,
    };
    let cleared = conn.query_drop(skip::reader_begins(shard)).await;
    cleared.map_err(|error| server_error(primary, doing, error))?;
    let read = |(name, state, before, events, checksum): Row| {
        let gone = state == skip::GONE;
        let stood = events.zip(checksum).map(|(events, checksum)| Stands { events, checksum });
        let gtid = name.parse();
        gtid.map(|gtid| (gtid, Asked { before, stood, gone }))
            .map_err(|source| ReadError::ProgressUnreadable { shard, source })
    };
    Ok(Skips(rows.into_iter().map(read).collect::<Result<_, _>>()?))
}

/// The reader halts for a reason that lies in this group. Beside the halt itself, in a transaction
/// with it.
pub async fn halts(
    primary: &Endpoint,
    epoch: u64,
    (shard, gtid, stands): (OldShard, Gtid, Option<Stands>),
    said: &str,
) -> Result<(), ServerError> {
    let failed = |error| server_error(primary, "recording the halt", error);
    let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
    let there = "SELECT 1 FROM information_schema.TABLES \
                 WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'modshift_skip'";
    let there: Option<u8> = conn.query_first(there).await.map_err(failed)?;
    if there.is_none() {
        conn.query_drop(skip::TABLE).await.map_err(failed)?;
    }
    conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    let halted = "UPDATE modshift_token SET writes = writes + 1, halted = ? \
                  WHERE id = 1 AND epoch = ?";
    conn.exec_drop(halted, (said, epoch)).await.map_err(failed)?;
    // Another reader has it otherwise, and stands elsewhere.
    if conn.affected_rows() == 1 {
        let (events, checksum) = (stands.map(|stands| stands.events), stands.map(|s| s.checksum));
        let halts = skip::Place::group(shard, gtid).halts();
        conn.exec_drop(halts, (said, events, checksum)).await.map_err(failed)?;
    }
    conn.query_drop("COMMIT").await.map_err(failed)?;
    conn.disconnect().await.map_err(failed)
}

/// Has somebody asked for this group to be passed over?
pub async fn is_asked(
    primary: &Endpoint,
    shard: OldShard,
    gtid: Gtid,
) -> Result<bool, ServerError> {
    let failed = |error| server_error(primary, "asking what is to be passed over", error);
    let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
    let rows: Result<Vec<Row>, _> = conn.query(skip::asked(shard)).await;
    let asked = match rows.map_err(failed) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => false,
        rows => rows?.into_iter().any(|(name, state, ..)| {
            state != skip::GONE && name.parse().is_ok_and(|name: Gtid| name == gtid)
        }),
    };
    conn.disconnect().await.map_err(failed)?;
    Ok(asked)
}

/// What was asked for is not there any more, and the group that has its GTID now is read as any other is.
/// Only by the reader in charge.
pub async fn gone(
    primary: &Endpoint,
    epoch: u64,
    shard: OldShard,
    gtid: Gtid,
) -> Result<(), ServerError> {
    let failed = |error| server_error(primary, RECORDING, error);
    let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
    conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    conn.exec_drop(OURS, (epoch,)).await.map_err(failed)?;
    if conn.affected_rows() == 1 {
        conn.query_drop(skip::gone(shard, gtid)).await.map_err(failed)?;
    }
    conn.query_drop("COMMIT").await.map_err(failed)?;
    conn.disconnect().await.map_err(failed)
}

/// Writes down what was passed over, and which tables are to be compared. The first time alone: what
/// was proven since stays so, for nothing else happens when the group comes again.
pub async fn record(
    primary: &Endpoint,
    epoch: u64,
    shard: OldShard,
    skipped: &Skipped,
    xa_grace: Duration,
) -> Result<(), ReadError> {
    let failed = |error| server_error(primary, RECORDING, error);
    let recording = async {
        let gtid = skipped.digest.gtid;
        let late = if skipped.late { xa_grace } else { Duration::ZERO };
        let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
        conn.query_drop("START TRANSACTION").await.map_err(failed)?;
        conn.exec_drop(OURS, (epoch,)).await.map_err(failed)?;
        // A reader that was replaced finds that out by its token; its successor comes by it again.
        if conn.affected_rows() == 1 {
            for table in &skipped.tables {
                conn.exec_drop(skip::marks(shard, gtid, late), (table,)).await.map_err(failed)?;
            }
            let passed = skip::passed(shard, gtid, skipped.digest.checksum);
            conn.query_drop(passed).await.map_err(failed)?;
        }
        conn.query_drop("COMMIT").await.map_err(failed)?;
        conn.disconnect().await.map_err(failed)?;
        Ok(())
    };
    within(primary, RECORDING, recording).await
}
