//! What a cutover asks of others: the gate, the verification, the routing targets, the operator's
//! terminal. The command line wires it.

use std::time::Duration;

use crate::step::{Direction, Side};

/// The newest routing that a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Routed {
    pub version: u64,
    pub side: Side,
}

/// Why a gate stays closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    pub reasons: Vec<String>,
    /// The plan asks for a proof of the way back, and there is none that is young enough.
    pub unproven_back: bool,
}

pub trait Outside {
    /// Waits for the gate of this direction, for at most so long; why, if it stays closed.
    fn gate(
        &self,
        direction: Direction,
        wait: Option<Duration>,
    ) -> impl Future<Output = Result<(), Closed>>;

    /// Called when everything up to this run's markers has been applied: returns when what was
    /// still unproven has been compared, or fails with what is not clean, or cannot be known within
    /// what is left of the pause; `None`: that is not bounded.
    fn verified(
        &self,
        direction: Direction,
        run: &str,
        left: Option<Duration>,
    ) -> impl Future<Output = Result<(), String>>;

    /// Shards of this side that are dead for good: from here on nothing is asked of them.
    fn without(&mut self, side: Side, shards: &[u16]);

    /// The highest version that any reachable shard holds; `None`: never published.
    fn routed(&self) -> impl Future<Output = Result<Option<Routed>, String>>;

    /// Under which version that routing is published once more: its own, or the next one where the
    /// plan has changed since (a table was added, a host renamed). A version is one document for ever.
    fn version_that_stands(&self, routed: Routed) -> impl Future<Output = Result<u64, String>>;

    /// To every target and every shard that serves or shall, or an error that names those that did
    /// not acknowledge. Publishing a version again must be harmless.
    fn publish(&self, side: Side, version: u64) -> impl Future<Output = Result<(), String>>;

    /// The same for a side whose opening has begun: shards of the other side that do not answer hold
    /// up nobody. They had the routing that this one repeats.
    fn publish_opened(&self, side: Side, version: u64) -> impl Future<Output = Result<(), String>>;

    /// The same for the side that is to serve again. A shard that does not acknowledge keeps no
    /// target from it: the clients of all others wait. It is named once all have been told.
    fn publish_back(&self, side: Side, version: u64) -> impl Future<Output = Result<(), String>>;

    /// The same without the journal: a shard of the other side that does not acknowledge is not
    /// named.
    fn publish_alone(&self, side: Side, version: u64) -> impl Future<Output = Result<(), String>>;

    /// A line for the operator.
    fn tell(&self, line: &str);

    /// The same of a step, or of the pause, with how long that took.
    fn measured(&self, what: &'static str, ms: f64, line: &str) {
        let _ = (what, ms);
        self.tell(line);
    }
}
