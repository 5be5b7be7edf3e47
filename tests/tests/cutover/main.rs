//! Cutover and rollback, against real servers under a live application.

#![allow(clippy::print_stdout, reason = "seeds, pauses and counts are part of the outcome")]

mod accounts;
mod carried;
mod crash;
mod ending;
mod fence;
mod followed;
mod glass;
mod grants;
mod handover;
mod kept;
mod lost;
mod names;
mod network;
mod next;
mod obstacles;
mod others;
mod peers;
mod products;
mod proven;
mod released;
mod round_trip;
mod shared;
mod site;
mod stop_writes;
mod tables;
mod watchdog;
