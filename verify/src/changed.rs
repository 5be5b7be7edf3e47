//! What an applier in this process has changed since it was compared, as the verifier sees it.

use std::time::Instant;

/// A row of a stream, by its primary key in wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    pub source: u16,
    /// The table's number in the plan.
    pub table: u32,
    pub key: Vec<u8>,
}

/// Of one new shard.
pub trait ChangedKeys: Send + Sync {
    fn target(&self) -> u16;

    fn take(&self) -> Vec<ChangedKey>;

    fn put_back(&self, keys: Vec<ChangedKey>);

    /// Since when nothing that was applied is missing from what was to be taken.
    fn whole_since(&self) -> Instant;

    /// Count of the newest token of an old shard that was applied: everything before it has been
    /// there to be taken.
    fn token_writes(&self, source: u16) -> u64;
}
