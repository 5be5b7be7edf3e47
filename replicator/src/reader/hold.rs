//! A write behind a fence marker: the reader stops in front of it, and looks ahead in the log.
//!
//! If the run that fenced the shard is undone, the shard was authoritative all along and the write
//! is one like any other: it is to reach the other side. An undoing is an UPDATE of the token's row
//! from (fenced, run) to (serving, the same run): the marker says so itself, whatever has happened to
//! this process or to the journal meanwhile. Until it comes the position does not move and nothing is
//! sent, so a run that waits for its markers never gets past such a write. Any other serving marker is
//! that of a run which opens this shard: the other side served in between, and the write is on one side
//! alone. (Where that run has marked the shard as fenced before, it is under another name.)

use std::time::Duration;

use modshift_changelog::LogWriter;
use modshift_mariadb::Session;
use modshift_mariadb::connect::label;
use modshift_mariadb::control;
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::Plan;
use modshift_proto::{Gtid, GtidSet};
use mysql_async::prelude::Queryable;

use super::{BINLOG_HEARTBEAT, FILES_CUT_MAX, Reader};
use crate::backoff::Backoff;
use crate::binlog::{
    BinlogError, DecodedRow, Decoder, Event, EventStream, RowKind, Statement, TableRef, Want,
    read_statement,
};
use crate::error::{Class, ReadError, server_error};
use crate::metrics;
use crate::status::{Phase, ReaderStatus};
use crate::tail::read_token;
use crate::token::{record_halt, within};

/// What the log holds further on.
enum Ahead {
    /// This group undoes the fence.
    Undone(Gtid),
    /// The other side has served since.
    Over,
}

