//! Is a key that differs late, parked, or damaged?
//!
//! One attempt: read the old row; read the old shard's position H, which covers all that the read
//! can have shown; wait until the stream has passed H; read the new row; read the old row again. If
//! old and new are the same in either reading, it was lag. If the old row did not change meanwhile
//! and the new one is another, that is still no proof: the binlog shows a commit before InnoDB
//! does, so the new row may be ahead of what the old shard shows, and a row may change and change
//! back. So only readings behind a later H each count. A key that shows the same two rows
//! [`AGREED`] times in a row is damaged. One that keeps changing on the old shard is moving: it can be
//! compared at a fence only, when it stands still.
//!
//! The old rows are those of the server that the reader reads. One that is behind its primary is so
//! with its rows and with its position alike: H is its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use modshift_mariadb::control::{TOKEN, WATERMARK};
use modshift_mariadb::value::same_value;
use modshift_proto::GtidSet;
use modshift_proto::plan::Direction;
use modshift_proto::row::RowView;

use crate::compare::{Stream, Suspect};
use crate::error::VerifyError;
use crate::halts::Halts;
use crate::key;
use crate::progress;
use crate::report::{Halt, Kind, Mismatch};
use crate::shard::{HERE, Seen, Shard};
use crate::table::{CheckedTable, Placing};
use crate::waiting::parked;

/// Readings of the same difference, each behind a later position.
const AGREED: u8 = 3;
/// A key that changes faster than this many attempts is left for the fence, or the next round.
const ATTEMPTS_MAX: u32 = 12;
/// So many changes of the old row between the readings make a key a moving one.
const MOVED: u8 = 3;
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_LONGEST: Duration = Duration::from_millis(200);
/// A stream that has not passed by then is looked at: it may have halted.
const PATIENCE: Duration = Duration::from_millis(500);

/// The shards of both sides. Index = shard.
pub struct Shards {
    pub old: Vec<Shard>,
    pub new: Vec<Shard>,
    /// Of the plan that has them so.
    pub direction: Direction,
    pub link: Link,
    /// With [`Link::Replication`], where what is found is kept: on the primary. A replica is never
    /// written to: a transaction of its own would end its replication.
    pub kept: Vec<Shard>,
}

/// How rows come from the old shards to the new ones, and hence what says how far they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// By streams of modshift: the watermark.
    Streams,
    /// The one old shard is the primary of the new ones: `gtid_slave_pos` of each.
    Replication,
}

impl Shards {
    /// Where progress, proof and what differs are kept.
    pub(crate) fn ledger(&mut self) -> &mut [Shard] {
        match self.link {
            Link::Streams => &mut self.new,
            Link::Replication => &mut self.kept,
        }
    }
}

impl Link {
    /// A stream as it is kept: with replication all of them on the primary, by their new shard.
    pub(crate) fn filed(self, (old, new): Stream) -> Stream {
        match self {
            Link::Streams => (old, new),
            Link::Replication => (new, 0),
        }
    }

    /// Of what was kept so.
    pub(crate) fn found(self, (source, at): Stream) -> Stream {
        match self {
            Link::Streams => (source, at),
            Link::Replication => (0, source),
        }
    }
}

/// What a difference waits for before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The stream has passed the old shard's position; at most so long.
    Passed(Duration),
    /// Nothing: the old shard is fenced, and its marker has been applied.
    Now,
    /// It never counts: what is not equal at one look is not settled.
    Glance,
}

#[derive(Debug, Default)]
pub struct Settled {
    pub mismatches: Vec<Mismatch>,
    pub equal: Vec<Suspect>,
    /// Neither equal nor different for good within the time.
    pub unsettled: Vec<Suspect>,
    /// The same, for the old row changed again and again meanwhile.
    pub moving: Vec<Suspect>,
    /// Missing on the new shard because their place is taken, with the right image.
    pub parked: Vec<Suspect>,
    /// What reading rows took, waiting for streams left out.
    pub reading: Duration,
    /// Because of which some are unsettled.
    pub halts: BTreeSet<Halt>,
}

