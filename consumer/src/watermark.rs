//! The watermark rows of one new shard: taking them over, moving them by compare-and-set, and
//! finding out what became of a COMMIT that nobody answered.
//!
//! Every write raises `version` by one and names the version that it expects; a new owner lifts
//! all rows to a generation of its own. So a version says who wrote a row and how often, and an
//! applier that was replaced finds out at the first statement of its next transaction.

use std::fmt::Write as _;
use std::time::Duration;

use modshift_changelog::Offset;
use modshift_mariadb::control::WATERMARK;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::{NewShard, OldShard, Position};
use mysql_async::Row;
use mysql_async::prelude::{FromValue, Queryable};

use crate::error::ApplyError;
use crate::sequence::{Awaited, Partial, TokenMark, Watermark};

/// Low bits of a version count writes, the rest are the owner's generation: room for a thousand
/// transactions a second for 30 years, and for 16 million owners.
const GENERATION_BITS: u32 = 40;
/// Marks a group or token whose replay is awaited: see [`Partial`] and [`TokenMark`].
const AWAITED: char = '?';
/// The same where it need not come: [`Awaited::Perhaps`].
const PERHAPS: char = '~';

pub(crate) const COLUMNS: &str = "source, version, epoch, number, gtids, group_gtid, group_ordinal, \
     token_digest, token_writes, token_clock_us, copied, log_offset, halted, tables";

/// One row of `modshift_watermark`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub source: OldShard,
    pub version: u64,
    pub mark: Watermark,
    pub offset: Option<Offset>,
    pub halted: Option<String>,
}

/// What an applier knows of the rows it owns. Index = old shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    generation: u64,
    rows: Vec<Option<u64>>,
    /// What the last COMMIT took: for the throttle, which may be in another process.
    commit_us: u32,
}

/// A move of one watermark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    pub source: OldShard,
    pub mark: Watermark,
}

/// What became of a transaction whose COMMIT was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    NotCommitted,
    /// Neither: another applier has been here since.
    TakenOver,
}

impl Versions {
    /// A new owner of these rows. `random` keeps two first owners of an empty table apart.
    pub fn take_over(rows: &[Kept], sources: u16, random: u16) -> Versions {
        let newest = rows.iter().map(|row| row.version >> GENERATION_BITS).max();
        let generation = newest.map_or(u64::from(random), |newest| newest) + 1;
        let mut versions =
            Versions { generation, rows: vec![None; usize::from(sources)], commit_us: 0 };
        for row in rows {
            versions.rows[usize::from(row.source.0)] = Some(versions.base());
        }
        versions
    }

    /// The version of every row just after the take-over.
    pub fn base(&self) -> u64 {
        self.generation << GENERATION_BITS
    }

    /// The version that a row must have; `None`: there is no row yet.
    pub fn of(&self, source: OldShard) -> Option<u64> {
        self.rows[usize::from(source.0)]
    }

    /// The version that a transaction which touches the row leaves.
    pub fn after(&self, source: OldShard) -> u64 {
        self.of(source).unwrap_or(self.base()) + 1
    }

    /// Rows that a transaction raises: those that move; and where a row is to be inserted, which
    /// has no version to compare yet, all others too, so that a replaced owner cannot insert it.
    pub fn touched(&self, moves: &[Move]) -> Vec<OldShard> {
        let inserts = moves.iter().any(|moved| self.of(moved.source).is_none());
        let sources = (0..self.rows.len() as u16).map(OldShard);
        sources
            .filter(|&source| {
                moves.iter().any(|moved| moved.source == source)
                    || (inserts && self.of(source).is_some())
            })
            .collect()
    }

    /// The transaction's first statements, each of which must change exactly one row.
    pub fn compare_and_set(&self, moves: &[Move], offset: Option<Offset>) -> Vec<String> {
        let mut statements = Vec::new();
        for source in self.touched(moves) {
            let moved = moves.iter().find(|moved| moved.source == source);
            let version = self.after(source);
            let mut text = String::with_capacity(256);
            match self.of(source) {
                Some(_) => {
                    let _ = write!(text, "UPDATE {WATERMARK} SET version = {version}");
                }
                None => {
                    let _ = write!(
                        text,
                        "INSERT INTO {WATERMARK} SET source = {}, version = {version}",
                        source.0
                    );
                }
            }
            if let Some(moved) = moved {
                write_mark(&mut text, &moved.mark);
            }
            let _ = write!(text, ", commit_us = {}", self.commit_us);
            if let Some(offset) = offset {
                let _ = write!(text, ", log_offset = {offset}");
            }
            if let Some(had) = self.of(source) {
                let _ = write!(text, " WHERE source = {} AND version = {had}", source.0);
            }
            statements.push(text);
        }
        statements
    }

    /// After the transaction has committed.
    pub fn committed(&mut self, moves: &[Move]) {
        for source in self.touched(moves) {
            self.rows[usize::from(source.0)] = Some(self.after(source));
        }
    }

