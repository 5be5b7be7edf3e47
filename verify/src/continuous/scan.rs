//! The scanner: the table with the oldest proof, round after round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use modshift_mariadb::control::RESYNC;
use modshift_proto::plan::{Endpoint, Plan};
use tokio_util::sync::CancellationToken;

use super::{RETRY, Troubles};
use crate::error::VerifyError;
use crate::pace::Pace;
use crate::progress;
use crate::settle::if_there;
use crate::shard::{HERE, Shard};
use crate::verifier::{Options, Verifier};

/// After a table: others may want the lock, and a small plan need not be read all the time.
const BETWEEN_TABLES: Duration = Duration::from_secs(1);

pub(super) async fn scan(plan: Arc<Plan>, pace: Arc<Pace>, cancel: &CancellationToken) {
    let mut troubles = Troubles::default();
    while !cancel.is_cancelled() {
        let wait = match one_table(plan.clone(), pace.clone(), cancel).await {
            Ok(()) => {
                troubles.over();
                BETWEEN_TABLES
            }
            Err(error) => {
                troubles.note(&error);
                RETRY
            }
        };
        let _ = cancel.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

async fn one_table(
    plan: Arc<Plan>,
    pace: Arc<Pace>,
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    // While all stands still for a fence, not even a connection is opened.
    if cancel.run_until_cancelled(pace.ready()).await.is_none() {
        return Ok(());
    }
    let mut verifier = Verifier::open(plan.clone(), pace.clone(), Duration::ZERO).await?;
    let outcome = async {
        verifier.copied().await?;
        // Not what is copied again: whoever asked for that compares it, and waits for the lock.
        let asked = asked_for(&mut verifier.primaries).await?;
        let Some(index) = verifier.oldest(&asked).await? else { return Ok(()) };
        let mut notes = Vec::new();
        // A round from before would have to be followed by another.
        let kept_for = progress::kept_for(&mut verifier.shards.new).await?;
        let options =
            Options { not_before: kept_for.map(Duration::from_secs), ..Options::default() };
        let report = tokio::select! {
            report = verifier.round(index, &options, &mut notes, cancel) => report?,
            // What the round would prove counts no longer.
            asked = asked_meanwhile(&plan, &pace, index) => return asked,
        };
        if let Some(report) = report.filter(|report| report.mismatches > 0) {
            let (table, rows) = (&report.table, report.mismatches);
            tracing::error!(table, rows, "rows differ: modshift verify names them");
        }
        Ok(())
    }
    .await;
    verifier.close().await;
    outcome
}

/// Tables of which rows are to be copied again.
async fn asked_for(primaries: &mut [Shard]) -> Result<BTreeSet<String>, VerifyError> {
    let sql = format!("SELECT DISTINCT BINARY table_name FROM {HERE}{RESYNC}");
    let mut tables = BTreeSet::new();
    for shard in primaries {
        let rows: Vec<String> = if_there(shard.query("looking for resyncs", &sql).await)?;
        tables.extend(rows);
    }
    Ok(tables)
}

/// Ends once this table is to be copied again.
async fn asked_meanwhile(plan: &Plan, pace: &Pace, index: usize) -> Result<(), VerifyError> {
    let shard = |endpoint: &Endpoint| Shard::new(endpoint.clone(), pace.seats().clone());
    let mut primaries: Vec<Shard> = plan.old.iter().map(shard).collect();
    loop {
        tokio::time::sleep(RETRY).await;
        if asked_for(&mut primaries).await?.contains(&plan.tables[index].name) {
            return Ok(());
        }
    }
}
