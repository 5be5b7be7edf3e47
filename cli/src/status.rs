//! `modshift status`: how far every stream is, from the databases; and which logins are refused to
//! daemons, which no database shows.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use modshift_consumer::gate::{Decision, Evaluator, Facts, Outside, Reason, UNPROVEN};
use modshift_proto::plan::Plan;
use serde::Serialize;

use crate::control::pages;
use crate::cutover::{Fence, Serves, fences, serves};
use crate::exit::Exit;
use crate::terminal::{Terminal, Tone};
use crate::{answer, args};

const REDRAW: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Status {
    plan: String,
    /// `None`: not asked.
    serves: Option<Serves>,
    /// What is wrong with the fences, or was.
    fences: Vec<Fence>,
    old: Vec<Old>,
    new: Vec<New>,
    streams: Vec<Stream>,
    /// What the plan gives up, in words.
    notes: Vec<String>,
    /// Logins that are refused to daemons, as these say where they can be reached.
    refused_logins: Vec<String>,
    /// What is wrong with the way back; `None`: the plan wants none.
    #[serde(skip_serializing_if = "Option::is_none")]
    back: Option<Back>,
}

#[derive(Serialize)]
struct Back {
    halted: bool,
    troubles: Vec<String>,
}

#[derive(Serialize)]
struct Old {
    old: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
    rows_copied: u64,
    rows_estimated: u64,
    copied: bool,
    /// Age of the newest token; `None`: never read.
    token_age_ms: Option<i64>,
    /// Requests for a repair that its reader can never serve.
    repairs_refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<String>,
}

#[derive(Serialize)]
struct New {
    new: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
    parked: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<String>,
}

#[derive(Serialize)]
struct Stream {
    old: u16,
    new: u16,
    lag_ms: Option<i64>,
    groups_behind: Option<u64>,
    copied: bool,
}

pub async fn run(plan: Arc<Plan>, args: &args::Status) -> anyhow::Result<Exit> {
    let mut evaluator = Evaluator::new(plan.clone());
    let mut daemons = pages::Daemons::of(&plan);
    let terminal = Terminal::stdout();
    let redraw = args.watch && !args.json && terminal.size().is_some();
    loop {
        // Tables are not compared here: the gate does that, and says so.
        let (decision, facts) = evaluator.sample(Outside::default()).await;
        let (serves, fences, refused_logins) =
            tokio::join!(serves(&plan), fences(&plan), daemons.refused());
        let status = Status {
            serves: Some(serves),
            fences,
            refused_logins,
            ..Status::of(&plan, &decision, &facts)
        };
        match (args.json, redraw) {
            (true, _) => answer::line(serde_json::to_string(&status)?),
            // Home, and clear from there: no flicker.
            (false, true) => answer::line(format_args!("\x1b[H\x1b[J{}", status.text(terminal))),
            (false, false) => answer::line(status.text(terminal)),
        }
        if !args.watch {
            return Ok(status.exit());
        }
        tokio::time::sleep(REDRAW).await;
    }
}

impl Back {
    fn of(decision: &Decision) -> Back {
        let mut back = Back { halted: false, troubles: Vec::new() };
        for reason in &decision.reasons {
            if let Reason::WayBack { why, .. } = reason {
                back.halted |= matches!(*why, "reader_halted" | "applier_halted");
                back.troubles.push(reason.to_string());
            }
        }
        back
    }
}

