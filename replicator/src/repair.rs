//! Single rows, copied again because they were found to differ on a new shard.
//!
//! Whoever verifies leaves the key in `modshift_repair` on the old shard. The row is read like a
//! chunk of one row (a consistent snapshot with the token in it, then H) and enters the log by the
//! same rules: when the tail has passed H, and not if an event has touched its key since. A row that
//! is not there, or belongs elsewhere, becomes a delete. So a repair cannot overtake the stream, and
//! the applier's guards hold for it. Only after the copy; a request that could not be served is
//! found again at the next look. Nothing while the shard does not serve: its rows may be old by then.
//!
//! A request that can never be served (it cannot be read, or asks for what the log cannot do) is
//! marked as refused where it stands: the tail goes on, the gate stays closed until a person has
//! removed it, and it holds up no other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::LogWriter;
use modshift_mariadb::connect::label;
use modshift_mariadb::pace::Throttle;
use modshift_mariadb::{Desk, Seats, control, value};
use modshift_proto::message::{Change, Op, TokenPhase};
use modshift_proto::plan::{Endpoint, Snapshot as SnapshotPolicy};
use modshift_proto::row::{RowError, RowView};
use modshift_proto::{GtidSet, NewShard};
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;

use crate::definitions::Definitions;
use crate::error::{Class, ReadError, server_error};
use crate::metrics;
use crate::publish::Publisher;
use crate::route::{Moduli, Place, RoutedTable, Target};
use crate::snapshot::touched::Verdict;
use crate::snapshot::{Chunk, ChunkReader, ChunkRequest};
use crate::tail::Tail;
use crate::token::within;

/// How often requests are looked for: one small read on the old shard.
const INTERVAL: Duration = Duration::from_secs(1);
/// After an error that the next look will meet again.
const REFUSED: Duration = Duration::from_secs(60);
/// Rows of one look, each in memory until it enters.
const ROWS_MAX: usize = 20;
/// Tokens between the start of recording and the first snapshot, so that the snapshot's own is
/// newer than the record.
const TOKENS_BEFORE: u64 = 2;

struct Request {
    id: u64,
    table: usize,
    target: NewShard,
    /// Wire form.
    key: Vec<u8>,
    cells: Vec<Vec<u8>>,
}

/// What can never be served.
struct Refused {
    id: u64,
    why: String,
}

enum Step {
    Asked(Vec<Request>, Vec<Refused>),
    Read(VecDeque<(Request, Chunk)>, Vec<Refused>),
    /// How many were refused.
    Marked(usize),
}

pub struct Repairs {
    primary: Endpoint,
    moduli: Moduli,
    tables: Arc<Vec<RoutedTable>>,
    reader: ChunkReader,
    desk: Desk,
    seats: Seats,
    keys_max: usize,
    /// At most one step under way.
    work: JoinSet<Result<Step, ReadError>>,
    due: Instant,
    recording: Vec<usize>,
    /// Asked for; to be read once this token has been seen.
    requests: Option<(u64, Vec<Request>)>,
    /// Nor earlier: what XA had committed before the recording must be there for all.
    not_before: Instant,
    xa_grace: Duration,
    /// Read, and waiting for the tail to pass their upper bound.
    waiting: VecDeque<(Request, Chunk)>,
    sent: Vec<u64>,
    refused: Vec<u64>,
}

