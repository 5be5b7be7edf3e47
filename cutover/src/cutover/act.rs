//! What each step does, on all its shards at once; and what undoing it does.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_changelog::stage;

use super::Cutover;
use crate::decide::{Ask, Entry, Opening, Told, next_version, opening, version_to_publish};
use crate::error::CutoverError;
use crate::fence::{self, Phase, Release};
use crate::outside::Outside;
use crate::register::WATCHDOG;
use crate::shard::{self, Shard};
use crate::step::{Direction, Mode, Step};
use crate::{counters, drain};

/// How often the fence is looked at while waiting.
const FENCE_CHECK: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(4);
/// Between two attempts on a shard that does not answer.
const RETRY: Duration = Duration::from_millis(300);

impl<O: Outside> Cutover<O> {
    /// Before anything of a run that another process began.
    pub(super) async fn resume(&mut self) -> Result<(), CutoverError> {
        self.recall().await?;
        if self.register.journal().stands(Step::Open) && !self.register.journal().turned() {
            self.facts.reopened = self.was_undone().await?;
        }
        let watchdog = matches!(self.settings.ask, Ask::Watch(_)).then_some(WATCHDOG);
        self.register.write(Entry::Resumed, watchdog).await?;
        if self.register.journal().pausing() {
            self.paused = Some(Instant::now());
        }
        Ok(())
    }

    /// Opening was journaled. Was it begun in fact, or did that process let the from-shards go,
    /// unable to write that down?
    pub(super) async fn was_undone(&mut self) -> Result<bool, CutoverError> {
        let to = join_all(self.to.iter_mut().map(fence::phase)).await;
        let from = join_all(self.from.iter_mut().map(fence::phase)).await;
        let told = |side: &[Result<Option<Phase>, CutoverError>]| {
            side.iter().map(told).collect::<Vec<Told>>()
        };
        let direction = self.direction();
        match opening(direction, &told(&from), &told(&to)) {
            Opening::Stands => {
                self.absent = told(&from).into_iter().map(|told| told == Told::Silent).collect();
                Ok(false)
            }
            Opening::Undone => Ok(true),
            Opening::BothServe(from, to) => Err(CutoverError::BothServe {
                from: self.from[from].name().to_owned(),
                to: self.to[to].name().to_owned(),
            }),
            Opening::Silent(side, silent) => {
                let (shards, phases) =
                    if side == direction.to() { (&self.to, to) } else { (&self.from, from) };
                Err(cannot_tell(&shards[silent], phases.into_iter().nth(silent)))
            }
        }
    }

    /// What servers were, as far as the journal remembers.
    pub(super) async fn recall(&mut self) -> Result<(), CutoverError> {
        let remembered = self.register.remembered().await?;
        shard::recall(&mut self.from, &remembered);
        shard::recall(&mut self.to, &remembered);
        Ok(())
    }

    pub(super) async fn close(&mut self) -> Result<(), CutoverError> {
        self.find_shared().await?;
        self.remember().await?;
        if self.register.journal().mode() == Mode::StopWrites {
            // Else the gate asks for them, before the fence.
            self.tokens().await?;
        }
        let plan = self.plan.clone();
        for_each(&mut self.to, async |shard| {
            fence::keep_out(shard).await?;
            counters::interleave(&plan, shard).await
        })
        .await
    }

    pub(super) async fn remember(&mut self) -> Result<(), CutoverError> {
        let mut known = Vec::new();
        for shard in self.from.iter_mut().chain(&mut self.to) {
            let was = shard.look().await?;
            let text = |was| serde_json::to_string(&was).unwrap_or_default();
            known.extend(shard.keys().into_iter().zip(was.iter().map(text)));
            shard.was = was;
        }
        self.register.remember(&known).await?;
        // What was known before stays: the servers may be fenced already.
        if !self.settings.dry {
            self.recall().await?;
        }
        Ok(())
    }

