//! `modshift rearm`: lets a stream go on behind what it halted on, on a shard that does not serve.
//!
//! Not while a run is not over, whether or not somebody is at it: it could open the other side over what
//! was passed over.
//!
//! While a shard is fenced its stream carries nothing but tokens, so nothing is lost by moving its
//! resume point to where the shard is now, if everything from before the fence has been applied:
//! that is asked first. The token's row stays locked throughout. Each target is moved before the
//! source is, each in a transaction of its own: after a crash in between the reader comes to the
//! same halt again, and the command can be repeated.
//!
//! Not while a daemon of the plan runs: its reader has halted for good, and its appliers know the
//! watermarks that were. One that new shard 0 has not heard of loses nothing all the same: an applier
//! finds its row changed and stops, a reader its epoch.

use std::sync::Arc;

use anyhow::Context;
use modshift_cutover::CutoverError;
use modshift_cutover::register::Hold;
use modshift_mariadb::control::RESUME_ROW;
use modshift_mariadb::{ServerError, presence};
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{GroupDigest, GtidSet, NewShard, OldShard};

use crate::exit::{BadPlan, Exit};
use crate::session::Server;
use crate::tell::Form;
use crate::{args, audit, cutover};

const DOING: &str = "rearming a stream";
const NO_SUCH_TABLE: u16 = 1146;

pub async fn run(plan: Arc<Plan>, args: &args::Rearm) -> anyhow::Result<Exit> {
    let form = Form::of(args.json);
    // Turned around, new shards are the sources.
    let plan = if args.old { plan } else { Arc::new(plan.reversed()) };
    let shard = OldShard(args.shard);
    let Some(source) = plan.old.get(usize::from(shard.0)) else {
        let side = if args.old { "old" } else { "new" };
        let last = plan.old.len() - 1;
        let message = format!("--shard {}: the plan has {side} shards 0 to {last}", shard.0);
        return Err(BadPlan(message).into());
    };
    // No cutover may begin on what is moved here, and none be under way.
    let _hold = match Hold::take(&plan).await {
        Err(error @ CutoverError::Busy { .. }) => {
            form.end(&format!("nothing was rearmed: {error}"), None, Exit::No);
            return Ok(Exit::No);
        }
        hold => hold?,
    };
    // Whoever goes on with it relies on the reader to stand before what it halted on.
    if let Some(run) = cutover::under_way(&plan).await? {
        let text = format!(
            "nothing was rearmed: a run is not over. A write that was passed over now would be missing \
             on the side that it opens: end it first ({run})"
        );
        form.end(&text, None, Exit::No);
        return Ok(Exit::No);
    }
    let daemons = presence::daemons(&plan).await?;
    if !daemons.is_empty() {
        form.end(&format!("nothing was rearmed: {}", still_run(args, &daemons)), None, Exit::No);
        return Ok(Exit::No);
    }
    let entry = audit::begin(&plan, "moves a stream past what it halted on").await?;
    let outcome = answered(&plan, shard, source, form).await;
    audit::finish(entry, &outcome).await;
    outcome
}

/// A daemon knows of its streams what it read when it started.
fn still_run(args: &args::Rearm, daemons: &[String]) -> String {
    let (shard, old) = (args.shard, if args.old { " --old" } else { "" });
    format!(
        "daemons of this plan still run ({}), and would overwrite or miss what it sets. Stop all of \
         them, give `modshift rearm --shard {shard}{old}` again, then start them",
        daemons.join(", ")
    )
}

async fn answered(
    plan: &Plan,
    shard: OldShard,
    source: &Endpoint,
    form: Form,
) -> anyhow::Result<Exit> {
    let words = |text: String| plan.direction().words(&text);
    match rearm(plan, shard, source).await? {
        Ok(at) => {
            let text = words(format!("{shard} is rearmed at {at}: start the daemons again"));
            form.end(&text, None, Exit::Done);
            Ok(Exit::Done)
        }
        Err(objection) => {
            form.end(&words(objection), None, Exit::No);
            Ok(Exit::No)
        }
    }
}

