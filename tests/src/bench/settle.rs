//! Waiting until servers have nothing left to do: what was deleted is purged, what was changed is
//! written out. A measurement that begins earlier measures the one before it, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::say;
use crate::server::{KafkaBroker, MariaDbServer};

/// Over which processor time is looked at.
const WINDOW: Duration = Duration::from_millis(300);
/// Share of one core that all of them together may still take: page cleaners never sleep for long.
const REST: f64 = 0.15;
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for rest, but not for ever: says so where it does not come.
pub async fn settle(servers: &[Arc<MariaDbServer>], broker: &KafkaBroker) -> Result<()> {
    let begun = Instant::now();
    let busy = || -> Result<f64> { Ok(cpu(servers)? + broker.cpu_time()?.as_secs_f64()) };
    let mut before = busy()?;
    while begun.elapsed() < LIMIT {
        tokio::time::sleep(WINDOW).await;
        let now = busy()?;
        if now - before <= REST * WINDOW.as_secs_f64() {
            return Ok(());
        }
        before = now;
    }
    say("the servers do not come to rest; going on");
    Ok(())
}

/// Processor time of these servers so far, in seconds.
pub fn cpu(servers: &[Arc<MariaDbServer>]) -> Result<f64> {
    servers.iter().map(|server| Ok(server.cpu_time()?.as_secs_f64())).sum()
}
