//! Chunk, tail and watermark: every interleaving of readers, log and appliers.
//!
//! **Modelled**: old shards with a few rows whose application runs every short history; their
//! binlogs with `modshift_token` and `modshift_progress` in them; readers that open epochs, tail,
//! copy in chunks, number, send, hear (or do not hear) acknowledgements and record progress; a log
//! of M partitions of encoded messages; appliers that take messages in batches of one or of all
//! there are, commit, and learn of it or not. Going wrong, as often as a case's budget says:
//! readers die and lose what was under way, live on beside their successors, lose the connection
//! between two groups or inside one; the log repeats or loses messages; an old shard loses the end
//! of its binlog; a reader finds itself on a replica that is behind; appliers are replaced without
//! knowing.
//!
//! **Not modelled**: bytes of the binlog, SQL, columns other than the keys, multi-column and NULL
//! unique values, broadcast tables, several GTID domains, XA, DDL, foreign writes on
//! new shards, time and its bounds (`near the head`, overdue parked rows).
//!
//! A transition is one atomic step of one actor: a statement's commit, a group of the binlog, a
//! chunk's snapshot, a batch. Within a step only the shipped functions decide; what they are is
//! said in `reader` and `new`.

pub mod case;
mod log;
mod new;
mod old;
mod reader;
mod step;
mod table;

use stateright::{Model, Property};

use self::case::{Budget, Case, Without};
use self::log::Log;
use self::new::{Commit, New};
use self::old::Old;
use self::reader::Reader;
use self::table::Table;
use crate::shared::Shared;

pub struct Streams {
    case: Case,
    table: Table,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    old: Vec<Shared<Old>>,
    readers: Vec<Shared<Reader>>,
    log: Log,
    new: Vec<Shared<New>>,
    left: Budget,
    /// Something was lost that had been promised: a stream may halt.
    lost: bool,
    halted: Option<&'static str>,
    /// A new shard does not hold what its watermark says.
    untrue: bool,
    /// The end: everything has been applied.
    drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write(usize),
    Replicate(usize),
    /// An old shard loses its newest groups.
    Failover(usize, usize),
    Open(usize),
    /// The same, and what the reader tails is a replica that is behind: so many groups are there.
    OpenBehind(usize, usize),
    /// A reader dies; of each partition's messages under way so many never arrive.
    Crash(usize, [usize; 2]),
    Start(usize),
    Ack(usize, usize),
    /// A write to the token; a quiet one.
    Token(usize, bool),
    Save(usize, bool),
    Read(usize),
    /// The connection breaks after so many changes of the next group.
    Break(usize, usize),
    OpenChunk(usize),
    /// Reader, request, groups by which the snapshot is behind.
    ReadChunk(usize, usize, usize),
    Enter(usize),
    /// The partition gets its newest messages again.
    Repeat(usize, usize),
    /// The partition loses its newest messages, when so many of all had been applied.
    Lose(usize, usize, usize),
    TakeOver(usize),
    /// New shard, applier, messages.
    Gather(usize, usize, usize),
    Commit(usize, usize, Commit),
    Resolve(usize, usize),
    /// Everything in the log is applied.
    Drain,
}

impl Streams {
    pub fn new(case: Case) -> Streams {
        let table = Table::new(case.old, case.new);
        Streams { case, table }
    }

    fn without(&self) -> Without {
        self.case.without
    }

    /// May another reader of this shard come, and look at what this one recorded?
    fn successors(&self, state: &State) -> bool {
        state.left.crashes + state.left.readers + state.left.failovers > 0
    }

    fn old_of(&self, state: &State, reader: usize) -> usize {
        usize::from(state.readers[reader].shard)
    }

    fn newest(&self, state: &State, old: usize) -> Option<usize> {
        (0..state.readers.len()).rfind(|&r| self.old_of(state, r) == old)
    }

