//! The text of a statement.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    modshift_replicator::binlog::fuzz::query(bytes);
});
