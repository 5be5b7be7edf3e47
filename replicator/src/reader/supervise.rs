//! One reader after another: an epoch is opened, read in, and followed by the next when the change
//! log is lost. What halts is recorded on the old shard.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_changelog::{LogError, LogWriter, stage};
use modshift_mariadb::applying::Patience;
use modshift_mariadb::pace::Throttle;
use modshift_proto::OldShard;
use modshift_proto::plan::{Direction, Plan};
use tokio_util::sync::CancellationToken;

use super::{Reader, behind};
use crate::backoff::Backoff;
use crate::binlog::BinlogError;
use crate::epoch;
use crate::error::{Class, ReadError};
use crate::feed::Feeds;
use crate::metrics;
use crate::prepare::{prepare, token_table};
use crate::publish::Publisher;
use crate::skip::{self, Stands};
use crate::status::{Phase, ReaderStatus};
use crate::token::{self, TokenWriters, within};
use crate::whole::WholeLogs;

/// Scrapes are rarer.
const GROW_OLD: Duration = Duration::from_secs(1);

/// Reads one old shard until cancelled (`Ok`) or halted (`Err`). `open_log` is asked for the writer
/// of each epoch. `throttle` slows the copy down, never the tail; `together` is the process's.
pub async fn run_reader<W, F>(
    plan: Arc<Plan>,
    shard: OldShard,
    mut open_log: impl FnMut(u64) -> F + Send,
    status: ReaderStatus,
    throttle: Throttle,
    together: Together,
    cancel: CancellationToken,
) -> Result<(), ReadError>
where
    W: LogWriter,
    F: Future<Output = Result<W, LogError>> + Send,
{
    let mut epoch_number = 0;
    let mut backoff = Backoff::default();
    let mut patience = Patience::default();
    let process = Process { throttle, together, cancel: cancel.clone() };
    // In the group at which it has halted.
    let mut stands = None;
    let reading = async {
        loop {
            stands = None;
            let at = (&mut epoch_number, &mut stands);
            let run = run(&plan, shard, &mut open_log, &status, &process, at);
            match run.await {
                Err(error) if error.ends_epoch() => {
                    metrics::retry(shard, "log");
                    say_waiting(shard, &status, &error, plan.direction());
                }
                // Of the server that its token is written on, where that was another a moment ago.
                Err(error) => {
                    let mut asked =
                        behind::of_shard(&plan, shard, &status, &error, &mut patience).await;
                    if asked.is_none() {
                        break Err(error);
                    }
                    // Until it has come no epoch is begun: that would be written there.
                    while let Some(waits) = asked {
                        say_waiting(shard, &status, &waits, plan.direction());
                        if cancel
                            .run_until_cancelled(tokio::time::sleep(backoff.next()))
                            .await
                            .is_none()
                        {
                            break;
                        }
                        asked =
                            behind::of_shard(&plan, shard, &status, &error, &mut patience).await;
                    }
                }
                Ok(()) => break Ok(()),
            }
            tokio::select! {
                () = cancel.cancelled() => break Ok(()),
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    };
    let outcome = tokio::select! {
        outcome = reading => outcome,
        never = grow_old(shard, &status) => match never {},
    };
    match &outcome {
        Ok(()) => status.update(|state| {
            state.waiting.over();
            state.phase = Phase::Stopped;
        }),
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
                state.waiting.over();
                state.phase = Phase::Halted;
                state.halted = Some(text.clone());
            });
            let superseded = matches!(error, ReadError::Superseded { .. });
            if epoch_number > 0 && !superseded {
                let primary = &plan.old[usize::from(shard.0)];
                let placed = match error.skips() {
                    Some(gtid) => {
                        skip::halts(primary, epoch_number, (shard, gtid, stands), &text).await
                    }
                    None => token::record_halt(primary, epoch_number, Some(&text)).await,
                };
                if let Err(error) = placed {
                    tracing::warn!(shard = shard.0, error = %error, "where it stands is not recorded");
                    // A shard that has no place for the group has one for the halt.
                    let told = token::record_halt(primary, epoch_number, Some(&text)).await;
                    if let Err(error) = told {
                        tracing::warn!(shard = shard.0, error = %error, "the halt is not recorded");
                    }
                }
            }
        }
    }
    outcome
}

/// A reader that tries to connect reports nothing: its metric must not stand still meanwhile.
async fn grow_old(shard: OldShard, status: &ReaderStatus) -> Infallible {
    loop {
        if let Some(age) = status.update(|state| state.blind_for(Instant::now())) {
            metrics::head_age(shard, age.as_secs_f64());
        }
        tokio::time::sleep(GROW_OLD).await;
    }
}

