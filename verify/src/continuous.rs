//! Verifying beside the appliers: round after round, and whatever they change meanwhile.
//!
//! Two loops. The scanner goes over the tables, the one with the oldest proof first; of all
//! processes one scans at a time, and it lets others in between two tables. The drainer takes the
//! keys that the appliers of this process have changed and takes a glance at each: what is equal is
//! done with, what is not is looked at again. (Whether it is damaged is for the scanner to find.) Both
//! are throttled like the copy, for as long as nobody waits for them.
//!
//! When an old shard is fenced and its marker has been applied, nothing changes any more: what is
//! left is compared at once, and `modshift_settled` says so to the cutover that wrote the marker. It
//! may say so only where every table has been compared as a whole since the record of changes began.
//! `modshift_verifier` says beforehand whether that is so, and what is left: the gate asks for it.
//!
//! What goes wrong is said there, and tried again for as long as the process lives: a login that was
//! refused is let in again, a definition is mended, and nobody has to think of the verifier then.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::control::{SETTLED, TOKEN, VERIFIER_TABLE};
use modshift_mariadb::{Class, Seats};
use modshift_proto::plan::Plan;
use tokio_util::sync::CancellationToken;

use crate::changed::{ChangedKey, ChangedKeys};
use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::metrics;
use crate::pace::{Haste, Pace};
use crate::progress::{self, Beside};
use crate::settle::{Settled, Until};
use crate::shard::{HERE, Shard, here};
use crate::verifier::Verifier;

/// After what may pass.
const RETRY: Duration = Duration::from_secs(5);
/// How often changed keys are compared. A key that changes all the time is then compared twice a
/// second.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);
/// How often old shards are asked for a fence: part of a cutover's pause.
const FENCE_INTERVAL: Duration = Duration::from_millis(50);
/// The same once all that can be said of the fences has been said.
const SAID_INTERVAL: Duration = Duration::from_secs(1);
/// Keys of one glance: between two of them fences are looked for.
const GLANCE_KEYS: usize = 2000;
/// Connections to one server of who compares what is changed.
pub const DRAINER_SEATS: u16 = 4;
/// How often the verifier says that it is there.
const SAY_INTERVAL: Duration = Duration::from_secs(2);
/// What comparing takes beside what each key takes.
const SETTLE_BASE: Duration = Duration::from_millis(20);
/// A table is compared again amid a fence only if its proof is nearly too old: this share of it is
/// left.
const STALE_SHARE: u32 = 2;

/// Runs until cancelled.
pub async fn run_continuous(
    plan: Arc<Plan>,
    pace: Pace,
    changed: Vec<Arc<dyn ChangedKeys>>,
    cancel: CancellationToken,
) {
    let pace = Arc::new(pace);
    for table in &plan.tables {
        metrics::begin(&table.name);
    }
    let scanning = scan::scan(plan.clone(), pace.clone(), &cancel);
    let draining = drain(plan, pace, &changed, &cancel);
    tokio::join!(scanning, draining);
}

/// Says each trouble once, at a level for those who watch.
#[derive(Default)]
struct Troubles(Option<String>);

impl Troubles {
    fn note(&mut self, error: &VerifyError) {
        let text = error.to_string();
        let hint = error.hint().unwrap_or_default();
        if error.class() == Class::Retry && !error.is_refused_login() {
            tracing::debug!(error = text, "not verifying just now");
        } else if self.0.as_ref() != Some(&text) {
            tracing::error!(error = text, hint, "not verifying until that is mended");
            self.0 = Some(text);
        }
    }

    fn over(&mut self) {
        if self.0.take().is_some() {
            tracing::info!("verifying again");
        }
    }
}

