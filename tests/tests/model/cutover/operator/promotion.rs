//! The pieces of a promotion: from-shards that are to-shards as well, and the servers that leave them.

use modshift_cutover::{Opening, Side, Step, Vote, opening_in_place};

use super::super::case::{Case, Without};
use super::super::world::{Event, Link, OPENED, Phase, World};
use super::{At, Came, Failed, Operator};

impl Operator {
    pub(super) fn act_in_place(
        &mut self,
        step: Step,
        piece: usize,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let shards = world.old.len();
        match step {
            Step::Close => self.session(Side::New, piece, world, case),
            // What a process before this one has split is joined again, to be drained once more.
            Step::Drain if piece < shards => {
                self.session(Side::New, piece, world, case)?;
                world.shard(Side::New, piece).link = Link::Joined;
                Ok(())
            }
            Step::Split => {
                self.session(Side::New, piece, world, case)?;
                world.shard(Side::New, piece).link = match case.without {
                    Without::Hold => Link::Stopped,
                    _ => Link::Split,
                };
                Ok(())
            }
            Step::Guard => {
                let (side, index) = of_all(piece, shards);
                self.session(side, index, world, case)?;
                let fenced = Some((Phase::Fenced, self.number));
                if side == Side::Old && world.old[index].marker() != fenced {
                    // Undone without the journal.
                    return Err(Failed::Unreachable);
                }
                world.shard(side, index).guard = case.without != Without::Guard;
                Ok(())
            }
            Step::Seal if case.without == Without::Seal => Ok(()),
            Step::Seal if piece == 2 * shards => self.sealed(world, case),
            Step::Seal if piece.is_multiple_of(2) => {
                self.session(Side::Old, piece / 2, world, case)
            }
            Step::Seal => self.mark_again(piece / 2, Phase::Fenced, world, case),
            Step::Open => self.open_in_place(piece, world, case),
            _ => Ok(()),
        }
    }

    /// Behind the first marker there is nothing but markers, and nobody else has been at any of them.
    fn sealed(&self, world: &World, case: &Case) -> Result<(), Failed> {
        let olds = world.old.iter().zip(&self.markers);
        let foreign = olds.clone().any(|(shard, &marker)| {
            shard.open || !shard.guard || shard.log[marker..].contains(&Event::Write)
        });
        let joined = world.new.iter().any(|shard| shard.link == Link::Joined || !shard.guard);
        let rules = [Without::Guard, Without::EveryFence];
        match (foreign || joined) && !rules.contains(&case.without) {
            true => Err(Failed::Unreachable),
            false => Ok(()),
        }
    }

    /// A marker over that of this run's fence alone.
    fn mark_again(
        &mut self,
        index: usize,
        phase: Phase,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        self.session(Side::Old, index, world, case)?;
        let (number, shard) = (self.number, world.shard(Side::Old, index));
        let run = if phase == Phase::Serving { number | OPENED } else { number };
        match shard.marker() {
            Some(found) if found == (phase, run) && phase == Phase::Serving => return Ok(()),
            Some((Phase::Fenced, by)) if by == number => {}
            _ if case.without == Without::Vote => {}
            _ => return Err(Failed::Unreachable),
        }
        shard.log.push(Event::Marker(phase, run));
        Ok(())
    }

    /// All votes, all marks of those that are promoted, then all are opened.
    fn open_in_place(
        &mut self,
        piece: usize,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let shards = world.old.len();
        if piece < shards {
            return self.mark_again(piece, Phase::Serving, world, case);
        }
        if piece >= 4 * shards {
            return self.publish_again(piece - 4 * shards, world, case);
        }
        // Marks of the new side first, then both sides are opened.
        let (side, index) = match piece < 2 * shards {
            true => (Side::New, piece - shards),
            false => of_all(piece - 2 * shards, shards),
        };
        self.session(side, index, world, case)?;
        let opened = Event::Marker(Phase::Serving, self.number | OPENED);
        let shard = world.shard(side, index);
        match piece < 2 * shards {
            true if shard.log.last() != Some(&opened) => shard.log.push(opened),
            true => {}
            false => shard.open = true,
        }
        Ok(())
    }

