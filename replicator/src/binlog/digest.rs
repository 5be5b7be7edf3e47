//! A checksum over what an event group changed.
//!
//! Equal at every replay, on every server of the shard, compressed or not, however the server cut
//! the rows into events. So only what the change itself is goes in: GTID, tables by name, kinds
//! of change, row images and statements; table ids, positions, times, threads and XIDs stay out.

use std::sync::Arc;

use modshift_proto::Gtid;

use super::rows::{RowKind, RowsEvent};
use super::table_map::TableName;

/// Grows with the group; its value may be asked for at any time.
#[derive(Clone, Debug)]
pub struct GroupHash {
    crc: crc32fast::Hasher,
    /// Table and kind of the rows before: said once for all events that go on with them.
    run: Option<(Arc<TableName>, RowKind)>,
}

const STATEMENT: u8 = 0;

impl GroupHash {
    pub fn new(gtid: Gtid) -> GroupHash {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&gtid.domain.to_le_bytes());
        crc.update(&gtid.server.to_le_bytes());
        crc.update(&gtid.seq.to_le_bytes());
        GroupHash { crc, run: None }
    }

    pub fn rows(&mut self, rows: &RowsEvent<'_>) {
        let same = self.run.as_ref().is_some_and(|(table, kind)| {
            *kind == rows.kind && (Arc::ptr_eq(table, rows.name_arc()) || **table == *rows.name())
        });
        if !same {
            let kind = match rows.kind {
                RowKind::Insert => 1,
                RowKind::Update => 2,
                RowKind::Delete => 3,
            };
            self.crc.update(&[kind]);
            self.text(&rows.name().schema);
            self.text(&rows.name().table);
            self.run = Some((rows.name_arc().clone(), rows.kind));
        }
        for columns in rows.present() {
            self.crc.update(columns);
        }
        self.crc.update(rows.data());
    }

    pub fn query(&mut self, sql: &[u8]) {
        self.run = None;
        self.crc.update(&[STATEMENT]);
        self.text(sql);
    }

    pub fn value(&self) -> u32 {
        self.crc.clone().finalize()
    }

    fn text(&mut self, text: &[u8]) {
        self.crc.update(&(text.len() as u32).to_le_bytes());
        self.crc.update(text);
    }
}
