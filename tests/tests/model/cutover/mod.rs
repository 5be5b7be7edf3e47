//! Cutover and rollback: operators that are killed, stand still, are cut off or come second.
//!
//! **Modelled**: old and new shards with their logs of writes and markers, and what the other side
//! has applied of them; the tail's rule that a write behind a fence marker stops the stream, and is
//! followed only where that fence is undone; routing
//! targets; the journal with its lock and owner on new shard 0; operator processes that take their
//! steps piece by piece (a shard closed, a marker written, a target told, an entry journaled), with
//! sessions on the servers that the next process takes away. The application writes on every shard
//! that lets it, whatever the routing says. Going wrong, as often as a case's budget says: a
//! process is killed between any two pieces, or stands still while another takes over; a server or
//! a target cannot be reached; an entry is written and nobody hears of it; a step fails or takes
//! too long (the pause budget is any such moment); somebody writes through a fence.
//!
//! Triggers of the application are taken down and put up, shard by shard; a stream's rows wait where
//! they are there.
//!
//! A daemon keeps fences up: it sees a fence that a restart has opened, and closes it later than it
//! looked. (What is written in between is not modelled, only whom such a closing may hit.)
//!
//! A daemon takes a run over whose operator has died or stands still. When the budget is over is not
//! modelled: it may be so at any moment from the fence on.
//!
//! Somebody who does not reach the journal undoes the run without it, while whoever has it goes on:
//! to-shards are barred, then from-shards are let go, at any later moments.
//!
//! A promotion has one server to promote for each old shard: replication takes to it what the old shard
//! logs, as long as they are joined. What applications write on an old shard is, of all rows, one that
//! is at home on its partner: a client that never hears of the new mapping goes on writing it there,
//! wherever it is let.
//!
//! **Not modelled**: time, statements, several servers a shard, shards that share a server, counters, `finish` and `unfence`, the gate's and the verification's reasons.

pub mod case;
mod operator;
mod world;

use modshift_cutover::{Ask, Direction, End, Serving, Side, Step, serving};
use stateright::{Model, Property};

use self::case::{Budget, Case, Without};
use self::operator::{At, Came, Operator, Why};
use self::world::{ALONE, Alone, Event, KEEPER, Link, Phase, Shard, World};
use crate::shared::Shared;

pub struct Cutovers {
    case: Case,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    world: World,
    operators: Vec<Shared<Operator>>,
    /// Processes so far.
    count: u8,
    left: Budget,
    /// The last process ended for a reason outside of it.
    excused: bool,
    /// A write came through a fence.
    leaked: bool,
    /// The shard that a daemon is about to close again.
    keeping: Option<(Side, usize)>,
    /// From-shards that somebody without the journal is about to let go, each with its run.
    freeing: Vec<(Side, usize, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Command(Ask),
    /// A daemon goes on with the run.
    Watch(Ask),
    /// By place among the processes that there are.
    Step(usize),
    /// Routing and fence are undone at once: the fence may be through first.
    StepFence(usize),
    /// A step that writes the journal; nobody hears that it was written.
    StepUnheard(usize),
    /// The step under way fails, takes too long, or is interrupted.
    Fail(usize),
    /// The process no longer waits for a shard that does not answer.
    GiveUp(usize),
    Kill(usize),
    /// The process stands still until its lock is gone.
    Stall(usize),
    Down(Side, usize),
    Up(Side, usize),
    TargetDown,
    TargetUp,
    Write(Side, usize),
    Leak(Side, usize),
    /// A daemon finds the fence of this shard open, and looks under the lock; then it closes it.
    Look(Side, usize),
    Shut,
    /// Without the journal: to-shards are barred; then a from-shard is let go; clients are led there.
    Bar(Direction),
    Free(usize),
    /// A server to be promoted is started again.
    Restart(usize),
    /// The split of a promotion is undone, as far as it may be, before the fence is.
    StepSplit(usize),
    /// What has been logged is applied, event by event.
    Stream(Side, usize),
}

impl Cutovers {
    pub fn new(case: Case) -> Cutovers {
        Cutovers { case }
    }

