//! Seeds of property tests.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngSeed};

/// `MODSHIFT_SEED`, or another at each run; printed either way, so that any run can be repeated.
pub fn seed(of: &str) -> u64 {
    let given = std::env::var("MODSHIFT_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| age.as_nanos());
    let seed = given.unwrap_or_else(|| now() as u64 | 1);
    // Past the capture of output: a run that hangs has said its seed.
    let _ = writeln!(std::io::stderr(), "{of}: repeat with MODSHIFT_SEED={seed}");
    seed
}

/// So many cases from such a seed.
#[allow(dead_code, reason = "each test file is a crate of its own, and not all have properties")]
pub fn cases(of: &str, cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(seed(of));
    Config { cases, rng_seed, failure_persistence: None, ..Config::default() }
}
