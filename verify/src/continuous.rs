//! Verifying beside the appliers: round after round, and whatever they change meanwhile.
//!
//! Two loops. The scanner goes over the tables, the one with the oldest proof first; of all
//! processes one scans at a time, and it lets others in between two tables. The drainer takes the
//! keys that the appliers of this process have changed and takes a glance at each: what is equal is
//! done with, what is not is looked at again. (Whether it is damaged is for the scanner to find.) When an old shard is
//! fenced and its marker has been applied, nothing changes any more: what is left is compared at
//! once, and `modshift_settled` says so to the cutover that wrote the marker. It may say so only
//! where every table has been compared as a whole since the record of changes began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::Class;
use modshift_mariadb::control::{SETTLED, TOKEN};
use modshift_proto::plan::{Endpoint, Plan};
use tokio_util::sync::CancellationToken;

use crate::changed::{ChangedKey, ChangedKeys};
use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::metrics;
use crate::pace::Pace;
use crate::progress;
use crate::settle::Until;
use crate::shard::Shard;
use crate::verifier::{Options, Verifier};

/// After a table: others may want the lock, and a small plan need not be read all the time.
const BETWEEN_TABLES: Duration = Duration::from_secs(1);
/// After what may pass.
const RETRY: Duration = Duration::from_secs(5);
/// How often changed keys are compared. A key that changes all the time is then compared twice a
/// second.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);
/// How often old shards are asked for a fence: part of a cutover's pause.
const FENCE_INTERVAL: Duration = Duration::from_millis(50);

/// Runs until cancelled. Trouble that may pass is waited out; a halt ends it, and nothing else.
pub async fn run_continuous(
    plan: Arc<Plan>,
    pace: Pace,
    changed: Vec<Arc<dyn ChangedKeys>>,
    cancel: CancellationToken,
) -> Result<(), VerifyError> {
    let scanning = scan(plan.clone(), pace, &cancel);
    let draining = drain(plan, &changed, &cancel);
    tokio::try_join!(scanning, draining)?;
    Ok(())
}

