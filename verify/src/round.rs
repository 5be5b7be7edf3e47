//! One round over one table, from its first key to its last: the wiring of ranges, comparison,
//! settling and progress.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use modshift_proto::plan::Plan;
use tokio_util::sync::CancellationToken;

use crate::compare::{self, Compared, Stream, Suspect};
use crate::error::VerifyError;
use crate::key;
use crate::lock::Lock;
use crate::metrics;
use crate::pace::Pace;
use crate::progress::{self, Saved};
use crate::report::{Mismatch, TableReport};
use crate::settle::{self, Settled, Shards, Until};
use crate::shard::{Range, Seen, Shard, Sums, Total};
use crate::table::{self, CheckedTable, Placing};

/// Rows of a table's first range, before anything is known about it.
const FIRST_ROWS: u32 = 1000;
const ROWS_MIN: u32 = 50;
/// Suspects that may wait to be settled together; each is a key.
const SUSPECTS_MAX: usize = 5000;
/// How long they may wait, and how much a verifier that is killed repeats at most.
const SETTLE_INTERVAL: Duration = Duration::from_secs(2);
/// A range of which so many times the wanted rows lie on one shard is cut before its rows are
/// fetched.
const UNEVEN: u64 = 4;
/// An interrupted round is taken up again if its proof can still be worth something.
const RESUME_AGE_MAX: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Begin anew where a round was interrupted.
    pub fresh: bool,
}

/// The shards, and what the plan's tables are on them.
pub struct Verifier {
    pub(crate) plan: Arc<Plan>,
    pub(crate) shards: Shards,
    /// Connections of their own to the old shards, for the ends of ranges.
    pagers: Vec<Shard>,
    tables: Vec<Option<CheckedTable>>,
    differences: Vec<String>,
    pace: Option<Arc<Pace>>,
    /// `None`: beside another verifier, for single keys.
    lock: Option<Lock>,
}

impl Verifier {
    /// Takes the lock (waiting at most so long for another verifier) and asks every shard for its
    /// tables.
    pub async fn open(
        plan: Arc<Plan>,
        pace: Arc<Pace>,
        wait: Duration,
    ) -> Result<Verifier, VerifyError> {
        let mut lock = Lock::new(&plan);
        lock.take(wait).await?;
        Verifier::prepare(plan, Some(pace), Some(lock)).await
    }

    /// For single keys only: no lock, no rounds.
    pub(crate) async fn beside(plan: Arc<Plan>) -> Result<Verifier, VerifyError> {
        Verifier::prepare(plan, None, None).await
    }

    async fn prepare(
        plan: Arc<Plan>,
        pace: Option<Arc<Pace>>,
        lock: Option<Lock>,
    ) -> Result<Verifier, VerifyError> {
        let of = |endpoints: &[modshift_proto::plan::Endpoint]| -> Vec<Shard> {
            endpoints.iter().cloned().map(Shard::new).collect()
        };
        let mut shards = Shards { old: of(&plan.old), new: of(&plan.new) };
        progress::prepare(&mut shards.new).await?;
        let tables = table::load(&plan, &mut shards.old, &mut shards.new).await?;
        let pagers = of(&plan.old);
        Ok(Verifier {
            plan,
            shards,
            pagers,
            tables: tables.checked,
            differences: tables.differences,
            pace,
            lock,
        })
    }

    /// Lets another verifier in.
    pub async fn close(mut self) {
        if let Some(lock) = &mut self.lock {
            lock.release().await;
        }
    }

    /// Definitions that are not those of old shard 0, one line each.
    pub fn schema_differences(&self) -> &[String] {
        &self.differences
    }

    /// `None`: its definitions differ too far for its rows to be compared.
    pub fn table(&self, index: usize) -> Option<&CheckedTable> {
        self.tables.get(index)?.as_ref()
    }

