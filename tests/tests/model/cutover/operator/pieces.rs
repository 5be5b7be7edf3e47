//! The pieces of each step: a shard closed, a marker written, a target told; and of its undoing.

use modshift_cutover::outside::Routed;
use modshift_cutover::{Side, Step, Wish, next_version, version_to_publish};

use super::super::case::{Case, Without};
use super::super::world::{Event, KEPT_OUT, Phase, TABLE, World};
use super::{At, Came, Failed, Operator};

impl Operator {
    /// One piece of a step. What fails on one shard does not keep it from the others.
    pub(super) fn act(
        &mut self,
        step: Step,
        piece: usize,
        failed: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let (from, to) = (world.side(self.from()).len(), world.side(self.to()).len());
        let outcome = match step {
            _ if case.promotes() && !matches!(step, Step::Gate | Step::Fence | Step::Publish) => {
                self.act_in_place(step, piece, world, case)
            }
            Step::Close => self.close(self.to(), piece, world, case).map(|()| {
                let (side, run) = (self.to(), self.number);
                let shard = world.shard(side, piece);
                shard.barred = false;
                // Of a process before this one.
                shard.triggers = false;
                if shard.phase() == Phase::Serving {
                    shard.log.push(Event::Marker(Phase::Fenced, run | KEPT_OUT));
                }
            }),
            Step::Handover => self.hand_over(piece, world, case),
            Step::Split | Step::Guard => Ok(()),
            Step::Gate
                if !case.promotes()
                    && world.side(self.from()).iter().any(|shard| shard.halted || shard.held()) =>
            {
                Err(Failed::Unreachable)
            }
            Step::Gate if piece == 0 => {
                let side = self.from();
                self.chosen = match world.routed() {
                    None => 1,
                    Some(routed) if routed.side == side => routed.version,
                    Some(routed) => routed.version + 1,
                };
                Ok(())
            }
            Step::Gate if piece == 1 => self.still_ours(world, case),
            Step::Gate => {
                self.publish(piece - 2, Routed { version: self.chosen, side: self.from() }, world)
            }
            Step::Fence => self.fence(piece, world, case),
            Step::Seal if case.without == Without::Seal => Ok(()),
            Step::Seal if piece < 2 * from => self.fence(piece, world, case),
            Step::Seal => match world.any_open(self.from()) {
                true if case.without == Without::EveryFence => Ok(()),
                true => Err(Failed::Unreachable),
                false => Ok(()),
            },
            Step::Drain | Step::Counters => {
                let down = world.side(self.to()).iter().any(|shard| shard.down);
                if down { Err(Failed::Unreachable) } else { Ok(()) }
            }
            Step::Publish if piece == 0 => self.still_ours(world, case),
            Step::Publish => {
                self.published = true;
                let version = self.version.unwrap_or(1);
                self.publish(piece - 1, Routed { version, side: self.to() }, world)
            }
            Step::Open => self.open(piece, world, case),
        };
        if outcome == Err(Failed::Superseded) {
            return Err(Failed::Superseded);
        }
        let pieces = match step {
            Step::Close => to,
            Step::Gate => 2 + world.targets.len(),
            Step::Publish => 1 + world.targets.len(),
            Step::Fence => 2 * from,
            Step::Handover => from + to,
            Step::Seal => 2 * from + 1,
            Step::Drain if case.promotes() => to + 1,
            Step::Split => to,
            Step::Guard => from + to,
            Step::Drain | Step::Counters => 1,
            Step::Open if case.promotes() => {
                // Votes, marks, all that are opened.
                2 * (from + to) + if self.resumed { 2 + world.targets.len() } else { 0 }
            }
            Step::Open => from + 2 * to + if self.resumed { 2 + world.targets.len() } else { 0 },
        };
        let failed = failed || outcome.is_err();
        // Markers on all before the first is opened; targets and closing one after the other.
        let last = if case.promotes() { 2 * (from + to) } else { from + 2 * to };
        let barrier = step == Step::Open
            && (piece + 1 == from || piece + 1 == from + to || piece + 1 >= last);
        let in_order = matches!(step, Step::Gate | Step::Publish | Step::Seal) || barrier;
        match (piece + 1 < pieces, failed) {
            (true, true) if in_order && (step != Step::Seal || piece + 1 == 2 * from) => {
                self.trouble();
            }
            (true, _) => self.at = At::Acting(step, piece + 1, failed),
            (false, true) => self.trouble(),
            (false, false) => self.at = At::Acted(step),
        }
        Ok(())
    }

    pub(super) fn close(
        &self,
        side: Side,
        index: usize,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        self.session(side, index, world, case)?;
        world.shard(side, index).open = false;
        Ok(())
    }

