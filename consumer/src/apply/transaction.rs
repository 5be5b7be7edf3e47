//! The transaction of a batch: the watermark's compare-and-set, the rows by the fast or the exact
//! road, COMMIT.

use std::time::{Duration, Instant};

use modshift_changelog::stage;
use modshift_mariadb::control::HANDED_OVER;
use modshift_mariadb::{Conn, ServerError, error};
use mysql_async::prelude::Queryable;
use tracing::debug;

use super::standing::Standing;
use super::{Applied, Cut, Failure, Keeper, Road};
use crate::error::ApplyError;
use crate::merge::{Placed, exact_road, fast_road};
use crate::parked::ParkedChanges;
use crate::places::SqlPlaces;
use crate::watermark::{CompareAndSet, Outcome};

/// One bulk statement: more does not pay, and a packet must never be split (the driver sends
/// parameter types with the first part only).
const STATEMENT_BYTES_MAX: usize = 4 << 20;

impl Keeper {
    pub(super) async fn transaction(
        &self,
        conn: &mut Conn,
        cut: &Cut,
        exact: bool,
        standing: &mut Standing,
    ) -> Result<Option<(Applied, ParkedChanges)>, Failure> {
        if cut.batch.is_empty() {
            let statements = self.versions.compare_and_set(&cut.moves, cut.offset);
            if let [only] = &statements[..]
                && only.update
            {
                Box::pin(standing.check(conn, &self.endpoint, &self.target, &[])).await?;
                let commit = self.marks(conn, cut, only).await?;
                let applied = Applied { commit, ..Applied::default() };
                return Ok(Some((applied, ParkedChanges::default())));
            }
        }
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
            retry_refused: !self.refused_tried,
            blocked: None,
        };
        let mut applied = Applied::default();
        if cut.batch.is_empty() {
            // Nothing was freed, so there is nothing for parked rows either.
        } else if exact || self.concerns_parked(cut) {
            let merged = exact_road(&mut places, &cut.batch).await?;
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
        let mut written: Vec<u32> = cut.batch.rows().map(|row| row.table).collect();
        written.sort_unstable();
        written.dedup();
        Box::pin(standing.check(conn, &self.endpoint, &self.target, &written)).await?;
        stage::reached("after_apply_before_commit", rows).await;
        // Whatever goes wrong from here on, COMMIT may have been heard.
        let began = Instant::now();
        query(conn, &self.at, "committing a batch", "COMMIT").await.map_err(Failure::Unknown)?;
        applied.commit = began.elapsed();
        stage::reached("after_commit_before_ack", rows).await;
        Ok(Some((applied, changes)))
    }

    /// Others go by the fast road, however many rows are parked.
    fn concerns_parked(&self, cut: &Cut) -> bool {
        let retries = !self.refused_tried && self.parked.any_refused();
        retries || self.parked.concerned(cut.batch.rows())
    }

    /// Nothing but watermarks: the comparison commits by itself, in one round trip. An owner that took
    /// over has raised every row, so it moves all of them or none. What it took.
    async fn marks(
        &self,
        conn: &mut Conn,
        cut: &Cut,
        only: &CompareAndSet,
    ) -> Result<Duration, Failure> {
        let began = Instant::now();
        query(conn, &self.at, "moving the watermark", &only.text)
            .await
            .map_err(Failure::Unknown)?;
        let took = began.elapsed();
        match conn.affected_rows() == only.rows as u64 {
            true => Ok(took),
            false => self.refused(conn, cut).await.map(|()| took).map_err(Failure::from),
        }
    }

    /// BEGIN and the compare-and-set, in one round trip.
    async fn compare_and_set(&self, conn: &mut Conn, cut: &Cut) -> Result<(), ApplyError> {
        let of = |error| error::of(&self.at, "moving the watermark", error);
        let mut statements = self.versions.compare_and_set(&cut.moves, cut.offset);
        if !cut.batch.is_empty() {
            // Not where triggers of the application are. The rows read stay locked to the end.
            for update in statements.iter_mut().filter(|statement| statement.update) {
                update.text.push_str(&format!(" AND NOT EXISTS ({HANDED_OVER})"));
            }
        }
        let texts: Vec<&str> = statements.iter().map(|statement| statement.text.as_str()).collect();
        let text = format!("BEGIN; {}", texts.join("; "));
        let expected: u64 = statements.iter().map(|statement| statement.rows as u64).sum();
        let mut hit = 0;
        let mut result = match conn.query_iter(text).await {
            Ok(result) => result,
            Err(error) => return Err(of(error).into()),
        };
        let outcome = loop {
            hit += result.affected_rows();
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
            Err(error) if error.code() == Some(1062) => self.refused(conn, cut).await,
            Err(error) => Err(error.into()),
            Ok(()) => self.refused(conn, cut).await,
        }
    }

    /// By another owner, or by the triggers that were handed over to this shard.
    async fn refused(&self, conn: &mut Conn, cut: &Cut) -> Result<(), ApplyError> {
        query(conn, &self.at, "rolling back", "ROLLBACK").await?;
        let ours = self.versions.resolve(conn, &self.at, &cut.moves).await?;
        match ours == Outcome::NotCommitted && !cut.batch.is_empty() {
            true => Err(ApplyError::HandedOver { new: self.shard }),
            false => Err(ApplyError::TakenOver { new: self.shard }),
        }
    }
}

pub(super) async fn query(
    conn: &mut Conn,
    at: &str,
    doing: &'static str,
    text: &str,
) -> Result<(), ServerError> {
    conn.query_drop(text).await.map_err(|error| error::of(at, doing, error))
}
