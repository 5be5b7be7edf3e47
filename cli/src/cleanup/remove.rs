//! Removes it. What a server refuses is named, with the statement for who may.

use futures_util::future::join_all;
use modshift_changelog::delete_topic;
use modshift_mariadb::ServerError;
use modshift_mariadb::control::FINISHED;
use modshift_mariadb::value::quote;
use modshift_proto::plan::{Log, Plan};

use super::left::{Closing, Work};
use super::look::Shard;
use crate::answer;
use crate::check::Side;
use crate::session::Server;

const DOING: &str = "removing what is left of modshift";

pub fn topics(plan: &Plan) -> Vec<String> {
    let of = |plan: &Plan| match &plan.log {
        Log::Kafka(log) => Some(log.topic.clone()),
        Log::Direct { .. } => None,
    };
    of(plan).into_iter().chain(of(&plan.reversed())).collect()
}

/// Is all of it gone? What is not has been said.
pub async fn all(plan: &Plan, shards: &[Shard], work: &Work) -> anyhow::Result<bool> {
    let mut complete = remove_topics(plan).await;
    let of_shards = shards.iter().enumerate().map(async |(index, shard)| {
        let mut server = Server::open(&shard.endpoint, DOING).await?;
        let mut complete = true;
        for (_, sql) in work.objects.iter().filter(|(on, _)| *on == index) {
            complete &= done(&mut server, shard.side, sql).await?;
        }
        Ok::<bool, ServerError>(complete)
    });
    for outcome in join_all(of_shards).await {
        complete &= outcome?;
    }
    for closing in &work.servers {
        complete &= close(shards, closing).await?;
    }
    Ok(complete)
}

async fn close(shards: &[Shard], closing: &Closing) -> Result<bool, ServerError> {
    let first = &shards[closing.shards[0]];
    let mut server = Server::open(&first.endpoint, DOING).await?;
    let mut complete = true;
    if let Some(sql) = &closing.schema {
        complete &= done(&mut server, first.side, sql).await?;
    }
    let Some(accounts) = &closing.accounts else { return Ok(complete) };
    let Some((own, others)) = accounts.split_last() else { return Ok(complete) };
    for account in others {
        complete &=
            done(&mut server, first.side, &format!("DROP USER IF EXISTS {account}")).await?;
    }
    // Asked before the tables go that keep daemons out: may this login drop itself?
    let itself = format!("DROP USER IF EXISTS {own}");
    let may: Vec<String> = server.all("SHOW GRANTS", ()).await?;
    if !complete || !may.iter().any(|line| line.contains("CREATE USER")) {
        let side = first.side;
        answer::line(format_args!(
            "the server of {side}: {FINISHED} stays until its accounts are gone, which this login may \
             not remove; as an administrator: {}; then DROP TABLE {FINISHED}",
            accounts.iter().map(|a| format!("DROP USER {a}")).collect::<Vec<_>>().join("; ")
        ));
        return Ok(false);
    }
    for &index in &closing.shards {
        let schema = quote(&shards[index].endpoint.schema);
        let sql = format!("DROP TABLE IF EXISTS {schema}.{FINISHED}");
        complete &= done(&mut server, shards[index].side, &sql).await?;
    }
    if complete {
        complete &= done(&mut server, first.side, &itself).await?;
    }
    Ok(complete)
}

/// What is refused is for somebody with more rights, and holds up nothing else.
async fn done(server: &mut Server, side: Side, sql: &str) -> Result<bool, ServerError> {
    match server.query(sql).await {
        Ok(_) => Ok(true),
        Err(error @ ServerError::Privilege { .. }) => {
            answer::line(format_args!("{side}: {error}; as an administrator: {sql}"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn remove_topics(plan: &Plan) -> bool {
    let mut complete = true;
    for plan in [plan, &plan.reversed()] {
        if let Log::Kafka(log) = &plan.log
            && let Err(error) = delete_topic(log).await
        {
            let topic = &log.topic;
            answer::line(format_args!(
                "kafka: topic {topic} is left: {error}; kafka-topics.sh --delete --topic {topic}"
            ));
            complete = false;
        }
    }
    complete
}
