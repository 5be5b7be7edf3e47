//! What the demo found, in numbers.

use std::{fmt, time::Duration};

use super::progress::Lags;
use crate::{Ledger, Report};

pub struct Summary {
    pub log: &'static str,
    pub report: Report,
    pub lag: Lags,
    /// Messages applied on the new shards.
    pub events: u64,
    pub ledger: Ledger,
    pub longest_gap: Option<Duration>,
    /// How long nobody served, as the cutover says.
    pub pause: Duration,
    /// The longest gap between acknowledged commits around the cutover.
    pub switch_gap: Option<Duration>,
    /// Transactions committed on the new shards.
    pub commits_after: u64,
    pub served: Duration,
    pub compared: Duration,
    pub took: Duration,
}

impl Summary {
    pub fn is_clean(&self) -> bool {
        self.report.is_clean() && self.report.rows_placed > 0
    }
}

fn ms(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), |gap| format!("{} ms", gap.as_millis()))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let lag = |share| match self.lag.percentile(share) {
            Some(ms) => format!("{ms} ms"),
            None => "none".to_owned(),
        };
        writeln!(f, "change log            {}", self.log)?;
        // Compared in the direction of the way back: its old side are the new shards.
        writeln!(f, "rows per old shard    {:?}", report.rows_new)?;
        writeln!(f, "rows per new shard    {:?}", report.rows_old)?;
        writeln!(f, "rows on a new index   {:.1} %", report.share_moved() * 100.0)?;
        writeln!(f, "messages applied      {}", self.events)?;
        writeln!(
            f,
            "lag p50 / p99 / max   {} / {} / {} ({} samples after the copy)",
            lag(0.5),
            lag(0.99),
            lag(1.0),
            self.lag.samples_ms.len()
        )?;
        writeln!(
            f,
            "application           {} transactions, {} row changes, {} with many rows, {} failed",
            self.ledger.transactions,
            self.ledger.rows_changed(),
            self.ledger.giants,
            self.ledger.faults.len()
        )?;
        writeln!(
            f,
            "made again            {} attempts; the longest transaction took {} ms",
            self.ledger.retries,
            self.ledger.longest.as_millis()
        )?;
        writeln!(f, "longest gap           {} between acknowledged commits", ms(self.longest_gap))?;
        writeln!(
            f,
            "gap at the cutover    {}, of which its pause {:.0} ms",
            ms(self.switch_gap),
            self.pause.as_secs_f64() * 1e3
        )?;
        writeln!(
            f,
            "after the cutover     {} transactions on the new shards in {:.1} s, brought back to \
             the old ones",
            self.commits_after,
            self.served.as_secs_f64()
        )?;
        writeln!(f, "compared in           {:.1} s", self.compared.as_secs_f64())?;
        writeln!(f, "took                  {:.1} s", self.took.as_secs_f64())?;
        match self.is_clean() {
            true => {
                write!(f, "verdict               EQUAL: every row of every table, byte by byte")
            }
            false => write!(f, "verdict               DIFFERENT: {report}"),
        }
    }
}
