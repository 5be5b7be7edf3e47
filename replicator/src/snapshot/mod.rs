//! Existing rows, copied in primary-key chunks beside the running tail, without locks.
//!
//! A chunk is read in one consistent snapshot, with modshift's token read inside it: everything up
//! to the place where the tail sees that token (L) is in the chunk, and nothing after the server's
//! GTID set H, read when the rows were in hand. The chunk enters the change log when the tail has
//! passed H, without the rows that the tail touched after L: of those the log already carries
//! something newer. `chunk` reads, `touched` remembers, `schedule` says what to read next,
//! `admit` when a chunk enters.

pub mod admit;
pub mod chunk;
pub mod schedule;
pub mod touched;

pub use chunk::{Chunk, ChunkReader, ChunkRequest, Which};
pub use schedule::{Schedule, TableProgress};
pub use touched::Touched;
