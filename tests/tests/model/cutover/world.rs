//! What operators act on: shards of both sides, the streams between them, routing targets, and the
//! journal on new shard 0. Of a promotion the streams are replication.

use modshift_cutover::outside::Routed;
use modshift_cutover::{Direction, Entry, Run, Side, legal};

use crate::shared::Shared;

/// What the last marker in a shard's log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Serving,
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A transaction of the application, which was acknowledged.
    Write,
    /// With the number of its run.
    Marker(Phase, u8),
}

/// On the number of a run: a mark of its to-shards from before it opens them.
pub const KEPT_OUT: u8 = 1 << 7;

/// On the number of a run: it has opened the shard. Of a promotion, where a shard of the from-side that
/// serves is else one on which the run was undone.
pub const OPENED: u8 = 1 << 6;

/// What a promoted server takes from its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    Joined,
    /// A restart starts it again.
    Stopped,
    Split,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Applications can write.
    pub open: bool,
    /// The application's triggers are there, as its record says.
    pub triggers: bool,
    pub log: Vec<Event>,
    /// Events that the other side has applied.
    pub applied: usize,
    begin: Phase,
    /// Its reader has met a write behind a fence marker.
    pub halted: bool,
    /// The operator process whose connection may act here.
    pub session: Option<u8>,
    /// No opening passes it.
    pub barred: bool,
    /// No operator reaches it. Applications and streams do.
    pub down: bool,
    /// It refuses rows that are at home elsewhere.
    pub guard: bool,
    /// Of a server that is promoted. Its own log is empty as long as it replicates.
    pub link: Link,
}

impl Shard {
    fn new(side: Side, promote: bool) -> Shard {
        let open = side == Side::Old;
        Shard {
            open,
            // A replica has them, too.
            triggers: open || promote,
            log: Vec::new(),
            applied: 0,
            begin: if open { Phase::Serving } else { Phase::Fenced },
            halted: false,
            session: None,
            barred: false,
            down: false,
            guard: false,
            link: if promote && !open { Link::Joined } else { Link::Split },
        }
    }

    /// What its last marker says.
    pub fn marker(&self) -> Option<(Phase, u8)> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Marker(phase, run) => Some((*phase, *run)),
            Event::Write => None,
        })
    }

    fn phase_at(&self, events: usize) -> Phase {
        let marker = self.log[..events].iter().rev().find_map(|event| match event {
            Event::Marker(phase, _) => Some(*phase),
            Event::Write => None,
        });
        marker.unwrap_or(self.begin)
    }

    /// What the token row says.
    pub fn phase(&self) -> Phase {
        self.phase_at(self.log.len())
    }

    pub fn can_stream(&self) -> bool {
        !self.halted && !self.held() && self.applied < self.log.len()
    }

    /// The tail's rule: what is written behind a fence marker stops the stream, until the log shows
    /// whether the run that fenced the shard was undone. Then it is followed, else it halts.
    pub fn stream(&mut self) {
        match (self.log[self.applied], self.phase_at(self.applied)) {
            (Event::Write, Phase::Fenced) => match self.undone() {
                Some(true) => self.applied += 1,
                _ => self.halted = true,
            },
            _ => self.applied += 1,
        }
    }

    /// It stands before such a write, and nothing tells yet.
    pub fn held(&self) -> bool {
        let stands = self.log.get(self.applied) == Some(&Event::Write);
        stands && self.phase_at(self.applied) == Phase::Fenced && self.undone().is_none()
    }

    /// Is the next serving marker one of the run that had fenced the shard?
    fn undone(&self) -> Option<bool> {
        let marker = |event: &Event| match event {
            Event::Marker(phase, run) => Some((*phase, *run)),
            Event::Write => None,
        };
        let mut fenced = self.log[..self.applied].iter().rev().find_map(marker);
        for (phase, run) in self.log[self.applied..].iter().filter_map(marker) {
            if phase == Phase::Serving {
                return Some(fenced.is_some_and(|(_, by)| by == run));
            }
            fenced = Some((phase, run));
        }
        None
    }

    pub fn all_applied(&self) -> bool {
        !self.log[self.applied..].contains(&Event::Write)
    }
}

