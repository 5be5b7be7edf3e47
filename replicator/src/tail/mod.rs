//! The tail: binlog events in, changes and tokens out, in log order.
//!
//! Owns everything that moves with the log: the decoder, the history, the group in progress, the
//! phase, the keys touched while tables are being copied. Knows no sockets; the publisher is its
//! only way out.
//!
//! A group whose first row is of `modshift_watermark` was applied by modshift: what it changes came
//! from where it would be sent, and is only counted. While the shard is fenced any other change of
//! a planned table halts, so a token that arrives from there proves that nobody wrote before it.

mod statement;

use std::sync::Arc;

use modshift_changelog::LogWriter;
use modshift_mariadb::control;
use modshift_proto::message::{Change, Op, Token, TokenPhase};
use modshift_proto::row::{RowError, cell_datetime, cell_uint};
use modshift_proto::{GroupDigest, Gtid, GtidSet, OldShard, Position};

use crate::binlog::{
    DecodedRow, Decoder, Event, GroupHash, RowKind, RowsEvent, TableName, TableRef, Want,
};
use crate::epoch::ResumePoint;
use crate::error::{Foreign, ReadError, place as position_text};
use crate::history::{History, Opening, Partial};
use crate::metrics;
use crate::publish::Publisher;
use crate::route::{self, Cells, Image, Moduli, RouteError, Routed, RoutedTable};
use crate::snapshot::Touched;

impl Cells for DecodedRow {
    #[inline]
    fn cell(&self, column: usize) -> Option<&[u8]> {
        DecodedRow::cell(self, column)
    }
}

/// Columns of `modshift_token` that the tail reads.
#[derive(Clone, Copy, Debug)]
pub struct TokenColumns {
    pub epoch: usize,
    pub writes: usize,
    pub clock: usize,
    pub phase: usize,
    pub fence: usize,
}

/// A token row as the log shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TokenRow {
    epoch: u64,
    writes: u64,
    clock_us: i64,
    phase: TokenPhase,
    fence: Option<String>,
}

/// The shard's schema, as the binlog spells it.
struct Schema(String);

impl Schema {
    fn is_watermark(&self, name: &TableName) -> bool {
        name.table == control::WATERMARK.as_bytes() && name.schema == self.0.as_bytes()
    }
}

struct Group {
    gtid: Gtid,
    opening: Opening,
    standalone: bool,
    events: u64,
    /// Row changes as logged so far, planned or not.
    changes: u32,
    hash: GroupHash,
    token: Option<TokenRow>,
    /// Some of its changes were of planned tables, and not modshift's own.
    planned: bool,
    /// Applied by modshift; known from the first row on.
    own: Option<bool>,
}

pub struct Tail {
    shard: OldShard,
    schema: Schema,
    epoch: u64,
    moduli: Moduli,
    tables: Arc<Vec<RoutedTable>>,
    token_table: usize,
    token_columns: TokenColumns,
    decoder: Decoder,
    history: History,
    group: Option<Group>,
    /// As of the last complete group.
    phase: TokenPhase,
    /// By table; present while the table is being copied.
    touched: Vec<Option<Touched>>,
    /// Newest token of this epoch that the log has shown.
    token_seen: Option<u64>,
    /// Every chunk has entered: said by each token from now on.
    pub copied: bool,
    /// Row messages sent so far; for stages and the status.
    pub rows_sent: u64,
    counts: Counts,
    before: DecodedRow,
    after: DecodedRow,
    key_row: Vec<u8>,
    message_key: Vec<u8>,
}

/// Counted here, handed to the metrics now and then: a lookup per row would cost more than the row.
#[derive(Debug, Default)]
struct Counts {
    events: u64,
    bytes: u64,
    own_rows: u64,
    /// By table, operation and partition.
    rows: Vec<u64>,
}

pub struct TailParts {
    pub shard: OldShard,
    pub schema: String,
    pub epoch: u64,
    pub moduli: Moduli,
    pub tables: Arc<Vec<RoutedTable>>,
    pub token_columns: TokenColumns,
    pub decoder: Decoder,
    pub resume: ResumePoint,
}

