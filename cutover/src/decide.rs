//! What a cutover does next: pure, from its journal and a few facts. No I/O, no clock.
//!
//! [`Journal`] is what has been written down, entry by entry. [`next`] says what to do; whoever
//! does it writes the entry first ([`Entry::Begun`]) and the outcome after. [`legal`] is the
//! invariant of the journal, asserted on every write; [`admit`] decides whether a command may start
//! or continue a run at all.
//!
//! The rules:
//! - A step is begun only when all before it are done; so nothing is opened before every from-shard
//!   is fenced, drained and sealed.
//! - Once `open` is begun there is no way back in this run. (One exception: see
//!   [`Facts::reopened`].)
//! - Before that, any trouble turns the run back: routing, triggers of the to-shards, and the fence
//!   with triggers of the from-shards are undone, in whichever order; a split only on servers whose
//!   primary has been let go.
//! - A run that is resumed before `open` takes every step again: what a dead process found out may no
//!   longer be so. Only the gate, which asks whether to begin at all, is not asked again once the
//!   fence has begun. From `open` on it only opens: the to-shards may serve already.
//! - A run whose operator is gone is [`due`] once its budget is over, or at once where no choice is
//!   left: a daemon undoes it before `open`, and finishes it from there on.

mod admit;
mod opening;

use std::time::Duration;

pub use admit::{Admission, Ask, Left, Refusal, Run, admit};
pub use opening::{Opening, Told, Vote, opening, opening_in_place};

use crate::outside::Routed;
use crate::step::{Mode, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    Untouched,
    /// Begun, perhaps taken, perhaps in part.
    Begun,
    Done,
    Undone,
}

/// How a run ended: who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    To,
    From,
}

/// One row of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Begun(Step),
    Done(Step),
    /// Another process goes on with the run.
    Resumed,
    /// From here on the run only undoes.
    TurnedBack,
    Undone(Step),
    Ended(End),
    /// The way back has ended, and with it the reshard: no run follows.
    Finished,
}

/// What is known to have been begun, done and undone in one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Journal {
    mode: Mode,
    marks: [Mark; Step::ALL.len()],
    turned: bool,
    ended: Option<End>,
    finished: bool,
}