    /// Every stream has copied what was there before, and the new shards do not serve yet.
    pub async fn copied(&mut self) -> Result<(), VerifyError> {
        if settle::switched(&mut self.shards.new).await? {
            return Err(VerifyError::Switched);
        }
        let old_shards = self.plan.old_modulus.get();
        for (new, shard) in self.shards.new.iter_mut().enumerate() {
            let applied = settle::applied(shard).await?;
            if let Some(old) = (0..old_shards).find(|old| !applied.contains_key(old)) {
                return Err(VerifyError::Copying { old, new: new as u16 });
            }
        }
        Ok(())
    }

    /// Everything that is known to differ, of the tables that can be compared.
    pub async fn mismatches(&mut self) -> Result<Vec<Mismatch>, VerifyError> {
        let mut all = Vec::new();
        for table in self.tables.iter().flatten() {
            all.extend(progress::mismatches(&mut self.shards.new, &self.plan, table).await?);
        }
        Ok(all)
    }

    /// The table whose proof is oldest, or that has none.
    pub(crate) async fn oldest(&mut self) -> Result<Option<usize>, VerifyError> {
        let ages = progress::ages(&mut self.shards.new).await?;
        let age = |table: &CheckedTable| {
            let found = ages.iter().find(|(name, _)| *name == table.schema.name);
            found.and_then(|(_, age)| *age).unwrap_or(u64::MAX)
        };
        let tables = self.tables.iter().enumerate();
        let with_age = tables.filter_map(|(index, table)| Some((index, age(table.as_ref()?))));
        Ok(with_age.max_by_key(|&(index, age)| (age, usize::MAX - index)).map(|(index, _)| index))
    }

    /// Compares the table from its first key, or from where a round was interrupted, to its last.
    /// `None`: cancelled; what has been settled is recorded.
    pub async fn round(
        &mut self,
        index: usize,
        options: &Options,
        notes: &mut Vec<String>,
        cancel: &CancellationToken,
    ) -> Result<Option<TableReport>, VerifyError> {
        let Some(table) = self.tables[index].clone() else {
            return Ok(Some(TableReport::default()));
        };
        let resume_max = self.plan.gate.verify_age.unwrap_or(RESUME_AGE_MAX);
        let saved = match options.fresh {
            true => None,
            false => progress::read(&mut self.shards.new, &table).await?,
        };
        let saved = saved.filter(|saved| Duration::from_secs(saved.age_s) < resume_max);
        let resumed = saved.as_ref().is_some_and(|saved| saved.chunk > 0);
        let saved = match saved {
            Some(saved) => saved,
            None => {
                progress::begin(&mut self.shards.new, &table).await?;
                Saved::default()
            }
        };
        let mut round = Round::new(self, table, saved).await?;
        loop {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            if let Some(pace) = round.verifier.pace.clone()
                && cancel.run_until_cancelled(pace.ready()).await.is_none()
            {
                return Ok(None);
            }
            let last = round.step().await?;
            if last || round.is_due() {
                round.settle(last).await?;
            }
            if last {
                let report = round.finish(resumed, notes).await?;
                return Ok(Some(report));
            }
        }
    }

    /// Settles keys of one table now, and records what came of it. Gives how many are not settled.
    pub(crate) async fn settle_keys(
        &mut self,
        index: usize,
        suspects: BTreeSet<Suspect>,
        until: Until,
    ) -> Result<Settled, VerifyError> {
        let Some(table) = self.tables[index].clone() else { return Ok(Settled::default()) };
        let settled = settle::settle(&mut self.shards, &table, suspects, until).await?;
        record(&mut self.shards, &table, &settled).await?;
        Ok(settled)
    }
}

async fn record(
    shards: &mut Shards,
    table: &CheckedTable,
    settled: &Settled,
) -> Result<(), VerifyError> {
    if !settled.mismatches.is_empty() && settle::switched(&mut shards.new).await? {
        return Err(VerifyError::Switched);
    }
    for mismatch in &settled.mismatches {
        metrics::mismatch(&mismatch.table, mismatch.kind.name());
    }
    progress::add_mismatches(&mut shards.new, &settled.mismatches).await?;
    progress::remove_mismatches(&mut shards.new, table, &settled.equal).await?;
    progress::remove_mismatches(&mut shards.new, table, &settled.parked).await
}

