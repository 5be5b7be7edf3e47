//! The gate's reasons, summed up: what is the same of many shards or streams is one line, with how many
//! they are and the worst of them. Of a kind that names a fact (a fault, a halt) the first is said whole.

use modshift_consumer::gate::Reason;

/// In the order in which each kind comes first. `streams`: how many there are.
pub fn summed(reasons: &[Reason], streams: usize) -> Vec<String> {
    let mut groups: Vec<Vec<&Reason>> = Vec::new();
    for reason in reasons {
        match groups.iter_mut().find(|group| same(group[0], reason)) {
            Some(group) => group.push(reason),
            None => groups.push(vec![reason]),
        }
    }
    groups.iter().map(|group| line(group, streams)).collect()
}

fn same(one: &Reason, other: &Reason) -> bool {
    match (one, other) {
        (Reason::WayBack { why: one, .. }, Reason::WayBack { why: other, .. }) => one == other,
        _ => one.kind() == other.kind(),
    }
}

fn line(group: &[&Reason], streams: usize) -> String {
    let first = group[0];
    if group.len() == 1 {
        return first.to_string();
    }
    let of_streams = match group.len() {
        all if all == streams => format!("all {streams} streams"),
        some => format!("{some} of {streams} streams"),
    };
    match first {
        Reason::TimeLag { .. } => match worst(group, |reason| match reason {
            Reason::TimeLag { old, new, lag_ms, .. } => Some((*lag_ms, *old, *new)),
            _ => None,
        }) {
            Some((lag_ms, old, new)) => {
                format!("{of_streams} behind, worst {} (old {old} -> new {new})", seconds(lag_ms))
            }
            None => first.to_string(),
        },
        Reason::PositionLag { .. } => match worst(group, |reason| match reason {
            Reason::PositionLag { old, new, groups, .. } => Some((*groups as i64, *old, *new)),
            _ => None,
        }) {
            Some((groups, old, new)) => format!(
                "{of_streams} behind by their position, worst {groups} groups (old {old} -> new {new})"
            ),
            None => first.to_string(),
        },
        Reason::ReaderSilent { .. } => match worst(group, |reason| match reason {
            Reason::ReaderSilent { old, silent_ms, .. } => Some((*silent_ms, *old, 0)),
            _ => None,
        }) {
            Some((silent_ms, old, _)) => format!(
                "readers of old shards {} are silent, worst for {} (old shard {old})",
                olds(group),
                seconds(silent_ms)
            ),
            None => first.to_string(),
        },
        Reason::Unreachable { shard, detail } => {
            format!("{} shards do not answer, such as {shard}: {detail}", group.len())
        }
        Reason::Copying { .. } => format!("{of_streams} still copying"),
        Reason::NothingApplied { .. } => format!("{of_streams} have applied nothing yet"),
        Reason::OtherReader { .. } => {
            format!("{of_streams} have applied nothing yet of the present reader")
        }
        Reason::ProofPending { .. } => {
            format!("{of_streams} wait for the reader to show again what was applied")
        }
        Reason::NoReader { .. } => format!("old shards {} have never been read", olds(group)),
        Reason::CopyUnrecorded { .. } => {
            format!("old shards {} have not recorded yet that they are copied", olds(group))
        }
        Reason::Fenced { .. } => {
            format!("old shards {} are fenced, though no run is under way", olds(group))
        }
        Reason::Serving { .. } => format!("new shards {} serve already", news(group)),
        Reason::Parked { .. } => {
            let rows: u64 = group
                .iter()
                .map(|reason| match reason {
                    Reason::Parked { rows, .. } => *rows,
                    _ => 0,
                })
                .sum();
            format!("{rows} rows wait for their place on new shards {}", news(group))
        }
        Reason::WayBack { .. } => {
            let much = |reason: &&&Reason| match reason {
                Reason::WayBack { much, .. } => *much,
                _ => 0,
            };
            // The first one where all are alike.
            let worst = group.iter().rev().max_by_key(much).unwrap_or(&first);
            let all_alike = group.iter().all(|reason| much(&reason) == much(&worst));
            let more = group.len() - 1;
            match all_alike {
                true => format!("{worst} (and {more} more of this kind)"),
                false => format!("{worst} (the worst of {} of this kind)", more + 1),
            }
        }
        _ => format!("{first} (and {} more of this kind)", group.len() - 1),
    }
}

