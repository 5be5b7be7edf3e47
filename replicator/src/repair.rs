//! Single rows, copied again because they were found to differ on a new shard.
//!
//! Whoever verifies leaves the key in `modshift_repair` on the old shard. The row is read like a
//! chunk of one row (a consistent snapshot with the token in it, then H) and enters the log by the
//! same rules: when the tail has passed H, and not if an event has touched its key since. A row that
//! is not there, or belongs elsewhere, becomes a delete. So a repair cannot overtake the stream, and
//! the applier's guards hold for it. Only after the copy; a request that could not be served is
//! found again at the next look. Nothing while the shard does not serve: its rows may be old by then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::LogWriter;
use modshift_mariadb::{Conn, Session, control};
use modshift_proto::message::{Change, Op, TokenPhase};
use modshift_proto::plan::Endpoint;
use modshift_proto::row::{RowError, RowView};
use modshift_proto::{GtidSet, NewShard};
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;

use crate::error::{Class, ReadError, server_error};
use crate::publish::Publisher;
use crate::route::{Moduli, Place, RoutedTable, Target};
use crate::snapshot::touched::Verdict;
use crate::snapshot::{Chunk, ChunkReader, ChunkRequest};
use crate::tail::Tail;

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
}

enum Step {
    Asked(Conn, Vec<Request>),
    Read(Box<ChunkReader>, VecDeque<(Request, Chunk)>),
    Marked(Conn),
}

pub struct Repairs {
    primary: Endpoint,
    tailed: Endpoint,
    moduli: Moduli,
    tables: Arc<Vec<RoutedTable>>,
    keys_max: usize,
    /// At most one step under way.
    work: JoinSet<Result<Step, ReadError>>,
    conn: Option<Conn>,
    reader: Option<ChunkReader>,
    due: Instant,
    recording: Vec<usize>,
    /// Asked for; to be read once this token has been seen.
    requests: Option<(u64, Vec<Request>)>,
    /// Read, and waiting for the tail to pass their upper bound.
    waiting: VecDeque<(Request, Chunk)>,
    sent: Vec<u64>,
}