struct Round<'v> {
    verifier: &'v mut Verifier,
    table: CheckedTable,
    saved: Saved,
    /// The range to compare next.
    range: Range,
    /// Rows to ask for; adapts to the plan's chunk time.
    rows: u32,
    /// The last range differed: the next one is likely to, and is told apart by stream at once.
    by_stream: bool,
    suspects: BTreeSet<Suspect>,
    settled_at: Instant,
    parked: u64,
    strays: BTreeMap<u16, u64>,
    old_shards_differ: BTreeSet<u16>,
}

impl<'v> Round<'v> {
    async fn new(
        verifier: &'v mut Verifier,
        table: CheckedTable,
        saved: Saved,
    ) -> Result<Round<'v>, VerifyError> {
        let known = progress::mismatches(&mut verifier.shards.new, &verifier.plan, &table).await?;
        let of =
            |mismatch: Mismatch| Suspect { stream: (mismatch.old, mismatch.new), key: mismatch.pk };
        let rows = FIRST_ROWS.min(verifier.plan.verify.chunk_rows_max);
        let after = match &saved.verified_to {
            None => None,
            Some(wire) => Some(key::cells(&table.schema, wire).map_err(|error| {
                let (at, text) = (verifier.shards.new[0].label(), error.to_string());
                VerifyError::Control { at, what: "modshift_verify", text }
            })?),
        };
        let open = Range { after, until: None };
        let until = verifier.pagers[table.pager].boundary(&table, &open, rows).await?;
        Ok(Round {
            verifier,
            table,
            saved,
            range: Range { until, ..open },
            rows,
            by_stream: false,
            suspects: known.into_iter().map(of).collect(),
            settled_at: Instant::now(),
            parked: 0,
            strays: BTreeMap::new(),
            old_shards_differ: BTreeSet::new(),
        })
    }

    /// Compares one range. True: that was the last.
    async fn step(&mut self) -> Result<bool, VerifyError> {
        let begun = Instant::now();
        // The end of the next range is looked for meanwhile.
        let following = Range { after: self.range.until.clone(), until: None };
        let Verifier { shards, pagers, .. } = &mut *self.verifier;
        let next = async {
            match self.range.until {
                None => Ok(None),
                Some(_) => {
                    pagers[self.table.pager].boundary(&self.table, &following, self.rows).await
                }
            }
        };
        let looked = async {
            let (table, range) = (&self.table, &self.range);
            if let Placing::Sharded { old, new } = &table.placing
                && !self.by_stream
                && let Some(same) = same(shards, table, range, (old, new)).await?
            {
                return Ok(Some(same));
            }
            look(shards, table, range, true).await
        };
        let (mut compared, mut next) = tokio::try_join!(looked, next)?;
        let wanted = u64::from(self.rows) * UNEVEN;
        let uneven = |c: &Compared| !c.streams.is_empty() && c.rows_of_largest > wanted;
        if compared.as_ref().is_none_or(uneven) {
            let cut = self.narrow().await?;
            if cut != self.range.until {
                self.range.until = cut;
                next = self.boundary_after().await?;
            }
            let shards = &mut self.verifier.shards;
            compared = look(shards, &self.table, &self.range, false).await?;
        }
        // Without a limit of time there is an answer.
        let compared = compared.unwrap_or_default();
        self.by_stream = !compared.streams.is_empty();
        let suspects = self.suspects_of(&compared).await?;
        self.suspects.extend(suspects);
        self.note(&compared);
        self.adapt(begun.elapsed(), compared.rows_of_largest);
        if let Some(pace) = &self.verifier.pace {
            pace.done(compared.rows, begun.elapsed());
        }

        let last = self.range.until.is_none();
        self.range = Range { after: self.range.until.take(), until: next };
        Ok(last)
    }

    async fn boundary_after(&mut self) -> Result<Option<Vec<Vec<u8>>>, VerifyError> {
        if self.range.until.is_none() {
            return Ok(None);
        }
        let following = Range { after: self.range.until.clone(), until: None };
        let pager = &mut self.verifier.pagers[self.table.pager];
        pager.boundary(&self.table, &following, self.rows).await
    }

    /// The end of the largest range from here that has no more than the wanted rows on any shard.
    async fn narrow(&mut self) -> Result<Option<Vec<Vec<u8>>>, VerifyError> {
        let mut range = self.range.clone();
        let Shards { old, new } = &mut self.verifier.shards;
        for shard in old.iter_mut().chain(new.iter_mut()) {
            if let Some(cut) = shard.boundary(&self.table, &range, self.rows).await? {
                range.until = Some(cut);
            }
        }
        Ok(range.until)
    }

    /// Keys of the streams that differ.
    async fn suspects_of(&mut self, compared: &Compared) -> Result<Vec<Suspect>, VerifyError> {
        if compared.streams.is_empty() {
            return Ok(Vec::new());
        }
        let (table, range) = (&self.table, &self.range);
        let streams: Vec<Stream> = compared.streams.iter().copied().collect();
        let others = |of: fn(&Stream) -> u16, other: fn(&Stream) -> u16, shard: usize| {
            let mine = streams.iter().filter(|stream| usize::from(of(stream)) == shard);
            mine.map(other).collect::<Vec<u16>>()
        };
        let Shards { old, new } = &mut self.verifier.shards;
        let expected = try_join_all(old.iter_mut().enumerate().map(async |(index, shard)| {
            let targets = others(|s| s.0, |s| s.1, index);
            match targets.is_empty() {
                true => Ok(Default::default()),
                false => shard.rows(table, range, Some(&[index as u16]), Some(&targets)).await,
            }
        }));
        let found = try_join_all(new.iter_mut().enumerate().map(async |(index, shard)| {
            let sources = others(|s| s.1, |s| s.0, index);
            match sources.is_empty() {
                true => Ok(Default::default()),
                false => shard.rows(table, range, Some(&sources), None).await,
            }
        }));
        let (mut expected, mut found) = tokio::try_join!(expected, found)?;
        let broadcast = matches!(table.placing, Placing::Broadcast { .. });
        let mut suspects = Vec::new();
        for stream in streams {
            let expected = &mut expected[usize::from(stream.0)];
            let found = &mut found[usize::from(stream.1)];
            if broadcast {
                // Every row is of the one stream that there is to this shard.
                let here = |seen: &mut Seen| seen.place = stream;
                expected.values_mut().chain(found.values_mut()).for_each(here);
            }
            suspects.extend(compare::keys(stream, expected, found));
        }
        Ok(suspects)
    }

    fn note(&mut self, compared: &Compared) {
        for &(shard, rows) in &compared.strays {
            *self.strays.entry(shard).or_default() += rows;
        }
        self.old_shards_differ.extend(&compared.old_shards);
        self.saved.chunk += 1;
        self.saved.rows += compared.rows;
        metrics::rows(&self.table.schema.name, compared.rows);
    }

    /// Towards the plan's chunk time, by at most a factor of two each time.
    fn adapt(&mut self, took: Duration, rows: u64) {
        if rows == 0 {
            return;
        }
        let settings = &self.verifier.plan.verify;
        let asked = f64::from(self.rows);
        let per_row = took.as_secs_f64() / rows as f64;
        let by_time = settings.chunk_time.as_secs_f64() / per_row.max(1e-9);
        let wanted = by_time.min(asked * 2.0).max(asked / 2.0) as u32;
        self.rows = wanted.clamp(ROWS_MIN.min(settings.chunk_rows_max), settings.chunk_rows_max);
    }

    fn is_due(&self) -> bool {
        self.suspects.len() >= SUSPECTS_MAX || self.settled_at.elapsed() >= SETTLE_INTERVAL
    }

    /// Settles what has been found, and records that everything up to here is known.
    async fn settle(&mut self, last: bool) -> Result<(), VerifyError> {
        if let Some(lock) = &mut self.verifier.lock {
            lock.keep().await?;
        }
        let until = Until::Passed(self.verifier.plan.verify.settle_max);
        let suspects = std::mem::take(&mut self.suspects);
        let shards = &mut self.verifier.shards;
        let settled = settle::settle(shards, &self.table, suspects, until).await?;
        record(shards, &self.table, &settled).await?;
        self.saved.unsettled += settled.unsettled.len() as u64;
        self.parked += settled.parked.len() as u64;
        if !last {
            self.saved.verified_to = self.range.after.as_deref().map(key::wire);
        }
        progress::save(&mut shards.new, &self.table, &self.saved).await?;
        self.settled_at = Instant::now();
        Ok(())
    }

    async fn finish(
        self,
        resumed: bool,
        notes: &mut Vec<String>,
    ) -> Result<TableReport, VerifyError> {
        let Verifier { shards, plan, .. } = self.verifier;
        let name = self.table.schema.name.clone();
        let mismatches =
            progress::mismatches(&mut shards.new, plan, &self.table).await?.len() as u64;
        let clean = mismatches == 0 && self.saved.unsettled == 0;
        progress::finish(&mut shards.new, &self.table, clean).await?;
        metrics::round(&name, clean);
        for (shard, rows) in self.strays {
            notes.push(format!(
                "table {name}: {rows} rows of old shard {shard} belong on another old shard \
                 (modshift check names them)"
            ));
        }
        if let Placing::Broadcast { source } = self.table.placing {
            for shard in self.old_shards_differ {
                notes.push(format!(
                    "broadcast table {name}: old shard {shard} does not hold the rows of old shard \
                     {source}, which feeds the new shards"
                ));
            }
        }
        Ok(TableReport {
            table: name,
            rows: self.saved.rows,
            chunks: self.saved.chunk,
            resumed,
            unsettled: self.saved.unsettled,
            parked: self.parked,
            mismatches,
        })
    }
}