/// Holds the lock of a shard's server in place of an operator: a daemon that keeps its fence up.
pub const KEEPER: u8 = u8::MAX;

/// The same for whoever undoes a run without its journal.
pub const ALONE: u8 = u8::MAX - 1;

/// A row of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub number: u8,
    pub entry: Entry,
    /// With which the routing is begun to be published.
    pub version: Option<u64>,
}

/// What is stored on new shard 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    pub number: u8,
    pub run: Option<Run>,
    /// Numbers of the entries of this run.
    pub written: Vec<u8>,
    /// The version with which the routing was last begun to be published.
    pub version: Option<u64>,
    /// The token of the process that owns the run.
    pub owner: u8,
    /// Whose connection holds the lock.
    pub lock: Option<u8>,
}

/// What somebody without the journal may do.
pub struct Alone {
    /// From-shards to be let go, each with the run that fenced it.
    pub from: Vec<(usize, u8)>,
    /// To-shards to be barred.
    pub to: Vec<usize>,
}

/// Among the targets, the first.
pub const TABLE: usize = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Old shards go on as new ones; `new` are the servers that are promoted, one for each.
    pub promote: bool,
    pub old: Vec<Shared<Shard>>,
    pub new: Vec<Shared<Shard>>,
    pub store: Shared<Store>,
    /// The table on the shards, as if it were one, and a hook.
    pub targets: [Option<Routed>; 2],
    pub target_down: bool,
    /// A run was undone without its journal: targets may refuse who has that.
    pub alone: bool,
    /// What must never happen, and did.
    pub broken: Option<&'static str>,
}

impl World {
    pub fn new(old: usize, new: usize, promote: bool) -> World {
        let store = Store {
            number: 0,
            run: None,
            written: Vec::new(),
            version: None,
            owner: 0,
            lock: None,
        };
        World {
            promote,
            old: vec![Shared::new(Shard::new(Side::Old, promote)); old],
            new: vec![Shared::new(Shard::new(Side::New, promote)); new],
            store: Shared::new(store),
            targets: [Some(Routed { version: 1, side: Side::Old }); 2],
            target_down: false,
            alone: false,
            broken: None,
        }
    }

