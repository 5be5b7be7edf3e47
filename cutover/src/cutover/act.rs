//! What each step before the opening does, on all its shards at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::Cutover;
use super::shared::Away;
use crate::decide::{Ask, Entry, Opening, Told, opening};
use crate::error::CutoverError;
use crate::fence::{self, Phase};
use crate::outside::Outside;
use crate::register::WATCHDOG;
use crate::shard::{self, Shard};
use crate::step::{Direction, Mode, Side, Step};
use crate::{counters, drain, handover};

/// How often the fence is looked at while waiting.
const FENCE_CHECK: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(4);

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
        let to = join_all(self.to.iter_mut().map(fence::marked)).await;
        let from = join_all(self.from.iter_mut().map(fence::marked)).await;
        let barred = format!("{}{}", self.register.name, fence::BARRED);
        let told = |side: &[Marked]| {
            side.iter().map(|marked| told(marked, &barred)).collect::<Vec<Told>>()
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
        self.find_shared(Away::Missed).await?;
        self.remember(&[Side::Old, Side::New]).await?;
        if self.register.journal().mode() == Mode::StopWrites {
            // Else the gate asks for them, before the fence.
            self.tokens().await?;
        }
        let plan = self.plan.clone();
        let run = self.register.name.clone();
        for_each(&mut self.to, async |shard| {
            fence::unbar(shard, &run).await?;
            fence::keep_out(shard).await?;
            fence::mark_kept_out(shard, &run).await?;
            counters::interleave(&plan, shard).await
        })
        .await?;
        let run = self.register.name.clone();
        let scope = handover::Scope::new(&plan, &run);
        let carried = handover::prepare(scope, &mut self.from, &mut self.to).await?;
        if !carried.is_empty() {
            let line = format!("{} will be handed over", handover::words(&carried));
            self.outside.tell(&line);
        }
        Ok(())
    }

    /// What the servers are before they are closed. A server that a fence keeps closed is in its
    /// row what it was; of any other only now counts, whatever an earlier run has seen there.
    async fn remember(&mut self, sides: &[Side]) -> Result<(), CutoverError> {
        let shards = self.from.iter_mut().chain(&mut self.to);
        let shards = shards.filter(|shard| sides.contains(&shard.side));
        let looks = join_all(shards.map(async |shard| {
            let look = shard.look().await?;
            let text = |was| serde_json::to_string(&was).unwrap_or_default();
            let known: Vec<_> = shard.keys().into_iter().zip(look.was.iter().map(text)).collect();
            shard.was = look.was;
            Ok::<_, CutoverError>((look.fresh, known))
        }))
        .await;
        let (mut fresh, mut kept) = (Vec::new(), Vec::new());
        for look in looks {
            let (is_fresh, known) = look?;
            if is_fresh { fresh.extend(known) } else { kept.extend(known) }
        }
        // Of shards that share a server one may be closed already.
        fresh.retain(|(server, _)| kept.iter().all(|(closed, _)| closed != server));
        self.register.remember(&fresh, &kept).await?;
        // Two shards of one server have one memory.
        if !self.settings.dry {
            self.recall().await?;
        }
        Ok(())
    }

    pub(super) async fn gate(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the gate".to_owned();
        for_each(&mut self.from, fence::no_prepared).await?;
        let side = self.direction().from();
        let lost = |of: Side, number: u16| of == side && self.given_up.contains(&number);
        let olds = (0u16..).zip(&self.plan.old).filter(|(number, _)| !lost(Side::Old, *number));
        let news = (0u16..).zip(&self.plan.new).filter(|(number, _)| !lost(Side::New, *number));
        let endpoints = olds.chain(news).map(|(_, endpoint)| endpoint);
        let checks = join_all(endpoints.map(shard::writes_through)).await;
        CutoverError::all(checks.into_iter().filter_map(Result::err).collect())?;
        self.hooks().await?;
        let wait = self.settings.gate_wait;
        let closed = match self.outside.gate(self.direction(), wait).await {
            Ok(()) => {
                self.tokens().await?;
                // It may have taken hours to open.
                return self.remember(&[side]).await;
            }
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
            Some(routed) if routed.side == side => {
                let standing = self.outside.version_that_stands(routed).await;
                standing.map_err(CutoverError::Publish)?
            }
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
        if self.resumed {
            self.remember(&[self.direction().from()]).await?;
        }
        self.mark_all().await
    }

    /// Fences all from-shards and takes down their markers.
    pub(super) async fn mark_all(&mut self) -> Result<(), CutoverError> {
        let (plan, run) = (self.plan.clone(), self.register.name.clone());
        let scope = handover::Scope::new(&plan, &run);
        let marked = join_all(self.from.iter_mut().map(async |shard| {
            if shard.accounts_only {
                // The event scheduler goes on, for others.
                handover::silence(scope, shard).await?;
            }
            fence::fence(shard, &run).await
        }))
        .await;
        let mut errors = Vec::new();
        self.markers.clear();
        for (shard, marker) in self.from.iter().zip(marked) {
            match marker {
                Ok(marker) => self.markers.extend(marker.map(|gtid| (shard.number, gtid))),
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
        let left = self.budget_left();
        let verified = self.outside.verified(self.direction(), &run, left).await;
        verified.map_err(CutoverError::Verification)
    }

    /// Until every to-shard has every marker and nothing is parked, with the fence looked after.
    pub(super) async fn await_markers(&mut self) -> Result<(), CutoverError> {
        loop {
            let missing = drain::missing(&mut self.to, &self.markers, &self.plan).await?;
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
        CutoverError::all(
            join_all(self.from.iter_mut().map(drain::reader_works))
                .await
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )?;
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

    pub(super) async fn hand_over(&mut self) -> Result<(), CutoverError> {
        self.waiting = "triggers and events to change sides".to_owned();
        let (plan, run) = (self.plan.clone(), self.register.name.clone());
        let scope = handover::Scope::new(&plan, &run);
        handover::hand_over(scope, &mut self.from, &mut self.to).await
    }

    pub(super) async fn publish(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the routing targets".to_owned();
        let version = self.published_version().unwrap_or(1);
        let side = self.direction().to();
        self.still_ours().await?;
        self.published = true;
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    /// Asked once it is known what is routed: a process that stood still and was replaced must not
    /// lead clients away from the side that serves by now. If it stands still after this, its
    /// version is lower than that of whoever took over.
    pub(super) async fn still_ours(&self) -> Result<(), CutoverError> {
        match self.settings.dry {
            true => Ok(()),
            false => self.register.claim().verify().await,
        }
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
}

/// What a shard's token says.
type Marked = Result<Option<(Phase, Option<String>)>, CutoverError>;

fn told(marked: &Marked, barred: &str) -> Told {
    match marked {
        Ok(Some((Phase::Serving, _))) => Told::Serves,
        Ok(Some((Phase::Fenced, Some(by)))) if by == barred => Told::Barred,
        Ok(Some((Phase::Fenced, _)) | None) => Told::Fenced,
        Err(_) => Told::Silent,
    }
}

fn cannot_tell(shard: &Shard, outcome: Option<Marked>) -> CutoverError {
    let detail = match outcome {
        Some(Err(error)) => error.to_string(),
        _ => String::new(),
    };
    CutoverError::CannotTell { server: shard.name().to_owned(), detail }
}

/// All at once, every error kept.
async fn for_each(
    shards: &mut [Shard],
    act: impl AsyncFn(&mut Shard) -> Result<(), CutoverError>,
) -> Result<(), CutoverError> {
    let outcomes = join_all(shards.iter_mut().map(|shard| act(shard))).await;
    CutoverError::all(outcomes.into_iter().filter_map(Result::err).collect())
}
