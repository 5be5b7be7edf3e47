//! Streams that have halted. What differs behind one cannot be settled, however long one waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use modshift_mariadb::control::{TOKEN, WATERMARK};
use modshift_proto::plan::Direction;
use mysql_async::Row;

use crate::error::VerifyError;
use crate::report::Halt;
use crate::settle::{Link, Shards, if_there};
use crate::shard::HERE;

/// A stream from an old to a new shard.
type Stream = (u16, u16);

/// While streams are waited for they are asked so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of the streams that are waited for.
#[derive(Default)]
pub(crate) struct Halts {
    looked_at: Option<Instant>,
    of_streams: BTreeMap<Stream, Halt>,
}

impl Halts {
    /// Those of these streams that have halted, as of a second ago at most.
    pub async fn look(
        &mut self,
        shards: &mut Shards,
        streams: &BTreeSet<Stream>,
    ) -> Result<&BTreeMap<Stream, Halt>, VerifyError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.of_streams = find(shards, streams).await?;
            self.looked_at = Some(Instant::now());
        }
        Ok(&self.of_streams)
    }
}

pub(crate) async fn find(
    shards: &mut Shards,
    streams: &BTreeSet<Stream>,
) -> Result<BTreeMap<Stream, Halt>, VerifyError> {
    if shards.link == Link::Replication {
        return replication(shards, streams).await;
    }
    let direction = shards.direction;
    let of_readers = format!("SELECT halted FROM {HERE}{TOKEN} WHERE halted IS NOT NULL");
    let readers = try_join_all(shards.old.iter_mut().enumerate().map(async |(old, shard)| {
        if !streams.iter().any(|stream| usize::from(stream.0) == old) {
            return Ok(None);
        }
        let rows = shard.query("asking whether its reader has halted", &of_readers).await;
        let rows: Vec<String> = if_there(rows)?;
        Ok::<_, VerifyError>(rows.into_iter().next())
    }))
    .await?;
    let of_appliers = format!("SELECT halted FROM {HERE}{WATERMARK} WHERE halted IS NOT NULL");
    let appliers = try_join_all(shards.new.iter_mut().enumerate().map(async |(new, shard)| {
        if !streams.iter().any(|stream| usize::from(stream.1) == new) {
            return Ok(None);
        }
        // One applier, one error: it is on every row.
        let rows = shard.query("asking whether its applier has halted", &of_appliers).await;
        let rows: Vec<String> = if_there(rows)?;
        Ok::<_, VerifyError>(rows.into_iter().next())
    }))
    .await?;
    Ok(joined(direction, streams, &readers, &appliers))
}

/// Of replicas: what does not run, by itself or because it was stopped.
async fn replication(
    shards: &mut Shards,
    streams: &BTreeSet<Stream>,
) -> Result<BTreeMap<Stream, Halt>, VerifyError> {
    let mut found = BTreeMap::new();
    for &stream in streams {
        let shard = &mut shards.new[usize::from(stream.1)];
        let rows: Vec<Row> =
            shard.query("asking whether it replicates", "SHOW ALL SLAVES STATUS").await?;
        if let Some(why) = stands(&rows) {
            let stream_name = format!("replication into {}", shard.label());
            found.insert(stream, Halt { stream: stream_name, why });
        }
    }
    Ok(found)
}

/// Numbers only: the text of an error may hold values of rows.
fn stands(rows: &[Row]) -> Option<String> {
    if rows.is_empty() {
        return Some("it replicates from nobody".to_owned());
    }
    rows.iter().find_map(|row| {
        let text = |column: &str| -> String {
            row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
        };
        let (io, sql) = (text("Slave_IO_Running"), text("Slave_SQL_Running"));
        (io == "No" || sql == "No").then(|| {
            format!(
                "Slave_IO_Running {io}, Slave_SQL_Running {sql}, Last_IO_Errno {}, Last_SQL_Errno {}",
                text("Last_IO_Errno"),
                text("Last_SQL_Errno")
            )
        })
    })
}

fn joined(
    direction: Direction,
    streams: &BTreeSet<Stream>,
    readers: &[Option<String>],
    appliers: &[Option<String>],
) -> BTreeMap<Stream, Halt> {
    let said = |all: &[Option<String>], shard: u16| all.get(usize::from(shard)).cloned().flatten();
    let halt = |&(old, new): &Stream| {
        let reader = said(readers, old).map(|why| (format!("reader of old shard {old}"), why));
        let applier = said(appliers, new).map(|why| (format!("applier of new shard {new}"), why));
        let (stream, why) = reader.or(applier)?;
        Some(((old, new), Halt { stream: direction.words(&stream), why }))
    };
    streams.iter().filter_map(halt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_is_told_in_the_operators_words() {
        let streams = BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]);
        let readers = [None, Some("new shard 1: a write".to_owned())];
        let appliers = [Some("old shard 0: a gap".to_owned()), None];
        let found = joined(Direction::Back, &streams, &readers, &appliers);
        let told: Vec<String> = found.values().map(Halt::to_string).collect();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [(0, 0), (1, 0), (1, 1)]);
        assert_eq!(told[0], "the applier of old shard 0 has halted: old shard 0: a gap");
        assert_eq!(told[1], "the reader of new shard 1 has halted: new shard 1: a write");
        assert_eq!(told[2], told[1]);
    }
}
