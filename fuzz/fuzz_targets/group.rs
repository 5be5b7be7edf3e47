//! Several events, each preceded by its length in four bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    modshift_replicator::binlog::fuzz::group(bytes);
});
