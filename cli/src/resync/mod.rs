//! `modshift resync`: has a table, or a range of its primary key, copied again through the change log
//! while everything else runs, and proves that it is equal then.
//!
//! A request on each old shard; its reader reads the range in chunks and sends them, as it has sent the
//! first copy. That mends rows that are missing or differ. Rows that the new shards have and the old ones
//! do not are found by the comparison that follows, and deleted through the log one by one. The requests
//! go once nothing differs any more: until then the gate is closed. A proof of before counts no longer
//! from the first request on.

mod cancel;
mod key;
mod prove;
mod report;
mod requests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Placement, Plan};
use modshift_verify::{Bounds, Lock, Verifier, VerifyError};
use tokio_util::sync::CancellationToken;

use self::report::{Copied, Report, State};
use self::requests::{Outcome, Request};
use crate::exit::{BadPlan, Exit};
use crate::signals::Signals;
use crate::verify::{chosen, shown};
use crate::{answer, args, audit, cutover};

const POLL: Duration = Duration::from_millis(250);
/// How often it says how far it is.
const SAY: Duration = Duration::from_secs(5);
/// Requests that do not go on for so long: it says so, and looks whether streams have halted.
const STILL: Duration = Duration::from_secs(15);
/// And waits no longer after so long.
const STILL_MAX: Duration = Duration::from_secs(600);
/// The lock of a run that was killed a moment ago may not be free yet.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Connections that nobody uses are closed by servers after a while.
const KEEP: Duration = Duration::from_secs(10);
/// How long another command that keeps operators out is waited for.
const HOLD_WAIT: Duration = Duration::from_secs(30);
const HOLD_POLL: Duration = Duration::from_millis(500);

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

pub async fn run(plan: Arc<Plan>, args: &args::Resync) -> anyhow::Result<Exit> {
    let plan = if args.back { Arc::new(plan.reversed()) } else { plan };
    let cancel = CancellationToken::new();
    let signals = Signals::listen().context("listening for signals")?;
    let quit = signals.drain_then_quit(cancel.clone());
    let throttle = Throttle::new(&plan);
    let doing = async {
        match args.cancel {
            true => cancel::take_back(&plan, args, &throttle).await,
            false => Box::pin(resync(plan.clone(), args, &throttle, &cancel)).await,
        }
    };
    tokio::select! {
        outcome = doing => outcome,
        () = throttle.follow() => Ok(Exit::CannotTell),
        () = quit => Ok(Exit::CannotTell),
    }
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

/// What the commands of this direction take.
fn back(plan: &Plan) -> &'static str {
    match plan.direction() {
        Direction::Forward => "",
        Direction::Back => " --back",
    }
}

/// Keeps operators out. `Err`: who is at it.
async fn held(plan: &Plan) -> anyhow::Result<Result<Hold, String>> {
    let begun = Instant::now();
    loop {
        match Hold::take(plan).await {
            Err(CutoverError::Busy { .. }) if begun.elapsed() < HOLD_WAIT => {
                tokio::time::sleep(HOLD_POLL).await;
            }
            Err(error @ CutoverError::Busy { .. }) => return Ok(Err(error.to_string())),
            hold => return Ok(Ok(hold?)),
        }
    }
}

/// The same, and no run of a cutover stands open.
async fn held_without_run(plan: &Plan) -> anyhow::Result<Result<Hold, String>> {
    let hold = match held(plan).await? {
        Ok(hold) => hold,
        Err(busy) => return Ok(Err(busy)),
    };
    let run = cutover::under_way(plan.forward.as_deref().unwrap_or(plan)).await?;
    Ok(match run {
        Some(run) => Err(format!("a run is not over, end it first: {run}")),
        None => Ok(hold),
    })
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
    fn stop(&self, report: &mut Report, state: State, why: String) {
        self.say(&why);
        report.state = state;
        report.notes.push(self.plan.direction().words(&why));
    }

    /// For commands that are named.
    fn back(&self) -> &'static str {
        back(&self.plan)
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
            let state = State::DryRun;
            let report = Report { table, key_between, shards, state, ..Report::default() };
            answer::last(serde_json::to_string_pretty(&report)?);
        }
        wanted.say("nothing was done, this was a dry run");
        return Ok(Exit::Done);
    }
    let entry = audit::begin(&plan, &format!("copies again: {}", wanted.range())).await?;
    let (table, key_between) = (wanted.name.clone(), wanted.between.clone());
    let mut report = Report { table, key_between, ..Report::default() };
    let acting = locked(&wanted, asking, &estimates, throttle, cancel, &mut report);
    let outcome = Box::pin(acting).await;
    audit::finish(entry, &outcome).await;
    if let Err(error) = &outcome {
        report.notes.push(format!("{error:#}"));
    }
    if json {
        answer::last(serde_json::to_string_pretty(&report)?);
    }
    if report.asked {
        let back = wanted.back();
        wanted.say(&format!(
            "what was asked for stays asked for, and keeps the gate closed: the same command goes on \
             with it, modshift resync{back} --cancel takes it back"
        ));
    }
    outcome
}

