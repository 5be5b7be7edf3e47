//! One round over one table, from its first key to its last: the wiring of ranges, comparison,
//! settling and progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::look::{look, same};
use super::{Verifier, record};
use crate::compare::{self, Compared, Stream, Suspect};
use crate::error::VerifyError;
use crate::key;
use crate::metrics;
use crate::progress::{self, Saved};
use crate::report::{Mismatch, TableReport};
use crate::settle::{self, Shards, Until};
use crate::shard::{Bounds, Range, Seen};
use crate::table::{CheckedTable, Placing};

/// Rows of a table's first range, before anything is known about it.
const FIRST_ROWS: u32 = 1000;
const ROWS_MIN: u32 = 50;
/// From one range to the next.
const GROWTH_MAX: f64 = 4.0;
/// Suspects that may wait to be settled together; each is a key.
const SUSPECTS_MAX: usize = 5000;
/// How long they may wait, and how much a verifier that is killed repeats at most.
const SETTLE_INTERVAL: Duration = Duration::from_secs(2);
/// Rows of a part that are named to whoever mends them: the next comparison finds the others.
const NAMED_MAX: usize = 20_000;
/// A range of which so many times the wanted rows lie on one shard is cut before its rows are
/// fetched.
const UNEVEN: u64 = 4;

/// A part of a table: what is found in it proves nothing of the whole.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub within: Bounds,
    /// Old shards; `None`: all of them.
    pub sources: Option<BTreeSet<u16>>,
}

pub(super) struct Round<'v> {
    pub(super) verifier: &'v mut Verifier,
    /// `None`: the whole table, and what comes of it is recorded as the table's proof.
    part: Option<Part>,
    /// Rows that were found to differ for good.
    found: u64,
    /// Those of a part.
    named: Vec<Mismatch>,
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
    moving: u64,
    strays: BTreeMap<u16, u64>,
    old_shards_differ: BTreeSet<u16>,
}

