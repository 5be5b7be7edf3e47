//! The report of `check`: for people, and as JSON.

use std::fmt::Write as _;

use modshift_proto::plan::Plan;
use serde::Serialize;

use super::fault::{Fault, Severity};
use super::group::groups;
use super::promotion::{self, Mapping};
use super::rows::matrix::{Matrix, share_moving};
use super::rows::trial::Estimate;
use crate::terminal::Terminal;

#[derive(Serialize)]
pub struct Report {
    pub plan: String,
    /// Each by itself, under its severity.
    pub faults: Vec<Fault>,
    pub warnings: Vec<Fault>,
    pub notes: Vec<Fault>,
    /// `None` where no table was read.
    pub matrix: Option<Matrix>,
    /// Of a trial, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    pub share_moving_expected: f64,
    /// Of a promotion, in the matrix's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
}

impl Report {
    pub fn new(
        plan: &Plan,
        found: Vec<Fault>,
        matrix: Option<Matrix>,
        estimate: Option<Estimate>,
    ) -> Report {
        let share = share_moving(plan.old_modulus.get(), plan.new_modulus.get());
        let mut report = Report {
            plan: plan.name.clone(),
            faults: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
            matrix,
            estimate,
            share_moving_expected: share,
            mapping: None,
        };
        for fault in found {
            match fault.severity {
                Severity::Fault => report.faults.push(fault),
                Severity::Warning => report.warnings.push(fault),
                Severity::Note => report.notes.push(fault),
            }
        }
        report
    }

    pub fn of_promotion(plan: &Plan, found: Vec<Fault>, mapping: Mapping) -> Report {
        Report { mapping: Some(mapping), ..Report::new(plan, found, None, None) }
    }

    pub fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The worst first; within a severity the order of rules and shards stays.
    pub fn text(&self, terminal: Terminal) -> String {
        let mut text = String::new();
        let mut counts = Vec::new();
        for (found, name) in
            [(&self.faults, "faults"), (&self.warnings, "warnings"), (&self.notes, "notes")]
        {
            let groups = groups(found);
            // Writing to a String does not fail.
            for group in &groups {
                let _ = writeln!(text, "{}", group.text(terminal));
            }
            counts.push(match groups.len() < found.len() {
                true => format!("{} {name} in {}", found.len(), groups.len()),
                false => format!("{} {name}", found.len()),
            });
        }
        match &self.matrix {
            _ if self.mapping.is_some() => {}
            Some(matrix) => text += &matrix_text(matrix, self.share_moving_expected),
            None => {
                text += "rows were not read: strays, meeting keys and the move matrix are open\n"
            }
        }
        if let Some(mapping) = &self.mapping {
            text += &promotion::text(mapping);
        }
        if let Some(estimate) = &self.estimate {
            text += &estimate_text(estimate);
        }
        let _ = writeln!(text, "{}: {}", self.plan, counts.join(", "));
        text
    }
}

fn matrix_text(matrix: &Matrix, expected: f64) -> String {
    let total = matrix.total();
    let share = |rows: u64| if total == 0 { 0.0 } else { 100.0 * rows as f64 / total as f64 };
    let mut text = String::from("move matrix: rows of sharded tables, share of all\n          ");
    let width = matrix.rows.first().map_or(0, Vec::len);
    for new in 0..width {
        let _ = write!(text, "{:>20}", format!("new {new}"));
    }
    text.push('\n');
    for (old, row) in matrix.rows.iter().enumerate() {
        let _ = write!(text, "{:<10}", format!("  old {old}"));
        for &rows in row {
            let _ = write!(text, "{rows:>12} {:>6.2}%", share(rows));
        }
        text.push('\n');
    }
    if matrix.bytes.iter().flatten().any(|&bytes| bytes > 0) {
        text += "bytes, by the server's sizes of these tables\n";
        for (old, row) in matrix.bytes.iter().enumerate() {
            let _ = write!(text, "{:<10}", format!("  old {old}"));
            for &size in row {
                let _ = write!(text, "{:>20}", bytes(size));
            }
            text.push('\n');
        }
    }
    if let Some(read) = matrix.sampled {
        let _ = writeln!(text, "sampled: {read} rows were read, the rest is the servers' estimate");
    }
    let _ = writeln!(
        text,
        "{} of {total} rows change their shard number: {:.2} % ({:.2} % of evenly spread keys)",
        matrix.moving(),
        share(matrix.moving()),
        100.0 * expected
    );
    text
}

fn estimate_text(estimate: &Estimate) -> String {
    let least = |rates: &[f64]| rates.iter().copied().fold(f64::INFINITY, f64::min);
    format!(
        "trial: the slowest old shard gives {:.0} rows/s, the slowest new one takes {:.0} rows/s; \
         the copy takes about {}\n",
        least(&estimate.rows_read_per_s),
        least(&estimate.rows_applied_per_s),
        span(estimate.copy())
    )
}

/// Three digits and a unit.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match size {
        ..10.0 => format!("{size:.2} {}", UNITS[unit]),
        ..100.0 => format!("{size:.1} {}", UNITS[unit]),
        _ => format!("{size:.0} {}", UNITS[unit]),
    }
}

/// In the two largest units that matter.
pub fn span(span: std::time::Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        let sizes = [0, 1023, 1024, 1_500_000, 1 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.00 KiB", "1.43 MiB", "1.00 TiB"]);
        let spans = [0.25, 59.9, 61.0, 7_260.0, 90_000.0].map(std::time::Duration::from_secs_f64);
        assert_eq!(spans.map(span), ["250 ms", "59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn the_matrix_reads_as_a_table() {
        let matrix = Matrix {
            rows: vec![vec![1, 1], vec![0, 2]],
            bytes: vec![vec![1024, 0], vec![0, 2048]],
            sampled: None,
            tables: vec![],
        };
        let text = matrix_text(&matrix, 0.5);
        assert!(text.contains("  old 0              1  25.00%           1  25.00%"), "{text}");
        assert!(text.contains("  old 1                    0 B            2.00 KiB"), "{text}");
        assert!(text.contains("1 of 4 rows change their shard number: 25.00 % (50.00 %"), "{text}");
    }
}
