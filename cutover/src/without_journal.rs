//! Breaking the glass: the from-shards serve again although the journal is lost, by what each shard
//! itself holds.
//!
//! A to-shard is opened only once *every* to-shard has its serving marker. So this bars one first: a
//! mark in its token, written only where that still says fenced, which no opening passes. Then no
//! process that is still somewhere, cut off from here and perhaps in possession of the journal, can
//! ever open one of them for this run, and the from-shards may be let go. Where a to-shard says that
//! it serves, or none can be barred, nothing is touched.
//!
//! The journal, if it comes back, still knows the run: whoever goes on with it finds the from-shards
//! serving, or a to-shard barred, and turns back.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all, join3};
use modshift_mariadb::connect::label;
use modshift_mariadb::{Session, connect};
use modshift_proto::plan::Plan;
use tokio::sync::watch;

use crate::cutover::undo::{lead_back_alone, let_go, take_back};
use crate::error::CutoverError;
use crate::fence::{self, Phase};
use crate::handover::Scope;
use crate::outside::Outside;
use crate::register::newest;
use crate::server::Guard;
use crate::shard::{self, Shard};
use crate::step::Direction;

/// For the journal to answer after all.
const JOURNAL: Duration = Duration::from_secs(5);

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Its phase, and the run that wrote its last marker.
    Marked(Phase, Option<String>),
    /// It has no token.
    Nothing,
    Silent(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error("no {0} shard that answers is fenced: there is nothing to undo")]
    NotFenced(&'static str),
    #[error("{0} is fenced by run {1}, which is no {2}")]
    OtherRun(String, String, Direction),
    #[error("{0} and {1} are fenced by two runs, {2} and {3}")]
    TwoRuns(String, String, String, String),
    #[error("the plan has no way back (back.enabled), so an opening leaves no trace on the shards")]
    NoMarkers,
    #[error("{0} serves: the opening had begun")]
    Serves(String),
    #[error(
        "no {0} shard with a token answers, so nobody can tell whether one of them has been opened: \
         {1}"
    )]
    NoneBarred(&'static str, String),
}

impl Objection {
    pub fn hint(&self, direction: Direction) -> String {
        match self {
            Objection::NotFenced(_) => "modshift status shows who serves".to_owned(),
            Objection::OtherRun(..) | Objection::TwoRuns(..) => {
                "the other direction's --abort --without-journal, or find out who wrote that marker"
                    .to_owned()
            }
            Objection::Serves(_) => format!(
                "bring the server of the journal (new shard 0) back, then modshift {direction} \
                 --resume; both sides would serve otherwise"
            ),
            Objection::NoMarkers => "restore the server of the journal (new shard 0)".to_owned(),
            Objection::NoneBarred(to, _) => {
                format!("bring any {to} shard back, then repeat the command")
            }
        }
    }
}

/// The run to be undone, by what both sides say; index = shard.
pub fn judge(direction: Direction, from: &[Says], to: &[Says]) -> Result<String, Objection> {
    let name = |side: crate::step::Side, index: usize| format!("{side} shard {index}");
    let mut run: Option<(usize, &String)> = None;
    for (index, says) in from.iter().enumerate() {
        let Says::Marked(Phase::Fenced, Some(by)) = says else { continue };
        let at = name(direction.from(), index);
        if !by.starts_with(&format!("{direction}-")) {
            return Err(Objection::OtherRun(at, by.clone(), direction));
        }
        match run {
            Some((other, first)) if first != by => {
                let other = name(direction.from(), other);
                return Err(Objection::TwoRuns(other, at, first.clone(), by.clone()));
            }
            _ => run = run.or(Some((index, by))),
        }
    }
    let Some((_, run)) = run else { return Err(Objection::NotFenced(direction.from().name())) };
    let serves = |says: &Says| matches!(says, Says::Marked(Phase::Serving, _));
    if let Some(index) = to.iter().position(serves) {
        return Err(Objection::Serves(name(direction.to(), index)));
    }
    if !to.iter().any(|says| matches!(says, Says::Marked(..))) {
        let why: Vec<String> = to
            .iter()
            .enumerate()
            .map(|(index, says)| {
                let why = match says {
                    Says::Silent(why) => why.as_str(),
                    Says::Nothing | Says::Marked(..) => "it has no row in modshift_token",
                };
                format!("{}: {why}", name(direction.to(), index))
            })
            .collect();
        return Err(Objection::NoneBarred(direction.to().name(), why.join("; ")));
    }
    Ok(run.clone())
}

