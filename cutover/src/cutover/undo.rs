//! Undoing: the routing names the from-shards again, they serve again with their triggers, and the
//! to-shards have none. All at once, each target and each shard for itself: the application waits,
//! and none of them needs another.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, join3};
use modshift_changelog::stage;
use tokio::sync::watch;

use super::Cutover;
use crate::decide::{Action, Entry, Mark, next, next_version};
use crate::error::CutoverError;
use crate::fence::{self, Phase, Release};
use crate::handover::{self, Scope};
use crate::outside::Outside;
use crate::register::Claim;
use crate::shard::Shard;
use crate::step::{Side, Step};

/// Between two attempts on a shard that does not answer.
const RETRY: Duration = Duration::from_millis(300);
/// For triggers of a to-shard to go.
const TAKE_BACK: Duration = Duration::from_secs(10);

/// What is to be undone, and what came of it.
struct Each<T> {
    publish: T,
    handover: T,
    fence: T,
}

type Undone = Each<Option<Result<(), CutoverError>>>;

impl<O: Outside> Cutover<O> {
    pub(super) async fn undo(&mut self) -> Result<(), CutoverError> {
        let publishes = next(self.register.journal(), &self.facts) == Action::Undo(Step::Publish);
        let lowers = self.register.journal().stands(Step::Handover);
        let fences = self.register.journal().stands(Step::Fence);
        if publishes {
            stage::reached("before_undo_publish", 1).await;
            self.show("undo publish");
        }
        if lowers {
            stage::reached("before_undo_handover", 1).await;
            self.show("undo handover");
        }
        if fences {
            stage::reached("before_undo_fence", 1).await;
            self.show("undo fence");
        }
        let due = Each { publish: publishes, handover: lowers, fence: fences };
        let Each { publish: routed, handover: lowered, fence: let_go } = self.undo_all(due).await;
        self.show("");
        match routed {
            None => {}
            Some(Ok(())) => {
                self.note(Entry::Undone(Step::Publish)).await?;
                self.outside.tell("publish undone");
            }
            Some(Err(error @ CutoverError::Superseded { .. })) => return Err(error),
            Some(Err(error)) => {
                self.outside.tell(&format!("the routing was not taken back everywhere: {error}"));
                self.facts.unpublish_failed = true;
                self.lost.get_or_insert(error);
            }
        }
        match lowered {
            None => {}
            Some(Ok(())) => {
                self.note(Entry::Undone(Step::Handover)).await?;
                self.outside.tell("handover undone");
            }
            Some(Err(error @ CutoverError::Superseded { .. })) => return Err(error),
            Some(Err(error)) => {
                self.outside.tell(&format!("triggers were not taken down everywhere: {error}"));
                self.facts.takedown_failed = true;
                self.lost.get_or_insert(error);
            }
        }
        match let_go {
            None => Ok(()),
            Some(let_go) => {
                let_go?;
                // In this order: whoever goes on in between lets go once more, by what is remembered.
                self.note(Entry::Undone(Step::Fence)).await?;
                self.forget().await?;
                self.outside.tell("fence undone");
                Ok(())
            }
        }
    }

    /// What [`close`](Self::close) did to the side that is not to serve after all. It stays closed where
    /// clients may have learned of it meanwhile, and a shard that does not answer holds up nobody.
    pub(super) async fn undo_close(&mut self) {
        if self.settings.dry || self.register.journal().mark(Step::Publish) != Mark::Untouched {
            return;
        }
        let let_in = join_all(self.to.iter_mut().map(fence::let_in)).await;
        for (shard, outcome) in self.to.iter().zip(let_in) {
            if let Err(error) = outcome {
                let name = shard.name();
                self.outside.tell(&format!("note: {name} stays closed as for a cutover: {error}"));
            }
        }
    }

