//! The watchdog of this process: whether it could end a run in an operator's place, and the one that
//! does.
//!
//! It needs what an operator needs: the login of the cutover with its privileges on every shard, and
//! on this very host the programs and folders of routing targets that are a command or a file. A
//! server or a target that does not answer makes no daemon unfit: none could do better.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use modshift_cutover::{metrics, shard, watch};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::desk::server_of;
use modshift_mariadb::{Class, Grants, error};
use modshift_proto::plan::{Endpoint, Plan, RoutingKind};
use mysql_async::prelude::Queryable;
use tokio::sync::watch as channel;

use crate::cutover::Wiring;

/// Grants and hosts change rarely; what has changed shows before a night is over.
const LOOK: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(10);

/// What the login of a cutover holds on every server, whatever the plan; see
/// deploy/mariadb/grants-cutover.sql.
const NEEDED: [&str; 4] = ["READ_ONLY ADMIN", "CONNECTION ADMIN", "PROCESS", "SET USER"];
/// And where the plan names accounts, which a run locks.
const NEEDED_TO_LOCK: &str = "CREATE USER";
/// And on the schema: triggers that a run has taken down must come back before anyone writes.
const NEEDED_THERE: [&str; 2] = ["TRIGGER", "EVENT"];

/// Never ends.
pub async fn run(plan: &Arc<Plan>) -> Infallible {
    for end in ["undone", "finished"] {
        metrics::watchdog_ended(end, 0);
    }
    if !plan.cutover.watchdog {
        std::future::pending::<()>().await;
    }
    let (said, fit) = channel::channel(Some("it has not asked the servers yet".to_owned()));
    let watching = watch::watch(plan.clone(), || Wiring::watchdog(plan.clone()), fit);
    let judging = async {
        loop {
            let why = unfit(plan).await;
            metrics::watchdog_ready(&plan.name, why.is_none());
            let before = said.send_replace(why.clone());
            match why {
                Some(why) if Some(&why) != before.as_ref() => tracing::warn!(
                    why,
                    "this daemon cannot end a cutover whose operator is gone: \
                     cutover.watchdog = false in the plan gives that up"
                ),
                _ => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        never = watching => never,
        never = judging => never,
    }
}

/// Why this process could not end a run; `None`: as far as it can be known, it could.
async fn unfit(plan: &Plan) -> Option<String> {
    if let Some(why) = target_elsewhere(plan) {
        return Some(why);
    }
    // Grants are the whole server's.
    let (old, new) = (&plan.cutover.old_accounts, &plan.cutover.new_accounts);
    let shards = plan.old.iter().map(|shard| (shard, !old.is_empty()));
    let shards = shards.chain(plan.new.iter().map(|shard| (shard, !new.is_empty())));
    let mut servers: Vec<(Endpoint, Vec<&str>, bool)> = Vec::new();
    for (shard, locks) in shards {
        let server = shard::login(plan, server_of(shard));
        match servers.iter_mut().find(|(known, ..)| *known == server) {
            Some((_, schemas, any)) => {
                schemas.push(&shard.schema);
                *any |= locks;
            }
            None => servers.push((server, vec![&shard.schema], locks)),
        }
    }
    let asked = servers.into_iter().map(|(server, schemas, locks)| lacking(server, schemas, locks));
    join_all(asked).await.into_iter().flatten().next()
}

/// A routing target that cannot be told from this host.
pub fn target_elsewhere(plan: &Plan) -> Option<String> {
    for target in &plan.routing {
        let lacks = match &target.kind {
            RoutingKind::Command { argv, .. } => {
                argv.first().and_then(|program| no_program(program))
            }
            RoutingKind::File { path } => no_folder(path),
            RoutingKind::ProxySql(sql) => sql.file.as_deref().and_then(no_folder),
            RoutingKind::ShardingSphere(sphere) => [&sphere.yaml, &sphere.distsql]
                .into_iter()
                .flatten()
                .find_map(|path| no_folder(path)),
            RoutingKind::Http { .. } | RoutingKind::Etcd(_) | RoutingKind::ZooKeeper(_) => None,
        };
        if let Some(lacks) = lacks {
            return Some(format!("routing target {}: {lacks} on this host", target.name));
        }
    }
    None
}

fn no_program(program: &str) -> Option<String> {
    let there = match program.contains('/') {
        true => Path::new(program).is_file(),
        false => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        }
    };
    (!there).then(|| format!("there is no program {program}"))
}

fn no_folder(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    (!folder.is_dir()).then(|| format!("there is no folder {}", folder.display()))
}

/// `locks`: it has accounts that a run locks.
async fn lacking(endpoint: Endpoint, schemas: Vec<&str>, locks: bool) -> Option<String> {
    let (at, user) = (label(&endpoint), &endpoint.user);
    let asking = async {
        let mut conn = connect(&endpoint, Session::Plain).await?;
        let lines = conn.query("SHOW GRANTS").await;
        let lines: Vec<String> =
            lines.map_err(|error| error::of(&at, "reading modshift's own grants", error))?;
        // The answer is known, whatever becomes of the connection.
        let _ = conn.disconnect().await;
        Ok(Grants::parse(lines.iter().map(String::as_str)))
    };
    let asked = tokio::time::timeout(ANSWER, asking).await;
    let grants = match asked {
        Ok(Ok(grants)) => grants,
        Ok(Err(error)) => {
            let error: modshift_mariadb::ServerError = error;
            let refused = matches!(error, modshift_mariadb::ServerError::Login { .. });
            return (refused || error.class() == Class::Halt).then(|| error.to_string());
        }
        Err(_) => return None,
    };
    let global = NEEDED.into_iter().chain(locks.then_some(NEEDED_TO_LOCK));
    let missing: Vec<&str> = global.filter(|privilege| !grants.has_global(privilege)).collect();
    if !missing.is_empty() {
        return Some(format!("user {user} lacks {} on {at}", missing.join(", ")));
    }
    schemas.into_iter().find_map(|schema| {
        let lacks = |privilege: &&str| !grants.has_on_schema(schema, privilege);
        let missing: Vec<&str> = NEEDED_THERE.into_iter().filter(lacks).collect();
        (!missing.is_empty())
            .then(|| format!("user {user} lacks {} on {at}/{schema}", missing.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_needs_of_this_host_is_named() {
        assert_eq!(no_program("sh"), None);
        assert_eq!(no_program("/bin/sh"), None);
        let missing = no_program("no-such-program-of-ours").unwrap();
        assert_eq!(missing, "there is no program no-such-program-of-ours");
        assert!(no_program("/no/such/program").is_some());
        assert_eq!(no_folder(Path::new("/tmp/routing.json")), None);
        assert_eq!(no_folder(Path::new("routing.json")), None);
        let missing = no_folder(Path::new("/no/such/folder/routing.json")).unwrap();
        assert_eq!(missing, "there is no folder /no/such/folder");
    }
}
