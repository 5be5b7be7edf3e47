//! The end of the way back: modshift's tables go, the old shards stay fenced until they are let go
//! by a command of its own.
//!
//! What stays: the journal with what the servers were (on new shard 0), the audit table there, and
//! `modshift_routing`, which applications may read; on the old shards `modshift_handover` with their
//! triggers and events, which come back with `unfence`, and until then `modshift_plan`, so that no
//! other reshard takes a shard that is still fenced; and on every shard `modshift_finished`, which
//! keeps its streams from starting again: to a reader that finds no token the old shard would be
//! new, and its rows would be copied over newer ones.

use std::time::Duration;

use futures_util::future::join_all;
use modshift_changelog::stage;
use modshift_mariadb::Conn;
use modshift_mariadb::control::{self, AUDIT, FINISHED, FINISHED_TABLE, HANDOVER, Owner, PLAN};
use modshift_proto::plan::Plan;

use crate::decide::{Ask, Entry};
use crate::error::CutoverError;
use crate::fence::{self, Release};
use crate::handover;
use crate::register::{FENCE, JOURNAL, OPERATOR, Register, quote};
use crate::server::Guard;
use crate::shard::{self, Shard};
use crate::step::{Mode, Side};

const KEPT: [&str; 6] = [JOURNAL, OPERATOR, FENCE, FINISHED, AUDIT, "modshift_routing"];

/// Refused while the old shards serve, and while a daemon still runs. One that died is done again.
pub async fn finish(
    plan: &Plan,
    dry: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<(), CutoverError> {
    let (mut register, guard) = take(plan, Ask::Finish, dry).await?;
    let mut shards = shard::side(plan, Side::Old, &guard);
    shards.extend(shard::side(plan, Side::New, &guard));
    if !dry {
        keep_ours(plan, &mut shards, tell).await?;
        daemons_rest(plan, &mut shards).await?;
    }
    // First: from here on no daemon starts.
    if !register.journal().finished() {
        register.write(Entry::Finished, None).await?;
    }
    stage::reached("finish_journaled", 1).await;
    let dropped = join_all(shards.iter_mut().map(|shard| retire(plan, shard))).await;
    say(&mut register, &mut shards, tell);
    shard::recall(&mut shards, &register.remembered().await?);
    for shard in shards.iter_mut().filter(|shard| shard.side == Side::Old) {
        if let Some(advice) = keeps_itself(shard).await {
            tell(&advice);
        }
    }
    register.release().await;
    CutoverError::all(dropped.into_iter().filter_map(Result::err).collect())
}

/// The old shards as they were before they were fenced, after [`finish`].
pub async fn unfence(
    plan: &Plan,
    dry: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<(), CutoverError> {
    let (mut register, guard) = take(plan, Ask::Unfence, dry).await?;
    let mut shards = shard::side(plan, Side::Old, &guard);
    shard::recall(&mut shards, &register.remembered().await?);
    let all: Vec<Vec<String>> = shards.iter().map(Shard::keys).collect();
    if !dry {
        keep_ours(plan, &mut shards, tell).await?;
    }
    let ours: Vec<Vec<String>> = shards.iter().map(Shard::keys).collect();
    let released = join_all(shards.iter_mut().map(async |shard| {
        // Tables of ours that a finish could not remove, the shard being away.
        retire(plan, shard).await?;
        handover::put_back(handover::Scope::new(plan, "unfence"), shard).await?;
        let doing = "removing modshift's tables";
        shard.primary.run(doing, &format!("DROP TABLE IF EXISTS {HANDOVER}")).await?;
        // Given a second time it leaves alone what was changed there since.
        if fence::is_closed(shard).await? {
            fence::release(shard, Release::Restore).await?;
        }
        // Last: from here on another reshard may have it.
        shard.primary.run(doing, &format!("DROP TABLE IF EXISTS {PLAN}")).await.map(drop)
    }))
    .await;
    say(&mut register, &mut shards, tell);
    // What a shard was is remembered as long as it is not let go, and no longer: the next reshard may
    // have it when this command is given again for another one.
    let kept: Vec<&Vec<String>> =
        ours.iter().zip(&released).filter(|(_, end)| end.is_err()).map(|(keys, _)| keys).collect();
    let gone: Vec<String> =
        all.iter().filter(|keys| !kept.contains(keys)).flatten().cloned().collect();
    let forgotten = register.forget(&gone).await;
    register.release().await;
    let errors = released.into_iter().filter_map(Result::err);
    CutoverError::all(errors.chain(forgotten.err()).collect())
}

/// Takes out the shards that another reshard has by now: given again, these commands must not touch what
/// its streams and runs have made.
async fn keep_ours(
    plan: &Plan,
    shards: &mut Vec<Shard>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), CutoverError> {
    let asked = join_all(shards.iter_mut().map(|shard| of_another(plan, shard))).await;
    let mut others = Vec::new();
    for other in asked {
        others.push(other?);
    }
    let mut asked = others.into_iter();
    shards.retain(|shard| match asked.next().flatten() {
        Some(owner) => {
            tell(&format!(
                "note: {} is left alone: it is {} of the reshard {} now",
                shard.name(),
                owner.shard,
                owner.plan
            ));
            false
        }
        None => true,
    });
    Ok(())
}

async fn of_another(plan: &Plan, shard: &mut Shard) -> Result<Option<Owner>, CutoverError> {
    let place = control::place(plan, &shard.primary.endpoint);
    let at = shard.name().to_owned();
    let asking = async |conn: &mut Conn| control::owner(conn, &at).await;
    let owner = shard.primary.talk("asking whose tables these are", asking).await?;
    Ok(owner.filter(|owner| owner.is_other(plan.forward_name(), &place)))
}

async fn take(plan: &Plan, ask: Ask, dry: bool) -> Result<(Register, Guard), CutoverError> {
    let journal = shard::login(plan, plan.new[0].clone());
    let (register, _) = Register::take(&plan.name, journal, ask, Mode::Online, dry).await?;
    let guard = if dry { Guard::Dry } else { Guard::Owner(Box::new(register.claim())) };
    Ok((register, guard))
}

/// What a shard's servers need from now on to stay closed over a restart: no daemon closes them again.
async fn keeps_itself(shard: &mut Shard) -> Option<String> {
    let closed: Vec<bool> =
        shard.primary.ask("looking at the fence", "SELECT @@GLOBAL.read_only").await.ok()?;
    if closed.first() != Some(&true) {
        // Fenced by its accounts, which stay locked.
        return None;
    }
    let was = shard.was.first().cloned().unwrap_or_default();
    let replicates = !was.replicating.is_empty();
    let mut advice = format!(
        "note: no daemon keeps {} closed any more. Until modshift unfence put these lines under \
         [mariadbd] of its server's configuration, or a restart opens it: {}",
        shard.name(),
        lines(replicates).join(", ")
    );
    if !shard.replicas.is_empty() {
        let on: Vec<String> = shard
            .replicas
            .iter()
            .map(|server| format!("{}:{}", server.endpoint.host, server.endpoint.port))
            .collect();
        advice += &format!("; and on {}: {}", on.join(", "), lines(false).join(", "));
    }
    Some(advice)
}

fn lines(replicates: bool) -> Vec<&'static str> {
    let all = [
        (true, "read_only = 1"),
        (true, "event_scheduler = OFF"),
        (replicates, "skip_slave_start"),
    ];
    all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, line)| line).collect()
}

