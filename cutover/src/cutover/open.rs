//! Opening: the to-shards serve. From here on there is only forward: what does not succeed is tried
//! again until it does or the process is stopped, and what is missing holds up nothing that does not
//! need it.

use std::time::Duration;

use futures_util::future::join_all;
use modshift_changelog::stage;

use super::Cutover;
use super::drive::interrupted;
use super::shared::Away;
use crate::decide::version_to_publish;
use crate::error::CutoverError;
use crate::fence::{self, Phase, Release};
use crate::handover::{self, Scope};
use crate::outside::Outside;
use crate::shard::Shard;
use crate::step::{Direction, Mode};

const RETRY: Duration = Duration::from_millis(300);

/// How far an opening has come in this process.
struct Opening {
    /// From-shards that were started again are closed again.
    closed: bool,
    /// Triggers are up, whatever another process did to them.
    raised: bool,
    /// Every to-shard has its serving marker.
    marked: bool,
    /// Index = to-shard: its primary takes writes; and its replicas are as they were.
    primaries: Vec<bool>,
    replicas: Vec<bool>,
    told: bool,
    routed: bool,
    /// The events that were handed over are there.
    complete: bool,
}

impl<O: Outside> Cutover<O> {
    pub(super) async fn open(&mut self) -> Result<(), CutoverError> {
        let count = self.to.len();
        let mut opening = Opening {
            closed: !self.resumed,
            raised: !self.resumed,
            marked: false,
            primaries: vec![false; count],
            replicas: vec![false; count],
            told: false,
            complete: false,
            routed: !self.resumed || self.published,
        };
        let mut interrupt = self.interrupt.clone();
        let mut said = String::new();
        loop {
            let errors = self.try_open(&mut opening).await;
            let mut errors = match errors {
                errors if errors.is_empty() => return Ok(()),
                errors => errors,
            };
            if let Some(last) = errors.iter().position(CutoverError::is_final) {
                return Err(errors.swap_remove(last));
            }
            let missing = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            if missing != said {
                let direction = self.direction();
                self.outside.tell(&format!(
                    "not done yet, and tried again until it is: {missing}. This process may be \
                     stopped: modshift {direction} --resume goes on"
                ));
                said = missing;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = interrupted(&mut interrupt) => {
                    return Err(CutoverError::Unopened { direction: self.direction(), missing: said });
                }
            }
        }
    }

    /// Everything that is not done yet and does not need what failed.
    async fn try_open(&mut self, opening: &mut Opening) -> Vec<CutoverError> {
        if !opening.closed {
            let errors = self.close_again().await;
            if !errors.is_empty() {
                return errors;
            }
            opening.closed = true;
        }
        let (plan, run) = (self.plan.clone(), self.register.name.clone());
        let direction = self.direction();
        let scope = Scope::new(&plan, &run);
        if !opening.raised {
            let raised = self.to.iter_mut().map(|shard| handover::put_up_again(scope, shard));
            let errors: Vec<_> =
                join_all(raised).await.into_iter().filter_map(Result::err).collect();
            if !errors.is_empty() {
                return errors;
            }
            opening.raised = true;
        }
        // All markers before anything is opened: shards may have a server in common, and where one
        // is fenced none can have been opened.
        if !opening.marked {
            let unread = !plan.back.enabled && direction == Direction::Cutover;
            let mark = |shard| serving_marker(shard, direction, &run, unread);
            let marked = join_all(self.to.iter_mut().map(mark));
            let errors: Vec<_> = marked.await.into_iter().filter_map(Result::err).collect();
            if !errors.is_empty() {
                return errors;
            }
            opening.marked = true;
        }
        stage::reached("mid_open", 1).await;
        let mut errors = self.release_all(opening).await;
        if !opening.told && !opening.primaries.contains(&false) {
            opening.told = true;
            self.tell_pause();
        }
        if !opening.routed && opening.told {
            // A process that lost the journal may have taken its routing back meanwhile. The shards
            // serve already: they do not wait for a target.
            match self.publish_again().await {
                Ok(()) => opening.routed = true,
                Err(error) => errors.push(error),
            }
        }
        if opening.told && !opening.complete {
            let completed = self.to.iter_mut().map(|shard| handover::complete(scope, shard));
            let failed: Vec<_> =
                join_all(completed).await.into_iter().filter_map(Result::err).collect();
            opening.complete = failed.is_empty();
            errors.extend(failed);
        }
        if errors.is_empty() {
            let released = join_all(self.to.iter_mut().map(fence::released)).await;
            errors.extend(released.into_iter().filter_map(Result::err));
        }
        if errors.is_empty() {
            let keys: Vec<String> = self.to.iter().flat_map(Shard::keys).collect();
            errors.extend(self.register.forget(&keys).await.err());
        }
        errors
    }

