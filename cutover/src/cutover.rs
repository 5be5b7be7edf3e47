//! The cutover itself, and its undoing. A rollback is the same with the sides exchanged.
//!
//! Each step is journaled before it is taken and after. Where a step fails, or would take longer
//! than the pause budget leaves, or the operator interrupts, everything is undone by itself, up to
//! the beginning of `open`; from there on a run only goes forward.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_changelog::stage;
use modshift_proto::Gtid;
use modshift_proto::plan::{AutoIncrement, FenceScope, Plan};
use tokio::sync::watch;

use crate::decide::{Action, Admission, Ask, Budget, End, Entry, Facts, Mark, Stop, Wish, next};
use crate::error::CutoverError;
use crate::fence::{self, Phase, Release};
use crate::outside::Outside;
use crate::register::Register;
use crate::server::Guard;
use crate::shard::{self, Shard};
use crate::step::{Direction, Mode, Step};
use crate::{counters, drain};

/// How much of the budget is kept for undoing: a round to each target and two to each server.
const RESERVE_SHARE: u32 = 4;
/// How often the fence is looked at while waiting.
const FENCE_CHECK: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(4);
/// Between two attempts on a shard that does not answer.
const RETRY: Duration = Duration::from_millis(300);

pub struct Settings {
    pub ask: Ask,
    pub mode: Mode,
    pub dry: bool,
    /// How long to wait for the gate.
    pub gate_wait: Option<Duration>,
    /// How long to go on trying to let go of shards that do not answer.
    pub patience: Duration,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The other side serves.
    Done,
    /// Undone by itself; the cause.
    Undone(Option<CutoverError>),
}

pub struct Cutover<O> {
    plan: Arc<Plan>,
    register: Register,
    facts: Facts,
    from: Vec<Shard>,
    to: Vec<Shard>,
    outside: O,
    interrupt: watch::Receiver<bool>,
    settings: Settings,
    /// Another process began the run.
    resumed: bool,
    /// Since when the application waits, under the budget.
    paused: Option<Instant>,
    /// Index = from-shard.
    markers: Vec<Gtid>,
    fence_checked: Option<Instant>,
    waiting: String,
    timings: Vec<(Step, Duration)>,
    /// How long the application waited.
    pause: Option<Duration>,
    /// The journal's server went away while undoing.
    lost: Option<CutoverError>,
}

impl<O: Outside> Cutover<O> {
    pub async fn take(
        plan: Arc<Plan>,
        settings: Settings,
        outside: O,
        interrupt: watch::Receiver<bool>,
    ) -> Result<Cutover<O>, CutoverError> {
        let journal = shard::login(&plan, plan.new[0].clone());
        let (dry, mode) = (settings.dry, settings.mode);
        let (register, admission) =
            Register::take(&plan.name, journal, settings.ask, mode, dry).await?;
        let guard = match dry {
            true => Guard::Dry,
            false => Guard::Owner(register.claim()),
        };
        let direction = register.run.direction;
        let (resumed, wish) = match admission {
            Admission::Begin => (false, Wish::Forward),
            Admission::Continue(wish) => (true, wish),
        };
        Ok(Cutover {
            from: shard::side(&plan, direction.from(), &guard),
            to: shard::side(&plan, direction.to(), &guard),
            facts: Facts::new(wish),
            plan,
            register,
            outside,
            interrupt,
            settings,
            resumed,
            paused: None,
            markers: Vec::new(),
            fence_checked: None,
            waiting: String::new(),
            timings: Vec::new(),
            pause: None,
            lost: None,
        })
    }

    fn direction(&self) -> Direction {
        self.register.run.direction
    }

    /// To its end, whichever that is.
    pub async fn run(mut self) -> Result<Outcome, CutoverError> {
        let outcome = self.go().await;
        self.show("");
        self.register.release().await;
        outcome
    }

