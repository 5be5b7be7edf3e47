//! `[snapshot]`, `[limits]`, `[reader]`, `[apply]`, `[gate]`, `[check]`, `[http]` and `[back]`.
//!
//! The ranges keep out what could only be a slip of a unit; they are wide enough for any estate
//! and for tests that want a bound to be reached.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Section;
use super::{Apply, Back, Check, Gate, Http, Limits, Reader, Snapshot, Table, default};

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn millis(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
}

pub(super) fn snapshot(root: &Section<'_>) -> Snapshot {
    let section = root.section("snapshot");
    let snapshot = Snapshot {
        chunk_time: section.duration("chunk_time", default::CHUNK_TIME, millis(1..=60_000)),
        chunk_rows_max: section.number("chunk_rows_max", default::CHUNK_ROWS_MAX, 1..=10_000_000),
        chunk_bytes_max: section.size(
            "chunk_bytes_max",
            default::CHUNK_BYTES_MAX,
            KIB..=1024 * MIB,
        ),
        parallel: section.number("parallel", default::PARALLEL, 1..=64),
        touched_keys_max: section.number(
            "touched_keys_max",
            default::TOUCHED_KEYS_MAX,
            1..=100_000_000,
        ),
        xa_grace: section.duration("xa_grace", default::XA_GRACE, millis(0..=DAY_MS)),
    };
    section.finish();
    snapshot
}

pub(super) fn limits(root: &Section<'_>) -> Limits {
    let section = root.section("limits");
    let default = default::CONNECTIONS_PER_SERVER;
    let limits = Limits {
        connections_per_server: section.number("connections_per_server", default, 1..=10_000),
    };
    section.finish();
    limits
}

pub(super) fn reader(root: &Section<'_>) -> Reader {
    let section = root.section("reader");
    let reader = Reader {
        heartbeat: section.duration("heartbeat", default::HEARTBEAT, millis(1..=60_000)),
        heartbeat_copying: section.duration(
            "heartbeat_copying",
            default::HEARTBEAT_COPYING,
            millis(1..=60_000),
        ),
        progress_interval: section.duration(
            "progress_interval",
            default::PROGRESS_INTERVAL,
            millis(1..=HOUR_MS),
        ),
        spill_dir: section.get("spill_dir").and_then(|item| item.file()),
        spill_max: section.size("spill_max", default::SPILL_MAX, MIB..=1024 * 1024 * MIB),
    };
    if reader.heartbeat_copying > reader.heartbeat {
        section.fault_at("heartbeat_copying", "expected at most heartbeat");
    }
    section.finish();
    reader
}

pub(super) fn apply(root: &Section<'_>) -> Apply {
    let section = root.section("apply");
    let apply = Apply {
        batch_rows: section.number("batch_rows", default::BATCH_ROWS, 1..=1_000_000),
        batch_bytes: section.size("batch_bytes", default::BATCH_BYTES, KIB..=1024 * MIB),
        batch_age: section.duration("batch_age", default::BATCH_AGE, millis(0..=60_000)),
        parked_age_max: section.duration(
            "parked_age_max",
            default::PARKED_AGE_MAX,
            millis(1..=DAY_MS),
        ),
        parked_rows_max: section.number(
            "parked_rows_max",
            default::PARKED_ROWS_MAX,
            1..=100_000_000,
        ),
    };
    section.finish();
    apply
}

pub(super) fn gate(root: &Section<'_>, reader: &Reader) -> Gate {
    let section = root.section("gate");
    let gate = Gate {
        max_lag: section.duration("max_lag", default::MAX_LAG, millis(1..=DAY_MS)),
        max_lag_groups: section.number(
            "max_lag_groups",
            default::MAX_LAG_GROUPS,
            0..=i64::MAX as u64,
        ),
        hold: section.duration("hold", default::HOLD, millis(0..=DAY_MS)),
        verify_age: age(&section, Some(default::VERIFY_AGE)),
    };
    // Between two heartbeats the newest token grows as old as their distance.
    if gate.max_lag <= reader.heartbeat {
        section.fault_at("max_lag", "expected more than reader.heartbeat: it would never be met");
    }
    section.finish();
    gate
}

pub(super) fn check(root: &Section<'_>, tables: &[Table]) -> Check {
    let section = root.section("check");
    let patterns = section.get("ignore").map(|item| item.elements()).unwrap_or_default();
    let pattern = |text: &str| !text.is_empty();
    let check = Check {
        ignore: patterns
            .into_iter()
            .filter_map(|item| item.text_that("a name or a pattern with *", pattern))
            .collect(),
        accept_unsafe_durability: section.flag("accept_unsafe_durability"),
        accept_session_binlog_control: section.flag("accept_session_binlog_control"),
        accept_meeting: section
            .get("accept_meeting")
            .map(|item| item.elements())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| {
                item.text_that("a table of the plan", |name| tables.iter().any(|t| t.name == name))
            })
            .collect(),
    };
    section.finish();
    check
}

pub(super) fn http(root: &Section<'_>) -> Http {
    let section = root.section("http");
    let address = |key: &'static str| {
        section
            .get(key)
            .and_then(|item| item.text_that("an address and port, 127.0.0.1:9477", is_address))
    };
    let http = Http {
        replicator: address("replicator"),
        consumer: address("consumer"),
        run: address("run"),
    };
    section.finish();
    http
}

pub(super) fn back(root: &Section<'_>) -> Back {
    let section = root.section("back");
    let enabled = section.get("enabled").and_then(|item| item.flag());
    let back =
        Back { enabled: enabled.unwrap_or(default::BACK_ENABLED), verify_age: age(&section, None) };
    if !back.enabled && back.verify_age.is_some() {
        section.fault_at("verify_age", "expected none where enabled = false: there is no rollback");
    }
    section.finish();
    back
}

/// How old a proof may be. To do without one has to be said: `None` only for "none".
fn age(section: &Section<'_>, default: Option<Duration>) -> Option<Duration> {
    match section.get("verify_age") {
        Some(item) if item.is_text("none") => None,
        // One that is no duration is a fault of the plan, whatever it counts for until then.
        Some(item) => item.duration(millis(1..=365 * DAY_MS)).or(default),
        None => default,
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}
