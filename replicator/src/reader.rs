//! One old shard's reader, from start to stop: the wiring of tail, snapshot, token and publisher.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use modshift_changelog::{LogError, LogWriter, stage};
use modshift_mariadb::pace::Throttle;
use modshift_mariadb::{Session, control};
use modshift_proto::message::{Start, TokenPhase};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::schema::TableSchema;
use modshift_proto::{GtidSet, NewShard, OldShard};
use mysql_async::prelude::Queryable;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::binlog::{BinlogError, Decoder, EventStream, PlannedTable};
use crate::copy::Copying;
use crate::epoch::{self, Epoch};
use crate::error::{Class, ReadError, server_error};
use crate::metrics;
use crate::prepare::{Prepared, prepare, token_table};
use crate::publish::Publisher;
use crate::repair::Repairs;
use crate::route::Moduli;
use crate::status::{Phase, ReaderState, ReaderStatus, TableState};
use crate::tail::{Tail, TailParts, TokenColumns};
use crate::token::{self, TokenWriter, within};

/// Events taken in a row before acknowledgements, chunks and timers get their turn.
const EVENTS_PER_TURN: usize = 512;
/// How often what does not follow from an event is looked after.
const TICK: Duration = Duration::from_millis(20);
/// How often metrics and status are brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// So often in a row another connection may take this reader's replica id before it gives up.
const REPLICA_ID_TAKEN_MAX: u32 = 10;
/// How long a stopping reader waits for acknowledgements; without them it only replays more.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Heartbeats of the binlog connection while the server has nothing to send.
const BINLOG_HEARTBEAT: Duration = Duration::from_secs(2);

/// Reads one old shard until cancelled (`Ok`) or halted (`Err`). `open_log` is asked for the writer
/// of each epoch. `throttle` slows the copy down, never the tail.
pub async fn run_reader<W, F>(
    plan: Arc<Plan>,
    shard: OldShard,
    mut open_log: impl FnMut(u64) -> F + Send,
    status: ReaderStatus,
    throttle: Throttle,
    cancel: CancellationToken,
) -> Result<(), ReadError>
where
    W: LogWriter,
    F: Future<Output = Result<W, LogError>> + Send,
{
    let mut epoch_number = 0;
    let mut backoff = Backoff::default();
    let outcome = loop {
        let run = run(&plan, shard, &mut open_log, &status, &throttle, &cancel, &mut epoch_number);
        match run.await {
            Err(error) if error.ends_epoch() => {
                metrics::retry(shard, "log");
                tracing::warn!(shard = shard.0, error = %error, "change log lost, a new epoch follows");
                status.update(ReaderState::reconnecting);
            }
            outcome => break outcome,
        }
        tokio::select! {
            () = cancel.cancelled() => break Ok(()),
            () = tokio::time::sleep(backoff.next()) => {}
        }
    };
    match &outcome {
        Ok(()) => status.update(|state| state.phase = Phase::Stopped),
        Err(error) => {
            let (told, hint) = (error.told(plan.direction()), error.hint_for(plan.direction()));
            let text = match &hint {
                Some(hint) => format!("{told} ({hint})"),
                None => told.clone(),
            };
            metrics::halt(shard, error.reason());
            let (reason, hint) = (error.reason(), hint.unwrap_or_default());
            tracing::error!(shard = shard.0, reason, error = told, hint, "reader halted");
            status.update(|state| {
                state.phase = Phase::Halted;
                state.halted = Some(text.clone());
            });
            let superseded = matches!(error, ReadError::Superseded { .. });
            if epoch_number > 0 && !superseded {
                let primary = &plan.old[usize::from(shard.0)];
                if let Err(error) = token::record_halt(primary, epoch_number, &text).await {
                    tracing::warn!(shard = shard.0, error = %error, "the halt is not recorded");
                }
            }
        }
    }
    outcome
}

