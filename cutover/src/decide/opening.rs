//! Opening was journaled. Was it begun in fact?
//!
//! **In place**, a shard of the from-side is one of the to-side as well, and its token alone says what
//! became of it. A run's fence writes (fenced, RUN) there. From that state, and no other, it goes to
//! (serving, RUN opened) or to (serving, RUN), by one UPDATE that asks for it: so for each run it is
//! told once, as a vote. Two rules make of the votes that never both sides serve, whoever is cut off
//! from whom:
//! - Nothing of the to-side is opened before *every* from-shard has voted "opened".
//! - No from-shard is let go before it has voted "undone" itself, over the connection that lets it go;
//!   nor is a server that was to be promoted from it made a replica again.
//!
//! So one shard that has been let go keeps the whole to-side shut for that run, and needs no other bar.
//! Back to (fenced, RUN) leads only the fence of a process that owns the journal and has not begun its
//! `open`: it takes the connection away from whoever was to let that shard go, closes it again, and all
//! that follows asks for that state anew. Its seal writes its marker only over (fenced, RUN), else it
//! would wipe out the vote of somebody who undoes the run without the journal.

use crate::step::{Direction, Side};

/// What a shard's own token says, to whoever goes on with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Serves,
    Fenced,
    /// A to-shard that this run can no longer open: it was undone without its journal.
    Barred,
    /// It does not answer.
    Silent,
}

/// Was it begun in fact, or did that process let the from-shards go, unable to write that down?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opening {
    /// A to-shard serves, or may be made to: no from-shard does.
    Stands,
    /// The from-shards were let go, and no to-shard was opened: [`Facts::reopened`].
    Undone,
    /// Of the from-shards, and of the to-shards, the first that serves.
    BothServe(usize, usize),
    /// Of this side the first shard without whose answer nobody can tell.
    Silent(Side, usize),
}

/// The from-shards of a cutover are of the old side, those of a rollback of the new one.
///
/// Once a to-shard says that it serves, no from-shard is needed. Its marker was written by a process
/// that had gone on to open: one whose own beginning of `open` was acknowledged, which never turns
/// back; or one that asked here when none of the to-shards served, and needed the answer of every
/// from-shard. Either way a process that might let from-shards go had lost its connection to each of
/// them by then, and gets none again, for the journal has another owner.
pub fn opening(direction: Direction, from: &[Told], to: &[Told]) -> Opening {
    if to.contains(&Told::Barred) {
        // None is opened before all are marked, and that one never is.
        return Opening::Undone;
    }
    let first = |side: &[Told], what| side.iter().position(|&told| told == what);
    match (first(from, Told::Serves), first(to, Told::Serves)) {
        (Some(from), Some(to)) => Opening::BothServe(from, to),
        (Some(_), None) => first(to, Told::Silent)
            .map_or(Opening::Undone, |silent| Opening::Silent(direction.to(), silent)),
        (None, Some(_)) => Opening::Stands,
        (None, None) => first(from, Told::Silent)
            .map_or(Opening::Stands, |silent| Opening::Silent(direction.from(), silent)),
    }
}

/// What the token of a from-shard that is one of the to-side as well says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Fenced, and nothing further.
    Fenced,
    /// By the run, for the to-side.
    Opened,
    /// The run was undone there.
    Undone,
    /// It does not answer.
    Silent,
}

/// The same as [`opening`] for a run whose from-shards are to-shards as well. What else the to-side has
/// is marked only once all of them have voted, so it need not be asked.
///
/// Votes beside an undone one may be taken back: nothing has been opened, and never will be. Where
/// nobody has voted, all must answer: a silent one may have been let go.
pub fn opening_in_place(direction: Direction, votes: &[Vote]) -> Opening {
    let silent = votes.iter().position(|&vote| vote == Vote::Silent);
    match (votes.contains(&Vote::Undone), votes.contains(&Vote::Opened), silent) {
        (true, ..) => Opening::Undone,
        (false, true, _) | (false, false, None) => Opening::Stands,
        (false, false, Some(silent)) => Opening::Silent(direction.from(), silent),
    }
}
