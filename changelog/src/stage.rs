//! Named points at which a test may kill the process.
//!
//! With `MODSHIFT_STAGES=1` in the environment each stage reached with rows in flight is written
//! to standard error. With `MODSHIFT_STAGE_HOLD=<stage>:<nth>` the nth time of that stage is
//! reported and then never left, so that a kill from outside hits exactly there; or, with
//! `MODSHIFT_STAGE_RELEASE=<path>`, left as soon as that file is there, so that a test can take
//! something away first. Without any of them a stage costs one relaxed load.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const RELEASE_POLL: Duration = Duration::from_millis(5);

struct Stages {
    report: bool,
    hold: Option<(String, u64)>,
    release: Option<PathBuf>,
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
        let release = std::env::var_os("MODSHIFT_STAGE_RELEASE").map(PathBuf::from);
        let hits = AtomicU64::new(0);
        (report || hold.is_some()).then_some(Stages { report, hold, release, hits })
    };
    STAGES.get_or_init(read).as_ref()
}

/// Reports that `stage` is reached with `rows` rows in flight; where held, may never return.
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
        match &stages.release {
            None => std::future::pending::<()>().await,
            Some(path) => {
                while !path.exists() {
                    tokio::time::sleep(RELEASE_POLL).await;
                }
            }
        }
    }
}
