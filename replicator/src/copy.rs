//! Runs the snapshot beside the tail: opens chunks while the tail is near the head, and lets each
//! into the log when the tail has passed what the chunk shows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::{LogWriter, stage};
use modshift_mariadb::Seat;
use modshift_mariadb::pace::{Lane, Pace};
use modshift_proto::message::{Change, Op};
use modshift_proto::plan::{Direction, Plan};
use modshift_proto::{GtidSet, OldShard};
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::definitions::Definitions;
use crate::epoch::Epoch;
use crate::error::{Class, ReadError};
use crate::metrics;
use crate::publish::Publisher;
use crate::route::{Moduli, RoutedTable, Target};
use crate::snapshot::admit::{Admission, Passed, Shown, admit};
use crate::snapshot::{Chunk, ChunkReader, ChunkRequest, Schedule, TableProgress};
use crate::tail::Tail;
use crate::token::SavedTable;

/// The tail is near the head while its newest token was written less than this ago.
pub const NEAR_HEAD: Duration = Duration::from_secs(1);
/// Tokens by which a snapshot may lag behind the tail: the binlog shows a commit some
/// milliseconds before InnoDB does. More only costs a chunk read again.
pub(crate) const TOKEN_SLACK: u64 = 50;

type ReadOutcome = (ChunkRequest, Result<Chunk, ReadError>);

pub struct Copying {
    shard: OldShard,
    tables: Arc<Vec<RoutedTable>>,
    reader: ChunkReader,
    schedule: Schedule,
    keys_max: usize,
    reading: JoinSet<ReadOutcome>,
    /// Waits for its turn at the server, if it is not there yet.
    seat: JoinSet<Seat>,
    /// Read, and waiting for the tail to pass their upper bound. In order within each table.
    waiting: VecDeque<Chunk>,
    /// Newest token seen when each chunk in flight was opened, by table.
    opened_at: Vec<(usize, u64)>,
    progress: HashMap<usize, TableProgress>,
    estimates: HashMap<String, u64>,
    /// G: nothing enters before the tail has passed it.
    guard: Option<GtidSet>,
    not_before: Instant,
    xa_grace: Duration,
    backoff: Backoff,
    lane: Lane,
}

