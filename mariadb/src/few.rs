//! Short work that needs connections of its own, a few at once on each server: forty shards of one
//! server, begun or asked together, would take the application's place there for a moment.
//!
//! Nobody waits for a turn who has one.

use std::sync::{Arc, Mutex, PoisonError};

use modshift_proto::plan::{Address, Endpoint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Each may open one more for the login of `[cutover]`.
pub const AT_ONCE: usize = 4;

type Turns = Vec<(Address, Arc<Semaphore>)>;

/// For all who have a clone of it.
#[derive(Clone, Debug, Default)]
pub struct Few(Arc<Mutex<Turns>>);

impl Few {
    /// Waits for its turn at the server, and has it for as long as the permit lives.
    pub async fn turn(&self, endpoint: &Endpoint) -> Option<OwnedSemaphorePermit> {
        let turns = self.of(endpoint);
        // An error only for a semaphore that was closed, which these never are.
        turns.acquire_owned().await.ok()
    }

    fn of(&self, endpoint: &Endpoint) -> Arc<Semaphore> {
        let address = endpoint.address();
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, turns)) = servers.iter().find(|(known, _)| *known == address) {
            return turns.clone();
        }
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        servers.push((address, turns.clone()));
        turns
    }
}
