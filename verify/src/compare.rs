//! Checksums of both sides -> streams that differ -> keys that differ. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::shard::{Seen, Sums, Total};

/// A stream: from this old shard to that new one.
pub type Stream = (u16, u16);

/// A key that was not the same on both sides when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Suspect {
    pub stream: Stream,
    /// Wire form.
    pub key: Vec<u8>,
}

/// What one range showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// On the old shards.
    pub rows: u64,
    /// The same by old shard, where they were told apart.
    pub rows_of: Vec<u64>,
    /// Of the shard that has most.
    pub rows_of_largest: u64,
    pub streams: BTreeSet<Stream>,
    /// Broadcast tables: old shards whose rows are not those of the source.
    pub old_shards: Vec<u16>,
    /// Old shards with rows that belong on another one, and how many.
    pub strays: Vec<(u16, u64)>,
}

/// A range of a sharded table whose two sides hold the same rows; `None`: they do not, and the
/// streams have to be told apart.
///
/// The checksums of all streams are joined here, and that is as good as one by one: a row that lies
/// where it does not belong is seen by its place, and of rows in their places it makes no difference
/// whether those that would have to cancel out are of one stream or of two.
pub fn totals(old: &[Total], new: &[Total]) -> Option<Compared> {
    let all = |side: &[Total]| side.iter().fold((0, 0), |(n, x), t| (n + t.rows, x ^ t.sum));
    let at_home = old.iter().chain(new).all(|total| total.at_home);
    (at_home && all(old) == all(new)).then(|| Compared {
        rows: all(old).0,
        rows_of_largest: old.iter().chain(new).map(|total| total.rows).max().unwrap_or(0),
        ..Compared::default()
    })
}

/// Index of `old` and `new` = shard.
pub fn sharded(old: &[Sums], new: &[Sums]) -> Compared {
    let mut compared = sizes(old, new);
    let mut expected: HashMap<Stream, (u64, u64)> = HashMap::new();
    for (shard, sums) in old.iter().enumerate() {
        let shard = shard as u16;
        let mut strays = 0;
        for (&place, &sum) in sums {
            if place.0 == shard {
                expected.insert(place, sum);
            } else {
                strays += sum.0;
            }
        }
        if strays > 0 {
            compared.strays.push((shard, strays));
        }
    }
    let mut found: HashMap<Stream, (u64, u64)> = HashMap::new();
    for (shard, sums) in new.iter().enumerate() {
        // Wherever they belong: what of an old shard lies here.
        for (&(old, _), &(count, sum)) in sums {
            let joined = found.entry((old, shard as u16)).or_default();
            *joined = (joined.0 + count, joined.1 ^ sum);
        }
    }
    let differs = |stream: &&Stream| expected.get(*stream) != found.get(*stream);
    compared.streams = expected.keys().chain(found.keys()).filter(differs).copied().collect();
    compared
}

/// A broadcast table: all as on the source.
pub fn broadcast(source: u16, old: &[Sums], new: &[Sums]) -> Compared {
    let mut compared = sizes(old, new);
    let model = &old[usize::from(source)];
    let differ = |shards: &[Sums]| -> Vec<u16> {
        let differing = shards.iter().enumerate().filter(|(_, sums)| *sums != model);
        differing.map(|(shard, _)| shard as u16).collect()
    };
    compared.streams = differ(new).into_iter().map(|new| (source, new)).collect();
    compared.old_shards = differ(old);
    compared
}

fn sizes(old: &[Sums], new: &[Sums]) -> Compared {
    let rows = |sums: &Sums| sums.values().map(|(count, _)| count).sum::<u64>();
    Compared {
        rows: old.iter().map(rows).sum(),
        rows_of: old.iter().map(rows).collect(),
        rows_of_largest: old.iter().chain(new).map(rows).max().unwrap_or(0),
        ..Compared::default()
    }
}