/// The greatest value and whose it is.
fn worst(
    group: &[&Reason],
    of: impl Fn(&Reason) -> Option<(i64, u16, u16)>,
) -> Option<(i64, u16, u16)> {
    group.iter().filter_map(|reason| of(reason)).max_by_key(|(value, ..)| *value)
}

fn olds(group: &[&Reason]) -> String {
    let old = |reason: &&Reason| match reason {
        Reason::NoReader { old }
        | Reason::ReaderSilent { old, .. }
        | Reason::CopyUnrecorded { old, .. }
        | Reason::Fenced { old } => Some(*old),
        _ => None,
    };
    ranges(&group.iter().filter_map(old).collect::<Vec<_>>())
}

fn news(group: &[&Reason]) -> String {
    let new = |reason: &&Reason| match reason {
        Reason::Serving { new } | Reason::Parked { new, .. } => Some(*new),
        _ => None,
    };
    ranges(&group.iter().filter_map(new).collect::<Vec<_>>())
}

pub fn seconds(ms: i64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

/// `0-3, 7`, of numbers in order.
pub fn ranges(numbers: &[u16]) -> String {
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if number == last.saturating_add(1) => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let part = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(old: u16, new: u16, lag_ms: i64) -> Reason {
        Reason::TimeLag { old, new, lag_ms, limit_ms: 1000 }
    }

    #[test]
    fn what_is_the_same_of_many_is_one_line_with_the_worst() {
        let check = |reasons: &[Reason], streams, expected: &[&str]| {
            assert_eq!(summed(reasons, streams), expected);
        };
        check(&[], 4, &[]);
        let lags = [lag(0, 0, 1200), lag(3, 5, 1900), lag(2, 1, 1100)];
        check(&lags, 3, &["all 3 streams behind, worst 1.9 s (old 3 -> new 5)"]);
        check(&lags, 24, &["3 of 24 streams behind, worst 1.9 s (old 3 -> new 5)"]);
        let away = |new| Reason::Unreachable {
            shard: format!("new shard {new}"),
            detail: "db:3306 cannot be reached".into(),
        };
        let both = "2 shards do not answer, such as new shard 1: db:3306 cannot be reached";
        check(&[away(1), away(2)], 4, &[both]);
        let alone = "old shard 0 has never been read";
        check(&[Reason::NoReader { old: 0 }], 4, &[alone]);
        let never = [0, 1, 2, 5].map(|old| Reason::NoReader { old });
        check(&never, 8, &["old shards 0-2, 5 have never been read"]);
        let parked = |new, rows| Reason::Parked { new, rows, refused: 0, of: Vec::new() };
        let way_back = |why, much, text: &str| Reason::WayBack { why, much, text: text.to_owned() };
        let mixed = [
            parked(0, 2),
            Reason::Check { text: "binlog_format is MIXED".into() },
            parked(1, 3),
            Reason::Check { text: "sync_binlog is 0".into() },
            way_back("time_lag", 1100, "old shard 1 is behind"),
            way_back("reader_halted", 0, "reader of new shard 2 stopped"),
            way_back("time_lag", 9000, "old shard 2 is far behind"),
            way_back("reader_halted", 0, "reader of new shard 3 stopped"),
        ];
        let expected = [
            "5 rows wait for their place on new shards 0-1",
            "modshift check: binlog_format is MIXED (and 1 more of this kind)",
            "way back: old shard 2 is far behind (the worst of 2 of this kind)",
            "way back: reader of new shard 2 stopped (and 1 more of this kind)",
        ];
        check(&mixed, 4, &expected);
    }

    #[test]
    fn neighbours_are_a_range() {
        assert_eq!(ranges(&[0, 1, 2, 4, 6, 7]), "0-2, 4, 6-7");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[u16::MAX]), "65535");
    }
}