    async fn go(&mut self) -> Result<Outcome, CutoverError> {
        let name = self.register.name.clone();
        let goes = if self.resumed { "goes on" } else { "begins" };
        self.outside.tell(&format!("run {name} {goes}"));
        if self.resumed {
            self.resume().await?;
        }
        let mut cause = None;
        if matches!(next(self.register.journal(), &self.facts), Action::Take(_)) {
            match Box::pin(self.forward()).await {
                Ok(()) => {}
                // Whoever it is answers for the run now.
                Err(error @ CutoverError::Superseded { .. }) => return Err(error),
                Err(error) => {
                    self.outside.tell(&format!("trouble: {error}"));
                    self.facts.trouble = true;
                    cause = Some(error);
                }
            }
        }
        match next(self.register.journal(), &self.facts) {
            Action::End(End::To) => {
                stage::reached("before_end", 1).await;
                self.register.write(Entry::Ended(End::To), self.report().as_deref()).await?;
                Ok(Outcome::Done)
            }
            Action::TurnBack | Action::Undo(_) | Action::End(End::From) => {
                Box::pin(self.back()).await?;
                Ok(Outcome::Undone(cause))
            }
            Action::Stop(Stop::NoReturn) => Err(CutoverError::Unfit {
                server: format!("run {name}"),
                what: "a shard may serve already: --resume finishes it, then roll back".to_owned(),
            }),
            Action::Take(_) | Action::Stop(_) => {
                Err(cause.unwrap_or(CutoverError::Several(vec!["the run is over".to_owned()])))
            }
        }
    }

    /// The whole cutover.
    async fn forward(&mut self) -> Result<(), CutoverError> {
        self.step(Step::Close, Self::close).await?;
        if self.register.journal().mode() == Mode::StopWrites {
            self.step(Step::Fence, Self::fence).await?;
        }
        self.step(Step::Gate, Self::gate).await?;
        self.step(Step::Fence, Self::fence).await?;
        self.step(Step::Drain, Self::drain).await?;
        self.step(Step::Counters, Self::carry_counters).await?;
        self.step(Step::Publish, Self::publish).await?;
        self.step(Step::Seal, Self::seal).await?;
        self.step(Step::Open, Self::open).await
    }

    /// And its undoing.
    async fn back(&mut self) -> Result<(), CutoverError> {
        self.facts.wish = Wish::Back;
        self.turn().await?;
        self.undo(Step::Publish, Self::publish_back).await?;
        self.undo(Step::Fence, Self::unfence).await?;
        self.end_back().await
    }

    /// Takes a step if it is the next one: journal, act within the budget, journal.
    async fn step(
        &mut self,
        step: Step,
        act: impl AsyncFnOnce(&mut Self) -> Result<(), CutoverError>,
    ) -> Result<(), CutoverError> {
        match next(self.register.journal(), &self.facts) {
            Action::Take(due) if due == step => {}
            action => {
                let done = self.register.journal().mark(step) == Mark::Done;
                assert!(done, "{step} is not done, and the next action is {action:?}");
                return Ok(());
            }
        }
        let (before, after) = stages(step);
        let begun = Instant::now();
        if step == Step::Fence && self.register.journal().mode() == Mode::Online {
            self.paused.get_or_insert(begun);
        }
        let detail = self.detail(step).await?;
        self.register.write(Entry::Begun(step), detail.as_deref()).await?;
        self.show(step.name());
        stage::reached(before, 1).await;
        let mut interrupt = self.interrupt.clone();
        let left = self.budget_left();
        self.waiting.clear();
        let outcome = if step == Step::Open {
            // From here on there is only forward, however long it takes.
            Box::pin(act(self)).await
        } else {
            let bounded = async {
                match left {
                    Some(left) => tokio::time::timeout(left, Box::pin(act(self))).await.ok(),
                    None => Some(Box::pin(act(self)).await),
                }
            };
            tokio::select! {
                outcome = bounded => outcome.unwrap_or_else(|| Err(CutoverError::Budget {
                    step,
                    limit_ms: self.budget().limit_ms,
                    waiting: match self.waiting.as_str() {
                        "" => String::new(),
                        what => format!(": {what}"),
                    },
                })),
                () = interrupted(&mut interrupt) => Err(CutoverError::Interrupted { step }),
            }
        };
        self.show("");
        outcome?;
        stage::reached(after, 1).await;
        self.register.write(Entry::Done(step), None).await?;
        self.timings.push((step, begun.elapsed()));
        if self.register.journal().pausing() {
            self.paused.get_or_insert_with(Instant::now);
        }
        if !self.settings.dry {
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            self.outside.tell(&format!("{:<8} {ms:>8.1} ms", step.name()));
        }
        Ok(())
    }