    pub fn commit_took(&mut self, time: Duration) {
        self.commit_us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    }

    /// Compares what a locking read found with the transaction's versions.
    pub fn outcome(&self, moves: &[Move], found: &[(u16, u64)]) -> Outcome {
        let found = |source: OldShard| {
            found.iter().find(|(other, _)| *other == source.0).map(|(_, version)| *version)
        };
        let touched = self.touched(moves);
        if touched.iter().all(|&source| found(source) == Some(self.after(source))) {
            Outcome::Committed
        } else if touched.iter().all(|&source| found(source) == self.of(source)) {
            Outcome::NotCommitted
        } else {
            Outcome::TakenOver
        }
    }

    /// Waits for a COMMIT that may still be under way, and tells what became of it. A plain read
    /// would show the old version while it is.
    pub async fn resolve(
        &self,
        conn: &mut Conn,
        at: &str,
        moves: &[Move],
    ) -> Result<Outcome, ServerError> {
        let doing = "re-reading the watermark after an unanswered COMMIT";
        let of = |error| error::of(at, doing, error);
        conn.query_drop("BEGIN").await.map_err(of)?;
        let found: Vec<(u16, u64)> = conn
            .query(format!("SELECT source, version FROM {WATERMARK} FOR UPDATE"))
            .await
            .map_err(of)?;
        conn.query_drop("ROLLBACK").await.map_err(of)?;
        Ok(self.outcome(moves, &found))
    }
}

fn write_mark(text: &mut String, mark: &Watermark) {
    let awaited = |awaited: bool| if awaited { AWAITED.to_string() } else { String::new() };
    let (group, ordinal) = match &mark.partial {
        Some(Partial { position, awaited: waits }) => {
            let waits = match waits {
                Awaited::No => String::new(),
                Awaited::Yes => AWAITED.to_string(),
                Awaited::Perhaps => PERHAPS.to_string(),
            };
            (format!("'{}{waits}'", position.gtid), position.ordinal)
        }
        None => ("NULL".to_owned(), 0),
    };
    let token = match &mark.token {
        Some(token) => format!("'{}{}'", token.digest, awaited(token.awaited)),
        None => "NULL".to_owned(),
    };
    let _ = write!(
        text,
        ", epoch = {}, number = {}, gtids = '{}', group_gtid = {group}, group_ordinal = {ordinal}, \
         token_digest = {token}, token_writes = {}, token_clock_us = {}, copied = {}, tables = {}",
        mark.epoch,
        mark.number,
        mark.gtids,
        mark.token_writes,
        mark.token_clock_us,
        u8::from(mark.copied),
        mark.tables,
    );
}

/// Makes this applier the owner of the new shard and reads what has been applied. Safe to repeat.
pub async fn take_over(
    conn: &mut Conn,
    at: &str,
    shard: NewShard,
    sources: u16,
    random: u16,
) -> Result<(Versions, Vec<Kept>), ApplyError> {
    let doing = "taking over the watermark";
    let of = |error| error::of(at, doing, error);
    conn.query_drop("BEGIN").await.map_err(of)?;
    let rows: Vec<Row> = conn
        .query(format!("SELECT {COLUMNS} FROM {WATERMARK} ORDER BY source FOR UPDATE"))
        .await
        .map_err(of)?;
    let kept = rows
        .into_iter()
        .map(|row| kept(&row, sources))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|detail| ApplyError::Control { new: shard, table: WATERMARK, detail })?;
    let versions = Versions::take_over(&kept, sources, random);
    conn.query_drop(format!("UPDATE {WATERMARK} SET version = {}, halted = NULL", versions.base()))
        .await
        .map_err(of)?;
    conn.query_drop("COMMIT").await.map_err(of)?;
    Ok((versions, kept))
}

/// What has been applied on a new shard, for those that only look: from rows of [`COLUMNS`].
pub(crate) fn read(rows: &[Row], shard: NewShard, sources: u16) -> Result<Vec<Kept>, ApplyError> {
    let kept = rows.iter().map(|row| kept(row, sources)).collect::<Result<Vec<_>, _>>();
    let mut kept =
        kept.map_err(|detail| ApplyError::Control { new: shard, table: WATERMARK, detail })?;
    kept.sort_by_key(|row| row.source);
    Ok(kept)
}

/// Says on the new shard why its applier stopped. Only for the owner of the rows.
pub async fn write_halted(
    conn: &mut Conn,
    at: &str,
    versions: &Versions,
    text: &str,
) -> Result<(), ServerError> {
    let of = |error| error::of(at, "writing why the applier stopped", error);
    let low = versions.base();
    conn.exec_drop(
        format!("UPDATE {WATERMARK} SET halted = ? WHERE version BETWEEN ? AND ?"),
        (text, low, low + (1 << GENERATION_BITS) - 1),
    )
    .await
    .map_err(of)
}

