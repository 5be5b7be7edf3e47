//! What is wrong with a plan: every fault at once, each with its place.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One thing wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1, in characters; both 0 where the fault has no place in the text.
    pub line: usize,
    pub column: usize,
    /// The key concerned, such as `old[2].port`; empty for the whole plan.
    pub path: String,
    /// What is wrong and what is expected. Never holds a value from the environment or a file.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a plan is refused: never empty, in order of place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanErrors {
    /// The plan's file, if it came from one.
    pub file: Option<PathBuf>,
    pub faults: Vec<Fault>,
}

impl PlanErrors {
    /// What the operator does next.
    pub fn hint(&self) -> &'static str {
        "correct the plan; deploy/plan.example.toml explains every key"
    }
}

impl fmt::Display for PlanErrors {
    /// One line per fault, in the form that editors jump to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match &self.file {
                Some(file) if fault.line > 0 => write!(f, "{}:{fault}", file.display())?,
                Some(file) => write!(f, "{}: {fault}", file.display())?,
                None => fault.fmt(f)?,
            }
        }
        Ok(())
    }
}

/// Collects faults while a plan is read. Reading goes on after each, with a placeholder.
pub(super) struct Faults<'a> {
    text: &'a str,
    found: RefCell<Vec<(usize, Fault)>>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(text: &'a str) -> Faults<'a> {
        Faults { text, found: RefCell::default() }
    }

    pub(super) fn add(&self, span: Range<usize>, path: &str, message: impl Into<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let fault = Fault {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            path: path.to_owned(),
            message: message.into(),
        };
        self.found.borrow_mut().push((span.start, fault));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// In order of place; of one place, in order of discovery.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|&(at, _)| at);
        found.into_iter().map(|(_, fault)| fault).collect()
    }
}