    async fn undo(
        &mut self,
        step: Step,
        act: impl AsyncFnOnce(&mut Self) -> Result<(), CutoverError>,
    ) -> Result<(), CutoverError> {
        if next(self.register.journal(), &self.facts) != Action::Undo(step) {
            return Ok(());
        }
        let (before, after) = undo_stages(step);
        stage::reached(before, 1).await;
        self.show(&format!("undo {step}"));
        let outcome = Box::pin(act(self)).await;
        self.show("");
        match outcome {
            Ok(()) => {}
            Err(error) if step == Step::Publish => {
                // The shards must not wait for a target.
                self.outside.tell(&format!("the routing was not taken back: {error}"));
                self.facts.unpublish_failed = true;
                self.lost.get_or_insert(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        stage::reached(after, 1).await;
        self.note(Entry::Undone(step)).await?;
        self.outside.tell(&format!("{step} undone"));
        Ok(())
    }

    async fn turn(&mut self) -> Result<(), CutoverError> {
        if next(self.register.journal(), &self.facts) == Action::TurnBack {
            stage::reached("before_turn", 1).await;
            self.note(Entry::TurnedBack).await?;
        }
        Ok(())
    }

    async fn end_back(&mut self) -> Result<(), CutoverError> {
        if next(self.register.journal(), &self.facts) == Action::End(End::From) {
            stage::reached("before_end", 1).await;
            self.note(Entry::Ended(End::From)).await?;
        }
        match self.lost.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// On the way back the journal is written if it can be. If not, the shards are let go all the
    /// same, over the connections that stand: nobody else can have acted on those servers, and who
    /// takes over sees by their tokens that they serve.
    async fn note(&mut self, entry: Entry) -> Result<(), CutoverError> {
        match self.register.write(entry, None).await {
            Err(error @ CutoverError::JournalLost(_)) => {
                self.outside.tell(&format!("trouble: {error}"));
                self.register.run.journal.apply(entry);
                self.lost.get_or_insert(error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn budget(&self) -> Budget {
        let limit = self.plan.cutover.budget;
        let ms = |duration: Duration| duration.as_millis() as u64;
        Budget { limit_ms: ms(limit), reserve_ms: ms(limit / RESERVE_SHARE) }
    }

    /// `None`: the budget does not count yet.
    fn budget_left(&self) -> Option<Duration> {
        if self.settings.dry {
            return None;
        }
        let paused = self.paused?.elapsed().as_millis() as u64;
        Some(Duration::from_millis(self.budget().left_ms(paused)))
    }

    /// The script of a dry run: per server, in order.
    fn show(&mut self, title: &str) {
        if !self.settings.dry {
            return;
        }
        let mut lines = Vec::new();
        lines.extend(self.register.take_script().into_iter().map(|sql| format!("journal: {sql};")));
        for shard in self.from.iter_mut().chain(&mut self.to) {
            for server in shard.servers() {
                let script = server.take_script();
                lines.extend(script.into_iter().map(|sql| format!("{}: {sql};", server.name)));
            }
        }
        for line in lines {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            self.outside.tell(&line);
        }
        if !title.is_empty() {
            self.outside.tell(&format!("== {title}"));
        }
    }

    /// What the next process must know of a step that was begun.
    async fn detail(&mut self, step: Step) -> Result<Option<String>, CutoverError> {
        if step != Step::Publish {
            return Ok(None);
        }
        let side = self.direction().to();
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let before = self.published_version();
        let version = match (routed, before) {
            // Begun by the process before, and nothing has been published since.
            (Some(routed), Some(before))
                if routed.version <= before && !routed_other(routed, before, side) =>
            {
                before
            }
            (None, Some(before)) => before,
            (routed, before) => routed.map_or(0, |r| r.version).max(before.unwrap_or(0)) + 1,
        };
        Ok(Some(format!("{{\"version\": {version}}}")))
    }

    fn published_version(&self) -> Option<u64> {
        let detail = self.register.detail.as_deref()?;
        let value: serde_json::Value = serde_json::from_str(detail).ok()?;
        value.get("version")?.as_u64()
    }

    /// What each step took, for the journal.
    fn report(&self) -> Option<String> {
        let ms = |duration: &Duration| duration.as_secs_f64() * 1000.0;
        let steps: serde_json::Map<_, _> =
            self.timings.iter().map(|(step, took)| (step.name().into(), ms(took).into())).collect();
        Some(
            serde_json::json!({ "ms": steps, "pause_ms": self.pause.as_ref().map(ms) }).to_string(),
        )
    }

    /// Before anything of a run that another process began.
    async fn resume(&mut self) -> Result<(), CutoverError> {
        self.recall().await?;
        if self.register.journal().stands(Step::Open) && !self.register.journal().turned() {
            self.facts.reopened = self.was_undone().await?;
        }
        self.register.write(Entry::Resumed, None).await?;
        if self.register.journal().pausing() {
            self.paused = Some(Instant::now());
        }
        Ok(())
    }

    /// Opening was journaled. Was it begun in fact, or did that process let the from-shards go,
    /// unable to write that down?
    async fn was_undone(&mut self) -> Result<bool, CutoverError> {
        let to = join_all(self.to.iter_mut().map(fence::phase)).await;
        let from = join_all(self.from.iter_mut().map(fence::phase)).await;
        let serving =
            |phase: &Result<Option<Phase>, CutoverError>| matches!(phase, Ok(Some(Phase::Serving)));
        let from_serving = from.iter().position(&serving);
        match (from_serving, to.iter().position(&serving)) {
            (Some(from), Some(to)) => Err(CutoverError::BothServe {
                from: self.from[from].name().to_owned(),
                to: self.to[to].name().to_owned(),
            }),
            (Some(_), None) => match to.iter().position(Result::is_err) {
                None => Ok(true),
                Some(silent) => Err(cannot_tell(&self.to[silent], to.into_iter().nth(silent))),
            },
            (None, Some(_)) => Ok(false),
            (None, None) => match from.iter().position(Result::is_err) {
                None => Ok(false),
                Some(silent) => Err(cannot_tell(&self.from[silent], from.into_iter().nth(silent))),
            },
        }
    }

    /// What servers were, as far as the journal remembers.
    async fn recall(&mut self) -> Result<(), CutoverError> {
        let remembered = self.register.remembered().await?;
        shard::recall(&mut self.from, &remembered);
        shard::recall(&mut self.to, &remembered);
        Ok(())
    }

    async fn close(&mut self) -> Result<(), CutoverError> {
        self.find_shared().await?;
        self.remember().await?;
        let plan = self.plan.clone();
        for_each(&mut self.to, async |shard| {
            fence::close(shard).await?;
            counters::interleave(&plan, shard).await
        })
        .await
    }

    /// Servers that hold shards of both sides, whatever names they are reached by.
    async fn find_shared(&mut self) -> Result<(), CutoverError> {
        let sql = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir)";
        let mut places: Vec<(String, String)> = Vec::new();
        let all = self.from.iter_mut().chain(&mut self.to);
        let asked = join_all(all.map(async |shard| {
            let mut found = Vec::new();
            for server in shard.servers() {
                let id: Vec<String> = server.ask("asking which server it is", sql).await?;
                found.push(id.into_iter().next().unwrap_or_default());
            }
            Ok::<_, CutoverError>(found)
        }))
        .await;
        let asked = asked.into_iter().collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> =
            self.from.iter().chain(&self.to).map(|shard| shard.name().to_owned()).collect();
        for (name, ids) in names.iter().zip(&asked) {
            places.extend(ids.iter().map(|id| (name.clone(), id.clone())));
        }
        let (froms, count) = (self.from.len(), names.len());
        let shares = |a: usize, b: usize| asked[a].iter().any(|id| asked[b].contains(id));
        for index in 0..count {
            let is_from = index < froms;
            let others = if is_from { froms..count } else { 0..froms };
            let other = others.clone().find(|&other| shares(index, other));
            let alike = if is_from { 0..froms } else { froms..count };
            let twin = alike.clone().find(|&twin| twin != index && shares(index, twin));
            let shard = match is_from {
                true => &mut self.from[index],
                false => &mut self.to[index - froms],
            };
            let (server, new) = (shard.name().to_owned(), shard.side == crate::step::Side::New);
            let interleaves = self.plan.cutover.auto_increment == AutoIncrement::Interleave;
            if let Some(twin) = other.or(twin).filter(|_| new && interleaves) {
                return Err(CutoverError::SharedOffset { server, other: names[twin].clone() });
            }
            shard.accounts_only = other.is_some() || shard.scope == FenceScope::Accounts;
            if let Some(other) = other {
                let cutover = &self.plan.cutover;
                let apart = !cutover.old_accounts.is_empty()
                    && !cutover.new_accounts.is_empty()
                    && !cutover.old_accounts.iter().any(|a| cutover.new_accounts.contains(a));
                if !apart || !shard.replicas.is_empty() {
                    return Err(CutoverError::SharedServer { server, other: names[other].clone() });
                }
            }
        }
        Ok(())
    }

    async fn remember(&mut self) -> Result<(), CutoverError> {
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

    async fn gate(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the gate".to_owned();
        for_each(&mut self.from, fence::no_prepared).await?;
        let endpoints = self.plan.old.iter().chain(&self.plan.new);
        let checks = join_all(endpoints.map(shard::writes_through)).await;
        CutoverError::all(checks.into_iter().filter_map(Result::err).collect())?;
        self.hooks().await?;
        let wait = self.settings.gate_wait;
        let reasons = match self.outside.gate(self.direction(), wait).await {
            Ok(()) => return self.tokens().await,
            Err(reasons) => reasons,
        };
        if !self.settings.dry {
            return Err(CutoverError::Gate(reasons));
        }
        for reason in reasons {
            self.outside.tell(&format!("-- the gate is closed: {reason}"));
        }
        Ok(())
    }

    /// Every routing target takes what is so anyway: one that does not is found out while nobody
    /// waits, and there is a version to go back to.
    async fn hooks(&mut self) -> Result<(), CutoverError> {
        let side = self.direction().from();
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let version = match routed {
            None => 1,
            Some(routed) if routed.side == side => routed.version,
            Some(routed) => routed.version + 1,
        };
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    /// The streams there and back have been started: markers have a row to be written in.
    async fn tokens(&mut self) -> Result<(), CutoverError> {
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

    async fn fence(&mut self) -> Result<(), CutoverError> {
        self.waiting = format!("writers on the {} shards to end", self.direction().from());
        self.mark_all().await
    }

    /// Fences all from-shards and takes down their markers.
    async fn mark_all(&mut self) -> Result<(), CutoverError> {
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

    async fn drain(&mut self) -> Result<(), CutoverError> {
        self.await_markers().await?;
        self.waiting = "what was not verified yet".to_owned();
        let run = self.register.name.clone();
        let verified = self.outside.verified(self.direction(), &run).await;
        verified.map_err(CutoverError::Verification)
    }

    /// Until every to-shard has every marker and nothing is parked, with the fence looked after.
    async fn await_markers(&mut self) -> Result<(), CutoverError> {
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
    async fn keep_fence(&mut self) -> Result<(), CutoverError> {
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

    async fn carry_counters(&mut self) -> Result<(), CutoverError> {
        let notes = counters::carry(&self.plan, &mut self.from, &mut self.to).await?;
        for note in notes {
            self.outside.tell(&format!("note: {note}"));
        }
        Ok(())
    }

    async fn publish(&mut self) -> Result<(), CutoverError> {
        self.waiting = "the routing targets".to_owned();
        let version = self.published_version().unwrap_or(1);
        let side = self.direction().to();
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    async fn publish_back(&mut self) -> Result<(), CutoverError> {
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let published = self.published_version().unwrap_or(0);
        let version = routed.map_or(0, |routed| routed.version).max(published) + 1;
        let side = self.direction().from();
        self.outside.publish(side, version).await.map_err(CutoverError::Publish)
    }

    /// A second marker behind the first: a reader that brings it has seen nothing foreign between.
    async fn seal(&mut self) -> Result<(), CutoverError> {
        self.mark_all().await?;
        self.await_markers().await?;
        let held = join_all(self.from.iter_mut().map(fence::holds)).await;
        for (held, shard) in held.into_iter().zip(&self.from) {
            if !held? {
                return Err(CutoverError::Leak { server: shard.name().to_owned() });
            }
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), CutoverError> {
        if self.resumed {
            self.find_shared().await?;
            // It may have been started again since.
            for_each(&mut self.from, fence::close).await?;
        }
        let run = self.register.name.clone();
        // All markers first: shards may have a server in common.
        let back = self.plan.back.enabled || self.direction() == Direction::Rollback;
        if back {
            for_each(&mut self.to, async |shard| serving_marker(shard, &run).await).await?;
        }
        stage::reached("mid_open", 1).await;
        for_each(&mut self.to, async |shard| fence::release(shard, Release::Serve).await).await?;
        if let Some(paused) = self.paused {
            let pause = paused.elapsed();
            self.pause = Some(pause);
            let ms = pause.as_secs_f64() * 1000.0;
            self.outside.tell(&format!(
                "the {} shards serve; the pause was {ms:.1} ms",
                self.direction().to()
            ));
        }
        let keys: Vec<String> = self.to.iter().flat_map(Shard::keys).collect();
        self.register.forget(&keys).await
    }

    /// Each shard for itself, as soon as it answers; those that do not are named in the end.
    async fn unfence(&mut self) -> Result<(), CutoverError> {
        let run = self.register.name.clone();
        let deadline = Instant::now() + self.settings.patience;
        let journal_lost = self.lost.is_some();
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

/// Does the version that was journaled name another side by now?
fn routed_other(routed: crate::outside::Routed, before: u64, side: crate::step::Side) -> bool {
    routed.version == before && routed.side != side
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

async fn interrupted(interrupt: &mut watch::Receiver<bool>) {
    if interrupt.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could.
        std::future::pending::<()>().await;
    }
}

/// Before a step is taken, after its begin is journaled; and after it, before its end is.
const fn stages(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Close => ("before_close", "after_close"),
        Step::Gate => ("before_gate", "after_gate"),
        Step::Fence => ("before_fence", "after_fence"),
        Step::Drain => ("before_drain", "after_drain"),
        Step::Counters => ("before_counters", "after_counters"),
        Step::Publish => ("before_publish", "after_publish"),
        Step::Seal => ("before_seal", "after_seal"),
        Step::Open => ("before_open", "after_open"),
    }
}

const fn undo_stages(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Publish => ("before_undo_publish", "after_undo_publish"),
        _ => ("before_undo_fence", "after_undo_fence"),
    }
}