impl Tail {
    pub fn new(parts: TailParts) -> Tail {
        let partitions = usize::from(parts.moduli.new.get());
        Tail {
            shard: parts.shard,
            schema: Schema(parts.schema),
            epoch: parts.epoch,
            moduli: parts.moduli,
            token_table: parts.tables.len(),
            token_columns: parts.token_columns,
            touched: parts.tables.iter().map(|_| None).collect(),
            counts: Counts {
                rows: vec![0; parts.tables.len() * 2 * partitions],
                ..Counts::default()
            },
            tables: parts.tables,
            decoder: parts.decoder,
            phase: parts.resume.phase,
            history: History::new(parts.shard, parts.resume),
            group: None,
            token_seen: None,
            copied: false,
            rows_sent: 0,
            before: DecodedRow::default(),
            after: DecodedRow::default(),
            key_row: Vec::new(),
            message_key: Vec::new(),
        }
    }

    /// Complete groups.
    pub fn done(&self) -> &GtidSet {
        self.history.done()
    }

    pub fn between_groups(&self) -> bool {
        self.group.is_none()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn phase(&self) -> TokenPhase {
        self.phase
    }

    pub fn token_seen(&self) -> Option<u64> {
        self.token_seen
    }

    /// The connection is gone: where the next one starts. Events before that come again.
    pub fn reconnect(&mut self, decoder: Decoder) -> GtidSet {
        self.decoder = decoder;
        let partial = self.group.take().and_then(|group| match group.opening {
            Opening::Proof => None,
            // Cut before its first event that counts: nothing was sent, nothing can be compared.
            Opening::New { .. } if group.events == 0 => None,
            Opening::New { from_change } => Some(Partial {
                gtid: group.gtid,
                events: group.events,
                checksum: group.hash.value(),
                changes: group.changes.max(from_change),
            }),
        });
        self.history.reconnect(partial).clone()
    }

    /// Remember the keys touched in a table from now on. Needs a token of this epoch to count
    /// from.
    pub fn record(&mut self, table: usize, keys_max: usize) {
        if let Some(seen) = self.token_seen {
            self.touched[table].get_or_insert_with(|| Touched::new(seen, keys_max));
        }
    }

    pub fn touched(&self, table: usize) -> Option<&Touched> {
        self.touched[table].as_ref()
    }

    pub fn touched_mut(&mut self, table: usize) -> Option<&mut Touched> {
        self.touched[table].as_mut()
    }

    pub fn stop_recording(&mut self, table: usize) {
        self.touched[table] = None;
    }

    /// One event of the binlog, as it came.
    pub async fn event<W: LogWriter>(
        &mut self,
        bytes: &[u8],
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        self.counts.events += 1;
        self.counts.bytes += bytes.len() as u64;
        match self.decoder.decode(bytes)? {
            Event::Gtid(header) => {
                if let Some(group) = &self.group {
                    // The server never starts a group inside another.
                    return Err(self.foreign(group.gtid, Foreign::Group(header.gtid)));
                }
                if header.prepared_xa || header.completed_xa {
                    return Err(self.foreign(header.gtid, Foreign::Xa));
                }
                let opening = self.history.open(header.gtid)?;
                self.group = Some(Group {
                    gtid: header.gtid,
                    opening,
                    standalone: header.standalone,
                    events: 0,
                    changes: 0,
                    hash: GroupHash::new(header.gtid),
                    token: None,
                    planned: false,
                    own: None,
                });
                Ok(())
            }
            Event::Rows(rows) => {
                self.rows(rows, out).await?;
                self.compare_cut()
            }
            Event::Query { schema, sql } => self.query(schema, &sql, out).await,
            Event::Xid => {
                if self.group.is_none() {
                    return Err(ReadError::NoGroup { shard: self.shard, what: "a commit" });
                }
                self.close(out).await
            }
            Event::Control(_) | Event::Rotate { .. } => Ok(()),
        }
    }

    async fn rows<W: LogWriter>(
        &mut self,
        mut rows: RowsEvent<'_>,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Some(group) = &mut self.group else {
            return Err(ReadError::NoGroup { shard: self.shard, what: "rows" });
        };
        group.events += 1;
        group.hash.rows(&rows);
        let (planned, watermark) = match &rows.table {
            TableRef::Planned(table) => (Some(*table), false),
            TableRef::Other(name) => (None, self.schema.is_watermark(name)),
        };
        let own = *group.own.get_or_insert(watermark);
        let sent = planned.filter(|&table| !own || table == self.token_table);
        let (Opening::New { from_change }, Some(table)) = (group.opening, sent) else {
            let count = rows.count_rows()?;
            group.changes = group
                .changes
                .checked_add(count)
                .ok_or(ReadError::GroupTooLarge { shard: self.shard, gtid: group.gtid })?;
            return match planned {
                Some(table) if group.opening != Opening::Proof => self.own_rows(table, count),
                _ => Ok(()),
            };
        };
        if table == self.token_table {
            return self.token_rows(rows);
        }
        if self.phase == TokenPhase::Fenced {
            return Err(ReadError::ForeignWrite {
                shard: self.shard,
                gtid: group.gtid,
                table: self.tables[table].schema.name.clone(),
            });
        }
        group.planned = true;
        let kind = rows.kind;
        loop {
            let more = rows.read_row(
                self.decoder.layout(table),
                Want::Keys,
                &mut self.before,
                Want::Row,
                &mut self.after,
            )?;
            if !more {
                return Ok(());
            }
            let Some(group) = &mut self.group else { return Ok(()) };
            let change = group.changes;
            group.changes += 1;
            // Two ordinals per change must fit.
            if change > u32::MAX / 2 - 1 {
                return Err(ReadError::GroupTooLarge { shard: self.shard, gtid: group.gtid });
            }
            if change >= from_change {
                let gtid = group.gtid;
                self.change(table, kind, gtid, change, out).await?;
            }
        }
    }

