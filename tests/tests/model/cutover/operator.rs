//! One operator process: what it knows, and its next step.
//!
//! What to do next, what may be journaled, which command is admitted, whether an opening was
//! undone and which version to publish is decided by the shipped functions of `decide`. The order
//! in which `cutover` calls them and acts on shards, and what its sessions and its register
//! guarantee, is the model's own.

mod pieces;
mod promotion;

use modshift_cutover::outside::Routed;
use modshift_cutover::{
    Action, Admission, Ask, End, Entry, Facts, Journal, Opening, Refusal, Run, Side, Step, Stop,
    Told, Vote, Wish, admit, next, opening, owed,
};

use super::case::{Case, Without};
use super::world::{Line, Phase, World};

/// Where the process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// It has the lock and has read the journal.
    Taken,
    /// It asks shards for their phases: those of the to-side, then those of the from-side.
    Asking(Vec<Told>),
    /// The same of a promotion, whose from-shards say it all.
    Polling(Vec<Vote>),
    Resuming,
    /// Between two steps of the way forward.
    Forward,
    /// In a step: pieces done, and whether one has failed.
    Acting(Step, usize, bool),
    /// The step is taken.
    Acted(Step),
    /// Something went wrong, and is to be decided about.
    Troubled,
    /// Between two steps of the way back.
    Back,
    Undoing(Step, usize, bool),
    Undone(Step),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    pub id: u8,
    number: u8,
    pub run: Run,
    entries: u8,
    owed: Vec<Line>,
    version: Option<u64>,
    facts: Facts,
    resumed: bool,
    /// Index = from-shard: events up to and including its marker.
    markers: Vec<usize>,
    pub at: At,
    /// The journal went away on the way back.
    lost: bool,
    /// It has begun to publish the to-side; one before it has.
    published: bool,
    published_before: bool,
    /// The routing could not be taken back, through no fault of this process.
    led_astray: bool,
    /// The version under which a routing is about to be published.
    chosen: u64,
}

fn at_back(at: &At) -> bool {
    matches!(at, At::Back | At::Undone(_))
}

/// What a step of the process came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    On,
    Over(Why),
}

/// Why a process is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Ended,
    /// What was commanded is no longer possible.
    Refused,
    /// It could not reach something, or was replaced.
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Unreachable,
    Superseded,
}

impl Operator {
    /// Locks and reads the journal.
    pub fn take(id: u8, ask: Ask, world: &World, case: &Case) -> Result<Operator, Refusal> {
        let store = &world.store;
        let admission = admit(store.run.as_ref(), ask)?;
        let admission = match ask {
            Ask::Watch(_) if case.without == Without::WatchWay => Admission::Continue(Wish::Back),
            _ => admission,
        };
        let begin = |direction| Run { direction, journal: Journal::new(case.mode) };
        let (resumed, wish) = match admission {
            Admission::Begin => (false, Wish::Forward),
            Admission::Continue(wish) => (true, wish),
        };
        let (number, run, entries, version) = match (ask, &store.run) {
            (Ask::Start(direction), _) => (store.number + 1, begin(direction), 0, None),
            (_, Some(run)) => (store.number, run.clone(), world.entries(), store.version),
            (_, None) => unreachable!("only a start is admitted without a run"),
        };
        let facts = Facts::new(wish);
        let published_before = run.journal.stands(Step::Publish);
        Ok(Operator {
            id,
            number,
            run,
            entries,
            owed: Vec::new(),
            version,
            facts,
            resumed,
            markers: Vec::new(),
            at: At::Taken,
            lost: false,
            published: false,
            published_before,
            led_astray: false,
            chosen: 0,
        })
    }

    fn from(&self) -> Side {
        self.run.direction.from()
    }

    fn to(&self) -> Side {
        self.run.direction.to()
    }

