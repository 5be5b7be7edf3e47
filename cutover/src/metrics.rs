//! All metric names of this crate, described with their unit.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::step::Side;

const RESTORED: &str = "modshift_fence_restored_total";
const OPEN: &str = "modshift_fence_open";
const WATCHDOG_ENDED: &str = "modshift_watchdog_ended_total";
const WATCHDOG_READY: &str = "modshift_watchdog_ready";
const SERVING: &str = "modshift_serving";
const RUN_LEFT: &str = "modshift_run_left";

/// Tells the recorder what the metrics of the cutover mean; call it once a recorder is there.
pub fn describe() {
    describe_counter!(
        RESTORED,
        Unit::Count,
        "times that a fenced shard was found open, and closed again"
    );
    describe_gauge!(
        OPEN,
        Unit::Count,
        "1 while a fenced shard is without read_only and could not be closed"
    );
    describe_counter!(
        WATCHDOG_ENDED,
        Unit::Count,
        "cutovers and rollbacks without an operator that this daemon has undone or finished"
    );
    describe_gauge!(
        WATCHDOG_READY,
        Unit::Count,
        "1 while this daemon could end a cutover whose operator is gone"
    );
    describe_gauge!(
        SERVING,
        Unit::Count,
        "1 while this side serves, by the journal; by its shards where that says neither, or is away"
    );
    describe_gauge!(
        RUN_LEFT,
        Unit::Count,
        "1 while a run is not over and no operator is at it, whether or not a daemon tries to end it"
    );
}

/// At the start with 0, so that the first one counts as an increase.
pub fn watchdog_ended(end: &'static str, runs: u64) {
    counter!(WATCHDOG_ENDED, "end" => end).increment(runs);
}

/// `side`: `None`: neither.
pub fn serving(side: Option<Side>) {
    for of in [Side::Old, Side::New] {
        gauge!(SERVING, "side" => of.name()).set(f64::from(u8::from(side == Some(of))));
    }
}

/// By the journal; as it was, while that cannot be read.
pub fn run_left(left: bool) {
    gauge!(RUN_LEFT).set(f64::from(u8::from(left)));
}

/// Several plans may have one Prometheus.
pub fn watchdog_ready(plan: &str, ready: bool) {
    gauge!(WATCHDOG_READY, "plan" => plan.to_owned()).set(f64::from(u8::from(ready)));
}

pub(crate) fn restored(side: Side, shard: u16, times: u64) {
    counter!(RESTORED, "side" => side.name(), "shard" => shard.to_string()).increment(times);
}

pub(crate) fn open(side: Side, shard: u16, open: bool) {
    gauge!(OPEN, "side" => side.name(), "shard" => shard.to_string())
        .set(f64::from(u8::from(open)));
}
