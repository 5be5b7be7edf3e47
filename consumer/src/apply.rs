//! One batch -> one transaction on the new shard, whatever it takes.
//!
//! The first statement compares and sets the watermark; rows follow; COMMIT. A retryable failure
//! rolls back and tries again; after a COMMIT that nobody answered the watermark tells whether it
//! was done. The keeper owns the connection, the versions of the watermark rows and the list of
//! parked rows; nothing else writes to the new shard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::{Offset, stage};
use modshift_mariadb::control::PARKED;
use modshift_mariadb::{Conn, ServerError, Session, catalog, connect, error, server};
use modshift_proto::plan::{Direction, Endpoint, Plan};
use modshift_proto::{NewShard, OldShard};
use mysql_async::prelude::Queryable;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::error::{ApplyError, Class, Duplicate};
use crate::merge::{MergeError, Placed, exact_road, fast_road};
use crate::parked::{Parked, ParkedChanges, ParkedRow};
use crate::places::{SqlPlaces, image};
use crate::status::{ApplierStatus, Phase};
use crate::target::Target;
use crate::watermark::{self, Kept, Move, Outcome, Versions};
use crate::{metrics, render};

/// One bulk statement: more does not pay, and a packet must never be split (the driver sends
/// parameter types with the first part only).
const STATEMENT_BYTES_MAX: usize = 4 << 20;

/// A network that swallows everything would otherwise hold a batch for ever. Far longer than any
/// transaction should take, and doubled each time in case one does.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// A batch, and where the watermarks stand once it is in.
#[derive(Debug, Default)]
pub struct Cut {
    pub batch: Batch,
    pub moves: Vec<Move>,
    /// Old shards of which a token is in it.
    pub tokens: Vec<OldShard>,
    /// To resume the partition from.
    pub offset: Option<Offset>,
}

/// What a new shard held when its applier began.
#[derive(Debug)]
pub struct Begin {
    pub kept: Vec<Kept>,
    pub offset: Option<Offset>,
}

/// What one transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub road: Road,
    pub parked: u64,
    pub settled: u64,
    /// What the COMMIT took; zero where nobody knows.
    pub commit: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Road {
    /// Watermark only.
    #[default]
    Marks,
    Fast,
    Exact,
}

