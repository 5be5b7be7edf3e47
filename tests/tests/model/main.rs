//! Models: every interleaving of small cases, whose steps call the shipped pure functions.
//!
//! `stream` is a reshard's data path: chunks, tail, watermarks. `cutover` is the switch to the new
//! shards and the way back. Each is explored exhaustively, and once more without each of its rules,
//! where it must find what goes wrong.
//! `MODSHIFT_SOAK=1` explores larger cases.

#![allow(clippy::print_stdout, reason = "counts and times are part of the outcome")]

mod cutover;
mod cutovers;
mod explore;
#[path = "../../../consumer/tests/model/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the merging tests use all of it")]
mod places;
mod promotions;
mod shared;
mod stream;
mod streams;