    pub(super) async fn gate(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the gate".to_owned();
        for_each(&mut self.from, fence::no_prepared).await?;
        let endpoints = self.plan.old.iter().chain(&self.plan.new);
        let checks = join_all(endpoints.map(shard::writes_through)).await;
        CutoverError::all(checks.into_iter().filter_map(Result::err).collect())?;
        self.hooks().await?;
        let wait = self.settings.gate_wait;
        let closed = match self.outside.gate(self.direction(), wait).await {
            Ok(()) => return self.tokens().await,
            Err(closed) => closed,
        };
        if !self.settings.dry {
            return Err(CutoverError::Gate(closed));
        }
        for reason in closed.reasons {
            self.outside.tell(&format!("-- the gate is closed: {reason}"));
        }
        Ok(())
    }

    /// Every routing target takes what is so anyway: one that does not is found out while nobody
    /// waits, and there is a version to go back to.
    pub(super) async fn hooks(&mut self) -> Result<(), CutoverError> {
        let side = self.direction().from();
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let version = match routed {
            None => 1,
            Some(routed) if routed.side == side => routed.version,
            Some(routed) => routed.version + 1,
        };
        self.still_ours().await?;
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    /// The streams there and back have been started: markers have a row to be written in.
    pub(super) async fn tokens(&mut self) -> Result<(), CutoverError> {
        let back = self.plan.back.enabled || self.direction() == Direction::Rollback;
        let to = if back { self.to.as_mut_slice() } else { &mut [] };
        let mut missing = Vec::new();
        for shard in self.from.iter_mut().chain(to) {
            if fence::phase(shard).await?.is_none() {
                missing.push(CutoverError::NoToken { server: shard.name().to_owned() });
            }
        }
        CutoverError::all(missing)
    }

    pub(super) async fn fence(&mut self) -> Result<(), CutoverError> {
        self.waiting = format!("writers on the {} shards to end", self.direction().from());
        self.mark_all().await
    }

    /// Fences all from-shards and takes down their markers.
    pub(super) async fn mark_all(&mut self) -> Result<(), CutoverError> {
        let run = self.register.name.clone();
        let marked = join_all(self.from.iter_mut().map(|shard| fence::fence(shard, &run))).await;
        let mut errors = Vec::new();
        self.markers.clear();
        for marker in marked {
            match marker {
                Ok(marker) => self.markers.extend(marker),
                Err(error) => errors.push(error),
            }
        }
        self.fence_checked = Some(Instant::now());
        CutoverError::all(errors)
    }

    pub(super) async fn drain(&mut self) -> Result<(), CutoverError> {
        self.await_markers().await?;
        self.waiting = "what was not verified yet".to_owned();
        let run = self.register.name.clone();
        let verified = self.outside.verified(self.direction(), &run).await;
        verified.map_err(CutoverError::Verification)
    }

    /// Until every to-shard has every marker and nothing is parked, with the fence looked after.
    pub(super) async fn await_markers(&mut self) -> Result<(), CutoverError> {
        loop {
            let missing = drain::missing(&mut self.to, &self.markers).await?;
            match missing {
                None => return Ok(()),
                Some(_) if self.settings.dry => return Ok(()),
                Some(what) => self.waiting = what,
            }
            self.keep_fence().await?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Puts the fence up again where a server was started anew, and takes new markers.
    pub(super) async fn keep_fence(&mut self) -> Result<(), CutoverError> {
        if self.fence_checked.is_some_and(|at| at.elapsed() < FENCE_CHECK) {
            return Ok(());
        }
        let held = join_all(self.from.iter_mut().map(fence::holds)).await;
        let held = held.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.fence_checked = Some(Instant::now());
        for (shard, _) in self.from.iter().zip(&held).filter(|(_, held)| !**held) {
            self.outside.tell(&format!("the fence of {} is put up again", shard.name()));
        }
        match held.iter().all(|&held| held) {
            true => Ok(()),
            false => match self.mark_all().await {
                // It is still starting; the next check tries again.
                Err(CutoverError::Server(error)) if error.is_connection_lost() => Ok(()),
                outcome => outcome,
            },
        }
    }

    pub(super) async fn carry_counters(&mut self) -> Result<(), CutoverError> {
        let notes = counters::carry(&self.plan, &mut self.from, &mut self.to).await?;
        for note in notes {
            self.outside.tell(&format!("note: {note}"));
        }
        Ok(())
    }

    pub(super) async fn publish(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the routing targets".to_owned();
        let version = self.published_version().unwrap_or(1);
        let side = self.direction().to();
        self.still_ours().await?;
        self.published = true;
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    pub(super) async fn publish_back(&mut self) -> Result<(), CutoverError> {
        if !self.published && !self.published_before {
            return Ok(()); // nobody came further than the journal
        }
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let published = self.published_version();
        let version = match self.still_ours().await {
            Ok(()) => next_version(routed, published),
            // Cut off from the journal, it takes back no more than its run's own routing, while who
            // takes over has not published yet: that one fences every from-shard before it does,
            // ends this process's connection for that, and leaves this version out.
            Err(CutoverError::JournalLost(_)) if self.holds_a_shard().await => {
                next_version(None, published)
            }
            Err(error) => return Err(error),
        };
        let side = self.direction().from();
        self.outside.publish_back(side, version).await.map_err(CutoverError::Publish)
    }

    /// Asked once it is known what is routed: a process that stood still and was replaced must not
    /// lead clients away from the side that serves by now. If it stands still after this, its
    /// version is lower than that of whoever took over.
    async fn still_ours(&self) -> Result<(), CutoverError> {
        match self.settings.dry {
            true => Ok(()),
            false => self.register.claim().verify().await,
        }
    }

    /// Does a connection to a from-shard stand on which nobody else can have acted since?
    async fn holds_a_shard(&mut self) -> bool {
        let holds =
            async |shard: &mut Shard| shard.primary.is_live() && fence::phase(shard).await.is_ok();
        join_all(self.from.iter_mut().map(holds)).await.contains(&true)
    }

    /// A second marker behind the first: a reader that brings it has seen nothing foreign between.
    pub(super) async fn seal(&mut self) -> Result<(), CutoverError> {
        self.mark_all().await?;
        self.await_markers().await?;
        let held = join_all(self.from.iter_mut().map(fence::holds)).await;
        for (held, shard) in held.into_iter().zip(&self.from) {
            if !held? {
                return Err(CutoverError::Leak { server: shard.name().to_owned() });
            }
        }
        // While this can still turn back: who opens asks nothing more of these shards.
        for_each(&mut self.from, fence::forget_proof).await
    }

    pub(super) async fn open(&mut self) -> Result<(), CutoverError> {
        if self.resumed {
            self.find_shared().await?;
            self.close_again().await?;
        }
        let run = self.register.name.clone();
        // All markers first: shards may have a server in common.
        let back = self.plan.back.enabled || self.direction() == Direction::Rollback;
        if back {
            for_each(&mut self.to, async |shard| serving_marker(shard, &run).await).await?;
        }
        stage::reached("mid_open", 1).await;
        for_each(&mut self.to, async |shard| {
            fence::release(shard, Release::Serve).await?;
            stage::reached("shard_opened", 1).await;
            Ok(())
        })
        .await?;
        if let Some(paused) = self.paused {
            let pause = paused.elapsed();
            self.pause = Some(pause);
            let ms = pause.as_secs_f64() * 1000.0;
            // Writes that were stopped before the copy have waited for that, too.
            let what = match self.register.journal().mode() {
                Mode::Online => "the pause was",
                Mode::StopWrites => "from the gate on it took",
            };
            let to = self.direction().to();
            self.outside.tell(&format!("the {to} shards serve; {what} {ms:.1} ms"));
        }
        if self.resumed && !self.published {
            // A process that lost the journal may have taken its routing back meanwhile. The shards
            // serve already: they do not wait for a target.
            let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
            let version = version_to_publish(routed, self.published_version());
            self.still_ours().await?;
            let side = self.direction().to();
            self.outside.publish_opened(side, version).await.map_err(CutoverError::Publish)?;
        }
        let keys: Vec<String> = self.to.iter().flat_map(Shard::keys).collect();
        self.register.forget(&keys).await
    }

    /// Of a run that is resumed amid its opening: from-shards may have been started again since.
    ///
    /// One that is away holds up nobody. It was fenced, drained and sealed before the opening began,
    /// and no other process can let it go any more: see [`opening`]. What a restart does to its
    /// fence is for the daemons, see [`keep`](crate::keep), and for the next run to mend.
    async fn close_again(&mut self) -> Result<(), CutoverError> {
        self.absent.resize(self.from.len(), false);
        let closed =
            join_all(self.from.iter_mut().zip(&self.absent).map(async |(shard, &absent)| {
                match absent {
                    true => None,
                    false => Some(fence::close(shard).await),
                }
            }))
            .await;
        let mut errors = Vec::new();
        for (index, outcome) in closed.into_iter().enumerate() {
            match outcome {
                Some(Ok(())) => continue,
                Some(Err(error)) if !error.is_away() => errors.push(error),
                Some(Err(_)) | None => {
                    let name = self.from[index].name();
                    self.outside.tell(&format!(
                        "note: {name} does not answer. It was fenced when the opening began; once it \
                         is back, see with modshift status that it still is"
                    ));
                    self.absent[index] = true;
                }
            }
        }
        CutoverError::all(errors)
    }

    /// Each shard for itself, as soon as it answers; those that do not are named in the end.
    pub(super) async fn unfence(&mut self) -> Result<(), CutoverError> {
        let run = self.register.name.clone();
        let deadline = Instant::now() + self.settings.patience;
        let journal_lost = matches!(self.lost, Some(CutoverError::JournalLost(_)));
        let mut waiting: Vec<&mut Shard> = self.from.iter_mut().collect();
        loop {
            let let_go = join_all(waiting.iter_mut().map(|shard| undo_marker(shard, &run))).await;
            let silent: Vec<String> = waiting
                .iter_mut()
                .zip(&let_go)
                .filter(|(_, outcome)| outcome.is_err())
                .map(|(shard, _)| shard.keys()[0].clone())
                .collect();
            let mut still = Vec::new();
            let mut errors = Vec::new();
            let mut free = Vec::new();
            for (shard, outcome) in waiting.into_iter().zip(let_go) {
                // A shard on the same server must have its marker first.
                match outcome {
                    Err(error) => {
                        errors.push(error);
                        still.push(shard);
                    }
                    Ok(()) if silent.contains(&shard.keys()[0]) => still.push(shard),
                    Ok(()) => free.push(shard),
                }
            }
            let released =
                join_all(free.iter_mut().map(|shard| fence::release(shard, Release::Restore)))
                    .await;
            for (shard, outcome) in free.into_iter().zip(released) {
                if let Err(error) = outcome {
                    errors.push(error);
                    still.push(shard);
                } else {
                    self.outside.tell(&format!("{} serves", shard.name()));
                }
            }
            if still.is_empty() {
                break;
            }
            if journal_lost || Instant::now() >= deadline {
                return CutoverError::all(errors);
            }
            waiting = still;
            tokio::time::sleep(RETRY).await;
        }
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

fn told(phase: &Result<Option<Phase>, CutoverError>) -> Told {
    match phase {
        Ok(Some(Phase::Serving)) => Told::Serves,
        Ok(Some(Phase::Fenced) | None) => Told::Fenced,
        Err(_) => Told::Silent,
    }
}

fn cannot_tell(
    shard: &Shard,
    outcome: Option<Result<Option<Phase>, CutoverError>>,
) -> CutoverError {
    let detail = match outcome {
        Some(Err(error)) => error.to_string(),
        _ => String::new(),
    };
    CutoverError::CannotTell { server: shard.name().to_owned(), detail }
}

async fn serving_marker(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    match fence::phase(shard).await? {
        Some(Phase::Serving) => Ok(()),
        _ => fence::mark(shard, Phase::Serving, run).await.map(drop),
    }
}

/// The fence may not have come as far as its marker.
async fn undo_marker(shard: &mut Shard, run: &str) -> Result<(), CutoverError> {
    match fence::phase(shard).await? {
        Some(Phase::Fenced) => fence::mark(shard, Phase::Serving, run).await.map(drop),
        Some(Phase::Serving) | None => Ok(()),
    }
}

/// All at once, every error kept.
async fn for_each(
    shards: &mut [Shard],
    act: impl AsyncFn(&mut Shard) -> Result<(), CutoverError>,
) -> Result<(), CutoverError> {
    let outcomes = join_all(shards.iter_mut().map(|shard| act(shard))).await;
    CutoverError::all(outcomes.into_iter().filter_map(Result::err).collect())
}