/// Keys of one stream that are not the same: `expected` on the old shard, `found` on the new one.
pub fn keys(
    stream: Stream,
    expected: &HashMap<Vec<u8>, Seen>,
    found: &HashMap<Vec<u8>, Seen>,
) -> Vec<Suspect> {
    let here = |seen: &&Seen| seen.place == stream;
    let of_source = |seen: &&Seen| seen.place.0 == stream.0;
    let missing = expected.iter().filter(|(_, seen)| here(seen)).filter(|(key, seen)| {
        found.get(*key).filter(of_source).map(|s| s.checksum) != Some(seen.checksum)
    });
    let extra = found
        .iter()
        .filter(|(_, seen)| of_source(seen))
        .filter(|(key, _)| expected.get(*key).filter(here).is_none());
    let suspect = |(key, _): (&Vec<u8>, &Seen)| Suspect { stream, key: key.clone() };
    missing.map(suspect).chain(extra.map(suspect)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sum = (Stream, (u64, u64));

    fn sums(of: &[Sum]) -> Sums {
        of.iter().copied().collect()
    }

    #[test]
    fn streams_differ_by_what_is_missing_changed_or_elsewhere() {
        // Old 0 sends one row to each of two new shards; old 1 has a row that belongs on old 0.
        let old = [sums(&[((0, 0), (1, 5)), ((0, 1), (1, 6))]), sums(&[((0, 1), (1, 9))])];
        let same = [sums(&[((0, 0), (1, 5))]), sums(&[((0, 1), (1, 6))])];
        let clean = sharded(&old, &same);
        assert!(clean.streams.is_empty());
        assert_eq!((clean.rows, clean.rows_of_largest, &clean.strays[..]), (3, 2, &[(1, 1)][..]));
        let changed = [sums(&[((0, 0), (1, 7))]), sums(&[((0, 1), (1, 6))])];
        assert_eq!(sharded(&old, &changed).streams, BTreeSet::from([(0, 0)]));
        let missing = [sums(&[]), sums(&[((0, 1), (1, 6))])];
        assert_eq!(sharded(&old, &missing).streams, BTreeSet::from([(0, 0)]));
        // Its key places it on new shard 1, and it lies on new shard 0 too.
        let elsewhere = [sums(&[((0, 0), (1, 5)), ((0, 1), (1, 6))]), sums(&[((0, 1), (1, 6))])];
        assert_eq!(sharded(&old, &elsewhere).streams, BTreeSet::from([(0, 0)]));
        // Of an old shard that has no rows here at all.
        let foreign = [sums(&[((0, 0), (1, 5)), ((1, 0), (1, 1))]), same[1].clone()];
        assert_eq!(sharded(&old, &foreign).streams, BTreeSet::from([(1, 0)]));
    }

    #[test]
    fn totals_are_the_same_only_with_every_row_in_its_place() {
        let total = |rows, sum| Total { rows, sum, at_home: true };
        let away = |rows, sum| Total { rows, sum, at_home: false };
        let old = [total(2, 5 ^ 6), total(1, 9)];
        let same = totals(&old, &[total(1, 5), total(0, 0), total(2, 6 ^ 9)]).unwrap();
        assert_eq!((same.rows, same.rows_of_largest, same.streams.len()), (3, 2, 0));
        assert_eq!(totals(&old, &[total(1, 5), total(2, 6 ^ 8)]), None);
        assert_eq!(totals(&old, &[total(1, 5 ^ 6 ^ 9)]), None);
        assert_eq!(totals(&old, &[total(1, 5), away(2, 6 ^ 9)]), None);
        assert_eq!(totals(&[total(2, 5 ^ 6), away(1, 9)], &[total(3, 5 ^ 6 ^ 9)]), None);
    }

    #[test]
    fn a_broadcast_table_is_everywhere_as_on_its_source() {
        let (good, bad) = (sums(&[((0, 0), (2, 5))]), sums(&[((0, 0), (2, 4))]));
        let compared = broadcast(1, &[bad.clone(), good.clone()], &[good.clone(), bad, sums(&[])]);
        assert_eq!(compared.streams, BTreeSet::from([(1, 1), (1, 2)]));
        assert_eq!(compared.old_shards, [0]);
    }

    #[test]
    fn keys_are_suspect_on_either_side() {
        let seen = |checksum, place| Seen { checksum, place };
        let map = |rows: &[(&[u8], Seen)]| -> HashMap<Vec<u8>, Seen> {
            rows.iter().map(|(key, seen)| (key.to_vec(), *seen)).collect()
        };
        let expected = map(&[
            (b"same", seen(1, (0, 1))),
            (b"changed", seen(2, (0, 1))),
            (b"missing", seen(3, (0, 1))),
            (b"other stream", seen(4, (0, 2))),
        ]);
        let found = map(&[
            (b"same", seen(1, (0, 1))),
            (b"changed", seen(9, (0, 1))),
            (b"extra", seen(5, (0, 1))),
            (b"elsewhere", seen(6, (0, 2))),
            (b"other source", seen(7, (1, 1))),
        ]);
        let mut suspects: Vec<String> = keys((0, 1), &expected, &found)
            .into_iter()
            .map(|suspect| String::from_utf8_lossy(&suspect.key).into_owned())
            .collect();
        suspects.sort();
        assert_eq!(suspects, ["changed", "elsewhere", "extra", "missing"]);
    }
}