    /// Rows of a planned table that modshift itself applied here.
    fn own_rows(&mut self, table: usize, count: u32) -> Result<(), ReadError> {
        if self.touched[table].is_some() {
            // A chunk would take what came from the other side back there, over something newer.
            let table = self.tables[table].schema.name.clone();
            return Err(ReadError::CopyWhileApplying { shard: self.shard, table });
        }
        self.counts.own_rows += u64::from(count);
        Ok(())
    }

    /// Routes and sends the logged change whose images are in `before` and `after`.
    #[inline]
    async fn change<W: LogWriter>(
        &mut self,
        table: usize,
        kind: RowKind,
        gtid: Gtid,
        change: u32,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let routed_table = &self.tables[table];
        let has_before = kind != RowKind::Insert;
        let has_after = kind != RowKind::Delete;
        let place = |row: &DecodedRow| route::place(routed_table, self.moduli, row);
        let before = has_before.then(|| place(&self.before)).transpose();
        let after = has_after.then(|| place(&self.after)).transpose();
        let at = |ordinal| Position { gtid, ordinal };
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(error), _) | (_, Err(error)) => {
                return Err(self.route_error(table, at(change * 2), error));
            }
        };
        let same_key = !(has_before && has_after)
            || routed_table
                .schema
                .primary_key
                .iter()
                .all(|&column| self.before.cell(column) == self.after.cell(column));
        if let (Some(touched), Some(seen)) = (&mut self.touched[table], self.token_seen) {
            let images =
                [(has_before, &self.before), (has_after && !(has_before && same_key), &self.after)];
            for (_, row) in images.into_iter().filter(|(wanted, _)| *wanted) {
                self.key_row.clear();
                route::write_key_row(&routed_table.schema, row, &mut self.key_row);
                touched.touch(&self.key_row, seen);
            }
        }
        let (first, second) = route::route(before, after, same_key);
        for routed in [first, second].into_iter().flatten() {
            self.send(table, routed, at(change * 2 + routed.half), out).await?;
        }
        Ok(())
    }

    #[inline]
    async fn send<W: LogWriter>(
        &mut self,
        table: usize,
        routed: Routed,
        position: Position,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let routed_table = &self.tables[table];
        let image = match routed.image {
            Image::Before => &self.before,
            Image::After => &self.after,
        };
        self.message_key.clear();
        route::write_message_key(routed_table, image, &mut self.message_key);
        let row = match routed.op {
            Op::Upsert => image.wire(),
            Op::Delete => {
                self.key_row.clear();
                route::write_key_row(&routed_table.schema, image, &mut self.key_row);
                &self.key_row
            }
        };
        let change = Change {
            table: table as u32,
            fingerprint: routed_table.fingerprint,
            position: Some(position),
            op: routed.op,
            row,
        };
        out.change(routed.to, &self.message_key, &change).await?;
        self.rows_sent += 1;
        self.count(table, routed);
        Ok(())
    }

    fn count(&mut self, table: usize, routed: Routed) {
        let partitions = usize::from(self.moduli.new.get());
        let op = usize::from(routed.op == Op::Delete);
        let base = (table * 2 + op) * partitions;
        match routed.to {
            route::Place::One(to) => self.counts.rows[base + usize::from(to.0)] += 1,
            route::Place::All => {
                for count in &mut self.counts.rows[base..base + partitions] {
                    *count += 1;
                }
            }
            route::Place::Nowhere => {}
        }
    }

    /// Hands what was counted to the metrics.
    pub fn report(&mut self) {
        metrics::read(self.shard, self.counts.events, self.counts.bytes);
        metrics::own_rows(self.shard, self.counts.own_rows);
        (self.counts.events, self.counts.bytes, self.counts.own_rows) = (0, 0, 0);
        let partitions = usize::from(self.moduli.new.get());
        for (index, count) in self.counts.rows.iter_mut().enumerate() {
            if *count > 0 {
                let to = modshift_proto::NewShard((index % partitions) as u16);
                let op = if (index / partitions) % 2 == 0 { "upsert" } else { "delete" };
                let table = &self.tables[index / partitions / 2].schema.name;
                metrics::routed(self.shard, to, table, op, std::mem::take(count));
            }
        }
    }

    fn token_rows(&mut self, mut rows: RowsEvent<'_>) -> Result<(), ReadError> {
        let kind = rows.kind;
        let columns = self.token_columns;
        loop {
            let more = rows.read_row(
                self.decoder.layout(self.token_table),
                Want::Keys,
                &mut self.before,
                Want::Row,
                &mut self.after,
            )?;
            let Some(group) = self.group.as_mut().filter(|_| more) else { return Ok(()) };
            group.changes += 1;
            if kind == RowKind::Delete {
                continue; // the operator starts over; the next reader writes a new row
            }
            let token = read_token(&self.after, columns).map_err(|source| ReadError::Row {
                shard: self.shard,
                table: control::TOKEN.to_owned(),
                position: group.gtid.to_string(),
                source,
            })?;
            group.token = Some(token);
        }
    }

    /// Checks the group in progress against what was seen of it before the connection broke.
    fn compare_cut(&mut self) -> Result<(), ReadError> {
        if let Some(group) = &self.group
            && self.history.compares_at(group.events)
        {
            self.history.progress(group.gtid, group.events, group.hash.value())?;
        }
        Ok(())
    }

    async fn close<W: LogWriter>(&mut self, out: &mut Publisher<W>) -> Result<(), ReadError> {
        self.compare_cut()?;
        let Some(group) = self.group.take() else { return Ok(()) };
        let digest = GroupDigest { gtid: group.gtid, checksum: group.hash.value() };
        self.history.close(digest)?;
        match group.token {
            Some(token) if group.opening != Opening::Proof => self.token(token, digest, out).await,
            _ => Ok(()),
        }
    }

    async fn token<W: LogWriter>(
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
        }
        if token.epoch > self.epoch {
            let (shard, ours, theirs) = (self.shard, self.epoch, token.epoch);
            return Err(ReadError::Superseded { shard, ours, theirs });
        }
        if token.epoch == self.epoch {
            self.token_seen = Some(token.writes);
        }
        let message = Token {
            gtids: self.history.done().clone(),
            digest,
            writes: token.writes,
            clock_us: token.clock_us,
            copied: self.copied,
            phase: token.phase,
            fence: token.fence,
        };
        out.token(&message, self.history.resume_point(self.phase)).await?;
        Ok(())
    }

    fn route_error(&self, table: usize, position: Position, error: RouteError) -> ReadError {
        let shard = self.shard;
        let table = self.tables[table].schema.name.clone();
        let position = position_text(Some(position));
        match error {
            RouteError::Stray(stray) => {
                ReadError::Stray { shard, table, position, placed: stray.placed }
            }
            RouteError::Row(source) => ReadError::Row { shard, table, position, source },
        }
    }
}

fn read_token(row: &DecodedRow, columns: TokenColumns) -> Result<TokenRow, RowError> {
    let missing = || RowError("a column of modshift_token is NULL");
    let uint = |column| cell_uint(row.cell(column).ok_or_else(missing)?);
    let clock = cell_datetime(row.cell(columns.clock).ok_or_else(missing)?)?;
    let fence = row.cell(columns.fence).map(|cell| String::from_utf8_lossy(cell).into_owned());
    Ok(TokenRow {
        epoch: uint(columns.epoch)?,
        writes: uint(columns.writes)?,
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
