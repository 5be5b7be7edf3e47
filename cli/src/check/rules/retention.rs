//! How long the binlog keeps the position that a reader needs, against how long it will need it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::fault::{Fault, Severity, Side};
use crate::check::report::{bytes, span};
use crate::check::survey::{Facts, Survey};

const RULE: &str = "retention";
/// The longest that a reader may be down.
const KEPT_MIN: Duration = Duration::from_secs(86_400);
/// An estimate from a short trial may be wrong by so much.
const MARGIN: u32 = 3;

/// `None`: for ever.
pub fn kept(facts: &Facts) -> Option<Duration> {
    let seconds = facts.number("binlog_expire_logs_seconds");
    let days = facts.number("expire_logs_days");
    let kept = if seconds > 0.0 { seconds } else { days * 86_400.0 };
    (kept > 0.0).then(|| Duration::from_secs_f64(kept))
}

/// A copy of a large table takes hours, and a reader that was down must find what it missed.
pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.olds() {
        let Some(kept) = kept(facts).filter(|kept| *kept < KEPT_MIN) else { continue };
        let actual = format!("binlogs are kept for {} s only", kept.as_secs_f64());
        faults.push(
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("at least a day, the longest that a reader may be down")
                .mend("SET GLOBAL binlog_expire_logs_seconds = 604800"),
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
    for (server, facts) in survey.olds() {
        let rate = growth.get(&server.side).copied().unwrap_or(0.0);
        let kept = kept(facts);
        // Absent before 11.4; 0 is no limit.
        let total = facts.number("max_binlog_total_size");
        let by_size = (total > 0.0 && rate > 0.0).then(|| lasting(total, rate));
        let by_disk = facts.room.as_ref().filter(|_| rate > 0.0 && kept.is_none());
        let by_disk = by_disk.map(|room| lasting(room.available_bytes as f64, rate));
        let limits = [
            (kept, "binlog_expire_logs_seconds", "SET GLOBAL binlog_expire_logs_seconds = 604800"),
            (by_size, "max_binlog_total_size", "SET GLOBAL max_binlog_total_size = 0"),
            (by_disk, "the disk", "more room, or SET GLOBAL binlog_expire_logs_seconds = 604800"),
        ];
        let runway = limits.into_iter().filter_map(|(limit, by, mend)| Some((limit?, by, mend)));
        let runway = runway.min_by_key(|(limit, ..)| *limit);
        let reach = match facts.binlog.oldest {
            Some(age) => format!("reaches back {}", span(age)),
            None => "reaches back nobody can tell how far".to_owned(),
        };
        let written = format!("is written at {} a second", bytes(rate as u64));
        let ends = match runway {
            Some((runway, by, _)) => format!("a position is lost after {} by {by}", span(runway)),
            None => "nothing purges it".to_owned(),
        };
        let actual = format!("the binlog {reach}, {written}; {ends}");
        let note = Fault::new(Severity::Note, RULE, server.side, actual);
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

fn lasting(bytes: f64, rate: f64) -> Duration {
    const YEARS: f64 = 10.0 * 365.0 * 86_400.0;
    Duration::from_secs_f64((bytes / rate).min(YEARS))
}
