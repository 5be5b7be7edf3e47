//! `modshift cutover` and `modshift rollback`: what the operator asks, and how it ended.

mod fences;
mod finish;
mod loss;
mod serving;
mod wiring;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use modshift_cutover::{Ask, Cutover, CutoverError, Direction, Mode, Outcome, Settings};
use modshift_mariadb::{ServerError, audit, silence};
use modshift_proto::plan::Plan;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::fences::{Fence, fences};
pub use self::finish::{finish, unfence};
pub use self::loss::answers;
pub use self::serving::{Serves, Told, Words, against, is_finished, serves, show, under_way};
pub use self::wiring::Wiring;
use crate::args;
use crate::exit::Exit;
use crate::signals::Signals;
use crate::tell::Form;

/// For a row of the audit table: beyond it the server is away, or its disk is full.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to go on trying to let go of a shard that does not answer. Meanwhile the others serve.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(
    plan: Arc<Plan>,
    direction: Direction,
    args: &args::Cutover,
    stop_writes: bool,
    accepted: &[u16],
) -> anyhow::Result<Exit> {
    let form = Form::of(args.json);
    if args.without_journal {
        return Ok(without_journal(&plan, direction, form).await);
    }
    let ask = match (args.resume, args.abort) {
        (true, _) => Ask::Resume(direction),
        (_, true) => Ask::Abort(direction),
        _ => Ask::Start(direction),
    };
    let mut lost = accepted.to_vec();
    // One that is resumed knows from the journal.
    if ask == Ask::Start(Direction::Rollback) {
        match loss::judge(&plan, accepted).await {
            Ok(missing) => lost = missing,
            Err(objection) => {
                form.end(&format!("{direction}: {objection}"), None, Exit::No);
                return Ok(Exit::No);
            }
        }
    }
    for shard in &lost {
        let note = format!(
            "note: new shard {shard} is given up. Its token says that it serves: never let a client \
             reach it again"
        );
        form.said("line", &note, Value::Null);
    }
    let settings = Settings {
        ask,
        mode: if stop_writes { Mode::StopWrites } else { Mode::Online },
        dry: args.dry_run,
        summary: args.summary,
        gate_wait: args.wait,
        patience: PATIENCE,
        lost,
    };
    let audited = match args.dry_run {
        true => None,
        false => Some(audited(&plan).await?),
    };
    let wiring = Wiring::new(plan.clone(), args.dry_run, form).summed(args.summary);
    let Some(outcome) = drive(plan, settings, wiring).await else {
        let text =
            format!("{direction}: ended at once by a second signal. The run is as it was then");
        let hint = "modshift status says who serves, and which command ends the run, if no daemon has \
                    ended it by then";
        form.end(&text, Some(hint), Exit::CannotTell);
        return Ok(Exit::CannotTell);
    };
    let (exit, text) = match &outcome {
        Ok(Outcome::Done) if args.dry_run => (Exit::Done, nothing_done(direction)),
        // Nothing was begun, so nothing was undone.
        Ok(Outcome::Undone(Some(cause))) if args.dry_run => (
            Exit::No,
            format!("{}. A run would not come to its end now: {cause}", nothing_done(direction)),
        ),
        Ok(Outcome::Done) => (Exit::Done, format!("{direction}: done")),
        // Not what `--resume` asks for.
        Ok(Outcome::Undone(None)) if args.resume => (
            Exit::No,
            format!(
                "{direction}: undone, the {} shards serve: the run had turned back, and such a run \
                 is only undone",
                direction.from()
            ),
        ),
        Ok(Outcome::Undone(None)) => (Exit::Done, format!("{direction}: undone")),
        Ok(Outcome::Undone(Some(cause))) => (
            Exit::No,
            format!("{direction}: undone, the {} shards serve: {cause}", direction.from()),
        ),
        Err(error) => (exit_of(error), format!("{direction}: {error}")),
    };
    let hint = match &outcome {
        Ok(Outcome::Undone(Some(error))) | Err(error) => error.hint(),
        Ok(_) => None,
    };
    form.end(&text, hint.as_deref(), exit);
    if let Some(audited) = audited {
        // The cutover stands, whether it can be audited or not.
        let finished = tokio::time::timeout(AUDIT_TIMEOUT, audited.finish(&text)).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!(?finished, "the outcome is not in the audit table");
        }
    }
    Ok(exit)
}

