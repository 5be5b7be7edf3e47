//! `modshift verify`: are the new rows the old ones? With `--back`, after a cutover: are the old rows
//! the new ones? That is the same question to the plan of the way back.

mod pairs;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::Class;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Plan};
use modshift_verify::{Options, Pace, Report, Verifier, VerifyError, repair};
use tokio_util::sync::CancellationToken;

use crate::exit::{BadPlan, Exit, Hinted};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::tell::Form;
use crate::{answer, args, audit};

/// A daemon that verifies lets others in between two tables.
pub const LOCK_WAIT: Duration = Duration::from_secs(120);
/// How often a line on a terminal is written anew.
const TELL: Duration = Duration::from_secs(1);

pub async fn run(plan: Arc<Plan>, args: &args::Verify) -> anyhow::Result<Exit> {
    if plan.scheme.is_promotion() {
        return pairs::run(plan, args).await;
    }
    let plan = if args.back { Arc::new(plan.reversed()) } else { plan };
    let tables = chosen(&plan, &args.tables)?;
    let cancel = CancellationToken::new();
    let signals = Signals::listen().context("listening for signals")?;
    let quit = signals.drain_then_quit(cancel.clone());
    let throttle = Throttle::new(&plan);
    let (old, new): (Vec<_>, Vec<_>) = (plan.old_shards().collect(), plan.new_shards().collect());
    let limit = args.max_rows_per_s.or(plan.verify.rows_per_s_max);
    let pace = Arc::new(Pace::new(throttle.lane(&old, &new, 1), limit));
    let verifying = Box::pin(verify(plan.clone(), args, &tables, pace, &cancel));
    tokio::select! {
        outcome = verifying => outcome,
        () = throttle.follow() => Ok(Exit::CannotTell),
        () = quit => Ok(Exit::CannotTell),
    }
}

/// How far it is, while somebody waits for it. Never ends.
async fn told(pace: &Pace) -> Infallible {
    let mut progress = Progress::begin();
    let mut every = tokio::time::interval(TELL);
    loop {
        every.tick().await;
        let (rows, s) = (pace.rows(), progress.elapsed().as_secs());
        progress.show(&format!("comparing: {rows} rows so far, in {s} s"));
    }
}

async fn verify(
    plan: Arc<Plan>,
    args: &args::Verify,
    tables: &[usize],
    pace: Arc<Pace>,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let options = Options { fresh: args.fresh, ..Options::default() };
    let compared = pace.clone();
    let opening = Verifier::open(plan.clone(), pace, LOCK_WAIT);
    let Some(opened) = cancel.run_until_cancelled(Box::pin(opening)).await else {
        return Ok(interrupted(args.json));
    };
    let mut verifier = opened.map_err(shown(&plan))?;
    let mut report = tokio::select! {
        report = rounds(&plan, &mut verifier, tables, &options, cancel) => report?,
        // Who has asked for round after round does not wait for an end.
        never = told(&compared), if !args.continuous => match never {},
    };
    if args.continuous {
        while let Some(round) = &report {
            print(round, false)?;
            report = rounds(&plan, &mut verifier, tables, &Options::default(), cancel).await?;
        }
    }
    let Some(mut report) = report else { return Ok(interrupted(args.json)) };
    if args.repair && !report.mismatches.is_empty() {
        // No cutover may begin while rows are on their way again.
        let _hold = match Hold::take(&plan).await {
            Err(error @ CutoverError::Busy { .. }) => {
                report.notes.push(format!("nothing was repaired: {error}"));
                verifier.close().await;
                print(&report, args.json)?;
                return Ok(Exit::No);
            }
            hold => hold?,
        };
        let rows = report.mismatches.len();
        let entry = audit::begin(&plan, &format!("has {rows} rows copied again")).await?;
        let mending = Box::pin(mend(&plan, &mut verifier, &mut report));
        let mended = cancel.run_until_cancelled(mending).await;
        let Some(mended) = mended else {
            let ended = Err(anyhow::anyhow!("interrupted while rows were copied again"));
            audit::finish(entry, &ended).await;
            last_word(
                args.json,
                "interrupted; what was asked for is copied again all the same, by the readers: verify \
                 once more to see what still differs",
            );
            return Ok(Exit::CannotTell);
        };
        let mended = mended.map(|()| exit(&report));
        audit::finish(entry, &mended).await;
        mended?;
    }
    verifier.close().await;
    print(&report, args.json)?;
    Ok(exit(&report))
}

