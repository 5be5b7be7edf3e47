//! The report of `check`: for people, and as JSON.

use std::fmt::Write as _;

use modshift_proto::plan::Plan;
use serde::Serialize;

use super::fault::{Fault, Severity};
use super::scan::{Matrix, share_moving};

#[derive(Serialize)]
pub struct Report {
    pub plan: String,
    pub faults: Vec<Fault>,
    /// `None` where no table was read.
    pub matrix: Option<Matrix>,
    pub share_moving_expected: f64,
}

impl Report {
    pub fn new(plan: &Plan, mut faults: Vec<Fault>, matrix: Option<Matrix>) -> Report {
        // Stable: within a severity the order of rules and shards stays.
        faults.sort_by_key(|fault| fault.severity);
        let share = share_moving(plan.old_modulus.get(), plan.new_modulus.get());
        Report { plan: plan.name.clone(), faults, matrix, share_moving_expected: share }
    }

    pub fn has_faults(&self) -> bool {
        self.count(Severity::Fault) > 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.faults.iter().filter(|fault| fault.severity == severity).count()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        for fault in &self.faults {
            let _ = writeln!(text, "{:<7}  {fault}", fault.severity);
        }
        match &self.matrix {
            Some(matrix) => text += &matrix_text(matrix, self.share_moving_expected),
            None => {
                text += "rows were not read: strays, meeting keys and the move matrix are open\n"
            }
        }
        let _ = writeln!(
            text,
            "{}: {} faults, {} warnings, {} notes",
            self.plan,
            self.count(Severity::Fault),
            self.count(Severity::Warning),
            self.count(Severity::Note)
        );
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
    let _ = writeln!(
        text,
        "{} of {total} rows change their shard number: {:.2} % ({:.2} % of evenly spread keys)",
        matrix.moving(),
        share(matrix.moving()),
        100.0 * expected
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_reads_as_a_table() {
        let matrix = Matrix { rows: vec![vec![1, 1], vec![0, 2]] };
        let text = matrix_text(&matrix, 0.5);
        assert!(text.contains("  old 0              1  25.00%           1  25.00%"), "{text}");
        assert!(text.contains("1 of 4 rows change their shard number: 25.00 % (50.00 %"), "{text}");
    }
}
