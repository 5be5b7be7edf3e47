//! A model of cutovers that die, are cut off and are taken over, over the shipped decisions (`next`,
//! `admit`, and `legal`, which every journal entry asserts): every interleaving of two from-shards,
//! two to-shards, one write on each from-shard, and two operator processes
//! (three where MODSHIFT_SOAK is set).
//!
//! A process may crash between any two acts, fail at any of them, and lose the journal, in the
//! middle of a write to it too, which may have landed or not. One that is cut off undoes over the
//! connections that it has, until its successor takes them away, server by server.
//!
//! Not modelled: a server that starts again, time (the budget is a failure that may come at any act),
//! accounts against read_only, more than one run, the copy.
//!
//! Each rule is also left out alone: the model must then find the damage.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "the number of states is what a reader asks first")]

use modshift_cutover::{
    Action as Due, Admission, Ask, Direction, End, Entry, Facts, Journal, Mode, Run, Step, Stop,
    Wish, admit, next,
};
use stateright::{Checker, Model, Property};

const SHARDS: usize = 2;
const ALL: u8 = (1 << SHARDS) - 1;
const START: Ask = Ask::Start(Direction::Cutover);
const RESUME: Ask = Ask::Resume(Direction::Cutover);
const ABORT: Ask = Ask::Abort(Direction::Cutover);

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Back is possible even after opening has begun.
    NoReturn,
    /// Nobody looks whether the process before undid what it could not write down.
    Reopened,
    /// A successor leaves its predecessor's connections alone.
    Takeover,
    /// To-shards are opened without waiting for what was written.
    Drain,
    /// Undoing forgets the routing.
    Unpublish,
    /// The routing is taken back without asking whose run it is.
    Claim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Doing {
    Deciding,
    /// With the shards that are done, as bits.
    Taking(Step, u8),
    Undoing(Step, u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    id: u8,
    /// As it believes it to be.
    journal: Journal,
    facts: Facts,
    doing: Doing,
    /// The journal cannot be reached.
    cut: bool,
    /// Of the routing that it publishes, journaled before.
    version: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    journal: Option<Journal>,
    owner: u8,
    from_serves: [bool; SHARDS],
    to_serves: [bool; SHARDS],
    written: [bool; SHARDS],
    applied: [bool; SHARDS],
    routed_to: bool,
    /// Of the routing: targets refuse a lower one.
    version: u8,
    /// The one that the journal says is to be published.
    journaled: u8,
    /// Whose connection each server takes: from-shards, then to-shards.
    sessions: [u8; 2 * SHARDS],
    processes: Vec<Process>,
    started: u8,
    cuts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// An application's write is acknowledged.
    Write(usize),
    Apply(usize),
    Start(Ask),
    /// The next act of a process.
    Act(usize),
    /// It fails.
    Fail(usize),
    /// The process loses the journal; the write to it that was under way has landed, or not.
    Cut(usize, bool),
    Crash(usize),
}

struct Cutovers(Without);

/// Operator processes in turn: a third one takes minutes.
fn processes() -> u8 {
    if std::env::var_os("MODSHIFT_SOAK").is_some() { 3 } else { 2 }
}

impl Cutovers {
    fn decide(&self, process: &Process) -> Due {
        let mut facts = process.facts;
        match self.0 {
            Without::NoReturn if facts.trouble || facts.wish == Wish::Back => facts.reopened = true,
            Without::Reopened => facts.reopened = false,
            _ => {}
        }
        next(&process.journal, &facts)
    }

    fn start(&self, state: &mut State, ask: Ask) -> Option<()> {
        let last = state.journal.clone();
        let last = last.map(|journal| Run { direction: Direction::Cutover, journal });
        let wish = match admit(last.as_ref(), ask).ok()? {
            // One run is enough.
            Admission::Begin if last.is_some() => return None,
            Admission::Begin => Wish::Forward,
            Admission::Continue(wish) => wish,
        };
        state.started += 1;
        state.owner = state.started;
        let mut facts = Facts::new(wish);
        let journal = state.journal.get_or_insert_with(|| Journal::new(Mode::Online));
        if last.is_some() {
            if journal.stands(Step::Open) && !journal.turned() {
                // Asking takes the connections over.
                if self.0 != Without::Takeover {
                    state.sessions = [state.started; 2 * SHARDS];
                }
                facts.reopened =
                    state.from_serves.contains(&true) && !state.to_serves.contains(&true);
            }
            journal.apply(Entry::Resumed);
        }
        let journal = journal.clone();
        let (id, doing) = (state.started, Doing::Deciding);
        state.processes.push(Process { id, journal, facts, doing, cut: false, version: 0 });
        Some(())
    }

    /// Has the process a connection to the server, or the right to make one?
    fn reaches(&self, state: &mut State, process: &Process, server: usize) -> bool {
        if state.owner == process.id && !process.cut {
            state.sessions[server] = process.id;
        }
        state.sessions[server] == process.id || self.0 == Without::Takeover
    }

    /// One act of a process. `None`: it waits.
    fn act(&self, state: &mut State, index: usize) -> Option<()> {
        let mut process = state.processes.remove(index);
        let goes_on = match process.doing {
            Doing::Deciding => self.begin(state, &mut process),
            Doing::Taking(step, done) => self.take(state, &mut process, step, done)?,
            Doing::Undoing(step, done) => self.undo(state, &mut process, step, done),
        };
        if goes_on {
            state.processes.insert(index, process);
        }
        Some(())
    }

    fn begin(&self, state: &mut State, process: &mut Process) -> bool {
        match self.decide(process) {
            Due::Take(step) => {
                if !write(state, process, Entry::Begun(step)) {
                    return trouble(state, process);
                }
                if step == Step::Publish {
                    process.version = state.version.max(state.journaled) + 1;
                    state.journaled = process.version;
                }
                process.doing = Doing::Taking(step, 0);
                true
            }
            Due::TurnBack => {
                process.facts.wish = Wish::Back;
                note(state, process, Entry::TurnedBack)
            }
            Due::Undo(step) => {
                process.facts.wish = Wish::Back;
                process.doing = Doing::Undoing(step, 0);
                true
            }
            Due::End(End::To) => {
                write(state, process, Entry::Ended(End::To));
                false
            }
            Due::End(End::From) => {
                note(state, process, Entry::Ended(End::From));
                false
            }
            Due::Stop(Stop::Ended | Stop::NoReturn | Stop::Unopened | Stop::Unpublished) => false,
        }
    }

    /// `None`: it waits for what was written.
    fn take(&self, state: &mut State, process: &mut Process, step: Step, done: u8) -> Option<bool> {
        if matches!(step, Step::Fence | Step::Open) && done != ALL {
            let shard = done.trailing_ones() as usize;
            let server = if step == Step::Fence { shard } else { SHARDS + shard };
            if !self.reaches(state, process, server) {
                return Some(trouble(state, process));
            }
            match step {
                Step::Fence => state.from_serves[shard] = false,
                _ => state.to_serves[shard] = true,
            }
            process.doing = Doing::Taking(step, done | 1 << shard);
            return Some(true);
        }
        match step {
            // A reader that meets a write between two markers never brings the second.
            Step::Seal if state.from_serves.contains(&true) => {
                return Some(trouble(state, process));
            }
            Step::Drain | Step::Seal
                if self.0 != Without::Drain && state.applied != state.written =>
            {
                return None;
            }
            Step::Publish if process.version < state.version => {
                return Some(trouble(state, process));
            }
            Step::Publish => {
                state.routed_to = true;
                state.version = process.version;
            }
            _ => {}
        }
        if !write(state, process, Entry::Done(step)) {
            return Some(trouble(state, process));
        }
        process.doing = Doing::Deciding;
        Some(true)
    }

    fn undo(&self, state: &mut State, process: &mut Process, step: Step, done: u8) -> bool {
        if step == Step::Fence && done != ALL {
            let shard = done.trailing_ones() as usize;
            if !self.reaches(state, process, shard) {
                return false;
            }
            state.from_serves[shard] = true;
            process.doing = Doing::Undoing(step, done | 1 << shard);
            return true;
        }
        if step == Step::Publish && self.0 != Without::Unpublish {
            if self.0 != Without::Claim && (process.cut || state.owner != process.id) {
                process.facts.unpublish_failed = true;
                process.doing = Doing::Deciding;
                return true;
            }
            state.routed_to = false;
            state.version = state.version.max(state.journaled) + 1;
        }
        process.doing = Doing::Deciding;
        note(state, process, Entry::Undone(step))
    }

    /// With nothing in its way, an operator brings any state to an end.
    fn settles(&self, state: &State, ask: Ask) -> bool {
        let mut state = state.clone();
        state.processes.clear();
        state.applied = state.written;
        if self.start(&mut state, ask).is_none() {
            return true;
        }
        for _ in 0..100 {
            if !state.processes.is_empty() && self.act(&mut state, 0).is_none() {
                return false;
            }
        }
        let journal = state.journal.as_ref().unwrap();
        match journal.ended() {
            Some(End::To) => state.to_serves == [true; SHARDS] && state.routed_to,
            Some(End::From) => state.from_serves == [true; SHARDS] && !state.routed_to,
            // Past the point of no return only the other way ends it.
            None => ask == ABORT && journal.stands(Step::Open),
        }
    }
}

/// Into the journal, if it is still this process's and can be reached.
fn write(state: &mut State, process: &mut Process, entry: Entry) -> bool {
    if process.cut || state.owner != process.id {
        return false;
    }
    let journal = state.journal.as_mut().unwrap();
    journal.apply(entry);
    process.journal = journal.clone();
    true
}

/// On the way back a journal that is lost is no reason to keep shards fenced; a run that is, is.
fn note(state: &mut State, process: &mut Process, entry: Entry) -> bool {
    if process.cut {
        process.journal.apply(entry);
        return true;
    }
    write(state, process, entry)
}

/// Whether the process goes on: not if another one has taken over.
fn trouble(state: &State, process: &mut Process) -> bool {
    process.facts.trouble = true;
    process.doing = Doing::Deciding;
    process.cut || state.owner == process.id
}

impl Model for Cutovers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            journal: None,
            owner: 0,
            from_serves: [true; SHARDS],
            to_serves: [false; SHARDS],
            written: [false; SHARDS],
            applied: [false; SHARDS],
            routed_to: false,
            version: 1,
            journaled: 0,
            sessions: [0; 2 * SHARDS],
            processes: Vec::new(),
            started: 0,
            cuts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for shard in 0..SHARDS {
            if state.from_serves[shard] && !state.written[shard] {
                actions.push(Action::Write(shard));
            }
            if state.applied[shard] != state.written[shard] {
                actions.push(Action::Apply(shard));
            }
        }
        if state.started < processes() {
            actions.extend([START, RESUME, ABORT].map(Action::Start));
        }
        for (index, process) in state.processes.iter().enumerate() {
            actions.extend([Action::Act(index), Action::Crash(index)]);
            if matches!(process.doing, Doing::Taking(..) | Doing::Undoing(Step::Publish, _)) {
                actions.push(Action::Fail(index));
            }
            if !process.cut && state.cuts == 0 {
                actions.extend([false, true].map(|landed| Action::Cut(index, landed)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Write(shard) => state.written[shard] = true,
            Action::Apply(shard) => state.applied[shard] = true,
            Action::Start(ask) => self.start(&mut state, ask)?,
            Action::Act(index) => self.act(&mut state, index)?,
            Action::Crash(index) => drop(state.processes.remove(index)),
            Action::Fail(index) => {
                let mut process = state.processes.remove(index);
                let goes_on = match process.doing {
                    Doing::Undoing(..) => {
                        process.facts.unpublish_failed = true;
                        process.doing = Doing::Deciding;
                        true
                    }
                    _ => trouble(&state, &mut process),
                };
                if goes_on {
                    state.processes.insert(index, process);
                }
            }
            Action::Cut(index, landed) => {
                state.cuts += 1;
                let process = &state.processes[index];
                if landed {
                    let (Doing::Deciding, Due::Take(step)) = (process.doing, self.decide(process))
                    else {
                        return None;
                    };
                    if state.owner != process.id {
                        return None;
                    }
                    state.journal.as_mut()?.apply(Entry::Begun(step));
                }
                state.processes[index].cut = true;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        const BOTH: fn(&Cutovers, &State) -> bool =
            |_, state| !(state.from_serves.contains(&true) && state.to_serves.contains(&true));
        const LOST: fn(&Cutovers, &State) -> bool =
            |_, state| !state.to_serves.contains(&true) || state.applied == state.written;
        const ENDED: fn(&Cutovers, &State) -> bool =
            |_, state| match state.journal.as_ref().and_then(Journal::ended) {
                Some(End::To) => state.to_serves == [true; SHARDS] && state.routed_to,
                Some(End::From) => !state.to_serves.contains(&true) && !state.routed_to,
                None => true,
            };
        const SETTLES: fn(&Cutovers, &State) -> bool =
            |model, state| model.settles(state, RESUME) && model.settles(state, ABORT);
        vec![
            Property::always("never both sides", BOTH),
            Property::always("no acknowledged write is missing", LOST),
            Property::always("who ends serves, and is routed to", ENDED),
            Property::always("an operator can end it", SETTLES),
            Property::sometimes("a cutover comes about", |_, state: &State| {
                state.to_serves == [true; SHARDS]
            }),
            Property::sometimes("a cutover is undone", |_, state: &State| {
                state.journal.as_ref().and_then(Journal::ended) == Some(End::From)
            }),
        ]
    }
}

#[test]
fn no_crash_loss_or_takeover_makes_both_sides_serve_or_loses_a_write() {
    let checker = Cutovers(Without::Nothing).checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_rule_that_is_left_out_is_missed() {
    for (without, property) in [
        (Without::NoReturn, "never both sides"),
        (Without::Reopened, "never both sides"),
        (Without::Takeover, "never both sides"),
        (Without::Drain, "no acknowledged write is missing"),
        (Without::Unpublish, "who ends serves, and is routed to"),
        (Without::Claim, "who ends serves, and is routed to"),
    ] {
        let checker = Cutovers(without).checker().spawn_bfs().join();
        let found = checker.discovery(property);
        assert!(found.is_some(), "without {without:?}: {property} holds all the same");
    }
}
