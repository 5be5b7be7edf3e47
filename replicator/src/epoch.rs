//! Opens a reader epoch on an old shard: from its commit on, this reader is the only one whose
//! writes there take effect.

use modshift_mariadb::{Conn, Session, applying, control};
use modshift_proto::differences;
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Direction, Endpoint, Plan};
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{GroupDigest, GtidSet, OldShard};
use mysql_async::prelude::Queryable;
use std::collections::{BTreeMap, HashMap};

use crate::definitions;
use crate::error::{ReadError, server_error};
use crate::route::{RoutedTable, Target};
use crate::skip::{self, Skips};
use crate::snapshot::TableProgress;

/// Where a reader starts, and under which epoch.
#[derive(Clone, Debug)]
pub struct Epoch {
    pub number: u64,
    pub resume: ResumePoint,
    /// Nothing was recorded before: no group acknowledged, no chunk done.
    pub initial: bool,
    pub tables: HashMap<String, TableProgress>,
    /// The definitions by which the log is read, see [`definitions::kept`].
    pub kept: BTreeMap<String, String>,
    /// Tables that are copied from their beginning, though earlier epochs may have sent some of
    /// their rows.
    pub anew: Vec<String>,
    /// Groups that an operator has had passed over.
    pub skip: Skips,
}

/// Complete groups: all of `before`, then the group of `last`. The split lets the reader ask for
/// that last group again and see that it is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ResumePoint {
    pub before: GtidSet,
    pub last: Option<GroupDigest>,
    /// As of there; the present one may be another already.
    pub phase: TokenPhase,
}

impl ResumePoint {
    pub fn gtids(&self) -> GtidSet {
        crate::error::with(&self.before, self.last)
    }
}

/// Creates modshift's tables where they are missing, raises the epoch, and reads what the
/// predecessor recorded; the first start records its GTID set in the same transaction.
pub async fn open(
    shard: OldShard,
    primary: &Endpoint,
    plan: &Plan,
    tables: &[RoutedTable],
) -> Result<Epoch, ReadError> {
    let mut conn = modshift_mariadb::connect(primary, Session::Plain).await?;
    let at = modshift_mariadb::connect::label(primary);
    applying::promoted(&mut conn, &at).await?;
    control::create(&mut conn, &at, primary, plan).await?;
    // Before the epoch is raised: what does not fit must not end a reader that works.
    let mut kept = control::kept_tables(&mut conn, &at).await?;
    same(shard, plan, tables, &kept)?;
    allowed(shard, plan, &mut conn, &at, &kept).await?;
    let planned = described(plan, tables);
    let failed = |error| server_error(primary, "opening a reader epoch", error);
    conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    // The row is inserted first, so that two first starts wait for each other here.
    let first_phase = match plan.direction() {
        Direction::Forward => TokenPhase::Serving,
        // Armed: nobody writes to a new shard before the flip.
        Direction::Back => TokenPhase::Fenced,
    };
    conn.exec_drop(
        "INSERT INTO modshift_token (id, epoch, writes, clock, phase)
         VALUES (1, 0, 0, UTC_TIMESTAMP(6), ?) ON DUPLICATE KEY UPDATE id = id",
        (first_phase.name(),),
    )
    .await
    .map_err(failed)?;
    conn.query_drop(
        "UPDATE modshift_token SET
           epoch = GREATEST(epoch + 1, CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)),
           writes = writes + 1, clock = UTC_TIMESTAMP(6), halted = NULL
         WHERE id = 1",
    )
    .await
    .map_err(failed)?;
    let row: Option<(u64, u64)> = conn
        .query_first("SELECT epoch, writes FROM modshift_token WHERE id = 1")
        .await
        .map_err(failed)?;
    let (number, writes) = row.ok_or(ReadError::ProgressLost { shard })?;
    let recorded = load(shard, primary, &mut conn).await?;
    let first = writes == 1;
    let (resume, progress) = match recorded {
        Some(recorded) => recorded,
        None if first => {
            let gtids: Option<String> =
                conn.query_first("SELECT @@gtid_binlog_pos").await.map_err(failed)?;
            let gtids = gtids.unwrap_or_default();
            conn.exec_drop(
                "INSERT INTO modshift_progress (name, epoch, gtids, phase) VALUES (?, ?, ?, ?)",
                (control::RESUME_ROW, number, &gtids, first_phase.name()),
            )
            .await
            .map_err(failed)?;
            let before =
                gtids.parse().map_err(|source| ReadError::ProgressUnreadable { shard, source })?;
            (ResumePoint { before, last: None, phase: first_phase }, HashMap::new())
        }
        None => return Err(ReadError::ProgressLost { shard }),
    };
    conn.exec_drop("UPDATE modshift_progress SET epoch = ?", (number,)).await.map_err(failed)?;
    // A table that the plan left out for a while has changes that nobody sent: should it come back,
    // it is copied anew.
    for name in progress.keys().filter(|name| !planned.contains_key(*name)) {
        conn.exec_drop("DELETE FROM modshift_progress WHERE name = ?", (name,))
            .await
            .map_err(failed)?;
    }
    for name in kept.keys().filter(|name| !planned.contains_key(*name)) {
        conn.exec_drop("DELETE FROM modshift_tables WHERE name = ?", (name,))
            .await
            .map_err(failed)?;
    }
    for (name, definition) in planned.iter().filter(|(name, _)| !kept.contains_key(*name)) {
        let insert = "INSERT INTO modshift_tables (name, definition, added) VALUES (?, ?, ?)";
        conn.exec_drop(insert, (name, definition, !first)).await.map_err(failed)?;
    }
    let added: Vec<String> =
        conn.query("SELECT name FROM modshift_tables WHERE added = 1").await.map_err(failed)?;
    kept = planned;
    // Nothing of theirs is recorded as copied, and before the table was taken out of the plan an
    // earlier epoch may have sent rows all the same. Of a table that was there from the start every
    // change is in the log: what was sent stays.
    let sends = |table: &&RoutedTable| !matches!(table.target, Target::Nowhere);
    let copies = plan.direction() == Direction::Forward;
    let anew = tables.iter().filter(sends).map(|table| table.schema.name.clone());
    let anew = anew
        .filter(|name| copies && added.contains(name) && !progress.contains_key(name))
        .collect();
    let skip = skip::begin(&mut conn, primary, shard).await?;
    conn.query_drop("COMMIT").await.map_err(failed)?;
    let initial = resume.last.is_none();
    conn.disconnect().await.map_err(failed)?;
    Ok(Epoch { number, resume, initial, tables: progress, kept, anew, skip })
}