    fn shards(&self) -> impl Iterator<Item = (Side, usize)> + use<> {
        let (old, new) = (self.case.old, self.case.new);
        (0..old).map(|index| (Side::Old, index)).chain((0..new).map(|index| (Side::New, index)))
    }

    /// Those who gave up because of an outage have left nobody who could come. In truth a daemon comes
    /// again and again.
    fn spent(&self, state: &State) -> bool {
        let (left, had) = (state.left, self.case.budget);
        left.outages < had.outages && left.watches == 0 && left.commands == 0
    }

    fn over(&self, state: &mut State, place: usize, excused: bool) {
        let operator = state.operators.remove(place);
        state.world.release(operator.id);
        state.excused = excused;
    }

    fn operator_actions(&self, state: &State, place: usize, out: &mut Vec<Action>) {
        let operator = &state.operators[place];
        let (world, left) = (&state.world, state.left);
        if !operator.waits(world, &self.case) {
            out.push(Action::Step(place));
            if operator.undoes_both(&self.case) {
                out.push(Action::StepFence(place));
            }
            if operator.undoes_split(&self.case) {
                out.push(Action::StepSplit(place));
            }
            if left.outages > 0 && !world.journal_down() && operator.writes(&self.case) {
                out.push(Action::StepUnheard(place));
            }
        } else if matches!(operator.at, At::Undoing(..)) {
            out.push(Action::GiveUp(place));
        }
        // What is waited for may never come: then it is the pause budget that ends the step.
        let waits = operator.waits(world, &self.case);
        if operator.may_fail() && (left.troubles > 0 || waits) {
            out.push(Action::Fail(place));
        }
        if left.kills > 0 {
            out.push(Action::Kill(place));
        }
        if left.stalls > 0 && world.store.lock == Some(operator.id) {
            out.push(Action::Stall(place));
        }
    }

    /// The claim that the journal makes is so.
    fn told_truly(&self, world: &World) -> bool {
        let Some(run) = &world.store.run else { return true };
        match serving(&run.journal) {
            Serving::From => world.serves(run.direction.from()),
            Serving::To => world.serves(run.direction.to()),
            Serving::Neither | Serving::Opening => true,
        }
    }

    /// The run is over, and clients are told of the side that serves.
    fn ended_well(&self, world: &World) -> bool {
        let Some(run) = &world.store.run else { return world.all_open(Side::Old) };
        let side = match run.journal.ended() {
            Some(End::From) => run.direction.from(),
            Some(End::To) => run.direction.to(),
            None => return false,
        };
        let told = world.targets.iter().flatten().all(|routed| routed.side == side);
        let triggers = world.side(side).iter().all(|shard| shard.triggers)
            && (world.promote || !world.any_triggers(side.other()));
        let link = if side == Side::Old { Link::Joined } else { Link::Split };
        let linked = world.new.iter().all(|shard| {
            !world.promote || shard.link == link && shard.guard == (side == Side::New)
        });
        world.serves(side) && told && triggers && linked
    }

    /// Of a case that is watched: a run that has kept nobody from the from-shards yet is left to a
    /// person.
    fn nobody_waits(&self, world: &World) -> bool {
        let Some(run) = &world.store.run else { return false };
        let steps = [Step::Fence, Step::Publish, Step::Handover, Step::Split];
        let kept = steps.into_iter().any(|step| run.journal.stands(step));
        self.case.budget.watches > 0 && !kept && world.all_open(run.direction.from())
    }