    fn facts(&self, case: &Case) -> Facts {
        match case.without {
            Without::NoReturn => Facts { reopened: true, ..self.facts },
            Without::Opening => Facts { reopened: false, ..self.facts },
            _ => self.facts,
        }
    }

    fn next(&self, case: &Case) -> Action {
        next(&self.run.journal, &self.facts(case))
    }

    /// Is it about to undo routing and fence?
    pub fn undoes_both(&self, case: &Case) -> bool {
        self.at == At::Back
            && matches!(self.next(case), Action::Undo(Step::Publish | Step::Handover))
            && self.run.journal.stands(Step::Fence)
    }

    /// Is it about to undo a fence, and has it split servers from their primaries?
    pub fn undoes_split(&self, case: &Case) -> bool {
        case.promotes()
            && self.at == At::Back
            && matches!(self.next(case), Action::Undo(Step::Publish | Step::Fence))
            && self.run.journal.stands(Step::Split)
    }

    pub fn split_first(&mut self) {
        self.at = At::Undoing(Step::Split, 0, false);
    }

    pub fn fence_first(&mut self) {
        self.at = At::Undoing(Step::Fence, 0, false);
    }

    /// Once all is undone that could be, every target names the side that serves. A version that is
    /// newer than any this operator knows is another's, who took over: to be led back by that one.
    fn led_back(&self, world: &mut World) {
        let side = self.from();
        let newer = |version| self.version.is_some_and(|known| version > known);
        let back = |routed: &Option<Routed>| {
            routed.is_none_or(|routed| routed.side == side || newer(routed.version))
        };
        let ours = self.published || self.published_before;
        if ours && !world.targets.iter().all(back) && !self.led_astray {
            world.fault("clients are not led back to the shards that serve");
        }
    }

    /// Writes an entry. Whether one that was not answered is there is for `unheard` to say.
    fn write(
        &mut self,
        entry: Entry,
        world: &mut World,
        case: &Case,
        unheard: bool,
    ) -> Result<(), Failed> {
        self.entries += 1;
        let publishes = entry == Entry::Begun(Step::Publish);
        let version = publishes.then_some(self.chosen);
        let line = Line { number: self.entries, entry, version };
        let lost = world.journal_down();
        if !lost {
            if world.store.owner != self.id && case.without != Without::OwnerOfJournal {
                return Err(Failed::Superseded);
            }
            for line in self.owed.iter().chain([&line]) {
                world.store(self.number, &self.run, *line);
            }
        }
        if unheard {
            let (side, index) = world.journal();
            world.shard(side, index).down = true;
        }
        let counts = match case.without {
            // Applied all the same, on the way back.
            Without::Owed => self.facts.wish == Wish::Back && at_back(&self.at),
            _ => owed(entry),
        };
        match lost || unheard {
            false => self.owed.clear(),
            true if case.without != Without::Owed && owed(entry) => self.owed.push(line),
            true => {}
        }
        if world.broken.is_none() && (counts || !(lost || unheard)) {
            self.run.journal.apply(entry);
        }
        if lost || unheard {
            return Err(Failed::Unreachable);
        }
        self.version = version.or(self.version);
        Ok(())
    }

