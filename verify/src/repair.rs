//! Has rows that differ copied again, through the change log: a request on the old shard, which its
//! reader takes up. Nothing is written to a new shard from here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use modshift_mariadb::Value;
use modshift_mariadb::control::{REPAIR, REPAIR_REFUSED, REPAIR_SENT, REPAIR_TABLE, REPAIR_WAITS};
use modshift_proto::plan::{Placement, Plan};

use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::progress;
use crate::report::{Kind, Mismatch};
use crate::settle::Until;
use crate::shard::{HERE, here};
use crate::verifier::Verifier;

const POLL: Duration = Duration::from_millis(100);
/// Requests in one statement.
const ASKED_AT_ONCE: usize = 500;

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Equal by now.
    pub mended: u64,
    /// Rows that no reader took up in time, by old shard.
    pub not_taken: BTreeMap<u16, u64>,
    /// Requests that can never be served, these or older ones, by old shard.
    pub refused: BTreeMap<u16, u64>,
    /// Rows that the log cannot reach: their primary key places them on another new shard.
    pub unreachable: Vec<Mismatch>,
}

/// Asks for all of them, waits until they are in the log (at most so long without a sign of one that was
/// taken), and compares them again.
pub async fn repair(
    verifier: &mut Verifier,
    mismatches: Vec<Mismatch>,
    wait: Duration,
) -> Result<Repaired, VerifyError> {
    let plan = verifier.plan.clone();
    let (unreachable, reachable): (Vec<_>, Vec<_>) =
        mismatches.into_iter().partition(|mismatch| is_unreachable(verifier, &plan, mismatch));
    let mut repaired = Repaired { unreachable, ..Repaired::default() };
    let sources: BTreeSet<u16> = reachable.iter().map(|mismatch| mismatch.old).collect();
    for &source in &sources {
        let shard = &mut verifier.primaries[usize::from(source)];
        shard.run("creating modshift's table of repairs", &here(REPAIR_TABLE), ()).await?;
        let mine: Vec<&Mismatch> = reachable.iter().filter(|m| m.old == source).collect();
        for some in mine.chunks(ASKED_AT_ONCE) {
            let lists = progress::lists("(?, ?, ?)", some.len());
            let sql = format!("INSERT INTO {HERE}{REPAIR} (table_name, target, pk) VALUES {lists}");
            let of = |m: &&Mismatch| {
                [Value::from(m.table.clone()), Value::from(m.new), Value::from(m.pk.clone())]
            };
            let params: Vec<Value> = some.iter().flat_map(of).collect();
            shard.run("asking for a repair", &sql, params).await?;
        }
    }
    let count = |state: u8| format!("SELECT COUNT(*) FROM {HERE}{REPAIR} WHERE sent = {state}");
    let (open, refused) = (count(REPAIR_WAITS), count(REPAIR_REFUSED));
    let clear = format!("DELETE FROM {HERE}{REPAIR} WHERE sent = {REPAIR_SENT}");
    for source in sources {
        let shard = &mut verifier.primaries[usize::from(source)];
        let (mut least, mut deadline) = (u64::MAX, Instant::now() + wait);
        loop {
            let left: Vec<u64> = shard.query("waiting for repairs", &open).await?;
            let left = left.first().copied().unwrap_or(0);
            if left < least {
                // Many take their time: who goes on is waited for.
                (least, deadline) = (left, Instant::now() + wait);
            }
            if left > 0 && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
                continue;
            }
            if left > 0 {
                repaired.not_taken.insert(source, left);
            }
            break;
        }
        let refused: Vec<u64> = shard.query("counting refused repairs", &refused).await?;
        if let Some(&requests) = refused.first().filter(|requests| **requests > 0) {
            repaired.refused.insert(source, requests);
        }
        shard.run("clearing repairs that were sent", &clear, ()).await?;
    }
    let mut by_table: BTreeMap<usize, BTreeSet<Suspect>> = BTreeMap::new();
    for mismatch in reachable {
        let Some(table) = plan.tables.iter().position(|t| t.name == mismatch.table) else {
            continue;
        };
        let suspect = Suspect { stream: (mismatch.old, mismatch.new), key: mismatch.pk };
        by_table.entry(table).or_default().insert(suspect);
    }
    for (table, suspects) in by_table {
        let until = Until::Passed(plan.verify.settle_max);
        let settled = verifier.settle_keys(table, suspects, until).await?;
        repaired.mended += (settled.equal.len() + settled.parked.len()) as u64;
    }
    Ok(repaired)
}

/// A delete names the primary key alone. Where the shard key is part of it, the applier sees that
/// the row belongs elsewhere, and rightly refuses.
fn is_unreachable(verifier: &Verifier, plan: &Plan, mismatch: &Mismatch) -> bool {
    let index = plan.tables.iter().position(|table| table.name == mismatch.table);
    let Some(index) = index.filter(|_| mismatch.kind == Kind::WrongShard) else { return false };
    let Placement::Sharded { key, .. } = &plan.tables[index].placement else { return false };
    verifier.table(index).is_some_and(|table| {
        let schema = &table.schema;
        schema.column(key).is_some_and(|column| schema.primary_key.contains(&column))
    })
}
