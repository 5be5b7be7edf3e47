//! One batch -> one transaction on the new shard, whatever it takes.
//!
//! The first statement compares and sets the watermark; rows follow; COMMIT. A retryable failure
//! rolls back and tries again; after a COMMIT that nobody answered the watermark tells whether it
//! was done. The keeper owns the connection, the versions of the watermark rows and the list of
//! parked rows; nothing else writes to the new shard.

mod anew;
mod behind;
mod cut;
mod parked;
mod standing;
mod transaction;

pub use anew::numbers;
pub use cut::{Applied, Begin, Cut, Road};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::applying::{self, Patience};
use modshift_mariadb::{
    Conn, ServerError, Session, catalog, connect, control, error, server, silence,
};
use modshift_proto::plan::{Direction, Endpoint, Plan};
use modshift_proto::{NewShard, OldShard};
use mysql_async::prelude::Queryable;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::anew::Cleared;
use self::parked::load_parked;
use self::standing::Standing;
use self::transaction::query;
use crate::applier::say_waiting;
use crate::backoff::Backoff;
use crate::changed::ChangedRow;
use crate::error::{ApplyError, Class};
use crate::metrics;
use crate::parked::{Parked, ParkedChanges, ParkedRow};
use crate::record;
use crate::status::ApplierStatus;
use crate::target::Target;
use crate::watermark::{self, Outcome, Versions};

/// A network that swallows everything would otherwise hold a batch for ever. Far longer than any
/// transaction should take, and doubled each time in case one does.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const APPLYING: &str = "applying a batch";
/// A batch that takes so long is asked about.
const SILENT_AFTER: Duration = Duration::from_secs(5);

pub struct Keeper {
    endpoint: Endpoint,
    at: String,
    direction: Direction,
    shard: NewShard,
    target: Arc<Target>,
    versions: Versions,
    parked: Parked,
    left: Vec<ChangedRow>,
    /// Rows that the server did not take have been tried again since the start.
    refused_tried: bool,
    parked_rows_max: usize,
    parked_age_us: i64,
    /// Clock of each old shard's newest token that has been applied; 0 before the first.
    clocks: Vec<i64>,
    conn: Option<Conn>,
    standing: Standing,
    /// With a server that does not have what was committed.
    patience: Patience,
    /// Of the batch in hand: tables that are copied anew.
    cleared: BTreeMap<(OldShard, u32), Cleared>,
    packet_bytes_max: usize,
}

fn left(row: &ParkedRow) -> ChangedRow {
    ChangedRow { source: row.source, table: row.table, key: row.key.clone() }
}

/// A transaction that did not commit.
enum Failure {
    /// Certainly not.
    Undone(ApplyError),
    /// COMMIT was sent.
    Unknown(ServerError),
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Failure {
        Failure::Undone(error)
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        Failure::Undone(error.into())
    }
}

