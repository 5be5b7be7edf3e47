//! What the application saw: the times of the commits that were acknowledged to it, and counts.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// When each acknowledgement arrived, in order.
    pub acknowledged: Vec<Instant>,
    /// Transactions that took place, those found committed after a lost answer included.
    pub transactions: u64,
    pub changes: BTreeMap<&'static str, u64>,
    /// Transactions of many rows, within `transactions`.
    pub giants: u64,
    /// Attempts that did not take place, by their reason.
    pub refused: u64,
    pub last_refusal: Option<String>,
    /// Attempts of a writer that follows a routing document that did not take place: each was made
    /// again.
    pub retries: u64,
    /// Transactions that had to be planned anew, for their rows lie on several shards by now.
    pub replanned: u64,
    /// The longest time that a transaction took, all its attempts included.
    pub longest: Duration,
    /// Rows looked for at the end, each in the version that was acknowledged, by a writer that
    /// follows a routing document.
    pub audited: u64,
    /// Transactions that took place though their COMMIT got no answer.
    pub unanswered: u64,
    /// What must not be. Any entry fails the test.
    pub faults: Vec<String>,
}

impl Ledger {
    pub fn count(&mut self, what: &'static str, rows: u64) {
        *self.changes.entry(what).or_default() += rows;
    }

    pub fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.acknowledged.sort();
        self.transactions += other.transactions;
        self.giants += other.giants;
        self.refused += other.refused;
        self.retries += other.retries;
        self.audited += other.audited;
        self.replanned += other.replanned;
        self.longest = self.longest.max(other.longest);
        self.unanswered += other.unanswered;
        self.faults.extend(other.faults);
        self.last_refusal = other.last_refusal.or(self.last_refusal.take());
        for (what, rows) in other.changes {
            self.count(what, rows);
        }
    }

    /// All row changes that were committed.
    pub fn rows_changed(&self) -> u64 {
        self.changes.values().sum()
    }

    /// The longest time between two acknowledged commits, and when it began.
    pub fn longest_gap(&self) -> Option<(Instant, Duration)> {
        let gaps = self.acknowledged.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
        gaps.max_by_key(|(_, gap)| *gap)
    }

    /// The longest gap that overlaps this span.
    pub fn longest_gap_between(&self, from: Instant, to: Instant) -> Option<Duration> {
        let pairs = self.acknowledged.windows(2).filter(|p| p[1] >= from && p[0] <= to);
        pairs.map(|pair| pair[1] - pair[0]).max()
    }

    /// Transactions per second from the first to the last acknowledgement.
    pub fn rate(&self) -> f64 {
        match (self.acknowledged.first(), self.acknowledged.last()) {
            (Some(first), Some(last)) if last > first => {
                self.acknowledged.len() as f64 / (*last - *first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}
