//! The Prometheus side: one recorder for all crates, and the numbers that belong to the process.
//!
//! Names and units of what the crates measure are in their own `metrics.rs`; this one has the
//! streams, which only the process as a whole knows.

use std::time::Duration;

use anyhow::Context;
use metrics::{Unit, counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use modshift_mariadb::pace::Throttle;
use modshift_mariadb::refused;
use tokio_util::sync::CancellationToken;

use crate::daemon::direction::Directed;
use crate::daemon::newborn::{Exported, Newborn};

/// Streams stopped for good, by reason. The crates count theirs; here are only broken invariants.
const HALTS: &str = "modshift_halts_total";
const BUILD_INFO: &str = "modshift_build_info";
const STREAMS: &str = "modshift_streams";
const THROTTLE_PACE: &str = "modshift_throttle_pace";
const THROTTLE_PAUSED: &str = "modshift_throttle_paused";
const LOGINS_REFUSED: &str = "modshift_logins_refused";
const THROTTLE_WAITED: &str = "modshift_throttle_waited_seconds";

/// A commit every 20 ms is the usual pace and 10 s is past every alert: powers of about two.
const SECONDS: [f64; 16] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];
/// Of what is measured on every new shard: a line for each of them.
const END_TO_END: [f64; 9] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 60.0];
const ROWS: [f64; 10] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5];
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1e6, 4e6, 16e6];

/// How often histograms are compacted; without it memory grows with every sample.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const THROTTLE_INTERVAL: Duration = Duration::from_secs(1);

/// Installs the recorder. Once per process, before any stream starts.
pub fn install() -> anyhow::Result<Exported> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|b| {
            let of = Matcher::Full("modshift_end_to_end_seconds".into());
            b.set_buckets_for_metric(of, &END_TO_END)
        })
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS))
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES))
        .map(PrometheusBuilder::build_recorder)
        .context("building the metrics recorder")?;
    let handle = recorder.handle();
    let recorder = Newborn::new(recorder);
    let counters = recorder.counters();
    metrics::set_global_recorder(Directed(recorder))
        .map_err(|_| anyhow::anyhow!("a metrics recorder is installed already"))?;
    modshift_changelog::describe_metrics();
    modshift_replicator::metrics::describe();
    modshift_consumer::describe_metrics();
    modshift_verify::describe_metrics();
    modshift_cutover::metrics::describe();
    describe_gauge!(BUILD_INFO, "always 1; the version is a label");
    describe_gauge!(
        STREAMS,
        "streams of this process by state: running, halted, taken (they go on in another process)"
    );
    describe_gauge!(
        THROTTLE_PACE,
        "share of the time that a server leaves to copying and verifying, 0.05 to 1"
    );
    describe_gauge!(THROTTLE_PAUSED, "1 while an operator has copying and verifying paused");
    describe_gauge!(LOGINS_REFUSED, "logins that servers refuse to this process now, tried again");
    describe_gauge!(
        THROTTLE_WAITED,
        Unit::Seconds,
        "what the workers of this process have waited so far, together"
    );
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Exported { handle, counters })
}

pub async fn upkeep(exported: Exported, cancel: CancellationToken) {
    let mut every = tokio::time::interval(UPKEEP_INTERVAL);
    while cancel.run_until_cancelled(every.tick()).await.is_some() {
        exported.handle.run_upkeep();
    }
}

/// Shows what the throttle does, and which logins are refused. Never ends: runs beside the work, and is dropped with it.
pub async fn follow(throttle: &Throttle) {
    let mut every = tokio::time::interval(THROTTLE_INTERVAL);
    loop {
        every.tick().await;
        let view = throttle.view();
        for server in view.servers {
            gauge!(THROTTLE_PACE, "server" => server.server).set(server.pace);
        }
        gauge!(THROTTLE_PAUSED).set(f64::from(u8::from(view.paused.is_some())));
        gauge!(THROTTLE_WAITED).set(view.waited_s);
        gauge!(LOGINS_REFUSED).set(refused::refused().len() as f64);
    }
}

pub fn panicked() {
    counter!(HALTS, "reason" => "panic").increment(1);
}

pub fn streams(running: usize, halted: usize, taken: usize) {
    gauge!(STREAMS, "state" => "running").set(running as f64);
    gauge!(STREAMS, "state" => "halted").set(halted as f64);
    gauge!(STREAMS, "state" => "taken").set(taken as f64);
}
