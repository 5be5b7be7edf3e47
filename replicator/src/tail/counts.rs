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
    /// By table, operation and partition.
    pub(super) rows: Vec<u64>,
}

impl Tail {
    pub(super) fn count(&mut self, table: usize, routed: Routed) {
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
}
