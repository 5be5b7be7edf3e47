//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once. A command that
//! has nothing to drain ends at the first.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From here on the two signals no longer end the process by themselves.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// Resolves at the first signal, with its name.
    pub async fn first(mut self) -> &'static str {
        self.next().await
    }

    /// Cancels at the first signal; resolves at the second, when nothing may delay the end.
    pub async fn drain_then_quit(mut self, cancel: CancellationToken) {
        let first = self.next().await;
        tracing::info!(signal = first, "stopping: draining what is in flight");
        cancel.cancel();
        let second = self.next().await;
        tracing::warn!(signal = second, "stopping at once: what was in flight will be replayed");
    }
}
