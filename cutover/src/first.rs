//! The routing before the first run. Applications that follow it are deployed days before the night
//! of the cutover, and must find in it what they do today.

use modshift_mariadb::connect::label;
use modshift_mariadb::control::{self, Stage};
use modshift_mariadb::{ServerError, Session, connect};
use modshift_proto::plan::{Endpoint, Plan};

use crate::error::CutoverError;
use crate::outside::Outside;
use crate::register::newest;
use crate::step::Side;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    Published,
    /// This old shard is not this reshard's yet: its reader has not begun.
    Early {
        shard: String,
    },
    /// A run has begun: from there on the routing is the operators'.
    Over,
}

/// Publishes that the old shards serve: as version 1, or as the next one where the plan has changed
/// since.
///
/// This takes no lock that could keep an operator out. Who begins meanwhile publishes the same, and
/// then versions above it, which no shard and no target gives up for this one.
pub async fn first_routing(plan: &Plan, outside: &impl Outside) -> Result<First, CutoverError> {
    let endpoint = &plan.new[0];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let at = label(endpoint);
    if newest(&mut conn, &at, &plan.name).await?.is_some() {
        return Ok(First::Over);
    }
    // The old shards may be the new ones of a reshard that has not cut over: they do not serve.
    for shard in &plan.old {
        if !serves(plan, shard).await? {
            return Ok(First::Early { shard: label(shard) });
        }
    }
    let routed = outside.routed().await.map_err(CutoverError::Publish)?;
    let version = match routed {
        None => 1,
        Some(routed) if routed.side == Side::New => return Ok(First::Over),
        Some(routed) => outside.version_that_stands(routed).await.map_err(CutoverError::Publish)?,
    };
    // A run that begins after this finds what stands.
    if newest(&mut conn, &at, &plan.name).await?.is_some() {
        return Ok(First::Over);
    }
    outside.publish(Side::Old, version).await.map_err(CutoverError::Publish)?;
    Ok(First::Published)
}

/// Is it an old shard of this plan, by what stands on it, and not fenced?
async fn serves(plan: &Plan, shard: &Endpoint) -> Result<bool, ServerError> {
    let mut conn = connect(shard, Session::Plain).await?;
    let owner = control::owner(&mut conn, &label(shard)).await?;
    Ok(owner.is_some_and(|owner| {
        let ours = !owner.is_other(plan.forward_name(), &control::place(plan, shard));
        ours && owner.stage == Stage::Before
    }))
}