    /// What a from-shard says of the run, one after the other.
    pub(super) fn poll(
        &mut self,
        mut votes: Vec<Vote>,
        world: &mut World,
        case: &Case,
    ) -> Result<Came, Failed> {
        let index = votes.len();
        if index < world.old.len() {
            votes.push(match self.session(Side::Old, index, world, case) {
                Err(Failed::Superseded) => return Err(Failed::Superseded),
                Err(Failed::Unreachable) => Vote::Silent,
                Ok(()) => match world.old[index].marker() {
                    Some((Phase::Serving, run)) if run & OPENED != 0 => Vote::Opened,
                    Some((Phase::Serving, _)) => Vote::Undone,
                    Some((Phase::Fenced, _)) | None => Vote::Fenced,
                },
            });
            self.at = At::Polling(votes);
            return Ok(Came::On);
        }
        match opening_in_place(self.run.direction, &votes) {
            Opening::Stands => self.facts.reopened = false,
            Opening::Undone => self.facts.reopened = true,
            Opening::BothServe(..) => world.fault("both sides say that they serve"),
            Opening::Silent(..) => return Err(Failed::Unreachable),
        }
        self.at = At::Resuming;
        Ok(Came::On)
    }

    /// First the vote, then, without its guard, the shard is let go.
    pub(super) fn let_go_in_place(
        &mut self,
        index: usize,
        vote: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        self.session(Side::Old, index, world, case)?;
        let (number, taken_back) = (self.number, self.facts.reopened);
        let shard = world.shard(Side::Old, index);
        let undone = Event::Marker(Phase::Serving, number);
        match (vote, shard.marker()) {
            (true, Some((Phase::Fenced, _))) => shard.log.push(undone),
            // Another one is undone: nothing was opened.
            (true, Some((_, by))) if by & OPENED != 0 && taken_back => shard.log.push(undone),
            (_, Some((_, by))) if by & OPENED != 0 => return Err(Failed::Unreachable),
            (false, Some((Phase::Fenced, _))) => return Err(Failed::Unreachable),
            (true, _) => {}
            (false, _) => {
                shard.guard = false;
                shard.open = true;
            }
        }
        Ok(())
    }

    /// A server replicates again once its primary has been let go.
    pub(super) fn rejoin(
        &mut self,
        piece: usize,
        failed: bool,
        world: &mut World,
        case: &Case,
    ) -> Result<(), Failed> {
        let undone =
            matches!(world.old[piece].marker(), Some((Phase::Serving, by)) if by & OPENED == 0);
        let outcome = match undone || case.without == Without::RejoinAfter {
            true => self.session(Side::New, piece, world, case),
            false => Err(Failed::Unreachable),
        };
        match outcome {
            Err(Failed::Superseded) => return Err(Failed::Superseded),
            Ok(()) => {
                let shard = world.shard(Side::New, piece);
                shard.guard = false;
                shard.link = Link::Joined;
            }
            Err(Failed::Unreachable) => {}
        }
        let failed = failed || outcome.is_err();
        self.at = match (piece + 1 < world.new.len(), failed) {
            (true, _) => At::Undoing(Step::Split, piece + 1, failed),
            (false, false) => At::Undone(Step::Split),
            (false, true) => {
                // Those whose primary is not let go yet are tried once more behind it.
                self.facts.rejoin_failed = !self.run.journal.stands(Step::Fence);
                At::Back
            }
        };
        Ok(())
    }
}

/// Old shards, then new ones.
fn of_all(piece: usize, shards: usize) -> (Side, usize) {
    if piece < shards { (Side::Old, piece) } else { (Side::New, piece - shards) }
}
