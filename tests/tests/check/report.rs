//! What a check printed.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const VERBS: [&str; 15] = [
    "ALTER", "CHANGE", "CREATE", "DELETE", "DROP", "FLUSH", "GRANT", "INSTALL", "REVOKE", "SET",
    "START", "STOP", "TRUNCATE", "UPDATE", "XA",
];

pub struct Report {
    pub code: i32,
    pub json: Value,
}

#[derive(Debug)]
pub struct Finding {
    pub severity: String,
    pub rule: String,
    pub text: String,
    pub mend: String,
    /// Of a mend that is statements: its kind, and where they are run.
    pub way: Option<String>,
    pub at: Vec<String>,
}

impl Report {
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let of = |value: &Value| {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            Finding {
                severity: text("severity"),
                rule: text("rule"),
                way: value["way"].as_str().map(str::to_owned),
                at: match value["at"].as_array().filter(|at| !at.is_empty()) {
                    Some(at) => at.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                    None => vec![text("subject")],
                },
                text: format!("{}: {}, {}", text("subject"), text("actual"), text("expected")),
                mend: text("mend"),
            }
        };
        Ok(self.listed()?.iter().map(|value| of(value)).collect())
    }

    /// The worst first.
    fn listed(&self) -> Result<Vec<&Value>> {
        let mut all = Vec::new();
        for (key, severity) in [("faults", "fault"), ("warnings", "warning"), ("notes", "note")] {
            let listed = self.json[key].as_array().with_context(|| format!("no {key}"))?;
            let right = listed.iter().all(|finding| finding["severity"] == severity);
            ensure!(right, "{key} of another severity: {:#}", self.json);
            all.extend(listed);
        }
        Ok(all)
    }

    /// Whatever is found says what was expected and what to do.
    pub fn is_whole(&self) -> Result<()> {
        for finding in self.listed()? {
            for key in ["rule", "subject", "actual", "expected", "mend"] {
                ensure!(finding[key].is_string(), "no {key} in {finding}");
            }
        }
        // Whatever begins like a statement is one, and then a test runs it: see `mends`.
        for finding in self.findings()?.iter().filter(|finding| finding.way.is_none()) {
            let word = finding.mend.split(' ').next().unwrap_or_default();
            ensure!(!VERBS.contains(&word), "prose that looks like a statement: {finding:#?}");
        }
        let faults = self.findings()?.iter().any(|finding| finding.severity == "fault");
        ensure!(self.code == i32::from(faults), "exit code {} with {:#}", self.code, self.json);
        Ok(())
    }

    pub fn of_rule(&self, rule: &str) -> Result<Vec<Finding>> {
        Ok(self.findings()?.into_iter().filter(|finding| finding.rule == rule).collect())
    }

    /// The statement of the one finding with these words.
    pub fn has(&self, severity: &str, rule: &str, words: &[&str], mend: &str) -> Result<String> {
        let found = self.findings()?.into_iter().find(|finding| {
            finding.severity == severity
                && finding.rule == rule
                && words.iter().all(|word| finding.text.contains(word))
                && finding.mend.contains(mend)
        });
        let found = found.with_context(|| {
            format!("no {severity} of {rule} with {words:?} and {mend:?} in {:#}", self.json)
        })?;
        Ok(found.mend)
    }

    pub fn has_no(&self, rule: &str, words: &[&str]) -> Result<()> {
        let found = self.findings()?.into_iter().find(|finding| {
            finding.rule == rule && words.iter().all(|word| finding.text.contains(word))
        });
        ensure!(found.is_none(), "{found:#?}");
        Ok(())
    }
}