/// A range of a sharded table that is the same on both sides; `None`: it is not, or takes too long.
async fn same(
    shards: &mut Shards,
    table: &CheckedTable,
    range: &Range,
    (old_place, new_place): (&str, &str),
) -> Result<Option<Compared>, VerifyError> {
    let Shards { old, new } = shards;
    let old = old.iter_mut().enumerate();
    let old = try_join_all(old.map(|(home, shard)| shard.total(table, range, old_place, home)));
    let new = new.iter_mut().enumerate();
    let new = try_join_all(new.map(|(home, shard)| shard.total(table, range, new_place, home)));
    let (old, new) = tokio::try_join!(old, new)?;
    let all = |totals: Vec<Option<Total>>| totals.into_iter().collect::<Option<Vec<Total>>>();
    Ok(all(old).zip(all(new)).and_then(|(old, new)| compare::totals(&old, &new)))
}

/// A range on all shards at once, by stream; `None`: it takes too long on one of them.
async fn look(
    shards: &mut Shards,
    table: &CheckedTable,
    range: &Range,
    bounded: bool,
) -> Result<Option<Compared>, VerifyError> {
    let Shards { old, new } = shards;
    let old = try_join_all(old.iter_mut().map(|shard| shard.sums(table, range, bounded)));
    let new = try_join_all(new.iter_mut().map(|shard| shard.sums(table, range, bounded)));
    let (old, new) = tokio::try_join!(old, new)?;
    let all = |sums: Vec<Option<Sums>>| sums.into_iter().collect::<Option<Vec<Sums>>>();
    Ok(all(old).zip(all(new)).map(|(old, new)| match table.placing {
        Placing::Sharded { .. } => compare::sharded(&old, &new),
        Placing::Broadcast { source } => compare::broadcast(source, &old, &new),
    }))
}