impl Keeper {
    /// Connects, takes over the new shard, and reads what is there. One attempt.
    pub async fn open(plan: &Plan, shard: NewShard) -> Result<(Keeper, Begin), ApplyError> {
        let endpoint = plan.new[usize::from(shard.0)].clone();
        let at = modshift_mariadb::connect::label(&endpoint);
        let mut conn = connect(&endpoint, Session::Exact).await?;
        applying::promoted(&mut conn, &at).await?;
        let packet_bytes_max = server::max_allowed_packet(&mut conn).await? as usize;
        let mut schemas = Vec::with_capacity(plan.tables.len());
        let mut texts = Vec::with_capacity(plan.tables.len());
        for table in &plan.tables {
            texts.push(catalog::made(&mut conn, &endpoint.schema, &table.name).await?);
            schemas.push(catalog::table(&mut conn, &endpoint.schema, &table.name).await?);
        }
        let target = Target::new(plan, shard, schemas)
            .map_err(|error| ApplyError::Target { new: shard, error })?;
        no_triggers(&mut conn, plan, shard).await?;
        let sources = plan.old_modulus.get();
        let random = Backoff::random() as u16;
        let (versions, kept) = watermark::take_over(&mut conn, &at, shard, sources, random).await?;
        let passing = record::begin(&mut conn, &at, plan, shard).await?;
        let mut clocks = vec![0; usize::from(sources)];
        for row in &kept {
            clocks[usize::from(row.source.0)] = row.mark.token_clock_us;
        }
        // What the operator did about a duplicate may still be on its way: rows found parked wait
        // their whole time again.
        let mut parked = load_parked(&mut conn, &at, &target).await?;
        parked.wait_since(clocks.iter().copied().min().unwrap_or_default());
        let offset = kept.iter().filter_map(|row| row.offset).max();
        let keeper = Keeper {
            endpoint,
            at,
            direction: plan.direction(),
            shard,
            target: Arc::new(target),
            versions,
            parked,
            left: Vec::new(),
            refused_tried: false,
            parked_rows_max: plan.apply.parked_rows_max,
            parked_age_us: plan.apply.parked_age_max.as_micros() as i64,
            clocks,
            conn: Some(conn),
            standing: Standing::new(texts),
            patience: Patience::default(),
            cleared: BTreeMap::new(),
            packet_bytes_max,
        };
        metrics::parked(shard, keeper.parked.len());
        Ok((keeper, Begin { kept, offset, passing }))
    }

    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }

    pub fn parked_rows(&self) -> usize {
        self.parked.len()
    }

    /// Applies a batch exactly once. Returns when it is durable, when it never will be, or, with
    /// the last error, when `cancel` ends the retries.
    pub async fn commit(
        &mut self,
        cut: &Cut,
        status: &ApplierStatus,
        cancel: &CancellationToken,
    ) -> Result<Applied, ApplyError> {
        let mut backoff = Backoff::new();
        self.cleared.clear();
        let mut unknown = false;
        let mut exact = false;
        // Of a COMMIT without an answer, where the server that was asked may not have had it yet.
        let mut perhaps = false;
        let mut limit = ATTEMPT_TIMEOUT;
        let begun = Instant::now();
        loop {
            let (endpoint, at, shard) = (self.endpoint.clone(), self.at.clone(), self.shard);
            let attempt = timeout(limit, self.attempt(cut, &mut unknown, &mut exact));
            let (attempt, seen) = silence::watched(&endpoint, SILENT_AFTER, attempt, |why| {
                let (doing, detail) = (APPLYING, format!("no answer yet: {why}"));
                let at = at.clone();
                let error = ServerError::Lost { at, doing, detail }.into();
                say_waiting(shard, status, &error, "a batch takes long");
            })
            .await;
            let late = |_| Err(self.no_answer(&mut limit, seen));
            let failure = match attempt.unwrap_or_else(late) {
                Ok(Some(applied)) => {
                    metrics::batch(self.shard, &self.target, cut, applied.road, begun.elapsed());
                    self.check_overdue().await?;
                    return Ok(applied);
                }
                // The batch wants the other road: at once.
                Ok(None) => continue,
                Err(failure) => failure,
            };
            let error = match failure {
                Failure::Undone(error) => error,
                Failure::Unknown(error) => {
                    (unknown, perhaps) = (true, true);
                    self.conn = None;
                    ApplyError::Server(error)
                }
            };
            let error = match error {
                // A replica that was asked before it had that COMMIT has it by now: once more.
                ApplyError::TakenOver { .. } if perhaps => {
                    (unknown, perhaps) = (true, false);
                    continue;
                }
                ApplyError::TakenOver { .. } => self.behind_or_taken(error, &cut.moves).await,
                error => error,
            };
            if error.class() != Class::Retry {
                return Err(error);
            }
            // What comes later may hold the very commit that was not answered.
            unknown |= matches!(error, ApplyError::NotThereYet { .. });
            metrics::retry(self.shard, error.reason());
            say_waiting(self.shard, status, &error, "batch not applied, will try again");
            self.roll_back(&error).await;
            if !backoff.wait(cancel).await {
                return Err(error);
            }
        }
    }

    /// The connection went with the attempt, and nobody knows how far that had come.
    fn no_answer(&self, limit: &mut Duration, seen: Option<&str>) -> Failure {
        let detail = silence::detail(*limit, seen);
        *limit *= 2;
        Failure::Unknown(ServerError::Lost { at: self.at.clone(), doing: APPLYING, detail })
    }

    /// One transaction. `None`: rolled back, and `exact` is set for the next.
    async fn attempt(
        &mut self,
        cut: &Cut,
        unknown: &mut bool,
        exact: &mut bool,
    ) -> Result<Option<Applied>, Failure> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                let mut conn = connect(&self.endpoint, Session::Exact).await?;
                applying::promoted(&mut conn, &self.at).await?;
                self.as_left(&mut conn, &cut.moves, *unknown).await?;
                conn
            }
        };
        if *unknown {
            match self.versions.resolve(&mut conn, &self.at, &cut.moves).await? {
                Outcome::Committed => {
                    info!(target = self.shard.0, "an unanswered commit had been done");
                    let now = load_parked(&mut conn, &self.at, &self.target).await?;
                    let before = std::mem::replace(&mut self.parked, now);
                    let gone = |row: &&ParkedRow| {
                        self.parked.get(row.source, row.table, &row.key).is_none()
                    };
                    self.left.extend(before.iter().filter(gone).map(left));
                    self.conn = Some(conn);
                    self.committed(cut, None)?;
                    return Ok(Some(Applied::default()));
                }
                Outcome::NotCommitted => *unknown = false,
                Outcome::TakenOver => {
                    return Err(ApplyError::TakenOver { new: self.shard }.into());
                }
            }
        }
        self.clear(&mut conn, cut).await?;
        let mut standing = std::mem::take(&mut self.standing);
        let result = self.transaction(&mut conn, cut, *exact, &mut standing).await;
        self.standing = standing;
        self.conn = Some(conn);
        let (applied, changes) = match result? {
            Some(done) => done,
            None => {
                *exact = true;
                return Ok(None);
            }
        };
        self.versions.commit_took(applied.commit);
        self.refused_tried |= applied.road == Road::Exact;
        self.committed(cut, Some(changes))?;
        Ok(Some(applied))
    }

    /// Rows that wait no more, since this was asked last: most have moved in.
    pub fn left(&mut self) -> Vec<ChangedRow> {
        std::mem::take(&mut self.left)
    }

    /// The transaction is in. `changes`: `None` where they have been read again.
    fn committed(&mut self, cut: &Cut, changes: Option<ParkedChanges>) -> Result<(), ApplyError> {
        self.versions.committed(&cut.moves);
        self.patience.over();
        let before = self.parked.len();
        if let Some(changes) = changes {
            for ((source, table), (rows, why)) in changes.refused() {
                let table = self.target.table(table).schema.name.as_str();
                error!(
                    target = self.shard.0,
                    source = source.0,
                    table,
                    rows,
                    why,
                    "rows wait in modshift_parked until they are changed or deleted where they came \
                     from"
                );
            }
            for ((source, table), rows) in changes.beside_own() {
                let table = self.target.table(table).schema.name.as_str();
                warn!(
                    target = self.shard.0,
                    source = source.0,
                    table,
                    rows,
                    hint = self.direction.advice("if they stay: modshift verify --repair"),
                    "rows wait for their place, which another row of their own source has here: that \
                     one may be too many"
                );
            }
            self.left.extend(changes.removed.iter().map(left));
            changes.commit(&mut self.parked);
        }
        for moved in &cut.moves {
            self.clocks[usize::from(moved.source.0)] = moved.mark.token_clock_us;
        }
        metrics::parked(self.shard, self.parked.len());
        self.check_parked_count(before)
    }

    /// Leaves no transaction open. A connection that cannot even roll back is dropped, and the
    /// server rolls back for it.
    async fn roll_back(&mut self, error: &ApplyError) {
        let lost = matches!(error, ApplyError::Server(error) if error.is_connection_lost());
        let Some(mut conn) = self.conn.take().filter(|_| !lost) else { return };
        if query(&mut conn, &self.at, "rolling back", "ROLLBACK").await.is_ok() {
            self.conn = Some(conn);
        }
    }

    /// Says on the new shard why its applier stopped, if that can be said at all.
    pub async fn say_halted(&mut self, error: &ApplyError) {
        if matches!(error, ApplyError::TakenOver { .. }) {
            return;
        }
        let conn = match self.conn.take() {
            Some(conn) => Ok(conn),
            None => connect(&self.endpoint, Session::Exact).await,
        };
        let written = match conn {
            Err(error) => Err(error),
            Ok(mut conn) => {
                // An open transaction would swallow the text with its rows.
                match query(&mut conn, &self.at, "rolling back", "ROLLBACK").await {
                    Err(error) => Err(error),
                    Ok(()) => {
                        let text = error.halted_text(self.direction);
                        let record = error.skips().map(|record| (record.offset, text.as_str()));
                        let said = match record {
                            None => Ok(()),
                            Some(at) => record::halts(&mut conn, &self.at, self.shard, at).await,
                        };
                        let (at, versions) = (&self.at, &self.versions);
                        let halted = watermark::write_halted(&mut conn, at, versions, &text).await;
                        said.and(halted)
                    }
                }
            }
        };
        if let Err(error) = written {
            warn!(target = self.shard.0, error = %error, "could not write why the applier stopped");
        }
    }

    pub async fn close(mut self) {
        if let Some(conn) = self.conn.take() {
            // Everything is durable; the server closes what we cannot.
            let _ = timeout(Duration::from_secs(1), conn.disconnect()).await;
        }
    }
}

