//! Tables that may lack what a group changed that was passed over: marked on the old shard until a
//! verification has found them equal that began after every new shard was past the group.
//!
//! What came first is told by positions, never by clocks: before the round begins the watermark of each
//! new shard must cover the group, so whatever its skipping has cost stands there to be seen.

use modshift_mariadb::control::SKIP;
use modshift_proto::Gtid;
use modshift_proto::plan::Plan;

use crate::error::VerifyError;
use crate::settle::{Link, applied, if_there};
use crate::shard::{HERE, Shard};

/// A group of an old shard because of which a table is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub old: u16,
    pub gtid: Gtid,
    /// What it did can be seen on the old shard by now.
    shows: bool,
}

/// Because of which groups this table is marked. What a group did by XA shows later than its binlog has
/// it: such a mark says from when on it can be looked at, by the shard's own clock.
pub(crate) async fn open(primaries: &mut [Shard], table: &str) -> Result<Vec<Mark>, VerifyError> {
    let sql = format!(
        "SELECT name, at <= UTC_TIMESTAMP(6) FROM {HERE}{SKIP} WHERE what = 'table' AND state = 'open' \
         AND table_name = _utf8mb4 X'{}'",
        hex(table)
    );
    let mut marks = Vec::new();
    for (old, shard) in (0u16..).zip(primaries.iter_mut()) {
        let names = shard.query("asking what was passed over", &sql).await;
        for (text, shows) in if_there::<(String, bool)>(names)? {
            let control = |text| VerifyError::Control { at: shard.label(), what: SKIP, text };
            let gtid = text.parse().map_err(|_| control(text))?;
            marks.push(Mark { old, gtid, shows });
        }
    }
    Ok(marks)
}

/// Those of which every new shard is past the group, with everything that came before. What a replica
/// holds proves nothing of them: a statement may have done something else there than on its primary.
pub(crate) async fn due(
    plan: &Plan,
    marks: &[Mark],
    new: &mut [Shard],
) -> Result<Vec<Mark>, VerifyError> {
    let primary =
        |old: u16| plan.old.get(usize::from(old)).is_some_and(|at| at.read_from.is_none());
    let due = marks.iter().copied().filter(|mark| mark.shows && primary(mark.old));
    let mut due: Vec<Mark> = due.collect();
    if due.is_empty() {
        return Ok(due);
    }
    for shard in new {
        let applied = applied(shard, Link::Streams).await?;
        due.retain(|mark| applied.get(&mark.old).is_some_and(|gtids| gtids.covers(mark.gtid)));
    }
    Ok(due)
}

/// A round that began while these were due has found all equal. Once that holds for every table of a
/// group, its stream is like any other again on the new shards.
pub(crate) async fn prove(
    primaries: &mut [Shard],
    new: &mut [Shard],
    table: &str,
    marks: &[Mark],
) -> Result<(), VerifyError> {
    let doing = "recording what has been verified";
    for mark in marks {
        let Some(shard) = primaries.get_mut(usize::from(mark.old)) else { continue };
        let group = format!("source = {} AND name = '{}'", mark.old, mark.gtid);
        let marked = format!("what = 'table' AND state = 'open' AND {group}");
        let proven = format!(
            "UPDATE {HERE}{SKIP} SET state = 'proven', at = UTC_TIMESTAMP(6) \
             WHERE {marked} AND table_name = _utf8mb4 X'{}'",
            hex(table)
        );
        let others = format!(
            "SELECT COUNT(*) FROM {HERE}{SKIP} WHERE {marked} AND table_name <> _utf8mb4 X'{}'",
            hex(table)
        );
        let others: Vec<u64> = shard.query(doing, &others).await?;
        // Before the last mark goes: where a new shard is away it stays, and all of this is done again.
        if others == [0] {
            for target in new.iter_mut() {
                target.run(doing, &over(&group), ()).await?;
            }
        }
        shard.run(doing, &proven, ()).await?;
    }
    Ok(())
}

/// Of new shards: a stream is like any other again.
fn over(group: &str) -> String {
    format!("DELETE FROM {HERE}{SKIP} WHERE what = 'stream' AND {group}")
}

/// What an operator's command has left on new shards of groups that nothing has to be compared for, such
/// as where one of them was away. A group that has been passed over is never asked for anew.
pub(crate) async fn sweep(primaries: &mut [Shard], new: &mut [Shard]) -> Result<(), VerifyError> {
    let doing = "asking what was passed over";
    let streams = format!(
        "SELECT source, BINARY name FROM {HERE}{SKIP} WHERE what = 'stream' AND state = 'asked'"
    );
    for target in new {
        for (old, name) in if_there::<(u16, String)>(target.query(doing, &streams).await)? {
            let Some(shard) = primaries.get_mut(usize::from(old)) else { continue };
            let Ok(gtid) = name.parse::<Gtid>() else { continue };
            let group = format!("source = {old} AND name = '{gtid}'");
            let nothing_left = format!(
                "SELECT COUNT(*) FROM {HERE}{SKIP} WHERE {group} AND what = 'group' \
                 AND state IN ('passed', 'proven') AND NOT EXISTS (SELECT 1 FROM {HERE}{SKIP} marked \
                 WHERE marked.what = 'table' AND marked.state = 'open' AND marked.source = {old} \
                 AND marked.name = '{gtid}')"
            );
            if if_there::<u64>(shard.query(doing, &nothing_left).await)? == [1] {
                target.run(doing, &over(&group), ()).await?;
            }
        }
    }
    Ok(())
}

fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02X}")).collect()
}
