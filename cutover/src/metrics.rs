//! All metric names of this crate, described with their unit.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::step::Side;

const RESTORED: &str = "modshift_fence_restored_total";
const OPEN: &str = "modshift_fence_open";

/// Tells the recorder what the metrics of the cutover mean; call it once a recorder is there.
pub fn describe() {
    describe_counter!(
        RESTORED,
        Unit::Count,
        "times that a fenced shard was found without read_only, and closed again"
    );
    describe_gauge!(
        OPEN,
        Unit::Count,
        "1 while a fenced shard is without read_only and could not be closed"
    );
}

pub(crate) fn restored(side: Side, shard: u16, times: u64) {
    counter!(RESTORED, "side" => side.name(), "shard" => shard.to_string()).increment(times);
}

pub(crate) fn open(side: Side, shard: u16, open: bool) {
    gauge!(OPEN, "side" => side.name(), "shard" => shard.to_string())
        .set(f64::from(u8::from(open)));
}
