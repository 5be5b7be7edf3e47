//! Shards whose servers are gone for good, as the operator says.

use futures_util::future::join_all;
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{NewShard, OldShard};

use crate::check::Side;
use crate::cutover::answers;

pub struct Gone {
    sides: Vec<Side>,
    /// Their servers, as [`State::remembered`](super::look::State) has them.
    remembered: Vec<String>,
}

/// Here is what tells who did what and who is at it.
const HOME: &str = "--gone-new 0: new shard 0 holds the journal and the audit, and where daemons are \
     looked for: point the plan at whichever server has its schema by now";

impl Gone {
    /// Or what speaks against it.
    pub async fn of(plan: &Plan, old: &[u16], new: &[u16]) -> Result<Gone, Vec<String>> {
        let old = old.iter().map(|&shard| Side::Old(OldShard(shard)));
        let new = new.iter().map(|&shard| Side::New(NewShard(shard)));
        let sides: Vec<Side> = old.chain(new).collect();
        let asked = join_all(sides.iter().map(async |&side| is_gone(plan, side).await)).await;
        let against: Vec<String> = asked.iter().filter_map(|one| one.clone().err()).collect();
        if !against.is_empty() {
            return Err(against);
        }
        let plan_name = plan.forward_name();
        let mut remembered = Vec::new();
        for (side, endpoint) in sides.iter().zip(asked.into_iter().flatten()) {
            let replicas = endpoint.replicas.iter().map(|at| (&at.host, at.port));
            let servers = std::iter::once((&endpoint.host, endpoint.port)).chain(replicas);
            let word = match side {
                Side::Old(_) => "old",
                Side::New(_) => "new",
            };
            remembered.extend(
                servers.map(|(host, port)| format!("{word} {host}:{port} of plan {plan_name}")),
            );
        }
        Ok(Gone { sides, remembered })
    }

    pub fn has(&self, side: Side) -> bool {
        self.sides.contains(&side)
    }

    /// Nobody needs to know any more what that server was before the fence.
    pub fn forgets(&self, remembered: &str) -> bool {
        self.remembered.iter().any(|server| server == remembered)
    }
}

async fn is_gone(plan: &Plan, side: Side) -> Result<&Endpoint, String> {
    let (word, number, endpoint) = match side {
        Side::Old(shard) => ("old", shard.0, plan.old.get(usize::from(shard.0))),
        Side::New(shard) => ("new", shard.0, plan.new.get(usize::from(shard.0))),
    };
    let Some(endpoint) = endpoint else {
        return Err(format!("--gone-{word} {number}: the plan has no such {word} shard"));
    };
    if matches!(side, Side::New(NewShard(0))) {
        return Err(HOME.to_owned());
    }
    match answers(endpoint).await {
        None => Err(format!("{side} answers: leave it out of --gone-{word}")),
        Some(_) => Ok(endpoint),
    }
}
