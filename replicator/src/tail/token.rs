//! Token rows in the log: what the newest one of a group says goes to every partition when the
//! group is complete, unless all of them are quiet.
//!
//! Whether a token is sent depends on nothing but the log: a new shard that has applied one must be
//! shown it again by whoever reads that log anew, or it takes the end of the log to be lost.

use modshift_changelog::LogWriter;
use modshift_mariadb::control;
use modshift_proto::message::{Token, TokenPhase};
use modshift_proto::row::{RowError, cell_datetime, cell_uint};
use modshift_proto::{GroupDigest, Gtid};

use super::Tail;
use crate::binlog::{DecodedRow, Event, RowKind, RowsEvent, TableRef, Want};
use crate::error::ReadError;
use crate::publish::Publisher;

/// Columns of `modshift_token` that the tail reads.
#[derive(Clone, Copy, Debug)]
pub struct TokenColumns {
    pub epoch: usize,
    pub writes: usize,
    pub clock: usize,
    pub phase: usize,
    pub fence: usize,
    pub beat: usize,
    pub quiet: usize,
}

/// A token row as the log shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    epoch: u64,
    writes: u64,
    clock_us: i64,
    pub(crate) phase: TokenPhase,
    pub(crate) fence: Option<String>,
    /// A heartbeat, and nothing that anybody waits for.
    beat: bool,
    /// Of these one that is a bound for this reader's chunks, and no more.
    quiet: bool,
}

impl Tail {
    /// What the token's rows in the group in progress say.
    pub(super) fn token_rows(&mut self, rows: RowsEvent<'_>) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let (gtid, mut token) = (group.gtid, group.token.take());
        let changes = self.read_tokens(gtid, rows, &mut token)?;
        if let Some(group) = &mut self.group {
            group.token = token;
            group.changes += changes;
        }
        Ok(())
    }

    /// The token that these events of a group hold, if there is one.
    pub(super) fn token_in<'e>(
        &mut self,
        gtid: Gtid,
        events: impl Iterator<Item = &'e [u8]>,
    ) -> Result<Option<TokenRow>, ReadError> {
        let mut token = None;
        for event in events {
            // Of its table nobody keeps a definition, whatever its id.
            if let Event::Rows(rows) = self.decoder.decode(event)?
                && matches!(rows.table, TableRef::Planned(table) if table == self.token_table)
            {
                self.read_tokens(gtid, rows, &mut token)?;
            }
        }
        Ok(token)
    }

    /// Takes rows of the token's table into `token`. How many there are.
    fn read_tokens(
        &mut self,
        gtid: Gtid,
        mut rows: RowsEvent<'_>,
        token: &mut Option<TokenRow>,
    ) -> Result<u32, ReadError> {
        let kind = rows.kind;
        let columns = self.token_columns;
        let mut count = 0;
        loop {
            let more = rows.read_row(
                self.decoder.layout(self.token_table),
                Want::Keys,
                &mut self.before,
                Want::Row,
                &mut self.after,
            )?;
            if !more {
                return Ok(count);
            }
            count += 1;
            if kind == RowKind::Delete {
                continue; // the operator starts over; the next reader writes a new row
            }
            let mut read = read_token(&self.after, columns).map_err(|source| ReadError::Row {
                shard: self.shard,
                table: control::TOKEN.to_owned(),
                position: gtid.to_string(),
                // A token is never passed over.
                group: None,
                source,
            })?;
            if let Some(had) = &token {
                (read.beat, read.quiet) = (read.beat && had.beat, read.quiet && had.quiet);
            }
            *token = Some(read);
        }
    }

    pub(super) async fn token<W: LogWriter>(
        &mut self,
        token: TokenRow,
        digest: GroupDigest,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        // A token of an earlier epoch says as well what holds from there on.
        if token.phase != self.phase {
            tracing::info!(shard = self.shard.0, gtid = %digest.gtid, phase = token.phase.name(),
                fence = token.fence, "the phase has changed");
            self.phase = token.phase;
            self.undone = false;
        }
        if token.epoch > self.epoch {
            let (shard, ours, theirs) = (self.shard, self.epoch, token.epoch);
            return Err(ReadError::Superseded { shard, ours, theirs });
        }
        if token.epoch == self.epoch {
            self.token_seen = Some(token.writes);
        }
        if token.quiet {
            return Ok(());
        }
        let message = Token {
            gtids: self.history.done().clone(),
            digest,
            writes: token.writes,
            clock_us: token.clock_us,
            copied: self.copied,
            phase: token.phase,
            fence: token.fence,
            beat: token.beat,
        };
        out.token(&message, self.history.resume_point(self.phase)).await?;
        Ok(())
    }
}

pub(crate) fn read_token(row: &DecodedRow, columns: TokenColumns) -> Result<TokenRow, RowError> {
    let missing = || RowError("a column of modshift_token is NULL");
    let uint = |column| cell_uint(row.cell(column).ok_or_else(missing)?);
    let clock = cell_datetime(row.cell(columns.clock).ok_or_else(missing)?)?;
    let fence = row.cell(columns.fence).map(|cell| String::from_utf8_lossy(cell).into_owned());
    let writes = uint(columns.writes)?;
    let beat = uint(columns.beat)? == writes;
    Ok(TokenRow {
        epoch: uint(columns.epoch)?,
        writes,
        beat,
        quiet: beat && uint(columns.quiet)? != 0,
        clock_us: clock.unix_micros(),
        // Members of an ENUM count from 1, in the order of `control::SHARD_TABLES`.
        phase: match uint(columns.phase)? {
            1 => TokenPhase::Serving,
            2 => TokenPhase::Fenced,
            _ => return Err(RowError("modshift_token has an unknown phase")),
        },
        fence: fence.filter(|fence| !fence.is_empty()),
    })
}
