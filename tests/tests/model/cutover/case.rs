//! How much a run explores, and what is left out of the rules.

use modshift_cutover::{Direction, Mode};

/// A rule of the design left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// One from-shard is not fenced.
    EveryFence,
    /// Nobody waits until the markers have been applied.
    Markers,
    /// There is no second marker.
    Seal,
    /// Nothing in the log says that a shard serves from here on.
    ServingMarker,
    /// A step is journaled once it has been taken.
    JournalFirst,
    /// What could not be written on the way back is not written later.
    Owed,
    /// After the opening a run may still turn back.
    NoReturn,
    /// An opening that was journaled is taken to have been begun.
    Opening,
    /// A run that is undone leaves the routing as it is.
    TakenBack,
    /// Who is cut off from the journal lets shards go without leading clients back to them.
    LedBack,
    /// The routing is taken back under the version that it has.
    NewerVersion,
    /// Who was replaced may still write the journal.
    OwnerOfJournal,
    /// Who was replaced may still act on the servers.
    OwnerOfServers,
    /// Who was replaced may still publish.
    OwnerOfRouting,
    /// A run that is resumed publishes under the version of the process before.
    NewVersion,
    /// It publishes under the very next version, with which the process before may be about to take
    /// its routing back.
    VersionLeftOut,
    /// A run that is resumed amid its opening leaves the routing alone.
    PublishedAgain,
    /// Where no to-shard serves yet, a from-shard that does not answer is taken to be fenced.
    Silence,
    /// Who keeps fences up does not take the lock of whoever opens.
    KeeperLock,
    /// Who keeps fences up does not look again once it has the lock.
    KeeperLook,
    /// Rows are applied where the application's triggers are.
    Interlock,
    /// Triggers stay where applications no longer write.
    TakenDown,
    /// A run that is undone leaves them where they were put up.
    PutUp,
    /// It does not bring back those that it took down.
    PutBack,
    /// Who resumes a run amid its opening takes the triggers to be up.
    RaisedAgain,
    /// A run is taken over without a look at what was written meanwhile.
    SecondLook,
    /// A daemon undoes whatever it finds.
    WatchWay,
    /// Who undoes a run without its journal bars no to-shard.
    Bar,
    /// Who does so connects anew to a shard where its connection was ended.
    OneConnection,
    /// Of a promotion: rows that are at home elsewhere are not refused.
    Guard,
    /// Replication is stopped, and nothing keeps a restart from starting it.
    Hold,
    /// A server replicates again although its primary has not been let go.
    RejoinAfter,
    /// A shard in place is marked without asking what its token says by now.
    Vote,
}

/// How often what may happen may happen in one history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Commands that an operator gives: starts, resumes, aborts.
    pub commands: u8,
    /// Processes killed.
    pub kills: u8,
    /// A process stands still for so long that its lock is given up.
    pub stalls: u8,
    /// Servers and targets that cannot be reached for a while.
    pub outages: u8,
    /// A step that fails, takes too long or is interrupted.
    pub troubles: u8,
    /// Transactions of the application, wherever it may write.
    pub writes: u8,
    /// Of those, on a shard that is fenced.
    pub leaks: u8,
    /// Fences that a daemon finds open, a server having been started again.
    pub keeps: u8,
    /// Runs that a daemon takes over, their operator's lock being free. Enough for all that a case
    /// kills: then nobody is left waiting.
    pub watches: u8,
    /// Somebody cut off from the journal undoes the run without it, whoever else is at it.
    pub glasses: u8,
    /// Servers to be promoted that are started again.
    pub restarts: u8,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub old: usize,
    pub new: usize,
    pub mode: Mode,
    /// Which commands are given.
    pub directions: Vec<Direction>,
    pub budget: Budget,
    /// An old shard may be away from amid an opening to its end.
    pub opens_without_old: bool,
    pub without: Without,
}

impl Case {
    pub fn new(name: &'static str, budget: Budget) -> Case {
        Case {
            name,
            old: 2,
            new: 1,
            mode: Mode::Online,
            directions: vec![Direction::Cutover],
            budget,
            opens_without_old: false,
            without: Without::Nothing,
        }
    }

    /// One server to promote for each old shard, which goes on as a new one.
    pub fn promotion(name: &'static str, shards: usize, budget: Budget) -> Case {
        Case {
            old: shards,
            new: shards,
            mode: Mode::Promote,
            directions: vec![Direction::Promote],
            ..Case::new(name, budget)
        }
    }

    pub fn promotes(&self) -> bool {
        self.mode == Mode::Promote
    }

    pub fn without(&self, rule: Without) -> Case {
        Case { without: rule, ..self.clone() }
    }
}
