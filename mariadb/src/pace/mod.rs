//! How fast work that can wait may go: copying and verifying. The tail never waits.
//!
//! Such work is done in pieces (chunks). Whoever does it asks its [`Pace`] before each piece, and
//! says afterwards how much it was: the pace makes it wait for as long as the servers, or an
//! operator, need it to.
//!
//! `sample` asks the servers, `controller` makes a pace of what one of them shows, `throttle` brings
//! those of all servers and the operator's word together and hands a [`Lane`] to each worker.

mod controller;
mod sample;
mod throttle;

use std::time::Duration;

pub use controller::PACE_MIN;
pub use throttle::{Lane, RATIO_MIN, Throttle, View};

/// The pace of one worker. Shared by its pieces: it waits for all of them together.
pub trait Pace: Send + Sync {
    /// Waits until the next piece may start. May wait for hours: nothing that others need (a
    /// transaction, a lock) may be held meanwhile. Cancel safe.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// A piece is done: so many rows, in so much time. Says nothing about the next one.
    fn done(&self, rows: u64, took: Duration);
}

/// As fast as it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unhindered;

impl Pace for Unhindered {
    async fn ready(&self) {}

    fn done(&self, _rows: u64, _took: Duration) {}
}