async fn drain(
    plan: Arc<Plan>,
    pace: Arc<Pace>,
    changed: &[Arc<dyn ChangedKeys>],
    cancel: &CancellationToken,
) {
    let mut troubles = Troubles::default();
    while !cancel.is_cancelled() {
        let outcome = async {
            let mut drainer = Drainer::open(plan.clone(), pace.clone(), changed).await?;
            troubles.over();
            drainer.run(cancel).await
        };
        let Err(error) = outcome.await else { return };
        pace.set_haste(Haste::Usual);
        troubles.note(&error);
        let text = format!("its verifier cannot compare them: {error}");
        for changed in changed {
            say_trouble(&plan, &pace, changed.target(), &text).await;
        }
        let _ = cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

/// As far as the shard can be reached; what cannot be said here shows by the time it was last seen.
async fn say_trouble(plan: &Plan, pace: &Pace, target: u16, text: &str) {
    let mut shard = Shard::new(plan.new[usize::from(target)].clone(), pace.seats().clone());
    let said = Beside { anew: None, keys: 0, settle: Duration::ZERO, trouble: Some(text) };
    let saying = progress::say_beside(&mut shard, &said);
    let _ = tokio::time::timeout(RETRY, saying).await;
}

struct Drainer<'a> {
    plan: Arc<Plan>,
    verifier: Verifier,
    pace: Arc<Pace>,
    targets: Vec<Target<'a>>,
    /// What each key took of late.
    per_key: Duration,
    /// What has been said to be settled: target, source, run.
    told: BTreeSet<(u16, u16, String)>,
    said_at: Option<Instant>,
    judged_at: Option<Instant>,
}

/// A new shard of this process.
struct Target<'a> {
    changed: &'a dyn ChangedKeys,
    /// The pass under way: keys up to this mark. `None`: between two.
    pass: Option<u64>,
    passed_at: Option<Instant>,
    /// Most keys that waited since that was last said.
    most: usize,
    /// What was said of since when changes are kept.
    whole_since: Option<Instant>,
}

/// An old shard's fence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fence {
    run: String,
    /// Count of the token that is its marker, or of a later one.
    writes: u64,
}

