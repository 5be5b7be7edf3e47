//! Names of the reader's metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use modshift_proto::OldShard;

const EVENTS: &str = "modshift_read_events_total";
const BYTES: &str = "modshift_read_bytes_total";
const OWN_ROWS: &str = "modshift_read_own_rows_total";
const ROWS: &str = "modshift_routed_rows_total";
const MESSAGES: &str = "modshift_sent_messages_total";
const SNAPSHOT_ROWS: &str = "modshift_snapshot_rows";
const SNAPSHOT_ESTIMATED: &str = "modshift_snapshot_rows_estimated";
const SNAPSHOT_DONE: &str = "modshift_snapshot_done";
const CHUNKS_AGAIN: &str = "modshift_snapshot_chunks_read_again_total";
const STALE: &str = "modshift_snapshot_rows_superseded_total";
const UNACKED: &str = "modshift_unacknowledged_bytes";
const HEAD: &str = "modshift_read_lag_seconds";
const RETRIES: &str = "modshift_retries_total";
const HALTS: &str = "modshift_halts_total";
const REPAIRS_REFUSED: &str = "modshift_repairs_refused_total";
const SKIPPED: &str = "modshift_groups_skipped_total";
const EPOCH: &str = "modshift_reader_epoch";
const MISROUTED: &str = "modshift_misrouted_rows_total";
const MISROUTE_GAPS: &str = "modshift_misroute_gaps_total";

pub fn describe() {
    describe_counter!(EVENTS, Unit::Count, "Binlog events read from an old shard");
    describe_counter!(BYTES, Unit::Bytes, "Binlog bytes read from an old shard");
    describe_counter!(
        OWN_ROWS,
        Unit::Count,
        "Row changes read that modshift itself had applied: never sent back"
    );
    describe_counter!(
        ROWS,
        Unit::Count,
        "Row changes sent, by table and operation, of all old shards of this process together"
    );
    describe_counter!(
        MESSAGES,
        Unit::Count,
        "Messages sent to the change log: changes, and tokens to each partition"
    );
    describe_gauge!(SNAPSHOT_ROWS, Unit::Count, "Rows of a table copied so far");
    describe_gauge!(
        SNAPSHOT_ESTIMATED,
        Unit::Count,
        "Rows of a table as the server estimates them"
    );
    describe_gauge!(SNAPSHOT_DONE, Unit::Count, "1 once every table of the old shard is copied");
    describe_counter!(
        CHUNKS_AGAIN,
        Unit::Count,
        "Chunks read again: token too old or too many keys"
    );
    describe_counter!(STALE, Unit::Count, "Rows of chunks left out: the tail had something newer");
    describe_gauge!(UNACKED, Unit::Bytes, "Bytes sent and not acknowledged yet, of all partitions");
    describe_gauge!(HEAD, Unit::Seconds, "Age of the newest token the tail has read");
    describe_counter!(RETRIES, Unit::Count, "Attempts after an error of the outside world");
    describe_counter!(HALTS, Unit::Count, "Streams stopped by a fact that a retry cannot change");
    describe_counter!(
        REPAIRS_REFUSED,
        Unit::Count,
        "Requests in modshift_repair that can never be served"
    );
    describe_counter!(
        SKIPPED,
        Unit::Count,
        "Event groups passed over, as an operator has asked for; each time that the log is read"
    );
    describe_gauge!(EPOCH, Unit::Count, "Epoch of the reader");
    describe_counter!(
        MISROUTED,
        Unit::Count,
        "Rows written on a new shard, not by modshift, that are another shard's"
    );
    describe_counter!(
        MISROUTE_GAPS,
        Unit::Count,
        "Times that the misroute watch had to begin anew: what was written before is not known"
    );
}

fn source(shard: OldShard) -> String {
    shard.0.to_string()
}

/// Of a new shard.
pub fn begin_misroutes(shard: u16) {
    counter!(MISROUTED, "target" => shard.to_string()).increment(0);
    counter!(MISROUTE_GAPS, "target" => shard.to_string()).increment(0);
}

pub fn misrouted(shard: u16, rows: u64) {
    counter!(MISROUTED, "target" => shard.to_string()).increment(rows);
}

pub fn misroute_gap(shard: u16) {
    counter!(MISROUTE_GAPS, "target" => shard.to_string()).increment(1);
}

/// What seldom happens is there from the start: a counter that appears with its first event hides
/// that event from `increase()`.
pub fn begin(shard: OldShard) {
    counter!(CHUNKS_AGAIN, "source" => source(shard)).increment(0);
    counter!(STALE, "source" => source(shard)).increment(0);
    counter!(REPAIRS_REFUSED, "source" => source(shard)).increment(0);
    counter!(SKIPPED, "source" => source(shard)).increment(0);
}

pub fn read(shard: OldShard, events: u64, bytes: u64) {
    counter!(EVENTS, "source" => source(shard)).increment(events);
    counter!(BYTES, "source" => source(shard)).increment(bytes);
}

pub fn own_rows(shard: OldShard, rows: u64) {
    counter!(OWN_ROWS, "source" => source(shard)).increment(rows);
}

pub fn routed(table: &str, op: &'static str, rows: u64) {
    counter!(ROWS, "table" => table.to_owned(), "op" => op).increment(rows);
}

pub fn sent(shard: OldShard, messages: u64) {
    counter!(MESSAGES, "source" => source(shard)).increment(messages);
}

pub fn snapshot(shard: OldShard, table: &str, rows: u64, estimated: u64) {
    gauge!(SNAPSHOT_ROWS, "source" => source(shard), "table" => table.to_owned()).set(rows as f64);
    gauge!(SNAPSHOT_ESTIMATED, "source" => source(shard), "table" => table.to_owned())
        .set(estimated.max(rows) as f64);
}

pub fn snapshot_done(shard: OldShard, done: bool) {
    gauge!(SNAPSHOT_DONE, "source" => source(shard)).set(f64::from(u8::from(done)));
}

pub fn chunk_read_again(shard: OldShard) {
    counter!(CHUNKS_AGAIN, "source" => source(shard)).increment(1);
}

pub fn superseded_rows(shard: OldShard, rows: u64) {
    counter!(STALE, "source" => source(shard)).increment(rows);
}

pub fn unacknowledged(shard: OldShard, bytes: u64) {
    gauge!(UNACKED, "source" => source(shard)).set(bytes as f64);
}

pub fn head_age(shard: OldShard, seconds: f64) {
    gauge!(HEAD, "source" => source(shard)).set(seconds);
}

pub fn retry(shard: OldShard, what: &'static str) {
    counter!(RETRIES, "source" => source(shard), "what" => what).increment(1);
}

pub fn halt(shard: OldShard, reason: &'static str) {
    counter!(HALTS, "source" => source(shard), "reason" => reason).increment(1);
}

pub fn repairs_refused(shard: OldShard, requests: u64) {
    counter!(REPAIRS_REFUSED, "source" => source(shard)).increment(requests);
}

pub fn skipped(shard: OldShard) {
    counter!(SKIPPED, "source" => source(shard)).increment(1);
}

pub fn epoch(shard: OldShard, epoch: u64) {
    gauge!(EPOCH, "source" => source(shard)).set(epoch as f64);
}