fn described(plan: &Plan, tables: &[RoutedTable]) -> BTreeMap<String, String> {
    let of = |(index, table): (usize, &RoutedTable)| {
        (table.schema.name.clone(), definitions::kept(plan, index, table))
    };
    tables.iter().enumerate().map(of).collect()
}

/// What was written between the resume point and now was written under what is kept: a table that
/// is defined otherwise by now was altered without a trace, or by what is still to be read.
pub fn same(
    shard: OldShard,
    plan: &Plan,
    tables: &[RoutedTable],
    kept: &BTreeMap<String, String>,
) -> Result<(), ReadError> {
    for (name, found) in described(plan, tables) {
        let differ = kept.get(&name).map(|kept| differences(kept, &found)).unwrap_or_default();
        if !differ.is_empty() {
            let primary = &plan.old[usize::from(shard.0)];
            return Err(definitions::drift(shard, primary, &name, &differ));
        }
    }
    Ok(())
}

/// Before a cutover tables may come and go. After it a table that was not in the plan stands on
/// both sides, and nobody knows which rows are newer.
async fn allowed(
    shard: OldShard,
    plan: &Plan,
    conn: &mut Conn,
    at: &str,
    kept: &BTreeMap<String, String>,
) -> Result<(), ReadError> {
    let planned = plan.tables.iter().map(|table| table.name.as_str());
    let changed = control::changed_tables(kept.keys().map(String::as_str), planned);
    let Some(changed) = changed.filter(|_| !kept.is_empty()) else { return Ok(()) };
    let served = match plan.direction() {
        Direction::Back => control::serves(conn, at).await?,
        Direction::Forward => {
            // Fenced by a cutover: the other side serves, or will in a moment.
            let mut any = control::is_closed(conn, at).await?;
            for new in &plan.new {
                let mut conn = modshift_mariadb::connect(new, Session::Plain).await?;
                any |= control::serves(&mut conn, &modshift_mariadb::connect::label(new)).await?;
                // What it said is known; the server closes what we cannot.
                let _ = conn.disconnect().await;
            }
            any
        }
    };
    match served {
        true => Err(ReadError::PlanChanged { shard, changed }),
        false => {
            tracing::warn!(
                shard = shard.0,
                "the plan {changed}, compared with what was read so far"
            );
            Ok(())
        }
    }
}

type Recorded = (ResumePoint, HashMap<String, TableProgress>);

async fn load(
    shard: OldShard,
    primary: &Endpoint,
    conn: &mut Conn,
) -> Result<Option<Recorded>, ReadError> {
    type Row = (String, Option<String>, Option<String>, Option<Vec<u8>>, u64, bool, Option<String>);
    let rows: Vec<Row> = conn
        .query(
            "SELECT name, gtids, digest, copied_to, rows_copied, done, phase
             FROM modshift_progress FOR UPDATE",
        )
        .await
        .map_err(|error| server_error(primary, "reading modshift_progress", error))?;
    let unreadable = |source| ReadError::ProgressUnreadable { shard, source };
    let mut resume = None;
    let mut tables = HashMap::new();
    for (name, gtids, digest, copied_to, rows_copied, done, phase) in rows {
        if name == control::RESUME_ROW {
            let before = gtids.unwrap_or_default().parse().map_err(unreadable)?;
            let last = digest.map(|text| text.parse()).transpose().map_err(unreadable)?;
            // Without its phase nobody knows what may follow.
            let phase = phase.as_deref().and_then(TokenPhase::from_name);
            let phase = phase.ok_or(ReadError::ProgressLost { shard })?;
            resume = Some(ResumePoint { before, last, phase });
        } else {
            let copied_to =
                copied_to.map(|bytes| key_cells(&bytes)).transpose().map_err(|source| {
                    ReadError::Row {
                        shard,
                        table: name.clone(),
                        position: "modshift_progress".to_owned(),
                        group: None,
                        source,
                    }
                })?;
            tables.insert(name, TableProgress { copied_to, rows_copied, done });
        }
    }
    Ok(resume.map(|resume| (resume, tables)))
}

/// A primary key as it is stored in `modshift_progress.copied_to`: a wire row of its cells.
pub fn key_bytes(cells: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut row = RowWriter::new(&mut bytes, cells.len());
    for cell in cells {
        row.bytes(cell);
    }
    row.finish();
    bytes
}

pub fn key_cells(bytes: &[u8]) -> Result<Vec<Vec<u8>>, modshift_proto::row::RowError> {
    RowView::parse(bytes)?
        .cells()
        .map(|cell| cell.map(|cell| cell.unwrap_or_default().to_vec()))
        .collect()
}
