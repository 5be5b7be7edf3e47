//! The one place where the harness sleeps.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it has an answer. An error of the probe ends the wait at
/// once; "not yet" is `Ok(None)`.
pub async fn wait_until<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The same for threads without a runtime.
pub fn wait_until_blocking<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if std::time::Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        std::thread::sleep(POLL);
    }
}
