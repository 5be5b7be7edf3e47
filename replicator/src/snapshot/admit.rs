//! May a chunk enter the change log now? Pure.
//!
//! It may when the tail has passed everything that the chunk can show (H) and everything that a
//! predecessor may have sent (G), and when the touched keys are known from before the token that
//! its snapshot held. A chunk of which that can no longer become true is read again.

use modshift_proto::GtidSet;

use crate::snapshot::touched::{Touched, Verdict};

/// What a chunk shows of the moment of its snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Epoch and number of the token in the snapshot.
    pub epoch: u64,
    pub token: u64,
    /// H: nothing after this set is in the chunk.
    pub high: &'a GtidSet,
}

/// How far the tail is.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    pub epoch: u64,
    /// Complete groups.
    pub done: &'a GtidSet,
    /// Newest token of this epoch that the log has shown.
    pub token_seen: Option<u64>,
    /// G: what the primary showed after the start markers were acknowledged; `None`: not known yet.
    pub guard: Option<&'a GtidSet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Wait,
    ReadAgain,
    Enter,
}

/// Decides between two event groups. `touched`: what is remembered of the chunk's table.
pub fn admit(chunk: Shown<'_>, tail: Passed<'_>, touched: Option<&Touched>) -> Admission {
    if chunk.epoch != tail.epoch || chunk.high.is_empty() {
        // Not this epoch's token, or a server that does not say how far it is.
        return Admission::ReadAgain;
    }
    let passed =
        tail.guard.is_some_and(|guard| tail.done.contains(guard)) && tail.done.contains(chunk.high);
    if !passed {
        return Admission::Wait;
    }
    let verdict = touched.map_or(Verdict::ReadAgain, |touched| touched.verdict(chunk.token));
    if verdict == Verdict::ReadAgain || chunk.token > tail.token_seen.unwrap_or(0) {
        return Admission::ReadAgain;
    }
    Admission::Enter
}
