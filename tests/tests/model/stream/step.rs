//! What each action does to a state, and what must be so after it.

use super::case::Without;
use super::new::{Attempt, Commit, New, covered};
use super::reader::{Reader, Stop, routed_to};
use super::{Action, State, Streams};
use crate::places::merged;
use crate::shared::Shared;

/// Tokens after the end of everything. More than groups that can be lost.
const HEARTBEATS: usize = 8;

impl Streams {
    fn halt(&self, state: &mut State, why: &'static str) {
        state.halted.get_or_insert(why);
    }

    fn stopped(&self, state: &mut State, r: usize, outcome: Result<(), Stop>) {
        match outcome {
            Ok(()) => {}
            Err(Stop::Superseded) => {
                state.readers.remove(r);
            }
            Err(Stop::Halted(why)) => self.halt(state, why),
        }
    }

    fn attempted(&self, state: &mut State, n: usize, a: usize, attempt: Attempt) {
        match attempt {
            Attempt::Open => {}
            Attempt::Committed => self.compare(state, n),
            Attempt::TakenOver => {
                state.new[n].appliers.remove(a);
                if state.new[n].appliers.is_empty() {
                    self.halt(state, "taken_over");
                }
            }
            Attempt::Halted(why) => self.halt(state, why),
        }
    }

    /// Once a source has been copied, a new shard holds exactly what its watermark covers.
    fn compare(&self, state: &mut State, n: usize) {
        let new = &state.new[n];
        for (old, row) in state.old.iter().zip(&new.kept) {
            let Some((_, mark)) = row.as_ref().filter(|(_, mark)| mark.copied) else { continue };
            if state.lost {
                continue; // the log that the watermark speaks of may be gone
            }
            let (groups, partial) = covered(mark);
            let expected = match partial {
                None => routed_to(&old.rows_at(groups, 0), old.shard, n, &self.table),
                // Of its last change this shard may be the one that the row left.
                Some(at) => {
                    let changes = at.ordinal as usize / 2 + 1;
                    routed_to(&old.rows_at(groups, changes), old.shard, n, &self.table)
                }
            };
            if new.of(old.shard).as_ref() != Some(&expected) {
                state.untrue = true;
            }
        }
    }

    /// Everything that was written is where it belongs.
    pub(super) fn whole(&self, state: &State) -> bool {
        let ends: Vec<_> = state.old.iter().map(|old| old.rows_at(old.binlog.len(), 0)).collect();
        let right = |(n, new): (usize, &Shared<New>)| {
            let here = |(old, rows)| routed_to(rows, old, n, &self.table);
            let here: Vec<_> = (0u16..).zip(&ends).map(here).collect();
            let rows_right =
                (0u16..).zip(&here).all(|(old, rows)| new.of(old).as_ref() == Some(rows));
            // Where old shards disagree for good, parked rows are right.
            rows_right && (new.parked.is_empty() || merged(&here).is_none())
        };
        let copied = |new: &Shared<New>| {
            new.kept.iter().all(|row| row.as_ref().is_some_and(|(_, m)| m.copied))
        };
        state.new.iter().enumerate().all(right) && state.new.iter().all(copied)
    }

    /// Applies a partition up to a length, one message after the other.
    fn apply(&self, state: &mut State, n: usize, to: usize) {
        while state.halted.is_none() && state.new[n].appliers[0].read != to {
            if self.gather(state, n, 0, 1) {
                let attempt = state.new[n].commit(0, Commit::Answered, &self.case);
                self.attempted(state, n, 0, attempt);
            }
        }
    }

    fn apply_all(&self, state: &mut State) {
        for n in 0..state.new.len() {
            self.apply(state, n, state.log[n].len());
        }
    }

    /// A token of every reader, and whatever that brings on in its tail.
    fn heartbeat(&self, state: &mut State) {
        for r in (0..state.readers.len()).rev() {
            let count = state.readers.len();
            if state.readers[r].beyond(&state.old[self.old_of(state, r)]) {
                return self.halt(state, "position_gone");
            }
            self.step(state, Action::Token(r, false));
            while state.readers.len() == count && state.halted.is_none() {
                if !state.readers[r].can_read(&state.old[self.old_of(state, r)]) {
                    break;
                }
                self.step(state, Action::Read(r));
            }
        }
    }

    pub(super) fn to_apply(&self, state: &State) -> bool {
        let read = |n: usize| state.new[n].appliers[0].read;
        let unread = (0..state.log.len()).any(|n| read(n) != state.log[n].len());
        !self.case.appliers && !state.drained && (unread || state.lost)
    }

    fn gather(&self, state: &mut State, n: usize, a: usize, count: usize) -> bool {
        let gathered = state.new[n].appliers[a].gather(&state.log[n], count, &self.case);
        if let Err(why) = gathered {
            self.halt(state, why);
        }
        gathered.is_ok()
    }

