//! What the verifier counts.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::report::Kind;

const ROWS: &str = "modshift_verify_rows_total";
const ROUNDS: &str = "modshift_verify_rounds_total";
const MISMATCHES: &str = "modshift_verify_mismatches_total";
const CHANGED: &str = "modshift_verify_changed_keys";

pub fn describe() {
    describe_counter!(ROWS, Unit::Count, "rows compared, counted on the old shards");
    describe_counter!(ROUNDS, Unit::Count, "whole rounds over a table, by outcome");
    describe_counter!(MISMATCHES, Unit::Count, "rows found to differ for good, each time found");
    describe_gauge!(CHANGED, Unit::Count, "keys changed since they were compared");
}

/// What seldom happens is there from the start: a counter that appears with its first event hides
/// that event from `increase()`.
pub(crate) fn begin(table: &str) {
    rows(table, 0);
    for outcome in ["clean", "open"] {
        counter!(ROUNDS, "table" => table.to_owned(), "outcome" => outcome).increment(0);
    }
    for kind in Kind::ALL {
        counter!(MISMATCHES, "table" => table.to_owned(), "kind" => kind.name()).increment(0);
    }
}

pub(crate) fn rows(table: &str, rows: u64) {
    counter!(ROWS, "table" => table.to_owned()).increment(rows);
}

pub(crate) fn round(table: &str, clean: bool) {
    let outcome = if clean { "clean" } else { "open" };
    counter!(ROUNDS, "table" => table.to_owned(), "outcome" => outcome).increment(1);
}

pub(crate) fn mismatch(table: &str, kind: &'static str) {
    counter!(MISMATCHES, "table" => table.to_owned(), "kind" => kind).increment(1);
}

pub(crate) fn changed_keys(target: u16, keys: usize) {
    gauge!(CHANGED, "target" => target.to_string()).set(keys as f64);
}