fn kept(row: &Row, sources: u16) -> Result<Kept, String> {
    let source: u16 = value(row, 0)?;
    if source >= sources {
        return Err(format!("a row for old shard {source}, the plan has {sources}"));
    }
    let text = |index: usize| value::<Option<String>>(row, index);
    let unmark = |text: String| match text.strip_suffix(AWAITED) {
        Some(rest) => (rest.to_owned(), true),
        None => (text, false),
    };
    let partial = match text(5)? {
        None => None,
        Some(text) => {
            let (gtid, awaited) = match (text.strip_suffix(AWAITED), text.strip_suffix(PERHAPS)) {
                (Some(gtid), _) => (gtid, Awaited::Yes),
                (None, Some(gtid)) => (gtid, Awaited::Perhaps),
                (None, None) => (text.as_str(), Awaited::No),
            };
            let gtid = parse(gtid)?;
            Some(Partial { position: Position { gtid, ordinal: value(row, 6)? }, awaited })
        }
    };
    let token = match text(7)?.map(unmark) {
        None => None,
        Some((digest, awaited)) => Some(TokenMark { digest: parse(&digest)?, awaited }),
    };
    Ok(Kept {
        source: OldShard(source),
        version: value(row, 1)?,
        mark: Watermark {
            epoch: value(row, 2)?,
            number: value(row, 3)?,
            gtids: parse(&value::<String>(row, 4)?)?,
            partial,
            token,
            token_writes: value(row, 8)?,
            token_clock_us: value(row, 9)?,
            copied: value::<i8>(row, 10)? != 0,
            tables: value(row, 13)?,
        },
        offset: value(row, 11)?,
        halted: text(12)?,
    })
}

fn value<T: FromValue>(row: &Row, index: usize) -> Result<T, String> {
    match row.get_opt(index) {
        Some(Ok(value)) => Ok(value),
        _ => Err(format!("column {} has another type", index + 1)),
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Watermark {
        Watermark {
            epoch: 5,
            number: 6,
            gtids: "0-1-7".parse().unwrap(),
            partial: Some(Partial {
                position: Position { gtid: "0-1-9".parse().unwrap(), ordinal: 4 },
                awaited: Awaited::Yes,
            }),
            token: None,
            token_clock_us: 0,
            token_writes: 0,
            copied: false,
            tables: 0,
        }
    }

    fn kept(source: u16, version: u64) -> Kept {
        Kept { source: OldShard(source), version, mark: mark(), offset: None, halted: None }
    }

    #[test]
    fn a_move_compares_and_an_insert_compares_all_others() {
        let mut versions = Versions::take_over(&[kept(0, (3 << 40) + 8)], 3, 77);
        versions.commit_took(Duration::from_micros(1500));
        let moved = |source| Move { source: OldShard(source), mark: mark() };
        let text = versions.compare_and_set(&[moved(0)], Some(12));
        assert_eq!(
            text,
            [format!(
                "UPDATE modshift_watermark SET version = {}, epoch = 5, number = 6, \
                 gtids = '0-1-7', group_gtid = '0-1-9?', group_ordinal = 4, token_digest = NULL, \
                 token_writes = 0, token_clock_us = 0, copied = 0, tables = 0, commit_us = 1500, log_offset = 12 \
                 WHERE source = 0 AND version = {}",
                (4u64 << 40) + 1,
                4u64 << 40
            )]
        );
        let text = versions.compare_and_set(&[moved(2)], None);
        assert_eq!(text.len(), 2);
        assert!(
            text[0].starts_with("UPDATE modshift_watermark SET version = 4398046511105, commit_us")
        );
        assert!(text[1].starts_with("INSERT INTO modshift_watermark SET source = 2, version ="));
    }

    #[test]
    fn an_unanswered_commit_is_told_from_another_owner() {
        let mut versions = Versions::take_over(&[kept(0, 0), kept(1, 0)], 2, 0);
        let moves = [Move { source: OldShard(0), mark: mark() }];
        let base = 1 << 40;
        assert_eq!(versions.outcome(&moves, &[(0, base), (1, base)]), Outcome::NotCommitted);
        assert_eq!(versions.outcome(&moves, &[(0, base + 1), (1, base)]), Outcome::Committed);
        assert_eq!(versions.outcome(&moves, &[(0, 2 << 40), (1, 2 << 40)]), Outcome::TakenOver);
        versions.committed(&moves);
        assert_eq!(versions.outcome(&moves, &[(0, base + 1)]), Outcome::NotCommitted);
    }

    #[test]
    fn two_first_owners_differ() {
        let one = Versions::take_over(&[], 1, 5);
        let other = Versions::take_over(&[], 1, 6);
        assert_ne!(one.after(OldShard(0)), other.after(OldShard(0)));
    }
}