async fn run<W, F>(
    plan: &Plan,
    shard: OldShard,
    open_log: &mut (impl FnMut(u64) -> F + Send),
    status: &ReaderStatus,
    throttle: &Throttle,
    cancel: &CancellationToken,
    epoch_number: &mut u64,
) -> Result<(), ReadError>
where
    W: LogWriter,
    F: Future<Output = Result<W, LogError>> + Send,
{
    let primary = plan.old[usize::from(shard.0)].clone();
    // Before the epoch is raised: a plan that does not fit must not end a reader that works.
    if retrying(shard, "start", cancel, || prepare(plan, shard)).await?.is_none() {
        return Ok(());
    }
    let planned: Vec<String> = plan.tables.iter().map(|table| table.name.clone()).collect();
    let open_epoch = || {
        let opening = epoch::open(shard, &primary, &planned, plan);
        within(&primary, "opening an epoch", opening)
    };
    let Some(epoch) = retrying(shard, "epoch", cancel, open_epoch).await? else {
        return Ok(());
    };
    *epoch_number = epoch.number;
    metrics::epoch(shard, epoch.number);
    metrics::begin(shard);
    tracing::info!(shard = shard.0, epoch = epoch.number, resume = %epoch.resume.gtids(),
        initial = epoch.initial, phase = epoch.resume.phase.name(), "reader epoch opened");
    stage::reached("epoch_raised_before_markers", 1).await;
    // And again after it: what changes a table from here on is in the log.
    let Some(prepared) = retrying(shard, "start", cancel, || prepare(plan, shard)).await? else {
        return Ok(());
    };
    let Some(token_table) = retrying(shard, "start", cancel, || token_table(&primary)).await?
    else {
        return Ok(());
    };

    let writer = open_log(epoch.number).await?;
    let publisher = Publisher::new(writer, shard, epoch.number, plan.new_modulus.get());
    // Not a child of `cancel`: the last progress is recorded while the reader drains.
    let stop_token = CancellationToken::new();
    let (tokens, token_task) =
        TokenWriter::new(shard, primary.clone(), &epoch, plan.reader.heartbeat, stop_token.clone());
    let reader = Reader::new(
        plan,
        shard,
        primary,
        prepared,
        token_table,
        epoch,
        publisher,
        tokens,
        throttle,
    )?;
    // Both end together: a reader without its token, or the other way round, is of no use.
    tokio::pin!(token_task);
    let reading = reader.run(plan, status, cancel);
    tokio::pin!(reading);
    tokio::select! {
        outcome = &mut reading => {
            stop_token.cancel();
            outcome
        }
        outcome = &mut token_task => match outcome {
            Ok(()) => reading.await, // cancelled: the reader drains
            Err(error) => Err(error),
        },
    }
}

