//! One applier against a real new shard, fed by hand: every message is made here, so that each
//! order of arrival can be had at will.

mod faults;
mod feed;
mod refused;
mod rows;
mod statements;
