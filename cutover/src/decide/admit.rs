//! May a command start or continue a run at all?

use super::{Journal, Serving, Wish, serving, waits};
use crate::step::{Direction, Side, Step};

/// A run, as it is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub direction: Direction,
    pub journal: Journal,
}

impl Run {
    /// `None`: between the two.
    pub fn side(&self) -> Option<Side> {
        match serving(&self.journal) {
            Serving::From => Some(self.direction.from()),
            Serving::To => Some(self.direction.to()),
            Serving::Neither | Serving::Opening => None,
        }
    }

    fn unfinished(&self) -> Refusal {
        Refusal::Unfinished(self.direction, self.journal.left())
    }
}

/// How a run that was begun may end yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    Both,
    /// Its opening has begun.
    Forward,
    /// It has turned back.
    Back,
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Start(Direction),
    Resume(Direction),
    Abort(Direction),
    /// Whichever way is left, of a run that is [`due`]: what a daemon asks for.
    Watch(Direction),
    /// To end the way back.
    Finish,
    /// To let applications write to the old shards again when all is over.
    Unfence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// A new run.
    Begin,
    /// The last one, with this wish.
    Continue(Wish),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("a {0} was begun and is not over")]
    Unfinished(Direction, Left),
    #[error("the {0} shards serve already")]
    Serves(Side),
    #[error("no {0} is under way")]
    NothingUnderWay(Direction),
    #[error("the reshard is finished: there is no way back")]
    Finished,
    #[error("the reshard is not finished: both sides would serve")]
    NotFinished,
}

impl Refusal {
    pub fn hint(self) -> String {
        match self {
            Refusal::Unfinished(run, Left::Both) => {
                format!("modshift {run} --resume goes on with it, modshift {run} --abort undoes it")
            }
            Refusal::Unfinished(run, Left::Forward) => format!(
                "the {} shards are being opened, so it can only go on: modshift {run} --resume",
                run.to()
            ),
            Refusal::Unfinished(run, Left::Back) => format!(
                "it has turned back, so it can only be undone: modshift {run} --abort does the rest"
            ),
            Refusal::Serves(_) => "modshift status shows who serves".to_owned(),
            Refusal::NothingUnderWay(run) => format!("modshift {run} begins one"),
            Refusal::Finished => "a further reshard is another plan, of another name".to_owned(),
            Refusal::NotFinished => {
                "modshift rollback makes the old shards serve; modshift finish gives that up"
                    .to_owned()
            }
        }
    }
}

/// `last`: the newest run in the journal.
pub fn admit(last: Option<&Run>, ask: Ask) -> Result<Admission, Refusal> {
    let unfinished = last.filter(|run| run.journal.ended.is_none());
    if last.is_some_and(|run| run.journal.finished) {
        return match ask {
            // A finish that died is finished by another.
            Ask::Unfence | Ask::Finish => Ok(Admission::Begin),
            _ => Err(Refusal::Finished),
        };
    }
    let (direction, wish) = match ask {
        Ask::Start(direction) => {
            if let Some(run) = unfinished {
                return Err(run.unfinished());
            }
            let side = last.and_then(Run::side).unwrap_or(Side::Old);
            return if side == direction.from() {
                Ok(Admission::Begin)
            } else {
                Err(Refusal::Serves(side))
            };
        }
        Ask::Unfence => return Err(Refusal::NotFinished),
        Ask::Finish => {
            return match (unfinished, last.and_then(Run::side).unwrap_or(Side::Old)) {
                (Some(run), _) => Err(run.unfinished()),
                (None, Side::New) => Ok(Admission::Begin),
                (None, Side::Old) => Err(Refusal::Serves(Side::Old)),
            };
        }
        Ask::Resume(direction) => (direction, Wish::Forward),
        Ask::Abort(direction) => (direction, Wish::Back),
        Ask::Watch(direction) => match unfinished {
            Some(run) if !waits(&run.journal) => return Err(Refusal::NothingUnderWay(direction)),
            Some(run) if run.journal.stands(Step::Open) => (direction, Wish::Forward),
            _ => (direction, Wish::Back),
        },
    };
    match unfinished {
        None => Err(Refusal::NothingUnderWay(direction)),
        Some(run) if run.direction != direction => Err(run.unfinished()),
        // A run that has turned back goes on undoing, whatever is wished.
        Some(run) if run.journal.turned => Ok(Admission::Continue(Wish::Back)),
        Some(_) => Ok(Admission::Continue(wish)),
    }
}
