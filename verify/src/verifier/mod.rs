//! The shards of both sides under one lock, and what is asked of them: rounds over whole tables
//! (`round`), and single keys.

mod look;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::{Seats, value};
use modshift_proto::plan::{Plan, Scheme};
use tokio_util::sync::CancellationToken;

pub use self::round::Part;
use self::round::Round;
use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::halts;
use crate::key;
use crate::lock::Lock;
use crate::marks::{self, Mark};
use crate::metrics;
use crate::pace::Pace;
use crate::progress::{self, Saved};
use crate::report::{Halt, Mismatch, TableReport};
use crate::settle::{self, Link, Settled, Shards, Until};
use crate::shard::Shard;
use crate::table::{self, CheckedTable};
use crate::waiting;

/// An interrupted round is taken up again if its proof can still be worth something.
const RESUME_AGE_MAX: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Begin anew where a round was interrupted.
    pub fresh: bool,
    /// So too where that round began longer ago than this.
    pub not_before: Option<Duration>,
}

/// The shards, and what the plan's tables are on them.
pub struct Verifier {
    pub(crate) plan: Arc<Plan>,
    /// Old ones where their rows are read: on a replica, where the plan says `read_from`.
    pub(crate) shards: Shards,
    /// The old shards' primaries, for modshift's own rows.
    pub(crate) primaries: Vec<Shard>,
    /// The old shards once more, for the ends of ranges while others are compared.
    pagers: Vec<Shard>,
    tables: Vec<Option<CheckedTable>>,
    differences: Vec<String>,
    pace: Option<Arc<Pace>>,
    /// `None`: beside another verifier, for single keys.
    lock: Option<Lock>,
    halts: BTreeSet<Halt>,
    /// By table: its last round found rows that differ, and is a proof once they are equal.
    differing: BTreeMap<usize, Begun>,
}