impl<W: LogWriter> Reader<W> {
    /// Returns once the log says that the fence was undone; `error` is the write, which halts where
    /// that can no longer be.
    pub(super) async fn hold(
        &mut self,
        plan: &Plan,
        status: &ReaderStatus,
        error: ReadError,
    ) -> Result<(), ReadError> {
        self.copying.connection_lost();
        self.repairs.connection_lost();
        let mut backoff = Backoff::default();
        let mut said = false;
        loop {
            let ahead = match self.fenced_by_a_run().await {
                Ok(false) => return Err(error),
                Ok(true) => {
                    if !said {
                        self.say_held(plan, status, &error).await;
                        said = true;
                    }
                    self.look_ahead().await
                }
                Err(failed) => Err(failed),
            };
            match ahead {
                Ok(Ahead::Undone(gtid)) => {
                    self.go_on(status, gtid).await;
                    return Ok(());
                }
                Ok(Ahead::Over) => return Err(error),
                Err(failed) if failed.class() == Class::Retry => {
                    metrics::retry(self.shard, "hold");
                    tracing::warn!(shard = self.shard.0, error = %failed, "looking ahead again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// A shard that no run has fenced has never served: nothing there can be undone.
    async fn fenced_by_a_run(&self) -> Result<bool, ReadError> {
        let doing = "asking who fenced it";
        let failed = |error| server_error(&self.primary, doing, error);
        let asking = async {
            let mut conn = modshift_mariadb::connect(&self.primary, Session::Plain).await?;
            let sql = "SELECT fence IS NOT NULL FROM modshift_token WHERE id = 1";
            let fenced: Option<bool> = conn.query_first(sql).await.map_err(failed)?;
            conn.disconnect().await.map_err(failed)?;
            Ok(fenced.unwrap_or(false))
        };
        within(&self.primary, doing, asking).await
    }

    async fn say_held(&self, plan: &Plan, status: &ReaderStatus, error: &ReadError) {
        let (told, hint) = (error.told(plan.direction()), error.hint_for(plan.direction()));
        let hint = hint.unwrap_or_default();
        let text = format!("{told} ({hint})");
        metrics::halt(self.shard, error.reason());
        let reason = error.reason();
        tracing::error!(shard = self.shard.0, reason, error = told, hint, "reader halted");
        status.update(|state| {
            state.phase = Phase::Halted;
            state.halted = Some(text.clone());
        });
        self.record(Some(&text)).await;
    }

    async fn go_on(&mut self, status: &ReaderStatus, gtid: Gtid) {
        tracing::warn!(shard = self.shard.0, undone = %gtid,
            "the fence was undone: what was written behind it is carried over");
        self.tail.follow();
        status.update(|state| {
            state.halted = None;
            state.reconnecting();
        });
        self.record(None).await;
    }

    /// For `status` and the gate. One that is not recorded now is by the next reader.
    async fn record(&self, halted: Option<&str>) {
        let recording = record_halt(&self.primary, self.tail.epoch(), halted);
        let recorded = tokio::time::timeout(Duration::from_secs(10), recording).await;
        if !matches!(recorded, Ok(Ok(()))) {
            tracing::warn!(shard = self.shard.0, ?recorded, "the halt is not recorded");
        }
    }

    /// Reads the markers that follow, until one tells.
    async fn look_ahead(&mut self) -> Result<Ahead, ReadError> {
        self.still_ours().await?;
        // The write and what it is part of will come again, from here.
        let mut start = self.tail.reconnect(Decoder::new(self.planned.clone())?);
        for _ in 0..=FILES_CUT_MAX {
            let mut file = None;
            match self.look_ahead_from(start, &mut file).await {
                // All that is whole in it was looked at; a crash of its server has left it so.
                Err(error) if error.is_cut_file() => match self.next_file(file).await? {
                    Some(next) => start = next,
                    None => return Err(error),
                },
                told => return told,
            }
        }
        let at = label(&self.tailed);
        Err(BinlogError::Ended { at }.into())
    }

    /// The groups before the binlog that follows on this one; `None`: it is the last.
    async fn next_file(&self, file: Option<String>) -> Result<Option<GtidSet>, ReadError> {
        let mut files = self.files().await?.into_iter();
        files.by_ref().find(|name| Some(name) == file.as_ref());
        match files.next() {
            Some(next) => self.beginning(&next).await,
            None => Ok(None),
        }
    }

    /// `file`: what is read at the moment.
    async fn look_ahead_from(
        &mut self,
        start: GtidSet,
        file: &mut Option<String>,
    ) -> Result<Ahead, ReadError> {
        let token = self.planned.iter().filter(|table| table.table.name == control::TOKEN);
        let mut decoder = Decoder::new(token.cloned().collect())?;
        let columns = self.tail.token_columns();
        let alone = self.seat.alone();
        let opening = EventStream::open(&alone, &start, BINLOG_HEARTBEAT);
        let opened = Box::pin(opening).await;
        let mut stream = opened.map_err(|error| self.replica_behind(error, start))?;
        let (mut before, mut after) = (DecodedRow::default(), DecodedRow::default());
        let mut group = None;
        // What the group in progress says, once it is whole.
        let mut told = None;
        let unreadable = |group: Option<Gtid>, source| ReadError::Row {
            shard: self.shard,
            table: control::TOKEN.to_owned(),
            position: group.map(|gtid| gtid.to_string()).unwrap_or_default(),
            group: None,
            source,
        };
        loop {
            let mut rows = match decoder.decode(stream.next().await?)? {
                Event::Gtid(header) => {
                    (group, told) = (Some(header.gtid), None);
                    continue;
                }
                Event::Rotate { file: name, .. } => {
                    *file = Some(name);
                    continue;
                }
                // Amid a group: its server was killed while it wrote it.
                Event::Format { .. } => {
                    told = None;
                    continue;
                }
                Event::Xid => match told.take() {
                    Some(told) => return Ok(told),
                    None => continue,
                },
                Event::Query { sql, lexis, .. } => match read_statement(&sql, lexis) {
                    Statement::Commit => match told.take() {
                        Some(told) => return Ok(told),
                        None => continue,
                    },
                    Statement::Rollback => {
                        told = None;
                        continue;
                    }
                    _ => continue,
                },
                Event::Rows(rows) if matches!(rows.table, TableRef::Planned(_)) => rows,
                _ => continue,
            };
            if rows.kind != RowKind::Update {
                continue;
            }
            loop {
                let layout = decoder.layout(0);
                if !rows.read_row(layout, Want::Row, &mut before, Want::Row, &mut after)? {
                    break;
                }
                let was = read_token(&before, columns).map_err(|e| unreadable(group, e))?;
                let is = read_token(&after, columns).map_err(|e| unreadable(group, e))?;
                if let (TokenPhase::Fenced, TokenPhase::Serving, None) =
                    (was.phase, is.phase, &told)
                {
                    told = Some(match group {
                        Some(gtid) if was.fence.is_some() && was.fence == is.fence => {
                            Ahead::Undone(gtid)
                        }
                        _ => Ahead::Over,
                    });
                }
            }
        }
    }
}
