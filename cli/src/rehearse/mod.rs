//! `modshift rehearse`: the whole way there and back on a second set of shards, many times, and
//! what it says of the pause to come.
//!
//! The same streams, gate, cutover and comparison as in earnest, over a plan that follows from the
//! operator's: with shards, topics, server ids, accounts and journal of its own, and no routing
//! target. The real old shards are only read, the real new ones only asked who they are; the one
//! thing written there is the entry in modshift_audit.

mod load;
mod report;
mod rows;
mod site;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use modshift_changelog::delete_topic;
use modshift_cutover::register::JOURNAL;
use modshift_cutover::{Ask, Cutover, Direction, Mode, Outcome, Settings};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error;
use modshift_mariadb::pace::Throttle;
use modshift_proto::plan::{FenceScope, Log, Plan, Rehearse, Secret};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::load::Load;
use self::report::{Predicted, Report, Timing};
use self::rows::Carried;
use self::site::Site;
use crate::cutover::Wiring;
use crate::daemon::streams::Board;
use crate::exit::{BadPlan, Exit};
use crate::signals::Signals;
use crate::tell::{self, Form};
use crate::{answer, args, audit, daemon, schema, verify};

/// For the copy too: as long as streams run there is progress.
const GATE_WAIT: Duration = Duration::from_secs(60 * 60);
const PATIENCE: Duration = Duration::from_secs(60);
const HALT_POLL: Duration = Duration::from_millis(200);
/// Undone so often one after the other, nothing will change by itself.
const UNDONE_MAX: usize = 3;

pub async fn run(plan: Arc<Plan>, args: &args::Rehearse) -> anyhow::Result<Exit> {
    let Some(rehearse) = plan.rehearse.clone() else {
        let message = "the plan names no shards to rehearse on: give [rehearse] with as many \
                       [[rehearse.old]] and [[rehearse.new]] as there are shards";
        return Err(BadPlan(message.to_owned()).into());
    };
    let signals = Signals::listen().context("listening for signals")?;
    let cancel = CancellationToken::new();
    let quit = signals.drain_then_quit(cancel.clone());
    let scope = site::scope(&plan, &rehearse).await?;
    let detail = format!("{} runs, {} rows a table and shard", rehearse.runs, rehearse.rows);
    let entry = audit::begin(&plan, &detail).await?;
    let rehearsing = Box::pin(rehearsed(&plan, &rehearse, scope, args, &cancel));
    let outcome = tokio::select! {
        outcome = rehearsing => outcome,
        () = quit => {
            Err(anyhow::anyhow!("ended at once: the next rehearsal cleans up what is left"))
        }
    };
    audit::finish(entry, &outcome).await;
    outcome
}

async fn rehearsed(
    plan: &Arc<Plan>,
    rehearse: &Rehearse,
    scope: FenceScope,
    args: &args::Rehearse,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let rehearsal = plan.rehearsal(&run.to_string(), scope).context("the plan has [rehearse]")?;
    let rehearsal = Arc::new(rehearsal);
    let mut site = Site::take(plan, &rehearsal).await?;
    let outcome = on_site(plan, &rehearsal, rehearse, &mut site, args, cancel).await;
    let mut left = site.clean(args.keep).await;
    left.extend(remove_topics(&rehearsal).await);
    let mut report = match outcome {
        Ok(report) => report,
        Err(error) => {
            left.iter().for_each(|line| tracing::warn!("{line}"));
            return Err(error);
        }
    };
    report.notes.extend(left);
    let exit = if report.is_good() { Exit::Done } else { Exit::No };
    match args.json {
        true => {
            let text =
                if report.is_good() { "the rehearsal went well" } else { "see undone and equal" };
            tell::report(text, &report, exit)?;
        }
        false => report.lines().iter().for_each(answer::line),
    }
    Ok(exit)
}