/// What the reader waits for, where a person or a program looks: it goes on by itself.
pub(super) fn say_waiting(
    shard: OldShard,
    status: &ReaderStatus,
    error: &ReadError,
    direction: Direction,
) {
    let waited_s = status.update(|state| state.waits(error, direction)).as_secs();
    let (told, hint) = (error.told(direction), error.hint_for(direction).unwrap_or_default());
    let what = match error {
        ReadError::Log(LogError::Closed(_)) => "changes wait for their applier",
        ReadError::Log(_) => "the change log does not take changes, trying again",
        ReadError::Binlog(BinlogError::NotThereYet { .. }) => "waiting for the server to catch up",
        ReadError::Binlog(_) => "binlog connection lost, reconnecting",
        _ => "not to be read for now, trying again",
    };
    tracing::warn!(shard = shard.0, error = told, hint, waited_s, "{what}");
}

/// What the readers of a process have of each server together, those of both directions.
#[derive(Clone, Default)]
pub struct Together {
    /// One connection that the binlog comes by.
    pub(super) feeds: Feeds,
    /// One that tokens are written by.
    pub(super) tokens: TokenWriters,
    /// What is known of what their binlogs leave out.
    pub(super) logs: WholeLogs,
}

struct Process {
    throttle: Throttle,
    together: Together,
    cancel: CancellationToken,
}

async fn run<W, F>(
    plan: &Plan,
    shard: OldShard,
    open_log: &mut (impl FnMut(u64) -> F + Send),
    status: &ReaderStatus,
    Process { throttle, together, cancel }: &Process,
    (epoch_number, stands): (&mut u64, &mut Option<Stands>),
) -> Result<(), ReadError>
where
    W: LogWriter,
    F: Future<Output = Result<W, LogError>> + Send,
{
    let primary = plan.old[usize::from(shard.0)].clone();
    let way = (status, plan.direction());
    // Before the epoch is raised: a plan that does not fit must not end a reader that works.
    let Some(found) = retrying(shard, "start", way, cancel, || async {
        let _turn = throttle.few().turn(&primary).await;
        let prepared = prepare(plan, shard).await?;
        Box::pin(together.logs.ask(&primary, throttle.desk(), Instant::now())).await?;
        Ok(prepared)
    })
    .await?
    else {
        return Ok(());
    };
    let open_epoch = || async {
        let _turn = throttle.few().turn(&primary).await;
        let opening = Box::pin(epoch::open(shard, &primary, plan, &found.tables));
        within(&primary, "opening an epoch", opening).await
    };
    let Some(epoch) = retrying(shard, "epoch", way, cancel, open_epoch).await? else {
        return Ok(());
    };
    *epoch_number = epoch.number;
    metrics::epoch(shard, epoch.number);
    metrics::begin(shard);
    tracing::info!(shard = shard.0, epoch = epoch.number, resume = %epoch.resume.gtids(),
        initial = epoch.initial, phase = epoch.resume.phase.name(), "reader epoch opened");
    stage::reached("epoch_raised_before_markers", 1).await;
    // And again after it: what changes a table from here on is in the log.
    let Some(prepared) = retrying(shard, "start", way, cancel, || async {
        let _turn = throttle.few().turn(&primary).await;
        let prepared = prepare(plan, shard).await?;
        Box::pin(together.logs.ask(&primary, throttle.desk(), Instant::now())).await?;
        Ok(prepared)
    })
    .await?
    else {
        return Ok(());
    };
    epoch::same(shard, plan, &prepared.tables, &epoch.kept)?;
    let Some(token_table) = retrying(shard, "start", way, cancel, || async {
        let _turn = throttle.few().turn(&primary).await;
        token_table(&primary).await
    })
    .await?
    else {
        return Ok(());
    };

    let writer = open_log(epoch.number).await?;
    let publisher = Publisher::new(writer, shard, epoch.number, plan.new_modulus.get());
    // Not a child of `cancel`: the last progress is recorded while the reader drains.
    let stop_token = CancellationToken::new();
    let heartbeat = plan.reader.heartbeat;
    let (tokens, token_task) =
        together.tokens.join(shard, &primary, &epoch, heartbeat, stop_token.clone());
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
        together,
    )?;
    // Both end together: a reader without its token, or the other way round, is of no use.
    tokio::pin!(token_task);
    let reading = reader.run(plan, status, stands, cancel);
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
    (status, direction): (&ReaderStatus, Direction),
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
                    say_waiting(shard, status, &error, direction);
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
