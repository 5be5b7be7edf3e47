//! One binlog event, header and body.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    modshift_replicator::binlog::fuzz::event(bytes);
});