/// Everything between taking the schemas and giving them back.
async fn on_site(
    plan: &Arc<Plan>,
    rehearsal: &Arc<Plan>,
    rehearse: &Rehearse,
    site: &mut Site,
    args: &args::Rehearse,
    cancel: &CancellationToken,
) -> anyhow::Result<Report> {
    let furnishing = Box::pin(async {
        let models = schema::models(plan).await?;
        site.furnish(&models).await?;
        let throttle = Throttle::new(plan);
        tokio::select! {
            carried = rows::carry(plan, rehearsal, &models, rehearse.rows, &throttle) => carried,
            () = throttle.follow() => bail!("the throttle has ended"),
        }
    });
    let Some(carried) = cancel.run_until_cancelled(furnishing).await else {
        bail!("interrupted while rows were carried over");
    };
    let carried = carried?;
    let text = format!("{} rows carried over", carried.rows);
    Form::of(args.json).happened("line", &text, json!({ "rows": carried.rows }));
    let throttle = Throttle::new(rehearsal);
    let board = Board::default();
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    let streams = async {
        let exit = daemon::work_alone(rehearsal, board.clone(), &throttle, &stop).await;
        over.cancel();
        exit
    };
    let driving = async {
        let going = Going { plan, rehearsal, rehearse, throttle: &throttle, args, cancel };
        let outcome = tokio::select! {
            outcome = Box::pin(going.there_and_back(carried, site.password.clone())) => outcome,
            error = halted(&board) => Err(error),
            () = over.cancelled() => Err(anyhow::anyhow!("the streams have ended")),
        };
        stop.cancel();
        outcome
    };
    let (ended, report) = tokio::select! {
        both = async { tokio::join!(Box::pin(streams), driving) } => both,
        () = throttle.follow() => bail!("the throttle has ended"),
    };
    match ended {
        Err(error) => Err(error),
        Ok(Exit::BadPlan) => {
            Err(BadPlan("a rehearsal's shard is not as it should be: see above".to_owned()).into())
        }
        Ok(_) => report,
    }
}

/// The first stream that cannot go on ends the rehearsal: in earnest it would close the gate.
async fn halted(board: &Board) -> anyhow::Error {
    loop {
        if let Some((stream, halt)) = board.first_over() {
            let hint = halt.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            return anyhow::anyhow!("{stream} has halted: {}{hint}", halt.message);
        }
        tokio::time::sleep(HALT_POLL).await;
    }
}

struct Going<'a> {
    plan: &'a Plan,
    rehearsal: &'a Arc<Plan>,
    rehearse: &'a Rehearse,
    throttle: &'a Throttle,
    args: &'a args::Rehearse,
    cancel: &'a CancellationToken,
}

