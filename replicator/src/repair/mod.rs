//! Rows that are copied again: single ones that were found to differ on a new shard, and ranges.
//!
//! Whoever verifies leaves keys in `modshift_repair` on the old shard, and `modshift resync` leaves
//! ranges in `modshift_resync`. Both are read as chunks (a consistent snapshot with the token in it, then
//! H) and enter the log by the same rules: when the tail has passed H, and not the rows that an event
//! has touched since. Of a key that is asked for, a row that is not there, or belongs elsewhere, becomes
//! a delete. So a repair cannot overtake the stream, and the applier's guards hold for it. Only after
//! the copy; a request that could not be served is found again at the next look. Nothing while the
//! shard does not serve: its rows may be old by then.
//!
//! One look at a time: some keys and a chunk of one range, none of which is recorded as served before it
//! is in the log. What waits to enter is bounded like a chunk of the copy, twice.
//!
//! A request that can never be served (it cannot be read, or asks for what the log cannot do) is
//! marked as refused where it stands: the tail goes on, the gate stays closed until a person has
//! removed it, and it holds up no other.

mod asked;
mod range;
mod read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::LogWriter;
use modshift_mariadb::connect::label;
use modshift_mariadb::pace::{Lane, Pace, Throttle};
use modshift_proto::message::{Change, Op, TokenPhase};
use modshift_proto::plan::{Endpoint, Snapshot as SnapshotPolicy};
use modshift_proto::{GtidSet, NewShard};
use tokio::task::JoinSet;

use self::asked::{Asked, Book, Marks};
use self::range::Ranges;
use self::read::{Work, read};
use crate::copy::{TOKEN_SLACK, send_rows};
use crate::definitions::Definitions;
use crate::error::{Class, ReadError};
use crate::metrics;
use crate::publish::Publisher;
use crate::route::{Moduli, Place, RoutedTable, Target};
use crate::snapshot::admit::{Admission, Passed, Shown, admit};
use crate::snapshot::{Chunk, ChunkReader, ChunkRequest};
use crate::tail::Tail;
use crate::token::within;

/// How often requests are looked for: two small reads on the old shard.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same after something was read that could not enter.
const AGAIN: Duration = Duration::from_millis(100);
/// After an error that the next look will meet again.
const REFUSED: Duration = Duration::from_secs(60);
/// Tokens between the start of recording and the first snapshot, so that the snapshot's own is
/// newer than the record.
const TOKENS_BEFORE: u64 = 2;

/// One row that is asked for.
#[derive(Clone, Debug)]
struct Request {
    id: u64,
    table: usize,
    target: NewShard,
    /// Wire form.
    key: Vec<u8>,
    cells: Vec<Vec<u8>>,
}

/// What can never be served.
#[derive(Debug)]
struct Refused {
    id: u64,
    why: String,
}

/// What is to be read next.
struct Next {
    keys: Vec<Request>,
    range: Option<(u64, ChunkRequest)>,
}

enum Step {
    Asked(Asked),
    Read(VecDeque<Work>, Vec<Refused>, Option<Refused>),
    Failed(ReadError),
    /// What was to be recorded was not.
    Unmarked(Marks, ReadError),
}

pub struct Repairs {
    book: Book,
    reader: ChunkReader,
    lane: Lane,
    limits: SnapshotPolicy,
    /// At most one step under way.
    work: JoinSet<Step>,
    reading: bool,
    due: Instant,
    recording: Vec<usize>,
    /// To be read once this token has been seen.
    next: Option<(u64, Next)>,
    /// Nor earlier: what XA had committed before the recording must be there for all.
    not_before: Instant,
    /// Read, and waiting for the tail to pass their upper bound.
    waiting: VecDeque<Work>,
    ranges: Ranges,
    marks: Marks,
    /// When the progress of a range was recorded last.
    recorded: Instant,
}