impl Status {
    fn of(plan: &Plan, decision: &Decision, facts: &Facts) -> Status {
        let old =
            facts.old.iter().enumerate().map(|(old, read)| match read {
                Err(detail) => Old {
                    old,
                    unreachable: Some(detail.clone()),
                    rows_copied: 0,
                    rows_estimated: 0,
                    copied: false,
                    token_age_ms: None,
                    repairs_refused: 0,
                    halted: None,
                },
                Ok(read) => Old {
                    old,
                    unreachable: None,
                    rows_copied: read.tables.iter().map(|table| table.rows_copied).sum(),
                    // The server's estimate may be too low: never less than what was counted.
                    rows_estimated: read
                        .tables
                        .iter()
                        .map(|t| {
                            if t.done { t.rows_copied } else { t.rows_estimated.max(t.rows_copied) }
                        })
                        .sum(),
                    copied: !read.tables.is_empty() && read.tables.iter().all(|table| table.done),
                    token_age_ms: read.token.as_ref().map(|t| (read.now_us - t.clock_us) / 1000),
                    repairs_refused: read.repairs_refused,
                    halted: read.token.as_ref().and_then(|token| token.halted.clone()),
                },
            });
        let new = facts.new.iter().enumerate().map(|(new, read)| match read {
            Err(detail) => New { new, unreachable: Some(detail.clone()), parked: 0, halted: None },
            Ok(read) => New {
                new,
                unreachable: None,
                parked: read.parked,
                halted: read.marks.iter().find_map(|mark| mark.halted.clone()),
            },
        });
        let streams = decision.streams.iter().map(|lag| Stream {
            old: lag.old,
            new: lag.new,
            lag_ms: lag.lag_ms,
            groups_behind: lag.groups,
            copied: lag.copied,
        });
        Status {
            plan: plan.name.clone(),
            serves: None,
            fences: Vec::new(),
            old: old.collect(),
            new: new.collect(),
            streams: streams.collect(),
            notes: decision.notes.iter().filter(|note| *note == UNPROVEN).cloned().collect(),
            refused_logins: Vec::new(),
            back: facts.back.is_some().then(|| Back::of(decision)),
        }
    }

    fn exit(&self) -> Exit {
        let halted = self.back.as_ref().is_some_and(|back| back.halted)
            || self.old.iter().any(|old| old.halted.is_some())
            || self.new.iter().any(|new| new.halted.is_some())
            || self.fences.iter().any(|fence| fence.state == "open");
        let silent = self.old.iter().any(|old| old.unreachable.is_some())
            || self.new.iter().any(|new| new.unreachable.is_some());
        match (halted, silent) {
            (true, _) => Exit::Halted,
            (false, true) => Exit::CannotTell,
            (false, false) => Exit::Done,
        }
    }

    fn text(&self, terminal: Terminal) -> String {
        // Writing to a String does not fail.
        let mut text =
            format!("{}: {} -> {} shards\n\n", self.plan, self.old.len(), self.new.len());
        if let Some(serves) = &self.serves {
            let tone = if serves.side == "none" { Tone::Bad } else { Tone::Strong };
            let _ = writeln!(text, "{}\n", terminal.paint(tone, &serves.text));
        }
        for fence in &self.fences {
            let _ = writeln!(text, "{}", fence.text);
        }
        for refused in &self.refused_logins {
            let _ = writeln!(text, "{refused}");
        }
        if !self.fences.is_empty() || !self.refused_logins.is_empty() {
            text.push('\n');
        }
        for old in &self.old {
            if let Some(detail) = &old.unreachable {
                let _ = writeln!(text, "old {:<4} cannot be asked: {detail}", old.old);
                continue;
            }
            let share = match old.rows_estimated {
                0 => 0.0,
                rows => 100.0 * old.rows_copied as f64 / rows as f64,
            };
            let share = if old.copied { "all".to_owned() } else { format!("{share:.1} %") };
            let _ = write!(text, "old {:<4} copied {share:>7} ({} rows)", old.old, old.rows_copied);
            let _ = match old.token_age_ms {
                Some(age) => write!(text, ", read {} ago", seconds(age)),
                None => write!(text, ", never read"),
            };
            if old.repairs_refused > 0 {
                let _ = write!(text, "  REFUSED {} requests for a repair", old.repairs_refused);
            }
            text += &halted(terminal, old.halted.as_deref());
        }
        text.push('\n');
        for new in &self.new {
            if let Some(detail) = &new.unreachable {
                let _ = writeln!(text, "new {:<4} cannot be asked: {detail}", new.new);
                continue;
            }
            let _ = write!(text, "new {:<4} parked {:>7}", new.new, new.parked);
            text += &halted(terminal, new.halted.as_deref());
        }
        let head = format!("{:<12}{:>12}{:>12}  copied", "stream", "lag", "groups");
        let _ = writeln!(text, "\n{}", terminal.paint(Tone::Faint, head));
        for stream in &self.streams {
            let name = format!("{} -> {}", stream.old, stream.new);
            let lag = stream.lag_ms.map_or("?".to_owned(), seconds);
            let groups = stream.groups_behind.map_or("?".to_owned(), |groups| groups.to_string());
            let copied = if stream.copied { "yes" } else { "no" };
            let _ = writeln!(text, "{name:<12}{lag:>12}{groups:>12}  {copied}");
        }
        match &self.back {
            None => {}
            Some(back) if back.troubles.is_empty() => {
                let ready = terminal.paint(Tone::Good, "ready");
                let _ = write!(text, "\nway back: {ready}\n");
            }
            Some(back) => {
                text.push('\n');
                back.troubles.iter().for_each(|trouble| text += &format!("{trouble}\n"));
            }
        }
        for note in &self.notes {
            let _ =
                write!(text, "\n{}\n", terminal.paint(Tone::Warning, format_args!("note: {note}")));
        }
        text.trim_end().to_owned()
    }
}

