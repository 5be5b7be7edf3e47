//! What the tail has counted since it last told the metrics.

use modshift_proto::message::Op;

use super::Tail;
use crate::metrics;
use crate::route::{self, Routed};

/// Counted here, handed to the metrics now and then: a lookup per row would cost more than the row.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) own_rows: u64,
    /// By table and operation.
    pub(super) rows: Vec<u64>,
}

impl Tail {
    pub(super) fn count(&mut self, table: usize, routed: Routed) {
        let rows = match routed.to {
            route::Place::One(_) => 1,
            route::Place::All => u64::from(self.moduli.new.get()),
            route::Place::Nowhere => 0,
        };
        self.counts.rows[table * 2 + usize::from(routed.op == Op::Delete)] += rows;
    }

    /// Hands what was counted to the metrics.
    pub fn report(&mut self) {
        metrics::read(self.shard, self.counts.events, self.counts.bytes);
        metrics::own_rows(self.shard, self.counts.own_rows);
        (self.counts.events, self.counts.bytes, self.counts.own_rows) = (0, 0, 0);
        for (index, count) in self.counts.rows.iter_mut().enumerate() {
            if *count > 0 {
                let op = if index % 2 == 0 { "upsert" } else { "delete" };
                let table = &self.tables[index / 2].schema.name;
                metrics::routed(table, op, std::mem::take(count));
            }
        }
    }
}