async fn scan(plan: Arc<Plan>, pace: Pace, cancel: &CancellationToken) -> Result<(), VerifyError> {
    let pace = Arc::new(pace);
    while !cancel.is_cancelled() {
        let wait = match one_table(plan.clone(), pace.clone(), cancel).await {
            Ok(()) => BETWEEN_TABLES,
            Err(error) if error.class() == Class::Retry => {
                tracing::debug!(error = %error, "not verifying just now");
                RETRY
            }
            Err(error) => return Err(error),
        };
        let _ = cancel.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
    Ok(())
}

async fn one_table(
    plan: Arc<Plan>,
    pace: Arc<Pace>,
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    let mut verifier = Verifier::open(plan, pace, Duration::ZERO).await?;
    let outcome = async {
        verifier.copied().await?;
        let Some(index) = verifier.oldest().await? else { return Ok(()) };
        let mut notes = Vec::new();
        let report = verifier.round(index, &Options::default(), &mut notes, cancel).await?;
        if let Some(report) = report.filter(|report| report.mismatches > 0) {
            let (table, rows) = (&report.table, report.mismatches);
            tracing::error!(table, rows, "rows differ: modshift verify names them");
        }
        Ok(())
    }
    .await;
    verifier.close().await;
    outcome
}

async fn drain(
    plan: Arc<Plan>,
    changed: &[Arc<dyn ChangedKeys>],
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    while !cancel.is_cancelled() {
        let drained = match Verifier::beside(plan.clone()).await {
            Ok(verifier) => drain_with(verifier, changed, cancel).await,
            Err(error) => Err(error),
        };
        match drained {
            Ok(()) => return Ok(()),
            Err(error) if error.class() == Class::Retry => {
                tracing::debug!(error = %error, "changed rows are compared later");
            }
            Err(error) => return Err(error),
        }
        let _ = cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
    Ok(())
}

async fn drain_with(
    mut verifier: Verifier,
    changed: &[Arc<dyn ChangedKeys>],
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    let mut drained_at: Option<Instant> = None;
    let mut told = BTreeSet::new();
    let mut every = tokio::time::interval(FENCE_INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(every.tick()).await.is_some() {
        let fences = fences(&mut verifier.shards.old).await?;
        let due = drained_at.is_none_or(|at| at.elapsed() >= DRAIN_INTERVAL);
        for changed in changed {
            let target = changed.target();
            // Before the keys are taken: everything that the markers follow is then among them.
            let frozen: BTreeSet<u16> = fences
                .iter()
                .filter(|(source, fence)| changed.token_writes(**source) >= fence.writes)
                .map(|(source, _)| *source)
                .collect();
            let fenced = fences.iter().filter(|(source, fence)| {
                frozen.contains(source) && !told.contains(&(target, **source, fence.run.clone()))
            });
            let fenced: Vec<(u16, Fence)> = fenced.map(|(s, f)| (*s, f.clone())).collect();
            if !due && fenced.is_empty() {
                continue;
            }
            let (last, moving): (Vec<_>, Vec<_>) =
                changed.take().into_iter().partition(|key| frozen.contains(&key.source));
            let counts = count(&last);
            let mut open = compare(&mut verifier, target, last, Until::Now).await?;
            open.extend(compare(&mut verifier, target, moving, Until::Glance).await?);
            for (source, fence) in fenced {
                let whole = whole(&mut verifier, target, changed.whole_since()).await?;
                if whole && !open.iter().any(|key| key.source == source) {
                    let keys = counts.get(&source).copied().unwrap_or(0);
                    say_settled(&mut verifier, target, source, &fence, keys).await?;
                    told.insert((target, source, fence.run));
                }
            }
            metrics::changed_keys(target, open.len());
            changed.put_back(open);
        }
        if due {
            drained_at = Some(Instant::now());
        }
    }
    Ok(())
}

fn count(keys: &[ChangedKey]) -> BTreeMap<u16, u64> {
    let mut counts = BTreeMap::new();
    keys.iter().for_each(|key| *counts.entry(key.source).or_default() += 1);
    counts
}

/// Gives those that could not be settled.
async fn compare(
    verifier: &mut Verifier,
    target: u16,
    keys: Vec<ChangedKey>,
    until: Until,
) -> Result<Vec<ChangedKey>, VerifyError> {
    let mut by_table: BTreeMap<u32, BTreeSet<Suspect>> = BTreeMap::new();
    for key in keys {
        let suspect = Suspect { stream: (key.source, target), key: key.key };
        by_table.entry(key.table).or_default().insert(suspect);
    }
    let mut open = Vec::new();
    for (table, suspects) in by_table {
        let settled = verifier.settle_keys(table as usize, suspects, until).await?;
        open.extend(settled.unsettled.into_iter().map(|suspect| ChangedKey {
            source: suspect.stream.0,
            table,
            key: suspect.key,
        }));
    }
    Ok(open)
}

/// An old shard's fence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fence {
    run: String,
    /// Count of the token that is its marker, or of a later one.
    writes: u64,
}

async fn fences(old: &mut [Shard]) -> Result<BTreeMap<u16, Fence>, VerifyError> {
    let sql =
        format!("SELECT fence, writes FROM {TOKEN} WHERE phase = 'fenced' AND fence IS NOT NULL");
    let asked = old.iter_mut().map(|shard| shard.query("looking for a fence", &sql));
    let rows: Vec<Vec<(String, u64)>> = futures_util::future::try_join_all(asked).await?;
    let fence = |(source, rows): (usize, Vec<(String, u64)>)| {
        let (run, writes) = rows.into_iter().next()?;
        Some((source as u16, Fence { run, writes }))
    };
    Ok(rows.into_iter().enumerate().filter_map(fence).collect())
}

/// Has every table been compared as a whole, and found equal, since then?
async fn whole(verifier: &mut Verifier, target: u16, since: Instant) -> Result<bool, VerifyError> {
    let index = usize::from(target);
    let ages = progress::ages(&mut verifier.shards.new[index..=index]).await?;
    let proven = |name: &str| {
        let age = ages.iter().find(|(table, _)| table == name).and_then(|(_, age)| *age);
        age.is_some_and(|age| Duration::from_secs(age) + Duration::from_secs(1) < since.elapsed())
    };
    Ok(verifier.plan.tables.iter().all(|table| proven(&table.name)))
}

async fn say_settled(
    verifier: &mut Verifier,
    target: u16,
    source: u16,
    fence: &Fence,
    keys: u64,
) -> Result<(), VerifyError> {
    let position = verifier.shards.old[usize::from(source)].position().await?;
    let sql = format!(
        "REPLACE INTO {SETTLED} (source, fence, gtids, keys_compared, at) \
         VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6))"
    );
    let params = (source, fence.run.clone(), position.to_string(), keys);
    let doing = "saying that all changes have been compared";
    verifier.shards.new[usize::from(target)].run(doing, &sql, params).await
}

/// For a cutover whose markers have all been applied: waits until every new shard says that all
/// changes before them have been compared. The error is what keeps it from saying so.
pub async fn settled(plan: &Plan, run: &str, wait: Duration) -> Result<(), String> {
    let deadline = Instant::now() + wait;
    let of = |endpoint: &Endpoint| Shard::new(endpoint.clone());
    let mut new: Vec<Shard> = plan.new.iter().map(of).collect();
    loop {
        let missing = missing(plan, &mut new, run).await.map_err(|error| error.to_string())?;
        let Some(what) = missing else { return Ok(()) };
        if what.damage || Instant::now() >= deadline {
            return Err(what.text);
        }
        tokio::time::sleep(FENCE_INTERVAL / 5).await;
    }
}

struct Missing {
    text: String,
    /// Waiting does not mend it.
    damage: bool,
}

async fn missing(
    plan: &Plan,
    new: &mut [Shard],
    run: &str,
) -> Result<Option<Missing>, VerifyError> {
    let sql = format!("SELECT source, fence FROM {SETTLED}");
    let damage = format!("SELECT COUNT(*) FROM {}", modshift_mariadb::control::MISMATCH);
    for (target, shard) in new.iter_mut().enumerate() {
        let rows: Vec<u64> = shard.query("counting rows that differ", &damage).await?;
        if let Some(rows) = rows.first().filter(|rows| **rows > 0) {
            let text = format!("{rows} rows differ on new shard {target}: see modshift verify");
            return Ok(Some(Missing { text, damage: true }));
        }
        let said: Vec<(u16, String)> = shard.query("looking for what is settled", &sql).await?;
        let source = (0..plan.old_modulus.get())
            .find(|source| !said.iter().any(|(from, fence)| from == source && fence == run));
        if let Some(source) = source {
            let text = format!(
                "what old shard {source} changed last on new shard {target} has not been compared: \
                 is a daemon running with verify.continuous, and has it been once over every table?"
            );
            return Ok(Some(Missing { text, damage: false }));
        }
    }
    Ok(None)
}
