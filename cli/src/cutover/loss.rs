//! A new shard that is dead for good: a rollback without it loses what had not come to the old shards.
//! It is refused with that loss, and goes once the operator has named the shard.

use std::time::Duration;

use futures_util::future::join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error;
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

/// For a shard to answer. Who does not in this time is asked about, not given up.
const ANSWER: Duration = Duration::from_secs(5);

/// What has come to one old shard of a new one.
#[derive(Clone, Debug, PartialEq)]
struct Arrived {
    old: usize,
    gtids: String,
    /// UTC, by the new shard's clock at the newest token that is applied here.
    until: String,
    age_s: u64,
}

/// The new shards that a rollback goes without, or why it does not.
pub async fn judge(plan: &Plan, accepted: &[u16]) -> Result<Vec<u16>, String> {
    let answers = join_all(plan.new.iter().map(answers)).await;
    let silent = |shard: u16| answers.get(usize::from(shard)).is_some_and(Option::is_some);
    for &shard in accepted {
        match answers.get(usize::from(shard)) {
            None => return Err(format!("--accept-loss {shard}: the plan has no such new shard")),
            Some(None) => {
                return Err(format!(
                    "new shard {shard} answers, so nothing of it need be lost: leave --accept-loss \
                     {shard} out"
                ));
            }
            Some(Some(_)) => {}
        }
    }
    if silent(0) {
        let why = answers[0].as_deref().unwrap_or_default();
        return Err(format!(
            "new shard 0 holds the journal, without which no rollback can be begun: bring its server \
             back, or its data to another one ({why})"
        ));
    }
    let missing: Vec<u16> =
        (0u16..).zip(&answers).filter(|(_, why)| why.is_some()).map(|(shard, _)| shard).collect();
    let refused: Vec<u16> =
        missing.iter().copied().filter(|shard| !accepted.contains(shard)).collect();
    if refused.is_empty() {
        return Ok(missing);
    }
    let mut text = Vec::new();
    for &shard in &refused {
        let arrived = join_all((0..).zip(&plan.old).map(|(old, at)| arrived(old, at, shard))).await;
        let why = answers[usize::from(shard)].as_deref().unwrap_or_default();
        text.push(loss(shard, why, &arrived));
    }
    let named: Vec<String> = missing.iter().map(u16::to_string).collect();
    text.push(format!(
        "nothing was done: bring it back if that is possible at all; modshift rollback --accept-loss \
         {} goes without",
        named.join(",")
    ));
    Err(text.join("\n"))
}

fn loss(shard: u16, why: &str, arrived: &[Result<Arrived, String>]) -> String {
    let mut text = format!("new shard {shard} does not answer ({why})");
    let known: Vec<&Arrived> = arrived.iter().flatten().collect();
    // What has come to every old shard: the least of them.
    match known.iter().max_by_key(|arrived| arrived.age_s) {
        Some(least) if known.len() == arrived.len() => {
            text += &format!(
                ". What it took after {} UTC, {} s ago, has not come to all old shards and would be \
                 lost, up to the moment at which it died",
                least.until, least.age_s
            );
        }
        _ => text += ". How much of what it took has come to the old shards cannot be told",
    }
    for outcome in arrived {
        text += &match outcome {
            Ok(arrived) => format!(
                "\n  old shard {} has it up to GTID {} (its token of {} UTC)",
                arrived.old, arrived.gtids, arrived.until
            ),
            Err(why) => format!("\n  {why}"),
        };
    }
    text
}

/// Why it does not.
pub async fn answers(endpoint: &Endpoint) -> Option<String> {
    let asking = async {
        let mut conn = connect(endpoint, Session::Plain).await?;
        let one: Result<Option<u8>, _> = conn.query_first("SELECT 1").await;
        one.map_err(|e| error::of(&label(endpoint), "asking whether it answers", e))?;
        // It has answered, whatever becomes of the connection.
        let _ = conn.disconnect().await;
        Ok::<(), modshift_mariadb::ServerError>(())
    };
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) if !error.is_connection_lost() => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("{}: no answer in {} s", label(endpoint), ANSWER.as_secs())),
    }
}

async fn arrived(old: usize, endpoint: &Endpoint, source: u16) -> Result<Arrived, String> {
    let asking = async {
        let mut conn = connect(endpoint, Session::Plain).await.map_err(|e| e.to_string())?;
        let sql = format!(
            "SELECT gtids, CAST(FROM_UNIXTIME(token_clock_us DIV 1000000) AS CHAR), GREATEST(0, \
             UNIX_TIMESTAMP() - token_clock_us DIV 1000000) FROM modshift_watermark \
             WHERE source = {source} AND token_clock_us > 0"
        );
        let row: Result<Option<(String, String, u64)>, _> = conn.query_first(sql).await;
        let row = row.map_err(|e| {
            error::of(&label(endpoint), "asking what has come of it", e).to_string()
        })?;
        let _ = conn.disconnect().await;
        let (gtids, until, age_s) =
            row.ok_or_else(|| format!("old shard {old} has nothing of it"))?;
        Ok(Arrived { old, gtids, until, age_s })
    };
    let late = |_| Err(format!("old shard {old} does not answer"));
    tokio::time::timeout(ANSWER, asking).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_by_what_has_come_least_far() {
        let arrived = |old, age_s| {
            let until = format!("2026-01-02 03:04:{:02}", 59 - age_s);
            Ok(Arrived { old, gtids: format!("0-1-{}", 100 - age_s), until, age_s })
        };
        let text = loss(2, "gone", &[arrived(0, 5), arrived(1, 9)]);
        assert!(text.contains("after 2026-01-02 03:04:50 UTC, 9 s ago"), "{text}");
        assert!(text.contains("old shard 0 has it up to GTID 0-1-95"), "{text}");
        let text = loss(2, "gone", &[arrived(0, 5), Err("old shard 1 does not answer".into())]);
        assert!(text.contains("cannot be told") && text.contains("old shard 1 does not"), "{text}");
    }
}
