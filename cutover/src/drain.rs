//! Has every to-shard applied everything up to every marker?

use futures_util::future::join_all;
use modshift_mariadb::control::planned_names;
use modshift_proto::plan::Plan;
use modshift_proto::{Gtid, GtidSet};

use crate::error::CutoverError;
use crate::shard::Shard;

/// What is still missing; `None`: nothing. Each marker with the number of its from-shard.
pub async fn missing(
    to: &mut [Shard],
    markers: &[(u16, Gtid)],
    plan: &Plan,
) -> Result<Option<String>, CutoverError> {
    let planned = &planned_names(plan);
    let asked = join_all(to.iter_mut().map(|shard| lacks(shard, markers, planned))).await;
    let mut missing = None;
    for lack in asked {
        missing = missing.or(lack?);
    }
    Ok(missing)
}

async fn lacks(
    shard: &mut Shard,
    markers: &[(u16, Gtid)],
    planned: &str,
) -> Result<Option<String>, CutoverError> {
    let doing = "reading what it has applied";
    let sql = "SELECT source, gtids, halted FROM modshift_watermark";
    let marks: Vec<(u16, String, Option<String>)> = shard.primary.ask(doing, sql).await?;
    let sql = format!("SELECT COUNT(*) FROM modshift_parked WHERE table_name IN ({planned})");
    let parked: Vec<u64> = shard.primary.ask("counting parked rows", &sql).await?;
    let name = shard.name();
    if let Some(why) = marks.iter().find_map(|(_, _, halted)| halted.clone()) {
        return Err(CutoverError::Halted { server: name.to_owned(), why });
    }
    for &(source, marker) in markers {
        let applied = marks.iter().find(|(from, ..)| *from == source);
        let gtids: GtidSet =
            applied.and_then(|(_, gtids, _)| gtids.parse().ok()).unwrap_or_default();
        if !gtids.covers(marker) {
            let what = format!("{name} has stream {source} up to '{gtids}', not yet {marker}");
            return Ok(Some(what));
        }
    }
    match parked.first() {
        None | Some(0) => Ok(None),
        Some(rows) => Ok(Some(format!("{rows} rows wait for their place on {name}"))),
    }
}

/// Has the reader of a from-shard stopped at something? Then its marker never arrives.
pub async fn reader_works(shard: &mut Shard) -> Result<(), CutoverError> {
    let sql = "SELECT halted FROM modshift_token WHERE id = 1";
    let halted = shard.primary.ask::<Option<String>>("asking for its reader", sql).await;
    let halted = match halted {
        // Seen elsewhere, and waited for.
        Err(CutoverError::Server(error)) if error.is_connection_lost() => return Ok(()),
        halted => halted?,
    };
    match halted.into_iter().flatten().next() {
        Some(why) => Err(CutoverError::ReaderHalted { server: shard.name().to_owned(), why }),
        None => Ok(()),
    }
}
