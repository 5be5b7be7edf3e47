//! One shard among those whose tokens are written together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use modshift_proto::OldShard;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Progress;
use super::beats::Beats;
use crate::backoff::Backoff;
use crate::error::ReadError;

/// How many tokens' times are remembered; at 10 ms apart, ten seconds.
const TIMES_KEPT: usize = 1024;
/// So long progress that is to be recorded waits for the next token, which takes it along.
const SAVE_WAIT_MAX: Duration = Duration::from_millis(250);

/// Numbers of the newest tokens, and when they were sent to the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Arc<Mutex<VecDeque<(u64, Instant)>>>);

impl Times {
    fn note(&self, number: u64, at: Instant) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.push_back((number, at));
        if times.len() > TIMES_KEPT {
            times.pop_front();
        }
    }

    /// When this token was sent to the server, or the one before it: the log may show a token before
    /// its writer hears that it is in. Errs on the side of too old.
    pub(super) fn at(&self, number: u64) -> Option<Instant> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().rev().find(|(noted, _)| *noted <= number).map(|&(_, at)| at)
    }
}

/// What is asked of the task.
pub(super) enum Request {
    Join(Box<Member>),
    Interval(u64, Duration),
    Save(u64, Save),
}

pub(super) struct Save {
    pub progress: Progress,
    pub asked: Instant,
    /// The reader stops: no beat is waited for.
    pub at_once: bool,
    pub answer: oneshot::Sender<()>,
}

pub(super) struct Member {
    pub id: u64,
    pub shard: OldShard,
    pub schema: String,
    pub epoch: u64,
    pub interval: Duration,
    pub save: Option<Save>,
    /// Its row was locked, or the server refuses it for now.
    pub apart: bool,
    beats: Beats,
    times: Times,
    next: Instant,
    backoff: Backoff,
    /// The reader's end is gone.
    gone: CancellationToken,
    ended: oneshot::Sender<ReadError>,
}

impl Member {
    #[allow(clippy::too_many_arguments, reason = "all that is known of a shard, once")]
    pub(super) fn new(
        id: u64,
        shard: OldShard,
        schema: String,
        epoch: u64,
        heartbeat: Duration,
        times: Times,
        gone: CancellationToken,
        ended: oneshot::Sender<ReadError>,
    ) -> Member {
        Member {
            id,
            shard,
            schema,
            epoch,
            interval: heartbeat,
            save: None,
            apart: false,
            beats: Beats::new(heartbeat),
            times,
            next: Instant::now(),
            backoff: Backoff::default(),
            gone,
            ended,
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !self.gone.is_cancelled()
    }

    /// When its token is to be written.
    pub(super) fn due(&self) -> Instant {
        match &self.save {
            // What cannot be written for now comes when it can.
            Some(_) if self.apart => self.next,
            Some(save) if save.at_once => save.asked,
            Some(save) => self.next.min(save.asked + SAVE_WAIT_MAX),
            None => self.next,
        }
    }

    pub(super) fn quiet(&self, now: Instant) -> bool {
        self.beats.quiet(now, self.interval)
    }

    pub(super) fn set_interval(&mut self, interval: Duration, next: Instant) {
        self.interval = interval;
        self.next = self.next.min(next);
    }

    /// The token of this number is in.
    pub(super) fn written(&mut self, number: u64, sent_at: Instant, quiet: bool) {
        self.times.note(number, sent_at);
        if !quiet {
            self.beats.heard(sent_at);
        }
    }

    /// All that was to be written is in.
    pub(super) fn done(&mut self, next: Instant) {
        self.next = next;
        self.apart = false;
        self.backoff.reset();
        if let Some(save) = self.save.take() {
            // A reader that went away needs no answer.
            let _ = save.answer.send(());
        }
    }

    pub(super) fn set_apart(&mut self) {
        self.apart = true;
        self.next = Instant::now() + self.backoff.next().min(self.interval);
    }

    pub(super) fn end(self, error: ReadError) {
        // A reader that went away does not ask why.
        let _ = self.ended.send(error);
    }
}
