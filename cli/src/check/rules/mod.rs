//! One rule, one file: a function from the survey to what it finds, each with what is, what was
//! expected and the statement that mends it. A rule asks no server.

pub mod accounts;
pub mod alike;
pub mod auto_increment;
pub mod back;
pub mod binlog;
pub mod centre;
pub mod clock;
pub mod collisions;
pub mod connections;
pub mod disk;
pub mod drift;
pub mod durability;
pub mod events;
pub mod exposed;
pub mod fence;
pub mod fence_accounts;
pub mod finished;
pub mod foreign_keys;
pub mod grants;
pub mod handover;
pub mod left_behind;
pub mod locked;
pub mod needs;
pub mod others;
pub mod owner;
pub mod packet;
pub mod peers;
pub mod promotion;
pub mod reach;
pub mod read_as;
pub mod read_only;
pub mod rehearsal;
pub mod rehearsal_grants;
pub mod replica;
pub mod replica_fence;
pub mod replica_grants;
pub mod restart;
pub mod retention;
pub mod same_place;
pub mod sequences;
pub mod server_id;
pub mod statements;
pub mod tables;
pub mod tailed;
pub mod targets;
pub mod triggers;
pub mod version;
pub mod views;
pub mod watchdog;
pub mod whole_log;
pub mod xa;

use super::fault::Fault;
use super::survey::Survey;

pub type Rule = fn(&Survey) -> Vec<Fault>;

/// In the order of the report.
pub const ALL: [Rule; 54] = [
    reach::check,
    reach::check_further,
    same_place::check,
    same_place::check_fence,
    finished::check,
    owner::check,
    version::check,
    version::check_further,
    grants::check,
    grants::check_back,
    grants::check_fence,
    replica_grants::check,
    rehearsal_grants::check,
    replica::check,
    peers::check,
    tailed::check,
    binlog::check,
    whole_log::check,
    retention::check,
    packet::check,
    durability::check,
    restart::check,
    server_id::check,
    connections::check,
    read_only::check,
    alike::check,
    accounts::check,
    fence::check,
    exposed::check,
    fence_accounts::check,
    locked::check,
    replica_fence::check,
    watchdog::check,
    centre::check,
    others::check,
    tables::check,
    drift::check,
    read_as::check,
    foreign_keys::check,
    triggers::check,
    events::check,
    handover::check,
    left_behind::check,
    targets::check,
    collisions::refuse,
    collisions::check,
    xa::check,
    statements::check,
    clock::check,
    auto_increment::check,
    sequences::check,
    back::check_settings,
    back::check_keys,
    rehearsal::check,
];

/// All that is asked of a reshard that is over.
pub const OF_THE_FINISHED: [Rule; 3] = [reach::check, reach::check_further, finished::check];

/// What correct rows depend on: the gate asks it again and again, and a cutover right before its
/// fence. Not here: what only a way forward for people (grants, clocks, versions) depends on, and
/// what streams find out by themselves and halt for.
pub const OF_GATE: [Rule; 15] = [
    same_place::check,
    finished::check,
    binlog::check,
    whole_log::check,
    packet::check,
    durability::check,
    alike::check,
    tables::check,
    read_as::check,
    foreign_keys::check,
    triggers::check,
    events::check,
    left_behind::check,
    collisions::refuse,
    sequences::check,
];

/// With `read_from`, of the replica that is read.
pub const OF_TAILED: Rule = tailed::check;

/// The same for a rollback, over the plan turned around: what its own source and its tables must be.
/// Triggers and events of the side that goes on to serve are not judged by it: those are the
/// application's own; nor are its sequences, but by what the run itself would refuse.
pub const OF_GATE_BACK: [Rule; 6] = [
    binlog::check,
    whole_log::check,
    packet::check,
    tables::check,
    foreign_keys::check,
    sequences::check_back,
];

/// What a daemon asks of its own shards at every start, in the middle of a reshard too: no more than
/// what stays true all the way. A server that is only away is no fault then; its streams wait.
pub const OF_DAEMONS: [Rule; 14] = [
    same_place::check,
    finished::check,
    owner::check,
    version::check,
    grants::check,
    binlog::check,
    whole_log::check,
    packet::check,
    durability::check,
    tables::check,
    foreign_keys::check,
    triggers::check,
    targets::check,
    collisions::refuse,
];