impl Repairs {
    #[allow(clippy::too_many_arguments, reason = "wiring: each part is used once, here")]
    pub fn new(
        primary: Endpoint,
        moduli: Moduli,
        tables: Arc<Vec<RoutedTable>>,
        definitions: Arc<Definitions>,
        limits: &SnapshotPolicy,
        epoch: u64,
        xa_grace: Duration,
        throttle: &Throttle,
    ) -> Repairs {
        let tailed = primary.tailed();
        let targets: Vec<NewShard> = (0..moduli.new.get()).map(NewShard).collect();
        let desk = throttle.desk().clone();
        Repairs {
            reader: ChunkReader::new(tailed, moduli, tables.clone(), definitions),
            book: Book { primary, desk, moduli, tables, epoch },
            lane: throttle.lane(&[moduli.source], &targets, 1),
            limits: limits.clone(),
            work: JoinSet::new(),
            reading: false,
            due: Instant::now(),
            recording: Vec::new(),
            next: None,
            not_before: Instant::now() + xa_grace,
            waiting: VecDeque::new(),
            ranges: Ranges::default(),
            marks: Marks::default(),
            recorded: Instant::now(),
        }
    }

    /// What was read may show what the next connection's server does not have.
    pub fn connection_lost(&mut self) {
        // A new one: of what has ended already the old one still has the outcome, which an abort leaves.
        self.work = JoinSet::new();
        self.reading = false;
        self.waiting.clear();
        self.next = None;
        // What was being recorded may not be.
        self.ranges.forget();
    }

    /// Nothing is under way, or asked for.
    pub fn at_rest(&self) -> bool {
        self.work.is_empty() && !self.is_busy()
    }

    /// Rows are on their way: tokens are wanted often.
    pub fn is_busy(&self) -> bool {
        self.reading || self.next.is_some() || !self.waiting.is_empty() || !self.ranges.at_rest()
    }

    /// Brings the requests one step further. Only after the copy; `guard` is the copy's.
    pub async fn look_after<W: LogWriter>(
        &mut self,
        tail: &mut Tail,
        guard: &GtidSet,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        if tail.phase() == TokenPhase::Fenced {
            // The other side may serve: what stands here is behind what the application writes
            // there, and would take its place. What was asked for stays asked for.
            self.connection_lost();
            self.recording.drain(..).for_each(|table| tail.stop_recording(table));
            return Ok(());
        }
        while let Some(done) = self.work.try_join_next() {
            match done {
                Ok(step) => self.step(step, tail),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {} // aborted
            }
        }
        self.ranges.settle(|place| out.has_acked(place));
        let seen = tail.token_seen().unwrap_or(0);
        let ready = self.next.as_ref().is_some_and(|(from, _)| seen >= *from)
            && Instant::now() >= self.not_before;
        // Not asked before: whoever asks wants to be told how the servers are.
        if ready
            && self.lane.may_start()
            && let Some((_, next)) = self.next.take()
        {
            self.reading = true;
            let (reader, seats) = (self.reader.clone(), self.lane.seats().clone());
            let bytes_max = self.limits.chunk_bytes_max;
            self.work.spawn(async move {
                match read(&reader, &seats, next, bytes_max).await {
                    Ok((work, refused, range_refused)) => Step::Read(work, refused, range_refused),
                    Err(error) => Step::Failed(error),
                }
            });
        }
        if tail.between_groups() && !self.waiting.is_empty() {
            self.enter(tail, guard, out).await?;
        }
        if self.work.is_empty() && self.next.is_none() && self.waiting.is_empty() {
            self.look();
        }
        Ok(())
    }

