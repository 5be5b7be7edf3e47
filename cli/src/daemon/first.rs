//! The first version of the routing, published by the daemon that applies new shard 0: applications
//! that follow it can be deployed from then on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use modshift_cutover::first::{First, first_routing};
use modshift_proto::NewShard;
use modshift_proto::plan::Plan;

use super::{Share, watchdog};
use crate::cutover::Wiring;

/// Between attempts, twice as long after each.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Never ends.
pub async fn run(plan: &Arc<Plan>, share: &Share) -> Infallible {
    if share.new.contains(&NewShard(0)) {
        publish(plan).await;
    }
    std::future::pending().await
}

async fn publish(plan: &Arc<Plan>) {
    if let Some(why) = watchdog::target_elsewhere(plan) {
        tracing::warn!(
            why,
            "this daemon cannot publish the routing: the cutover will, as version 1"
        );
        return;
    }
    let wiring = Wiring::before(plan.clone());
    let (mut pause, mut said) = (PAUSES.0, String::new());
    loop {
        match Box::pin(first_routing(plan, &wiring)).await {
            Ok(First::Published | First::Over) => return,
            Ok(First::Early { shard }) => {
                if said != shard {
                    tracing::info!(shard, "the routing waits for this shard's reader to begin");
                    said = shard;
                }
            }
            Err(error) => {
                let why = error.to_string();
                if said != why {
                    let hint = error.hint().unwrap_or_default();
                    tracing::warn!(why, hint, "the routing is not published yet; tried again");
                    said = why;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
