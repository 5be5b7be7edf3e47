//! One range on all shards at once: by one checksum, or by stream.

use futures_util::future::try_join_all;

use crate::compare::{self, Compared};
use crate::error::VerifyError;
use crate::settle::Shards;
use crate::shard::{Range, Sums, Total};
use crate::table::{CheckedTable, Placing};

/// A range of a sharded table that is the same on both sides; `None`: it is not, or takes too long.
pub(super) async fn same(
    shards: &mut Shards,
    table: &CheckedTable,
    range: &Range,
    (old_away, new_away): (&[String], &[String]),
) -> Result<Option<Compared>, VerifyError> {
    let Shards { old, new, .. } = shards;
    let old = old.iter_mut().zip(old_away);
    let old = try_join_all(old.map(|(shard, away)| shard.total(table, range, away)));
    let new = new.iter_mut().zip(new_away);
    let new = try_join_all(new.map(|(shard, away)| shard.total(table, range, away)));
    let (old, new) = tokio::try_join!(old, new)?;
    let all = |totals: Vec<Option<Total>>| totals.into_iter().collect::<Option<Vec<Total>>>();
    Ok(all(old).zip(all(new)).and_then(|(old, new)| compare::totals(&old, &new)))
}

/// A range on all shards at once, by stream; `None`: it takes too long on one of them.
pub(super) async fn look(
    shards: &mut Shards,
    table: &CheckedTable,
    range: &Range,
    bounded: bool,
) -> Result<Option<Compared>, VerifyError> {
    let Shards { old, new, .. } = shards;
    let old = try_join_all(old.iter_mut().map(|shard| shard.sums(table, range, bounded)));
    let new = try_join_all(new.iter_mut().map(|shard| shard.sums(table, range, bounded)));
    let (old, new) = tokio::try_join!(old, new)?;
    let all = |sums: Vec<Option<Sums>>| sums.into_iter().collect::<Option<Vec<Sums>>>();
    Ok(all(old).zip(all(new)).map(|(old, new)| match table.placing {
        Placing::Sharded { .. } => compare::sharded(&old, &new),
        Placing::Broadcast { source } => compare::broadcast(source, &old, &new),
    }))
}