    /// Nothing that was acknowledged is missing where applications are served.
    fn nothing_missing(&self, world: &World) -> bool {
        if world.promote {
            // What is written on a shard in place here is a row that is at home on its partner.
            let opened = !world.any_opened() || world.old.iter().all(|shard| shard.all_applied());
            let own = |shard: &Shared<Shard>| shard.log.contains(&Event::Write);
            return opened && !(world.any_unguarded() && world.new.iter().any(own));
        }
        let served = |side: Side| {
            !world.any_open(side)
                || world.side(side.other()).iter().all(|shard| shard.all_applied())
        };
        served(Side::Old) && served(Side::New)
    }
}

impl Model for Cutovers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            world: World::new(self.case.old, self.case.new, self.case.promotes()),
            operators: Vec::new(),
            count: 0,
            left: self.case.budget,
            excused: false,
            leaked: false,
            keeping: None,
            freeing: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        let (world, left) = (&state.world, state.left);
        if world.broken.is_some() {
            return;
        }
        for place in 0..state.operators.len() {
            self.operator_actions(state, place, out);
        }
        if left.commands > 0 && world.store.lock.is_none() && !world.journal_down() {
            for &direction in &self.case.directions {
                let asks = [Ask::Start(direction), Ask::Resume(direction), Ask::Abort(direction)];
                out.extend(
                    asks.into_iter()
                        .filter(|&ask| Operator::take(0, ask, world, &self.case).is_ok())
                        .map(Action::Command),
                );
            }
        }
        if left.watches > 0
            && world.store.lock.is_none()
            && !world.journal_down()
            && let Some(run) = &world.store.run
        {
            let ask = Ask::Watch(run.direction);
            if Operator::take(0, ask, world, &self.case).is_ok() {
                out.push(Action::Watch(ask));
            }
        }
        let sealing = world.store.run.as_ref().is_some_and(|run| run.journal.stands(Step::Seal));
        for (side, index) in self.shards() {
            let shard = &world.side(side)[index];
            let waits = self.case.without != Without::Interlock;
            if world.may_stream(side, index) || !waits && shard.can_stream() {
                out.push(Action::Stream(side, index));
            }
            if shard.down {
                out.push(Action::Up(side, index));
            } else if left.outages > 0 && !state.operators.is_empty() {
                out.push(Action::Down(side, index));
            }
            // A client with the old mapping writes rows of the partner's wherever it may.
            let refused = side == Side::Old && shard.guard;
            if left.writes > 0 && shard.open && !refused {
                out.push(Action::Write(side, index));
            }
            // Behind the second marker nothing looks any more: the fence itself must hold.
            let fenced = matches!(shard.log.last(), Some(Event::Marker(Phase::Fenced, _)));
            let free = shard.session.is_none() || self.case.without == Without::KeeperLock;
            if left.keeps > 0 && state.keeping.is_none() && fenced && free && !shard.down {
                out.push(Action::Look(side, index));
            }
            // The guard refuses them as well.
            let let_through = if world.promote { !shard.guard } else { !sealing };
            if left.leaks > 0 && !shard.open && fenced && let_through {
                out.push(Action::Leak(side, index));
            }
        }
        if state.keeping.is_some() {
            out.push(Action::Shut);
        }
        if left.restarts > 0 {
            let stopped = |(_, shard): &(usize, &Shared<Shard>)| shard.link == Link::Stopped;
            let stopped = world.new.iter().enumerate().filter(stopped);
            out.extend(stopped.map(|(index, _)| Action::Restart(index)));
        }
        if left.glasses > 0 && state.freeing.is_empty() {
            let fenced = |direction: &&Direction| world.alone_may(**direction).is_some();
            out.extend(self.case.directions.iter().filter(fenced).copied().map(Action::Bar));
        }
        out.extend((0..state.freeing.len()).map(Action::Free));
        if world.target_down {
            out.push(Action::TargetUp);
        } else if left.outages > 0 && !state.operators.is_empty() {
            out.push(Action::TargetDown);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let world = &mut next.world;
        match action {
            Action::Command(ask) | Action::Watch(ask) => {
                match action {
                    Action::Watch(_) => next.left.watches -= 1,
                    _ => next.left.commands -= 1,
                }
                next.count += 1;
                next.excused = false;
                world.store.lock = Some(next.count);
                let operator = Operator::take(next.count, ask, world, &self.case).ok()?;
                next.operators.push(Shared::new(operator));
            }
            Action::Step(place) | Action::StepUnheard(place) => {
                let unheard = matches!(action, Action::StepUnheard(_));
                next.left.outages -= u8::from(unheard);
                match next.operators[place].step(world, &self.case, unheard) {
                    Came::On => {}
                    Came::Over(why) => {
                        let (left, had) = (next.left, self.case.budget);
                        let outside = left.outages < had.outages
                            || left.stalls < had.stalls
                            || left.glasses < had.glasses;
                        let excused = match why {
                            Why::Ended => false,
                            // A daemon that is refused leaves the application waiting.
                            Why::Refused => had.watches == 0 || self.spent(&next),
                            Why::Outside => outside,
                        };
                        self.over(&mut next, place, excused);
                    }
                }
            }
            Action::StepFence(place) => next.operators[place].fence_first(),
            Action::StepSplit(place) => next.operators[place].split_first(),
            Action::Restart(index) => {
                next.left.restarts -= 1;
                world.shard(Side::New, index).link = Link::Joined;
            }
            Action::Fail(place) => {
                next.left.troubles = next.left.troubles.saturating_sub(1);
                next.operators[place].trouble();
            }
            Action::GiveUp(place) => self.over(&mut next, place, true),
            Action::Kill(place) => {
                next.left.kills -= 1;
                let excused = self.case.budget.watches == 0 || self.spent(&next);
                self.over(&mut next, place, excused);
            }
            Action::Stall(_) => {
                next.left.stalls -= 1;
                world.store.lock = None;
            }
            Action::Down(side, index) => {
                next.left.outages -= 1;
                let shard = world.shard(side, index);
                shard.down = true;
                shard.session = None;
            }
            Action::Up(side, index) => world.shard(side, index).down = false,
            Action::TargetDown => {
                next.left.outages -= 1;
                world.target_down = true;
            }
            Action::TargetUp => world.target_down = false,
            Action::Write(side, index) => {
                next.left.writes -= 1;
                world.shard(side, index).log.push(Event::Write);
            }
            Action::Leak(side, index) => {
                next.left.leaks -= 1;
                next.leaked = true;
                world.shard(side, index).log.push(Event::Write);
            }
            Action::Look(side, index) => {
                next.left.keeps -= 1;
                next.keeping = Some((side, index));
                if !matches!(self.case.without, Without::KeeperLock | Without::KeeperLook) {
                    world.shard(side, index).session = Some(KEEPER);
                }
            }
            Action::Shut => {
                let (side, index) = next.keeping.take()?;
                let shard = world.shard(side, index);
                let held = match self.case.without {
                    Without::KeeperLock => true,
                    Without::KeeperLook => shard.session.is_none(),
                    // Whoever comes takes it away.
                    _ => shard.session == Some(KEEPER),
                };
                if held && !shard.down {
                    shard.open = false;
                }
                if shard.session == Some(KEEPER) {
                    shard.session = None;
                }
            }
            Action::Bar(direction) => {
                next.left.glasses -= 1;
                world.alone = true;
                let Alone { from, to } = world.alone_may(direction)?;
                for index in to {
                    let shard = world.shard(direction.to(), index);
                    shard.session = None;
                    shard.barred = self.case.without != Without::Bar;
                    shard.triggers = false;
                }
                for (index, run) in from {
                    world.shard(direction.from(), index).session = Some(ALONE);
                    next.freeing.push((direction.from(), index, run));
                }
            }
            Action::Free(place) => {
                let (side, index, run) = next.freeing.remove(place);
                let shard = world.shard(side, index);
                let held =
                    shard.session == Some(ALONE) || self.case.without == Without::OneConnection;
                if held && !shard.down && shard.phase() == Phase::Fenced {
                    shard.log.push(Event::Marker(Phase::Serving, run));
                    shard.triggers = true;
                    shard.guard = false;
                    shard.open = true;
                }
                if shard.session == Some(ALONE) {
                    shard.session = None;
                }
            }
            Action::Stream(side, index) => {
                if !world.may_stream(side, index) {
                    world.fault("a trigger runs for a row that modshift applies");
                }
                match world.promote {
                    true => world.shard(side, index).applied += 1,
                    false => world.shard(side, index).stream(),
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Cutovers>> {
        let mut all = vec![
            Property::always("never both sides", |_, state: &State| {
                let world = &state.world;
                match world.promote {
                    true => !(world.any_unguarded() && world.any_opened()),
                    false => !(world.any_open(Side::Old) && world.any_open(Side::New)),
                }
            }),
            Property::always("who serves replicates from nobody", |_, state: &State| {
                let joined = |shard: &Shared<Shard>| shard.open && shard.link == Link::Joined;
                !state.world.new.iter().any(joined)
            }),
            Property::always("no acknowledged write is missing", |model: &Cutovers, state| {
                model.nothing_missing(&state.world)
            }),
            Property::always("who serves is told truly", |model: &Cutovers, state: &State| {
                model.told_truly(&state.world)
            }),
            Property::always("journal and routing are in order", |_, state: &State| {
                state.world.broken.is_none()
            }),
            Property::always("applications write where their triggers are", |_, state: &State| {
                let mut shards = state.world.old.iter().chain(&state.world.new);
                shards.all(|shard| shard.triggers || !shard.open)
            }),
            Property::always("no stream halts but for a leak", |_, state: &State| {
                let mut shards = state.world.old.iter().chain(&state.world.new);
                state.leaked || shards.all(|shard| !shard.halted)
            }),
            Property::always(
                "every run ends, or can be gone on with",
                |model: &Cutovers, state| {
                    let mut actions = Vec::new();
                    model.actions(state, &mut actions);
                    !actions.is_empty()
                        || state.excused
                        || state.count == 0
                        || model.ended_well(&state.world)
                        || model.nobody_waits(&state.world)
                },
            ),
            Property::always("what is undone is followed", |model: &Cutovers, state: &State| {
                let ended = model.ended_well(&state.world) && state.operators.is_empty();
                let from = state.world.store.run.as_ref().map(|run| run.direction.from());
                let undone = from.filter(|&from| ended && state.world.all_open(from));
                undone.filter(|_| !state.world.promote).is_none_or(|from| {
                    state.world.side(from).iter().all(|shard| !shard.halted && !shard.held())
                })
            }),
            Property::sometimes("a cutover ends", |model: &Cutovers, state: &State| {
                state.ended(model.case.directions[0], End::To)
            }),
            Property::sometimes("a cutover is undone", |model: &Cutovers, state: &State| {
                state.ended(model.case.directions[0], End::From)
            }),
        ];
        if self.case.opens_without_old {
            all.push(Property::sometimes(
                "an opening ends without an old shard",
                |_, state: &State| {
                    let ended = state.ended(Direction::Cutover, End::To);
                    ended && state.world.any_down(Side::Old) && state.world.all_open(Side::New)
                },
            ));
        }
        if self.case.directions.contains(&Direction::Rollback) {
            all.extend([
                Property::sometimes("a rollback ends", |_, state: &State| {
                    state.ended(Direction::Rollback, End::To)
                }),
                Property::sometimes("a rollback is undone", |_, state: &State| {
                    state.ended(Direction::Rollback, End::From)
                }),
            ]);
        }
        all
    }
}

impl State {
    fn ended(&self, direction: Direction, end: End) -> bool {
        let run = self.world.store.run.as_ref();
        run.is_some_and(|run| run.direction == direction && run.journal.ended() == Some(end))
    }
}