impl<'a> Drainer<'a> {
    async fn open(
        plan: Arc<Plan>,
        pace: Arc<Pace>,
        changed: &'a [Arc<dyn ChangedKeys>],
    ) -> Result<Drainer<'a>, VerifyError> {
        // Of its own: amid a fence it must not queue behind the statements of a round.
        let mut verifier = Verifier::beside(plan.clone(), Seats::new(DRAINER_SEATS)).await?;
        let mut targets = Vec::new();
        for changed in changed {
            let shard = &mut verifier.shards.new[usize::from(changed.target())];
            shard.run("creating modshift's tables", &here(VERIFIER_TABLE), ()).await?;
            let changed = changed.as_ref();
            let none = (None, None, 0, None);
            let (pass, passed_at, most, whole_since) = none;
            targets.push(Target { changed, pass, passed_at, most, whole_since });
        }
        Ok(Drainer {
            plan,
            verifier,
            pace,
            targets,
            per_key: Duration::from_micros(50),
            told: BTreeSet::new(),
            said_at: None,
            judged_at: None,
        })
    }

    async fn run(&mut self, cancel: &CancellationToken) -> Result<(), VerifyError> {
        let mut every = tokio::time::interval(FENCE_INTERVAL);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(every.tick()).await.is_some() {
            let fences = fences(&mut self.verifier).await?;
            self.judge(!fences.is_empty()).await?;
            let mut all_said = !fences.is_empty();
            for index in 0..self.targets.len() {
                all_said &= self.at_fences(index, &fences).await?;
                self.glance(index).await?;
            }
            self.say().await?;
            if all_said {
                let _ = cancel.run_until_cancelled(tokio::time::sleep(SAID_INTERVAL)).await;
            }
        }
        Ok(())
    }

    /// Amid a fence the application waits, or has gone over to the other side: whole rounds stand
    /// still unless one is missing.
    async fn judge(&mut self, fenced: bool) -> Result<(), VerifyError> {
        if !fenced {
            self.judged_at = None;
            self.pace.set_haste(Haste::Usual);
            return Ok(());
        }
        if self.judged_at.is_some_and(|at| at.elapsed() < SAY_INTERVAL) {
            return Ok(());
        }
        let first = self.judged_at.is_none();
        self.judged_at = Some(Instant::now());
        if first {
            // Until it is known, nothing is slowed down.
            self.pace.set_haste(Haste::Urgent);
        }
        let stale = self.plan.gate.verify_age.map(|age| age / STALE_SHARE);
        let mut missing = false;
        let plan = &self.plan;
        let asked = self.verifier.shards.new.iter_mut();
        for lacking in join_all(asked.map(|shard| progress::lacking(shard, plan))).await {
            missing |= match lacking {
                Ok(tables) => !tables.is_empty(),
                // Nobody keeps changes of that shard yet.
                Err(VerifyError::Server(_)) => true,
                Err(error) => return Err(error),
            };
        }
        let ages = progress::ages(&mut self.verifier.shards.new).await?;
        let old = |age: u64| stale.is_some_and(|stale| Duration::from_secs(age) > stale);
        missing |= ages.iter().any(|(_, age)| age.is_some_and(old));
        self.pace.set_haste(if missing { Haste::Urgent } else { Haste::Still });
        Ok(())
    }

    /// Compares what is left of fenced shards whose markers have been applied, and says so. True: there
    /// is nothing more to say.
    async fn at_fences(
        &mut self,
        index: usize,
        fences: &BTreeMap<u16, Fence>,
    ) -> Result<bool, VerifyError> {
        let changed = self.targets[index].changed;
        let target = changed.target();
        let frozen = |source: &u16, fence: &Fence| changed.token_writes(*source) >= fence.writes;
        let untold = |source: &u16, fence: &Fence| {
            !self.told.contains(&(target, *source, fence.run.clone()))
        };
        let mut left: Vec<(u16, Fence)> = Vec::new();
        for (source, fence) in fences.iter().filter(|(source, fence)| untold(source, fence)) {
            if !frozen(source, fence) {
                return Ok(false);
            }
            left.push((*source, fence.clone()));
        }
        if left.is_empty() {
            return Ok(true);
        }
        let sources: BTreeSet<u16> = left.iter().map(|(source, _)| *source).collect();
        let keys = changed.oldest(Some(&sources), u64::MAX, usize::MAX);
        let counts = count(&keys);
        self.compare(target, keys, Until::Now, changed).await?;
        // The record may have begun anew since it was last said.
        self.say_of(index).await?;
        let shard = &mut self.verifier.shards.new[usize::from(target)];
        if !progress::lacking(shard, &self.plan).await?.is_empty() {
            return Ok(false);
        }
        for (source, fence) in left {
            let waits = changed.is_waiting(source);
            if Some(changed.whole_since()) != self.targets[index].whole_since {
                // Begun anew since it was looked at: nothing waits there, and nothing was compared.
                return Ok(false);
            }
            if !waits {
                let keys = counts.get(&source).copied().unwrap_or(0);
                say_settled(&mut self.verifier, target, source, &fence, keys).await?;
                self.told.insert((target, source, fence.run));
            }
        }
        Ok(false)
    }

    /// One look at some of the keys that wait, where the shards allow it.
    async fn glance(&mut self, index: usize) -> Result<(), VerifyError> {
        let target = &mut self.targets[index];
        target.most = target.most.max(target.changed.waiting());
        let due = target.passed_at.is_none_or(|at| at.elapsed() >= DRAIN_INTERVAL);
        let until = match target.pass {
            Some(until) => until,
            None if due => *target.pass.insert(target.changed.newest()),
            None => return Ok(()),
        };
        let changed = target.changed;
        let keys = changed.oldest(None, until, GLANCE_KEYS);
        if keys.is_empty() {
            (target.pass, target.passed_at) = (None, Some(Instant::now()));
            metrics::changed_keys(changed.target(), changed.waiting());
            return Ok(());
        }
        if !self.pace.may_start() {
            return Ok(());
        }
        let (begun, count) = (Instant::now(), keys.len());
        self.compare(changed.target(), keys, Until::Glance, changed).await?;
        self.pace.done(0, begun.elapsed());
        // A few keys say nothing of how long many take.
        if count * 10 >= GLANCE_KEYS {
            self.per_key = (self.per_key * 7 + begun.elapsed() / count as u32) / 8;
        }
        Ok(())
    }

    /// What is done with is taken out; what could not be settled comes after all others.
    async fn compare(
        &mut self,
        target: u16,
        keys: Vec<ChangedKey>,
        until: Until,
        changed: &dyn ChangedKeys,
    ) -> Result<(), VerifyError> {
        let mut by_table: BTreeMap<u32, Vec<ChangedKey>> = BTreeMap::new();
        for key in keys {
            by_table.entry(key.table).or_default().push(key);
        }
        for (table, keys) in by_table {
            let suspect =
                |key: &ChangedKey| Suspect { stream: (key.source, target), key: key.key.clone() };
            let suspects = keys.iter().map(suspect).collect();
            let settled = self.verifier.settle_keys(table as usize, suspects, until).await?;
            let Settled { unsettled, moving, .. } = settled;
            let open: BTreeSet<Suspect> = unsettled.into_iter().chain(moving).collect();
            let (later, done): (Vec<_>, Vec<_>) =
                keys.into_iter().partition(|key| open.contains(&suspect(key)));
            changed.compared(&done);
            changed.put_off(&later);
        }
        Ok(())
    }

    async fn say(&mut self) -> Result<(), VerifyError> {
        if self.said_at.is_some_and(|at| at.elapsed() < SAY_INTERVAL)
            && self.targets.iter().all(|t| t.whole_since == Some(t.changed.whole_since()))
        {
            return Ok(());
        }
        for index in 0..self.targets.len() {
            self.say_of(index).await?;
        }
        self.said_at = Some(Instant::now());
        Ok(())
    }

    async fn say_of(&mut self, index: usize) -> Result<(), VerifyError> {
        // All targets of this process are compared one after the other.
        let waiting: usize = self.targets.iter().map(|t| t.most.max(t.changed.waiting())).sum();
        let settle = SETTLE_BASE + self.per_key * u32::try_from(waiting).unwrap_or(u32::MAX);
        let target = &mut self.targets[index];
        let since = target.changed.whole_since();
        let anew = (target.whole_since != Some(since)).then(|| since.elapsed());
        let keys = target.most.max(target.changed.waiting()) as u64;
        let shard = &mut self.verifier.shards.new[usize::from(target.changed.target())];
        progress::say_beside(shard, &Beside { anew, keys, settle, trouble: None }).await?;
        (target.whole_since, target.most) = (Some(since), 0);
        Ok(())
    }
}

