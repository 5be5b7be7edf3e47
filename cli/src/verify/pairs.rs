//! `modshift verify` of a promotion: is each server to promote what its primary is? Every old shard is
//! compared with its replicas by itself, all old shards at once; one report says what came of it.

use std::sync::Arc;

use anyhow::Context;
use futures_util::future::join_all;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{Direction, Plan};
use modshift_proto::{NewShard, OldShard};
use modshift_verify::report::TableReport;
use modshift_verify::{Options, Pace, Report, Verifier};
use tokio_util::sync::CancellationToken;

use super::{LOCK_WAIT, chosen, exit, interrupted, print, rounds, shown};
use crate::args;
use crate::exit::{BadPlan, Exit};
use crate::signals::Signals;

pub async fn run(plan: Arc<Plan>, args: &args::Verify) -> anyhow::Result<Exit> {
    for (given, option, why) in [
        (args.back, "--back", "there is no way back before the servers are promoted"),
        (args.repair, "--repair", "a replica that differs from its primary is built anew"),
        (args.continuous, "--continuous", "give the command again, before each promotion"),
    ] {
        if given {
            let message = format!("{option} is for plans with scheme = \"copy\": {why}");
            return Err(BadPlan(message).into());
        }
    }
    let tables = chosen(&plan, &args.tables)?;
    let cancel = CancellationToken::new();
    let signals = Signals::listen().context("listening for signals")?;
    let quit = signals.drain_then_quit(cancel.clone());
    let limit = args.max_rows_per_s.or(plan.verify.rows_per_s_max);
    // It is meant for all of them together.
    let limit = limit.map(|rows| (rows / u32::from(plan.old_modulus.get())).max(1));
    let options = Options { fresh: args.fresh, ..Options::default() };
    let all = plan.old_shards().filter_map(|shard| Some((shard, plan.pair(shard)?)));
    let all = all.map(|(shard, pair)| {
        let (plan, options, tables, cancel) = (&plan, &options, &tables, &cancel);
        Box::pin(async move {
            let report = compare(&Arc::new(pair), tables, options, limit, cancel).await;
            let report = report.with_context(|| shard.to_string());
            report.map(|report| report.map(|report| numbered(plan, shard, report)))
        })
    });
    let reports = tokio::select! {
        reports = join_all(all) => reports,
        () = quit => return Ok(Exit::CannotTell),
    };
    let Some(report) = gathered(reports)? else { return Ok(interrupted(args.json)) };
    print(&report, args.json)?;
    Ok(exit(&report))
}

/// One old shard and its replicas; `None`: cancelled.
async fn compare(
    pair: &Arc<Plan>,
    tables: &[usize],
    options: &Options,
    limit: Option<u32>,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Report>> {
    let throttle = Throttle::new(pair);
    let (old, new): (Vec<_>, Vec<_>) = (pair.old_shards().collect(), pair.new_shards().collect());
    let pace = Arc::new(Pace::new(throttle.lane(&old, &new, 1), limit));
    let comparing = async {
        let opening = Box::pin(Verifier::open(pair.clone(), pace, LOCK_WAIT));
        let Some(opened) = cancel.run_until_cancelled(opening).await else { return Ok(None) };
        let mut verifier = opened.map_err(shown(pair))?;
        let report = rounds(pair, &mut verifier, tables, options, cancel).await;
        verifier.close().await;
        report
    };
    tokio::select! {
        report = comparing => report,
        () = throttle.follow() => Ok(None),
    }
}

/// With the numbers that the shards have in the operator's plan.
fn numbered(plan: &Plan, shard: OldShard, mut report: Report) -> Report {
    let heirs: Vec<NewShard> = plan.heirs(shard).skip(1).collect();
    for mismatch in &mut report.mismatches {
        mismatch.old = shard.0;
        if let Some(heir) = heirs.get(usize::from(mismatch.new)) {
            mismatch.new = heir.0;
        }
    }
    for line in &mut report.schema_differences {
        let heir = heirs.iter().enumerate().find_map(|(index, heir)| {
            let rest = line.strip_prefix(&format!("new shard {index}:"))?;
            Some(format!("{heir}:{rest}"))
        });
        *line = heir.unwrap_or_else(|| line.clone()).replace("old shard 0", &shard.to_string());
    }
    report
}

/// What came of all old shards. One that could not be compared hides nothing of the others; an error
/// where none could. `None`: cancelled.
fn gathered(all: Vec<anyhow::Result<Option<Report>>>) -> anyhow::Result<Option<Report>> {
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    for outcome in all {
        match outcome {
            Ok(Some(report)) => reports.push(report),
            Ok(None) => return Ok(None),
            Err(error) => errors.push(error),
        }
    }
    if reports.is_empty() && !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    let mut report = joined(reports);
    report.clean &= errors.is_empty();
    report.failed.extend(errors.iter().map(|error| format!("{error:#}")));
    Ok(Some(report))
}

/// Of several old shards.
fn joined(reports: Vec<Report>) -> Report {
    let mut all = Report::new(Direction::Forward, Vec::new());
    all.clean = reports.iter().all(|report| report.clean);
    for report in reports {
        all.schema_differences.extend(report.schema_differences);
        all.mismatches.extend(report.mismatches);
        all.notes.extend(report.notes.into_iter().filter(|note| !note.contains("--repair")));
        all.halts.extend(report.halts);
        for table in report.tables {
            match all.tables.iter_mut().find(|known| known.table == table.table) {
                Some(known) => add(known, &table),
                None => all.tables.push(table),
            }
        }
    }
    all.notes.sort();
    all.notes.dedup();
    all
}

fn add(known: &mut TableReport, more: &TableReport) {
    known.rows += more.rows;
    known.chunks += more.chunks;
    known.resumed |= more.resumed;
    known.unsettled += more.unsettled;
    known.moving += more.moving;
    known.parked += more.parked;
    known.mismatches += more.mismatches;
    known.strays += more.strays;
    known.proof &= more.proof;
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_verify::report::{Kind, Mismatch};

    #[test]
    fn a_shard_that_cannot_be_compared_hides_nothing_of_the_others() {
        let failed = || Err(anyhow::anyhow!("b:3306 does not answer").context("old shard 1"));
        let equal = || Report { clean: true, ..Report::default() };
        let mismatch = Mismatch {
            table: "t".to_owned(),
            old: 0,
            new: 2,
            kind: Kind::Missing,
            key: "id=7".to_owned(),
            columns: Vec::new(),
            pk: Vec::new(),
        };
        let differs = Report { mismatches: vec![mismatch], ..Report::default() };
        let told = |all| {
            let report = gathered(all).unwrap().unwrap();
            (exit(&report), report.clean, report.mismatches.len(), report.failed)
        };
        let why = vec!["old shard 1: b:3306 does not answer".to_owned()];
        let whole = told(vec![Ok(Some(equal())), Ok(Some(equal()))]);
        assert_eq!(whole, (Exit::Done, true, 0, Vec::new()));
        let one = told(vec![Ok(Some(equal())), failed()]);
        assert_eq!(one, (Exit::CannotTell, false, 0, why.clone()));
        let both = told(vec![failed(), Ok(Some(differs))]);
        assert_eq!(both, (Exit::No, false, 1, why));
        let none = gathered(vec![failed(), failed()]).unwrap_err();
        assert_eq!(format!("{none:#}"), "old shard 1: b:3306 does not answer");
        assert!(gathered(vec![Ok(None), Ok(Some(equal()))]).unwrap().is_none());
    }
}
