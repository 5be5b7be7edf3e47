//! The gate: is a cutover safe now?
//!
//! [`facts`] is what the databases and daemons say, [`decide`] one pure function over it, and
//! [`evaluator`] the shell that asks again and again and remembers since when all was well.
//! Whatever is not known counts as bad; whatever was not asked for is said to be so.

mod ask;
pub mod decide;
pub mod evaluator;
pub mod facts;
pub mod proof;
pub mod reason;
mod skipped;
#[cfg(test)]
mod tests;

pub use decide::{Decision, Hold, StreamLag, UNPROVEN, decide, only_silence};
pub use evaluator::Evaluator;
pub use facts::{
    BackFacts, Beside, CopyFacts, Coverage, Facts, NewFacts, OldFacts, Outside, ResyncFacts,
    TokenFacts, Verification,
};
pub use reason::Reason;
pub use skipped::SkipFacts;
