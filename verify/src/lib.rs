//! Old rows against new rows, byte for byte, while both are written.
//!
//! table -> ranges of the primary key -> [`checksum`]s by stream on every shard at once ->
//! [`compare`] -> of a range that differs, the checksums of its rows -> suspect keys -> [`settle`]:
//! is it lag, a row that waits parked, or damage? -> [`progress`] on the new shards, which the gate
//! reads.
//!
//! A range is scanned once on each shard: an old shard's answer is grouped by the new shard of each
//! row, a new shard's by the old one, so that rows which lie where they do not belong show too.
//! Lag is never called damage: a key counts as damaged only if it differs again and again, each
//! time after the stream has passed the old shard's position at the read. One that never stands still
//! is compared at the fence ([`AtFence`]).
//!
//! The same compares a replica with its primary before it is promoted ([`settle::Link`]): every row is on
//! both, the replica's own position says how far it is, and what is found is kept on the primary.
//!
//! Nothing here writes to a planned table. What is to be repaired goes through the change log.

mod changed;
pub mod checksum;
pub mod compare;
mod continuous;
pub mod error;
mod fenced;
mod halts;
mod key;
mod lock;
mod marks;
pub mod metrics;
mod pace;
pub mod progress;
pub mod repair;
pub mod report;
pub mod settle;
mod shard;
pub mod table;
mod verifier;
mod waiting;

pub use changed::{ChangedKey, ChangedKeys};
pub use continuous::{DRAINER_SEATS, run_continuous};
pub use error::VerifyError;
pub use fenced::AtFence;
pub use lock::Lock;
pub use metrics::describe as describe_metrics;
pub use pace::Pace;
pub use report::{Halt, Kind, Mismatch, Report};
pub use shard::{Bounds, HERE, Shard, here};
pub use table::CheckedTable;
pub use verifier::{Options, Part, Verifier};
