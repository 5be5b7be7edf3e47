//! One new shard's applier: reads its partition, gathers, applies, acknowledges.
//!
//! While one batch is being applied the next is gathered, so that neither the server nor the log
//! waits for the other; never more than these two are held. What has been taken out of the log is
//! kept until it is applied or the applier ends, so the log is only read again from the start of
//! the applier, or where reading it failed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use modshift_changelog::{Backlog, Delivery, LogError, LogReader, Offset};
use modshift_proto::NewShard;
use modshift_proto::plan::Plan;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::apply::{Begin, Cut, Keeper};
use crate::backoff::Backoff;
use crate::batch::Limits;
use crate::error::{ApplyError, Class};
use crate::gather::Gather;
use crate::metrics;
use crate::status::{ApplierStatus, Phase, StreamView};
use crate::target::Target;

/// Gauges are refreshed so often even if nothing comes.
const GAUGES: Duration = Duration::from_secs(1);
/// Messages taken in at once before others get a turn.
const TURN: usize = 256;

/// Applies new shard `shard`'s partition until `cancel`, or until an error that trying again
/// cannot change. The batch in flight is finished first.
///
/// `open_log` opens the partition at the offset to resume from (`None`: at its beginning, and
/// always from the direct log). It is called again where reading fails in a way that passes.
pub async fn run_applier<R, F, Fut>(
    plan: Arc<Plan>,
    shard: NewShard,
    open_log: F,
    status: Arc<ApplierStatus>,
    cancel: CancellationToken,
) -> Result<(), ApplyError>
where
    R: LogReader,
    F: FnMut(Option<Offset>) -> Fut,
    Fut: Future<Output = Result<R, LogError>>,
{
    let outcome = Box::pin(run(&plan, shard, open_log, &status, &cancel)).await;
    match outcome {
        Ok(()) => {
            info!(target = shard.0, "applier stopped");
            status.phase(Phase::Stopped, None);
            Ok(())
        }
        // Gave up trying because it was asked to stop. What is not applied is still in the log.
        Err(error) if cancel.is_cancelled() && error.class() == Class::Retry => {
            warn!(target = shard.0, error = %error, "applier stopped with a batch not applied");
            status.phase(Phase::Stopped, None);
            Ok(())
        }
        Err(error) => {
            let told = error.told(plan.direction());
            let hint = error.hint_for(plan.direction()).unwrap_or_default();
            error!(target = shard.0, error = told, hint, "applier halted");
            metrics::halt(shard, error.reason());
            status.phase(Phase::Halted, Some(&error));
            Err(error)
        }
    }
}

