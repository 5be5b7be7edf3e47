//! Row images of a known table.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    modshift_replicator::binlog::fuzz::row(bytes);
});