    fn replaced(&self, state: &State, r: usize) -> bool {
        self.newest(state, self.old_of(state, r)) != Some(r)
    }

    fn reader_actions(&self, state: &State, r: usize, out: &mut Vec<Action>) {
        let reader = &state.readers[r];
        let old = &state.old[self.old_of(state, r)];
        if state.left.crashes > 0 {
            let most = |to: usize| match state.log.get(to) {
                Some(_) => reader.sender.under_way(&state.log, to, state.taken(to)),
                None => 0,
            };
            // All that is under way, or nothing: what lies between is for the long runs.
            let counts = |most: usize| {
                let step = if self.case.every_loss { 1 } else { most.max(1) };
                (0..=most).step_by(step)
            };
            for first in counts(most(0)) {
                out.extend(counts(most(1)).map(|second| Action::Crash(r, [first, second])));
            }
        }
        if !reader.started() {
            out.push(Action::Start(r));
            return;
        }
        let successors = self.successors(state);
        let quiet: &[bool] = if state.left.quiet > 0 { &[false, true] } else { &[false] };
        if state.left.tokens > 0 || reader.wants_token(old, successors) {
            out.extend(quiet.iter().map(|&quiet| Action::Token(r, quiet)));
        }
        let saves = state.left.saves > 0 && successors;
        if saves && reader.can_save() || successors && reader.wants_save() {
            out.extend(quiet.iter().map(|&quiet| Action::Save(r, quiet)));
        }
        // One that has been replaced need not go on for long to do harm.
        let replaced = self.replaced(state, r);
        if replaced && state.left.late_steps == 0 {
            return;
        }
        if reader.can_read(old) {
            out.push(Action::Read(r));
            if state.left.breaks > 0 {
                let changes = reader.next_changes(old).max(1);
                out.extend((0..changes).map(|cut| Action::Break(r, cut)));
            }
        }
        for partition in 0..state.log.len() {
            if reader.can_ack(partition, saves, successors) {
                out.push(Action::Ack(r, partition));
            }
        }
        if reader.can_open_chunk() {
            out.push(Action::OpenChunk(r));
        }
        for request in 0..reader.requests() {
            for lag in 0..=self.case.lag {
                if old.shown > lag + 1
                    && reader.can_read_chunk(request, old.shown - lag, old, &self.case)
                {
                    out.push(Action::ReadChunk(r, request, lag));
                }
            }
        }
        if reader.admission(&self.case).is_some() {
            out.push(Action::Enter(r));
        }
    }

    fn applier_actions(&self, state: &State, n: usize, a: usize, out: &mut Vec<Action>) {
        let applier = &state.new[n].appliers[a];
        if applier.unknown {
            out.push(Action::Resolve(n, a));
        } else if applier.cut.is_some() {
            out.push(Action::Commit(n, a, Commit::Answered));
            if state.left.unanswered > 0 {
                let unanswered = |done| Action::Commit(n, a, Commit::Unanswered { done });
                out.extend([true, false].map(unanswered));
            }
        } else {
            let here = state.log[n].len();
            let waiting = here.saturating_sub(applier.read);
            if waiting > 0 || applier.read > here {
                out.push(Action::Gather(n, a, waiting));
            }
            if waiting > 1 {
                out.push(Action::Gather(n, a, 1));
            }
        }
    }
}

impl State {
    /// Messages of a partition that an applier has read.
    fn taken(&self, partition: usize) -> usize {
        self.new[partition].appliers.iter().map(|applier| applier.read).max().unwrap_or(0)
    }
}

