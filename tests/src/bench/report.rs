//! What was measured: a table for people, JSON for machines.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub part: String,
    pub what: String,
    pub unit: &'static str,
    pub ours: f64,
    pub yardstick: Option<f64>,
    /// Ours over the yardstick's.
    pub ratio: Option<f64>,
    /// What the ratio should be at least, or without a yardstick, ours at most.
    pub aim: Option<f64>,
    pub met: Option<bool>,
    pub note: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    pub lines: Vec<Line>,
}

impl Results {
    /// Rates against a yardstick: more is better.
    pub fn rate(
        &mut self,
        part: &str,
        what: &str,
        unit: &'static str,
        (ours, yardstick): (f64, f64),
        aim: Option<f64>,
        note: String,
    ) {
        let ratio = ours / yardstick;
        self.lines.push(Line {
            part: part.to_owned(),
            what: what.to_owned(),
            unit,
            ours,
            yardstick: Some(yardstick),
            ratio: Some(ratio),
            aim,
            met: aim.map(|aim| ratio >= aim),
            note,
        });
    }

    /// An amount of ours that should stay under the aim.
    pub fn amount(
        &mut self,
        part: &str,
        what: &str,
        unit: &'static str,
        ours: f64,
        aim: Option<f64>,
        note: String,
    ) {
        self.lines.push(Line {
            part: part.to_owned(),
            what: what.to_owned(),
            unit,
            ours,
            yardstick: None,
            ratio: None,
            aim,
            met: aim.map(|aim| ours <= aim),
            note,
        });
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<8} {:<34} {:>10} {:>10} {:>7} {:>8}  {:<6} note",
            "part", "what", "ours", "yardstick", "ratio", "aim", "met"
        )?;
        for line in &self.lines {
            let optional = |value: Option<f64>| value.map_or_else(String::new, number);
            let aim = match (line.aim, line.ratio) {
                (Some(aim), Some(_)) => format!(">={aim}"),
                (Some(aim), None) => format!("<={aim}"),
                (None, _) => String::new(),
            };
            let met = match line.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            writeln!(
                f,
                "{:<8} {:<34} {:>10} {:>10} {:>7} {:>8}  {:<6} {}",
                line.part,
                format!("{} ({})", line.what, line.unit),
                number(line.ours),
                optional(line.yardstick),
                optional(line.ratio),
                aim,
                met,
                line.note
            )?;
        }
        Ok(())
    }
}
