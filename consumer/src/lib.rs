//! Change log -> new shard.
//!
//! message -> [`sequence`] (is anything missing, repeated, out of date?) -> [`batch`] -> one
//! transaction on the new shard by the fast or the exact road of [`merge`], with the [`watermark`]
//! moved first -> acknowledgement. Beside it the [`gate`]: lag, and whether a cutover is safe.
//!
//! Exactly once follows from two things only: rows and watermark commit together, and nothing is
//! taken that the watermark covers. Nothing here remembers anything that a crash could lose.

pub mod applier;
pub mod apply;
mod backoff;
pub mod batch;
pub mod changed;
pub mod error;
pub mod gate;
pub mod gather;
pub mod merge;
pub mod metrics;
pub mod parked;
mod places;
pub mod record;
mod render;
pub mod sequence;
pub mod sql;
pub mod status;
pub mod target;
pub mod watermark;

pub use applier::run_applier;
pub use error::{ApplyError, Class};
pub use metrics::describe as describe_metrics;
pub use status::{ApplierStatus, ApplierView, Phase, StreamView};