impl Model for Streams {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let case = &self.case;
        let mut all: Vec<Vec<Shared<Old>>> = vec![Vec::new()];
        for (shard, (begin, histories)) in (0u16..).zip(case.begin.iter().zip(&case.histories)) {
            let longer = |so_far: &Vec<Shared<Old>>| {
                let old = |history: &Vec<_>| Shared::new(Old::new(shard, begin, history));
                let with = |old| so_far.iter().cloned().chain([old]).collect::<Vec<_>>();
                histories.iter().map(old).map(with).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        let state = |old| State {
            old,
            readers: Vec::new(),
            log: vec![Shared::new(Vec::new()); case.new.into()],
            new: (0..case.new).map(|_| Shared::new(New::empty(case.old))).collect(),
            left: case.budget,
            lost: false,
            halted: None,
            untrue: false,
            drained: false,
        };
        all.into_iter().map(state).collect()
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        if state.halted.is_some() || state.untrue || state.drained {
            return;
        }
        for (i, old) in state.old.iter().enumerate() {
            // Without copying, what the table held before the first start would be missed.
            let begun = self.case.copy[i] || old.token() != (0, 0);
            if begun && old.written < old.script.len() {
                out.push(Action::Write(i));
            }
            if old.shown < old.binlog.len() {
                out.push(Action::Replicate(i));
            }
            match self.newest(state, i) {
                None => {
                    out.push(Action::Open(i));
                    if self.case.replica {
                        let behind = old.resume()..old.shown;
                        out.extend(behind.map(|shown| Action::OpenBehind(i, shown)));
                    }
                }
                Some(newest) if state.left.readers > 0 && state.readers[newest].started() => {
                    out.push(Action::Open(i));
                }
                Some(_) => {}
            }
            if state.left.failovers > 0 {
                let most = old.binlog.len().saturating_sub(if self.case.copy[i] { 1 } else { 2 });
                out.extend((1..=most).map(|groups| Action::Failover(i, groups)));
            }
        }
        for r in 0..state.readers.len() {
            self.reader_actions(state, r, out);
        }
        for n in 0..state.new.len() {
            let messages = state.log[n].len();
            if state.left.repeats > 0 {
                out.extend((1..=messages.min(2)).map(|count| Action::Repeat(n, count)));
            }
            if state.left.losses > 0 {
                for count in 1..=messages {
                    // What is applied of the rest is applied later just as well.
                    let kept = messages - count;
                    let applied =
                        if self.case.every_loss { kept..messages } else { kept..kept + 1 };
                    let applied = applied.chain([messages]);
                    out.extend(applied.map(|applied| Action::Lose(n, count, applied)));
                }
            }
        }
        // Nobody looks at an applier, so when it acts makes no difference to the others.
        if out.is_empty() && self.case.appliers {
            for (n, new) in state.new.iter().enumerate() {
                let begun = new.appliers.iter().any(|applier| applier.cut.is_some());
                if begun && state.left.appliers > 0 {
                    out.push(Action::TakeOver(n));
                }
                for a in 0..new.appliers.len() {
                    self.applier_actions(state, n, a, out);
                }
            }
        } else if out.is_empty() && self.to_apply(state) {
            out.push(Action::Drain);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Streams>> {
        let mut all = vec![
            Property::always("nothing halts for no loss", |_, state: &State| {
                state.halted.is_none() || state.lost
            }),
            Property::always("a watermark never moves back", |_, state: &State| {
                state.halted != Some("watermark_back")
            }),
            Property::always("a new shard holds what its watermark covers", |_, state: &State| {
                !state.untrue
            }),
            Property::always("every end is whole, or halted", |model: &Streams, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.halted.is_some() || model.whole(state)
            }),
            Property::sometimes(
                "everything is copied and applied",
                |model: &Streams, state: &State| {
                    let written = state.old.iter().all(|old| old.written == old.script.len());
                    let read =
                        state.readers.iter().all(|r| r.idle(&state.old[usize::from(r.shard)]));
                    written && read && !state.readers.is_empty() && model.whole(state)
                },
            ),
        ];
        let budget = self.case.budget;
        if budget.losses + budget.failovers > 0 && self.without() == Without::Nothing {
            all.push(Property::sometimes("a loss halts a stream", |_, state: &State| {
                state.halted.is_some()
            }));
        }
        all
    }
}
