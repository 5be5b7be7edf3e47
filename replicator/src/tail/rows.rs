//! Rows in the log: changes of planned tables, routed and sent, and keys touched while a table is
//! being copied.

use modshift_changelog::LogWriter;
use modshift_proto::message::{ChangeHead, HEAD_ROOM, Op, TokenPhase};
use modshift_proto::{Gtid, Position};

use super::Tail;
use crate::binlog::{DecodedRow, RowKind, RowsEvent, TableRef, Want};
use crate::error::{ReadError, place as position_text};
use crate::history::Opening;
use crate::publish::Publisher;
use crate::route::{self, Cells, Image, RouteError, Routed};

/// Two ordinals for each change must fit.
const CHANGES_MAX: u32 = u32::MAX / 2;

impl Cells for DecodedRow {
    #[inline]
    fn cell(&self, column: usize) -> Option<&[u8]> {
        DecodedRow::cell(self, column)
    }
}

impl Tail {
    pub(super) async fn rows<W: LogWriter>(
        &mut self,
        rows: RowsEvent<'_>,
        event: &[u8],
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
        let too_large = ReadError::GroupTooLarge { shard: self.shard, gtid: group.gtid };
        let (Opening::New { from_change }, Some(table)) = (group.opening, sent) else {
            let count = rows.count_rows()?;
            group.changes = group.changes.checked_add(count).ok_or(too_large)?;
            return match planned {
                Some(table) if group.opening != Opening::Proof => self.own_rows(table, count),
                _ => Ok(()),
            };
        };
        if table == self.token_table {
            return self.token_rows(rows);
        }
        group.planned = true;
        let first = group.changes;
        if group.is_held() {
            let count = rows.count_rows()?;
            let end = first.checked_add(count).filter(|&end| end <= CHANGES_MAX);
            if end.ok_or(too_large)? <= from_change {
                group.changes += count;
                return Ok(());
            }
            if self.hold_rows(count, event)? {
                return Ok(());
            }
            self.send_held(out).await?;
        }
        self.send_rows(rows, first, out).await
    }

    /// Sends the rows of a planned table, of which `first` is the first one's number in the group.
    pub(super) async fn send_rows<W: LogWriter>(
        &mut self,
        mut rows: RowsEvent<'_>,
        first: u32,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let (Some(group), TableRef::Planned(table)) = (&self.group, &rows.table) else {
            return Ok(());
        };
        let (gtid, table) = (group.gtid, *table);
        let Opening::New { from_change } = group.opening else { return Ok(()) };
        if self.phase == TokenPhase::Fenced && !self.undone {
            return Err(ReadError::ForeignWrite {
                shard: self.shard,
                gtid,
                table: self.tables[table].schema.name.clone(),
            });
        }
        let kind = rows.kind;
        for change in first.. {
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
            if change >= CHANGES_MAX {
                return Err(ReadError::GroupTooLarge { shard: self.shard, gtid });
            }
            group.sent_up_to(change + 1);
            if change >= from_change {
                self.change(table, kind, gtid, change, out).await?;
            }
        }
        Ok(())
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
        // What had no shard was sent to none: it begins to be where it gets one.
        let before = match has_before.then(|| place(&self.before)) {
            None | Some(Err(RouteError::Null)) => Ok(None),
            Some(place) => place.map(Some),
        };
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
        let late = self.group.as_ref().is_some_and(|group| group.xa.is_some());
        self.late[table] |= late;
        if let (Some(touched), Some(seen)) = (&mut self.touched[table], self.token_seen) {
            let images =
                [(has_before, &self.before), (has_after && !(has_before && same_key), &self.after)];
            for (_, row) in images.into_iter().filter(|(wanted, _)| *wanted) {
                self.key_row.clear();
                route::write_key_row(&routed_table.schema, row, &mut self.key_row);
                match late {
                    true => touched.touch_late(&self.key_row, seen),
                    false => touched.touch(&self.key_row, seen),
                }
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
            Image::Before => &mut self.before,
            Image::After => &mut self.after,
        };
        self.message_key.clear();
        route::write_message_key(routed_table, &*image, &mut self.message_key);
        let change = ChangeHead {
            table: table as u32,
            fingerprint: routed_table.fingerprint,
            position: Some(position),
            op: routed.op,
        };
        let roomy = match routed.op {
            Op::Upsert => image.roomy(),
            Op::Delete => {
                self.key_row.clear();
                self.key_row.resize(HEAD_ROOM, 0);
                route::write_key_row(&routed_table.schema, &*image, &mut self.key_row);
                &mut self.key_row
            }
        };
        out.row(routed.to, &self.message_key, &change, roomy).await?;
        self.rows_sent += 1;
        self.count(table, routed);
        Ok(())
    }

    fn route_error(&self, table: usize, position: Position, error: RouteError) -> ReadError {
        let shard = self.shard;
        let table = self.tables[table].schema.name.clone();
        let group = Some(position.gtid);
        let position = position_text(Some(position));
        match error {
            RouteError::Stray(stray) => {
                ReadError::Stray { shard, table, position, group, placed: stray.placed }
            }
            RouteError::Null => {
                let source = route::NULL_KEY;
                ReadError::Row { shard, table, position, group, source }
            }
            RouteError::Row(source) => ReadError::Row { shard, table, position, group, source },
        }
    }
}
