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
    let dry = args.dry_run;
    let outcome = ending::finish(&plan, dry, &mut |line| tell(form, dry, line)).await;
    let done = "finish: the way back has ended; the old shards stay fenced until modshift unfence";
    Ok(end(form, outcome, done_or_dry("finish", done, dry), audited).await)
}

pub async fn unfence(plan: Arc<Plan>, args: &args::Unfence) -> anyhow::Result<Exit> {
    let audited = begin(&plan, args.dry_run).await?;
    let form = Form::of(args.json);
    let dry = args.dry_run;
    let outcome = ending::unfence(&plan, dry, &mut |line| tell(form, dry, line)).await;
    let done = "unfence: the old shards take writes again";
    Ok(end(form, outcome, done_or_dry("unfence", done, dry), audited).await)
}

async fn begin(plan: &Plan, dry: bool) -> anyhow::Result<Option<audit::Entry>> {
    if dry {
        return Ok(None);
    }
    let line = audit::command_line(std::env::args());
    Ok(Some(audit::begin(plan, &line, "").await?))
}

/// `script`: what would be done.
fn tell(form: Form, dry: bool, line: &str) {
    form.said(if dry { "script" } else { "line" }, line, Value::Null);
}

/// Who reads only the last line must not take a dry run for the deed.
fn done_or_dry(command: &str, done: &str, dry: bool) -> String {
    if dry { super::nothing_done(command) } else { done.to_owned() }
}

async fn end(
    form: Form,
    outcome: Result<(), CutoverError>,
    done: String,
    audited: Option<audit::Entry>,
) -> Exit {
    let (exit, text) = match &outcome {
        Ok(()) => (Exit::Done, done),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_does_not_end_as_the_deed_does() {
        let done = "unfence: the old shards take writes again";
        assert_eq!(done_or_dry("unfence", done, false), done);
        let dry = "unfence: nothing was done, this was a dry run";
        assert_eq!(done_or_dry("unfence", done, true), dry);
    }
}
