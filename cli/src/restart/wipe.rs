//! Empties and drops, shard by shard, all of it safe to repeat.
//!
//! Modshift's tables are dropped with the login of the cutover, which may; planned tables are emptied
//! with modshift's own, which may delete their rows. Where it may also drop them it truncates.

use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use modshift_changelog::{remove_topic, stage};
use modshift_cutover::shard::login;
use modshift_mariadb::value::quote;
use modshift_mariadb::{ServerError, control};
use modshift_proto::plan::{Log, Plan};
use serde_json::Value;

use super::look::Shard;
use crate::progress::Progress;
use crate::session::Server;
use crate::tell::Form;

const DOING: &str = "starting the copy over";
/// A transaction that replicas of the new shard take in a moment.
const PIECE: u64 = 10_000;

/// All that streams and verifiers remember. The journal, the audit and what `check --deep` has found
/// of the old rows stay.
const REMEMBERED: [&str; 13] = [
    control::WATERMARK,
    control::PARKED,
    control::PROGRESS,
    control::TABLES,
    control::TOKEN,
    control::REPAIR,
    control::RESYNC,
    control::SKIP,
    control::VERIFY,
    control::MISMATCH,
    control::SETTLED,
    control::VERIFIER,
    // Last: from here on another reshard may have the shard.
    control::PLAN,
];

fn dropped(shard: &Shard) -> impl Iterator<Item = &'static str> {
    REMEMBERED.into_iter().filter(|name| shard.state.has(name))
}

/// What will be done, for people.
pub fn script(shards: &[Shard], topics: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for shard in shards {
        for filled in &shard.state.filled {
            let (table, rows) = (quote(&filled.table), filled.rows);
            lines.push(format!("{}: TRUNCATE TABLE {table}; -- about {rows} rows", shard.side));
        }
        for name in dropped(shard) {
            lines.push(format!("{}: DROP TABLE {name};", shard.side));
        }
    }
    lines.extend(topics.iter().map(|topic| format!("kafka: delete topic {topic}")));
    lines
}

/// From here on no stream of these shards starts.
pub async fn mark(plan: &Plan, shards: &[Shard]) -> Result<(), ServerError> {
    let marking = shards.iter().map(async |shard| {
        let mut server = Server::open(&login(plan, shard.endpoint.clone()), DOING).await?;
        // Even IF NOT EXISTS would write an event group.
        if !shard.state.has(control::RESTART) {
            server.query(control::RESTART_TABLE).await?;
        }
        Ok(())
    });
    join_all(marking).await.into_iter().collect::<Result<(), _>>()?;
    stage::reached("restart_marked", 1).await;
    Ok(())
}

pub async fn unmark(plan: &Plan, shards: &[Shard]) -> Result<(), ServerError> {
    for shard in shards {
        let mut server = Server::open(&login(plan, shard.endpoint.clone()), DOING).await?;
        server.query(&format!("DROP TABLE IF EXISTS {}", control::RESTART)).await?;
        stage::reached("restart_unmarked", 1).await;
    }
    Ok(())
}

/// An applier moves its watermark with every batch, or does nothing: without one none goes on.
pub async fn stop_appliers(plan: &Plan, shards: &[Shard]) -> Result<(), ServerError> {
    let stopping = shards.iter().filter(|shard| shard.state.has(control::WATERMARK));
    let stopping = stopping.map(async |shard| {
        let mut server = Server::open(&login(plan, shard.endpoint.clone()), DOING).await?;
        server.query(&format!("DROP TABLE IF EXISTS {}", control::WATERMARK)).await
    });
    join_all(stopping).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    stage::reached("restart_stopped", 1).await;
    Ok(())
}

pub async fn wipe(plan: &Plan, form: Form, shards: &[Shard]) -> Result<(), ServerError> {
    let new = || shards.iter().filter(|shard| !shard.side.is_old());
    let of = new().flat_map(|shard| &shard.state.filled).map(|filled| filled.rows).sum();
    let deleted = Deleted { of, told: Mutex::new((0, Progress::begin())) };
    join_all(new().map(|shard| empty(shard, &deleted)))
        .await
        .into_iter()
        .collect::<Result<(), _>>()?;
    drop(deleted);
    for shard in new() {
        form.said("line", &format!("{}: its planned tables are empty", shard.side), Value::Null);
    }
    stage::reached("restart_emptied", 1).await;
    let forgetting = shards.iter().map(async |shard| {
        let mut server = Server::open(&login(plan, shard.endpoint.clone()), DOING).await?;
        for name in dropped(shard) {
            server.query(&format!("DROP TABLE IF EXISTS {name}")).await?;
        }
        stage::reached("restart_forgotten", 1).await;
        Ok(())
    });
    join_all(forgetting).await.into_iter().collect()
}

/// How far the deletion is on all new shards together.
struct Deleted {
    /// Estimated.
    of: u64,
    told: Mutex<(u64, Progress)>,
}

impl Deleted {
    fn add(&self, rows: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (deleted, progress) = &mut *told;
        *deleted += rows;
        let of = self.of.max(*deleted);
        progress.show(&format!("emptying the new shards: {deleted} of about {of} rows deleted"));
    }
}

async fn empty(shard: &Shard, all: &Deleted) -> Result<(), ServerError> {
    let mut server = Server::open(&shard.endpoint, DOING).await?;
    // Children and parents go alike, in the order of the plan.
    server.query("SET SESSION foreign_key_checks = 0").await?;
    for filled in &shard.state.filled {
        let table = quote(&filled.table);
        // An error once another one has come to its end: from there on the rows are a new copy's.
        let marked = format!("(SELECT COUNT(*) FROM {}) >= 0", control::RESTART);
        server.query(&format!("DO {marked}")).await?;
        match server.query(&format!("TRUNCATE TABLE {table}")).await {
            Err(ServerError::Privilege { .. }) => {}
            done => {
                done?;
                continue;
            }
        }
        loop {
            let sql = format!("DELETE FROM {table} WHERE {marked} LIMIT {PIECE}");
            let deleted = server.query(&sql).await?;
            if deleted == 0 {
                break;
            }
            all.add(deleted);
        }
    }
    Ok(())
}

/// What is in them was for the copy that is given up.
pub async fn remove_topics(plan: &Plan, form: Form, topics: &[String]) -> anyhow::Result<()> {
    for plan in [plan, &plan.reversed()] {
        let Log::Kafka(log) = &plan.log else { continue };
        if !topics.contains(&log.topic) {
            continue;
        }
        remove_topic(log).await.map_err(|error| {
            anyhow::anyhow!(
                "topic {} holds the changes of the copy that is given up, and could not be deleted: \
                 {error}; delete it with kafka-topics.sh --delete --topic {}, or allow modshift to \
                 (Delete on the topic), and give `modshift restart-copy` again",
                log.topic,
                log.topic
            )
        })?;
        form.said("line", &format!("kafka: topic {} is deleted", log.topic), Value::Null);
    }
    Ok(())
}