    /// What came of each that was to be undone.
    async fn undo_all(&mut self, due: Each<bool>) -> Undone {
        let Each { publish: publishes, handover: lowers, fence: fences } = due;
        let (side, published) = (self.direction().from(), self.published_version());
        // Else nobody came further than the journal.
        let begun = self.published || self.published_before;
        let (plan, run) = (self.plan.clone(), self.register.name.clone());
        let scope = Scope::new(&plan, &run);
        let claim = (!self.settings.dry).then(|| self.register.claim());
        // No new connection can prove whose run it is.
        let once = matches!(self.lost, Some(CutoverError::JournalLost(_)));
        let deadline = match once {
            true => Instant::now(),
            false => Instant::now() + self.settings.patience,
        };
        let (outside, from, to) = (&self.outside, &mut self.from, &mut self.to);
        let (held, holds) = watch::channel(false);
        let routing = async {
            let outcome = match publishes {
                false => return None,
                true if !begun => Ok(()),
                true => lead_back(outside, claim, side, published, holds).await,
            };
            if outcome.is_ok() {
                stage::reached("after_undo_publish", 1).await;
            }
            Some(outcome)
        };
        let letting_go = async {
            let outcome = match fences {
                true => let_go(from, scope, deadline, &held, outside).await,
                false => {
                    drop(held);
                    return None;
                }
            };
            // Whoever waits for a shard that holds waits no longer.
            drop(held);
            if outcome.is_ok() {
                stage::reached("after_undo_fence", 1).await;
            }
            Some(outcome)
        };
        let lowering = async {
            if !lowers {
                return None;
            }
            let outcome = take_back(to, scope).await;
            if outcome.is_ok() {
                stage::reached("after_undo_handover", 1).await;
            }
            Some(outcome)
        };
        let (publish, handover, fence) =
            join3(Box::pin(routing), Box::pin(lowering), Box::pin(letting_go)).await;
        Each { publish, handover, fence }
    }