impl Repairs {
    pub fn new(
        primary: Endpoint,
        moduli: Moduli,
        tables: Arc<Vec<RoutedTable>>,
        keys_max: usize,
    ) -> Repairs {
        Repairs {
            tailed: primary.tailed(),
            primary,
            moduli,
            tables,
            keys_max,
            work: JoinSet::new(),
            conn: None,
            reader: None,
            due: Instant::now(),
            recording: Vec::new(),
            requests: None,
            waiting: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// What was read may show what the next connection's server does not have.
    pub fn connection_lost(&mut self) {
        self.work.abort_all();
        self.waiting.clear();
        self.requests = None;
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
        if let Some((_, requests)) = self.requests.take_if(|(from, _)| seen >= *from) {
            self.read(requests);
        }
        if tail.between_groups() {
            self.enter(tail, guard, out).await?;
        }
        let idle = self.work.is_empty() && self.waiting.is_empty() && self.requests.is_none();
        if idle && !self.sent.is_empty() {
            self.mark();
        } else if idle && Instant::now() >= self.due {
            self.ask();
        }
        Ok(())
    }

    fn step(&mut self, step: Result<Step, ReadError>, tail: &mut Tail) {
        self.due = Instant::now() + INTERVAL;
        match step {
            Ok(Step::Asked(conn, requests)) => {
                self.conn = Some(conn);
                if requests.is_empty() {
                    self.recording.drain(..).for_each(|table| tail.stop_recording(table));
                    return;
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
            Ok(Step::Read(reader, chunks)) => {
                self.reader = Some(*reader);
                self.waiting = chunks;
            }
            Ok(Step::Marked(conn)) => {
                self.conn = Some(conn);
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

    fn ask(&mut self) {
        let (primary, conn) = (self.primary.clone(), self.conn.take());
        let tables = Arc::clone(&self.tables);
        self.work.spawn(async move {
            let mut conn = open(conn, &primary).await?;
            let sql = format!(
                "SELECT id, table_name, target, pk FROM {} WHERE sent = 0 ORDER BY id LIMIT {ROWS_MAX}",
                control::REPAIR
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
            let table = |name: &str| tables.iter().position(|table| table.schema.name == name);
            let request = |(id, name, target, key): Row| {
                Some(Request { id, table: table(&name)?, target: NewShard(target), key })
            };
            Ok(Step::Asked(conn, rows.into_iter().filter_map(request).collect()))
        });
    }

    fn read(&mut self, requests: Vec<Request>) {
        let mut reader = self.reader.take().unwrap_or_else(|| {
            ChunkReader::new(self.tailed.clone(), self.moduli, Arc::clone(&self.tables))
        });
        let tables = Arc::clone(&self.tables);
        self.work.spawn(async move {
            let mut chunks = VecDeque::new();
            for request in requests {
                let Ok(key) = cells(&tables[request.table], &request.key) else {
                    tracing::warn!(id = request.id, "a request for a repair is not readable");
                    continue;
                };
                let chunk = ChunkRequest {
                    table: request.table,
                    after: None,
                    only: Some(key),
                    rows: 1,
                    bytes_max: usize::MAX,
                    generation: 0,
                };
                let chunk = reader.read(chunk).await?;
                chunks.push_back((request, chunk));
            }
            Ok(Step::Read(Box::new(reader), chunks))
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
                if !touched.since(&request.key, chunk.token) {
                    self.send(request, chunk, out).await?;
                }
                self.sent.push(request.id);
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    async fn send<W: LogWriter>(
        &self,
        request: &Request,
        chunk: &Chunk,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let table = &self.tables[request.table];
        let to = Place::One(request.target);
        // Its collation may call another row equal.
        let row = chunk.rows.iter().find(|row| chunk.primary_key(row) == request.key);
        let row = row.filter(|row| row.to == to || row.to == Place::All);
        let (op, image, message_key) = match row {
            Some(row) => (Op::Upsert, chunk.wire(row), chunk.message_key(row)),
            None if self.may_delete(table, request) => (Op::Delete, &request.key[..], &[][..]),
            None => {
                tracing::warn!(
                    table = table.schema.name,
                    target = request.target.0,
                    "a row whose primary key places it elsewhere cannot be deleted through the log"
                );
                return Ok(());
            }
        };
        let change = Change {
            table: request.table as u32,
            fingerprint: table.fingerprint,
            position: None,
            op,
            row: image,
        };
        Ok(out.change(to, message_key, &change).await?)
    }

    /// The applier checks a delete's place where the key shows it, and takes another for a mistake
    /// of ours.
    fn may_delete(&self, table: &RoutedTable, request: &Request) -> bool {
        let Target::Keyed { column, rule, .. } = &table.target else { return true };
        let part = table.schema.primary_key.iter().position(|key| key == column);
        let (Some(part), Ok(cells)) = (part, cells(table, &request.key)) else { return true };
        let place = |modulus| rule.place(&cells[part], modulus).ok();
        place(self.moduli.new) == Some(request.target.0)
            && place(self.moduli.old) == Some(self.moduli.source.0)
    }

    fn mark(&mut self) {
        let (primary, conn) = (self.primary.clone(), self.conn.take());
        let ids: Vec<String> = self.sent.drain(..).map(|id| id.to_string()).collect();
        self.work.spawn(async move {
            let mut conn = open(conn, &primary).await?;
            let sql =
                format!("UPDATE {} SET sent = 1 WHERE id IN ({})", control::REPAIR, ids.join(", "));
            let marked = conn.query_drop(sql).await;
            marked.map_err(|error| server_error(&primary, "marking a repair as sent", error))?;
            Ok(Step::Marked(conn))
        });
    }
}

async fn open(conn: Option<Conn>, primary: &Endpoint) -> Result<Conn, ReadError> {
    match conn {
        Some(conn) => Ok(conn),
        None => Ok(modshift_mariadb::connect(primary, Session::Plain).await?),
    }
}

/// The cells of a primary key in wire form.
fn cells(table: &RoutedTable, key: &[u8]) -> Result<Vec<Vec<u8>>, RowError> {
    let mut cells = Vec::new();
    RowView::parse(key)?.collect(table.schema.primary_key.len(), &mut cells)?;
    let owned = cells.into_iter().map(|cell| cell.map(<[u8]>::to_vec));
    owned.collect::<Option<_>>().ok_or(RowError("NULL in a primary key"))
}
