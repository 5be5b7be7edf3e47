//! What a rule finds: one fact, what was expected instead, and what mends it.

use std::collections::BTreeSet;
use std::fmt;

use modshift_proto::{NewShard, OldShard};
use serde::Serialize;

use super::mend::Mend;

/// How bad it is. Only a fault makes `check` exit 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The reshard would fail, or lose or double data.
    Fault,
    /// It works, with a risk the operator should know.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Fault => "fault",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub rule: &'static str,
    pub severity: Severity,
    /// Server, table or account.
    pub subject: String,
    pub actual: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(flatten)]
    pub mend: Option<Mend>,
}

impl Fault {
    pub fn new(
        severity: Severity,
        rule: &'static str,
        subject: impl fmt::Display,
        actual: impl Into<String>,
    ) -> Fault {
        let (subject, actual) = (subject.to_string(), actual.into());
        Fault { rule, severity, subject, actual, expected: None, mend: None }
    }

    pub fn expected(mut self, expected: impl Into<String>) -> Fault {
        self.expected = Some(expected.into());
        self
    }

    pub fn mend(mut self, mend: impl Into<Mend>) -> Fault {
        self.mend = Some(mend.into());
        self
    }
}

/// One line, whatever it says: scripts grep for it. Severity is for the caller to show.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.actual)?;
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        match &self.mend {
            Some(mend) => write!(f, "; mend: {mend}"),
            None => Ok(()),
        }
    }
}

/// A shard of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Old(OldShard),
    New(NewShard),
}

impl Side {
    pub fn is_old(self) -> bool {
        matches!(self, Side::Old(_))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Side::Old(shard) => shard.fmt(f),
            Side::New(shard) => shard.fmt(f),
        }
    }
}

/// `old shards 0-3, new shards 1, 4`.
pub fn sides_of(all: impl IntoIterator<Item = Side>) -> String {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for side in all {
        match side {
            Side::Old(shard) => old.push(shard.0),
            Side::New(shard) => new.push(shard.0),
        }
    }
    let of = |kind: &str, mut numbers: Vec<u16>| {
        numbers.sort_unstable();
        numbers.dedup();
        match numbers[..] {
            [] => None,
            [only] => Some(format!("{kind} shard {only}")),
            _ => Some(format!("{kind} shards {}", runs(&numbers))),
        }
    };
    let both: Vec<String> = of("old", old).into_iter().chain(of("new", new)).collect();
    both.join(", ")
}

/// `0-3, 5` of sorted numbers.
pub fn runs(numbers: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let runs: Vec<String> = runs
        .iter()
        .map(|&(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first}, {last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    runs.join(", ")
}

/// At most five of them, and how many more: a line stays a line.
pub fn some_of<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    const SHOWN_MAX: usize = 5;
    let all: Vec<String> = all.into_iter().map(|item| item.to_string()).collect();
    match all.len().checked_sub(SHOWN_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", all[..SHOWN_MAX].join(", ")),
        _ => all.join(", "),
    }
}

/// What is found at a place, which may have several names: the same is said once, at its worst.
pub fn once_each(mut found: Vec<(String, Fault)>) -> Vec<Fault> {
    found.sort_by_key(|(_, fault)| fault.severity);
    let mut said = BTreeSet::new();
    found.retain(|(at, fault)| said.insert((at.clone(), fault.actual.clone())));
    found.into_iter().map(|(_, fault)| fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::mend::Way;

    #[test]
    fn a_fault_is_one_line() {
        let fault =
            Fault::new(Severity::Fault, "binlog", Side::Old(OldShard(1)), "binlog_format is MIXED")
                .expected("ROW")
                .mend(Mend::set(Way::SetBinlogFormat, "binlog_format", "'ROW'"));
        assert_eq!(
            fault.to_string(),
            "old shard 1: binlog_format is MIXED, expected ROW; \
             mend: SET GLOBAL binlog_format = 'ROW'; -- and under [mariadbd] in my.cnf, or a \
             restart forgets it: binlog_format = ROW"
        );
    }

    #[test]
    fn the_same_is_said_once_of_a_place() {
        let fault = |severity, subject| Fault::new(severity, "rule", subject, "is off");
        let of_b = fault(Severity::Fault, "b");
        let found = vec![
            ("here".to_owned(), fault(Severity::Warning, "a")),
            ("here".to_owned(), of_b.clone()),
            ("there".to_owned(), of_b.clone()),
        ];
        assert_eq!(once_each(found), [of_b.clone(), of_b]);
    }

    #[test]
    fn shards_are_listed_by_side() {
        let old = [3, 0, 1, 2, 5].map(|shard| Side::Old(OldShard(shard)));
        let all = old.into_iter().chain([Side::New(NewShard(1))]);
        assert_eq!(sides_of(all), "old shards 0-3, 5, new shard 1");
        assert_eq!(sides_of(old[..2].iter().copied()), "old shards 0, 3");
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(1..=5), "1, 2, 3, 4, 5");
        assert_eq!(some_of(1..=7), "1, 2, 3, 4, 5 and 2 more");
    }
}