fn nothing_done(command: impl std::fmt::Display) -> String {
    format!("{command}: nothing was done, this was a dry run")
}

/// `None`: ended at once, by a second signal. The first one has the run undone, or leaves an opening.
async fn drive(
    plan: Arc<Plan>,
    settings: Settings,
    wiring: Wiring,
) -> Option<Result<Outcome, CutoverError>> {
    let (stop, interrupt) = watch::channel(false);
    let cancel = CancellationToken::new();
    let quit = {
        let (signals, cancel) = (Signals::listen(), cancel.clone());
        async move {
            match signals {
                Ok(signals) => signals.drain_then_quit(cancel).await,
                // Then each of them ends the process by itself.
                Err(_) => std::future::pending().await,
            }
        }
    };
    let watching = async {
        cancel.cancelled().await;
        stop.send_replace(true);
        // Held open: a closed channel is no interrupt.
        std::future::pending::<()>().await;
    };
    let driving = async {
        match Cutover::take(plan, settings, wiring, interrupt).await {
            Ok(cutover) => Box::pin(cutover.run()).await,
            Err(error) => Err(error),
        }
    };
    tokio::select! {
        outcome = Box::pin(driving) => Some(outcome),
        () = watching => None,
        () = quit => None,
    }
}

/// The audit table is where the journal is: this is written down on another new shard, where one takes
/// it, and in the log.
async fn without_journal(plan: &Arc<Plan>, direction: Direction, form: Form) -> Exit {
    let line = audit::command_line(std::env::args());
    tracing::warn!(who = audit::operator(), line, "the run is undone without its journal");
    let audited = audit::begin_anywhere(plan, &line, "").await;
    let audited = audited.inspect_err(|error| {
        tracing::warn!(%error, "no new shard takes a row of modshift_audit: it is in this log alone");
    });
    let wiring = Wiring::new(plan.clone(), false, form);
    let outcome = modshift_cutover::without_journal::abort(plan, direction, &wiring).await;
    let text = match &outcome {
        Ok(()) => format!("{direction}: undone without its journal"),
        Err(error) => format!("{direction}: {error}"),
    };
    if let Ok(audited) = audited {
        let finished = tokio::time::timeout(AUDIT_TIMEOUT, audited.finish(&text)).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!(?finished, "the outcome is not in the audit table");
        }
    }
    match outcome {
        Ok(()) => {
            let text = format!(
                "{direction}: undone without its journal, the {} shards serve. Once new shard 0 is \
                 back, modshift {direction} --abort writes down that the run is over",
                direction.from()
            );
            form.end(&text, None, Exit::Done);
            Exit::Done
        }
        Err(error) => {
            let exit = exit_of(&error);
            form.end(&format!("{direction}: {error}"), error.hint().as_deref(), exit);
            exit
        }
    }
}

/// Nothing of a cutover is begun before it is written down, and a server that cannot write does not
/// hold up the operator for longer.
async fn audited(plan: &Plan) -> anyhow::Result<audit::Entry> {
    let line = audit::command_line(std::env::args());
    let home = &plan.new[0];
    let begun = tokio::time::timeout(AUDIT_TIMEOUT, audit::begin(plan, &line, ""));
    let (begun, seen) = silence::watched(home, silence::LOOK_AFTER, begun, |_| {}).await;
    let late = || {
        let at = modshift_mariadb::connect::label(home);
        let detail = silence::detail(AUDIT_TIMEOUT, seen);
        ServerError::Lost { at, doing: "writing the audit table", detail }
    };
    let begun = begun.unwrap_or_else(|_| Err(late()));
    begun.context("nothing has been done: the action could not be written to modshift_audit first")
}

fn exit_of(error: &CutoverError) -> Exit {
    match error {
        CutoverError::Refused(_)
        | CutoverError::Busy { .. }
        | CutoverError::Gate(_)
        | CutoverError::Objected { .. }
        | CutoverError::JournalThere { .. } => Exit::No,
        CutoverError::NoAccount { .. }
        | CutoverError::SharedServer { .. }
        | CutoverError::SharedUnits { .. }
        | CutoverError::SharedOffset { .. } => Exit::BadPlan,
        CutoverError::BothServe { .. } | CutoverError::JournalDamaged { .. } => Exit::Halted,
        _ => Exit::CannotTell,
    }
}