    /// Two pieces a shard: it is closed, then marked.
    fn fence(&mut self, piece: usize, world: &mut World, case: &Case) -> Result<(), Failed> {
        let (side, index) = (self.from(), piece / 2);
        if piece == 0 {
            self.markers = vec![usize::MAX; world.side(side).len()];
        }
        if case.without == Without::EveryFence && index > 0 {
            self.markers[index] = 0;
            return Ok(());
        }
        if piece.is_multiple_of(2) {
            return self.close(side, index, world, case);
        }
        self.session(side, index, world, case)?;
        let shard = world.shard(side, index);
        if shard.open {
            // Its closing failed: no marker.
            return Err(Failed::Unreachable);
        }
        shard.log.push(Event::Marker(Phase::Fenced, self.number));
        self.markers[index] = shard.log.len();
        Ok(())
    }

    pub(super) fn version_to_publish(&self, world: &World, case: &Case) -> u64 {
        match (case.without, self.version) {
            (Without::NewVersion, Some(version)) => version,
            (Without::VersionLeftOut, before) => next_version(world.routed(), before),
            (_, before) => version_to_publish(world.routed(), before),
        }
    }

    fn publish(&self, target: usize, routed: Routed, world: &mut World) -> Result<(), Failed> {
        if target != TABLE && world.target_down {
            return Err(Failed::Unreachable);
        }
        if !world.publish(target, routed) {
            if world.store.owner == self.id && !world.alone {
                world.fault("a target refuses the routing of who owns the run");
            }
            return Err(Failed::Unreachable);
        }
        // Shards that answer have it; on the way forward the others hold up all further targets, but
        // for from-shards once the to-shards are open.
        let mut sides = [Side::Old, Side::New].into_iter();
        let missed = match self.facts.wish {
            Wish::Forward if self.run.journal.stands(Step::Open) => world.any_down(self.to()),
            Wish::Forward => sides.any(|side| world.any_down(side)),
            Wish::Back => sides.all(|side| world.side(side).iter().all(|shard| shard.down)),
        };
        if target == TABLE && missed { Err(Failed::Unreachable) } else { Ok(()) }
    }

    /// Down on the from-shards, up on the to-shards.
    fn hand_over(&self, piece: usize, world: &mut World, case: &Case) -> Result<(), Failed> {
        let from = world.side(self.from()).len();
        if piece >= from {
            self.session(self.to(), piece - from, world, case)?;
            world.shard(self.to(), piece - from).triggers = true;
        } else {
            self.session(self.from(), piece, world, case)?;
            let serving = world.shard(self.from(), piece).phase() == Phase::Serving;
            if serving && case.without != Without::EveryFence {
                // Undone without the journal. (It would hide that a fence is missing.)
                return Err(Failed::Unreachable);
            }
            world.shard(self.from(), piece).triggers = case.without == Without::TakenDown;
        }
        Ok(())
    }

    /// Triggers of the to-shards; one that does not answer keeps them, and takes no rows.
    pub(super) fn take_back(
        &mut self,
        piece: usize,
        failed: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let (side, shards) = (self.to(), world.side(self.to()).len());
        let outcome = self.session(side, piece, world, case);
        match outcome {
            Err(Failed::Superseded) => return Err(Failed::Superseded),
            Ok(()) if case.without != Without::PutUp => {
                world.shard(side, piece).triggers = false;
            }
            _ => {}
        }
        let failed = failed || outcome.is_err();
        self.at = match (piece + 1 < shards, failed) {
            (true, _) => At::Undoing(Step::Handover, piece + 1, failed),
            (false, false) => At::Undone(Step::Handover),
            (false, true) => {
                self.facts.takedown_failed = true;
                At::Back
            }
        };
        Ok(())
    }

    fn serving_marker(&self, side: Side, index: usize, world: &mut World, case: &Case) {
        let shard = world.shard(side, index);
        if shard.phase() == Phase::Fenced && case.without != Without::ServingMarker {
            shard.log.push(Event::Marker(Phase::Serving, self.number));
        }
    }

    /// From-shards are closed again if another process closed them, those that answer; then all
    /// markers, then all openings.
    fn open(&mut self, piece: usize, world: &mut World, case: &Case) -> Result<(), Failed> {
        let (from, to) = (world.side(self.from()).len(), world.side(self.to()).len());
        let side = self.to();
        if piece < from {
            return match self.resumed {
                true => match self.close(self.from(), piece, world, case) {
                    // One that is away is fenced already.
                    Err(Failed::Unreachable) if world.side(self.from())[piece].down => Ok(()),
                    outcome => outcome,
                },
                false => Ok(()),
            };
        }
        if piece >= from + 2 * to {
            return self.publish_again(piece - from - 2 * to, world, case);
        }
        let index = (piece - from) % to;
        self.session(side, index, world, case)?;
        if piece < from + to && world.side(side)[index].barred {
            return Err(Failed::Unreachable);
        }
        if piece < from + to {
            if self.resumed && case.without != Without::RaisedAgain {
                // A process that lost the journal may have taken them down.
                world.shard(side, index).triggers = true;
            }
            self.serving_marker(side, index, world, case);
        } else {
            world.shard(side, index).open = true;
        }
        Ok(())
    }

