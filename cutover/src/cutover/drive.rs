//! Around each step: journal, budget, interruption, the script of a dry run.

use std::time::{Duration, Instant};

use modshift_changelog::stage;
use modshift_mariadb::audit;
use tokio::sync::watch;

use super::Cutover;
use crate::decide::{Action, Budget, End, Entry, Mark, next, version_to_publish};
use crate::error::CutoverError;
use crate::outside::Outside;
use crate::server::Server;
use crate::shard::Shard;
use crate::step::{Mode, Step};

/// How much of the budget is kept for undoing: a round to each target and two to each server.
const RESERVE_SHARE: u32 = 4;
/// For a row of the audit table.
const AUDITING: Duration = Duration::from_secs(10);

impl<O: Outside> Cutover<O> {
    /// Takes a step if it is the next one: journal, act within the budget, journal.
    pub(super) async fn step(
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
        if step == Step::Fence && self.register.journal().mode() != Mode::StopWrites {
            self.paused.get_or_insert(begun);
        }
        let detail = self.detail(step).await?;
        self.register.write(Entry::Begun(step), detail.as_deref()).await?;
        self.show(step.name());
        stage::reached(before, 1).await;
        let mut interrupt = self.interrupt.clone();
        let left = self.budget_left();
        self.waiting.clear();
        for shard in self.from.iter_mut().chain(&mut self.to) {
            shard.waiting.clear();
        }
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
                    waiting: self.waited_for(),
                })),
                () = interrupted(&mut interrupt) => Err(CutoverError::Interrupted { step }),
            }
        };
        self.show("");
        self.tell_notes();
        outcome?;
        stage::reached(after, 1).await;
        match step {
            Step::Open => self.write_forward(Entry::Done(step), None).await?,
            _ => self.register.write(Entry::Done(step), None).await?,
        }
        self.timings.push((step, begun.elapsed()));
        if self.register.journal().pausing() {
            self.paused.get_or_insert_with(Instant::now);
        }
        if !self.settings.dry {
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            let line = format!("{:<8} {ms:>8.1} ms", step.name());
            self.outside.measured(step.name(), ms, &line);
        }
        Ok(())
    }

    /// What was done to sessions of others.
    pub(super) fn tell_notes(&mut self) {
        let shards = self.from.iter_mut().chain(&mut self.to);
        let notes: Vec<String> =
            shards.flat_map(Shard::servers).flat_map(Server::take_notes).collect();
        for note in &notes {
            self.outside.tell(&format!("note: {note}"));
        }
        self.notes.extend(notes);
    }

    /// For `modshift audit`, once nobody waits any more. What happened, happened whether or not it can
    /// be written down.
    pub(super) async fn audit_notes(&mut self) {
        let text = std::mem::take(&mut self.notes).join("; ");
        if text.is_empty() || self.settings.dry {
            return;
        }
        let what = format!("sessions ended by run {}", self.register.name);
        let written = tokio::time::timeout(AUDITING, async {
            audit::begin(&self.plan, &what, &text).await?.finish("done").await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            tracing::warn!(text, "the audit table does not know of it");
        }
    }

    /// Behind the error of a step that was not done in time.
    fn waited_for(&self) -> String {
        let of_shards = self.from.iter().chain(&self.to).map(|shard| shard.waiting.as_str());
        let of_shards: Vec<&str> = of_shards.filter(|what| !what.is_empty()).collect();
        match (of_shards.is_empty(), self.waiting.as_str()) {
            (false, _) => format!(": {}", of_shards.join("; ")),
            (true, "") => String::new(),
            (true, what) => format!(": {what}"),
        }
    }

    /// An entry behind the point of no return: tried until it is written or the process is stopped.
    pub(super) async fn write_forward(
        &mut self,
        entry: Entry,
        detail: Option<&str>,
    ) -> Result<(), CutoverError> {
        let direction = self.direction();
        let mut interrupt = self.interrupt.clone();
        tokio::select! {
            written = self.register.write_however_long(entry, detail) => written,
            () = interrupted(&mut interrupt) => {
                let missing = "the journal could not be written".to_owned();
                Err(CutoverError::Unopened { direction, missing })
            }
        }
    }

    pub(super) async fn turn(&mut self) -> Result<(), CutoverError> {
        if next(self.register.journal(), &self.facts) == Action::TurnBack {
            stage::reached("before_turn", 1).await;
            self.note(Entry::TurnedBack).await?;
        }
        Ok(())
    }

    pub(super) async fn end_back(&mut self) -> Result<(), CutoverError> {
        if next(self.register.journal(), &self.facts) == Action::End(End::From) {
            stage::reached("before_end", 1).await;
            self.undo_close().await;
            self.note(Entry::Ended(End::From)).await?;
        }
        match self.lost.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// On the way back the journal is written if it can be, and later if it cannot. The shards are
    /// let go all the same, over the connections that stand: nobody else can have acted on those
    /// servers, and who takes over sees by their tokens that they serve.
    pub(super) async fn note(&mut self, entry: Entry) -> Result<(), CutoverError> {
        match self.register.write(entry, None).await {
            Err(error @ CutoverError::JournalLost(_)) => {
                self.outside.tell(&format!("trouble: {error}"));
                self.lost.get_or_insert(error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    pub(super) fn budget(&self) -> Budget {
        let limit = self.plan.cutover.budget;
        let ms = |duration: Duration| duration.as_millis() as u64;
        Budget { limit_ms: ms(limit), reserve_ms: ms(limit / RESERVE_SHARE) }
    }

    /// `None`: the budget does not count yet.
    pub(super) fn budget_left(&self) -> Option<Duration> {
        if self.settings.dry {
            return None;
        }
        let paused = self.paused?.elapsed().as_millis() as u64;
        Some(Duration::from_millis(self.budget().left_ms(paused)))
    }

    /// The script of a dry run: per server, in order.
    pub(super) fn show(&mut self, title: &str) {
        if !self.settings.dry {
            return;
        }
        let mut scripts = vec![("journal".to_owned(), self.register.take_script())];
        for shard in self.from.iter_mut().chain(&mut self.to) {
            for server in shard.servers() {
                let script = server.take_script();
                scripts.push((server.name.clone(), script));
            }
        }
        for (server, script) in scripts {
            match script.len() {
                0 => {}
                count if self.settings.summary => {
                    let what = if count == 1 { "statement" } else { "statements" };
                    let step = if self.scripted.is_empty() { title } else { &self.scripted };
                    self.outside.tell(&format!("{step:<8} {server}: {count} {what}"));
                }
                _ => {
                    for sql in script {
                        let line = format!("{server}: {sql};");
                        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                        self.outside.tell(&line);
                    }
                }
            }
        }
        if !title.is_empty() {
            self.scripted = title.to_owned();
            if !self.settings.summary {
                self.outside.tell(&format!("== {title}"));
            }
        }
    }

    /// What the next process must know of a step that was begun.
    pub(super) async fn detail(&mut self, step: Step) -> Result<Option<String>, CutoverError> {
        if step == Step::Close && !self.given_up.is_empty() {
            return Ok(Some(serde_json::json!({ "lost": self.given_up }).to_string()));
        }
        if step != Step::Publish {
            return Ok(None);
        }
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let version = version_to_publish(routed, self.published_version());
        Ok(Some(format!("{{\"version\": {version}}}")))
    }

    pub(super) fn published_version(&self) -> Option<u64> {
        let detail = self.register.detail.as_deref()?;
        let value: serde_json::Value = serde_json::from_str(detail).ok()?;
        value.get("version")?.as_u64()
    }

    /// What each step took, for the journal.
    pub(super) fn report(&self) -> Option<String> {
        let ms = |duration: &Duration| duration.as_secs_f64() * 1000.0;
        let steps: serde_json::Map<_, _> =
            self.timings.iter().map(|(step, took)| (step.name().into(), ms(took).into())).collect();
        Some(
            serde_json::json!({ "ms": steps, "pause_ms": self.pause.as_ref().map(ms) }).to_string(),
        )
    }
}

/// Never while nobody interrupts.
pub(super) async fn interrupted(interrupt: &mut watch::Receiver<bool>) {
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
        Step::Split => ("before_split", "after_split"),
        Step::Counters => ("before_counters", "after_counters"),
        Step::Handover => ("before_handover", "after_handover"),
        Step::Guard => ("before_guard", "after_guard"),
        Step::Publish => ("before_publish", "after_publish"),
        Step::Seal => ("before_seal", "after_seal"),
        Step::Open => ("before_open", "after_open"),
    }
}
