//! What an applier in this process has changed since it was compared, as the verifier sees it.

use std::collections::BTreeSet;
use std::time::Instant;

/// A row of a stream, by its primary key in wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    pub source: u16,
    /// The table's number in the plan.
    pub table: u32,
    pub key: Vec<u8>,
    /// Of its last change, or of the last look at it: whoever changes it again gives it another.
    pub mark: u64,
}

/// Of one new shard. A key stays until it has been [`ChangedKeys::compared`]: a comparison that fails
/// forgets none.
pub trait ChangedKeys: Send + Sync {
    fn target(&self) -> u16;

    /// Those that have waited longest, of these old shards or of all, none marked after `until`.
    fn oldest(
        &self,
        sources: Option<&BTreeSet<u16>>,
        until: u64,
        keys_max: usize,
    ) -> Vec<ChangedKey>;

    /// These are done with, unless they have changed since they were given out.
    fn compared(&self, keys: &[ChangedKey]);

    /// These are looked at again after all others.
    fn put_off(&self, keys: &[ChangedKey]);

    /// The newest mark.
    fn newest(&self) -> u64;

    fn waiting(&self) -> usize;

    /// Is a change of this old shard waiting to be compared?
    fn is_waiting(&self, source: u16) -> bool;

    /// Since when nothing that was applied is missing.
    fn whole_since(&self) -> Instant;

    /// Count of the newest token of an old shard that was applied: everything before it has been
    /// here to be compared.
    fn token_writes(&self, source: u16) -> u64;
}
