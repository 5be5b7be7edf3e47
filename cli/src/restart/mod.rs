//! `modshift restart-copy`: starts the copy over, as one command.
//!
//! What the streams remember goes on every shard, the planned tables of the new shards are emptied, and
//! the topics of a Kafka log are deleted. The daemons then begin as on the first day. Only before the
//! cutover, and never on a shard that serves.
//!
//! A table of its own, `modshift_restart`, stands on every shard from before the first change until
//! after the last: no reader and no applier starts where it is. So a command that was killed in its
//! middle is given again, and nothing runs on the half that is left.

mod look;
mod object;
mod wipe;

use std::sync::Arc;

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::{control, presence};
use modshift_proto::plan::{Log, Plan};
use modshift_verify::Lock;
use serde_json::Value;

use crate::exit::Exit;
use crate::tell::Form;
use crate::{args, audit, cutover, session};

pub async fn run(plan: Arc<Plan>, args: &args::RestartCopy) -> anyhow::Result<Exit> {
    let form = Form::of(args.json);
    let refused = |objections: &[String]| session::refused(form, "restart-copy", objections);
    // Nobody begins a cutover, or compares, on what goes away here.
    let hold = match Hold::take(&plan).await {
        Err(error @ CutoverError::Busy { .. }) => return Ok(refused(&[error.to_string()])),
        hold => hold?,
    };
    let mut verifying = Lock::new(&plan);
    if let Err(error) = verifying.take(std::time::Duration::ZERO).await {
        return Ok(refused(&[error.to_string()]));
    }
    let shards = look::all(&plan).await.context("nothing was done")?;
    let objections = all_objections(&plan, &shards).await?;
    if !objections.is_empty() {
        return Ok(refused(&objections));
    }
    let topics = topics(&plan);
    for line in wipe::script(&shards, &topics) {
        form.said("script", &line, Value::Null);
    }
    if args.dry_run {
        form.end("restart-copy: nothing was done, this was a dry run", None, Exit::Done);
        return Ok(Exit::Done);
    }
    if !args.yes && !session::agreed("restart-copy", &plan.name, &[], args.json).await? {
        form.end("restart-copy: nothing was done", None, Exit::No);
        return Ok(Exit::No);
    }
    let entry = audit::begin(&plan, "starts the copy over").await?;
    let outcome = acted(&plan, form, &hold, &shards, &topics).await;
    audit::finish(entry, &outcome).await;
    outcome
}

/// What speaks against it, at this moment.
async fn all_objections(plan: &Plan, shards: &[look::Shard]) -> anyhow::Result<Vec<String>> {
    let mut objections = object::objections(shards);
    objections.extend(by_journal(plan).await?);
    objections.extend(still_run(&presence::daemons(plan).await?));
    Ok(objections)
}

async fn acted(
    plan: &Plan,
    form: Form,
    hold: &Hold,
    before: &[look::Shard],
    topics: &[String],
) -> anyhow::Result<Exit> {
    wipe::mark(plan, before).await?;
    // While the question stood open anything may have happened; from here on no stream starts.
    let shards = look::again(plan, before).await?;
    let mut objections = all_objections(plan, &shards).await?;
    if !hold.still() {
        objections.push("the lock on the journal was lost meanwhile: give it again".to_owned());
    }
    if !objections.is_empty() {
        // The marks of one that was killed stay: half of what it was to remove is there. So do those that
        // may be another one's by now.
        if hold.still() && !before.iter().any(|shard| shard.state.has(control::RESTART)) {
            wipe::unmark(plan, &shards).await?;
        }
        return Ok(session::refused(form, "restart-copy", &objections));
    }
    wipe::stop_appliers(plan, &shards).await?;
    // With what the last batch of one brought that nobody knows of.
    let shards = look::again(plan, before).await?;
    wipe::wipe(plan, form, &shards).await?;
    wipe::remove_topics(plan, form, topics).await?;
    wipe::unmark(plan, &shards).await?;
    let done = "restart-copy: done; start the daemons: they copy every table anew";
    form.end(done, None, Exit::Done);
    Ok(Exit::Done)
}

fn still_run(daemons: &[String]) -> Vec<String> {
    let stop =
        |daemon: &String| format!("{daemon} runs: stop it, and give `modshift restart-copy` again");
    daemons.iter().map(stop).collect()
}

/// What the journal says against it.
async fn by_journal(plan: &Plan) -> anyhow::Result<Option<String>> {
    if let Some(run) = cutover::under_way(plan).await? {
        return Ok(Some(format!("a run is not over, end it first: {run}")));
    }
    let serves = cutover::serves(plan, &cutover::Words::default()).await;
    let cut = "the reshard has been cut over, and a copy would bring older rows over newer ones";
    Ok((serves.side != "old").then(|| format!("{}: {cut}", serves.text)))
}

/// Of both directions; none over the in-process log.
fn topics(plan: &Plan) -> Vec<String> {
    let of = |plan: &Plan| match &plan.log {
        Log::Kafka(log) => Some(log.topic.clone()),
        Log::Direct { .. } => None,
    };
    let mut topics: Vec<String> = of(plan).into_iter().chain(of(&plan.reversed())).collect();
    topics.dedup();
    topics
}
