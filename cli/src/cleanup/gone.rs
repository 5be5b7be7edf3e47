//! Old shards whose servers are gone for good, as the operator says.

use futures_util::future::join_all;
use modshift_proto::plan::Plan;

use crate::check::Side;
use crate::cutover::answers;

pub struct Gone {
    shards: Vec<u16>,
    /// Their servers, as [`State::remembered`](super::look::State) has them.
    remembered: Vec<String>,
}

impl Gone {
    /// Or what speaks against it.
    pub async fn of(plan: &Plan, shards: &[u16]) -> Result<Gone, Vec<String>> {
        let asking = shards.iter().map(async |&shard| {
            let Some(endpoint) = plan.old.get(usize::from(shard)) else {
                return Err(format!("--gone-old {shard}: the plan has no such old shard"));
            };
            match answers(endpoint).await {
                None => Err(format!("old shard {shard} answers: leave it out of --gone-old")),
                Some(_) => Ok(endpoint),
            }
        });
        let asked = join_all(asking).await;
        let against: Vec<String> = asked.iter().filter_map(|one| one.clone().err()).collect();
        if !against.is_empty() {
            return Err(against);
        }
        let plan_name = plan.forward_name();
        let mut remembered = Vec::new();
        for endpoint in asked.into_iter().flatten() {
            let replicas = endpoint.replicas.iter().map(|at| (&at.host, at.port));
            let servers = std::iter::once((&endpoint.host, endpoint.port)).chain(replicas);
            remembered.extend(
                servers.map(|(host, port)| format!("old {host}:{port} of plan {plan_name}")),
            );
        }
        Ok(Gone { shards: shards.to_vec(), remembered })
    }

    pub fn has(&self, side: Side) -> bool {
        matches!(side, Side::Old(shard) if self.shards.contains(&shard.0))
    }

    /// Nobody needs to know any more what that server was before the fence.
    pub fn forgets(&self, remembered: &str) -> bool {
        self.remembered.iter().any(|server| server == remembered)
    }
}
