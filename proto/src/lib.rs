//! The contract between Modshift's parts, without any I/O: shards and keys, the plan, positions,
//! and the change log's wire format.

pub mod fuzz;
pub mod gtid;
pub mod message;
pub mod plan;
pub mod row;
pub mod rule;
pub mod schema;
pub mod shard;
pub mod shell;
#[rustfmt::skip]
#[allow(clippy::all, reason = "generated from change.proto; a test regenerates it")]
pub mod wire;

pub use gtid::{GroupDigest, Gtid, GtidSet, Position};
pub use schema::{Column, DataType, TableSchema, UniqueKey, differences};
pub use shard::{Modulus, NewShard, OldShard};
