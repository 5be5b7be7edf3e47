//! `[throttle]`: how much a server may hurt before copying and verifying slow down.

use std::time::Duration;

use super::quantity::format_duration;
use super::render::Rendered;
use super::section::{Item, Section};
use super::{Throttle, default};

pub(super) fn read(root: &Section<'_>) -> Throttle {
    let section = root.section("throttle");
    // A limit that is faulty, or not given, has its default; "none" is a limit that is not there.
    let limit = |key: &'static str| section.get(key).filter(|item| !item.is_text("none"));
    let off = |key: &'static str| section.get(key).is_some_and(|item| item.is_text("none"));
    let duration = |key, default, low: Duration| {
        let given = |item: Item<'_>| item.duration(low..=Duration::from_secs(3600));
        (!off(key)).then(|| limit(key).and_then(given).unwrap_or(default))
    };
    let threads =
        |item: Item<'_>| item.number(1..=100_000).and_then(|number| u32::try_from(number).ok());
    let throttle = Throttle {
        threads_running_max: (!off("threads_running_max")).then(|| {
            limit("threads_running_max").and_then(threads).unwrap_or(default::THREADS_RUNNING_MAX)
        }),
        // The server counts whole seconds.
        replica_lag_max: duration(
            "replica_lag_max",
            default::REPLICA_LAG_MAX,
            Duration::from_secs(1),
        ),
        commit_latency_max: duration(
            "commit_latency_max",
            default::COMMIT_LATENCY_MAX,
            Duration::from_micros(1),
        ),
    };
    section.finish();
    throttle
}

pub(super) fn render(throttle: &Throttle, out: &mut Rendered) {
    out.head("[throttle]");
    let threads = throttle.threads_running_max;
    match threads {
        Some(threads) => out.line("threads_running_max", threads),
        None => out.text("threads_running_max", "none"),
    }
    for (key, limit) in [
        ("replica_lag_max", throttle.replica_lag_max),
        ("commit_latency_max", throttle.commit_latency_max),
    ] {
        out.text(key, &limit.map_or("none".to_owned(), format_duration));
    }
}
