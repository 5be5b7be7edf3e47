//! Old shard -> change log: one reader per old shard.
//!
//! `binlog` turns the server's bytes into events and rows; `tail` follows them in log order and
//! routes each change (`route`) to the new shards' partitions (`publish`); `snapshot` and `copy`
//! bring in the rows that were there before, chunk by chunk, beside the running tail; `epoch`,
//! `token` and `history` make sure that there is one reader, that its log is the log it was, and
//! that a restart goes on where every partition had acknowledged. `feed` is one connection for all
//! readers of a server. `reader` wires them up. `misroute` reads the log of a shard that was split in place,
//! for writes of rows that are another shard's by now.

mod backoff;
pub mod binlog;
mod copy;
mod definitions;
mod durable;
mod epoch;
mod error;
pub mod feed;
mod history;
pub mod metrics;
pub mod misroute;
mod prepare;
mod publish;
mod reader;
mod repair;
pub mod route;
mod skip;
mod snapshot;
mod status;
mod tail;
mod token;
mod whole;

pub use error::{Class, ReadError};
pub use reader::{Together, run_reader};
pub use skip::is_asked;
pub use status::{Phase, ReaderState, ReaderStatus, TableState};

/// What decides and does no I/O, for the models in `tests/`: they call it rather than repeat it.
pub mod pure {
    pub use crate::durable::{Durable, SentTokens};
    pub use crate::epoch::ResumePoint;
    pub use crate::history::{History, Opening, Partial};
    pub use crate::snapshot::admit::{self, Admission};
    pub use crate::snapshot::touched::Verdict;
    pub use crate::snapshot::{ChunkRequest, Schedule, TableProgress, Touched};
    pub use crate::token::SavedTable;
}