/// Whatever was under way is dropped with its connections, the lock's among them: what has been settled
/// is recorded, and the rest is compared again.
fn interrupted(json: bool) -> Exit {
    last_word(json, "interrupted; the next verification goes on from here");
    Exit::CannotTell
}

/// Instead of a report.
fn last_word(json: bool, text: &str) {
    if json {
        eprintln!("modshift: {text}");
    }
    Form::of(json).end(text, None, Exit::CannotTell);
}

/// One round over all tables, from the beginning; `None`: cancelled.
pub async fn once(
    plan: &Arc<Plan>,
    throttle: &Throttle,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Report>> {
    let (old, new): (Vec<_>, Vec<_>) = (plan.old_shards().collect(), plan.new_shards().collect());
    let pace = Arc::new(Pace::new(throttle.lane(&old, &new, 1), None));
    let mut verifier = Verifier::open(plan.clone(), pace, LOCK_WAIT).await.map_err(shown(plan))?;
    let tables = chosen(plan, &[])?;
    let fresh = Options { fresh: true, ..Options::default() };
    let report = rounds(plan, &mut verifier, &tables, &fresh, cancel).await;
    verifier.close().await;
    report
}

/// Has what differs copied again, and leaves in the report what still does.
async fn mend(plan: &Plan, verifier: &mut Verifier, report: &mut Report) -> anyhow::Result<()> {
    let wait = plan.verify.settle_max;
    let asked = std::mem::take(&mut report.mismatches);
    let tables: BTreeSet<String> = asked.iter().map(|m| m.table.clone()).collect();
    let repaired = repair::repair(verifier, asked, wait).await.map_err(shown(plan))?;
    for (index, table) in plan.tables.iter().enumerate() {
        if tables.contains(&table.name) {
            verifier.mended(index).await.map_err(shown(plan))?;
        }
    }
    let still = verifier.mismatches().await.map_err(shown(plan))?;
    // Also those beyond the first page: they are for the next repair.
    report.mismatches = still.into_iter().filter(|m| tables.contains(&m.table)).collect();
    report.repaired = repaired.mended;
    report.notes.extend(notes_of(plan, repaired));
    report.clean = !report.has_damage() && report.unsettled() == 0;
    Ok(())
}

/// What could not be repaired, and what to do about it.
pub fn notes_of(plan: &Plan, repaired: repair::Repaired) -> Vec<String> {
    let mut notes = Vec::new();
    for (source, rows) in repaired.not_taken {
        notes.push(format!(
            "{rows} rows wait in modshift_repair of old shard {source}: its reader has not taken \
             them up, is it running?"
        ));
    }
    for (source, rows) in repaired.refused {
        notes.push(format!(
            "{rows} requests in modshift_repair of old shard {source} were refused by its reader, \
             whose log says why: mend that, delete them there (sent = 2), and repair again"
        ));
    }
    let side = if plan.direction() == Direction::Back { " --old" } else { "" };
    for mismatch in repaired.unreachable {
        let new = mismatch.new;
        notes.push(format!(
            "table {}, {}: its primary key places it elsewhere, so no change of the log may touch it \
             there. Stop the daemons, delete it on new shard {new} by hand, run modshift rearm{side} \
             --shard {new}, and start them again",
            mismatch.table, mismatch.key
        ));
    }
    notes
}

/// `None`: cancelled, at once: a stream or a server that does not answer holds nobody up.
async fn rounds(
    plan: &Plan,
    verifier: &mut Verifier,
    tables: &[usize],
    options: &Options,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Report>> {
    let all = Box::pin(all_rounds(plan, verifier, tables, options, cancel));
    cancel.run_until_cancelled(all).await.unwrap_or(Ok(None))
}

async fn all_rounds(
    plan: &Plan,
    verifier: &mut Verifier,
    tables: &[usize],
    options: &Options,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Report>> {
    verifier.copied().await.map_err(shown(plan))?;
    let mut report = Report::new(plan.direction(), verifier.schema_differences().to_vec());
    for &index in tables {
        let name = &plan.tables[index].name;
        if verifier.table(index).is_none() {
            report.notes.push(format!("table {name}: not compared, its definitions differ"));
            continue;
        }
        let round = verifier.round(index, options, &mut report.notes, cancel).await;
        let Some(table) = round.map_err(shown(plan))? else { return Ok(None) };
        report.tables.push(table);
    }
    let names: Vec<&str> = tables.iter().map(|&index| plan.tables[index].name.as_str()).collect();
    report.mismatches = verifier.mismatches().await.map_err(shown(plan))?;
    report.mismatches.retain(|mismatch| names.contains(&mismatch.table.as_str()));
    let differ: u64 = report.tables.iter().map(|table| table.mismatches).sum();
    let listed = report.mismatches.len();
    if differ > listed as u64 {
        report.notes.push(format!(
            "{differ} rows differ and {listed} of them are listed: modshift verify --repair copies \
             those, and has to be run again for the others"
        ));
    }
    report.halts = verifier.take_halts();
    report.clean = !report.has_damage() && report.unsettled() == 0;
    Ok(Some(report))
}

pub fn chosen(plan: &Plan, names: &[String]) -> anyhow::Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..plan.tables.len()).collect());
    }
    let index = |name: &String| {
        let found = plan.tables.iter().position(|table| table.name == *name);
        found.ok_or_else(|| BadPlan(format!("--table {name}: the plan has no such table")).into())
    };
    names.iter().map(index).collect()
}

