//! Tokens sent and message numbers acknowledged -> the resume point and chunks that may be
//! recorded. Pure.
//!
//! A resume point is the place of a token that *every* partition has acknowledged: a new shard's
//! watermark moves only with messages of its own, and each token goes to all of them. A chunk may
//! be recorded as copied together with a token that was sent after its last row, never before.

use std::collections::VecDeque;

use crate::epoch::ResumePoint;
use crate::token::SavedTable;

/// Tokens waiting for acknowledgement beyond this are thinned out: only the choice of resume
/// points gets coarser.
const TOKENS_WAITING_MAX: usize = 256;

/// A token that has been sent to every partition, and what may be recorded once all have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SentToken {
    resume: ResumePoint,
    /// Messages of each partition up to and including the token.
    numbers: Vec<u64>,
    /// Bytes sent to each partition by then.
    bytes: Vec<u64>,
    /// Chunks that entered before it.
    tables: Vec<SavedTable>,
}

/// The newest token that every partition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    pub resume: ResumePoint,
    /// All chunks that entered before it and had not been handed out yet.
    pub tables: Vec<SavedTable>,
    /// Bytes sent to each partition up to it.
    pub bytes: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SentTokens {
    waiting: VecDeque<SentToken>,
    /// Chunks that entered since the last token.
    entered: Vec<SavedTable>,
}

impl SentTokens {
    /// A chunk has been sent in full.
    pub fn entered(&mut self, table: SavedTable) {
        self.entered.push(table);
    }

    /// A token has been sent to every partition, which has had so many messages and bytes by now.
    pub fn sent(&mut self, resume: ResumePoint, numbers: Vec<u64>, bytes: Vec<u64>) {
        let tables = std::mem::take(&mut self.entered);
        self.waiting.push_back(SentToken { resume, numbers, bytes, tables });
        if self.waiting.len() > TOKENS_WAITING_MAX {
            self.thin_out();
        }
    }

    /// What has become durable since the last call, given how many messages each partition has
    /// acknowledged.
    pub fn durable(&mut self, acked: &[u64]) -> Option<Durable> {
        let mut newest = None;
        let mut tables = Vec::new();
        while let Some(token) = self.waiting.front() {
            if !token.numbers.iter().zip(acked).all(|(number, acked)| acked >= number) {
                break;
            }
            let Some(token) = self.waiting.pop_front() else { break };
            tables.extend(token.tables);
            newest = Some((token.resume, token.bytes));
        }
        newest.map(|(resume, bytes)| Durable { resume, tables, bytes })
    }

    /// Drops every other waiting token, handing its chunks to the one after it.
    fn thin_out(&mut self) {
        let mut kept = VecDeque::with_capacity(TOKENS_WAITING_MAX);
        let mut carried: Vec<SavedTable> = Vec::new();
        for (index, mut token) in self.waiting.drain(..).enumerate() {
            carried.append(&mut token.tables);
            // The oldest stays: it is the next to be acknowledged.
            if index % 2 == 0 {
                token.tables = std::mem::take(&mut carried);
                kept.push_back(token);
            }
        }
        self.waiting = kept;
        // An odd token at the end: its chunks wait for the next token.
        carried.append(&mut self.entered);
        self.entered = carried;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::TableProgress;
    use modshift_proto::message::TokenPhase;

    fn resume(seq: u64) -> ResumePoint {
        let before = format!("0-1-{seq}").parse().expect("a set");
        ResumePoint { before, last: None, phase: TokenPhase::Serving }
    }

    fn chunk(rows_copied: u64) -> SavedTable {
        let progress = TableProgress { rows_copied, ..TableProgress::default() };
        SavedTable { name: "t".to_owned(), progress, rows_estimated: 0 }
    }

    #[test]
    fn a_token_counts_when_every_partition_has_it() {
        let mut tokens = SentTokens::default();
        tokens.sent(resume(1), vec![2, 1], vec![0, 0]);
        tokens.entered(chunk(7));
        tokens.sent(resume(2), vec![3, 5], vec![0, 0]);
        assert_eq!(tokens.durable(&[3, 0]), None);
        let first = tokens.durable(&[3, 4]).expect("both have the first");
        assert_eq!((first.resume, first.tables.len()), (resume(1), 0));
        assert_eq!(tokens.durable(&[9, 4]), None);
        let second = tokens.durable(&[9, 5]).expect("both have the second");
        assert_eq!((second.resume, second.tables), (resume(2), vec![chunk(7)]));
    }

    #[test]
    fn thinning_out_loses_no_chunk() {
        let mut tokens = SentTokens::default();
        let count = TOKENS_WAITING_MAX as u64 + 1;
        for number in 1..=count {
            tokens.entered(chunk(number));
            tokens.sent(resume(number), vec![number], vec![0]);
        }
        assert!(tokens.waiting.len() < TOKENS_WAITING_MAX);
        tokens.sent(resume(count + 1), vec![count + 1], vec![0]);
        let all = tokens.durable(&[count + 1]).expect("all");
        assert_eq!((all.resume, all.tables.len() as u64), (resume(count + 1), count));
    }
}