/// The position from which the stream goes on, or why it may not.
async fn rearm(
    plan: &Plan,
    shard: OldShard,
    source: &Endpoint,
) -> anyhow::Result<Result<GtidSet, String>> {
    let mut server = Server::open(source, DOING).await?;
    server.run("START TRANSACTION", ()).await?;
    let sql = "SELECT phase, fence, halted FROM modshift_token WHERE id = 1 FOR UPDATE";
    type Token = (String, Option<String>, Option<String>);
    let token: Result<Option<Token>, ServerError> = server.first(sql, ()).await;
    let token = if is_without_table(&token) { None } else { token? };
    let Some((phase, fence, halted)) = token else {
        return Ok(Err(format!("{shard} has never been read: there is nothing to rearm")));
    };
    if TokenPhase::from_name(&phase) != Some(TokenPhase::Fenced) {
        let why = "its changes must reach the other side, so none may be passed over";
        return Ok(Err(format!("{shard} serves: {why}")));
    }
    if halted.is_none() {
        let what = "its reader has not halted, so there is nothing to rearm, and nothing was done";
        let next = "`modshift status` names the readers that have: --shard NUMBER is a new shard, \
                    with --old an old one";
        return Ok(Err(format!("{shard}: {what}; {next}")));
    }
    // Without a marker it never served, and had nothing to send.
    if fence.is_some() {
        let resume = match resume_point(&mut server).await? {
            Some(resume) => resume,
            None => {
                let why = "its resume point is not behind the fence, so nothing proves that its \
                           changes have been applied";
                let next = "start the daemons until its reader halts again, stop them, and repeat";
                return Ok(Err(format!("{shard} has served, and {why}: {next}")));
            }
        };
        if let Err(objection) = all_applied(plan, shard, &resume).await? {
            return Ok(Err(objection));
        }
    }
    let now: Option<String> = server.first("SELECT @@gtid_binlog_pos", ()).await?;
    let now: GtidSet = now.unwrap_or_default().parse().context("reading gtid_binlog_pos")?;
    for (endpoint, new) in plan.new.iter().zip((0..).map(NewShard)) {
        let mut target = Server::open(endpoint, DOING).await?;
        let moved = target
            .run(
                "UPDATE modshift_watermark SET version = version + 1, gtids = ?,
                   group_gtid = NULL, group_ordinal = 0, token_digest = NULL, halted = NULL
                 WHERE source = ?",
                (now.to_string(), shard.0),
            )
            .await;
        if is_without_table(&moved) {
            return Ok(Err(never_applied(new)));
        }
        moved?;
    }
    server
        .run(
            "UPDATE modshift_token SET
               epoch = GREATEST(epoch + 1, CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)),
               writes = writes + 1, clock = UTC_TIMESTAMP(6), halted = NULL
             WHERE id = 1",
            (),
        )
        .await?;
    server
        .run(
            "INSERT INTO modshift_progress (name, epoch, gtids, digest, phase)
             SELECT ?, epoch, ?, NULL, phase FROM modshift_token WHERE id = 1
             ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), gtids = VALUES(gtids),
               digest = NULL, phase = VALUES(phase)",
            (RESUME_ROW, now.to_string()),
        )
        .await?;
    server.run("COMMIT", ()).await?;
    Ok(Ok(now))
}

fn is_without_table<T>(answer: &Result<T, ServerError>) -> bool {
    matches!(answer, Err(error) if error.code() == Some(NO_SUCH_TABLE))
}

/// Shard, and what its tables' absence says.
fn never_applied(new: NewShard) -> String {
    format!(
        "{new} has none of modshift's tables: nothing was ever applied there, or somebody dropped them. \
         The stream was not rearmed: start the daemons, which make them, and give the command again once the \
         reader has halted"
    )
}

/// Where every partition had acknowledged everything, if the shard was fenced there already.
async fn resume_point(server: &mut Server) -> anyhow::Result<Option<GtidSet>> {
    type Row = (Option<String>, Option<String>, Option<String>);
    let sql = "SELECT gtids, digest, phase FROM modshift_progress WHERE name = ? FOR UPDATE";
    let row: Option<Row> = server.first(sql, (RESUME_ROW,)).await?;
    let Some((gtids, digest, phase)) = row else { return Ok(None) };
    if phase.as_deref().and_then(TokenPhase::from_name) != Some(TokenPhase::Fenced) {
        return Ok(None);
    }
    let mut resume: GtidSet = gtids.unwrap_or_default().parse().context("reading the progress")?;
    if let Some(digest) = digest {
        let last: GroupDigest = digest.parse().context("reading the progress")?;
        resume.set(last.gtid);
    }
    Ok(Some(resume))
}

async fn all_applied(
    plan: &Plan,
    shard: OldShard,
    resume: &GtidSet,
) -> anyhow::Result<Result<(), String>> {
    for (endpoint, new) in plan.new.iter().zip((0..).map(NewShard)) {
        let mut target = Server::open(endpoint, DOING).await?;
        let sql = "SELECT gtids FROM modshift_watermark WHERE source = ?";
        let gtids: Result<Option<String>, ServerError> = target.first(sql, (shard.0,)).await;
        if is_without_table(&gtids) {
            return Ok(Err(never_applied(new)));
        }
        let gtids = gtids?;
        let gtids: GtidSet =
            gtids.unwrap_or_default().parse().context("reading modshift_watermark")?;
        if !gtids.contains(resume) {
            let way_out = "start the daemons until it has";
            return Ok(Err(format!("{new} has not applied {shard} up to {resume} yet: {way_out}")));
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_learns_which_command_to_give_again() {
        let said = still_run(
            &args::Rearm { shard: 2, old: true, json: false },
            &["modshift run on 10.0.0.5".to_owned()],
        );
        assert!(said.contains("still run (modshift run on 10.0.0.5)"), "{said}");
        assert!(said.contains("give `modshift rearm --shard 2 --old` again"), "{said}");
    }
}
