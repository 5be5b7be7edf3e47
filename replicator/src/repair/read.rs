//! Reads what is asked for: keys of a table together, and a chunk of a range.

use std::collections::{HashMap, VecDeque};

use modshift_mariadb::Seats;

use super::{Next, Refused, Request};
use crate::error::{Class, ReadError};
use crate::snapshot::{Chunk, ChunkReader, ChunkRequest, Which};

/// Keys in one statement: the server plans a range for each.
const KEYS_PER_READ: usize = 250;

/// A chunk that was read, and what it answers.
pub(super) struct Work {
    pub chunk: Chunk,
    /// Of a range: its id.
    pub range: Option<u64>,
    /// Or of these keys, each of which it shows, or shows that there is none.
    pub keys: Vec<Request>,
}

type Outcome = (VecDeque<Work>, Vec<Refused>, Option<Refused>);

pub(super) async fn read(
    reader: &ChunkReader,
    seats: &Seats,
    next: Next,
    bytes_max: usize,
) -> Result<Outcome, ReadError> {
    let (mut work, mut refused, mut range_refused) = (VecDeque::new(), Vec::new(), None);
    let mut groups: VecDeque<Vec<Request>> = grouped(next.keys).into();
    let mut left = bytes_max;
    while let Some(keys) = groups.pop_front().filter(|_| left > 0) {
        let request = of_keys(&keys, left);
        let seat = seats.seat(reader.server()).await;
        match reader.read(seat, request).await {
            Ok(chunk) => {
                left = left.saturating_sub(chunk.size_bytes());
                let keys = answered(&chunk, keys);
                work.push_back(Work { chunk, range: None, keys });
            }
            // A fact about a table, or about one of these rows: the others may have better luck.
            Err(error @ ReadError::Drift { .. }) => return Err(error),
            Err(error) if error.class() == Class::Halt => match <[Request; 1]>::try_from(keys) {
                Ok([one]) => refused.push(Refused { id: one.id, why: error.to_string() }),
                Err(several) => groups.extend(several.into_iter().map(|one| vec![one])),
            },
            Err(error) => return Err(error),
        }
    }
    if let Some((id, request)) = next.range {
        let seat = seats.seat(reader.server()).await;
        match reader.read(seat, request).await {
            Ok(chunk) => work.push_back(Work { chunk, range: Some(id), keys: Vec::new() }),
            Err(error @ ReadError::Drift { .. }) => return Err(error),
            Err(error) if error.class() == Class::Halt => {
                range_refused = Some(Refused { id, why: error.to_string() });
            }
            // What was read of keys may enter all the same.
            Err(error) if work.is_empty() => return Err(error),
            Err(error) => tracing::warn!(error = %error, "a range is not copied again yet"),
        }
    }
    Ok((work, refused, range_refused))
}

fn of_keys(keys: &[Request], bytes_max: usize) -> ChunkRequest {
    ChunkRequest {
        table: keys.first().map_or(0, |request| request.table),
        after: None,
        which: Which::Keys(keys.iter().map(|request| request.cells.clone()).collect()),
        // One more: only bytes end it early.
        rows: keys.len() as u32 + 1,
        bytes_max,
        generation: 0,
    }
}

/// By table, and no more than a statement takes.
fn grouped(keys: Vec<Request>) -> Vec<Vec<Request>> {
    let mut groups: Vec<Vec<Request>> = Vec::new();
    let mut open: HashMap<usize, usize> = HashMap::new();
    for request in keys {
        let group = open.get(&request.table).copied();
        match group.filter(|&group| groups[group].len() < KEYS_PER_READ) {
            Some(group) => groups[group].push(request),
            None => {
                open.insert(request.table, groups.len());
                groups.push(vec![request]);
            }
        }
    }
    groups
}

/// Rows of the chunk by primary key: its collation may call another row equal to one that is asked for.
pub(super) fn by_key(chunk: &Chunk) -> HashMap<&[u8], usize> {
    let rows = chunk.rows.iter().enumerate();
    rows.map(|(index, row)| (chunk.primary_key(row), index)).collect()
}

/// Where the chunk was cut, a key that it does not show may be there all the same: it waits for the next
/// look.
fn answered(chunk: &Chunk, mut keys: Vec<Request>) -> Vec<Request> {
    if chunk.next_after.is_some() {
        let rows = by_key(chunk);
        keys.retain(|request| rows.contains_key(request.key.as_slice()));
    }
    keys
}

#[cfg(test)]
mod tests {
    use modshift_proto::NewShard;

    use super::*;

    #[test]
    fn keys_are_read_together_by_table() {
        let request = |id: u64, table| {
            let (key, cells) = (vec![id as u8], vec![vec![id as u8]]);
            Request { id, table, target: NewShard(0), key, cells }
        };
        let mut keys: Vec<Request> = (0..300).map(|id| request(id, 1)).collect();
        keys.insert(1, request(1000, 2));
        let groups = grouped(keys);
        let sizes: Vec<(usize, usize)> = groups.iter().map(|g| (g[0].table, g.len())).collect();
        assert_eq!(sizes, [(1, KEYS_PER_READ), (2, 1), (1, 300 - KEYS_PER_READ)]);
        let chunk = of_keys(&groups[1], 9);
        assert_eq!((chunk.table, chunk.rows, chunk.bytes_max), (2, 2, 9));
        assert_eq!(chunk.which, Which::Keys(vec![vec![vec![232]]]));
    }
}