/// When a round began, and what it proves beside the rows.
#[derive(Clone)]
struct Begun {
    /// Before this process took it up.
    earlier: Duration,
    at: Instant,
    marks: Vec<Mark>,
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
        let seats = pace.seats().clone();
        Verifier::prepare(plan, Some(pace), Some(lock), seats).await
    }

    /// For single keys only: no lock, no rounds.
    pub async fn beside(plan: Arc<Plan>, seats: Seats) -> Result<Verifier, VerifyError> {
        Verifier::prepare(plan, None, None, seats).await
    }

    async fn prepare(
        plan: Arc<Plan>,
        pace: Option<Arc<Pace>>,
        lock: Option<Lock>,
        seats: Seats,
    ) -> Result<Verifier, VerifyError> {
        let shard = |endpoint| Shard::new(endpoint, seats.clone());
        let of = |endpoints: &[modshift_proto::plan::Endpoint]| -> Vec<Shard> {
            endpoints.iter().cloned().map(shard).collect()
        };
        let read: Vec<_> = plan.old.iter().map(|endpoint| endpoint.tailed()).collect();
        let (link, kept) = match plan.scheme {
            Scheme::Copy => (Link::Streams, Vec::new()),
            Scheme::Promote { .. } => (Link::Replication, of(&plan.old)),
        };
        let direction = plan.direction();
        let mut shards = Shards { old: of(&read), new: of(&plan.new), direction, link, kept };
        progress::prepare(shards.ledger()).await?;
        let tables = table::load(&plan, &mut shards.old, &mut shards.new).await?;
        let (pagers, primaries) = (of(&read), of(&plan.old));
        Ok(Verifier {
            plan,
            shards,
            primaries,
            pagers,
            tables: tables.checked,
            differences: tables.differences,
            pace,
            lock,
            halts: BTreeSet::new(),
            differing: BTreeMap::new(),
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

    /// Where the comparisons of a key are not the order of its index, both sides could leave out the
    /// same rows. Asked when a round begins, and only where the type of the key allows that.
    async fn pageable(&mut self, table: &CheckedTable) -> Result<(), VerifyError> {
        let (schema, name) = (&table.schema, table.schema.name.clone());
        for shard in self.shards.old.iter_mut().chain(&mut self.shards.new) {
            let keys = key::columns(schema);
            let Some(statement) = value::unpageable_text(&shard.table(&name), &keys) else { break };
            if !shard.finds("looking at primary keys", &statement).await? {
                continue;
            }
            let statement = value::unpageable_text(&value::quote(&name), &keys).unwrap_or_default();
            return Err(VerifyError::Unpageable { at: shard.label(), table: name, statement });
        }
        Ok(())
    }

    /// Every stream has copied what was there before, and the new shards do not serve yet.
    pub async fn copied(&mut self) -> Result<(), VerifyError> {
        if self.shards.link == Link::Replication {
            let all = (0..self.plan.new_modulus.get()).map(|new| (0, new)).collect();
            let halt = halts::find(&mut self.shards, &all).await?.into_values().next();
            return match halt {
                Some(halt) => Err(VerifyError::Apart { halt }),
                None => Ok(()),
            };
        }
        if settle::switched(&mut self.shards.new).await? {
            return Err(VerifyError::Switched);
        }
        let old_shards = self.plan.old_modulus.get();
        for new in 0..self.shards.new.len() {
            let applied = settle::applied(&mut self.shards.new[new], Link::Streams).await?;
            let Some(old) = (0..old_shards).find(|old| !applied.contains_key(old)) else {
                continue;
            };
            let stream = (old, new as u16);
            let halted = halts::find(&mut self.shards, &BTreeSet::from([stream])).await?;
            let halt = halted.into_values().next();
            return Err(match halt {
                Some(halt) => VerifyError::Halted { old, new: new as u16, halt },
                None => VerifyError::Copying { old, new: new as u16 },
            });
        }
        Ok(())
    }

    /// Streams for which keys were left unsettled since this was asked last.
    pub fn take_halts(&mut self) -> Vec<Halt> {
        std::mem::take(&mut self.halts).into_iter().collect()
    }

    /// What is known to differ, of the tables that can be compared: at most [`progress::PAGE`] rows of
    /// each table and new shard.
    pub async fn mismatches(&mut self) -> Result<Vec<Mismatch>, VerifyError> {
        let mut all = Vec::new();
        for table in self.tables.iter().flatten() {
            let link = self.shards.link;
            let sources = self.plan.old_modulus.get().max(self.plan.new_modulus.get());
            let found = progress::mismatches(self.shards.ledger(), sources, table).await?;
            all.extend(found.into_iter().map(|mismatch| {
                let (old, new) = link.found((mismatch.old, mismatch.new));
                Mismatch { old, new, ..mismatch }
            }));
        }
        Ok(all)
    }

    /// The table whose proof is oldest, or that has none; but for those of these names.
    pub(crate) async fn oldest(
        &mut self,
        but: &BTreeSet<String>,
    ) -> Result<Option<usize>, VerifyError> {
        let ages = progress::ages(self.shards.ledger()).await?;
        let age = |table: &CheckedTable| {
            let found = ages.iter().find(|(name, _)| *name == table.schema.name);
            found.and_then(|(_, age)| *age).unwrap_or(u64::MAX)
        };
        let tables = self.tables.iter().enumerate();
        let with_age = tables.filter_map(|(index, table)| {
            let table = table.as_ref().filter(|table| !but.contains(&table.schema.name))?;
            Some((index, age(table)))
        });
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
        let table = self.comparable(index)?;
        // What was passed over asks for a round that begins behind it. A replica has no streams of ours,
        // and nothing is ever written there.
        let marks = match self.shards.link {
            Link::Streams => {
                marks::sweep(&mut self.primaries, &mut self.shards.new).await?;
                marks::open(&mut self.primaries, &table.schema.name).await?
            }
            Link::Replication => Vec::new(),
        };
        let due = marks::due(&self.plan, &marks, &mut self.shards.new).await?;
        if due.len() < marks.len() {
            notes.push(format!(
                "table {}: what a group changed that was passed over cannot be proven equal yet: new \
                 shards have not come so far, XA may show it late, or an old shard is read from a \
                 replica (read_from), which proves nothing of its primary; verify again",
                table.schema.name
            ));
        }
        let resume_max = self.plan.gate.verify_age.unwrap_or(RESUME_AGE_MAX);
        let saved = match options.fresh || !marks.is_empty() {
            true => None,
            false => progress::read(self.shards.ledger(), &table).await?,
        };
        let resume_max = options.not_before.map_or(resume_max, |kept| kept.min(resume_max));
        let saved = saved.filter(|saved| Duration::from_secs(saved.age_s) < resume_max);
        let resumed = saved.as_ref().is_some_and(|saved| saved.chunk > 0);
        let saved = match saved {
            Some(saved) => saved,
            None => {
                progress::begin(self.shards.ledger(), &table).await?;
                Saved::default()
            }
        };
        let earlier = Duration::from_secs(saved.age_s);
        let begun = Begun { earlier, at: Instant::now(), marks: due };
        self.differing.remove(&index);
        let round = Round::new(self, table, saved, None).await?;
        let done = to_the_end(round, resumed, notes, cancel).await?;
        let report = done.map(|(report, _)| report);
        match &report {
            // No proof, whatever becomes of the rest.
            Some(report) if report.unsettled > 0 => {}
            // A row that was passed over for its key is on no new shard: the mark stays.
            Some(report) if report.strays > 0 && !begun.marks.is_empty() => notes.push(format!(
                "table {}: what a group changed that was passed over is not proven equal while rows are \
                 on old shards where they do not belong",
                report.table
            )),
            Some(report) if report.mismatches == 0 => {
                let (old, new) = (&mut self.primaries, &mut self.shards.new);
                marks::prove(old, new, &report.table, &begun.marks).await?;
            }
            Some(_) => {
                self.differing.insert(index, begun);
            }
            None => {}
        }
        Ok(report)
    }

    /// Compares a part of the table; nothing of it is kept but rows that differ, and some of these are
    /// given. `None`: cancelled.
    pub async fn part(
        &mut self,
        index: usize,
        part: &Part,
        cancel: &CancellationToken,
    ) -> Result<Option<(TableReport, Vec<Mismatch>)>, VerifyError> {
        let table = self.comparable(index)?;
        let round = Round::new(self, table, Saved::default(), Some(part.clone())).await?;
        // What lies where it does not belong is said of whole tables.
        to_the_end(round, false, &mut Vec::new(), cancel).await
    }

    /// Where nothing can be compared, that must not pass for equal.
    fn comparable(&self, index: usize) -> Result<CheckedTable, VerifyError> {
        self.tables[index].clone().ok_or_else(|| VerifyError::Incomparable {
            table: self.plan.tables[index].name.clone(),
        })
    }

    /// Takes back what was proven of the table, and what a round under way would prove.
    pub async fn doubt(&mut self, index: usize) -> Result<(), VerifyError> {
        let table = &self.plan.tables[index].name;
        progress::doubt(self.shards.ledger(), table).await
    }

    /// The primary of an old shard.
    pub fn primary(&mut self, old: u16) -> &mut Shard {
        &mut self.primaries[usize::from(old)]
    }

    /// Which of these old shards' readers have halted, or appliers of what they send.
    pub async fn halted(&mut self, sources: &BTreeSet<u16>) -> Result<Vec<Halt>, VerifyError> {
        let targets = self.plan.new_modulus.get();
        let streams = sources.iter().flat_map(|&old| (0..targets).map(move |new| (old, new)));
        let found = halts::find(&mut self.shards, &streams.collect()).await?;
        let halts: BTreeSet<Halt> = found.into_values().collect();
        Ok(halts.into_iter().collect())
    }

    /// What the last round of a table found different was copied again: if all of that is equal by now
    /// the table is proven, as of when that round began.
    pub async fn mended(&mut self, index: usize) -> Result<(), VerifyError> {
        let Some(table) = self.tables[index].clone() else { return Ok(()) };
        let Some(begun) = self.differing.remove(&index) else { return Ok(()) };
        if progress::count(self.shards.ledger(), &table).await? > 0 {
            return Ok(());
        }
        let age = begun.earlier + begun.at.elapsed();
        progress::prove(self.shards.ledger(), &table, age).await?;
        let (old, new) = (&mut self.primaries, &mut self.shards.new);
        marks::prove(old, new, &table.schema.name, &begun.marks).await
    }

    /// Settles keys of one table now, and records what came of it. Gives how many are not settled.
    pub(crate) async fn settle_keys(
        &mut self,
        index: usize,
        suspects: BTreeSet<Suspect>,
        until: Until,
    ) -> Result<Settled, VerifyError> {
        let table = self.comparable(index)?;
        let mut settled = settle::settle(&mut self.shards, &table, suspects, until).await?;
        if until == Until::Glance {
            // One look is too short to call a row moving.
            settled.unsettled.append(&mut settled.moving);
        }
        self.halts.extend(settled.halts.iter().cloned());
        record(&mut self.shards, &table, &settled).await?;
        Ok(settled)
    }

    /// What is known of a table is looked at again, a page at a time: it may have been mended.
    async fn settle_known(&mut self, table: &CheckedTable) -> Result<(), VerifyError> {
        let until = Until::Passed(self.plan.verify.settle_max);
        let link = self.shards.link;
        for target in 0..self.shards.ledger().len() {
            let mut last: Option<progress::Known> = None;
            loop {
                let shard = &mut self.shards.ledger()[target];
                let mut page = progress::known(shard, table, last.as_ref()).await?;
                let known = |k: &progress::Known| Suspect {
                    stream: link.found((k.source, target as u16)),
                    key: k.key.clone(),
                };
                let suspects: BTreeSet<Suspect> = page.iter().map(known).collect();
                let Some(end) = page.pop() else { break };
                last = Some(end);
                let mut settled = settle::settle(&mut self.shards, table, suspects, until).await?;
                self.halts.append(&mut settled.halts);
                record(&mut self.shards, table, &settled).await?;
                if let Some(pace) = &self.pace {
                    pace.done(0, settled.reading);
                }
            }
        }
        Ok(())
    }
}

impl Verifier {
    /// Rows that wait for their place have none on a new shard that a comparison could find; so each of
    /// them is looked at by its key. Gives how many are not settled.
    async fn settle_waiting(&mut self, table: &CheckedTable) -> Result<u64, VerifyError> {
        if self.shards.link == Link::Replication {
            return Ok(0);
        }
        let until = Until::Passed(self.plan.verify.settle_max);
        let mut unsettled = 0;
        for target in 0..self.shards.new.len() {
            let mut last = 0;
            while let Some((end, page)) =
                waiting::page(&mut self.shards, target, table, last).await?
            {
                last = end;
                let mut settled = waiting::settle(&mut self.shards, table, page, until).await?;
                self.halts.append(&mut settled.halts);
                unsettled += settled.unsettled.len() as u64;
                record(&mut self.shards, table, &settled).await?;
            }
        }
        Ok(unsettled)
    }
}

async fn to_the_end(
    mut round: Round<'_>,
    resumed: bool,
    notes: &mut Vec<String>,
    cancel: &CancellationToken,
) -> Result<Option<(TableReport, Vec<Mismatch>)>, VerifyError> {
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
            return round.finish(resumed, notes).await.map(Some);
        }
    }
}