    fn step(&mut self, step: Step, tail: &mut Tail) {
        self.due = Instant::now() + INTERVAL;
        match step {
            Step::Asked(asked) => self.asked(asked, tail),
            Step::Read(work, refused, range_refused) => {
                self.reading = false;
                if work.is_empty() {
                    self.due = Instant::now() + AGAIN;
                }
                for Work { chunk, .. } in &work {
                    self.lane.done(chunk.rows.len() as u64, chunk.took);
                }
                self.waiting = work;
                refused.into_iter().for_each(|request| self.refuse(request));
                self.refuse_range(range_refused);
            }
            Step::Failed(error) => {
                self.reading = false;
                self.failed(&error);
            }
            Step::Unmarked(mut marks, error) => {
                // A range says how far it is; a key is found again.
                if let Some(copied) = marks.copied.take() {
                    self.ranges.not_recorded(copied);
                }
                self.failed(&error);
            }
        }
    }

    fn failed(&mut self, error: &ReadError) {
        // A repair that fails is no reason to stop a stream that works.
        tracing::warn!(error = %error, "rows are not copied again yet");
        if error.class() != Class::Retry {
            self.due = Instant::now() + REFUSED;
        }
    }

    fn asked(&mut self, asked: Asked, tail: &mut Tail) {
        let Asked { keys, refused, range, range_refused } = asked;
        refused.into_iter().for_each(|request| self.refuse(request));
        self.refuse_range(range_refused);
        let range = range.and_then(|range| {
            let id = range.id;
            Some((id, self.ranges.next(range, &self.limits)?))
        });
        let wanted = |table: usize| {
            keys.iter().any(|request| request.table == table)
                || range.as_ref().is_some_and(|(_, chunk)| chunk.table == table)
        };
        self.recording.retain(|&table| {
            if !wanted(table) {
                tail.stop_recording(table);
            }
            wanted(table)
        });
        if keys.is_empty() && range.is_none() {
            return;
        }
        let mut from = tail.token_seen().unwrap_or(0);
        let tables = keys.iter().map(|request| request.table);
        for table in tables.chain(range.as_ref().map(|(_, chunk)| chunk.table)) {
            if self.recording.contains(&table) && tail.touched(table).is_some() {
                continue;
            }
            if tail.is_late(table) {
                self.not_before = self.not_before.max(Instant::now() + self.limits.xa_grace);
            }
            tail.record(table, self.limits.touched_keys_max);
            if !self.recording.contains(&table) {
                self.recording.push(table);
            }
            from = tail.token_seen().unwrap_or(0) + TOKENS_BEFORE;
        }
        self.next = Some((from, Next { keys, range }));
    }

    /// Not before it is marked in its table is it done with: a reader that dies first meets it again.
    fn refuse(&mut self, request: Refused) {
        let (id, why) = (request.id, request.why);
        let at = label(&self.book.primary);
        tracing::error!(at, id, why, "a request for a repair is refused");
        self.marks.refused.push(id);
    }

    fn refuse_range(&mut self, refused: Option<Refused>) {
        let Some(refused) = refused else { return };
        let at = label(&self.book.primary);
        tracing::error!(at, id = refused.id, why = refused.why, "a resync is refused");
        self.marks.ranges_refused.push(refused);
    }

    /// Writes down what has become of requests, or looks for more.
    fn look(&mut self) {
        let now = Instant::now();
        // Not after each chunk: what is not recorded is only copied once more.
        if self.ranges.is_done() || now >= self.recorded + INTERVAL {
            self.marks.copied = self.ranges.take_durable();
            self.recorded = now;
        }
        let marks = std::mem::take(&mut self.marks);
        if marks.is_empty() && now < self.due {
            return;
        }
        let (book, place) = (self.book.clone(), self.book.primary.clone());
        let refusals = marks.refusals();
        let source = self.book.moduli.source;
        // Others wait for their turn there.
        self.work.spawn(async move {
            if !marks.is_empty() {
                if let Err(error) =
                    within(&place, "marking repairs as done", book.mark(&marks)).await
                {
                    return Step::Unmarked(marks, error);
                }
                metrics::repairs_refused(source, refusals);
            }
            match within(&place, "looking for repairs", book.ask()).await {
                Ok(asked) => Step::Asked(asked),
                Err(error) => Step::Failed(error),
            }
        });
    }

