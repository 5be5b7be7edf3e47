//! `modshift finish` and `modshift unfence`.

use std::sync::Arc;

use modshift_cutover::CutoverError;
use modshift_cutover::finish as ending;
use modshift_mariadb::audit;
use modshift_proto::plan::Plan;
use serde_json::Value;

use super::exit_of;
use crate::args;
use crate::exit::Exit;
use crate::tell::Form;

pub async fn finish(plan: Arc<Plan>, args: &args::Finish) -> anyhow::Result<Exit> {
    let audited = begin(&plan, args.dry_run).await?;
    let form = Form::of(args.json);
    let outcome = ending::finish(&plan, args.dry_run, &mut |line| tell(form, line)).await;
    let done = "finish: the way back has ended; the old shards stay fenced until modshift unfence";
    Ok(end(form, outcome, done, audited).await)
}

pub async fn unfence(plan: Arc<Plan>, args: &args::Unfence) -> anyhow::Result<Exit> {
    let audited = begin(&plan, args.dry_run).await?;
    let form = Form::of(args.json);
    let outcome = ending::unfence(&plan, args.dry_run, &mut |line| tell(form, line)).await;
    Ok(end(form, outcome, "unfence: the old shards take writes again", audited).await)
}

async fn begin(plan: &Plan, dry: bool) -> anyhow::Result<Option<audit::Entry>> {
    if dry {
        return Ok(None);
    }
    let line = audit::command_line(std::env::args());
    Ok(Some(audit::begin(plan, &line, "").await?))
}

fn tell(form: Form, line: &str) {
    form.said("line", line, Value::Null);
}

async fn end(
    form: Form,
    outcome: Result<(), CutoverError>,
    done: &str,
    audited: Option<audit::Entry>,
) -> Exit {
    let (exit, text) = match &outcome {
        Ok(()) => (Exit::Done, done.to_owned()),
        Err(error) => (exit_of(error), error.to_string()),
    };
    let hint = outcome.as_ref().err().and_then(CutoverError::hint);
    form.end(&text, hint.as_deref(), exit);
    if let Some(audited) = audited
        && let Err(error) = audited.finish(&text).await
    {
        tracing::warn!(error = %error, "the outcome is not in the audit table");
    }
    exit
}