    /// On the way back what cannot be written is remembered.
    fn note(
        &mut self,
        entry: Entry,
        world: &mut World,
        case: &Case,
        unheard: bool,
    ) -> Result<(), Failed> {
        match self.write(entry, world, case, unheard) {
            Err(Failed::Unreachable) => {
                self.lost = true;
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// A connection to a shard that is this process's own: `Server::connected`.
    fn session(
        &self,
        side: Side,
        index: usize,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let down = world.journal_down();
        let owner = world.store.owner;
        let shard = world.shard(side, index);
        if shard.down {
            if shard.session == Some(self.id) {
                shard.session = None;
            }
            return Err(Failed::Unreachable);
        }
        if shard.session == Some(self.id) {
            return Ok(());
        }
        // Whoever held it loses it, whatever follows.
        shard.session = None;
        if case.without != Without::OwnerOfServers {
            if down {
                return Err(Failed::Unreachable);
            }
            if owner != self.id {
                return Err(Failed::Superseded);
            }
        }
        shard.session = Some(self.id);
        Ok(())
    }

    /// Is the next step one that waits for something?
    pub fn waits(&self, world: &World, case: &Case) -> bool {
        let shards = world.side(self.from()).len();
        match &self.at {
            At::Acting(Step::Drain, pieces, _) if case.promotes() => {
                *pieces == shards && !self.drained(world, case)
            }
            At::Acting(Step::Drain, 0, _) => !self.drained(world, case),
            At::Acting(Step::Seal, ..) if case.promotes() => false,
            At::Acting(Step::Seal, pieces, _) if *pieces == 2 * shards => {
                !self.drained(world, case)
            }
            // Shards that do not answer are tried again.
            At::Undoing(Step::Fence, pieces, true) if *pieces == 2 * shards => {
                !self.lost && world.side(self.from()).iter().any(|shard| shard.down)
            }
            _ => false,
        }
    }

    fn drained(&self, world: &World, case: &Case) -> bool {
        let from = world.side(self.from());
        case.without == Without::Markers
            || self.markers.iter().zip(from).all(|(&marker, shard)| shard.applied >= marker)
    }

    /// May a step fail here by itself, or be interrupted?
    pub fn may_fail(&self) -> bool {
        matches!(self.at, At::Acting(step, ..) if step != Step::Open)
    }

    pub fn trouble(&mut self) {
        self.facts.trouble = true;
        self.at = At::Troubled;
    }

    /// Is the next step a write of the journal?
    pub fn writes(&self, case: &Case) -> bool {
        match &self.at {
            At::Resuming | At::Acted(_) | At::Undone(_) => true,
            At::Forward | At::Troubled | At::Back => {
                matches!(self.next(case), Action::Take(_) | Action::TurnBack | Action::End(_))
            }
            _ => false,
        }
    }

    /// The next step. `unheard`: what it writes arrives, and the answer does not.
    pub fn step(&mut self, world: &mut World, case: &Case, unheard: bool) -> Came {
        match self.try_step(world, case, unheard) {
            Ok(came) => came,
            Err(Failed::Superseded) => Came::Over(Why::Outside),
            Err(Failed::Unreachable) => match self.at {
                // On the way forward that is trouble like any other.
                At::Forward | At::Acted(_) if self.next(case) != Action::End(End::To) => {
                    self.trouble();
                    Came::On
                }
                _ => Came::Over(Why::Outside),
            },
        }
    }

    fn try_step(&mut self, world: &mut World, case: &Case, unheard: bool) -> Result<Came, Failed> {
        match self.at.clone() {
            At::Taken => {
                if world.journal_down() {
                    return Err(Failed::Unreachable);
                }
                world.store.owner = self.id;
                let same = world.store.number != self.number || world.entries() == self.entries;
                if !same && case.without != Without::SecondLook {
                    return Err(Failed::Superseded);
                }
                let journal = &self.run.journal;
                self.at = match self.resumed {
                    false => At::Forward,
                    true if journal.stands(Step::Open) && !journal.turned() => {
                        match case.promotes() {
                            true => At::Polling(Vec::new()),
                            false => At::Asking(Vec::new()),
                        }
                    }
                    true => At::Resuming,
                };
            }
            At::Asking(told) => return self.ask(told, world, case),
            At::Polling(votes) => return self.poll(votes, world, case),
            At::Resuming => {
                self.write(Entry::Resumed, world, case, unheard)?;
                self.at = At::Forward;
            }
            At::Forward => match self.next(case) {
                Action::Take(step) => {
                    if step == Step::Publish {
                        self.chosen = self.version_to_publish(world, case);
                    }
                    if case.without != Without::JournalFirst {
                        self.write(Entry::Begun(step), world, case, unheard)?;
                    }
                    self.at = At::Acting(step, 0, false);
                }
                Action::End(End::To) => {
                    self.write(Entry::Ended(End::To), world, case, unheard)?;
                    return Ok(Came::Over(Why::Ended));
                }
                _ => self.at = At::Troubled,
            },
            At::Acting(step, pieces, failed) => self.act(step, pieces, failed, world, case)?,
            At::Acted(step) => {
                if case.without == Without::JournalFirst {
                    self.write(Entry::Begun(step), world, case, false)?;
                }
                self.write(Entry::Done(step), world, case, unheard)?;
                self.at = At::Forward;
            }
            At::Troubled => match self.next(case) {
                Action::TurnBack | Action::Undo(_) | Action::End(End::From) => {
                    self.facts.wish = Wish::Back;
                    self.at = At::Back;
                }
                Action::Stop(Stop::NoReturn) => return Ok(Came::Over(Why::Refused)),
                _ => return Ok(Came::Over(Why::Outside)),
            },
            At::Back => match self.next(case) {
                Action::TurnBack => self.note(Entry::TurnedBack, world, case, unheard)?,
                Action::Undo(step) => self.at = At::Undoing(step, 0, false),
                Action::End(end) => {
                    self.led_back(world);
                    self.note(Entry::Ended(end), world, case, unheard)?;
                    let facts = &self.facts;
                    let failed = facts.unpublish_failed || facts.takedown_failed;
                    let whole = !self.lost && !failed && !facts.rejoin_failed;
                    return Ok(Came::Over(if whole { Why::Ended } else { Why::Outside }));
                }
                Action::Stop(Stop::Unpublished | Stop::HandedOver | Stop::Apart) => {
                    self.led_back(world);
                    return Ok(Came::Over(Why::Outside));
                }
                Action::Take(_) | Action::Stop(_) => return Ok(Came::Over(Why::Outside)),
            },
            At::Undoing(Step::Publish, piece, missed) => {
                self.publish_back(piece, missed, world, case)?;
            }
            At::Undoing(Step::Handover, piece, failed) => {
                self.take_back(piece, failed, world, case)?;
            }
            At::Undoing(Step::Split, piece, failed) => self.rejoin(piece, failed, world, case)?,
            At::Undoing(step, pieces, failed) => {
                return self.unfence(step, pieces, failed, world, case);
            }
            At::Undone(step) => {
                self.note(Entry::Undone(step), world, case, unheard)?;
                self.at = At::Back;
            }
        }
        Ok(Came::On)
    }

    /// `was_undone`, a shard at a time.
    fn ask(&mut self, mut told: Vec<Told>, world: &mut World, case: &Case) -> Result<Came, Failed> {
        let (to, from) = (world.side(self.to()).len(), world.side(self.from()).len());
        if told.len() < to + from {
            let index = told.len();
            let (side, index) =
                if index < to { (self.to(), index) } else { (self.from(), index - to) };
            told.push(match self.session(side, index, world, case) {
                Err(Failed::Superseded) => return Err(Failed::Superseded),
                Err(Failed::Unreachable) => Told::Silent,
                Ok(()) if world.side(side)[index].phase() == Phase::Serving => Told::Serves,
                Ok(()) if world.side(side)[index].barred => Told::Barred,
                Ok(()) => Told::Fenced,
            });
            self.at = At::Asking(told);
            return Ok(Came::On);
        }
        match opening(self.run.direction, &told[to..], &told[..to]) {
            Opening::Stands => self.facts.reopened = false,
            Opening::Undone => self.facts.reopened = true,
            Opening::BothServe(..) => world.fault("both sides say that they serve"),
            Opening::Silent(side, _) if case.without == Without::Silence && side == self.from() => {
            }
            Opening::Silent(..) => return Err(Failed::Unreachable),
        }
        self.at = At::Resuming;
        Ok(Came::On)
    }
}