impl Going<'_> {
    async fn there_and_back(&self, carried: Carried, password: Secret) -> anyhow::Result<Report> {
        let Rehearse { runs, rate, .. } = *self.rehearse;
        let rows = carried.rows;
        let load = Load::start(self.rehearsal, &password, carried.written, rate);
        if let Some(load) = &load {
            load.flows().await?;
        }
        let (mut there, mut back): (Vec<Timing>, Vec<Timing>) = (Vec::new(), Vec::new());
        let (mut undone, mut in_a_row) = (Vec::new(), 0);
        while back.len() < runs as usize && in_a_row < UNDONE_MAX {
            // Whichever side serves: what was undone is gone again.
            let (direction, timings) = match there.len() == back.len() {
                true => (Direction::Cutover, &mut there),
                false => (Direction::Rollback, &mut back),
            };
            match self.switch(direction).await? {
                Err(why) => {
                    undone.push(format!("{direction} {}: {why}", timings.len() + 1));
                    in_a_row += 1;
                }
                Ok(timing) => {
                    timings.push(timing);
                    self.tell(direction, timings);
                    in_a_row = 0;
                    if let Some(load) = &load {
                        load.turn(direction.to());
                        load.flows().await?;
                    }
                }
            }
        }
        let (transactions, refused) = match load {
            None => (0, 0),
            Some(load) => {
                let counts = (load.committed(), load.refused());
                load.stop().await;
                counts
            }
        };
        let mut report = Report {
            plan: self.plan.name.clone(),
            rows,
            transactions,
            refused,
            predicted: vec![
                Predicted::of(Direction::Cutover, &there),
                Predicted::of(Direction::Rollback, &back),
            ],
            undone,
            equal: None,
            differences: Vec::new(),
            budget_ms: self.rehearsal.cutover.budget.as_millis() as u64,
            notes: self.left_out(transactions),
        };
        if there.len() == back.len() {
            self.compare(&mut report).await?;
        }
        Ok(report)
    }

    fn tell(&self, direction: Direction, timings: &[Timing]) {
        if let Some(last) = timings.last() {
            let (run, of, ms) = (timings.len(), self.rehearse.runs, last.pause_ms);
            let text = format!("{direction} {run} of {of}: a pause of {ms:.1} ms");
            let more = json!({ "what": direction.name(), "run": run, "ms": ms });
            Form::of(self.args.json).happened("measured", &text, more);
        }
    }

    /// One cutover or rollback; the inner error: it was undone.
    async fn switch(&self, direction: Direction) -> anyhow::Result<Result<Timing, String>> {
        let settings = Settings {
            ask: Ask::Start(direction),
            mode: Mode::Online,
            dry: false,
            summary: false,
            gate_wait: Some(GATE_WAIT),
            patience: PATIENCE,
            lost: Vec::new(),
        };
        let (stop, interrupt) = watch::channel(false);
        let wiring = Wiring::silent(self.rehearsal.clone());
        let switching = async {
            let taken = Cutover::take(self.rehearsal.clone(), settings, wiring, interrupt).await?;
            Box::pin(taken.run()).await
        };
        let interrupting = async {
            self.cancel.cancelled().await;
            stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = Box::pin(switching) => outcome,
            () = interrupting => bail!("interrupted"),
        };
        if self.cancel.is_cancelled() {
            bail!("interrupted during {direction}");
        }
        match outcome {
            Ok(Outcome::Done) => Ok(Ok(self.timing().await?)),
            Ok(Outcome::Undone(cause)) => {
                let why = cause.map_or_else(|| "no reason".to_owned(), |cause| cause.to_string());
                Ok(Err(why))
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                bail!("{direction} of the rehearsal: {error}{hint}")
            }
        }
    }

    /// What the journal says of the run that has just ended.
    async fn timing(&self) -> anyhow::Result<Timing> {
        let endpoint = &self.rehearsal.new[0];
        let of = |error| error::of(&label(endpoint), "reading the journal", error);
        let mut conn = connect(endpoint, Session::Plain).await?;
        let sql = format!(
            "SELECT detail FROM {JOURNAL} WHERE state = 'ended' ORDER BY run DESC, entry DESC LIMIT 1"
        );
        let detail: Option<Option<String>> = conn.query_first(sql).await.map_err(of)?;
        let detail = detail.flatten().context("the journal does not say how long it took")?;
        let detail: serde_json::Value = serde_json::from_str(&detail)?;
        let pause = detail["pause_ms"].as_f64().context("the journal knows no pause")?;
        let steps = detail["ms"].as_object().into_iter().flatten();
        let steps = steps.filter_map(|(step, ms)| Some((step.clone(), ms.as_f64()?)));
        Ok(Timing { pause_ms: pause, steps_ms: steps.collect() })
    }

    async fn compare(&self, report: &mut Report) -> anyhow::Result<()> {
        let Some(found) = verify::once(self.rehearsal, self.throttle, self.cancel).await? else {
            bail!("interrupted while the rows were compared");
        };
        report.equal = Some(found.clean);
        report.differences.extend(found.schema_differences.iter().cloned());
        report.differences.extend(found.mismatches.iter().map(ToString::to_string));
        if !found.clean && report.differences.is_empty() {
            report.differences.push(format!("{} rows kept changing", found.unsettled()));
        }
        Ok(())
    }

    /// What the numbers do not say.
    fn left_out(&self, transactions: u64) -> Vec<String> {
        let mut notes = vec![match self.plan.routing.len() {
            0 => "publishing is not in it: the plan names no routing target".to_owned(),
            count => {
                let all: Duration = self.plan.routing.iter().map(|target| target.timeout).sum();
                format!(
                    "publishing is not in it: {count} routing targets, at most {all:?} together"
                )
            }
        }];
        notes.push(
            "nor are the load and the long transactions of the real servers, nor what they and the \
             network between take longer"
                .to_owned(),
        );
        if self.rehearsal.cutover.scope == FenceScope::Accounts {
            notes.push(
                "rehearsed on servers of real shards: only accounts were fenced, read_only is not \
                 in it"
                    .to_owned(),
            );
        }
        if transactions == 0 {
            notes.push("there was no load: no rows to write, or rehearse.rate is 0".to_owned());
        }
        notes
    }
}

/// Nobody reads them again; what could not be removed, in words.
async fn remove_topics(rehearsal: &Plan) -> Vec<String> {
    let mut left = Vec::new();
    for plan in [rehearsal, &rehearsal.reversed()] {
        if let Log::Kafka(log) = &plan.log
            && let Err(error) = delete_topic(log).await
        {
            left.push(format!("topic {} is left: {error}", log.topic));
        }
    }
    left
}