    /// Of a run that is resumed amid its opening: somebody may be taking the routing back.
    pub(super) fn publish_again(
        &mut self,
        piece: usize,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        if self.published || case.without == Without::PublishedAgain {
            return Ok(());
        }
        match piece {
            0 => {
                self.chosen = self.version_to_publish(world, case);
                Ok(())
            }
            1 => self.still_ours(world, case),
            _ => {
                let routed = Routed { version: self.chosen, side: self.to() };
                self.publish(piece - 2, routed, world)
            }
        }
    }

    /// Does this process own the run, as far as the journal says?
    fn still_ours(&self, world: &World, case: &Case) -> Result<(), Failed> {
        match case.without {
            Without::OwnerOfRouting => Ok(()),
            _ if world.journal_down() => Err(Failed::Unreachable),
            _ if world.store.owner != self.id => Err(Failed::Superseded),
            _ => Ok(()),
        }
    }

    /// `missed`: a shard did not take the routing.
    pub(super) fn publish_back(
        &mut self,
        piece: usize,
        missed: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let ours = self.published || self.published_before;
        if !ours || case.without == Without::TakenBack {
            self.at = At::Undone(Step::Publish);
            return Ok(());
        }
        let version = |routed| match case.without {
            Without::NewerVersion => self.version.unwrap_or(1),
            _ => next_version(routed, self.version),
        };
        let outcome = match piece {
            0 => {
                self.chosen = version(world.routed());
                Ok(())
            }
            1 => match self.still_ours(world, case) {
                Err(Failed::Unreachable) if self.may_lead_back(world) => {
                    self.chosen = version(None);
                    match case.without {
                        Without::LedBack => Err(Failed::Unreachable),
                        _ => Ok(()),
                    }
                }
                outcome => outcome,
            },
            _ => {
                let routed = Routed { version: self.chosen, side: self.from() };
                self.publish(piece - 2, routed, world)
            }
        };
        let down = world.any_down(self.from()) || world.any_down(self.to());
        let missed = missed || piece == 2 + TABLE && down;
        self.at = match outcome {
            Err(Failed::Superseded) => return Err(Failed::Superseded),
            Ok(()) if piece < 1 + world.targets.len() => {
                At::Undoing(Step::Publish, piece + 1, missed)
            }
            Ok(()) if !missed => At::Undone(Step::Publish),
            _ => {
                self.led_astray = piece > 1 || !self.may_lead_back(world);
                self.facts.unpublish_failed = true;
                At::Back
            }
        };
        Ok(())
    }

    /// `holds_a_shard`.
    fn may_lead_back(&self, world: &World) -> bool {
        let mut from = world.side(self.from()).iter();
        from.any(|shard| shard.session == Some(self.id) && !shard.down)
    }

    /// All markers, then all openings; a shard that did not take its marker stays closed.
    pub(super) fn unfence(
        &mut self,
        step: Step,
        piece: usize,
        failed: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<Came, Failed> {
        let side = self.from();
        let shards = world.side(side).len();
        if piece == 2 * shards {
            self.at = match (failed, self.lost) {
                (false, _) => At::Undone(step),
                (true, true) => return Err(Failed::Unreachable),
                (true, false) => At::Undoing(step, 0, false),
            };
            return Ok(Came::On);
        }
        let index = piece % shards;
        if case.promotes() {
            let outcome = self.let_go_in_place(index, piece < shards, world, case);
            if outcome == Err(Failed::Superseded) {
                return Err(Failed::Superseded);
            }
            self.at = At::Undoing(step, piece + 1, failed || outcome.is_err());
            return Ok(Came::On);
        }
        let outcome = self.session(side, index, world, case).map(|()| {
            if piece < shards {
                self.serving_marker(side, index, world, case);
                if case.without != Without::PutBack {
                    world.shard(side, index).triggers = true;
                }
            } else if world.shard(side, index).phase() == Phase::Serving
                || case.without == Without::ServingMarker
            {
                world.shard(side, index).open = true;
            }
        });
        if outcome == Err(Failed::Superseded) {
            return Err(Failed::Superseded);
        }
        self.at = At::Undoing(step, piece + 1, failed || outcome.is_err());
        Ok(Came::On)
    }
}
