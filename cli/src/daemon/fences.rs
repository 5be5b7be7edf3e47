//! The fences that this process looks after: those of the shards that it applies to.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::join_all;
use modshift_cutover::Side;
use modshift_cutover::keep::keep as keep_one;
use modshift_mariadb::Desk;
use modshift_proto::plan::{Direction, Plan};

use super::Share;

/// Never ends. What a stream of these shards comes to does not matter here.
pub async fn keep(plan: &Arc<Plan>, ways: [(&Arc<Plan>, &Share); 2]) -> Infallible {
    let mut kept = Vec::new();
    for (way, share) in ways {
        let side = match way.direction() {
            Direction::Forward => Side::New,
            Direction::Back => Side::Old,
        };
        kept.extend(share.new.iter().map(|shard| (side, shard.0)));
        // Where nobody applies to the old shards, those who read them.
        if way.direction() == Direction::Forward && !plan.back.enabled {
            kept.extend(share.old.iter().map(|shard| (Side::Old, shard.0)));
        }
    }
    let desk = Desk::default();
    let keeping =
        kept.into_iter().map(|(side, shard)| keep_one(plan.clone(), side, shard, desk.clone()));
    join_all(keeping).await;
    std::future::pending().await
}