    async fn enter<W: LogWriter>(
        &mut self,
        tail: &mut Tail,
        guard: &GtidSet,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        while let Some(work) = self.waiting.front() {
            let chunk = &work.chunk;
            let table = chunk.request.table;
            let shown = Shown { epoch: chunk.epoch, token: chunk.token, high: &chunk.high };
            let passed = Passed {
                epoch: tail.epoch(),
                done: tail.done(),
                token_seen: tail.token_seen(),
                guard: Some(guard),
            };
            let admission = admit(shown, passed, tail.touched(table));
            if admission == Admission::Wait {
                return Ok(());
            }
            let Some(work) = self.waiting.pop_front() else { break };
            match (admission, work.range) {
                (Admission::Enter, Some(_)) => {
                    let fingerprint = self.book.tables[table].fingerprint;
                    let source = self.book.moduli.source;
                    send_rows(source, fingerprint, &work.chunk, tail, out).await?;
                    self.ranges.entered(work.chunk, out.place(), &self.limits);
                }
                (Admission::Enter, None) => self.send_keys(work, tail, out).await?,
                (_, Some(_)) => {
                    metrics::chunk_read_again(self.book.moduli.source);
                    self.ranges.read_again();
                }
                // Found again at the next look.
                (_, None) => {}
            }
            // At once: there may be more.
            self.due = Instant::now();
            if admission != Admission::Enter {
                self.due += AGAIN;
            }
        }
        // Nothing is in flight: no older token will be asked for.
        let seen = tail.token_seen().unwrap_or(0).saturating_sub(TOKEN_SLACK);
        for &table in &self.recording {
            if let Some(touched) = tail.touched_mut(table) {
                touched.forget_before(seen);
            }
        }
        Ok(())
    }

    async fn send_keys<W: LogWriter>(
        &mut self,
        work: Work,
        tail: &mut Tail,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Work { chunk, keys, .. } = work;
        let rows = read::by_key(&chunk);
        for request in keys {
            let touched = tail.touched(request.table);
            // What touched it since has put something newer into the log.
            let newer = touched.is_some_and(|t| t.since(&request.key, chunk.token));
            let row = rows.get(request.key.as_slice()).map(|&index| &chunk.rows[index]);
            if !newer && !self.send(&request, &chunk, row, out).await? {
                let why = "its primary key places the row elsewhere: the log cannot delete it";
                self.refuse(Refused { id: request.id, why: why.to_owned() });
                continue;
            }
            self.marks.sent.push(request.id);
        }
        Ok(())
    }

    /// False: the log has no change for it.
    async fn send<W: LogWriter>(
        &self,
        request: &Request,
        chunk: &Chunk,
        row: Option<&crate::snapshot::chunk::ChunkRow>,
        out: &mut Publisher<W>,
    ) -> Result<bool, ReadError> {
        let table = &self.book.tables[request.table];
        let to = Place::One(request.target);
        let row = row.filter(|row| row.to == to || row.to == Place::All);
        let (op, image, message_key) = match row {
            Some(row) => (Op::Upsert, chunk.wire(row), chunk.message_key(row)),
            None if self.may_delete(table, request) => (Op::Delete, &request.key[..], &[][..]),
            None => return Ok(false),
        };
        let change = Change {
            table: request.table as u32,
            fingerprint: table.fingerprint,
            position: None,
            op,
            row: image,
        };
        out.change(to, message_key, &change).await?;
        Ok(true)
    }

    /// The applier checks a delete's place where the key shows it, and takes another for a mistake
    /// of ours.
    fn may_delete(&self, table: &RoutedTable, request: &Request) -> bool {
        let Target::Keyed { column, rule, .. } = &table.target else { return true };
        let part = table.schema.primary_key.iter().position(|key| key == column);
        let Some(part) = part else { return true };
        let moduli = self.book.moduli;
        let place = |modulus| rule.place(&request.cells[part], modulus).ok();
        place(moduli.new) == Some(request.target.0) && place(moduli.old) == Some(moduli.source.0)
    }
}
