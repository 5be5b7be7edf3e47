//! The cutover: from one side's shards to the other's, without a lost write and with a way back.
//!
//! It is a process of its own. It talks to the servers and to the routing targets, never to the
//! daemons: those learn of it from the markers that it writes into the logs.

pub mod decide;
pub mod step;

pub use decide::{
    Action, Admission, Ask, Budget, End, Entry, Facts, Journal, Mark, Refusal, Run, Serving, Stop,
    Wish, admit, legal, next, past_no_return, serving,
};
pub use step::{Direction, Mode, Side, Step};