impl Journal {
    pub fn new(mode: Mode) -> Journal {
        Journal {
            mode,
            marks: [Mark::Untouched; Step::ALL.len()],
            turned: false,
            ended: None,
            finished: false,
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn mark(&self, step: Step) -> Mark {
        self.marks[step as usize]
    }

    pub fn turned(&self) -> bool {
        self.turned
    }

    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Begun and not undone: it may have had its effect.
    pub fn stands(&self, step: Step) -> bool {
        matches!(self.mark(step), Mark::Begun | Mark::Done)
    }

    /// Which ends an operator may still choose.
    pub fn left(&self) -> Left {
        match (self.turned, self.stands(Step::Open)) {
            (true, _) => Left::Back,
            (false, true) => Left::Forward,
            (false, false) => Left::Both,
        }
    }

    /// Is the application made to wait by this run, under the budget?
    pub fn pausing(&self) -> bool {
        let copied = self.mode != Mode::StopWrites || self.mark(Step::Gate) == Mark::Done;
        self.ended.is_none() && self.stands(Step::Fence) && copied
    }

    /// The first step in order that is not done.
    fn pending(&self) -> Option<Step> {
        self.mode.order().iter().copied().find(|&step| self.mark(step) != Mark::Done)
    }

    /// Of a run that an earlier version wrote down, which did not know this step: it counts as done,
    /// since later ones were begun. Whoever resumes the run takes it all the same, if it may still
    /// take any.
    pub fn without_handover(&mut self) {
        let mark = &mut self.marks[Step::Handover as usize];
        if self.mode.takes(Step::Handover) && *mark == Mark::Untouched {
            *mark = Mark::Done;
        }
    }

    /// Takes in an entry that is [`legal`].
    pub fn apply(&mut self, entry: Entry) {
        assert!(legal(self, entry), "journal entry {entry:?} cannot follow {self:?}");
        match entry {
            Entry::Begun(step) => self.marks[step as usize] = Mark::Begun,
            Entry::Done(step) => self.marks[step as usize] = Mark::Done,
            Entry::Undone(step) => self.marks[step as usize] = Mark::Undone,
            Entry::TurnedBack => self.turned = true,
            Entry::Ended(end) => self.ended = Some(end),
            Entry::Finished => self.finished = true,
            Entry::Resumed if self.stands(Step::Open) => {
                self.marks[Step::Open as usize] = Mark::Begun;
            }
            Entry::Resumed => {
                let begins = !self.stands(Step::Fence);
                for step in Step::ALL {
                    let mark = &mut self.marks[step as usize];
                    if *mark == Mark::Done && (step != Step::Gate || begins) {
                        *mark = Mark::Begun;
                    }
                }
            }
        }
    }
}

/// Steps whose undoing is written down. What counters and guard did goes with the shard that has it:
/// with the fence, or with the split.
const UNDONE: [Step; 4] = [Step::Publish, Step::Handover, Step::Fence, Step::Split];

/// May this entry follow? Everything that the journal of one run guarantees.
pub fn legal(journal: &Journal, entry: Entry) -> bool {
    if journal.ended.is_some() {
        return entry == Entry::Finished && !journal.finished;
    }
    match entry {
        // Again after a resume: then it is begun already.
        Entry::Begun(step) => {
            !journal.turned && journal.pending() == Some(step) && journal.mark(step) != Mark::Undone
        }
        Entry::Done(step) => !journal.turned && journal.mark(step) == Mark::Begun,
        Entry::Resumed => true,
        Entry::Finished => false,
        Entry::TurnedBack => !journal.turned && journal.mark(Step::Open) != Mark::Done,
        // The others may be given up for a while: the fence does not wait for them.
        Entry::Undone(step) => journal.turned && UNDONE.contains(&step) && journal.stands(step),
        Entry::Ended(End::To) => !journal.turned && journal.pending().is_none(),
        Entry::Ended(End::From) => {
            journal.turned && !UNDONE.into_iter().any(|step| journal.stands(step))
        }
    }
}

/// An entry that could not be written, or was written and nobody heard of it: does the run go on
/// as if it were there, and write it with the next one? Else an undoing that goes on without the
/// journal would leave one that cannot be read once its server is back.
///
/// Not so a beginning of `open`: nothing has been opened, so the run turns back whether or not it
/// is there.
pub fn owed(entry: Entry) -> bool {
    match entry {
        Entry::Begun(step) => step != Step::Open,
        Entry::TurnedBack | Entry::Undone(_) | Entry::Ended(End::From) => true,
        Entry::Done(_) | Entry::Resumed | Entry::Ended(End::To) | Entry::Finished => false,
    }
}

/// What the operator wants of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    Forward,
    Back,
}

/// What the deciding process knows besides the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    pub wish: Wish,
    /// The step just tried did not come about: the gate is closed, a write leaked, a server does
    /// not answer, the budget is used up.
    pub trouble: bool,
    /// The old routing could not be published again everywhere; tried by this process.
    pub unpublish_failed: bool,
    /// A to-shard still has the triggers that were handed over to it; tried by this process.
    pub takedown_failed: bool,
    /// A server that was to be promoted does not replicate again; tried by this process.
    pub rejoin_failed: bool,
    /// A from-shard's own token says that it serves. So the process before, cut off from the
    /// journal, undid its fence; which it does only if it has opened nothing: an `open` begun in
    /// the journal was not taken.
    pub reopened: bool,
}