impl<'v> Round<'v> {
    pub(super) async fn new(
        verifier: &'v mut Verifier,
        table: CheckedTable,
        mut saved: Saved,
        part: Option<Part>,
    ) -> Result<Round<'v>, VerifyError> {
        verifier.settle_known(&table).await?;
        if part.is_none() {
            saved.unsettled += verifier.settle_waiting(&table).await?;
        }
        if saved.verified_to.is_none() {
            verifier.pageable(&table).await?;
        }
        let rows = FIRST_ROWS.min(verifier.plan.verify.chunk_rows_max);
        let after = match &saved.verified_to {
            None => None,
            Some(wire) => Some(key::cells(&table.schema, wire).map_err(|error| {
                let (at, text) = (verifier.shards.new[0].label(), error.to_string());
                VerifyError::Control { at, what: "modshift_verify", text }
            })?),
        };
        let within = part.as_ref().map(|part| part.within.clone()).unwrap_or_default();
        let open = Range { after, until: None, within };
        let until = verifier.pagers[table.pager].boundary(&table, &open, rows).await?;
        Ok(Round {
            verifier,
            part,
            found: 0,
            named: Vec::new(),
            table,
            saved,
            range: Range { until, ..open },
            rows,
            by_stream: false,
            suspects: BTreeSet::new(),
            settled_at: Instant::now(),
            parked: 0,
            moving: 0,
            strays: BTreeMap::new(),
            old_shards_differ: BTreeSet::new(),
        })
    }

    /// Compares one range. True: that was the last.
    pub(super) async fn step(&mut self) -> Result<bool, VerifyError> {
        let begun = Instant::now();
        // The end of the next range is looked for meanwhile.
        let following = self.following();
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
            if let Placing::Sharded { old_away, new_away, .. } = &table.placing
                && !self.by_stream
                && self.part.as_ref().is_none_or(|part| part.sources.is_none())
                && let Some(same) = same(shards, table, range, (old_away, new_away)).await?
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
        // Whoever gave no answer has not said that all is equal.
        let mut compared =
            compared.ok_or(VerifyError::Unanswered { table: self.table.schema.name.clone() })?;
        if let Some(sources) = self.part.as_ref().and_then(|part| part.sources.as_ref()) {
            compared.streams.retain(|stream| sources.contains(&stream.0));
        }
        self.by_stream = !compared.streams.is_empty();
        let suspects = self.suspects_of(&compared).await?;
        self.suspects.extend(suspects);
        self.note(&compared);
        self.adapt(begun.elapsed(), compared.rows_of_largest);
        if let Some(pace) = &self.verifier.pace {
            pace.done(compared.rows, begun.elapsed());
        }

        let last = self.range.until.is_none();
        self.range = Range { until: next, ..self.following() };
        Ok(last)
    }

    /// All that comes behind this range.
    fn following(&self) -> Range {
        let within = self.range.within.clone();
        Range { after: self.range.until.clone(), until: None, within }
    }

    async fn boundary_after(&mut self) -> Result<Option<Vec<Vec<u8>>>, VerifyError> {
        if self.range.until.is_none() {
            return Ok(None);
        }
        let following = self.following();
        let pager = &mut self.verifier.pagers[self.table.pager];
        pager.boundary(&self.table, &following, self.rows).await
    }

    /// The end of the largest range from here that has no more than the wanted rows on any shard.
    async fn narrow(&mut self) -> Result<Option<Vec<Vec<u8>>>, VerifyError> {
        let mut range = self.range.clone();
        let Shards { old, new, .. } = &mut self.verifier.shards;
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
        let Shards { old, new, .. } = &mut self.verifier.shards;
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
        let sources = self.part.as_ref().and_then(|part| part.sources.as_ref());
        let rows = sources.map_or(compared.rows, |sources| {
            let of = |old: &u16| compared.rows_of.get(usize::from(*old)).copied().unwrap_or(0);
            sources.iter().map(of).sum()
        });
        self.saved.rows += rows;
        metrics::rows(&self.table.schema.name, rows);
    }

    /// Towards the plan's chunk time, in steps that an uneven table forgives.
    fn adapt(&mut self, took: Duration, rows: u64) {
        if rows == 0 {
            return;
        }
        let settings = &self.verifier.plan.verify;
        let asked = f64::from(self.rows);
        let per_row = took.as_secs_f64() / rows as f64;
        let by_time = settings.chunk_time.as_secs_f64() / per_row.max(1e-9);
        let wanted = by_time.min(asked * GROWTH_MAX).max(asked / 2.0) as u32;
        self.rows = wanted.clamp(ROWS_MIN.min(settings.chunk_rows_max), settings.chunk_rows_max);
    }

    pub(super) fn is_due(&self) -> bool {
        self.suspects.len() >= SUSPECTS_MAX || self.settled_at.elapsed() >= SETTLE_INTERVAL
    }

    /// Settles what has been found, and records that everything up to here is known.
    pub(super) async fn settle(&mut self, last: bool) -> Result<(), VerifyError> {
        if let Some(lock) = &mut self.verifier.lock {
            lock.keep().await?;
        }
        let until = Until::Passed(self.verifier.plan.verify.settle_max);
        let suspects = std::mem::take(&mut self.suspects);
        let shards = &mut self.verifier.shards;
        let mut settled = settle::settle(shards, &self.table, suspects, until).await?;
        self.verifier.halts.append(&mut settled.halts);
        let shards = &mut self.verifier.shards;
        let beyond = record(shards, &self.table, &settled).await?;
        if let Some(pace) = &self.verifier.pace {
            pace.done(0, settled.reading);
        }
        self.saved.unsettled += settled.unsettled.len() as u64 + beyond;
        self.moving += settled.moving.len() as u64 - beyond;
        self.found += settled.mismatches.len() as u64;
        if self.part.is_some() {
            let room = NAMED_MAX.saturating_sub(self.named.len());
            self.named.extend(settled.mismatches.iter().take(room).cloned());
        }
        self.parked += settled.parked.len() as u64;
        if !last {
            self.saved.verified_to = self.range.after.as_deref().map(key::wire);
        }
        if self.part.is_none() {
            progress::save(shards.ledger(), &self.table, &self.saved).await?;
        }
        self.settled_at = Instant::now();
        Ok(())
    }

    pub(super) async fn finish(
        self,
        resumed: bool,
        notes: &mut Vec<String>,
    ) -> Result<(TableReport, Vec<Mismatch>), VerifyError> {
        let shards = &mut self.verifier.shards;
        let name = self.table.schema.name.clone();
        let mismatches = match &self.part {
            // Others may be known of elsewhere in the table.
            Some(_) => self.found,
            None => progress::count(shards.ledger(), &self.table).await?,
        };
        let mut proof = false;
        if self.part.is_none() {
            let clean = mismatches == 0 && self.saved.unsettled == 0;
            proof = progress::finish(shards.ledger(), &self.table, clean).await?;
            metrics::round(&name, clean);
        }
        let strays = self.strays.values().sum();
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
        let report = TableReport {
            table: name,
            rows: self.saved.rows,
            chunks: self.saved.chunk,
            resumed,
            unsettled: self.saved.unsettled,
            moving: self.moving,
            parked: self.parked,
            mismatches,
            strays,
            proof,
        };
        Ok((report, self.named))
    }
}
