//! All metric names of this crate, described with their unit.
//!
//! With N old and M new shards there are N × M streams, twice with the way back: a gauge for each is
//! all that is affordable (the lag). No histogram is by stream, no counter by shard and table.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use modshift_proto::message::Op;
use modshift_proto::{NewShard, OldShard};

use crate::apply::{Cut, Road};
use crate::gate::Facts;
use crate::sequence::Dropped;
use crate::target::Target;

const APPLIED_ROWS: &str = "modshift_applied_rows_total";
const APPLIED_TABLE_ROWS: &str = "modshift_applied_table_rows_total";
const APPLIED_CHANGES: &str = "modshift_applied_changes_total";
const DROPPED: &str = "modshift_apply_dropped_total";
const BATCH_ROWS: &str = "modshift_apply_batch_rows";
const BATCH_BYTES: &str = "modshift_apply_batch_bytes";
const BATCH_SECONDS: &str = "modshift_apply_batch_seconds";
const RETRIES: &str = "modshift_apply_retries_total";
const HALTS: &str = "modshift_apply_halts_total";
const PARKED: &str = "modshift_parked_rows";
const LAG: &str = "modshift_lag_seconds";
const LATENCY: &str = "modshift_end_to_end_seconds";
const BACKLOG_BYTES: &str = "modshift_apply_backlog_bytes";
const BACKLOG_MESSAGES: &str = "modshift_apply_backlog_messages";
const GATE_OPEN: &str = "modshift_gate_open";
const GATE_REASON: &str = "modshift_gate_closed_by";
const REACHABLE: &str = "modshift_shard_reachable";
const VERIFIER_STOPPED: &str = "modshift_verifier_stopped";

/// Tells the recorder what the metrics of the consumer mean; call it once a recorder is there.
pub fn describe() {
    describe_counter!(
        APPLIED_ROWS,
        Unit::Count,
        "rows written to or deleted from a new shard, all tables together"
    );
    describe_counter!(
        APPLIED_TABLE_ROWS,
        Unit::Count,
        "rows of a table written or deleted, all new shards of this process together"
    );
    describe_counter!(
        APPLIED_CHANGES,
        Unit::Count,
        "changes applied, those included that a later one of the same batch replaced"
    );
    describe_counter!(
        DROPPED,
        Unit::Count,
        "messages dropped: position (replayed), number (repeated) or epoch (of a replaced reader)"
    );
    describe_histogram!(BATCH_ROWS, Unit::Count, "rows in a batch, of any new shard");
    describe_histogram!(BATCH_BYTES, Unit::Bytes, "bytes of messages in a batch, of any new shard");
    describe_histogram!(
        BATCH_SECONDS,
        Unit::Seconds,
        "time to apply a batch on any new shard, retries included, by how it was written"
    );
    describe_counter!(RETRIES, Unit::Count, "transactions on a new shard that were tried again");
    describe_counter!(HALTS, Unit::Count, "appliers that stopped, by reason");
    describe_gauge!(
        PARKED,
        Unit::Count,
        "rows that wait: for a place another old shard's row holds, or for a change of their own"
    );
    describe_gauge!(
        LAG,
        Unit::Seconds,
        "age of the newest token applied, by the consumer's clock against the old shard's: an \
         estimate, the gate compares one clock with itself"
    );
    describe_histogram!(
        LATENCY,
        Unit::Seconds,
        "from a token's writing on any old shard to its application on a new one, an estimate as \
         the lag is"
    );
    describe_gauge!(BACKLOG_BYTES, Unit::Bytes, "waiting in the in-process change log");
    describe_gauge!(BACKLOG_MESSAGES, Unit::Count, "waiting in the partition of the change log");
    describe_gauge!(GATE_OPEN, Unit::Count, "1 while a cutover is safe, else 0");
    describe_gauge!(GATE_REASON, Unit::Count, "1 for each reason that keeps the gate closed");
    describe_gauge!(REACHABLE, Unit::Count, "1 while a shard answers the gate of this daemon");
    describe_gauge!(
        VERIFIER_STOPPED,
        Unit::Count,
        "new shards whose changes no verifier keeps; 0 without verify.continuous"
    );
}

fn shard(shard: NewShard) -> String {
    shard.0.to_string()
}