impl Copying {
    /// What is left to copy of this shard's tables, given what the predecessors have done.
    #[allow(clippy::too_many_arguments, reason = "wiring: each part is used once, here")]
    pub fn new(
        plan: &Plan,
        moduli: Moduli,
        tables: Arc<Vec<RoutedTable>>,
        definitions: Arc<Definitions>,
        epoch: &Epoch,
        estimates: HashMap<String, u64>,
        xa_grace: Duration,
        lane: Lane,
    ) -> Copying {
        let shard = moduli.source;
        let mut progress = HashMap::new();
        let mut open = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            // What the new shards hold when they are armed came from where the way back leads.
            if matches!(table.target, Target::Nowhere) || plan.direction() == Direction::Back {
                continue;
            }
            let done = epoch.tables.get(&table.schema.name).cloned().unwrap_or_default();
            let estimated = estimates.get(&table.schema.name).copied().unwrap_or(0);
            metrics::snapshot(shard, &table.schema.name, done.rows_copied, estimated);
            if !done.done {
                open.push((index, done.copied_to.clone()));
            }
            progress.insert(index, done);
        }
        let endpoint = plan.old[usize::from(shard.0)].tailed();
        Copying {
            shard,
            reader: ChunkReader::new(endpoint, moduli, tables.clone(), definitions),
            tables,
            schedule: Schedule::new(open, &plan.snapshot),
            keys_max: plan.snapshot.touched_keys_max,
            reading: JoinSet::new(),
            seat: JoinSet::new(),
            waiting: VecDeque::new(),
            opened_at: Vec::new(),
            progress,
            estimates,
            guard: None,
            not_before: Instant::now() + xa_grace,
            xa_grace: plan.snapshot.xa_grace,
            backoff: Backoff::default(),
            lane,
        }
    }

    pub fn finished(&self) -> bool {
        self.schedule.finished()
    }

    /// Nothing may enter before the tail has passed this set: what the primary showed after the
    /// start markers were acknowledged. A predecessor may have sent that far.
    pub fn set_guard(&mut self, guard: GtidSet) {
        self.guard = Some(guard);
    }

    pub fn has_guard(&self) -> bool {
        self.guard.is_some()
    }

    /// The guard, once nothing is left to copy.
    pub fn guard_after(&self) -> Option<&GtidSet> {
        self.guard.as_ref().filter(|_| self.finished())
    }

    /// Rows copied and estimated of each table.
    pub fn rows(&self) -> impl Iterator<Item = (&str, u64, u64, bool)> + '_ {
        self.progress.iter().map(|(&index, progress)| {
            let name = self.tables[index].schema.name.as_str();
            let estimated = self.estimates.get(name).copied().unwrap_or(0);
            (name, progress.rows_copied, estimated.max(progress.rows_copied), progress.done)
        })
    }

    /// Opens chunks if there is room for them. `head_age`: how old the newest token read is.
    pub fn open(&mut self, tail: &mut Tail, head_age: Option<Duration>) {
        self.wait_for_late(tail);
        let near = head_age.is_some_and(|age| age < NEAR_HEAD);
        let now = Instant::now();
        let ready = !self.finished() && near && self.guard.is_some() && now >= self.not_before;
        let seen = tail.token_seen().filter(|_| ready && self.schedule.has_next());
        // Not opened and then held back: what is open has keys recorded for it.
        let Some(seen) = seen.filter(|_| self.lane.may_start()) else {
            // Nobody waits for a seat that is not used.
            self.seat = JoinSet::new();
            return;
        };
        // Recording of keys starts before any chunk of the table is opened.
        for table in self.schedule.open_tables() {
            tail.record(table, self.keys_max);
        }
        while self.schedule.has_next() {
            let Some(seat) = self.seat() else { return };
            let Some(request) = self.schedule.next() else { return };
            self.opened_at.push((request.table, seen));
            let reader = self.reader.clone();
            self.reading.spawn(async move {
                let outcome = reader.read(seat, request.clone()).await;
                (request, outcome)
            });
        }
    }

    /// Rows that came by XA, and were not recorded, must be there for all before a table is read.
    fn wait_for_late(&mut self, tail: &mut Tail) {
        let unrecorded = |&table: &usize| tail.is_late(table) && tail.touched(table).is_none();
        let late: Vec<usize> = self.schedule.open_tables().filter(unrecorded).collect();
        if late.is_empty() || tail.token_seen().is_none() {
            return;
        }
        tracing::info!(
            shard = self.shard.0,
            grace_s = self.xa_grace.as_secs(),
            "rows of a table that is to be copied were committed by XA: copying waits"
        );
        for table in late {
            tail.record(table, self.keys_max);
        }
        self.not_before = self.not_before.max(Instant::now() + self.xa_grace);
    }

    /// A connection's worth of room on the server; `None`: it is others' turn. The tail has tokens to
    /// read every few milliseconds, and asks again with each.
    fn seat(&mut self) -> Option<Seat> {
        if let Some(seat) = self.seat.try_join_next() {
            return seat.ok();
        }
        let (seats, server) = (self.lane.seats().clone(), self.reader.server());
        if self.seat.is_empty() {
            if let Some(seat) = seats.free(server) {
                return Some(seat);
            }
            let server = server.clone();
            self.seat.spawn(async move { seats.seat(&server).await });
        }
        None
    }

    /// The next chunk read, whatever came of it. Pending for ever while none is being read. Cancel
    /// safe.
    pub async fn next_read(&mut self) -> Result<ReadOutcome, tokio::task::JoinError> {
        match self.reading.join_next().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    pub fn was_read(&mut self, outcome: ReadOutcome) -> Result<(), ReadError> {
        let (request, chunk) = outcome;
        if !self.schedule.wants(request.table, request.generation) {
            return Ok(());
        }
        match chunk {
            Ok(chunk) => {
                self.backoff.reset();
                self.lane.done(chunk.rows.len() as u64, chunk.took);
                self.schedule.was_read(
                    request.table,
                    chunk.rows.len(),
                    chunk.size_bytes(),
                    chunk.took,
                    chunk.next_after.clone(),
                );
                self.waiting.push_back(chunk);
                Ok(())
            }
            Err(error) if error.class() == Class::Retry => {
                metrics::retry(self.shard, "chunk");
                tracing::warn!(shard = self.shard.0, error = %error, "chunk not read, retrying");
                self.forget_newest_opening(request.table);
                self.schedule.failed(request.table);
                self.not_before = self.not_before.max(Instant::now() + self.backoff.next());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Lets in every chunk whose time has come. Only between event groups.
    pub async fn enter<W: LogWriter>(
        &mut self,
        tail: &mut Tail,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        while let Some(chunk) = self.waiting.pop_front() {
            let table = chunk.request.table;
            let shown = Shown { epoch: chunk.epoch, token: chunk.token, high: &chunk.high };
            let passed = Passed {
                epoch: tail.epoch(),
                done: tail.done(),
                token_seen: tail.token_seen(),
                guard: self.guard.as_ref(),
            };
            match admit(shown, passed, tail.touched(table)) {
                Admission::Enter => {}
                Admission::Wait => {
                    self.waiting.push_front(chunk);
                    return Ok(());
                }
                Admission::ReadAgain => {
                    self.read_again(chunk);
                    continue;
                }
            }
            let fingerprint = self.tables[table].fingerprint;
            send_rows(self.shard, fingerprint, &chunk, tail, out).await?;
            self.has_entered(chunk, tail, out);
        }
        Ok(())
    }

    fn has_entered<W: LogWriter>(&mut self, chunk: Chunk, tail: &mut Tail, out: &mut Publisher<W>) {
        let table = chunk.request.table;
        let rows = chunk.rows.len() as u64;
        let finished = self.schedule.entered(table);
        self.forget_opening(table);
        let name = self.tables[table].schema.name.clone();
        let estimated = self.estimates.get(&name).copied().unwrap_or(0);
        let progress = self.progress.entry(table).or_default();
        progress.rows_copied += rows;
        progress.done = finished;
        if let Some(key) = chunk.next_after {
            progress.copied_to = Some(key);
        }
        metrics::snapshot(self.shard, &name, progress.rows_copied, estimated);
        let progress = progress.clone();
        out.entered(SavedTable { name, progress, rows_estimated: estimated });
        if finished {
            tail.stop_recording(table);
        } else {
            let floor = self.opened_at.iter().filter(|(t, _)| *t == table).map(|&(_, seen)| seen);
            let floor = floor.min().or(tail.token_seen()).unwrap_or(0);
            if let Some(touched) = tail.touched_mut(table) {
                touched.forget_before(floor.saturating_sub(TOKEN_SLACK));
            }
        }
        tail.copied = self.schedule.finished();
    }

    /// This chunk and the later ones of its table cannot be trusted: read them again.
    fn read_again(&mut self, chunk: Chunk) {
        metrics::chunk_read_again(self.shard);
        let table = chunk.request.table;
        tracing::debug!(shard = self.shard.0, table = %self.tables[table].schema.name,
            token = chunk.token, "chunk is read again");
        self.waiting.retain(|other| other.request.table != table);
        self.opened_at.retain(|(other, _)| *other != table);
        // Fewer keys are touched while a smaller chunk is in flight.
        self.schedule.rewind(table, chunk.request.after, chunk.request.rows / 2);
    }

    /// The next connection may be to a server that lost what the chunks in flight show: all of
    /// them are read again, from where the last one entered.
    pub fn connection_lost(&mut self) {
        self.waiting.clear();
        self.opened_at.clear();
        for table in self.schedule.open_tables().collect::<Vec<_>>() {
            let after = self.progress.get(&table).and_then(|done| done.copied_to.clone());
            self.schedule.rewind(table, after, u32::MAX);
        }
    }

    /// The chunk that could not be read is the one that was opened last.
    fn forget_newest_opening(&mut self, table: usize) {
        if let Some(index) = self.opened_at.iter().rposition(|(other, _)| *other == table) {
            self.opened_at.remove(index);
        }
    }

    fn forget_opening(&mut self, table: usize) {
        if let Some(index) = self.opened_at.iter().position(|(other, _)| *other == table) {
            self.opened_at.remove(index);
        }
    }
}

/// Sends a chunk that may enter, but for the rows of which the log carries something newer by now.
pub(crate) async fn send_rows<W: LogWriter>(
    shard: OldShard,
    fingerprint: u32,
    chunk: &Chunk,
    tail: &mut Tail,
    out: &mut Publisher<W>,
) -> Result<(), ReadError> {
    let table = chunk.request.table;
    let mut stale = 0;
    for (index, row) in chunk.rows.iter().enumerate() {
        if index == chunk.rows.len() / 2 {
            out.flush().await?;
            stage::reached("mid_chunk", index as u64).await;
        }
        let touched = tail
            .touched(table)
            .is_some_and(|touched| touched.since(chunk.primary_key(row), chunk.token));
        if touched {
            stale += 1;
            continue;
        }
        let change = Change {
            table: table as u32,
            fingerprint,
            position: None,
            op: Op::Upsert,
            row: chunk.wire(row),
        };
        out.change(row.to, chunk.message_key(row), &change).await?;
        tail.rows_sent += 1;
    }
    metrics::superseded_rows(shard, stale);
    Ok(())
}
