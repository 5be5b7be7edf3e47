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
use modshift_proto::plan::{Plan, ZooKeeperTarget};

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
    let held = keep_ours(plan, &mut shards, tell).await;
    CutoverError::all(held.into_iter().map(|held| held.error).collect())?;
    if !dry {
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
    units_left(plan).iter().for_each(|advice| tell(advice));
    register.release().await;
    CutoverError::all(dropped.into_iter().filter_map(Result::err).collect())
}

/// The old shards as they were before they were fenced, after [`finish`]. Each for itself: what stands
/// in the way of one keeps no other closed.
pub async fn unfence(
    plan: &Plan,
    dry: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<(), CutoverError> {
    let (mut register, guard) = take(plan, Ask::Unfence, dry).await?;
    let mut shards = shard::side(plan, Side::Old, &guard);
    let remembered = register.remembered().await?;
    shard::recall(&mut shards, &remembered);
    let mut held = keep_ours(plan, &mut shards, tell).await;
    let released = join_all(shards.iter_mut().map(|shard| let_go(plan, shard))).await;
    say(&mut register, &mut shards, tell);
    let mut free = Vec::new();
    for (shard, released) in shards.into_iter().zip(released) {
        match released {
            Ok(()) => free.push(shard),
            Err(error) => held.push(Held { keys: shard.keys(), error }),
        }
    }
    // Remembered for as long as a shard is not let go, and no longer: once another reshard may have it,
    // this command must find nothing to give back. So are servers that are in the plan no more.
    let kept = |server: &String| held.iter().any(|held| held.keys.contains(server));
    let gone = remembered.into_iter().map(|(server, _)| server).filter(|server| !kept(server));
    let gone: Vec<String> = gone.collect();
    let forgotten = register.forget(&gone).await;
    let mut errors: Vec<CutoverError> = held.into_iter().map(|held| held.error).collect();
    match forgotten {
        Ok(()) => {
            stage::reached("unfence_forgotten", 1).await;
            // From here on another reshard may have them.
            let dropped = join_all(free.iter_mut().map(async |shard| {
                let sql = format!("DROP TABLE IF EXISTS {PLAN}");
                shard.primary.run("removing modshift's tables", &sql).await.map(drop)
            }));
            errors.extend(dropped.await.into_iter().filter_map(Result::err));
            say(&mut register, &mut free, tell);
        }
        Err(error) => errors.push(error),
    }
    register.release().await;
    CutoverError::all(errors)
}

async fn let_go(plan: &Plan, shard: &mut Shard) -> Result<(), CutoverError> {
    // Tables of ours that a finish could not remove, the shard being away.
    retire(plan, shard).await?;
    handover::put_back(handover::Scope::new(plan, "unfence"), shard).await?;
    let sql = format!("DROP TABLE IF EXISTS {HANDOVER}");
    shard.primary.run("removing modshift's tables", &sql).await?;
    stage::reached("unfence_put_back", 1).await;
    // Given a second time it leaves alone what was changed there since.
    if fence::is_closed(shard).await? {
        fence::release(shard, Release::Restore).await?;
    }
    stage::reached("unfence_released", 1).await;
    Ok(())
}

/// A shard of which nothing may be forgotten yet, and why.
struct Held {
    keys: Vec<String>,
    error: CutoverError,
}

/// Takes out the shards that another reshard has by now: given again, these commands must not touch what
/// its streams and runs have made. And those that do not answer, or that the plan calls by another number
/// than it did.
async fn keep_ours(plan: &Plan, shards: &mut Vec<Shard>, tell: &mut dyn FnMut(&str)) -> Vec<Held> {
    let mut held = Vec::new();
    let owners = join_all(shards.iter_mut().map(owner)).await;
    let all = std::mem::take(shards);
    for (shard, owner) in all.into_iter().zip(owners) {
        let place = control::place(plan, &shard.primary.endpoint);
        let (server, keys) = (shard.name().to_owned(), shard.keys());
        match owner {
            Err(error) => held.push(Held { keys, error }),
            Ok(Some(owner)) if owner.plan != plan.forward_name() => tell(&format!(
                "note: {server} is left alone: it is {} of the reshard {} now",
                owner.shard, owner.plan
            )),
            Ok(Some(owner)) if owner.shard != place => {
                let was = owner.shard;
                let what =
                    format!("it was {was} when its streams began: give the plan as it was then");
                held.push(Held { keys, error: CutoverError::Unfit { server, what } });
            }
            Ok(_) => shards.push(shard),
        }
    }
    held
}

async fn owner(shard: &mut Shard) -> Result<Option<Owner>, CutoverError> {
    let at = shard.name().to_owned();
    let asking = async |conn: &mut Conn| control::owner(conn, &at).await;
    shard.primary.talk("asking whose tables these are", asking).await
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

/// The account by which ShardingSphere follows a centre is none that a fence locks, and it knows the old
/// shards until somebody unregisters them.
fn units_left(plan: &Plan) -> Vec<String> {
    let of_centre = |(target, centre): (&str, &ZooKeeperTarget)| {
        format!(
            "note: routing target {target}: read_only alone keeps {} out of the old shards. Unregister \
             their units in ShardingSphere (UNREGISTER STORAGE UNIT {}), then lock that account on their \
             servers, before anything there is restarted or switched off",
            centre.units.user,
            units(plan).join(", ")
        )
    };
    plan.centres().map(of_centre).collect()
}

/// Of the old shards, as they are published.
fn units(plan: &Plan) -> Vec<String> {
    let name = plan.name.replace('-', "_");
    plan.old_shards().map(|shard| format!("{name}_old_{}", shard.0)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_old_shards_are_named_as_they_were_published() {
        let text = "name = \"my-shop\"\nmodulus = { old = 2, new = 1 }\nlog = { kind = \"direct\" }\n\
            [defaults]\nuser = \"u\"\npassword = \"p\"\nhost = \"h\"\n[[old]]\nschema = \"o0\"\n\
            [[old]]\nschema = \"o1\"\n[[new]]\nschema = \"n0\"\n[[table]]\nname = \"t\"\n\
            key = \"k\"\nrule = \"floor_mod\"\n";
        let parse = |text: &str| Plan::parse(text, &|_| None).map_err(|errors| errors.to_string());
        assert_eq!(parse(text).map(|plan| units_left(&plan)), Ok(Vec::new()));
        let centre = "[[routing]]\nkind = \"zookeeper\"\nservers = [\"127.0.0.1:2181\"]\n\
            namespace = \"gov\"\ndatabase = \"shop\"\nuser = \"sphere\"\npassword = \"p\"\n";
        let said = parse(&format!("{text}{centre}")).map(|plan| units_left(&plan).concat());
        let said = said.unwrap_or_default();
        assert!(said.contains("UNREGISTER STORAGE UNIT my_shop_old_0, my_shop_old_1)"), "{said}");
        assert!(said.contains("keeps sphere out"), "{said}");
    }
}