impl Repairs {
    pub fn new(
        primary: Endpoint,
        moduli: Moduli,
        tables: Arc<Vec<RoutedTable>>,
        definitions: Arc<Definitions>,
        limits: &SnapshotPolicy,
        throttle: &Throttle,
    ) -> Repairs {
        Repairs {
            reader: ChunkReader::new(primary.tailed(), moduli, tables.clone(), definitions),
            primary,
            moduli,
            tables,
            desk: throttle.desk().clone(),
            seats: throttle.seats().clone(),
            keys_max: limits.touched_keys_max,
            work: JoinSet::new(),
            due: Instant::now(),
            recording: Vec::new(),
            requests: None,
            not_before: Instant::now(),
            xa_grace: limits.xa_grace,
            waiting: VecDeque::new(),
            sent: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// What was read may show what the next connection's server does not have.
    pub fn connection_lost(&mut self) {
        self.work.abort_all();
        self.waiting.clear();
        self.requests = None;
    }

    /// Nothing is under way, or asked for.
    pub fn at_rest(&self) -> bool {
        self.work.is_empty() && self.waiting.is_empty() && self.requests.is_none()
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
        let seen = tail.token_seen().unwrap_or(0);
        let ready = Instant::now() >= self.not_before;
        if let Some((_, requests)) = self.requests.take_if(|(from, _)| ready && seen >= *from) {
            self.read(requests);
        }
        if tail.between_groups() {
            self.enter(tail, guard, out).await?;
        }
        let idle = self.at_rest();
        if idle && !(self.sent.is_empty() && self.refused.is_empty()) {
            self.mark();
        } else if idle && Instant::now() >= self.due {
            self.ask();
        }
        Ok(())
    }

    fn step(&mut self, step: Result<Step, ReadError>, tail: &mut Tail) {
        self.due = Instant::now() + INTERVAL;
        match step {
            Ok(Step::Asked(requests, refused)) => {
                refused.into_iter().for_each(|request| self.refuse(request));
                if requests.is_empty() {
                    self.recording.drain(..).for_each(|table| tail.stop_recording(table));
                    return;
                }
                if requests.iter().any(|request| tail.is_late(request.table)) {
                    self.not_before = Instant::now() + self.xa_grace;
                }
                for request in &requests {
                    tail.record(request.table, self.keys_max);
                    if !self.recording.contains(&request.table) {
                        self.recording.push(request.table);
                    }
                }
                let from = tail.token_seen().unwrap_or(0) + TOKENS_BEFORE;
                self.requests = Some((from, requests));
            }
            Ok(Step::Read(chunks, refused)) => {
                self.waiting = chunks;
                refused.into_iter().for_each(|request| self.refuse(request));
            }
            Ok(Step::Marked(refused)) => {
                metrics::repairs_refused(self.moduli.source, refused as u64);
                self.due = Instant::now();
            }
            Err(error) => {
                // A repair that fails is no reason to stop a stream that works.
                tracing::warn!(error = %error, "rows are not copied again yet");
                if error.class() != Class::Retry {
                    self.due = Instant::now() + REFUSED;
                }
            }
        }
    }

    /// Not before it is marked in its table is it done with: a reader that dies first meets it again.
    fn refuse(&mut self, request: Refused) {
        let (id, why) = (request.id, request.why);
        tracing::error!(at = label(&self.primary), id, why, "a request for a repair is refused");
        self.refused.push(id);
    }

    fn ask(&mut self) {
        let (primary, desk) = (self.primary.clone(), self.desk.clone());
        let (tables, moduli) = (Arc::clone(&self.tables), self.moduli);
        let place = primary.clone();
        let asking = async move {
            let mut conn = desk.turn(&primary).await?;
            let sql = format!(
                "SELECT id, table_name, target, pk FROM {} WHERE sent = {} ORDER BY id \
                 LIMIT {ROWS_MAX}",
                table_of(&primary),
                control::REPAIR_WAITS
            );
            type Row = (u64, String, u16, Vec<u8>);
            let rows: Result<Vec<Row>, _> = conn.query(sql).await;
            let rows = match rows {
                Ok(rows) => rows,
                // Nobody has ever asked for a repair.
                Err(mysql_async::Error::Server(error)) if error.code == 1146 => Vec::new(),
                Err(error) => {
                    return Err(server_error(&primary, "looking for repairs", error).into());
                }
            };
            conn.done();
            let (mut requests, mut refused) = (Vec::new(), Vec::new());
            for (id, table, target, key) in rows {
                match request(&tables, moduli, (id, &table, target, key)) {
                    Ok(request) => requests.push(request),
                    Err(why) => refused.push(Refused { id, why }),
                }
            }
            Ok(Step::Asked(requests, refused))
        };
        // Others wait for their turn there.
        self.work.spawn(async move { within(&place, "looking for repairs", asking).await });
    }

    fn read(&mut self, requests: Vec<Request>) {
        let (reader, seats) = (self.reader.clone(), self.seats.clone());
        self.work.spawn(async move {
            let (mut chunks, mut refused) = (VecDeque::new(), Vec::new());
            for request in requests {
                let chunk = ChunkRequest {
                    table: request.table,
                    after: None,
                    only: Some(request.cells.clone()),
                    rows: 1,
                    bytes_max: usize::MAX,
                    generation: 0,
                };
                let seat = seats.seat(reader.server()).await;
                match reader.read(seat, chunk).await {
                    Ok(chunk) => chunks.push_back((request, chunk)),
                    // A fact about this row or its table; the others may have better luck.
                    Err(error @ ReadError::Drift { .. }) => return Err(error),
                    Err(error) if error.class() == Class::Halt => {
                        refused.push(Refused { id: request.id, why: error.to_string() });
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(Step::Read(chunks, refused))
        });
    }

    async fn enter<W: LogWriter>(
        &mut self,
        tail: &mut Tail,
        guard: &GtidSet,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        while let Some((request, chunk)) = self.waiting.front() {
            let passed = tail.done().contains(guard) && tail.done().contains(&chunk.high);
            if !passed {
                return Ok(());
            }
            let seen = tail.token_seen().unwrap_or(0);
            let valid =
                chunk.epoch == tail.epoch() && !chunk.high.is_empty() && chunk.token <= seen;
            let touched = tail.touched(request.table);
            let known = touched.filter(|t| valid && t.verdict(chunk.token) == Verdict::Enter);
            if let Some(touched) = known {
                // What touched it since has put something newer into the log.
                let newer = touched.since(&request.key, chunk.token);
                let done = newer || self.send(request, chunk, out).await?;
                let id = request.id;
                if done {
                    self.sent.push(id);
                } else {
                    let why = "its primary key places the row elsewhere: the log cannot delete it";
                    self.refuse(Refused { id, why: why.to_owned() });
                }
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// False: the log has no change for it.
    async fn send<W: LogWriter>(
        &self,
        request: &Request,
        chunk: &Chunk,
        out: &mut Publisher<W>,
    ) -> Result<bool, ReadError> {
        let table = &self.tables[request.table];
        let to = Place::One(request.target);
        // Its collation may call another row equal.
        let row = chunk.rows.iter().find(|row| chunk.primary_key(row) == request.key);
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
        let place = |modulus| rule.place(&request.cells[part], modulus).ok();
        place(self.moduli.new) == Some(request.target.0)
            && place(self.moduli.old) == Some(self.moduli.source.0)
    }

    fn mark(&mut self) {
        let (primary, desk) = (self.primary.clone(), self.desk.clone());
        let (sent, refused) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.refused));
        let place = primary.clone();
        let marking = async move {
            let mut conn = desk.turn(&primary).await?;
            let count = refused.len();
            for (ids, state) in [(sent, control::REPAIR_SENT), (refused, control::REPAIR_REFUSED)] {
                if ids.is_empty() {
                    continue;
                }
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                let (table, ids) = (table_of(&primary), ids.join(", "));
                let sql = format!("UPDATE {table} SET sent = {state} WHERE id IN ({ids})");
                let marked = conn.query_drop(sql).await;
                marked.map_err(|error| server_error(&primary, "marking repairs as done", error))?;
            }
            conn.done();
            Ok(Step::Marked(count))
        };
        self.work.spawn(async move { within(&place, "marking repairs as done", marking).await });
    }
}

fn table_of(primary: &Endpoint) -> String {
    format!("{}.{}", value::quote(&primary.schema), control::REPAIR)
}

/// A request as it stands in its table; the error is why it can never be served.
fn request(
    tables: &[RoutedTable],
    moduli: Moduli,
    (id, name, target, key): (u64, &str, u16, Vec<u8>),
) -> Result<Request, String> {
    let table = tables.iter().position(|table| table.schema.name == name);
    let table = table.ok_or_else(|| format!("the plan has no table {name}"))?;
    if target >= moduli.new.get() {
        return Err(format!("the plan has no shard {target} to send it to"));
    }
    let cells = cells(&tables[table], &key)
        .map_err(|error| format!("its key of table {name} cannot be read: {error}"))?;
    Ok(Request { id, table, target: NewShard(target), key, cells })
}

/// The cells of a primary key in wire form.
fn cells(table: &RoutedTable, key: &[u8]) -> Result<Vec<Vec<u8>>, RowError> {
    let mut cells = Vec::new();
    RowView::parse(key)?.collect(table.schema.primary_key.len(), &mut cells)?;
    let owned = cells.into_iter().map(|cell| cell.map(<[u8]>::to_vec));
    owned.collect::<Option<_>>().ok_or(RowError("NULL in a primary key"))
}