/// What seldom happens is there from the start: a counter that appears with its first event hides
/// that event from `increase()`.
pub(crate) fn begin(target: NewShard) {
    for why in [Dropped::Position, Dropped::Number, Dropped::Epoch] {
        dropped(target, why, 0);
    }
}

/// After a batch has committed.
pub(crate) fn batch(target: NewShard, tables: &Target, cut: &Cut, road: Road, took: Duration) {
    if cut.batch.is_empty() {
        return;
    }
    let label = shard(target);
    let mut counts: Vec<[u64; 2]> = vec![[0; 2]; tables.tables().count()];
    for row in cut.batch.rows() {
        counts[row.table as usize][usize::from(row.op == Op::Delete)] += 1;
    }
    for (index, op) in ["upsert", "delete"].into_iter().enumerate() {
        let mut all = 0;
        for (table, counts) in tables.tables().zip(&counts).filter(|(_, of)| of[index] > 0) {
            let table = table.schema.name.clone();
            counter!(APPLIED_TABLE_ROWS, "table" => table, "op" => op).increment(counts[index]);
            all += counts[index];
        }
        counter!(APPLIED_ROWS, "target" => label.clone(), "op" => op).increment(all);
    }
    let road = match road {
        Road::Marks => "marks",
        Road::Fast => "fast",
        Road::Exact => "exact",
    };
    counter!(APPLIED_CHANGES, "target" => label).increment(cut.batch.changes());
    histogram!(BATCH_ROWS).record(cut.batch.len() as f64);
    histogram!(BATCH_BYTES).record(cut.batch.bytes() as f64);
    histogram!(BATCH_SECONDS, "road" => road).record(took);
}

pub(crate) fn dropped(target: NewShard, why: Dropped, count: u64) {
    counter!(DROPPED, "target" => shard(target), "reason" => why.name()).increment(count);
}

pub(crate) fn retry(target: NewShard, reason: &'static str) {
    counter!(RETRIES, "target" => shard(target), "reason" => reason).increment(1);
}

pub(crate) fn halt(target: NewShard, reason: &'static str) {
    counter!(HALTS, "target" => shard(target), "reason" => reason).increment(1);
}

pub(crate) fn parked(target: NewShard, rows: usize) {
    gauge!(PARKED, "target" => shard(target)).set(rows as f64);
}

/// A token has been applied. `age_us` by the consumer's clock.
pub(crate) fn token(target: NewShard, source: OldShard, age_us: i64) {
    let seconds = age_us as f64 / 1e6;
    histogram!(LATENCY, "target" => shard(target)).record(seconds.max(0.0));
    lag(target, source, age_us);
}

pub(crate) fn lag(target: NewShard, source: OldShard, age_us: i64) {
    gauge!(LAG, "target" => shard(target), "source" => source.0.to_string())
        .set(age_us as f64 / 1e6);
}

pub(crate) fn backlog_bytes(target: NewShard, bytes: u64) {
    gauge!(BACKLOG_BYTES, "target" => shard(target)).set(bytes as f64);
}

pub(crate) fn backlog_messages(target: NewShard, messages: u64) {
    gauge!(BACKLOG_MESSAGES, "target" => shard(target)).set(messages as f64);
}

/// What the gate found on its way.
pub(crate) fn found(facts: &Facts) {
    let old = facts.old.iter().map(Result::is_ok).enumerate().map(|found| ("old", found));
    let new = facts.new.iter().map(Result::is_ok).enumerate().map(|found| ("new", found));
    for (side, (shard, answers)) in old.chain(new) {
        gauge!(REACHABLE, "side" => side, "shard" => shard.to_string())
            .set(f64::from(u8::from(answers)));
    }
    let stopped = facts.beside.as_ref().map_or(0, |beside| beside.absent.len());
    gauge!(VERIFIER_STOPPED).set(stopped as f64);
}

/// `closed`: kinds of reasons that apply now; `kinds`: all there are.
pub(crate) fn gate(open: bool, kinds: &[&'static str], closed: &[&'static str]) {
    gauge!(GATE_OPEN).set(f64::from(u8::from(open)));
    for kind in kinds {
        gauge!(GATE_REASON, "reason" => *kind).set(f64::from(u8::from(closed.contains(kind))));
    }
}
