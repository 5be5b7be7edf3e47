//! How long the binlog keeps the position that a reader needs, against how long it will need it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{Mend, Way};
use crate::check::report::{bytes, span};
use crate::check::survey::{Survey, Variables};

const RULE: &str = "retention";
/// The longest that a reader may be down.
const KEPT_MIN: Duration = Duration::from_secs(86_400);
/// An estimate from a short trial may be wrong by so much.
const MARGIN: u32 = 3;

/// `None`: for ever.
pub fn kept(variables: &Variables) -> Option<Duration> {
    let seconds = variables.number("binlog_expire_logs_seconds");
    let days = variables.number("expire_logs_days");
    let kept = if seconds > 0.0 { seconds } else { days * 86_400.0 };
    (kept > 0.0).then(|| Duration::from_secs_f64(kept))
}

/// A copy of a large table takes hours, and a reader that was down must find what it missed.
pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for log in survey.logs() {
        let Some(kept) = kept(log.variables).filter(|kept| *kept < KEPT_MIN) else { continue };
        let actual = format!("binlogs are kept for {} s only", kept.as_secs_f64());
        faults.push(
            Fault::new(Severity::Warning, RULE, log.subject, actual)
                .expected("at least a day, the longest that a reader may be down")
                .mend(longer()),
        );
    }
    faults
}

/// With what was measured: bytes that each old shard writes to its binlog in a second, and the
/// copy's time, where there was a trial.
pub fn check_measured(
    survey: &Survey,
    growth: &BTreeMap<Side, f64>,
    copy: Option<Duration>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for log in survey.logs() {
        // A replica's binlog grows as its primary's does.
        let rate = growth.get(&log.side).copied().unwrap_or(0.0);
        let kept = kept(log.variables);
        // Absent before 11.4; 0 is no limit.
        let total = log.variables.number("max_binlog_total_size");
        let by_size = (total > 0.0 && rate > 0.0).then(|| lasting(total, rate));
        let by_disk = log.room.filter(|_| rate > 0.0 && kept.is_none());
        let by_disk = by_disk.map(|room| lasting(room.available_bytes as f64, rate));
        let limits = [
            (kept, "binlog_expire_logs_seconds", longer()),
            (
                by_size,
                "max_binlog_total_size",
                // Only servers from 11.4 on have it, which no test starts: words.
                "set the global variable max_binlog_total_size to 0, which is no limit".into(),
            ),
            (by_disk, "the disk", "a larger disk for the binlogs".into()),
        ];
        let runway = limits.into_iter().filter_map(|(limit, by, mend)| Some((limit?, by, mend)));
        let runway = runway.min_by_key(|&(limit, ..)| limit);
        let reach = match log.oldest {
            Some(age) => format!("reaches back {}", span(age)),
            None => "reaches back nobody can tell how far".to_owned(),
        };
        let written = format!("is written at {} a second", bytes(rate as u64));
        let ends = match &runway {
            Some((runway, by, _)) => format!("a position is lost after {} by {by}", span(*runway)),
            None => "nothing purges it".to_owned(),
        };
        let actual = format!("the binlog {reach}, {written}; {ends}");
        let note = Fault::new(Severity::Note, RULE, log.subject, actual);
        faults.push(match (runway, copy) {
            (Some((runway, _, mend)), Some(copy)) if runway < copy * MARGIN => {
                let severity = if runway < copy { Severity::Fault } else { Severity::Warning };
                let expected = format!(
                    "at least {}, {MARGIN} times what the copy is estimated to take",
                    span(copy * MARGIN)
                );
                Fault { severity, ..note }.expected(expected).mend(mend)
            }
            _ => note
                .expected("a reader never away for longer, and a copy done by then")
                .mend("modshift check --trial estimates the copy"),
        });
    }
    faults
}

/// A week.
fn longer() -> Mend {
    Mend::set(Way::SetBinlogExpiry, "binlog_expire_logs_seconds", 604_800)
}

fn lasting(bytes: f64, rate: f64) -> Duration {
    const YEARS: f64 = 10.0 * 365.0 * 86_400.0;
    Duration::from_secs_f64((bytes / rate).min(YEARS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey};
    use crate::check::survey::{Facts, Room};
    use modshift_proto::OldShard;

    #[test]
    fn binlogs_that_do_not_outlast_the_copy_are_refused() {
        let set = |facts: &mut Facts, name: &str, value: &str| {
            facts.variables.set(name, value);
        };
        let survey = survey(|which, facts| match which {
            0 => set(facts, "binlog_expire_logs_seconds", "7200"),
            _ => {
                set(facts, "binlog_expire_logs_seconds", "0");
                let path = "/".to_owned();
                let room = Room { path, total_bytes: 1 << 40, available_bytes: 36_000_000 };
                facts.room = Ok(room);
            }
        });
        let found = lines(&check(&survey));
        assert!(found[0].contains("old shard 0: binlogs are kept for 7200 s only"), "{found:?}");
        assert_eq!(found.len(), 1);
        let side = |shard| Side::Old(OldShard(shard));
        let growth = [(side(0), 1_000.0), (side(1), 1_000.0)].into();
        let measured = |copy_s| {
            let copy = Some(Duration::from_secs(copy_s));
            lines(&check_measured(&survey, &growth, copy))
        };
        let found = measured(8_000);
        assert!(found[0].starts_with("fault  old shard 0: "), "{found:?}");
        assert!(
            found[0].contains("lost after 2 h 0 min by binlog_expire_logs_seconds"),
            "{found:?}"
        );
        // The disk fills in ten hours.
        assert!(found[1].starts_with("note  old shard 1: "), "{found:?}");
        let found = measured(13_000);
        assert!(found[1].starts_with("warning  old shard 1: "), "{found:?}");
        assert!(found[1].contains("lost after 10 h 0 min by the disk, expected at least 10 h 50"));
        assert!(measured(60)[0].starts_with("note  old shard 0: "));
    }
}
