//! The steps of a cutover, in their order, and the words around them.

use std::fmt;

/// One line of the cutover. A rollback takes the same ones with the sides exchanged; which ones, and in
/// which order, [`Mode::order`] says.
///
/// *From* is the side that serves at the start, *to* the one that shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The to-shards are made read-only for applications, if they are not yet; what their keys
    /// will look like is set. Is not undone: nobody is served there.
    Close,
    /// Everything that must be so before anyone is made to wait.
    Gate,
    /// From-shards stop taking writes. Last, on each: the fence marker.
    Fence,
    /// Every to-shard has every marker; nothing is parked; the rest is verified.
    Drain,
    /// Servers that are promoted stop replicating, and a restart does not start it again.
    Split,
    /// Counters and sequences are carried over.
    Counters,
    /// Triggers and events go down on the from-shards and up on the to-shards.
    Handover,
    /// Each shard refuses, by itself, rows that are at home on another.
    Guard,
    /// The routing that names the to-shards, to every target.
    Publish,
    /// A second marker, applied everywhere: nothing was written between the two.
    Seal,
    /// Applications may write to the to-shards. Its beginning is the point of no return.
    Open,
}

impl Step {
    pub const ALL: [Step; 11] = [
        Step::Close,
        Step::Gate,
        Step::Fence,
        Step::Drain,
        Step::Split,
        Step::Counters,
        Step::Handover,
        Step::Guard,
        Step::Publish,
        Step::Seal,
        Step::Open,
    ];

    /// As the journal and the stages of the tests call it.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Close => "close",
            Step::Gate => "gate",
            Step::Fence => "fence",
            Step::Drain => "drain",
            Step::Split => "split",
            Step::Counters => "counters",
            Step::Handover => "handover",
            Step::Guard => "guard",
            Step::Publish => "publish",
            Step::Seal => "seal",
            Step::Open => "open",
        }
    }

    pub fn of(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which steps a run takes, and when writes stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// After everything has been copied and compared: a pause that users do not notice.
    Online,
    /// Before: copy and comparison then have no writes beside them.
    StopWrites,
    /// Replication has brought the rows: each old shard goes on as a new one, beside servers that
    /// replicated from it. Triggers are on all of them already.
    Promote,
}

impl Mode {
    const ALL: [Mode; 3] = [Mode::Online, Mode::StopWrites, Mode::Promote];

    pub const fn order(self) -> &'static [Step] {
        use Step::{
            Close, Counters, Drain, Fence, Gate, Guard, Handover, Open, Publish, Seal, Split,
        };
        match self {
            Mode::Online => &[Close, Gate, Fence, Drain, Counters, Handover, Publish, Seal, Open],
            Mode::StopWrites => {
                &[Close, Fence, Gate, Drain, Counters, Handover, Publish, Seal, Open]
            }
            Mode::Promote => {
                &[Close, Gate, Fence, Drain, Split, Counters, Guard, Publish, Seal, Open]
            }
        }
    }

    pub fn takes(self, step: Step) -> bool {
        self.order().contains(&step)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Mode::Online => "online",
            Mode::StopWrites => "stop-writes",
            Mode::Promote => "promote",
        }
    }

    pub fn of(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    Old,
    New,
}

impl Side {
    pub const fn other(self) -> Side {
        match self {
            Side::Old => Side::New,
            Side::New => Side::Old,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Side::Old => "old",
            Side::New => "new",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Old shards serve, new ones shall.
    Cutover,
    /// The same where each old shard goes on as one of the new ones.
    Promote,
    /// New shards serve, old ones shall again.
    Rollback,
}

impl Direction {
    pub const fn from(self) -> Side {
        match self {
            Direction::Cutover | Direction::Promote => Side::Old,
            Direction::Rollback => Side::New,
        }
    }

    pub const fn to(self) -> Side {
        self.from().other()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Direction::Cutover => "cutover",
            Direction::Promote => "promote",
            Direction::Rollback => "rollback",
        }
    }

    pub fn of(name: &str) -> Option<Direction> {
        let all = [Direction::Cutover, Direction::Promote, Direction::Rollback];
        all.into_iter().find(|known| known.name() == name)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