impl Settled {
    /// Nobody waits for a stream that has halted.
    fn leave(&mut self, open: &mut Vec<Open>, halted: &BTreeMap<(u16, u16), Halt>) {
        open.retain(|key| {
            let Some(halt) = halted.get(&key.suspect.stream) else { return true };
            self.halts.insert(halt.clone());
            self.unsettled.push(key.suspect.clone());
            false
        });
    }
}

struct Open {
    suspect: Suspect,
    /// Checksums of old and new row at the last attempt, and where the new one belongs.
    last: Option<Pair>,
    agreed: u8,
    /// The old shard's position at the reading that counted last.
    position: Option<GtidSet>,
    /// How often the old row was another than at the reading before.
    moved: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair {
    old: Option<u64>,
    new: Option<Seen>,
}

/// Settles suspects of one table. Keys whose stream does not pass in time are unsettled.
pub async fn settle(
    shards: &mut Shards,
    table: &CheckedTable,
    suspects: BTreeSet<Suspect>,
    until: Until,
) -> Result<Settled, VerifyError> {
    let deadline = match until {
        Until::Passed(settle_max) => Some(Instant::now() + settle_max),
        Until::Now | Until::Glance => None,
    };
    let mut attempts = if until == Until::Glance { 1 } else { ATTEMPTS_MAX };
    let mut settled = Settled::default();
    let mut open: Vec<Open> = suspects.into_iter().map(Open::new).collect();
    let mut halts = Halts::default();
    let mut first = true;
    while !open.is_empty() && attempts > 0 {
        // Once more than there is time for, so that what has settled by then is seen.
        if !std::mem::take(&mut first) {
            if deadline.is_some_and(|at| Instant::now() >= at) {
                break;
            }
            // What is committed may show a moment later, on a replica above all.
            tokio::time::sleep(POLL_FIRST).await;
        }
        let begun = Instant::now();
        let before = read_old(&mut shards.old, table, &open).await?;
        settled.reading += begun.elapsed();
        // Nothing was logged since: another reading would prove nothing that the last one did not.
        // Tokens see to it that it does not stay so.
        let stale =
            |key: &Open| key.position.as_ref() == before.positions.get(&key.suspect.stream.0);
        if deadline.is_some() && open.iter().all(|key| key.position.is_some() && stale(key)) {
            let halted = halts.look(shards, &streams(&open)).await?;
            settled.leave(&mut open, halted);
            if shards.link == Link::Replication {
                // No reader writes tokens there.
                progress::beat(shards.ledger(), table).await?;
            }
            tokio::time::sleep(POLL_LONGEST / 4).await;
            continue;
        }
        attempts -= 1;
        let late = match deadline {
            Some(deadline) => {
                let waiting = (&mut open, &mut settled, &mut halts);
                wait(shards, waiting, &before.positions, deadline).await?
            }
            None => BTreeSet::new(),
        };
        open.retain(|key| {
            let is_late = late.contains(&key.suspect.stream);
            if is_late {
                // The time went by with readings that the row outran, or without any.
                let end = match key.moved >= MOVED {
                    true => &mut settled.moving,
                    false => &mut settled.unsettled,
                };
                end.push(key.suspect.clone());
            }
            !is_late
        });
        let begun = Instant::now();
        let new = read_new(&mut shards.new, table, &open).await?;
        let after = read_old(&mut shards.old, table, &open).await?;
        settled.reading += begun.elapsed();
        let mut next = Vec::new();
        for mut key in open {
            let stream = key.suspect.stream;
            let old = |rows: &Read| here(table, stream, rows.of(stream.0, &key.suspect.key));
            let (first, second) = (old(&before), old(&after));
            let found = from_source(table, stream, new.of(stream.1, &key.suspect.key));
            let checksum = found.map(|seen| seen.checksum);
            // A row on another shard than its own is no copy of the one that is not here.
            if checksum == first || checksum == second {
                settled.equal.push(key.suspect);
                continue;
            }
            let pair = Pair { old: first, new: found };
            if first != second || key.last.is_some_and(|last| last.old != first) {
                key.moved += 1;
            }
            let position = before.positions.get(&stream.0);
            if deadline.is_some() && key.moved > MOVED {
                settled.moving.push(key.suspect);
                continue;
            }
            if deadline.is_some() && key.position.is_some() && key.position.as_ref() == position {
                next.push(key);
                continue;
            }
            key.position = position.cloned();
            key.agreed = match key.last {
                _ if first != second => 0,
                Some(last) if last == pair => key.agreed + 1,
                _ => 1,
            };
            key.last = Some(pair);
            if key.agreed < AGREED {
                next.push(key);
                continue;
            }
            close(shards, table, key.suspect, pair, &mut settled).await?;
        }
        open = next;
    }
    let is_moving = |key: &Open| key.moved >= MOVED;
    let (moving, unsettled): (Vec<_>, Vec<_>) = open.into_iter().partition(is_moving);
    settled.moving.extend(moving.into_iter().map(|key| key.suspect));
    settled.unsettled.extend(unsettled.into_iter().map(|key| key.suspect));
    Ok(settled)
}

impl Open {
    fn new(suspect: Suspect) -> Open {
        Open { suspect, last: None, agreed: 0, position: None, moved: 0 }
    }
}

/// A difference that stays: which one is it?
async fn close(
    shards: &mut Shards,
    table: &CheckedTable,
    suspect: Suspect,
    pair: Pair,
    settled: &mut Settled,
) -> Result<(), VerifyError> {
    let (old, new) = suspect.stream;
    let mut columns = Vec::new();
    let kind = match (pair.old, pair.new) {
        (None, Some(seen)) if is_sharded(table) && seen.place.1 != new => Kind::WrongShard,
        (None, _) => Kind::Extra,
        (Some(_), None) => {
            let row = shards.old[usize::from(old)].row(table, &suspect.key).await?;
            let image = parked(&mut shards.new[usize::from(new)], table, &suspect).await?;
            let same = image.zip(row).and_then(|(image, row)| differing(table, &image, &row));
            if same.is_some_and(|names| names.is_empty()) {
                settled.parked.push(suspect);
                return Ok(());
            }
            Kind::Missing
        }
        (Some(_), Some(_)) => {
            let ours = shards.old[usize::from(old)].row(table, &suspect.key).await?;
            let theirs = shards.new[usize::from(new)].row(table, &suspect.key).await?;
            match (ours, theirs) {
                // Servers of two versions may write one value in two ways; the bytes decide.
                (Some(ours), Some(theirs)) => match differing(table, &ours, &theirs) {
                    Some(names) if names.is_empty() => {
                        settled.equal.push(suspect);
                        return Ok(());
                    }
                    // We wrote them; without names it is a difference all the same.
                    names => columns = names.unwrap_or_default(),
                },
                _ => {
                    settled.unsettled.push(suspect);
                    return Ok(());
                }
            }
            Kind::Differs
        }
    };
    settled.mismatches.push(Mismatch { kind, columns, ..extra(table, suspect) });
    Ok(())
}

/// Names of the columns whose values are not the same. `None`: a row cannot be read.
fn differing(table: &CheckedTable, ours: &[u8], theirs: &[u8]) -> Option<Vec<String>> {
    let sent: Vec<usize> = table.schema.sent_columns().collect();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    RowView::parse(ours).and_then(|row| row.collect(sent.len(), &mut one)).ok()?;
    RowView::parse(theirs).and_then(|row| row.collect(sent.len(), &mut two)).ok()?;
    let column = |index: usize| &table.schema.columns[index];
    let pairs = sent.iter().zip(one.iter().zip(&two));
    let differ =
        pairs.filter(|(index, (one, two))| !same_value(column(**index).data, **one, **two));
    Some(differ.map(|(&index, _)| column(index).name.clone()).collect())
}

fn is_sharded(table: &CheckedTable) -> bool {
    matches!(table.placing, Placing::Sharded { .. })
}

/// The checksum of a row on the old shard that belongs to the stream.
fn here(table: &CheckedTable, stream: (u16, u16), seen: Option<Seen>) -> Option<u64> {
    seen.filter(|seen| !is_sharded(table) || seen.place == stream).map(|seen| seen.checksum)
}

/// A row on the new shard that the stream's old shard owns.
fn from_source(table: &CheckedTable, stream: (u16, u16), seen: Option<Seen>) -> Option<Seen> {
    seen.filter(|seen| !is_sharded(table) || seen.place.0 == stream.0)
}

/// Rows that were read, by shard.
struct Read {
    rows: Vec<HashMap<Vec<u8>, Seen>>,
    /// Of the old shards that were asked.
    positions: BTreeMap<u16, GtidSet>,
}

impl Read {
    fn of(&self, shard: u16, key: &[u8]) -> Option<Seen> {
        self.rows[usize::from(shard)].get(key).copied()
    }
}

async fn read_old(
    old: &mut [Shard],
    table: &CheckedTable,
    open: &[Open],
) -> Result<Read, VerifyError> {
    let read = try_join_all(old.iter_mut().enumerate().map(async |(index, shard)| {
        let wanted = wanted(open, |stream| usize::from(stream.0) == index);
        if wanted.is_empty() {
            return Ok((HashMap::new(), None));
        }
        let rows = shard.keys(table, &wanted).await?;
        Ok::<_, VerifyError>((rows, Some(shard.position().await?)))
    }))
    .await?;
    let mut all = Read { rows: Vec::new(), positions: BTreeMap::new() };
    for (index, (rows, position)) in read.into_iter().enumerate() {
        all.rows.push(rows);
        all.positions.extend(position.map(|position| (index as u16, position)));
    }
    Ok(all)
}

async fn read_new(
    new: &mut [Shard],
    table: &CheckedTable,
    open: &[Open],
) -> Result<Read, VerifyError> {
    let rows = try_join_all(new.iter_mut().enumerate().map(async |(index, shard)| {
        let wanted = wanted(open, |stream| usize::from(stream.1) == index);
        match wanted.is_empty() {
            true => Ok(HashMap::new()),
            false => shard.keys(table, &wanted).await,
        }
    }))
    .await?;
    Ok(Read { rows, positions: BTreeMap::new() })
}

fn wanted(open: &[Open], of: impl Fn((u16, u16)) -> bool) -> Vec<&[u8]> {
    let keys: BTreeSet<&[u8]> = open
        .iter()
        .filter(|key| of(key.suspect.stream))
        .map(|key| key.suspect.key.as_slice())
        .collect();
    keys.into_iter().collect()
}

fn streams(open: &[Open]) -> BTreeSet<(u16, u16)> {
    open.iter().map(|key| key.suspect.stream).collect()
}

/// Waits until each stream has passed its old shard's position. Gives those that did not in time.
/// Keys of those that have halted are left at once.
async fn wait(
    shards: &mut Shards,
    (open, settled, halts): (&mut Vec<Open>, &mut Settled, &mut Halts),
    positions: &BTreeMap<u16, GtidSet>,
    deadline: Instant,
) -> Result<BTreeSet<(u16, u16)>, VerifyError> {
    loop {
        let until = deadline.min(Instant::now() + PATIENCE);
        let late = wait_until(shards, &streams(open), positions, until).await?;
        if late.is_empty() || Instant::now() >= deadline {
            return Ok(late);
        }
        let mut halted = halts.look(shards, &streams(open)).await?.clone();
        // What has passed before can be compared all the same.
        halted.retain(|stream, _| late.contains(stream));
        settled.leave(open, &halted);
    }
}

async fn wait_until(
    shards: &mut Shards,
    streams: &BTreeSet<(u16, u16)>,
    positions: &BTreeMap<u16, GtidSet>,
    deadline: Instant,
) -> Result<BTreeSet<(u16, u16)>, VerifyError> {
    let link = shards.link;
    let late = try_join_all(shards.new.iter_mut().enumerate().map(async |(index, shard)| {
        let sources: Vec<u16> =
            streams.iter().filter(|s| usize::from(s.1) == index).map(|s| s.0).collect();
        let wanted = |source: &u16| Some((*source, positions.get(source)?.clone()));
        let wanted: Vec<(u16, GtidSet)> = sources.iter().filter_map(wanted).collect();
        let late = passed(shard, link, wanted, deadline).await?;
        Ok::<_, VerifyError>(late.into_iter().map(move |source| (source, index as u16)))
    }))
    .await?;
    Ok(late.into_iter().flatten().collect())
}

/// Old shards whose position this new shard has not applied by the deadline.
pub(crate) async fn passed(
    shard: &mut Shard,
    link: Link,
    mut wanted: Vec<(u16, GtidSet)>,
    deadline: Instant,
) -> Result<Vec<u16>, VerifyError> {
    let mut poll = POLL_FIRST;
    loop {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let applied = applied(shard, link).await?;
        wanted.retain(|(source, position)| {
            !applied.get(source).is_some_and(|applied| applied.contains(position))
        });
        if Instant::now() >= deadline {
            return Ok(wanted.into_iter().map(|(source, _)| source).collect());
        }
        if !wanted.is_empty() {
            tokio::time::sleep(poll).await;
            poll = (poll * 2).min(POLL_LONGEST);
        }
    }
}

/// Complete event groups that a new shard has of each old one whose copy is complete: until then
/// rows are missing that no position speaks of.
pub(crate) async fn applied(
    shard: &mut Shard,
    link: Link,
) -> Result<HashMap<u16, GtidSet>, VerifyError> {
    if link == Link::Replication {
        // It moves in the transaction that applies the rows.
        const POSITION: &str = "gtid_slave_pos";
        let rows: Vec<String> =
            shard.query("reading how far it has replicated", "SELECT @@gtid_slave_pos").await?;
        let text = rows.into_iter().next().unwrap_or_default();
        let control = |text| VerifyError::Control { at: shard.label(), what: POSITION, text };
        return Ok(HashMap::from([(0, text.parse().map_err(|_| control(text))?)]));
    }
    let sql = format!("SELECT source, gtids FROM {HERE}{WATERMARK} WHERE copied");
    let rows = shard.query("reading the watermark", &sql).await;
    let rows: Vec<(u16, String)> = if_there(rows)?;
    let mut applied = HashMap::new();
    for (source, text) in rows {
        let control = |text| VerifyError::Control { at: shard.label(), what: WATERMARK, text };
        let gtids = text.parse().map_err(|_| control(text))?;
        applied.insert(source, gtids);
    }
    Ok(applied)
}

/// Do applications write to a new shard? Then it is no copy of the old ones any more.
pub(crate) async fn switched(new: &mut [Shard]) -> Result<bool, VerifyError> {
    let sql = format!("SELECT 1 FROM {HERE}{TOKEN} WHERE phase = 'serving'");
    let serving = try_join_all(new.iter_mut().map(async |shard| {
        let rows: Vec<u8> = if_there(shard.query("asking which side serves", &sql).await)?;
        Ok::<_, VerifyError>(!rows.is_empty())
    }))
    .await?;
    Ok(serving.contains(&true))
}

/// A row of a new shard that its old shard does not have.
pub(crate) fn extra(table: &CheckedTable, suspect: Suspect) -> Mismatch {
    let (old, new) = suspect.stream;
    Mismatch {
        table: table.schema.name.clone(),
        old,
        new,
        kind: Kind::Extra,
        key: key::shown(&table.schema, &suspect.key),
        columns: Vec::new(),
        pk: suspect.key,
    }
}

/// Nothing was ever applied to a shard that lacks modshift's tables.
pub(crate) fn if_there<T>(rows: Result<Vec<T>, VerifyError>) -> Result<Vec<T>, VerifyError> {
    const NO_SUCH_TABLE: u16 = 1146;
    match rows {
        Err(VerifyError::Server(error)) if error.code() == Some(NO_SUCH_TABLE) => Ok(Vec::new()),
        rows => rows,
    }
}