pub struct Keeper {
    endpoint: Endpoint,
    at: String,
    direction: Direction,
    shard: NewShard,
    target: Arc<Target>,
    versions: Versions,
    parked: Parked,
    parked_rows_max: usize,
    parked_age_us: i64,
    /// Clock of each old shard's newest token that has been applied; 0 before the first.
    clocks: Vec<i64>,
    conn: Option<Conn>,
    packet_bytes_max: usize,
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
        let packet_bytes_max = server::max_allowed_packet(&mut conn).await? as usize;
        let mut schemas = Vec::with_capacity(plan.tables.len());
        for table in &plan.tables {
            schemas.push(catalog::table(&mut conn, &endpoint.schema, &table.name).await?);
        }
        let target = Target::new(plan, shard, schemas)
            .map_err(|error| ApplyError::Target { new: shard, error })?;
        let sources = plan.old_modulus.get();
        let random = Backoff::random() as u16;
        let (versions, kept) = watermark::take_over(&mut conn, &at, shard, sources, random).await?;
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
            parked_rows_max: plan.apply.parked_rows_max,
            parked_age_us: plan.apply.parked_age_max.as_micros() as i64,
            clocks,
            conn: Some(conn),
            packet_bytes_max,
        };
        metrics::parked(shard, keeper.parked.len());
        keeper.check_parked_count()?;
        Ok((keeper, Begin { kept, offset }))
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
        let mut unknown = false;
        let mut exact = false;
        let mut limit = ATTEMPT_TIMEOUT;
        let begun = Instant::now();
        loop {
            let attempt = timeout(limit, self.attempt(cut, &mut unknown, &mut exact)).await;
            let failure = match attempt.unwrap_or_else(|_| Err(self.no_answer(&mut limit))) {
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
                    unknown = true;
                    self.conn = None;
                    ApplyError::Server(error)
                }
            };
            if error.class() != Class::Retry {
                return Err(error);
            }
            metrics::retry(self.shard, error.reason());
            status.phase(Phase::Retrying, Some(&error));
            warn!(target = self.shard.0, error = %error, "batch not applied, will try again");
            self.roll_back(&error).await;
            if !backoff.wait(cancel).await {
                return Err(error);
            }
        }
    }

    /// The connection went with the attempt, and nobody knows how far that had come.
    fn no_answer(&self, limit: &mut Duration) -> Failure {
        let detail = format!("no answer within {} s", limit.as_secs());
        *limit *= 2;
        Failure::Unknown(ServerError::Lost {
            at: self.at.clone(),
            doing: "applying a batch",
            detail,
        })
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
            None => connect(&self.endpoint, Session::Exact).await?,
        };
        if *unknown {
            match self.versions.resolve(&mut conn, &self.at, &cut.moves).await? {
                Outcome::Committed => {
                    info!(target = self.shard.0, "an unanswered commit had been done");
                    self.parked = load_parked(&mut conn, &self.at, &self.target).await?;
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
        let result = self.transaction(&mut conn, cut, *exact).await;
        self.conn = Some(conn);
        let (applied, changes) = match result? {
            Some(done) => done,
            None => {
                *exact = true;
                return Ok(None);
            }
        };
        self.versions.commit_took(applied.commit);
        self.committed(cut, Some(changes))?;
        Ok(Some(applied))
    }

    async fn transaction(
        &self,
        conn: &mut Conn,
        cut: &Cut,
        exact: bool,
    ) -> Result<Option<(Applied, ParkedChanges)>, Failure> {
        self.compare_and_set(conn, cut).await?;
        let mut places = SqlPlaces {
            conn,
            at: &self.at,
            target: &self.target,
            parked: &self.parked,
            changes: ParkedChanges::default(),
            clocks: &self.clocks,
            bytes_max: STATEMENT_BYTES_MAX.min(self.packet_bytes_max / 2),
            packet_bytes_max: self.packet_bytes_max,
            taken: None,
        };
        let mut applied = Applied::default();
        if cut.batch.is_empty() {
            // Nothing was freed, so there is nothing for parked rows either.
        } else if exact || !self.parked.is_empty() {
            let merged =
                exact_road(&mut places, &cut.batch).await.map_err(|error| self.merge(error))?;
            (applied.parked, applied.settled) = (merged.parked, merged.settled);
            applied.road = Road::Exact;
        } else {
            applied.road = Road::Fast;
            if fast_road(&mut places, &cut.batch).await? == Placed::Taken {
                query(places.conn, &self.at, "rolling back", "ROLLBACK").await?;
                debug!(target = self.shard.0, "a place was taken: exact road");
                return Ok(None);
            }
        }
        let changes = places.changes;
        let rows = cut.batch.len() as u64;
        stage::reached("after_apply_before_commit", rows).await;
        // Whatever goes wrong from here on, COMMIT may have been heard.
        let began = Instant::now();
        query(conn, &self.at, "committing a batch", "COMMIT").await.map_err(Failure::Unknown)?;
        applied.commit = began.elapsed();
        stage::reached("after_commit_before_ack", rows).await;
        Ok(Some((applied, changes)))
    }

    /// BEGIN and the compare-and-set, in one round trip.
    async fn compare_and_set(&self, conn: &mut Conn, cut: &Cut) -> Result<(), ApplyError> {
        let of = |error| error::of(&self.at, "moving the watermark", error);
        let statements = self.versions.compare_and_set(&cut.moves, cut.offset);
        let expected = statements.len();
        let text = format!("BEGIN; {}", statements.join("; "));
        let mut hit = 0;
        let mut result = match conn.query_iter(text).await {
            Ok(result) => result,
            Err(error) => return Err(of(error).into()),
        };
        let outcome = loop {
            hit += usize::from(result.affected_rows() == 1);
            if result.is_empty() {
                break result.drop_result().await;
            }
            if let Err(error) = result.next().await {
                break Err(error);
            }
        };
        match outcome.map_err(of) {
            Ok(()) if hit == expected => Ok(()),
            // Inserted by another applier, or raised.
            Err(error) if error.code() == Some(1062) => self.taken_over(conn).await,
            Err(error) => Err(error.into()),
            Ok(()) => self.taken_over(conn).await,
        }
    }

    async fn taken_over(&self, conn: &mut Conn) -> Result<(), ApplyError> {
        query(conn, &self.at, "rolling back", "ROLLBACK").await?;
        Err(ApplyError::TakenOver { new: self.shard })
    }

    fn merge(&self, error: MergeError<ApplyError>) -> Failure {
        Failure::Undone(match error {
            MergeError::Places(error) => error,
            MergeError::OwnRow { table, old, key } => ApplyError::OwnRow {
                new: self.shard,
                table: self.target.table(table).schema.name.clone(),
                old,
                key,
            },
        })
    }

    /// The transaction is in. `changes`: `None` where they have been read again.
    fn committed(&mut self, cut: &Cut, changes: Option<ParkedChanges>) -> Result<(), ApplyError> {
        self.versions.committed(&cut.moves);
        if let Some(changes) = changes {
            changes.commit(&mut self.parked);
        }
        for moved in &cut.moves {
            self.clocks[usize::from(moved.source.0)] = moved.mark.token_clock_us;
        }
        metrics::parked(self.shard, self.parked.len());
        self.check_parked_count()
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

    fn check_parked_count(&self) -> Result<(), ApplyError> {
        let (parked, limit) = (self.parked.len(), self.parked_rows_max);
        if parked <= limit {
            return Ok(());
        }
        Err(ApplyError::TooManyParked { new: self.shard, parked, limit })
    }

    /// A parked row that every other stream has had time to make room for is a true duplicate.
    async fn check_overdue(&mut self) -> Result<(), ApplyError> {
        if self.parked.is_empty() {
            return Ok(());
        }
        // 0: a source of which no token has been applied yet.
        let clock_us = self.clocks.iter().copied().min().unwrap_or_default();
        if clock_us == 0 {
            return Ok(());
        }
        self.parked.begin_waiting(clock_us);
        let overdue = self.parked.overdue(clock_us, self.parked_age_us);
        let Some(row) = overdue else { return Ok(()) };
        let row = row.clone();
        let target = Arc::clone(&self.target);
        let table = target.table(row.table);
        let columns: Vec<&str> = table
            .schema
            .primary_key
            .iter()
            .map(|&index| table.schema.columns[index].name.as_str())
            .collect();
        let (key, holder) = self.blocked_now(&row).await;
        Err(ApplyError::Duplicate(Box::new(Duplicate {
            new: self.shard,
            table: table.schema.name.clone(),
            columns: columns.join(", "),
            key,
            old: row.source,
            holder,
            waited_s: (clock_us - row.clock_us) / 1_000_000,
            values: render::key(&table.schema, &row.key),
        })))
    }

    /// Which key of a parked row is taken and by whom: as it is now, or else as it was.
    async fn blocked_now(&mut self, row: &ParkedRow) -> (String, String) {
        let split = |text: &str| match text.split_once(" of ") {
            Some((key, holder)) => (key.to_owned(), holder.to_owned()),
            None => (text.to_owned(), "another old shard".to_owned()),
        };
        let now = match &mut self.conn {
            Some(conn) => holder_now(conn, &self.at, &self.target, row).await.unwrap_or_default(),
            None => None,
        };
        match now {
            Some((key, holder)) => (key, holder.to_string()),
            None => split(&row.blocked_by),
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
                        watermark::write_halted(&mut conn, &self.at, &self.versions, &text).await
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

async fn query(
    conn: &mut Conn,
    at: &str,
    doing: &'static str,
    text: &str,
) -> Result<(), ServerError> {
    conn.query_drop(text).await.map_err(|error| error::of(at, doing, error))
}

async fn load_parked(conn: &mut Conn, at: &str, target: &Target) -> Result<Parked, ApplyError> {
    type Stored = (u64, u16, String, Vec<u8>, i64, String);
    let rows: Vec<Stored> = conn
        .query(format!(
            "SELECT id, source, table_name, pk, parked_clock_us, blocked_by FROM {PARKED}"
        ))
        .await
        .map_err(|error| error::of(at, "reading parked rows", error))?;
    let mut parked = Parked::default();
    for (id, source, name, key, clock_us, blocked_by) in rows {
        let table = target.number(&name).ok_or_else(|| ApplyError::Control {
            new: target.shard,
            table: PARKED,
            detail: format!("a row of table {name}, which the plan does not have"),
        })?;
        let key = key.into_boxed_slice();
        let source = OldShard(source);
        parked.insert(ParkedRow { id, source, table, key, clock_us, blocked_by });
    }
    Ok(parked)
}

/// The first unique key of a parked row that a row of another old shard holds.
async fn holder_now(
    conn: &mut Conn,
    at: &str,
    target: &Target,
    row: &ParkedRow,
) -> Result<Option<(String, OldShard)>, ApplyError> {
    let image = image(conn, at, target.shard, row).await?;
    crate::places::holder_of(conn, at, target, row, &image).await
}
