//! What the tail has counted since it last told the metrics.

use modshift_proto::NewShard;
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
        let mut streams = vec![0; partitions];
        for (index, counts) in self.counts.rows.chunks_mut(partitions).enumerate() {
            let mut rows = 0;
            for (stream, count) in streams.iter_mut().zip(counts) {
                *stream += *count;
                rows += std::mem::take(count);
            }
            if rows > 0 {
                let op = if index % 2 == 0 { "upsert" } else { "delete" };
                metrics::routed(self.shard, &self.tables[index / 2].schema.name, op, rows);
            }
        }
        for (to, rows) in streams.into_iter().enumerate().filter(|&(_, rows)| rows > 0) {
            metrics::streamed(self.shard, NewShard(to as u16), rows);
        }
    }
}