/// Gives how many moving keys there was no room for.
async fn record(
    shards: &mut Shards,
    table: &CheckedTable,
    settled: &Settled,
) -> Result<u64, VerifyError> {
    let link = shards.link;
    let streams = link == Link::Streams;
    if streams && !settled.mismatches.is_empty() && settle::switched(&mut shards.new).await? {
        return Err(VerifyError::Switched);
    }
    for mismatch in &settled.mismatches {
        metrics::mismatch(&mismatch.table, mismatch.kind.name());
    }
    let filed = |suspects: &[Suspect]| -> Vec<Suspect> {
        let file = |suspect: &Suspect| Suspect {
            stream: link.filed(suspect.stream),
            key: suspect.key.clone(),
        };
        suspects.iter().map(file).collect()
    };
    let mismatches = settled.mismatches.iter().map(|mismatch| {
        let (old, new) = link.filed((mismatch.old, mismatch.new));
        Mismatch { old, new, ..mismatch.clone() }
    });
    let ledger = shards.ledger();
    progress::add_mismatches(ledger, &mismatches.collect::<Vec<_>>()).await?;
    progress::remove_mismatches(ledger, table, &filed(&settled.equal)).await?;
    progress::remove_mismatches(ledger, table, &filed(&settled.parked)).await?;
    progress::add_moving(ledger, table, &filed(&settled.moving)).await
}
