//! The routing before the first run. Applications that follow it are deployed days before the night
//! of the cutover, and must find in it what they do today.

use modshift_mariadb::connect::label;
use modshift_mariadb::{Session, connect};
use modshift_proto::plan::Plan;

use crate::error::CutoverError;
use crate::outside::Outside;
use crate::register::newest;
use crate::step::Side;

/// Publishes that the old shards serve: as version 1, or as the next one where the plan has changed
/// since. Nothing (`None`) once a run has begun: from there on the routing is the operators'.
///
/// This takes no lock that could keep an operator out. Who begins meanwhile publishes the same, and
/// then versions above it, which no shard and no target gives up for this one.
pub async fn first_routing(
    plan: &Plan,
    outside: &impl Outside,
) -> Result<Option<u64>, CutoverError> {
    let endpoint = &plan.new[0];
    let routed = outside.routed().await.map_err(CutoverError::Publish)?;
    let version = match routed {
        None => 1,
        Some(routed) if routed.side == Side::New => return Ok(None),
        Some(routed) => outside.version_that_stands(routed).await.map_err(CutoverError::Publish)?,
    };
    // Asked last: a run that begins after it finds what stands.
    let mut conn = connect(endpoint, Session::Plain).await?;
    if newest(&mut conn, &label(endpoint), &plan.name).await?.is_some() {
        return Ok(None);
    }
    outside.publish(Side::Old, version).await.map_err(CutoverError::Publish)?;
    Ok(Some(version))
}