fn seconds(ms: i64) -> String {
    format!("{:.3} s", ms as f64 / 1000.0)
}

fn halted(terminal: Terminal, why: Option<&str>) -> String {
    why.map_or("\n".to_owned(), |why| format!("  {} {why}\n", terminal.paint(Tone::Bad, "HALTED:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_streams() {
        let old = Old {
            old: 0,
            unreachable: None,
            rows_copied: 50,
            rows_estimated: 200,
            copied: false,
            token_age_ms: Some(120),
            repairs_refused: 3,
            halted: None,
        };
        let new = New { new: 0, unreachable: None, parked: 2, halted: Some("a stray".into()) };
        let away = Old {
            old: 1,
            unreachable: Some("db:3307 cannot be reached: gone".into()),
            rows_copied: 0,
            rows_estimated: 0,
            copied: false,
            token_age_ms: None,
            repairs_refused: 0,
            halted: None,
        };
        let stream =
            Stream { old: 0, new: 0, lag_ms: Some(1500), groups_behind: None, copied: false };
        let troubles = vec!["way back: new shard 0 has never been read".to_owned()];
        let status = Status {
            plan: "shop".into(),
            old: vec![old, away],
            new: vec![new],
            streams: vec![stream],
            notes: vec![UNPROVEN.to_owned()],
            refused_logins: Vec::new(),
            back: Some(Back { halted: false, troubles }),
            serves: Some(Serves { side: "new", text: "the new shards serve".into() }),
            fences: vec![Fence {
                shard: "old shard 0".into(),
                state: "restored",
                text: "fence of old shard 0 put up again".into(),
            }],
        };
        let expected = "shop: 2 -> 1 shards\n\nthe new shards serve\n\n\
            fence of old shard 0 put up again\n\n\
            old 0    copied  25.0 % (50 rows), read 0.120 s ago  \
            REFUSED 3 requests for a repair\n\
            old 1    cannot be asked: db:3307 cannot be reached: gone\n\n\
            new 0    parked       2  HALTED: a stray\n\n\
            stream               lag      groups  copied\n\
            0 -> 0           1.500 s           ?  no\n\n\
            way back: new shard 0 has never been read\n\n\
            note: verification: given up by the plan (gate.verify_age = \"none\"): nothing proves the \
            rows equal";
        assert_eq!(status.text(Terminal::PLAIN), expected);
        assert_eq!(status.exit(), Exit::Halted);
    }
}