/// Runs `attempt` until it succeeds, halts, or is cancelled (`None`).
async fn retrying<T, F>(
    shard: OldShard,
    what: &'static str,
    cancel: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, ReadError>
where
    F: Future<Output = Result<T, ReadError>>,
{
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            outcome = attempt() => match outcome {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.class() == Class::Retry => {
                    metrics::retry(shard, what);
                    tracing::warn!(shard = shard.0, what, error = %error, "not yet, retrying");
                }
                Err(error) => return Err(error),
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

struct Reader<W> {
    shard: OldShard,
    primary: Endpoint,
    /// Binlog and rows come from here; tokens are written on the primary.
    tailed: Endpoint,
    planned: Vec<PlannedTable>,
    tail: Tail,
    copying: Copying,
    repairs: Repairs,
    publisher: Publisher<W>,
    tokens: TokenWriter,
    start: Start,
    /// An answer of the token task that is still to come.
    saving: Option<oneshot::Receiver<()>>,
    /// Durable, but not recorded yet.
    unsaved: Option<token::Progress>,
    last_save: Instant,
    rows_flushed: u64,
    last_report: Instant,
}

impl<W: LogWriter> Reader<W> {
    #[allow(clippy::too_many_arguments, reason = "wiring: each part is used once, here")]
    fn new(
        plan: &Plan,
        shard: OldShard,
        primary: Endpoint,
        prepared: Prepared,
        token_schema: TableSchema,
        epoch: Epoch,
        publisher: Publisher<W>,
        tokens: TokenWriter,
        throttle: &Throttle,
    ) -> Result<Reader<W>, ReadError> {
        let column = |name: &str| {
            token_schema.column(name).ok_or_else(|| ReadError::NoKeyColumn {
                shard,
                table: control::TOKEN.to_owned(),
                column: name.to_owned(),
            })
        };
        let token_columns = TokenColumns {
            epoch: column("epoch")?,
            writes: column("writes")?,
            clock: column("clock")?,
            phase: column("phase")?,
            fence: column("fence")?,
        };
        let planned = prepared
            .tables
            .iter()
            .map(|table| PlannedTable {
                schema_name: prepared.schema_name.clone(),
                table: Arc::new(table.schema.clone()),
                shard_key: table.shard_key(),
            })
            .chain([PlannedTable {
                schema_name: prepared.schema_name.clone(),
                table: Arc::new(token_schema.clone()),
                shard_key: None,
            }])
            .collect::<Vec<_>>();
        let tables = Arc::new(prepared.tables);
        let moduli = Moduli { source: shard, old: plan.old_modulus, new: plan.new_modulus };
        let xa_grace = if prepared.xa_seen { plan.snapshot.xa_grace } else { Duration::ZERO };
        if prepared.xa_seen {
            tracing::info!(
                shard = shard.0,
                grace_s = xa_grace.as_secs(),
                "the server has committed XA transactions: copying starts after the grace time"
            );
        }
        // A chunk has rows for any of them.
        let new_shards: Vec<NewShard> = plan.new_shards().collect();
        let copying = Copying::new(
            plan,
            moduli,
            Arc::clone(&tables),
            &epoch,
            prepared.estimates,
            xa_grace,
            throttle.lane(&[shard], &new_shards, plan.snapshot.parallel),
        );
        let keys_max = plan.snapshot.touched_keys_max;
        let repairs = Repairs::new(primary.clone(), moduli, Arc::clone(&tables), keys_max);
        let start = Start {
            gtids: epoch.resume.gtids(),
            digest: epoch.resume.last,
            initial: epoch.initial,
        };
        let mut tail = Tail::new(TailParts {
            shard,
            schema: prepared.schema_name,
            epoch: epoch.number,
            moduli,
            tables,
            token_columns,
            decoder: Decoder::new(planned.clone())?,
            resume: epoch.resume,
        });
        tail.copied = copying.finished();
        Ok(Reader {
            shard,
            tailed: primary.tailed(),
            primary,
            planned,
            tail,
            copying,
            repairs,
            publisher,
            tokens,
            start,
            saving: None,
            unsaved: None,
            last_save: Instant::now(),
            rows_flushed: 0,
            last_report: Instant::now(),
        })
    }

    async fn run(
        mut self,
        plan: &Plan,
        status: &ReaderStatus,
        cancel: &CancellationToken,
    ) -> Result<(), ReadError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            started = self.publisher.start(&self.start) => started?,
        }
        let mut backoff = Backoff::default();
        let mut ids_taken = 0;
        loop {
            let broken = tokio::select! {
                biased;
                // Also in the middle of an event, which may wait for room in the log for long:
                // what was not sent is read again by the next reader.
                () = cancel.cancelled() => break,
                broken = self.connected(plan, status, &mut backoff) => broken,
            };
            match broken {
                Err(error) if error.ends_epoch() => return Err(error),
                // Of two readers the later epoch stays, and `connected` asks for it first. What
                // still takes the id then is a replica that is none of ours.
                Err(error) if error.replica_id_taken() && ids_taken < REPLICA_ID_TAKEN_MAX => {
                    ids_taken += 1;
                    self.connection_lost(status, &error);
                }
                Err(error) if error.class() == Class::Retry => {
                    self.connection_lost(status, &error);
                }
                // What came before it is sent and recorded: `rearm` asks for that.
                Err(error @ ReadError::ForeignWrite { .. }) => {
                    self.drain().await;
                    return Err(error);
                }
                Err(error) => return Err(error),
                Ok(never) => match never {},
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
        self.drain().await;
        Ok(())
    }

    fn connection_lost(&mut self, status: &ReaderStatus, error: &ReadError) {
        self.copying.connection_lost();
        self.repairs.connection_lost();
        status.update(ReaderState::reconnecting);
        metrics::retry(self.shard, "binlog");
        tracing::warn!(shard = self.shard.0, error = %error, "binlog connection lost, reconnecting");
    }

    /// A reader that has been replaced must not take its successor's place at the server.
    async fn still_ours(&self) -> Result<(), ReadError> {
        let doing = "asking for the reader epoch";
        let failed = |error| server_error(&self.primary, doing, error);
        let asking = async {
            let mut conn = modshift_mariadb::connect(&self.primary, Session::Plain).await?;
            let sql = "SELECT epoch FROM modshift_token WHERE id = 1";
            let epoch: Option<u64> = conn.query_first(sql).await.map_err(failed)?;
            conn.disconnect().await.map_err(failed)?;
            Ok(epoch.unwrap_or(0))
        };
        let (shard, ours) = (self.shard, self.tail.epoch());
        match within(&self.primary, doing, asking).await? {
            theirs if theirs == ours => Ok(()),
            theirs => Err(ReadError::Superseded { shard, ours, theirs }),
        }
    }

    /// A replica may still be on its way to where the primary was.
    fn replica_behind(&self, error: BinlogError, start: GtidSet) -> ReadError {
        let behind =
            matches!(error, BinlogError::BehindStart { .. } | BinlogError::UnknownDomain { .. });
        if !behind || self.primary.read_from.is_none() {
            return error.into();
        }
        let at = modshift_mariadb::connect::label(&self.tailed);
        ReadError::ReplicaBehind { shard: self.shard, at, start }
    }

    /// One binlog connection, until it breaks.
    async fn connected(
        &mut self,
        plan: &Plan,
        status: &ReaderStatus,
        backoff: &mut Backoff,
    ) -> Result<Infallible, ReadError> {
        self.still_ours().await?;
        let start = self.tail.reconnect(Decoder::new(self.planned.clone())?);
        let opened = EventStream::open(&self.tailed, &start, BINLOG_HEARTBEAT).await;
        let mut stream = opened.map_err(|error| self.replica_behind(error, start))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // What is here already is taken without the cost of a select per event.
            let mut taken = 0;
            while taken < EVENTS_PER_TURN {
                let Some(event) = stream.here() else { break };
                self.tail.event(event?.bytes(), &mut self.publisher).await?;
                taken += 1;
            }
            if taken > 0 {
                backoff.reset();
            }
            self.look_after(plan, status).await?;
            tokio::select! {
                biased;
                outcome = self.copying.next_read() => match outcome {
                    Ok(outcome) => self.copying.was_read(outcome)?,
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                },
                event = stream.next() => {
                    self.tail.event(event?.bytes(), &mut self.publisher).await?;
                }
                outcome = self.publisher.acknowledged() => outcome?,
                _ = tick.tick() => {}
            }
        }
    }

    /// Everything that is due apart from events: chunks, acknowledgements, progress, status.
    async fn look_after(&mut self, plan: &Plan, status: &ReaderStatus) -> Result<(), ReadError> {
        if self.tail.between_groups() {
            self.copying.enter(&mut self.tail, &mut self.publisher).await?;
        }
        self.publisher.flush().await?;
        let sent = self.tail.rows_sent - self.rows_flushed;
        self.rows_flushed = self.tail.rows_sent;
        stage::reached("after_send_before_ack", sent).await;

        if !self.copying.has_guard() && self.publisher.started() {
            let doing = "reading the primary's position";
            let guard = within(&self.primary, doing, self.primary_position()).await?;
            self.copying.set_guard(guard);
        }
        if let Some(guard) = self.copying.guard_after() {
            self.repairs.look_after(&mut self.tail, guard, &mut self.publisher).await?;
        }
        let head_age = self.head_age();
        self.copying.open(&mut self.tail, head_age);
        let copying = !self.copying.finished();
        self.tokens.set_interval(if copying {
            plan.reader.heartbeat_copying
        } else {
            plan.reader.heartbeat
        });
        self.save(plan.reader.progress_interval);
        if self.last_report.elapsed() >= REPORT_INTERVAL {
            self.last_report = Instant::now();
            self.report(status, head_age);
        }
        Ok(())
    }

    fn head_age(&self) -> Option<Duration> {
        let seen = self.tail.token_seen()?;
        self.tokens.written_at(seen).map(|at| at.elapsed())
    }

    /// G of the design's invariant 5.
    async fn primary_position(&self) -> Result<GtidSet, ReadError> {
        let failed = |error| server_error(&self.primary, "reading the primary's position", error);
        let mut conn = modshift_mariadb::connect(&self.primary, Session::Plain).await?;
        let text: Option<String> =
            conn.query_first("SELECT @@gtid_binlog_pos").await.map_err(failed)?;
        conn.disconnect().await.map_err(failed)?;
        let shard = self.shard;
        text.unwrap_or_default()
            .parse()
            .map_err(|source| ReadError::ProgressUnreadable { shard, source })
    }

    /// Has the newest durable progress recorded, at most once per interval.
    fn save(&mut self, interval: Duration) {
        if let Some((resume, tables)) = self.publisher.durable() {
            let unsaved = self.unsaved.get_or_insert_with(|| token::Progress {
                resume: resume.clone(),
                tables: Vec::new(),
            });
            unsaved.resume = resume;
            unsaved.tables.extend(tables);
        }
        if let Some(saving) = &mut self.saving
            && saving.now_or_never().is_some()
        {
            self.saving = None;
        }
        if self.saving.is_none() && self.last_save.elapsed() >= interval {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some(progress) = self.unsaved.take() {
            self.last_save = Instant::now();
            match self.tokens.save(progress) {
                Ok(saving) => self.saving = Some(saving),
                Err(progress) => self.unsaved = Some(progress),
            }
        }
    }

    /// Waits for what is under way to become durable, and records it. Best effort: what is not
    /// recorded is replayed by the next reader.
    async fn drain(&mut self) {
        let drained = async {
            self.publisher.flush().await?;
            while !self.publisher.all_durable() {
                self.publisher.acknowledged().await?;
            }
            Ok::<(), LogError>(())
        };
        let outcome = tokio::time::timeout(DRAIN_MAX, drained).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::warn!(shard = self.shard.0, "stopped before all was acknowledged");
        }
        self.save(Duration::ZERO);
        while let Some(saving) = self.saving.take() {
            if !matches!(tokio::time::timeout(DRAIN_MAX, saving).await, Ok(Ok(()))) {
                tracing::warn!(shard = self.shard.0, "stopped before the progress was recorded");
                return;
            }
            self.save(Duration::ZERO);
        }
    }

    fn report(&mut self, status: &ReaderStatus, head_age: Option<Duration>) {
        self.tail.report();
        metrics::snapshot_done(self.shard, self.copying.finished());
        if let Some(age) = head_age {
            metrics::head_age(self.shard, age.as_secs_f64());
        }
        let copying = !self.copying.finished();
        status.update(|state| {
            state.phase = if copying { Phase::Copying } else { Phase::Tailing };
            state.serving = Some(self.tail.phase() == TokenPhase::Serving);
            state.gtids = self.tail.done().to_string();
            state.rows_sent = self.tail.rows_sent;
            state.epoch = self.tail.epoch();
            state.head_age_ms = head_age.map(|age| age.as_millis() as u64);
            state.tables = self
                .copying
                .rows()
                .map(|(table, rows_copied, rows_estimated, done)| TableState {
                    table: table.to_owned(),
                    rows_copied,
                    rows_estimated,
                    done,
                })
                .collect();
        });
    }
}
