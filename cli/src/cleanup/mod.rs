//! `modshift cleanup --leftovers`: what is still there of modshift after `finish` and `unfence`, and its
//! removal: tables and views, topics, its schema and its accounts. Lines of my.cnf are named alone: no
//! server lets a client write there.
//!
//! `modshift_finished` keeps a daemon from beginning the reshard anew, over rows that are newer by now.
//! So it goes last, with the accounts by which a daemon would come; where these stay, it stays.

mod gone;
mod left;
mod look;
mod remove;

use std::sync::Arc;

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::presence;
use modshift_proto::plan::Plan;
use serde_json::Value;

use self::gone::Gone;
use crate::exit::{BadPlan, Exit};
use crate::tell::Form;
use crate::{args, audit, cutover, session};

pub async fn run(plan: Arc<Plan>, args: &args::Cleanup) -> anyhow::Result<Exit> {
    if !args.leftovers {
        let message = "cleanup: give --leftovers: it removes what is modshift's after finish";
        return Err(BadPlan(message.to_owned()).into());
    }
    let form = Form::of(args.json);
    let refused = |objections: &[String]| session::refused(form, "cleanup", objections);
    let hold = match Hold::take(&plan).await {
        Err(error @ CutoverError::Busy { .. }) => return Ok(refused(&[error.to_string()])),
        hold => hold?,
    };
    let gone = match Gone::of(&plan, &args.gone_old, &args.gone_new).await {
        Ok(gone) => gone,
        Err(against) => return Ok(refused(&against)),
    };
    let found = look::all(&plan, &gone).await.context("nothing was done")?;
    let objections = objections(&plan, &found).await?;
    if !objections.is_empty() {
        return Ok(refused(&objections));
    }
    let work = left::work(&found, args.with_routing);
    let topics = remove::topics(&plan);
    for line in work.lines().chain(topics.iter().map(|topic| format!("kafka: topic {topic}"))) {
        form.said("script", &line, Value::Null);
    }
    if args.dry_run {
        form.end("cleanup: nothing was done, this was a dry run", None, Exit::Done);
        return Ok(Exit::Done);
    }
    if !args.yes && !session::agreed("cleanup", &plan.name, &[], args.json).await? {
        form.end("cleanup: nothing was done", None, Exit::No);
        return Ok(Exit::No);
    }
    // While the question stood open anything may have happened.
    let found = look::all(&plan, &gone).await.context("nothing was done")?;
    let mut objections = self::objections(&plan, &found).await?;
    if !hold.still() {
        objections.push("the lock on the journal was lost meanwhile: give it again".to_owned());
    }
    if left::work(&found, args.with_routing) != work {
        objections.push("there is something else by now: give it again".to_owned());
    }
    if !objections.is_empty() {
        return Ok(refused(&objections));
    }
    // For as long as there is something to write it down in.
    let entry = audit::begin(&plan, "removes what is left of modshift").await?;
    let removed = remove::all(&plan, &found, &work, form).await;
    let outcome = removed.map(|complete| if complete { Exit::Done } else { Exit::CannotTell });
    match &outcome {
        // The table itself has gone.
        Ok(Exit::Done) => {}
        outcome => audit::finish(entry, outcome).await,
    }
    drop(hold);
    let exit = outcome?;
    let text = match exit {
        Exit::Done => "cleanup: done",
        _ => "cleanup: what is named above is left: mend it, and give the same command again",
    };
    form.end(text, None, exit);
    Ok(exit)
}

/// What speaks against it, at this moment.
async fn objections(plan: &Plan, found: &[look::Shard]) -> anyhow::Result<Vec<String>> {
    let mut objections = left::objections(found, plan.forward_name());
    if objections.is_empty()
        && let Some(run) = cutover::under_way(plan).await?
    {
        objections.push(format!("a run is not over, end it first: {run}"));
    }
    let daemons = presence::daemons(plan).await?;
    objections.extend(daemons.iter().map(|daemon| format!("{daemon} runs: stop it first")));
    Ok(objections)
}