    pub fn side(&self, side: Side) -> &[Shared<Shard>] {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    pub fn shard(&mut self, side: Side, index: usize) -> &mut Shard {
        match side {
            Side::Old => &mut self.old[index],
            Side::New => &mut self.new[index],
        }
    }

    pub fn any_down(&self, side: Side) -> bool {
        self.side(side).iter().any(|shard| shard.down)
    }

    pub fn any_triggers(&self, side: Side) -> bool {
        self.side(side).iter().any(|shard| shard.triggers)
    }

    /// May what comes next in this log be applied on the other side? Rows wait while triggers are
    /// there.
    pub fn may_stream(&self, side: Side, index: usize) -> bool {
        let shard = &self.side(side)[index];
        if self.promote {
            let joined = side == Side::Old && self.new[index].link == Link::Joined;
            return joined && shard.applied < shard.log.len();
        }
        let row = shard.log.get(shard.applied) == Some(&Event::Write);
        shard.can_stream() && !(row && self.any_triggers(side.other()))
    }

    pub fn any_open(&self, side: Side) -> bool {
        self.side(side).iter().any(|shard| shard.open)
    }

    pub fn all_open(&self, side: Side) -> bool {
        self.side(side).iter().all(|shard| shard.open)
    }

    /// Of a promotion: a shard takes writes by the new mapping.
    pub fn any_opened(&self) -> bool {
        self.any_open(Side::New) || self.old.iter().any(|shard| shard.open && shard.guard)
    }

    /// By the old one.
    pub fn any_unguarded(&self) -> bool {
        self.old.iter().any(|shard| shard.open && !shard.guard)
    }

    /// Do all shards of this side take writes, and none of the other?
    pub fn serves(&self, side: Side) -> bool {
        match (self.promote, side) {
            (false, _) => self.all_open(side) && !self.any_open(side.other()),
            (true, Side::Old) => self.all_open(Side::Old) && !self.any_opened(),
            (true, Side::New) => {
                let all = self.all_open(Side::Old) && self.all_open(Side::New);
                all && !self.any_unguarded() && self.new.iter().all(|shard| shard.guard)
            }
        }
    }

    /// Of a run that may be undone by somebody who reaches all but the shard of the journal.
    pub fn alone_may(&self, direction: Direction) -> Option<Alone> {
        let reached = |side: Side| {
            let shards = self.side(side).iter().enumerate();
            shards.filter(move |(index, shard)| !shard.down && (side, *index) != self.journal())
        };
        let fenced = reached(direction.from()).filter_map(|(index, shard)| {
            let marker = shard.marker();
            marker.filter(|(phase, _)| *phase == Phase::Fenced).map(|(_, run)| (index, run))
        });
        let from: Vec<_> = fenced.collect();
        if self.promote {
            let opened = |run: u8| run & OPENED != 0;
            let any = |(_, shard): (usize, &Shared<Shard>)| {
                shard.marker().is_some_and(|(_, run)| opened(run))
            };
            let none = !reached(Side::Old).any(any);
            return (none && !from.is_empty()).then_some(Alone { from, to: Vec::new() });
        }
        let mut to = Vec::new();
        for (index, shard) in reached(direction.to()) {
            if shard.phase() == Phase::Serving {
                return None;
            }
            to.push(index);
        }
        (!from.is_empty() && !to.is_empty()).then_some(Alone { from, to })
    }

    /// Number of the last entry of the run.
    pub fn entries(&self) -> u8 {
        self.store.written.iter().copied().max().unwrap_or(0)
    }

    /// New shard 0, which in a promotion is old shard 0.
    pub fn journal(&self) -> (Side, usize) {
        (if self.promote { Side::Old } else { Side::New }, 0)
    }

    pub fn journal_down(&self) -> bool {
        let (side, index) = self.journal();
        self.side(side)[index].down
    }

    pub fn routed(&self) -> Option<Routed> {
        self.targets[TABLE]
    }

    pub fn fault(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    /// A routing arrives at a target, which refuses an older one, and another of one version.
    pub fn publish(&mut self, target: usize, routed: Routed) -> bool {
        if let Some(had) = self.targets[target]
            && (routed.version < had.version
                || (routed.version == had.version && routed.side != had.side))
        {
            return false;
        }
        self.targets[target] = Some(routed);
        true
    }

    /// An entry is stored behind those that are there.
    pub fn store(&mut self, number: u8, run: &Run, line: Line) {
        let store = &mut *self.store;
        if store.number != number {
            let journal = modshift_cutover::Journal::new(run.journal.mode());
            store.run = Some(Run { direction: run.direction, journal });
            (store.number, store.version) = (number, None);
            store.written.clear();
        }
        if store.written.contains(&line.number) {
            return;
        }
        let Some(stored) = &mut store.run else { return };
        if !legal(&stored.journal, line.entry) {
            self.broken.get_or_insert("the journal is damaged");
            return;
        }
        stored.journal.apply(line.entry);
        store.written.push(line.number);
        store.version = line.version.or(store.version);
    }

    /// Everything that a process held is free.
    pub fn release(&mut self, id: u8) {
        for (side, count) in [(Side::Old, self.old.len()), (Side::New, self.new.len())] {
            for index in 0..count {
                if self.side(side)[index].session == Some(id) {
                    self.shard(side, index).session = None;
                }
            }
        }
        if self.store.lock == Some(id) {
            self.store.lock = None;
        }
    }
}
