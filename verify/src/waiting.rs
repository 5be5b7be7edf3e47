//! Rows that wait for their place on a new shard (`modshift_parked`): no comparison of tables finds them.

use std::collections::BTreeSet;

use modshift_mariadb::control::PARKED;

use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::progress::PAGE;
use crate::settle::{self, Settled, Shards, Until, if_there};
use crate::shard::{HERE, Shard};
use crate::table::CheckedTable;

/// The next page of those of the table, behind this number; with the number of the last.
pub(crate) async fn page(
    shards: &mut Shards,
    target: usize,
    table: &CheckedTable,
    after: u64,
) -> Result<Option<(u64, BTreeSet<Suspect>)>, VerifyError> {
    let sql = format!(
        "SELECT id, source, pk FROM {HERE}{PARKED} WHERE table_name = _utf8mb4 X'{}' \
         AND id > {after} ORDER BY id LIMIT {PAGE}",
        hex(table.schema.name.as_bytes())
    );
    let rows = shards.new[target].query("looking for parked rows", &sql).await;
    let rows: Vec<(u64, u16, Vec<u8>)> = if_there(rows)?;
    let Some(last) = rows.last().map(|(id, ..)| *id) else { return Ok(None) };
    let suspect = |(_, source, key)| Suspect { stream: (source, target as u16), key };
    Ok(Some((last, rows.into_iter().map(suspect).collect())))
}

/// Settles them. One that is on neither side when all is applied, and waits still, has had its deletion
/// passed over: it would move in some day, so it counts as a row too many.
pub(crate) async fn settle(
    shards: &mut Shards,
    table: &CheckedTable,
    suspects: BTreeSet<Suspect>,
    until: Until,
) -> Result<Settled, VerifyError> {
    let mut settled = settle::settle(shards, table, suspects, until).await?;
    let nowhere = nowhere(shards, table, &settled.equal).await?;
    if nowhere.is_empty() {
        return Ok(settled);
    }
    // One that was deleted just now leaves as soon as that is applied: its absence must be old.
    settled.equal.retain(|suspect| !nowhere.contains(suspect));
    let again = settle::settle(shards, table, nowhere, until).await?;
    let surplus = self::nowhere(shards, table, &again.equal).await?;
    for suspect in again.equal {
        match surplus.contains(&suspect) {
            true => settled.mismatches.push(settle::extra(table, suspect)),
            false => settled.equal.push(suspect),
        }
    }
    settled.mismatches.extend(again.mismatches);
    settled.unsettled.extend(again.unsettled);
    settled.moving.extend(again.moving);
    settled.parked.extend(again.parked);
    settled.halts.extend(again.halts);
    settled.reading += again.reading;
    Ok(settled)
}

/// Of rows that are equal on both sides, those that wait and are on none.
async fn nowhere(
    shards: &mut Shards,
    table: &CheckedTable,
    equal: &[Suspect],
) -> Result<BTreeSet<Suspect>, VerifyError> {
    let mut nowhere = BTreeSet::new();
    for suspect in equal {
        let (old, new) = (usize::from(suspect.stream.0), usize::from(suspect.stream.1));
        if parked(&mut shards.new[new], table, suspect).await?.is_some()
            && shards.old[old].row(table, &suspect.key).await?.is_none()
            && shards.new[new].row(table, &suspect.key).await?.is_none()
        {
            nowhere.insert(suspect.clone());
        }
    }
    Ok(nowhere)
}

/// The image of a row that waits for its place.
pub(crate) async fn parked(
    shard: &mut Shard,
    table: &CheckedTable,
    suspect: &Suspect,
) -> Result<Option<Vec<u8>>, VerifyError> {
    let sql = format!(
        "SELECT image FROM {HERE}{PARKED} WHERE source = {} AND table_name = _utf8mb4 X'{}' \
         AND pk = X'{}'",
        suspect.stream.0,
        hex(table.schema.name.as_bytes()),
        hex(&suspect.key),
    );
    let rows: Vec<Vec<u8>> = if_there(shard.query("looking for a parked row", &sql).await)?;
    Ok(rows.into_iter().next())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
