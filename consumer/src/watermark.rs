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
    /// What they were before they were taken over.
    before: Vec<Option<u64>>,
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
        let none = vec![None; usize::from(sources)];
        let mut versions = Versions { generation, rows: none.clone(), before: none, commit_us: 0 };
        for row in rows {
            versions.rows[usize::from(row.source.0)] = Some(versions.base());
            versions.before[usize::from(row.source.0)] = Some(row.version);
        }
        versions
    }

    /// The version of every row just after the take-over.
    pub fn base(&self) -> u64 {
        self.generation << GENERATION_BITS
    }

    fn sources(&self) -> impl Iterator<Item = OldShard> + use<> {
        (0..self.rows.len() as u16).map(OldShard)
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
        self.sources()
            .filter(|&source| {
                moves.iter().any(|moved| moved.source == source)
                    || (inserts && self.of(source).is_some())
            })
            .collect()
    }

    /// The transaction's first statements. One moves many rows: the binlog of a server with many
    /// shards, where each moves several times a second, would be full of them.
    pub fn compare_and_set(&self, moves: &[Move], offset: Option<Offset>) -> Vec<CompareAndSet> {
        let mut statements = Vec::new();
        let mut there = Vec::new();
        for source in self.touched(moves) {
            let mut columns = vec![("version", self.after(source).to_string())];
            if let Some(moved) = moves.iter().find(|moved| moved.source == source) {
                columns.extend(mark_columns(&moved.mark));
            }
            columns.push(("commit_us", self.commit_us.to_string()));
            columns.extend(offset.map(|offset| ("log_offset", offset.to_string())));
            match self.of(source) {
                Some(had) => there.push(Moving { source, had, columns }),
                None => statements.push(insert(source, &columns)),
            }
        }
        // Rows that move, and where one is inserted those that do not.
        let same_columns = |one: &Moving, other: &Moving| one.columns.len() == other.columns.len();
        let runs = there.chunk_by(same_columns).flat_map(|run| run.chunks(ROWS_PER_STATEMENT_MAX));
        statements.splice(0..0, runs.map(update));
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
        let found = |source: OldShard| version_of(found, source);
        let touched = self.touched(moves);
        if touched.iter().all(|&source| found(source) == Some(self.after(source))) {
            Outcome::Committed
        } else if touched.iter().all(|&source| found(source) == self.of(source)) {
            Outcome::NotCommitted
        } else {
            Outcome::TakenOver
        }
    }

    /// All rows are as this owner left them; those of `moves` perhaps as it would leave them, where
    /// `unknown` says that their COMMIT had no answer.
    pub fn as_left(&self, moves: &[Move], unknown: bool, found: &[(u16, u64)]) -> bool {
        let raised = if unknown { self.touched(moves) } else { Vec::new() };
        self.sources().all(|source| {
            let found = version_of(found, source);
            found == self.of(source)
                || (raised.contains(&source) && found == Some(self.after(source)))
        })
    }

    /// Rows are as they were once, and not all as this owner left them: the server lost what was
    /// committed there, or does not have it yet. (Another owner's are of a generation that was never
    /// seen.) Those that a transaction raises may have been raised there.
    pub fn older(&self, moves: &[Move], found: &[(u16, u64)]) -> bool {
        let raised = self.touched(moves);
        let once = |source: OldShard| {
            let (found, ours) = (version_of(found, source), self.of(source));
            let of_ours = found.is_none_or(|found| found >> GENERATION_BITS == self.generation);
            (found <= ours && of_ours)
                || found <= self.before[usize::from(source.0)]
                || (raised.contains(&source) && found == Some(self.after(source)))
        };
        self.sources().all(once)
            && self.sources().any(|source| version_of(found, source) < self.of(source))
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

fn version_of(found: &[(u16, u64)], source: OldShard) -> Option<u64> {
    found.iter().find(|(other, _)| *other == source.0).map(|(_, version)| *version)
}

/// A statement, and how many rows it must change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareAndSet {
    pub text: String,
    pub rows: usize,
    /// Of rows that are there: has a condition, to which others may be added.
    pub update: bool,
}

/// A row that is there, what it must be, and what becomes of it.
struct Moving {
    source: OldShard,
    had: u64,
    columns: Vec<(&'static str, String)>,
}

/// Each is looked up in a list as long as this.
const ROWS_PER_STATEMENT_MAX: usize = 64;

fn insert(source: OldShard, columns: &[(&'static str, String)]) -> CompareAndSet {
    let mut text = format!("INSERT INTO {WATERMARK} SET source = {}", source.0);
    for (name, value) in columns {
        let _ = write!(text, ", {name} = {value}");
    }
    CompareAndSet { text, rows: 1, update: false }
}

/// All of them have the same columns.
fn update(rows: &[Moving]) -> CompareAndSet {
    let sources: Vec<String> = rows.iter().map(|row| row.source.0.to_string()).collect();
    let of = |value: &dyn Fn(&Moving) -> String| {
        let values: Vec<String> = rows.iter().map(value).collect();
        if values.iter().all(|value| *value == values[0]) {
            return values[0].clone();
        }
        let whens = sources.iter().zip(&values);
        let whens: String =
            whens.map(|(source, value)| format!(" WHEN {source} THEN {value}")).collect();
        format!("CASE source{whens} END")
    };
    let columns = rows.first().map_or(&[][..], |row| &row.columns);
    let sets = columns.iter().enumerate().map(|(index, (name, _))| {
        format!("{name} = {}", of(&|row: &Moving| row.columns[index].1.clone()))
    });
    let text = format!(
        "UPDATE {WATERMARK} SET {} WHERE source IN ({}) AND version = {}",
        sets.collect::<Vec<_>>().join(", "),
        sources.join(", "),
        of(&|row: &Moving| row.had.to_string()),
    );
    CompareAndSet { text, rows: rows.len(), update: true }
}

fn mark_columns(mark: &Watermark) -> [(&'static str, String); 10] {
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
    [
        ("epoch", mark.epoch.to_string()),
        ("number", mark.number.to_string()),
        ("gtids", format!("'{}'", mark.gtids)),
        ("group_gtid", group),
        ("group_ordinal", ordinal.to_string()),
        ("token_digest", token),
        ("token_writes", mark.token_writes.to_string()),
        ("token_clock_us", mark.token_clock_us.to_string()),
        ("copied", u8::from(mark.copied).to_string()),
        ("tables", mark.tables.to_string()),
    ]
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
mod tests;
