//! One old shard's reader, from start to stop: the wiring of tail, snapshot, token and publisher.
//!
//! `supervise` opens an epoch, and another when the change log is lost; a [`Reader`] works within
//! one. `hold` is what becomes of a write behind a fence, `primary` what it asks the old shard's
//! primary, `behind` whether what is missing there may still come, `progress` what it has recorded and shows, `watch` what must stay true and shows in no
//! event.

mod behind;
mod hold;
mod look_back;
mod primary;
mod progress;
mod question;
mod supervise;
mod watch;

pub use supervise::{Together, run_reader};

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::{LogWriter, stage};
use modshift_mariadb::applying::Patience;
use modshift_mariadb::pace::Throttle;
use modshift_mariadb::{Desk, control};
use modshift_proto::message::{Start, tables_crc};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::schema::TableSchema;
use modshift_proto::{GtidSet, NewShard, OldShard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::binlog::{Collations, Decoder, EventStream, PlannedTable};
use crate::copy::Copying;
use crate::definitions::Definitions;
use crate::epoch::Epoch;
use crate::error::{Class, ReadError};
use crate::feed::{Item, Seat, Source};
use crate::metrics;
use crate::prepare::Prepared;
use crate::publish::Publisher;
use crate::repair::Repairs;
use crate::route::{Moduli, Target};
use crate::skip::{self, Stands};
use crate::status::ReaderStatus;
use crate::tail::{Spill, Tail, TailParts, TokenColumns};
use crate::token::{self, TokenWriter, within};
use crate::whole::WholeLogs;
use watch::Watch;

/// Events taken in a row before acknowledgements, chunks and timers get their turn.
const EVENTS_PER_TURN: usize = 512;
/// How often what does not follow from an event is looked after while something is copied.
const TICK: Duration = Duration::from_millis(20);
/// The same of a reader that only follows the log. Nobody waits for acknowledgements there either:
/// they are looked at now and then, and not once for each new shard and token.
const TICK_AT_REST: Duration = Duration::from_millis(100);
/// How often metrics and status are brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// So often in a row another connection may take this reader's replica id before it gives up.
const REPLICA_ID_TAKEN_MAX: u32 = 10;
/// So often in a row the binlog may end amid an event, with nothing behind it.
const FILES_CUT_MAX: u32 = 10;
/// Heartbeats of the binlog connection while the server has nothing to send.
const BINLOG_HEARTBEAT: Duration = Duration::from_secs(2);
/// How often a reader on a connection of its own looks whether it can share one.
const JOIN_INTERVAL: Duration = Duration::from_millis(250);
/// The same after a connection was lost.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

struct Reader<W> {
    shard: OldShard,
    primary: Endpoint,
    /// Binlog and rows come from here; tokens are written on the primary.
    tailed: Endpoint,
    /// Among the readers of the server that is tailed.
    seat: Seat,
    /// When to look again whether a connection can be shared.
    join_due: Instant,
    planned: Vec<PlannedTable>,
    tail: Tail,
    copying: Copying,
    repairs: Repairs,
    publisher: Publisher<W>,
    tokens: TokenWriter,
    watch: Watch,
    definitions: Arc<Definitions>,
    collations: Arc<Collations>,
    logs: WholeLogs,
    /// For small questions, such as looking tables up where they are read.
    desk: Desk,
    start: Start,
    /// How long what came by XA may stay unseen.
    xa_grace: Duration,
    /// An answer of the token task that is still to come.
    saving: Option<oneshot::Receiver<()>>,
    /// With a server that is not as far as this reader.
    patience: Patience,
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
        together: &Together,
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
            beat: column("beat")?,
            quiet: column("quiet")?,
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
        let definitions = Arc::new(Definitions::new(shard, Arc::clone(&tables)));
        let collations = Arc::new(prepared.collations);
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
            Arc::clone(&definitions),
            &epoch,
            prepared.estimates,
            xa_grace,
            throttle.lane(&[shard], &new_shards, plan.snapshot.parallel),
        );
        let repairs = Repairs::new(
            primary.clone(),
            moduli,
            Arc::clone(&tables),
            Arc::clone(&definitions),
            &plan.snapshot,
            epoch.number,
            xa_grace,
            throttle,
        );
        let sent = tables.iter().filter(|table| !matches!(table.target, Target::Nowhere));
        let done = epoch.resume.gtids();
        let start = Start {
            gtids: done.clone(),
            digest: epoch.resume.last,
            initial: epoch.initial,
            anew: epoch.anew.clone(),
            tables: tables_crc(sent.map(|table| table.schema.name.as_str())),
            skipped: epoch.skip.iter().filter(|&gtid| !done.covers(gtid)).collect(),
        };
        let schema = prepared.schema_name;
        let mut tail = Tail::new(TailParts {
            shard,
            schema: schema.clone(),
            epoch: epoch.number,
            moduli,
            tables,
            token_columns,
            decoder: Decoder::new(planned.clone())?.with_collations(collations.clone()),
            resume: epoch.resume,
            skip: epoch.skip,
            fold_names: prepared.fold_names,
            spill: Spill {
                dir: plan.reader.spill_dir.clone().unwrap_or_else(std::env::temp_dir),
                max: plan.reader.spill_max as u64,
            },
        });
        tail.copied = copying.finished();
        let seat = together.feeds.enter(&primary.tailed(), &schema);
        let watch =
            Watch::new(shard, primary.clone(), Arc::clone(&definitions), together, throttle.desk());
        Ok(Reader {
            shard,
            seat,
            join_due: Instant::now(),
            tailed: primary.tailed(),
            primary,
            planned,
            tail,
            copying,
            repairs,
            publisher,
            tokens,
            watch,
            definitions,
            collations,
            logs: together.logs.clone(),
            desk: throttle.desk().clone(),
            start,
            xa_grace: plan.snapshot.xa_grace,
            saving: None,
            patience: Patience::default(),
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
        stands: &mut Option<Stands>,
        cancel: &CancellationToken,
    ) -> Result<(), ReadError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            started = self.publisher.start(&self.start) => started?,
        }
        let mut backoff = Backoff::default();
        let mut ids_taken = 0;
        let mut cut = (GtidSet::default(), 0);
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
                    self.connection_lost(plan, status, &error);
                }
                Err(error) if error.is_cut_file() && cut.1 < FILES_CUT_MAX => {
                    let again = if cut.0 == *self.tail.done() { cut.1 + 1 } else { 0 };
                    cut = (self.tail.done().clone(), again);
                    if !self.tail.file_cut()? {
                        return Err(error);
                    }
                    self.connection_lost(plan, status, &error);
                }
                Err(error) if error.class() == Class::Retry => {
                    self.connection_lost(plan, status, &error);
                }
                // What came before it is sent and recorded: `rearm` asks for that.
                Err(error @ ReadError::ForeignWrite { .. }) => {
                    self.drain().await;
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        held = Box::pin(self.hold(plan, status, error)) => held?,
                    }
                }
                Err(error) => match self.not_there_yet(&error).await {
                    Some(waits) => self.connection_lost(plan, status, &waits),
                    None => {
                        let gtid = error.skips();
                        *stands = gtid.and_then(|gtid| self.tail.stands(gtid));
                        let firm = gtid.and_then(|gtid| self.tail.firm(gtid));
                        return Err(match firm {
                            Some(why) => ReadError::Firm { error: Box::new(error), why },
                            None => error,
                        });
                    }
                },
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

    fn connection_lost(&mut self, plan: &Plan, status: &ReaderStatus, error: &ReadError) {
        self.copying.connection_lost();
        self.repairs.connection_lost();
        // What cannot be shared just now must not be tried in a circle.
        self.join_due = Instant::now() + JOIN_AGAIN;
        metrics::retry(self.shard, "binlog");
        supervise::say_waiting(self.shard, status, error, plan.direction());
    }

    /// One binlog connection, until it breaks.
    async fn connected(
        &mut self,
        plan: &Plan,
        status: &ReaderStatus,
        backoff: &mut Backoff,
    ) -> Result<Infallible, ReadError> {
        self.still_ours().await?;
        self.record_skipped().await?;
        Box::pin(self.logs.ask(&self.primary, &self.desk, Instant::now())).await?;
        let decoder = Decoder::new(self.planned.clone())?;
        let start = self.tail.reconnect(decoder.with_collations(self.collations.clone()));
        let alone = self.seat.alone();
        let opening = EventStream::open(&alone, &start, BINLOG_HEARTBEAT);
        let opened = Box::pin(opening).await;
        let opened = opened.map_err(|error| self.replica_behind(error, start))?;
        let mut stream = Source::Own(Box::new(opened));
        let mut tick = std::pin::pin!(tokio::time::sleep(TICK));
        loop {
            // What is here already is taken without the cost of a select per event.
            let mut taken = 0;
            while taken < EVENTS_PER_TURN {
                let Some(item) = stream.here()? else { break };
                self.take(item).await?;
                taken += 1;
            }
            if taken > 0 {
                backoff.reset();
            }
            if taken == EVENTS_PER_TURN {
                // With a backlog on one side and room on the other nothing here ever waits, and
                // neither cancellation nor the other tasks of this thread would get their turn.
                tokio::task::yield_now().await;
            } else if let Some(server_id) = stream.own().filter(|_| Instant::now() >= self.join_due)
            {
                self.join_due = Instant::now() + JOIN_INTERVAL;
                if let Some(shared) = self.join(server_id) {
                    stream = shared;
                }
            }
            self.look_after(plan, status).await?;
            let at_rest = self.at_rest();
            tokio::select! {
                biased;
                outcome = self.copying.next_read() => match outcome {
                    Ok(outcome) => self.copying.was_read(outcome)?,
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                },
                item = stream.next() => self.take(item?).await?,
                outcome = self.publisher.acknowledged(), if !at_rest => outcome?,
                () = tick.as_mut() => {
                    let next = if at_rest { TICK_AT_REST } else { TICK };
                    tick.as_mut().reset(tokio::time::Instant::now() + next);
                }
            }
        }
    }

    /// Nothing more is here: the binlog connection that the server's readers share takes over at the
    /// group that was read last, as a new connection would.
    fn join(&mut self, server_id: u32) -> Option<Source> {
        let stand = self.tail.stands_behind()?;
        let joined = self.seat.join(server_id, stand, BINLOG_HEARTBEAT)?;
        tracing::debug!(shard = self.shard.0, last = %stand.0, "shares the server's binlog connection");
        self.tail.shown_again();
        Some(Source::Joined(joined))
    }

    /// One event; and the table that it names under a new id is looked up before the next.
    #[inline]
    async fn take(&mut self, item: Item<'_>) -> Result<(), ReadError> {
        match item {
            Item::Event(event) => self.tail.event(event, &mut self.publisher).await?,
            Item::Passed(passed) => {
                self.tail.passed_by(passed, &mut self.publisher).await?;
                return self.record_skipped().await;
            }
        }
        if let Some(question) = self.tail.question() {
            Box::pin(self.answer(question)).await?;
        }
        if let Some(looking) = self.tail.unprepared() {
            let branch = Box::pin(self.look_back(looking)).await?;
            self.tail.found(branch, &mut self.publisher).await?;
        }
        self.record_skipped().await?;
        match self.tail.unlooked() {
            Some(table) => Box::pin(self.look_up(table)).await,
            None => Ok(()),
        }
    }

    /// Before anything is read behind it.
    #[inline]
    async fn record_skipped(&mut self) -> Result<(), ReadError> {
        match (self.tail.skipped(), self.tail.gone()) {
            (None, None) => Ok(()),
            _ => Box::pin(self.write_down_skipped()).await,
        }
    }

    async fn write_down_skipped(&mut self) -> Result<(), ReadError> {
        if let Some(skipped) = self.tail.skipped() {
            stage::reached("skipped_before_recorded", 1).await;
            let (epoch, grace) = (self.tail.epoch(), self.xa_grace);
            skip::record(&self.primary, epoch, self.shard, skipped, grace).await?;
            metrics::skipped(self.shard);
            stage::reached("skipped_recorded", 1).await;
        }
        if let Some(gtid) = self.tail.gone() {
            skip::gone(&self.primary, self.tail.epoch(), self.shard, gtid).await?;
        }
        self.tail.skipped_recorded();
        Ok(())
    }

    /// Everything that is due apart from events: chunks, acknowledgements, progress, status.
    async fn look_after(&mut self, plan: &Plan, status: &ReaderStatus) -> Result<(), ReadError> {
        self.watch.look_after()?;
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
        let copying = !self.copying.finished() || self.repairs.is_busy();
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

    /// Nothing is copied or repaired, nor will it be before the next tick.
    fn at_rest(&self) -> bool {
        self.copying.guard_after().is_some() && self.repairs.at_rest()
    }

    fn head_age(&self) -> Option<Duration> {
        let seen = self.tail.token_seen()?;
        self.tokens.written_at(seen).map(|at| at.elapsed())
    }
}