async fn run<R, F, Fut>(
    plan: &Plan,
    shard: NewShard,
    mut open_log: F,
    status: &ApplierStatus,
    cancel: &CancellationToken,
) -> Result<(), ApplyError>
where
    R: LogReader,
    F: FnMut(Option<Offset>) -> Fut,
    Fut: Future<Output = Result<R, LogError>>,
{
    let Some((mut keeper, begin)) = open_keeper(plan, shard, status, cancel).await? else {
        return Ok(());
    };
    info!(
        target = shard.0,
        streams = begin.kept.len(),
        parked = keeper.parked_rows(),
        offset = begin.offset,
        "applier owns its shard"
    );
    metrics::begin(shard);
    status.lock().parked = keeper.parked_rows() as u64;
    for row in &begin.kept {
        status.lock().streams[usize::from(row.source.0)] = Some(StreamView::from(&row.mark));
    }
    let mut gather = Gather::new(
        shard,
        plan.old_modulus.get(),
        &begin.kept,
        begin.offset,
        Limits { rows: plan.apply.batch_rows, bytes: plan.apply.batch_bytes },
        plan.apply.batch_age,
        begin.passing,
    );
    // Known before a token comes: an applier that gets none is behind from the start.
    let mut clocks = vec![None; usize::from(plan.old_modulus.get())];
    for row in begin.kept.iter().filter(|row| row.mark.token_clock_us != 0) {
        clocks[usize::from(row.source.0)] = Some(row.mark.token_clock_us);
    }
    let outcome = loop {
        let opened = open_reader(&mut open_log, &gather, &clocks, shard, status, cancel).await;
        let reader = match opened {
            Ok(Some(reader)) => reader,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        status.phase(Phase::Running, None);
        let mut flow = Flow {
            shard,
            target: keeper.target(),
            reader,
            gather: &mut gather,
            status,
            cancel,
            clocks: &mut clocks,
            gauges: interval(GAUGES),
        };
        flow.gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        match Box::pin(flow.run(&mut keeper)).await {
            Ok(()) => break Ok(()),
            Err(ApplyError::Log(error)) if error.class() == modshift_changelog::Class::Retry => {
                let error = ApplyError::Log(error);
                metrics::retry(shard, error.reason());
                say_waiting(shard, status, &error, "reading the change log again");
            }
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = &outcome
        && error.class() != Class::Retry
    {
        keeper.say_halted(error).await;
    }
    keeper.close().await;
    outcome
}

/// What the applier waits for, where a person or a program looks: it goes on by itself.
pub(crate) fn say_waiting(shard: NewShard, status: &ApplierStatus, error: &ApplyError, what: &str) {
    let waited_s = status.waits(error).as_secs();
    let hint = status.view().hint.unwrap_or_default();
    warn!(target = shard.0, error = %error, hint, waited_s, "{what}");
}

/// `None`: cancelled.
async fn open_keeper(
    plan: &Plan,
    shard: NewShard,
    status: &ApplierStatus,
    cancel: &CancellationToken,
) -> Result<Option<(Keeper, Begin)>, ApplyError> {
    let mut backoff = Backoff::new();
    loop {
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(None),
            opened = Keeper::open(plan, shard) => opened,
        };
        match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if error.class() == Class::Retry => {
                metrics::retry(shard, error.reason());
                say_waiting(shard, status, &error, "cannot start yet, will try again");
            }
            Err(error) => return Err(error),
        }
        if !backoff.wait(cancel).await {
            return Ok(None);
        }
    }
}

/// `None`: cancelled.
async fn open_reader<R, F, Fut>(
    open_log: &mut F,
    gather: &Gather,
    clocks: &[Option<i64>],
    shard: NewShard,
    status: &ApplierStatus,
    cancel: &CancellationToken,
) -> Result<Option<R>, ApplyError>
where
    F: FnMut(Option<Offset>) -> Fut,
    Fut: Future<Output = Result<R, LogError>>,
{
    let mut backoff = Backoff::new();
    loop {
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(None),
            opened = open_log(gather.next_offset()) => opened,
        };
        match opened {
            Ok(reader) => return Ok(Some(reader)),
            Err(error) if error.class() == modshift_changelog::Class::Retry => {
                let error = ApplyError::from(error);
                metrics::retry(shard, error.reason());
                say_waiting(shard, status, &error, "cannot read the change log yet");
                refresh_lags(shard, clocks);
            }
            Err(error) => return Err(error.into()),
        }
        if !backoff.wait(cancel).await {
            return Ok(None);
        }
    }
}

/// One reader's messages on their way.
struct Flow<'a, R> {
    shard: NewShard,
    target: Arc<Target>,
    reader: R,
    gather: &'a mut Gather,
    status: &'a ApplierStatus,
    cancel: &'a CancellationToken,
    /// Of the newest token applied, for the lag gauges. Index = old shard.
    clocks: &'a mut [Option<i64>],
    gauges: Interval,
}

