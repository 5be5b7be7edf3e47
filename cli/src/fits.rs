//! Is the plan that a command is given the one that was cut over?
//!
//! A table that came or went since stands on both sides, and nobody knows which rows are newer: what
//! would compare, copy or switch with such a plan is refused before it does anything.

use std::time::Duration;

use futures_util::future::join_all;
use modshift_mariadb::connect::label;
use modshift_mariadb::{ServerError, Session, connect, control};
use modshift_proto::plan::{Endpoint, Plan};
use tokio::time::timeout;

use crate::check::survey::{all_sides, endpoint};
use crate::exit::BadPlan;

/// A shard that does not answer is for the command to notice, or to do without.
const ANSWER: Duration = Duration::from_secs(5);

pub async fn tables(plan: &Plan) -> anyhow::Result<()> {
    let sides = all_sides(plan);
    let asked = join_all(sides.iter().map(|&side| timeout(ANSWER, ask(endpoint(plan, side)))));
    let answers: Vec<_> = sides.iter().zip(asked.await).collect();
    let serves = |(side, answer): &(&crate::check::Side, Result<Result<_, ServerError>, _>)| {
        !side.is_old() && matches!(answer, Ok(Ok((_, true))))
    };
    if !answers.iter().any(serves) {
        return Ok(());
    }
    let planned = || plan.tables.iter().map(|table| table.name.as_str());
    for (side, answer) in &answers {
        let Ok(Ok((kept, _))) = answer else { continue };
        let names = kept.iter().map(String::as_str);
        let changed = control::changed_tables(names, planned()).filter(|_| !kept.is_empty());
        if let Some(changed) = changed {
            let message = format!(
                "{side}: the plan {changed}, but the reshard has been cut over with the tables it \
                 had then: give it those; others are for another reshard, after modshift finish"
            );
            return Err(BadPlan(message).into());
        }
    }
    Ok(())
}

/// The tables that its log is read for, and whether applications write there.
async fn ask(endpoint: &Endpoint) -> Result<(Vec<String>, bool), ServerError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let at = label(endpoint);
    let kept = control::kept_tables(&mut conn, &at).await?;
    let serves = control::serves(&mut conn, &at).await?;
    // What it said is known; the server closes what we cannot.
    let _ = conn.disconnect().await;
    Ok((kept.into_keys().collect(), serves))
}