/// Undoes the run of this direction. The from-shards that do not answer stay fenced, and are named.
pub async fn abort(
    plan: &Plan,
    direction: Direction,
    outside: &impl Outside,
) -> Result<(), CutoverError> {
    let objected = |objection: Objection| CutoverError::Objected { objection, direction };
    if direction == Direction::Cutover && !plan.back.enabled {
        return Err(objected(Objection::NoMarkers));
    }
    let mut from = shard::side(plan, direction.from(), &Guard::Alone);
    let mut to = shard::side(plan, direction.to(), &Guard::Alone);
    let (from_says, to_says) =
        join(join_all(from.iter_mut().map(says)), join_all(to.iter_mut().map(says))).await;
    let run = judge(direction, &from_says, &to_says).map_err(objected)?;
    journal_is_lost(plan, direction, &run).await?;
    outside.tell(&format!("run {run}, by the markers of the {} shards", direction.from()));

    let barred = join_all(to.iter_mut().map(|shard| fence::bar(shard, &run))).await;
    let mut any = false;
    let mut not = Vec::new();
    for (shard, outcome) in to.iter().zip(barred) {
        match outcome {
            Ok(true) => {
                any = true;
                outside.tell(&format!("{} is barred: this run cannot open it", shard.name()));
            }
            // Marked meanwhile; not opened, if another one is barred.
            Ok(false) => not.push(format!("{} says that it serves", shard.name())),
            Err(error) => not.push(error.to_string()),
        }
    }
    if !any {
        return Err(objected(Objection::NoneBarred(direction.to().name(), not.join("; "))));
    }
    // Those that did not answer are let alone: who goes on with the journal may have got there first.
    let mut silent = Vec::new();
    let mut answering = Vec::new();
    for (shard, says) in from.into_iter().zip(from_says) {
        match says {
            Says::Silent(why) => silent.push(CutoverError::Unfit {
                server: shard.name().to_owned(),
                what: format!("it stays fenced: {why}; repeat the command once it is back"),
            }),
            Says::Marked(..) | Says::Nothing => answering.push(shard),
        }
    }
    let held = watch::Sender::new(false);
    let now = Instant::now();
    let scope = Scope::new(plan, &run);
    let (routed, let_go, lowered) = join3(
        Box::pin(lead_back_alone(outside, direction.from())),
        Box::pin(let_go(&mut answering, scope, now, &held, outside)),
        Box::pin(take_back(&mut to, scope)),
    )
    .await;
    // Each server's row in modshift.fences says what it was.
    let unknown: Vec<&str> =
        answering.iter().filter(|shard| shard.was.is_empty()).map(Shard::name).collect();
    if !unknown.is_empty() {
        outside.tell(&format!(
            "note: what replicated into the servers of {}, and whether events ran there, is known to \
             the lost journal alone: START SLAVE and SET GLOBAL event_scheduler = ON where they are \
             missed; replicas stay in read_only; an account of the plan that was locked before the \
             fence is unlocked now",
            unknown.join(", ")
        ));
    }
    for note in answering.iter_mut().chain(&mut to).flat_map(|shard| shard.primary.take_notes()) {
        outside.tell(&format!("note: {note}"));
    }
    if let Err(error) = lowered {
        outside.tell(&format!(
            "note: triggers that were handed over to the {} shards are still there, and rows wait \
             until the next {direction} takes them down: {error}",
            direction.to()
        ));
    }
    silent.extend([routed, let_go].into_iter().filter_map(Result::err));
    CutoverError::all(silent)
}

async fn says(shard: &mut Shard) -> Says {
    match fence::marked(shard).await {
        Ok(Some((phase, by))) => Says::Marked(phase, by),
        Ok(None) => Says::Nothing,
        Err(error) => Says::Silent(error.to_string()),
    }
}

/// Refused where the journal answers and knows the run: then `--abort` is the way.
async fn journal_is_lost(plan: &Plan, direction: Direction, run: &str) -> Result<(), CutoverError> {
    let endpoint = shard::login(plan, plan.new[0].clone());
    let asking = async {
        let mut conn = connect(&endpoint, Session::Plain).await?;
        newest(&mut conn, &label(&endpoint), &plan.name).await
    };
    match tokio::time::timeout(JOURNAL, asking).await {
        Ok(Ok(Some(found))) if found.name == run => Err(CutoverError::JournalThere { direction }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_open_both_sides_is_undone() {
        let run = || Some("cutover-3-0a".to_owned());
        let fenced = || Says::Marked(Phase::Fenced, run());
        let serves = || Says::Marked(Phase::Serving, run());
        let armed = || Says::Marked(Phase::Fenced, None);
        let silent = || Says::Silent("gone".to_owned());
        let check = |from: &[Says], to: &[Says], expected: Result<&str, &str>| {
            let found = judge(Direction::Cutover, from, to).map_err(|error| error.to_string());
            match (&found, expected) {
                (Ok(run), Ok(expected)) => assert_eq!(run, expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                _ => panic!("{found:?}, expected {expected:?}"),
            }
        };
        check(&[fenced(), fenced()], &[silent(), armed()], Ok("cutover-3-0a"));
        // One that was let go, and one that does not answer.
        check(&[fenced(), serves(), silent()], &[armed()], Ok("cutover-3-0a"));
        check(&[serves(), serves()], &[armed()], Err("no old shard that answers is fenced"));
        check(&[silent(), silent()], &[armed()], Err("no old shard that answers is fenced"));
        check(&[fenced()], &[armed(), serves()], Err("new shard 1 serves"));
        check(&[fenced()], &[silent(), silent()], Err("new shard 1: gone"));
        check(&[fenced()], &[silent(), Says::Nothing], Err("no row in modshift_token"));
        let other = Says::Marked(Phase::Fenced, Some("rollback-2-0b".to_owned()));
        check(&[other], &[armed()], Err("fenced by run rollback-2-0b, which is no cutover"));
        let another = Says::Marked(Phase::Fenced, Some("cutover-1-0c".to_owned()));
        check(&[fenced(), another], &[armed()], Err("fenced by two runs"));
    }
}
