//! The harness: real MariaDB servers, a real Kafka broker, an application that writes, and an oracle
//! that compares every row. Used by the end-to-end tests, the demo and the benchmarks.
//!
//! From the outside in: [`estate`] is a whole set-up (old shards, new shards, a plan, perhaps a
//! broker); [`server`] starts and breaks the parts of it; [`case`] is what is stored; [`writer`] is
//! the application; [`process`] is the product under test, as a process that can be killed at a
//! named point; [`oracle`] says whether the new shards hold what the old ones hold.
//!
//! The harness never uses product code to decide what is right: placement, comparison and SQL are
//! written down here a second time, on purpose.

pub mod application;
#[allow(clippy::print_stdout, reason = "a benchmark talks to its user")]
pub mod bench;
pub mod case;
pub mod certificates;
pub mod child;
mod daemons;
#[allow(clippy::print_stdout, reason = "a demonstration talks to its user")]
pub mod demo;
mod drain;
pub mod estate;
pub mod grants;
pub mod marker;
pub mod neighbour;
pub mod network;
pub mod oracle;
pub mod pages;
pub mod place;
mod printed;
pub mod process;
pub mod random;
pub mod rule;
pub mod server;
pub mod versions;
pub mod wait;
pub mod writer;

pub use daemons::Daemons;
pub use drain::{copied, drained, drained_back};
pub use estate::{Estate, EstateOptions, Log};
pub use oracle::{Oracle, Report};
pub use printed::printed;
pub use process::Modshift;
pub use rule::{Rule, TableRule};
pub use server::{Address, KafkaBroker, MariaDbOptions, MariaDbServer, Proxy};
pub use wait::wait_until;
pub use writer::{Ledger, Mix, Routes, Writer, WriterOptions};
