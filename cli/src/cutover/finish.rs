//! `modshift finish` and `modshift unfence`.

use std::sync::Arc;

use modshift_cutover::CutoverError;
use modshift_cutover::finish as ending;
use modshift_mariadb::audit;
use modshift_proto::plan::Plan;

use super::exit_of;
use crate::exit::Exit;
use crate::{answer, args};

pub async fn finish(plan: Arc<Plan>, args: &args::Finish) -> anyhow::Result<Exit> {
    let audited = begin(&plan, args.dry_run).await?;
    let outcome = ending::finish(&plan, args.dry_run, &mut |line| answer::line(line)).await;
    let done = "finish: the way back has ended; the old shards stay fenced until modshift unfence";
    Ok(end(outcome, done, audited).await)
}

pub async fn unfence(plan: Arc<Plan>, args: &args::Unfence) -> anyhow::Result<Exit> {
    let audited = begin(&plan, args.dry_run).await?;
    let outcome = ending::unfence(&plan, args.dry_run, &mut |line| answer::line(line)).await;
    Ok(end(outcome, "unfence: the old shards take writes again", audited).await)
}

async fn begin(plan: &Plan, dry: bool) -> anyhow::Result<Option<audit::Entry>> {
    if dry {
        return Ok(None);
    }
    let line = audit::command_line(std::env::args());
    Ok(Some(audit::begin(plan, &line, "").await?))
}

async fn end(outcome: Result<(), CutoverError>, done: &str, audited: Option<audit::Entry>) -> Exit {
    let (exit, text) = match &outcome {
        Ok(()) => (Exit::Done, done.to_owned()),
        Err(error) => (exit_of(error), error.to_string()),
    };
    answer::line(&text);
    if let Err(error) = &outcome
        && let Some(hint) = error.hint()
    {
        answer::line(format_args!("hint: {hint}"));
    }
    if let Some(audited) = audited
        && let Err(error) = audited.finish(&text).await
    {
        tracing::warn!(error = %error, "the outcome is not in the audit table");
    }
    exit
}
