//! `modshift resync`: has a table, or a range of its primary key, copied again through the change log
//! while everything else runs, and proves that it is equal then.
//!
//! A request on each old shard; its reader reads the range in chunks and sends them, as it has sent the
//! first copy. That mends rows that are missing or differ. Rows that the new shards have and the old ones
//! do not are found by the comparison that follows, and deleted through the log one by one. The requests
//! go once nothing differs any more: until then the gate is closed. A proof of before counts no longer
//! from the first request on.

mod key;
mod requests;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Placement, Plan};
use modshift_verify::{Bounds, Options, Pace, Part, Verifier, repair};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::requests::{Outcome, Request};
use crate::exit::{BadPlan, Exit};
use crate::signals::Signals;
use crate::verify::{LOCK_WAIT, chosen, notes_of, shown};
use crate::{answer, args, audit, cutover};

const POLL: Duration = Duration::from_millis(250);
/// How often it says how far it is.
const SAY: Duration = Duration::from_secs(5);
/// Requests that do not go on for so long: it says so, and looks whether streams have halted.
const STILL: Duration = Duration::from_secs(15);
/// And waits no longer after so long.
const STILL_MAX: Duration = Duration::from_secs(600);

/// What is to be copied again.
struct Wanted {
    plan: Arc<Plan>,
    index: usize,
    name: String,
    sources: BTreeSet<u16>,
    bounds: Bounds,
    /// As it was given.
    between: Vec<String>,
    /// All rows of the table.
    whole: bool,
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    table: String,
    key_between: Vec<String>,
    shards: Vec<Copied>,
    rows_compared: u64,
    /// Single rows that still differed, or were too many, and are equal now.
    repaired: u64,
    differ: u64,
    unsettled: u64,
    equal: bool,
    /// It counts as the table's proof.
    proof: bool,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Copied {
    shard: u16,
    rows: u64,
}

pub async fn run(plan: Arc<Plan>, args: &args::Resync) -> anyhow::Result<Exit> {
    let plan = if args.back { Arc::new(plan.reversed()) } else { plan };
    let cancel = CancellationToken::new();
    let signals = Signals::listen().context("listening for signals")?;
    let quit = signals.drain_then_quit(cancel.clone());
    let throttle = Throttle::new(&plan);
    let doing = async {
        match args.cancel {
            true => take_back(plan.clone(), args, &throttle).await,
            false => Box::pin(resync(plan.clone(), args, &throttle, &cancel)).await,
        }
    };
    tokio::select! {
        outcome = doing => outcome,
        () = throttle.follow() => Ok(Exit::CannotTell),
        () = quit => Ok(Exit::CannotTell),
    }
}

async fn take_back(
    plan: Arc<Plan>,
    args: &args::Resync,
    throttle: &Throttle,
) -> anyhow::Result<Exit> {
    let sources = match &args.shards {
        Some(shards) => shards.iter().copied().collect(),
        None => plan.old_shards().map(|shard| shard.0).collect(),
    };
    in_range(&plan, &sources)?;
    let entry = audit::begin(&plan, "takes resyncs back").await?;
    let taking = async {
        for old in sources {
            let endpoint = plan.old[usize::from(old)].clone();
            let mut shard = modshift_verify::Shard::new(endpoint, throttle.seats().clone());
            let count = requests::cancel(&mut shard, args.table.as_deref()).await?;
            if count > 0 {
                say(&plan, &format!("old shard {old}: {count} requests were taken back"));
            }
        }
        say(
            &plan,
            "no more is copied again than is in the change log already; what was copied again is not \
             compared: run modshift verify",
        );
        Ok(Exit::Done)
    };
    let outcome = taking.await;
    audit::finish(entry, &outcome).await;
    outcome
}

fn in_range(plan: &Plan, sources: &BTreeSet<u16>) -> Result<(), BadPlan> {
    match sources.iter().find(|&&shard| shard >= plan.old_modulus.get()) {
        Some(shard) => {
            let side = if plan.direction() == Direction::Back { "new" } else { "old" };
            Err(BadPlan(format!("--shards {shard}: the plan has no {side} shard of that number")))
        }
        None => Ok(()),
    }
}

fn say(plan: &Plan, text: &str) {
    answer::line(format_args!("resync: {}", plan.direction().words(text)));
}

impl Wanted {
    /// Beside a document for programs it is for whoever looks on.
    fn say(&self, text: &str) {
        match self.json {
            true => eprintln!("resync: {}", self.plan.direction().words(text)),
            false => say(&self.plan, text),
        }
    }

