//! Progress that is durable: recorded now and then, to the last when the reader stops, and shown in
//! the status.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use modshift_changelog::{LogError, LogWriter};
use modshift_proto::message::TokenPhase;

use super::Reader;
use crate::metrics;
use crate::status::{Phase, ReaderStatus, TableState};
use crate::token;

/// How long a stopping reader waits for acknowledgements; without them it only replays more.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl<W: LogWriter> Reader<W> {
    /// Has the newest durable progress recorded, at most once per interval.
    pub(super) fn save(&mut self, interval: Duration) {
        if let Some((resume, tables)) = self.publisher.durable() {
            let unsaved = self.unsaved.get_or_insert_with(|| token::Progress {
                resume: resume.clone(),
                tables: Vec::new(),
            });
            unsaved.resume = resume;
            // A later chunk of a table says how far it is; what is written stays small.
            for table in tables {
                unsaved.tables.retain(|had| had.name != table.name);
                unsaved.tables.push(table);
            }
        }
        if let Some(saving) = &mut self.saving
            && saving.now_or_never().is_some()
        {
            self.saving = None;
        }
        if self.saving.is_none() && self.last_save.elapsed() >= interval {
            self.hand_over(interval.is_zero());
        }
    }

    /// `at_once`: nobody waits for the next token, which would take it along.
    fn hand_over(&mut self, at_once: bool) {
        if let Some(progress) = self.unsaved.take() {
            self.last_save = Instant::now();
            match self.tokens.save(progress, at_once) {
                Ok(saving) => self.saving = Some(saving),
                Err(progress) => self.unsaved = Some(progress),
            }
        }
    }

    /// Waits for what is under way to become durable, and records it. Best effort: what is not
    /// recorded is replayed by the next reader.
    pub(super) async fn drain(&mut self) {
        let drained = async {
            self.publisher.flush().await?;
            while !self.publisher.all_durable() {
                self.publisher.acknowledged().await?;
            }
            Ok::<(), LogError>(())
        };
        let outcome = tokio::time::timeout(DRAIN_MAX, drained).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::warn!(shard = self.shard.0, "stopped before all was acknowledged");
        }
        self.save(Duration::ZERO);
        while let Some(saving) = self.saving.take() {
            if !matches!(tokio::time::timeout(DRAIN_MAX, saving).await, Ok(Ok(()))) {
                tracing::warn!(shard = self.shard.0, "stopped before the progress was recorded");
                return;
            }
            self.save(Duration::ZERO);
        }
    }

    pub(super) fn report(&mut self, status: &ReaderStatus, head_age: Option<Duration>) {
        self.tail.report();
        metrics::snapshot_done(self.shard, self.copying.finished());
        if let Some(age) = head_age {
            metrics::head_age(self.shard, age.as_secs_f64());
        }
        let copying = !self.copying.finished();
        status.update(|state| {
            state.waiting.over();
            state.phase = if copying { Phase::Copying } else { Phase::Tailing };
            state.serving = Some(self.tail.phase() == TokenPhase::Serving);
            state.gtids = self.tail.done().to_string();
            state.rows_sent = self.tail.rows_sent;
            state.epoch = self.tail.epoch();
            state.head_age_ms = head_age.map(|age| age.as_millis() as u64);
            state.head = head_age.and_then(|age| Instant::now().checked_sub(age)).or(state.head);
            state.tables = self
                .copying
                .rows()
                .map(|(table, rows_copied, rows_estimated, done)| TableState {
                    table: table.to_owned(),
                    rows_copied,
                    rows_estimated,
                    done,
                })
                .collect();
        });
    }
}