    /// What the from-shards' servers were is remembered no longer.
    async fn forget(&mut self) -> Result<(), CutoverError> {
        let keys: Vec<String> = self.from.iter().flat_map(Shard::keys).collect();
        match self.register.forget(&keys).await {
            Err(error @ CutoverError::JournalLost(_)) => {
                self.lost.get_or_insert(error);
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Publishes the from-side, by whoever owns the run.
///
/// One that is cut off from the journal takes back no more than its run's own routing, while who
/// takes over has not published yet: that one fences every from-shard before it does, ends this
/// process's connection for that, and leaves this version out. `holds`: a connection to a from-shard
/// stands on which nobody else can have acted since. Without a claim it is a dry run.
async fn lead_back(
    outside: &impl Outside,
    claim: Option<Claim>,
    side: Side,
    published: Option<u64>,
    mut holds: watch::Receiver<bool>,
) -> Result<(), CutoverError> {
    let routed = outside.routed().await.map_err(CutoverError::Publish)?;
    let ours = match claim {
        Some(claim) => claim.verify().await,
        None => Ok(()),
    };
    let version = match ours {
        Ok(()) => next_version(routed, published),
        Err(error @ CutoverError::JournalLost(_)) => {
            if holds.wait_for(|holds| *holds).await.is_err() {
                return Err(error);
            }
            next_version(None, published)
        }
        Err(error) => return Err(error),
    };
    outside.publish_back(side, version).await.map_err(CutoverError::Publish)
}

/// The same by whoever does without the journal.
pub(crate) async fn lead_back_alone(
    outside: &impl Outside,
    side: Side,
) -> Result<(), CutoverError> {
    let routed = outside.routed().await.map_err(CutoverError::Publish)?;
    let version = next_version(routed, None);
    outside.publish_alone(side, version).await.map_err(CutoverError::Publish)
}

/// Triggers of the to-shards. One that does not answer holds up nobody: its applier takes no rows as
/// long as they are there.
pub(crate) async fn take_back(to: &mut [Shard], scope: Scope<'_>) -> Result<(), CutoverError> {
    let each = to.iter_mut().map(async |shard| {
        let server = shard.name().to_owned();
        let taken = tokio::time::timeout(TAKE_BACK, handover::take_back(scope, shard)).await;
        taken.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", TAKE_BACK.as_secs());
            Err(CutoverError::Unfit { server, what })
        })
    });
    CutoverError::all(join_all(each).await.into_iter().filter_map(Result::err).collect())
}

/// Each shard as soon as it answers; those that do not by the deadline are named.
pub(crate) async fn let_go(
    from: &mut [Shard],
    scope: Scope<'_>,
    deadline: Instant,
    held: &watch::Sender<bool>,
    outside: &impl Outside,
) -> Result<(), CutoverError> {
    let mut servers: Vec<Vec<&mut Shard>> = Vec::new();
    for shard in from {
        let same = |others: &&mut Vec<&mut Shard>| others[0].keys()[0] == shard.keys()[0];
        match servers.iter_mut().find(same) {
            Some(others) => others.push(shard),
            None => servers.push(vec![shard]),
        }
    }
    let each = servers.into_iter().map(|shards| server(shards, scope, deadline, held, outside));
    let mut errors: Vec<CutoverError> = join_all(each).await.into_iter().flatten().collect();
    match errors.iter().position(|error| matches!(error, CutoverError::Superseded { .. })) {
        Some(superseded) => Err(errors.swap_remove(superseded)),
        None => CutoverError::all(errors),
    }
}

/// The shards of one server: all have their markers before the server takes writes.
async fn server(
    mut shards: Vec<&mut Shard>,
    scope: Scope<'_>,
    deadline: Instant,
    held: &watch::Sender<bool>,
    outside: &impl Outside,
) -> Vec<CutoverError> {
    let serves = Mutex::new(BTreeSet::new());
    loop {
        let marked = join_all(shards.iter_mut().map(async |shard| {
            undo_marker(shard, scope.run(), held).await?;
            // Before anyone writes there.
            handover::put_back(scope, shard).await
        }))
        .await;
        let mut errors: Vec<CutoverError> = marked.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            let released =
                join_all(shards.iter_mut().map(|shard| release(shard, &serves, outside))).await;
            let mut still = Vec::new();
            for (shard, failed) in shards.into_iter().zip(released) {
                if !failed.is_empty() {
                    still.push(shard);
                }
                errors.extend(failed);
            }
            shards = still;
        }
        let superseded = errors.iter().any(|e| matches!(e, CutoverError::Superseded { .. }));
        if errors.is_empty() || superseded || Instant::now() >= deadline {
            return errors;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The primary serves before its replicas are asked. `serves`: of which it was said.
async fn release(
    shard: &mut Shard,
    serves: &Mutex<BTreeSet<u16>>,
    outside: &impl Outside,
) -> Vec<CutoverError> {
    if let Err(error) = fence::release_primary(shard, Release::Restore).await {
        return vec![error];
    }
    let first = serves.lock().unwrap_or_else(PoisonError::into_inner).insert(shard.number);
    if first {
        outside.tell(&served(shard));
    }
    let errors = fence::release_replicas(shard, Release::Restore).await;
    match errors.is_empty() {
        true => fence::released(shard).await.err().into_iter().collect(),
        false => errors,
    }
}

/// What can be said of a shard that is as it was before the fence.
fn served(shard: &Shard) -> String {
    let was = shard.was.first();
    let read_only = was.is_some_and(|was| was.read_only && !shard.accounts_only);
    let locked = was.map(|was| was.locked.join(", ")).unwrap_or_default();
    let name = shard.name();
    match (read_only, locked.is_empty()) {
        (false, true) => format!("{name} serves"),
        (true, _) => {
            format!("{name} is as it was before the fence: in read_only, so it takes no writes")
        }
        (false, false) => format!(
            "{name} serves, as it was before the fence: {locked} was locked then, and still is"
        ),
    }
}

/// The fence may not have come as far as its marker.
async fn undo_marker(
    shard: &mut Shard,
    run: &str,
    held: &watch::Sender<bool>,
) -> Result<(), CutoverError> {
    let stood = shard.primary.is_live();
    let phase = fence::phase(shard).await?;
    if stood {
        held.send_replace(true);
    }
    match phase {
        Some(Phase::Fenced) => fence::mark(shard, Phase::Serving, run).await.map(drop),
        Some(Phase::Serving) | None => Ok(()),
    }
}