/// A trigger of the application runs for rows that are written here, too: it may be there only while
/// applications write here, when no rows come.
async fn no_triggers(conn: &mut Conn, plan: &Plan, shard: NewShard) -> Result<(), ApplyError> {
    let endpoint = &plan.new[usize::from(shard.0)];
    let mut triggers = catalog::triggers(conn, &endpoint.schema).await?;
    triggers.retain(|trigger| plan.tables.iter().any(|table| table.name == trigger.table));
    if triggers.is_empty() {
        return Ok(());
    }
    // An old shard serves until something has fenced it; a new one does not until it is opened.
    let serves = match plan.direction() {
        Direction::Forward => "EXISTS (SELECT 1 FROM modshift_token WHERE phase = 'serving')",
        Direction::Back => "NOT EXISTS (SELECT 1 FROM modshift_token WHERE phase = 'fenced')",
    };
    let at = modshift_mariadb::connect::label(endpoint);
    let of = |error| error::of(&at, "asking whether it serves", error);
    let sql = format!("SELECT {serves} OR EXISTS ({})", control::HANDED_OVER);
    let serves: Option<bool> = conn.query_first(sql).await.map_err(of)?;
    match serves {
        Some(true) => Ok(()),
        _ => {
            let of = |trigger: catalog::TriggerInfo| {
                format!("{} on table {}", trigger.name, trigger.table)
            };
            let triggers = triggers.into_iter().map(of).collect::<Vec<_>>().join(", ");
            Err(ApplyError::Triggers { new: shard, triggers })
        }
    }
}