    /// Each shard for itself: the primary, then its replicas, of which none holds up another.
    async fn release_all(&mut self, opening: &mut Opening) -> Vec<CutoverError> {
        let progress = opening.primaries.iter_mut().zip(&mut opening.replicas);
        let released =
            join_all(self.to.iter_mut().zip(progress).map(async |(shard, (primary, replicas))| {
                if !*primary {
                    if let Err(error) = fence::release_primary(shard, Release::Serve).await {
                        return vec![error];
                    }
                    *primary = true;
                    stage::reached("shard_opened", 1).await;
                }
                if !*replicas {
                    let errors = fence::release_replicas(shard, Release::Serve).await;
                    *replicas = errors.is_empty();
                    return errors;
                }
                Vec::new()
            }));
        released.await.into_iter().flatten().collect()
    }

    fn tell_pause(&mut self) {
        let Some(paused) = self.paused else { return };
        // Who took the run up has not been at it all the time.
        let since = match self.register.journal().mode() {
            Mode::Online | Mode::Promote => self.register.waits_since.unwrap_or(paused),
            Mode::StopWrites => paused,
        };
        let pause = since.elapsed();
        self.pause = Some(pause);
        let ms = pause.as_secs_f64() * 1000.0;
        // Writes that were stopped before the copy have waited for that, too.
        let what = match self.register.journal().mode() {
            Mode::Online | Mode::Promote => "the pause was",
            Mode::StopWrites => "from the gate on it took",
        };
        let to = self.direction().to();
        let line = format!("the {to} shards serve; {what} {ms:.1} ms");
        self.outside.measured("pause", ms, &line);
    }

    async fn publish_again(&mut self) -> Result<(), CutoverError> {
        let routed = self.outside.routed().await.map_err(CutoverError::Publish)?;
        let version = version_to_publish(routed, self.published_version());
        self.still_ours().await?;
        let side = self.direction().to();
        self.outside.publish_opened(side, version).await.map_err(CutoverError::Publish)
    }

    /// Of a run that is resumed amid its opening: from-shards may have been started again since.
    ///
    /// One that is away holds up nobody. It was fenced, drained and sealed before the opening began,
    /// and no other process can let it go any more: see [`opening`](crate::decide::opening). What a
    /// restart does to its fence is for the daemons, see [`keep`](crate::keep), and for the next run
    /// to mend. A replica that is away holds up nobody either.
    async fn close_again(&mut self) -> Vec<CutoverError> {
        self.absent.resize(self.from.len(), false);
        if let Err(error) = self.find_shared(Away::Passed).await {
            return vec![error];
        }
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
        errors
    }
}

/// Everything that must not touch a shard that serves asks its token. A shard that no reader of the
/// way back has ever read (`unread`) has none yet.
async fn serving_marker(
    shard: &mut Shard,
    direction: Direction,
    run: &str,
    unread: bool,
) -> Result<(), CutoverError> {
    match fence::phase(shard).await? {
        Some(Phase::Serving) => Ok(()),
        None if unread => fence::mark_first(shard, run).await,
        _ => fence::mark_opened(shard, direction, run).await,
    }
}
