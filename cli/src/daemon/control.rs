//! Modshift's own tables on a shard, created before its applier looks for them. (A reader creates
//! those of its shard itself, since it writes there from its first statement on.)

use std::time::Duration;

use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{Class, Few, ServerError, control, error};
use modshift_proto::NewShard;
use modshift_proto::plan::Plan;
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use super::verifier::wanted;

/// How often a server that is away is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// Waits for a server that is only away. `Ok(false)`: cancelled meanwhile.
pub async fn create(
    plan: &Plan,
    shard: NewShard,
    few: &Few,
    cancel: &CancellationToken,
) -> Result<bool, ServerError> {
    let attempt = async || {
        let _turn = few.turn(&plan.new[usize::from(shard.0)]).await;
        attempt(plan, shard).await
    };
    loop {
        let error = match cancel.run_until_cancelled(attempt()).await {
            None => return Ok(false),
            Some(Ok(())) => return Ok(true),
            Some(Err(error)) if error.class() == Class::Halt => return Err(error),
            Some(Err(error)) => error,
        };
        tracing::warn!(%error, "waiting for a new shard");
        if cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return Ok(false);
        }
    }
}

async fn attempt(plan: &Plan, shard: NewShard) -> Result<(), ServerError> {
    let endpoint = &plan.new[usize::from(shard.0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    control::create(&mut conn, &label(endpoint), endpoint, plan).await?;
    if wanted(plan) {
        for statement in [control::VERIFIER_TABLE, control::VERIFIER_BEGINS] {
            let failed = |e| error::of(&label(endpoint), "saying that changes are kept", e);
            conn.query_drop(statement).await.map_err(failed)?;
        }
    }
    Ok(())
}