fn exit(report: &Report) -> Exit {
    match (report.has_damage(), report.unsettled()) {
        (true, _) => Exit::No,
        (false, 0) if report.failed.is_empty() => Exit::Done,
        (false, _) => Exit::CannotTell,
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        answer::last(serde_json::to_string_pretty(&report.turned())?);
        return Ok(());
    }
    let words = |text: &dyn std::fmt::Display| report.direction.words(&text.to_string());
    for table in &report.tables {
        let mut line =
            format!("{:<24} {:>12} rows in {} chunks", table.table, table.rows, table.chunks);
        for (count, what) in [
            (table.mismatches, "different"),
            (table.unsettled, "unsettled"),
            (table.moving, "changing all the time, left for the fence"),
            (table.parked, "parked"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        if table.resumed {
            line.push_str(", taken up where the last verification was interrupted");
        }
        answer::line(line);
    }
    report.schema_differences.iter().for_each(|text| answer::line(words(text)));
    report.mismatches.iter().for_each(|row| answer::line(words(row)));
    report.notes.iter().for_each(|text| answer::line(format_args!("note: {}", words(text))));
    if report.repaired > 0 {
        answer::line(format_args!("{} rows were copied again and are equal", report.repaired));
    }
    for halt in &report.halts {
        answer::line(format_args!(
            "{halt}. What differs behind it cannot be settled before that is mended: mend it, start the \
             daemons again, and verify again"
        ));
    }
    for text in &report.failed {
        answer::line(format_args!("not compared: {}", words(text)));
    }
    let state = match exit(report) {
        Exit::Done => "equal",
        Exit::No => "different",
        _ if !report.failed.is_empty() => "not settled: what stands above was not compared",
        _ if !report.halts.is_empty() => "not settled: a stream has halted",
        _ => "not settled: some rows kept changing, or their streams were too far behind",
    };
    answer::line(format_args!("verify: {state}"));
    Ok(())
}

/// With the way out.
pub fn shown(plan: &Plan) -> impl Fn(VerifyError) -> anyhow::Error {
    let direction = plan.direction();
    move |error| {
        let next = error.hint();
        let hint = next.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let text = match &error {
            // What a stream said of its halt is in the operator's words already.
            VerifyError::Halted { old, new, halt } => format!(
                "{}, and {halt}{}",
                direction.words(&format!("old shard {old} is not copied to new shard {new} yet")),
                direction.words(&hint)
            ),
            _ => direction.words(&format!("{error}{hint}")),
        };
        match (&error, error.class()) {
            (VerifyError::NoKeyColumn { .. } | VerifyError::Rule { .. }, Class::Halt) => {
                BadPlan(text).into()
            }
            _ => Hinted { text, hint: next.map(|hint| direction.words(&hint)) }.into(),
        }
    }
}