async fn locked(
    wanted: &Wanted,
    asking: Verifier,
    estimates: &[(u16, u64)],
    throttle: &Throttle,
    cancel: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let (plan, name) = (&wanted.plan, &wanted.name);
    let mut lock = Lock::of_resync(plan, name);
    match lock.take(LOCK_WAIT).await {
        Err(VerifyError::Locked { at, by, .. }) => {
            let why = format!(
                "nothing was done: another modshift resync of table {name} is at work (its lock on {at} is \
                 held by {by}): wait until it ends, or stop it"
            );
            wanted.stop(report, State::NothingDone, why);
            return Ok(Exit::No);
        }
        taken => taken.map_err(shown(plan))?,
    }
    let exit = tokio::select! {
        exit = Box::pin(steps(wanted, asking, estimates, throttle, cancel, report)) => exit,
        by = taken_from_us(&mut lock) => Err(anyhow::anyhow!(
            "the connection broke that kept others out, and another modshift resync of table {name} has \
             begun since (from {by}): it goes on with what was asked for"
        )),
    };
    lock.release().await;
    exit
}

/// Ends only where another run has the lock by now, and says whose.
async fn taken_from_us(lock: &mut Lock) -> String {
    loop {
        tokio::time::sleep(KEEP).await;
        // A server that is away has no other run either.
        if let Err(VerifyError::Locked { by, .. }) = lock.keep().await {
            return by;
        }
    }
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
        let _hold = match held_without_run(plan).await? {
            Ok(hold) => hold,
            Err(why) => {
                wanted.stop(report, State::NothingDone, format!("nothing was done: {why}"));
                return Ok(Exit::No);
            }
        };
        // A cutover may have come and gone since that was asked.
        asking.copied().await.map_err(shown(plan))?;
        // Before the first request: who dies between the two leaves a gate that wants a new proof.
        asking.doubt(wanted.index).await.map_err(shown(plan))?;
        for &(old, rows) in estimates {
            if cancel.is_cancelled() {
                let why = "interrupted; not all shards were asked".to_owned();
                wanted.stop(report, State::Interrupted, why);
                return Ok(Exit::CannotTell);
            }
            report.asked = true;
            let shard = asking.primary(old);
            let request = requests::ask(shard, old, &wanted.name, &wanted.bounds, rows).await?;
            if request.was_copied {
                wanted.say(&format!(
                    "old shard {old}: an earlier run has copied this again; it is compared now (modshift \
                     resync{} --cancel before the same command has it copied once more)",
                    wanted.back()
                ));
            }
            requests.push(request);
        }
    }
    let copying = copied(wanted, &mut asking, &requests, report);
    match cancel.run_until_cancelled(Box::pin(copying)).await {
        None => {
            let why = "interrupted; the readers go on with what was asked for";
            wanted.stop(report, State::Interrupted, why.to_owned());
            return Ok(Exit::CannotTell);
        }
        Some(copied) => match copied? {
            Exit::Done => {}
            exit => return Ok(exit),
        },
    }
    let proving = prove::proven(wanted, &requests, throttle, cancel, report);
    let Some(exit) = cancel.run_until_cancelled(Box::pin(proving)).await else {
        let why = "interrupted; all rows are in the change log, and not compared yet";
        wanted.stop(report, State::Interrupted, why.to_owned());
        return Ok(Exit::CannotTell);
    };
    let exit = exit?;
    if exit == Exit::Done {
        for request in &requests {
            requests::done(asking.primary(request.old), request.id).await.map_err(shown(plan))?;
        }
        report.asked = false;
    }
    report::sum_up(wanted, report, exit);
    Ok(exit)
}

/// The request of this old shard is gone.
async fn taken_back(
    wanted: &Wanted,
    asking: &mut Verifier,
    (requests, old): (&[Request], u16),
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let mut left = Vec::new();
    for request in requests {
        let state = requests::state(asking.primary(request.old), request.id).await;
        if state.map_err(shown(&wanted.plan))?.outcome != Outcome::Gone {
            left.push(request.old.to_string());
        }
    }
    report.asked = !left.is_empty();
    let mut why = format!(
        "old shard {old}: the request is not there any more: it was taken back (modshift audit says by \
         whom), or a server that took over never had it"
    );
    if report.asked {
        why += &format!("; old shards {} are still asked", left.join(", "));
    }
    wanted.stop(report, State::TakenBack, why);
    Ok(Exit::No)
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
                    wanted.stop(report, State::Refused, why);
                    return Ok(Exit::CannotTell);
                }
                Outcome::Gone => return taken_back(wanted, asking, (requests, old), report).await,
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
                wanted.stop(report, State::Halted, why);
            }
            if halts.is_empty() && moved.elapsed() >= STILL_MAX {
                let why = format!("nothing has gone on for {} s", moved.elapsed().as_secs());
                wanted.stop(report, State::StandsStill, why);
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