/// No token is written for a while in which each reader would have written several.
async fn daemons_rest(plan: &Plan, shards: &mut [Shard]) -> Result<(), CutoverError> {
    let before = join_all(shards.iter_mut().map(writes)).await;
    tokio::time::sleep(plan.reader.heartbeat * 5 + Duration::from_millis(500)).await;
    let after = join_all(shards.iter_mut().map(writes)).await;
    let mut running = Vec::new();
    for ((before, after), shard) in before.into_iter().zip(after).zip(&*shards) {
        if before? != after? {
            let what = "its reader still runs: stop the daemons first".to_owned();
            running.push(CutoverError::Unfit { server: shard.name().to_owned(), what });
        }
    }
    CutoverError::all(running)
}

async fn writes(shard: &mut Shard) -> Result<Option<u64>, CutoverError> {
    let doing = "looking for running daemons";
    let sql = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME = 'modshift_token'";
    let there: Vec<u8> = shard.primary.ask(doing, sql).await?;
    if there.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT writes FROM modshift_token WHERE id = 1";
    Ok(shard.primary.ask(doing, sql).await?.into_iter().next())
}

/// Says on the shard that the reshard is over, then removes what a stream would go on from.
async fn retire(plan: &Plan, shard: &mut Shard) -> Result<(), CutoverError> {
    let doing = "noting that the reshard is finished";
    shard.primary.run(doing, FINISHED_TABLE).await?;
    let name = quote(&plan.name);
    let sql = format!("INSERT IGNORE INTO {FINISHED} SET plan = {name}, at = UTC_TIMESTAMP(6)");
    shard.primary.run(doing, &sql).await?;
    stage::reached("finish_marked", 1).await;
    let doing = "removing modshift's tables";
    let of_old = [HANDOVER, PLAN].into_iter().filter(|_| shard.side == Side::Old);
    let kept: Vec<String> = KEPT.into_iter().chain(of_old).map(quote).collect();
    let sql = format!(
        "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = \
         DATABASE() AND TABLE_NAME LIKE 'modshift\\_%' AND TABLE_NAME NOT IN ({})",
        kept.join(", ")
    );
    let found: Vec<(String, String)> = shard.primary.ask(doing, &sql).await?;
    for (name, kind) in found {
        let kind = if kind == "VIEW" { "VIEW" } else { "TABLE" };
        shard.primary.run(doing, &format!("DROP {kind} IF EXISTS `{name}`")).await?;
    }
    Ok(())
}

fn say(register: &mut Register, shards: &mut [Shard], tell: &mut dyn FnMut(&str)) {
    for sql in register.take_script() {
        tell(&format!("journal: {sql};"));
    }
    for server in shards.iter_mut().flat_map(Shard::servers) {
        for sql in server.take_script() {
            tell(&format!("{}: {sql};", server.name));
        }
    }
}