impl<R: LogReader> Flow<'_, R> {
    /// Until cancelled (`Ok`), or an error. What was gathered before either is applied first.
    async fn run(&mut self, keeper: &mut Keeper) -> Result<(), ApplyError> {
        let mut end: Option<Result<(), ApplyError>> = None;
        loop {
            if end.is_none() {
                end = self.gather_until_due().await;
            }
            let Some(cut) = self.gather.cut() else {
                match end {
                    Some(end) => return end,
                    None => continue,
                }
            };
            let stop = self.apply(keeper, &cut).await?;
            end = end.or(stop);
            self.status.moved_in(keeper.left());
            self.applied(&cut, keeper.parked_rows());
        }
    }

    /// `Some`: no more messages will be taken.
    async fn gather_until_due(&mut self) -> Option<Result<(), ApplyError>> {
        while !self.gather.is_full() {
            let due = self.gather.due().map(Instant::from_std);
            if due.is_some_and(|due| due <= Instant::now()) {
                return self.take_waiting();
            }
            let wake = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Some(Ok(())),
                () = wake => return self.take_waiting(),
                next = next_of(&mut self.reader, self.gather.only_beats()) => next,
                _ = self.gauges.tick() => {
                    self.refresh_gauges();
                    continue;
                }
            };
            let taken = next.map_err(ApplyError::from).and_then(|delivery| {
                self.gather.take(delivery, &self.target)?;
                self.take_more()
            });
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
        None
    }

    /// Heartbeats that came after the first one have woken nobody.
    fn take_waiting(&mut self) -> Option<Result<(), ApplyError>> {
        self.take_more().err().map(Err)
    }

    /// Takes what is already here, for one turn.
    fn take_more(&mut self) -> Result<(), ApplyError> {
        for _ in 0..TURN {
            if self.gather.is_full() {
                break;
            }
            match self.reader.try_next()? {
                Some(delivery) => self.gather.take(delivery, &self.target)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Applies one batch while the next is gathered. `Some`: no more messages will be taken.
    async fn apply(
        &mut self,
        keeper: &mut Keeper,
        cut: &Cut,
    ) -> Result<Option<Result<(), ApplyError>>, ApplyError> {
        let mut stop = None;
        let mut commit = pin!(keeper.commit(cut, self.status, self.cancel));
        loop {
            let next = tokio::select! {
                biased;
                applied = &mut commit => {
                    applied?;
                    return Ok(stop);
                }
                // A batch may be tried again for hours, and what waits for it grows old meanwhile.
                _ = self.gauges.tick() => {
                    self.refresh_gauges();
                    continue;
                }
                next = self.reader.next_pressing(), if stop.is_none() && !self.gather.is_full() => {
                    next
                }
            };
            let taken = next.map_err(ApplyError::from).and_then(|delivery| {
                self.gather.take(delivery, &self.target)?;
                self.take_more()
            });
            if let Err(error) = taken {
                stop = Some(Err(error));
            }
        }
    }

    /// The batch is durable: say so to the log and to whoever looks.
    fn applied(&mut self, cut: &Cut, parked: usize) {
        self.status.applied(cut);
        for moved in &cut.moves {
            self.reader.applied(moved.source, moved.mark.epoch, moved.mark.number);
        }
        if let Some(offset) = cut.offset {
            self.reader.applied_offset(offset);
        }
        let now_us = now_us();
        for &source in &cut.tokens {
            let moved = cut.moves.iter().find(|moved| moved.source == source);
            if let Some(moved) = moved {
                let clock_us = moved.mark.token_clock_us;
                // A replayed token is older than what is applied: its clock says nothing new.
                if self.clocks[usize::from(source.0)] != Some(clock_us) {
                    self.clocks[usize::from(source.0)] = Some(clock_us);
                    metrics::token(self.shard, source, now_us - clock_us);
                }
            }
        }
        let mut view = self.status.lock();
        if view.phase != Phase::Running {
            view.phase = Phase::Running;
            (view.error, view.reason, view.hint) = (None, None, None);
            view.waiting.over();
        }
        view.batches += 1;
        view.rows_applied += cut.batch.len() as u64;
        view.parked = parked as u64;
        for moved in &cut.moves {
            view.streams[usize::from(moved.source.0)] = Some(StreamView::from(&moved.mark));
        }
    }

    fn refresh_gauges(&self) {
        refresh_lags(self.shard, self.clocks);
        let backlog = self.reader.backlog();
        self.status.backlog(backlog);
        match backlog {
            Backlog::Bytes(bytes) => metrics::backlog_bytes(self.shard, bytes),
            Backlog::Messages(messages) => metrics::backlog_messages(self.shard, messages),
            Backlog::Unknown => {}
        }
    }
}

/// `clocks`: of the newest token applied of each old shard.
fn refresh_lags(shard: NewShard, clocks: &[Option<i64>]) {
    let now_us = now_us();
    for (source, clock_us) in clocks.iter().enumerate() {
        if let Some(clock_us) = clock_us {
            let source = modshift_proto::OldShard(source as u16);
            metrics::lag(shard, source, now_us - clock_us);
        }
    }
}

/// The next message; where heartbeats wait for each other already, the next that is none.
async fn next_of<R: LogReader>(reader: &mut R, beats_wait: bool) -> Result<Delivery, LogError> {
    if beats_wait { reader.next_pressing().await } else { reader.next().await }
}

/// This host's clock.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
