//! Removes it. What a server refuses is named, with the statement for who may.

use std::cell::RefCell;

use futures_util::future::join_all;
use modshift_changelog::delete_topic;
use modshift_mariadb::ServerError;
use modshift_mariadb::control::FINISHED;
use modshift_mariadb::value::quote;
use modshift_proto::plan::{Log, Plan};
use serde_json::Value;

use super::left::{Closing, Work};
use super::look::Shard;
use crate::check::Side;
use crate::progress::Progress;
use crate::session::Server;
use crate::tell::Form;

const DOING: &str = "removing what is left of modshift";

pub fn topics(plan: &Plan) -> Vec<String> {
    let of = |plan: &Plan| match &plan.log {
        Log::Kafka(log) => Some(log.topic.clone()),
        Log::Direct { .. } => None,
    };
    of(plan).into_iter().chain(of(&plan.reversed())).collect()
}

/// Where what is said goes, and how far it is: a table of millions of rows is not dropped at once.
struct Telling {
    form: Form,
    of: usize,
    gone: RefCell<(usize, Progress)>,
}

impl Telling {
    fn say(&self, text: &str) {
        self.form.said("line", text, Value::Null);
    }

    fn add(&self) {
        let (gone, progress) = &mut *self.gone.borrow_mut();
        *gone += 1;
        progress.show(&format!("{gone} of {} tables, views and servers are done", self.of));
    }
}

/// Is all of it gone? What is not has been said.
pub async fn all(plan: &Plan, shards: &[Shard], work: &Work, form: Form) -> anyhow::Result<bool> {
    let of = work.objects.len() + work.servers.len();
    let telling = Telling { form, of, gone: RefCell::new((0, Progress::begin())) };
    let mut complete = remove_topics(plan, &telling).await;
    let of_shards = shards.iter().enumerate().map(async |(index, shard)| {
        let mut server = Server::open(&shard.endpoint, DOING).await?;
        let mut complete = true;
        for (_, sql) in work.objects.iter().filter(|(on, _)| *on == index) {
            complete &= done(&mut server, shard.side, sql, &telling).await?;
            telling.add();
        }
        Ok::<bool, ServerError>(complete)
    });
    for outcome in join_all(of_shards).await {
        complete &= outcome?;
    }
    for closing in &work.servers {
        complete &= close(shards, closing, &telling).await?;
        telling.add();
    }
    Ok(complete)
}

async fn close(
    shards: &[Shard],
    closing: &Closing,
    telling: &Telling,
) -> Result<bool, ServerError> {
    let first = &shards[closing.shards[0]];
    let mut server = Server::open(&first.endpoint, DOING).await?;
    let mut complete = true;
    if let Some(sql) = &closing.schema {
        complete &= done(&mut server, first.side, sql, telling).await?;
    }
    let Some(accounts) = &closing.accounts else { return Ok(complete) };
    let Some((own, others)) = accounts.split_last() else { return Ok(complete) };
    for account in others {
        let sql = format!("DROP USER IF EXISTS {account}");
        complete &= done(&mut server, first.side, &sql, telling).await?;
    }
    // Asked before the tables go that keep daemons out: may this login drop itself?
    let itself = format!("DROP USER IF EXISTS {own}");
    let may: Vec<String> = server.all("SHOW GRANTS", ()).await?;
    if !complete || !may.iter().any(|line| line.contains("CREATE USER")) {
        let side = first.side;
        telling.say(&format!(
            "the server of {side}: {FINISHED} stays until its accounts are gone, which this login may \
             not remove; as an administrator: {}; then DROP TABLE {FINISHED}",
            accounts.iter().map(|a| format!("DROP USER {a}")).collect::<Vec<_>>().join("; ")
        ));
        return Ok(false);
    }
    for &index in &closing.shards {
        let schema = quote(&shards[index].endpoint.schema);
        let sql = format!("DROP TABLE IF EXISTS {schema}.{FINISHED}");
        complete &= done(&mut server, shards[index].side, &sql, telling).await?;
    }
    if complete {
        complete &= done(&mut server, first.side, &itself, telling).await?;
    }
    Ok(complete)
}

/// What is refused is for somebody with more rights, and holds up nothing else.
async fn done(
    server: &mut Server,
    side: Side,
    sql: &str,
    telling: &Telling,
) -> Result<bool, ServerError> {
    match server.query(sql).await {
        Ok(_) => Ok(true),
        Err(error @ ServerError::Privilege { .. }) => {
            telling.say(&format!("{side}: {error}; as an administrator: {sql}"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn remove_topics(plan: &Plan, telling: &Telling) -> bool {
    let mut complete = true;
    for plan in [plan, &plan.reversed()] {
        if let Log::Kafka(log) = &plan.log
            && let Err(error) = delete_topic(log).await
        {
            let topic = &log.topic;
            telling.say(&format!(
                "kafka: topic {topic} is left: {error}; kafka-topics.sh --delete --topic {topic}"
            ));
            complete = false;
        }
    }
    complete
}