impl Facts {
    pub fn new(wish: Wish) -> Facts {
        Facts {
            wish,
            trouble: false,
            unpublish_failed: false,
            takedown_failed: false,
            rejoin_failed: false,
            reopened: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write `begun`, take it, write `done`.
    Take(Step),
    /// Write that the run turns back.
    TurnBack,
    /// Undo it, then write `undone`.
    Undo(Step),
    /// Write that the run is over.
    End(End),
    /// Nothing that this process could do now.
    Stop(Stop),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// The run is over.
    Ended,
    /// Back is wanted, and a to-shard may serve already: finish the run, then roll back.
    NoReturn,
    /// A to-shard could not be opened: resume when it can be reached.
    Unopened,
    /// The from-shards serve; a target still has the new routing.
    Unpublished,
    /// The from-shards serve; a to-shard still has triggers, and takes no rows until it has not.
    HandedOver,
    /// The from-shards serve; a server that was to be promoted does not replicate from one yet.
    Apart,
}

/// May a to-shard have been opened?
pub fn past_no_return(journal: &Journal, facts: &Facts) -> bool {
    journal.stands(Step::Open) && !facts.reopened
}

pub fn next(journal: &Journal, facts: &Facts) -> Action {
    if journal.ended.is_some() {
        return Action::Stop(Stop::Ended);
    }
    if journal.turned {
        return undo(journal, facts);
    }
    if past_no_return(journal, facts) {
        if facts.wish == Wish::Back {
            return Action::Stop(Stop::NoReturn);
        }
        if facts.trouble {
            return Action::Stop(Stop::Unopened);
        }
    } else if facts.wish == Wish::Back || facts.trouble || journal.stands(Step::Open) {
        return Action::TurnBack;
    }
    match journal.pending() {
        Some(step) => Action::Take(step),
        None => Action::End(End::To),
    }
}

/// Clients that know the new routing meet shards that refuse them; those that know the old one must
/// meet shards that serve. Neither needs the other, nor do they need a to-shard that does not answer:
/// its applier takes no rows while its triggers are up. So whoever undoes does all at once. What could
/// be undone of routing and triggers is written before what was undone of the fence. A server that was
/// to be promoted replicates again once its primary has been let go, and nobody waits for that.
fn undo(journal: &Journal, facts: &Facts) -> Action {
    let published = journal.stands(Step::Publish);
    let handed_over = journal.stands(Step::Handover);
    let split = journal.stands(Step::Split);
    if published && !facts.unpublish_failed {
        Action::Undo(Step::Publish)
    } else if handed_over && !facts.takedown_failed {
        Action::Undo(Step::Handover)
    } else if journal.stands(Step::Fence) {
        Action::Undo(Step::Fence)
    } else if split && !facts.rejoin_failed {
        Action::Undo(Step::Split)
    } else if published {
        Action::Stop(Stop::Unpublished)
    } else if handed_over {
        Action::Stop(Stop::HandedOver)
    } else if split {
        Action::Stop(Stop::Apart)
    } else {
        Action::End(End::From)
    }
}

/// The version under which a run publishes its routing. `before`: the one with which a process
/// before this one began to, in the same run. The version after that is left out: that process may
/// stand still where it is about to take its routing back.
pub fn version_to_publish(routed: Option<Routed>, before: Option<u64>) -> u64 {
    next_version(routed, before) + u64::from(before.is_some())
}

/// Newer than anything that this run may have published, wherever it arrived.
pub fn next_version(routed: Option<Routed>, published: Option<u64>) -> u64 {
    routed.map_or(0, |routed| routed.version).max(published.unwrap_or(0)) + 1
}

/// Who serves, by the journal of the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serving {
    From,
    /// Fenced, and nothing opened yet.
    Neither,
    /// Opening has begun; some may still be closed.
    Opening,
    To,
}

pub fn serving(journal: &Journal) -> Serving {
    match journal.ended {
        Some(End::To) => Serving::To,
        Some(End::From) => Serving::From,
        None if !journal.turned && journal.stands(Step::Open) => Serving::Opening,
        None if journal.stands(Step::Fence) => Serving::Neither,
        None => Serving::From,
    }
}

/// How long the application may be made to wait, and how much of that is kept for undoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub limit_ms: u64,
    pub reserve_ms: u64,
}

impl Budget {
    /// What is left for going forward after a pause of so long; 0: turn back.
    pub fn left_ms(self, paused_ms: u64) -> u64 {
        self.limit_ms.saturating_sub(self.reserve_ms).saturating_sub(paused_ms)
    }
}

/// How long the last entry of a run with no choice left must be old: its operator goes on within
/// milliseconds if it goes on at all.
pub const NO_CHOICE_IDLE: Duration = Duration::from_secs(3);

/// Since when, by the clock of the journal's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The last entry was written.
    pub written: Duration,
    /// The application waits under the budget: since a person began or resumed the pause.
    pub paused: Option<Duration>,
    /// The same, whoever has resumed it: how long it has lasted.
    pub waited: Option<Duration>,
}

/// Clients are kept out of the from-shards, or led away from them; or rows have to wait since
/// triggers are where they do not belong; or a primary lacks a replica.
fn waits(journal: &Journal) -> bool {
    journal.ended.is_none() && UNDONE.into_iter().any(|step| journal.stands(step))
}

/// Is a run for a daemon to go on with, if its operator's lock is free? Not where writes were stopped
/// on purpose and the copy is still under way: no budget counts then.
pub fn due(journal: &Journal, since: Since, budget: Duration) -> bool {
    let no_choice = journal.turned || journal.stands(Step::Open);
    waits(journal)
        && match no_choice {
            true => since.written >= NO_CHOICE_IDLE,
            false => since.paused.is_some_and(|paused| paused >= budget),
        }
}

#[cfg(test)]
mod tests;