    pub(super) fn step(&self, state: &mut State, action: Action) {
        let (case, table) = (&self.case, &self.table);
        let successors = self.successors(state);
        if let Action::Read(r) | Action::Enter(r) | Action::OpenChunk(r) | Action::Break(r, _) =
            action
            && self.replaced(state, r)
        {
            state.left.late_steps = state.left.late_steps.saturating_sub(1);
        }
        match action {
            Action::Write(i) => state.old[i].write(case.replica),
            Action::Replicate(i) => state.old[i].shown += 1,
            Action::Failover(i, groups) => {
                state.left.failovers -= 1;
                state.lost = true;
                state.old[i].lose(groups, self.without() != Without::OwnServer);
                for r in 0..state.readers.len() {
                    if self.old_of(state, r) == i {
                        state.readers[r].reconnect(None, case);
                    }
                }
            }
            Action::OpenBehind(i, shown) => {
                state.old[i].shown = shown;
                self.step(state, Action::Open(i));
            }
            Action::Open(i) => {
                if self.newest(state, i).is_some() {
                    state.left.readers -= 1;
                }
                match Reader::open(&mut state.old[i], case) {
                    Ok(mut reader) => {
                        // With one reader at a time nothing can come between.
                        if case.budget.readers == 0 {
                            reader.start(&mut state.log);
                        }
                        // And one that cannot die learns all that there is to learn at once.
                        if case.budget.readers + case.budget.crashes == 0 {
                            for partition in 0..state.log.len() {
                                reader.ack(partition, &state.old[i], case);
                            }
                        }
                        state.readers.push(Shared::new(reader));
                    }
                    Err(Stop::Halted(why)) => self.halt(state, why),
                    Err(Stop::Superseded) => {}
                }
            }
            Action::Crash(r, never_arrive) => {
                state.left.crashes -= 1;
                state.readers.remove(r);
                for (partition, count) in state.log.iter_mut().zip(never_arrive) {
                    let kept = partition.len() - count;
                    partition.truncate(kept);
                }
            }
            Action::Start(r) => state.readers[r].start(&mut state.log),
            Action::Ack(r, partition) => {
                let old = &state.old[usize::from(state.readers[r].shard)];
                state.readers[r].ack(partition, old, case);
            }
            Action::Token(r, _) | Action::Save(r, _) => {
                let old = &mut state.old[usize::from(state.readers[r].shard)];
                let save = matches!(action, Action::Save(..));
                let quiet = matches!(action, Action::Token(_, true) | Action::Save(_, true));
                state.left.quiet -= u8::from(quiet);
                if save && !state.readers[r].wants_save() {
                    state.left.saves -= 1;
                } else if !save && !state.readers[r].wants_token(old, successors) {
                    state.left.tokens = state.left.tokens.saturating_sub(1);
                }
                let outcome = state.readers[r].token(old, save, quiet, case);
                self.stopped(state, r, outcome);
            }
            Action::Read(r) | Action::Break(r, _) => {
                let cut = match action {
                    Action::Break(_, cut) => {
                        state.left.breaks -= 1;
                        Some(cut)
                    }
                    _ => None,
                };
                let old = &state.old[usize::from(state.readers[r].shard)];
                let outcome = state.readers[r].read(old, &mut state.log, table, case, cut);
                self.stopped(state, r, outcome);
            }
            Action::OpenChunk(r) => state.readers[r].open_chunk(case),
            Action::ReadChunk(r, request, lag) => {
                let old = &state.old[usize::from(state.readers[r].shard)];
                state.readers[r].read_chunk(request, old.shown - lag, old, case);
            }
            Action::Enter(r) => {
                if let Some(admission) = state.readers[r].admission(case) {
                    state.readers[r].enter(admission, &mut state.log, table, case);
                }
            }
            Action::Repeat(n, count) => {
                state.left.repeats -= 1;
                let from = state.log[n].len() - count;
                state.log[n].extend_from_within(from..);
            }
            Action::Lose(n, count, applied) => {
                self.apply(state, n, applied);
                state.left.losses -= 1;
                state.lost = true;
                let keep = state.log[n].len() - count;
                state.log[n].truncate(keep);
            }
            Action::TakeOver(n) => {
                state.left.appliers -= 1;
                state.new[n].take_over();
            }
            Action::Gather(n, a, count) => {
                self.gather(state, n, a, count);
            }
            Action::Drain => {
                state.drained = true;
                self.apply_all(state);
                // What was lost may be found out when the log has passed what was applied of it.
                for _ in 0..HEARTBEATS {
                    if state.lost && state.halted.is_none() && !self.whole(state) {
                        self.heartbeat(state);
                        self.apply_all(state);
                    }
                }
            }
            Action::Commit(n, a, commit) => {
                if commit != Commit::Answered {
                    state.left.unanswered -= 1;
                }
                let attempt = state.new[n].commit(a, commit, case);
                self.attempted(state, n, a, attempt);
            }
            Action::Resolve(n, a) => {
                let attempt = state.new[n].resolve(a, case);
                self.attempted(state, n, a, attempt);
            }
        }
    }
}
