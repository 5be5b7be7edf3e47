//! What a rehearsal predicts, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use modshift_cutover::{Direction, Step};
use serde::Serialize;

/// Milliseconds. Nearest rank: with fewer than 100 runs the p99 is the longest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(mut ms: Vec<f64>) -> Option<Spread> {
        ms.sort_by(f64::total_cmp);
        let rank = |share: f64| (share * ms.len() as f64).ceil() as usize;
        let at = |share: f64| ms.get(rank(share).saturating_sub(1)).copied();
        Some(Spread { p50: at(0.5)?, p99: at(0.99)?, max: *ms.last()? })
    }
}

/// One cutover or rollback, as its journal has it.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    pub pause_ms: f64,
    pub steps_ms: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
pub struct OfStep {
    pub step: &'static str,
    #[serde(flatten)]
    pub ms: Spread,
}

#[derive(Debug, Serialize)]
pub struct Predicted {
    pub direction: &'static str,
    pub runs: usize,
    /// From the beginning of the fence until the other side is open. `None`: none came through.
    pub pause_ms: Option<Spread>,
    /// In the order in which they are taken; those before the fence make nobody wait.
    pub steps_ms: Vec<OfStep>,
}

impl Predicted {
    pub fn of(direction: Direction, timings: &[Timing]) -> Predicted {
        let step = |step: Step| {
            let took = timings.iter().filter_map(|t| t.steps_ms.get(step.name()).copied());
            Some(OfStep { step: step.name(), ms: Spread::of(took.collect())? })
        };
        Predicted {
            direction: direction.name(),
            runs: timings.len(),
            pause_ms: Spread::of(timings.iter().map(|timing| timing.pause_ms).collect()),
            steps_ms: Step::ALL.into_iter().filter_map(step).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub plan: String,
    /// Carried over from the real old shards.
    pub rows: u64,
    pub transactions: u64,
    /// Ended by a fence, and made again.
    pub refused: u64,
    pub predicted: Vec<Predicted>,
    /// Cutovers and rollbacks that were undone, with why.
    pub undone: Vec<String>,
    /// All rows in the end, old against new; `None`: not compared.
    pub equal: Option<bool>,
    pub differences: Vec<String>,
    pub budget_ms: u64,
    /// What the prediction leaves out, and what became of what was made.
    pub notes: Vec<String>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.undone.is_empty() && self.equal == Some(true) && self.fits()
    }

    /// The budget was enough each time.
    fn fits(&self) -> bool {
        let fits = |p: &Predicted| p.pause_ms.is_some_and(|ms| ms.max <= self.budget_ms as f64);
        self.predicted.iter().all(fits)
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} rows carried over, {} transactions beside the runs ({} refused and made again)",
            self.rows, self.transactions, self.refused
        )];
        for predicted in &self.predicted {
            let Predicted { direction, runs, pause_ms, steps_ms } = predicted;
            let title = format!("{direction}, {runs} runs");
            lines.push(format!("{title:<24} {:>10} {:>10} {:>10}", "p50 ms", "p99 ms", "max ms"));
            let line = |name: &str, ms: &Spread| {
                format!("  {name:<22} {:>10.1} {:>10.1} {:>10.1}", ms.p50, ms.p99, ms.max)
            };
            lines.extend(steps_ms.iter().map(|of| line(of.step, &of.ms)));
            lines.extend(pause_ms.iter().map(|ms| line("the pause", ms)));
        }
        lines.extend(self.undone.iter().map(|why| format!("undone: {why}")));
        lines.extend(self.differences.iter().cloned());
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        let budget = Duration::from_millis(self.budget_ms);
        lines.push(match self.equal {
            _ if !self.undone.is_empty() => format!("rehearse: {} undone", self.undone.len()),
            Some(false) => "rehearse: the rows of both sides differ".to_owned(),
            None => "rehearse: the rows of both sides could not be compared".to_owned(),
            Some(true) if !self.fits() => {
                format!("rehearse: a pause was longer than cutover.budget, which is {budget:?}")
            }
            Some(true) => "rehearse: there and back each time, all rows equal".to_owned(),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_values_that_were_measured() {
        let of = |ms: &[f64]| Spread::of(ms.to_vec());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some(Spread { p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(of(&[3.0, 1.0, 2.0, 9.0]), Some(Spread { p50: 2.0, p99: 9.0, max: 9.0 }));
        let hundred: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(of(&hundred), Some(Spread { p50: 100.0, p99: 198.0, max: 200.0 }));
    }

    #[test]
    fn only_what_came_through_in_time_and_equal_is_good() {
        let timing = |pause_ms| Timing {
            pause_ms,
            steps_ms: BTreeMap::from([("fence".to_owned(), 4.0), ("drain".to_owned(), 5.0)]),
        };
        let report = |pause_ms, undone: &[&str], equal| Report {
            plan: "p".to_owned(),
            rows: 1,
            transactions: 1,
            refused: 0,
            predicted: vec![Predicted::of(Direction::Cutover, &[timing(pause_ms)])],
            undone: undone.iter().map(|why| (*why).to_owned()).collect(),
            equal,
            differences: Vec::new(),
            budget_ms: 100,
            notes: Vec::new(),
        };
        let good = report(99.0, &[], Some(true));
        assert!(good.is_good());
        let steps: Vec<_> = good.predicted[0].steps_ms.iter().map(|of| of.step).collect();
        assert_eq!(steps, ["fence", "drain"]);
        for bad in [
            report(101.0, &[], Some(true)),
            report(99.0, &["cutover"], Some(true)),
            report(99.0, &[], Some(false)),
            report(99.0, &[], None),
        ] {
            assert!(!bad.is_good(), "{bad:?}");
        }
    }
}