fn count(keys: &[ChangedKey]) -> BTreeMap<u16, u64> {
    let mut counts = BTreeMap::new();
    keys.iter().for_each(|key| *counts.entry(key.source).or_default() += 1);
    counts
}

/// Fences of which everything that was written before them can be read: the marker itself shows where
/// rows are read, too.
async fn fences(verifier: &mut Verifier) -> Result<BTreeMap<u16, Fence>, VerifyError> {
    let sql = format!(
        "SELECT fence, writes FROM {HERE}{TOKEN} WHERE phase = 'fenced' AND fence IS NOT NULL"
    );
    let visible = format!("SELECT writes FROM {HERE}{TOKEN}");
    let shards = verifier.primaries.iter_mut().zip(&mut verifier.shards.old);
    let asked = shards.map(async |(primary, read)| {
        let rows: Vec<(String, u64)> = primary.query("looking for a fence", &sql).await?;
        let Some((run, writes)) = rows.into_iter().next() else { return Ok(None) };
        if primary.endpoint().host != read.endpoint().host
            || primary.endpoint().port != read.endpoint().port
        {
            let shown: Vec<u64> = read.query("looking for a marker", &visible).await?;
            if shown.first().is_none_or(|shown| *shown < writes) {
                return Ok(None);
            }
        }
        Ok::<_, VerifyError>(Some(Fence { run, writes }))
    });
    let found = futures_util::future::try_join_all(asked).await?;
    let fences = (0u16..).zip(found).filter_map(|(source, fence)| Some((source, fence?)));
    Ok(fences.collect())
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
        "REPLACE INTO {HERE}{SETTLED} (source, fence, gtids, keys_compared, at) \
         VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6))"
    );
    let params = (source, fence.run.clone(), position.to_string(), keys);
    let doing = "saying that all changes have been compared";
    verifier.shards.new[usize::from(target)].run(doing, &sql, params).await
}