    /// Why it ends here.
    fn stop(&self, report: &mut Report, why: String) {
        self.say(&why);
        report.notes.push(self.plan.direction().words(&why));
    }

    /// In words: `table t, keys 1 to 7`.
    fn range(&self) -> String {
        match &self.between[..] {
            [from, to] => format!("table {}, keys {from} to {to}", self.name),
            _ => format!("all of table {}", self.name),
        }
    }
}

async fn resync(
    plan: Arc<Plan>,
    args: &args::Resync,
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let name = args.table.clone().ok_or_else(|| BadPlan("--table NAME is missing".to_owned()))?;
    let index = chosen(&plan, std::slice::from_ref(&name))?[0];
    let all: BTreeSet<u16> = match &plan.tables[index].placement {
        Placement::Sharded { .. } => plan.old_shards().map(|shard| shard.0).collect(),
        Placement::Broadcast { source } => BTreeSet::from([source.0]),
    };
    let sources = args.shards.as_ref().map_or(all.clone(), |some| some.iter().copied().collect());
    in_range(&plan, &sources)?;
    if let Some(shard) = sources.difference(&all).next() {
        let text = format!("--shards {shard}: table {name} is not sent from old shard {shard}");
        return Err(BadPlan(plan.direction().words(&text)).into());
    }
    let mut asking =
        Verifier::beside(plan.clone(), throttle.seats().clone()).await.map_err(shown(&plan))?;
    asking.copied().await.map_err(shown(&plan))?;
    let Some(table) = asking.table(index).cloned() else {
        let text = format!(
            "table {name} has not the same definition on all shards, and is neither copied nor compared \
             so: modshift check says where it differs"
        );
        return Err(anyhow::anyhow!(plan.direction().words(&text)));
    };
    let bounds =
        key::bounds(asking.primary(*sources.first().unwrap_or(&0)), &table, &args.between).await?;
    let whole = bounds.is_open() && sources == all;
    let (between, json) = (args.between.clone(), args.json);
    let wanted = Wanted { plan: plan.clone(), index, name, sources, bounds, between, whole, json };
    let mut estimates = Vec::new();
    for &old in &wanted.sources {
        let rows = requests::estimate(asking.primary(old), &table, &wanted.bounds).await?;
        wanted.say(&format!("old shard {old}: {}, about {rows} rows", wanted.range()));
        estimates.push((old, rows));
    }
    if args.dry_run {
        if json {
            let shards = estimates.iter().map(|&(shard, rows)| Copied { shard, rows }).collect();
            let (table, key_between) = (wanted.name.clone(), wanted.between.clone());
            let report = Report { table, key_between, shards, ..Report::default() };
            answer::line(serde_json::to_string_pretty(&report)?);
        }
        wanted.say("nothing was done, this was a dry run");
        return Ok(Exit::Done);
    }
    let entry = audit::begin(&plan, &format!("copies again: {}", wanted.range())).await?;
    let outcome = Box::pin(acted(&wanted, asking, &estimates, throttle, cancel)).await;
    audit::finish(entry, &outcome).await;
    if outcome.as_ref().map_or(true, |exit| *exit == Exit::CannotTell) {
        wanted.say(
            "what was asked for stays asked for, and keeps the gate closed: the same command goes on \
             with it, modshift resync --cancel takes it back",
        );
    }
    outcome
}

async fn acted(
    wanted: &Wanted,
    asking: Verifier,
    estimates: &[(u16, u64)],
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let (table, key_between) = (wanted.name.clone(), wanted.between.clone());
    let mut report = Report { table, key_between, ..Report::default() };
    let exit = steps(wanted, asking, estimates, throttle, cancel, &mut report).await?;
    if wanted.json {
        answer::line(serde_json::to_string_pretty(&report)?);
    }
    Ok(exit)
}

async fn steps(
    wanted: &Wanted,
    mut asking: Verifier,
    estimates: &[(u16, u64)],
    throttle: &Throttle,
    cancel: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let plan = &wanted.plan;
    let mut requests = Vec::new();
    {
        // A cutover that is under way must not meet them amid its steps; one that comes later finds
        // the gate closed by them.
        let _hold = match Hold::take(plan).await {
            Err(error @ CutoverError::Busy { .. }) => {
                wanted.stop(report, format!("nothing was done: {error}"));
                return Ok(Exit::No);
            }
            hold => hold?,
        };
        if let Some(run) = cutover::under_way(plan.forward.as_deref().unwrap_or(plan)).await? {
            let why = format!("nothing was done: a run is not over, end it first: {run}");
            wanted.stop(report, why);
            return Ok(Exit::No);
        }
        for &(old, rows) in estimates {
            let shard = asking.primary(old);
            requests.push(requests::ask(shard, old, &wanted.name, &wanted.bounds, rows).await?);
        }
        asking.doubt(wanted.index).await.map_err(shown(plan))?;
    }
    let copying = copied(wanted, &mut asking, &requests, report);
    match cancel.run_until_cancelled(Box::pin(copying)).await {
        None => {
            let why = "interrupted; the readers go on with what was asked for";
            wanted.stop(report, why.to_owned());
            return Ok(Exit::CannotTell);
        }
        Some(copied) => match copied? {
            Exit::Done => {}
            exit => return Ok(exit),
        },
    }
    let proving = proven(wanted, throttle, cancel, report);
    let Some(exit) = cancel.run_until_cancelled(Box::pin(proving)).await else {
        let why = "interrupted; all rows are in the change log, and not compared yet";
        wanted.stop(report, why.to_owned());
        return Ok(Exit::CannotTell);
    };
    let exit = exit?;
    if exit != Exit::CannotTell {
        for request in &requests {
            requests::done(asking.primary(request.old), request.id).await.map_err(shown(plan))?;
        }
    }
    sum_up(wanted, report, exit);
    Ok(exit)
}

/// Waits until all of it is in the change log.
async fn copied(
    wanted: &Wanted,
    asking: &mut Verifier,
    requests: &[Request],
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let plan = &wanted.plan;
    let (mut open, mut before): (Vec<&Request>, Vec<u64>) = (requests.iter().collect(), Vec::new());
    let (mut said, mut moved, mut warned) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        let (mut rows, mut left) = (Vec::new(), Vec::new());
        for request in std::mem::take(&mut open) {
            let old = request.old;
            let state = requests::state(asking.primary(old), request.id).await;
            let state = state.map_err(shown(plan))?;
            match state.outcome {
                Outcome::Waits => left.push(request),
                Outcome::Copied => {
                    wanted.say(&format!("old shard {old}: {} rows are in the log", state.rows));
                    report.shards.push(Copied { shard: old, rows: state.rows });
                    moved = Instant::now();
                }
                Outcome::Refused(why) => {
                    let why = format!(
                        "the reader of old shard {old} refuses it: {why}. Mend that, and give the same \
                         command again"
                    );
                    wanted.stop(report, why);
                    return Ok(Exit::CannotTell);
                }
                Outcome::Gone => {
                    wanted.stop(report, format!("old shard {old}: the request was taken back"));
                    return Ok(Exit::No);
                }
            }
            rows.push(state.rows);
        }
        open = left;
        if open.is_empty() {
            return Ok(Exit::Done);
        }
        if rows != before {
            (before, moved) = (rows.clone(), Instant::now());
        }
        if said.elapsed() >= SAY && moved.elapsed() < SAY {
            said = Instant::now();
            for (request, rows) in open.iter().zip(&rows) {
                let Request { old, rows_estimated, .. } = request;
                wanted.say(&format!(
                    "old shard {old}: {rows} of about {rows_estimated} rows are in the log"
                ));
            }
        }
        if moved.elapsed().min(warned.elapsed()) >= STILL {
            warned = Instant::now();
            let shards: BTreeSet<u16> = open.iter().map(|request| request.old).collect();
            let halts = asking.halted(&shards).await.map_err(shown(plan))?;
            for halt in &halts {
                let why = format!("{halt}. Mend that, and give the same command again");
                wanted.stop(report, why);
            }
            if !halts.is_empty() || moved.elapsed() >= STILL_MAX {
                return Ok(Exit::CannotTell);
            }
            wanted.say(&format!(
                "nothing has gone on for {} s on {}: are the daemons running, and not paused? (modshift \
                 status)",
                moved.elapsed().as_secs(),
                shards.iter().map(|old| format!("old shard {old}")).collect::<Vec<_>>().join(", ")
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Compares until nothing differs, or nothing more can be mended.
async fn proven(
    wanted: &Wanted,
    throttle: &Throttle,
    cancel: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let plan = &wanted.plan;
    wanted.say("comparing");
    let (old, new): (Vec<_>, Vec<_>) = (plan.old_shards().collect(), plan.new_shards().collect());
    let lane = throttle.lane(&old, &new, 1);
    let pace = Arc::new(Pace::new(lane, plan.verify.rows_per_s_max));
    tokio::select! {
        exit = Box::pin(rounds(wanted, pace.clone(), cancel, report)) => exit,
        never = told(wanted, &pace) => match never {},
    }
}

/// Says now and then how far the comparison is. Never ends.
async fn told(wanted: &Wanted, pace: &Pace) -> Infallible {
    let mut said = 0;
    loop {
        tokio::time::sleep(SAY).await;
        let rows = pace.rows();
        if rows != said {
            wanted.say(&format!("{rows} rows are compared so far"));
            said = rows;
        }
    }
}

async fn rounds(
    wanted: &Wanted,
    pace: Arc<Pace>,
    cancel: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let plan = &wanted.plan;
    let mut verifier = Verifier::open(plan.clone(), pace, LOCK_WAIT).await.map_err(shown(plan))?;
    let part = Part {
        within: wanted.bounds.clone(),
        sources: (!wanted.whole).then(|| wanted.sources.clone()),
    };
    let exit = loop {
        let fresh = Options { fresh: true, ..Options::default() };
        let round = match wanted.whole {
            true => verifier.round(wanted.index, &fresh, &mut report.notes, cancel).await,
            false => verifier.part(wanted.index, &part, cancel).await,
        };
        let Some(round) = round.map_err(shown(plan))? else { return Ok(Exit::CannotTell) };
        report.rows_compared = round.rows;
        (report.differ, report.unsettled) = (round.mismatches, round.unsettled);
        if round.mismatches == 0 && round.unsettled == 0 {
            (report.equal, report.proof) = (true, wanted.whole);
            break Exit::Done;
        }
        if round.mismatches > 0 {
            wanted.say(&format!("{} rows differ yet, and are mended one by one", round.mismatches));
        }
        let mended = mended(wanted, &mut verifier, report).await?;
        report.repaired += mended;
        if mended == 0 {
            break if round.mismatches > 0 { Exit::No } else { Exit::CannotTell };
        }
    };
    for halt in verifier.take_halts() {
        report.notes.push(format!("{halt}. Mend that, and give the same command again"));
    }
    verifier.close().await;
    Ok(exit)
}

/// Has what is known to differ copied again, or deleted, page by page. Gives how many rows are equal now.
async fn mended(
    wanted: &Wanted,
    verifier: &mut Verifier,
    report: &mut Report,
) -> anyhow::Result<u64> {
    let plan = &wanted.plan;
    let mut all = 0;
    report.notes.clear();
    loop {
        let mut known = verifier.mismatches().await.map_err(shown(plan))?;
        known.retain(|m| m.table == wanted.name && wanted.sources.contains(&m.old));
        if known.is_empty() {
            return Ok(all);
        }
        let wait = plan.verify.settle_max;
        let repaired = repair::repair(verifier, known, wait).await.map_err(shown(plan))?;
        let mended = repaired.mended;
        report.notes = notes_of(plan, repaired);
        all += mended;
        if mended == 0 {
            return Ok(all);
        }
        wanted.say(&format!("{all} rows are mended"));
    }
}

fn sum_up(wanted: &Wanted, report: &Report, exit: Exit) {
    report.notes.iter().for_each(|note| wanted.say(&format!("note: {note}")));
    if exit != Exit::Done {
        let Report { differ, unsettled, .. } = report;
        wanted.say(&format!("not equal: {differ} rows differ, {unsettled} could not be settled"));
        return;
    }
    let name = &wanted.name;
    let rows = report.rows_compared;
    let of = match wanted.whole {
        true => String::new(),
        false => {
            let shards: Vec<String> = wanted.sources.iter().map(u16::to_string).collect();
            format!(", as far as they are of old shards {}", shards.join(", "))
        }
    };
    wanted.say(&format!("equal: {}, {rows} rows compared on both sides{of}", wanted.range()));
    let back = if wanted.plan.direction() == Direction::Back { " --back" } else { "" };
    match (wanted.whole, wanted.plan.gate.verify_age) {
        (_, None) => wanted.say("the plan asks for no proof of it (gate.verify_age)"),
        (true, _) => wanted.say("that is the proof of this table which the gate asks for"),
        (false, _) => wanted.say(&format!(
            "the gate still wants the whole table compared: modshift verify{back} --table {name}"
        )),
    }
}
