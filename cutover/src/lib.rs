//! The cutover: from one side's shards to the other's, without a lost write and with a way back.
//!
//! | module | is |
//! |---|---|
//! | [`step`] | the steps, their order, the words around them |
//! | [`decide`] | what to do next: pure, from the journal and a few facts |
//! | [`register`] | the journal and its lock, on new shard 0 |
//! | [`server`] | a session that acts for the run's owner alone, or prints what it would send |
//! | [`shard`], [`fence`], [`accounts`], [`counters`], [`drain`] | what is done to shards |
//! | [`events`] | the event scheduler, and events that run |
//! | `held` | who else keeps a server closed: several shards and plans may share it |
//! | [`holders`] | who keeps a table's definition from being changed |
//! | [`peers`] | what a fenced server replicates from: applied before the marker |
//! | `handover` | triggers and events: where applications write, and nowhere else |
//! | [`guard`] | a server that refuses rows which are not at home on it |
//! | [`outside`] | what is asked of gate, verification and routing |
//! | [`keep`] | looks after a fence once nobody is at it any more |
//! | [`watch`] | ends a run whose operator is gone |
//! | [`without_journal`] | undoes a run by what the shards themselves hold |
//! | [`finish`] | the end of the way back |
//! | [`cutover`] | the steps in their order, and their undoing |
//!
//! A cutover is a process of its own. It talks to the servers and to the routing targets, never to
//! the daemons: those learn of it from the markers that it writes into the logs, and from the journal
//! that it has gone before its end.

pub mod accounts;
mod counters;
pub mod cutover;
pub mod decide;
mod drain;
pub mod error;
pub mod events;
pub mod fence;
pub mod finish;
pub mod first;
pub mod guard;
mod handover;
mod held;
pub mod holders;
pub mod keep;
pub mod metrics;
pub mod outside;
pub mod peers;
pub mod register;
pub mod server;
pub mod shard;
pub mod step;
pub mod watch;
pub mod without_journal;

pub use counters::sequences;
pub use cutover::{Cutover, Outcome, Settings};
pub use decide::{
    Action, Admission, Ask, Budget, End, Entry, Facts, Journal, Left, Mark, Opening, Refusal, Run,
    Serving, Since, Stop, Told, Vote, Wish, admit, due, legal, next, next_version, opening,
    opening_in_place, owed, past_no_return, serving, version_to_publish,
};
pub use error::CutoverError;
pub use outside::{Closed, Outside, Routed};
pub use step::{Direction, Mode, Side, Step};
