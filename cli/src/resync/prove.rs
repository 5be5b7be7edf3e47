//! The end of a resync: comparing what was copied again, and mending what differs yet, until nothing does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use modshift_mariadb::pace::Throttle;
use modshift_verify::progress::PAGE;
use modshift_verify::{Mismatch, Options, Pace, Part, Verifier, VerifyError, repair};
use tokio_util::sync::CancellationToken;

use super::report::{Report, State};
use super::requests::{self, Outcome, Request};
use super::{SAY, Wanted, held_without_run, taken_back};
use crate::exit::Exit;
use crate::verify::{notes_of, shown};

/// Until it says for whom it waits.
const LOCK_WAIT_FIRST: Duration = Duration::from_secs(2);
/// And says so again.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Compares until nothing differs, or nothing more can be mended.
pub(super) async fn proven(
    wanted: &Wanted,
    requests: &[Request],
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
        exit = Box::pin(rounds(wanted, requests, pace.clone(), cancel, report)) => exit,
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

/// Waits for another verifier however long that takes: one beside a daemon lets others in after a table.
async fn opened(wanted: &Wanted, pace: Arc<Pace>) -> anyhow::Result<Verifier> {
    let mut wait = LOCK_WAIT_FIRST;
    loop {
        match Verifier::open(wanted.plan.clone(), pace.clone(), wait).await {
            Err(error @ VerifyError::Locked { .. }) => {
                wanted.say(&format!("waiting with the comparison: {error}"));
                wait = LOCK_WAIT;
            }
            opened => return opened.map_err(shown(&wanted.plan)),
        }
    }
}

async fn rounds(
    wanted: &Wanted,
    requests: &[Request],
    pace: Arc<Pace>,
    cancel: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<Exit> {
    let plan = &wanted.plan;
    let mut verifier = opened(wanted, pace).await?;
    let part = Part {
        within: wanted.bounds.clone(),
        sources: (!wanted.whole).then(|| wanted.sources.clone()),
    };
    let exit = loop {
        let fresh = Options { fresh: true, ..Options::default() };
        let compared = match wanted.whole {
            true => {
                let round = verifier.round(wanted.index, &fresh, &mut report.notes, cancel).await;
                round.map(|round| Some((round?, None)))
            }
            false => {
                let part = verifier.part(wanted.index, &part, cancel).await;
                part.map(|part| part.map(|(round, named)| (round, Some(named))))
            }
        };
        let Some((round, named)) = compared.map_err(shown(plan))? else {
            report.state = State::Interrupted;
            return Ok(Exit::CannotTell);
        };
        report.rows_compared = round.rows;
        (report.differ, report.unsettled) = (round.mismatches, round.unsettled);
        if round.mismatches == 0 && round.unsettled == 0 {
            (report.equal, report.proof, report.state) = (true, round.proof, State::Equal);
            break Exit::Done;
        }
        if round.mismatches > 0 {
            wanted.say(&format!("{} rows differ yet, and are mended one by one", round.mismatches));
        }
        let mended = match mended(wanted, requests, &mut verifier, named, report).await? {
            Ok(mended) => mended,
            Err(exit) => break exit,
        };
        report.repaired += mended;
        if mended == 0 {
            let differs = round.mismatches > 0;
            report.state = if differs { State::Differs } else { State::Unsettled };
            break if differs { Exit::No } else { Exit::CannotTell };
        }
    };
    for halt in verifier.take_halts() {
        report.notes.push(format!("{halt}. Mend that, and give the same command again"));
    }
    verifier.close().await;
    Ok(exit)
}

/// Has what is known to differ copied again, or deleted, page by page: of a part what was found in it. Gives
/// how many rows are equal now; `Err`: it has been stopped, and says so.
async fn mended(
    wanted: &Wanted,
    requests: &[Request],
    verifier: &mut Verifier,
    mut named: Option<Vec<Mismatch>>,
    report: &mut Report,
) -> anyhow::Result<Result<u64, Exit>> {
    let plan = &wanted.plan;
    let mut all = 0;
    report.notes.clear();
    loop {
        let page: Vec<Mismatch> = match &mut named {
            Some(named) => named.drain(..named.len().min(PAGE)).collect(),
            None => {
                let mut known = verifier.mismatches().await.map_err(shown(plan))?;
                known.retain(|m| m.table == wanted.name && wanted.sources.contains(&m.old));
                known
            }
        };
        if page.is_empty() {
            return Ok(Ok(all));
        }
        // No cutover may begin while rows are on their way again; nor are any sent for nobody.
        let _hold = match held_without_run(plan).await? {
            Ok(hold) => hold,
            Err(why) => {
                let why = format!("rows that differ are not mended now: {why}");
                wanted.stop(report, State::Differs, why);
                return Ok(Err(Exit::CannotTell));
            }
        };
        for request in requests {
            let state = requests::state(verifier.primary(request.old), request.id).await;
            if state.map_err(shown(plan))?.outcome == Outcome::Gone {
                let gone = (requests, request.old);
                return taken_back(wanted, verifier, gone, report).await.map(Err);
            }
        }
        let wait = plan.verify.settle_max;
        let repaired = repair::repair(verifier, page, wait).await.map_err(shown(plan))?;
        let mended = repaired.mended;
        report.notes = notes_of(plan, repaired);
        all += mended;
        if mended == 0 {
            return Ok(Ok(all));
        }
        wanted.say(&format!("{all} rows are mended"));
    }
}
