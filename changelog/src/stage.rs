//! Named points at which a test may kill the process.
//!
//! With `MODSHIFT_STAGES=1` in the environment each stage reached with rows in flight is written
//! to standard error. With `MODSHIFT_STAGE_HOLD=<stage>:<nth>` the nth time of that stage is
//! reported and then never left, so that a kill from outside hits exactly there. Without either
//! variable a stage costs one relaxed load.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Stages {
    report: bool,
    hold: Option<(String, u64)>,
    hits: AtomicU64,
}

static STAGES: OnceLock<Option<Stages>> = OnceLock::new();

fn stages() -> Option<&'static Stages> {
    let read = || {
        let report = std::env::var_os("MODSHIFT_STAGES").is_some();
        let hold = std::env::var("MODSHIFT_STAGE_HOLD").ok().and_then(|text| {
            let (stage, nth) = text.rsplit_once(':')?;
            Some((stage.to_owned(), nth.parse().ok()?))
        });
        (report || hold.is_some()).then_some(Stages { report, hold, hits: AtomicU64::new(0) })
    };
    STAGES.get_or_init(read).as_ref()
}

/// Reports that `stage` is reached with `rows` rows in flight; may never return.
pub async fn reached(stage: &'static str, rows: u64) {
    let Some(stages) = stages() else { return };
    if rows == 0 {
        return;
    }
    let held = stages.hold.as_ref().is_some_and(|(name, nth)| {
        name == stage && stages.hits.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    });
    if held || stages.report {
        let suffix = if held { " hold" } else { "" };
        let line = format!("stage {stage} rows={rows}{suffix}\n");
        // A test that stopped reading is a test that is over.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    if held {
        std::future::pending::<()>().await;
    }
}
