//! Writes down what was asked of this daemon, in order, waiting for new shard 0 where it is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::{ServerError, audit};
use modshift_proto::plan::Plan;
use tokio::sync::{mpsc, oneshot};

/// Actions that may wait to be written. Beyond it further ones are refused: whatever asks so often
/// is no operator.
const WAITING_MAX: usize = 256;
const RETRY: Duration = Duration::from_secs(2);
/// An action written later than this says so.
const LATE: Duration = Duration::from_secs(2);

/// Something that has been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    pub who: String,
    pub what: String,
    pub detail: String,
    pub outcome: String,
}

type Waiting = (Deed, Instant, oneshot::Sender<()>);

#[derive(Clone, Debug)]
pub struct Clerk(mpsc::Sender<Waiting>);

/// The right to have one action written down, taken before it is done.
pub struct Page<'a>(mpsc::Permit<'a, Waiting>);

impl Clerk {
    /// The handle, and what writes: it ends when every handle is gone, and is dropped with the
    /// daemon. What is not written by then is in the daemon's log.
    pub fn new(plan: Arc<Plan>) -> (Clerk, impl Future<Output = ()> + Send) {
        let (deeds, waiting) = mpsc::channel(WAITING_MAX);
        (Clerk(deeds), write(plan, waiting))
    }

    /// `None`: too many are waiting.
    pub fn page(&self) -> Option<Page<'_>> {
        self.0.try_reserve().ok().map(Page)
    }
}

impl Page<'_> {
    /// Resolves when it is written.
    pub fn write(self, deed: Deed) -> oneshot::Receiver<()> {
        let Deed { who, what, detail, outcome } = &deed;
        tracing::info!(who, what, detail, outcome, "an operator's action");
        let (written, receiver) = oneshot::channel();
        self.0.send((deed, Instant::now(), written));
        receiver
    }
}

async fn write(plan: Arc<Plan>, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some((deed, at, written)) = waiting.recv().await {
        let mut failed = false;
        while let Err(error) = attempt(&plan, &deed, at).await {
            if !failed {
                let hint = error.hint().unwrap_or_default();
                tracing::warn!(%error, hint, "an action is not in the audit table yet: retrying");
            }
            failed = true;
            tokio::time::sleep(RETRY).await;
        }
        // Whoever asked may have gone.
        let _ = written.send(());
    }
}

async fn attempt(plan: &Plan, deed: &Deed, at: Instant) -> Result<(), ServerError> {
    let mut detail = deed.detail.clone();
    let late = at.elapsed();
    if late > LATE {
        detail += &format!(" (written {} s late)", late.as_secs());
    }
    let entry = audit::begin_as(plan, &deed.who, &deed.what, detail.trim_start()).await?;
    entry.finish(&deed.outcome).await
}
