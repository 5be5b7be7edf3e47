//! A record of the change log that is none of ours: its applier has halted there, and is sent past it.
//!
//! Nothing has to be compared for it. A message of ours that was damaged is no less missed: the next one
//! of its stream has a number too many.

use std::time::Instant;

use modshift_mariadb::control::skip::Place;
use modshift_mariadb::control::{SKIP, WATERMARK};
use modshift_mariadb::{ServerError, audit as audited};
use modshift_proto::NewShard;
use modshift_proto::plan::{Log, Plan};
use serde::Serialize;

use super::{DOING, POLL, TAKEN_WITHIN, endpoint, there};
use crate::exit::{BadPlan, Exit};
use crate::session::{self, Server};
use crate::{answer, args, audit};

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    /// `refused`, `would_ask`, `asked` or `passed`.
    state: &'static str,
    partition: u16,
    offset: i64,
    back: bool,
    text: String,
}

pub async fn run(
    plan: &Plan,
    args: &args::Skip,
    (partition, offset): (u16, i64),
    why: &str,
) -> anyhow::Result<Exit> {
    let target = endpoint(&plan.new, partition, "--partition", args.back)?;
    let Log::Kafka(log) = &plan.log else {
        let message =
            "--partition: the in-process log has no records that anybody else could write";
        return Err(BadPlan(message.to_owned()).into());
    };
    let lies = format!("the record at offset {offset} of partition {partition} of {}", log.topic);
    let shard = NewShard(partition);
    let answer = |state, text: String, exit| {
        let text = plan.direction().words(&text);
        match args.json {
            false => answer::line(text),
            true => {
                let outcome = Outcome { state, partition, offset, back: args.back, text };
                answer::last(serde_json::to_string_pretty(&outcome)?);
            }
        }
        anyhow::Ok(exit)
    };
    let refuse = |why: &str| answer("refused", format!("nothing was passed over: {why}"), Exit::No);
    let mut server = Server::open(target, DOING).await?;
    let state = state(&mut server, shard, offset).await?;
    if state.is_none() {
        return refuse(&format!(
            "the applier of {shard} has not halted at offset {offset}: only a record at which it stands \
             can be passed over; modshift status names it"
        ));
    }
    let meaning = format!("{lies} is passed over, alone, by the applier of {shard}");
    if args.dry_run {
        let text = format!("{meaning}; nothing was done, this was a dry run");
        return answer("would_ask", text, Exit::Done);
    }
    if state.as_deref() == Some("halted") {
        if !args.yes {
            let meaning = plan.direction().words(&meaning);
            if !session::agreed("skip", plan.forward_name(), &[meaning], args.json).await? {
                return refuse("nobody agreed");
            }
        }
        let entry = audit::begin(plan, &meaning).await?;
        let asked =
            server.run(&Place::record(shard, offset).ask(), (why, audited::operator())).await;
        let outcome = asked.map(|()| Exit::Done).map_err(anyhow::Error::from);
        audit::finish(entry, &outcome).await;
        outcome?;
    }
    let deadline = Instant::now() + TAKEN_WITHIN;
    // Or it stands at the next one already.
    let passed = format!(
        "SELECT 1 FROM {WATERMARK} WHERE log_offset > ? UNION SELECT 1 FROM {SKIP} WHERE what = 'record' \
         AND source = ? AND state = 'halted' AND CAST(name AS SIGNED) > ? LIMIT 1"
    );
    let beyond = (offset, partition, offset);
    while there(server.first::<u8>(&passed, beyond).await)?.is_none() {
        if Instant::now() >= deadline {
            let text = format!(
                "{lies} is to be passed over, and the applier of {shard} has not come by it within {} s: \
                 is its daemon running? It does so whenever it is started",
                TAKEN_WITHIN.as_secs()
            );
            return answer("asked", text, Exit::CannotTell);
        }
        tokio::time::sleep(POLL).await;
    }
    answer("passed", format!("{lies} was passed over"), Exit::Done)
}

async fn state(
    server: &mut Server,
    shard: NewShard,
    offset: i64,
) -> Result<Option<String>, ServerError> {
    let sql =
        format!("SELECT BINARY state FROM {SKIP} WHERE {}", Place::record(shard, offset).row());
    there(server.first(&sql, ()).await)
}
