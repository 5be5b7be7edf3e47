//! What is read at a glance: who serves first, then whatever somebody has to act on, whole; then a line
//! or two each for copy, lag, verification, daemons, way back and gate. What must fit a screen leaves out
//! what is well.

#[cfg(test)]
mod tests;

use crate::cutover::Serves;
use crate::gate::summary::ranges;
use crate::status::found::{Back, New, Old, Status, skipped};
use crate::terminal::{Terminal, Tone};

use super::lags;

/// Of a file or a pipe.
const COLUMNS: usize = 80;
/// Reasons of the gate on a screen.
const REASONS: usize = 4;
const LABEL: usize = 10;

#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub tone: Option<Tone>,
    pub text: String,
}

impl Line {
    pub fn plain(text: impl Into<String>) -> Line {
        Line { tone: None, text: text.into() }
    }

    pub fn toned(tone: Tone, text: impl Into<String>) -> Line {
        Line { tone: Some(tone), text: text.into() }
    }

    fn of(label: &str, text: &str) -> Line {
        Line::plain(format!("{label:LABEL$}{text}"))
    }
}

/// `screen`: it has to fit the terminal, if there is one.
pub fn text(status: &Status, terminal: Terminal, screen: bool) -> String {
    let size = terminal.size();
    let columns = size.map_or(COLUMNS, |(_, columns)| columns);
    let lines = match size.filter(|_| screen) {
        Some((rows, _)) => on_screen(status, rows, columns),
        None => all(status, columns),
    };
    let painted = lines.into_iter().map(|line| match line.tone {
        Some(tone) => terminal.paint(tone, line.text),
        None => line.text,
    });
    painted.collect::<Vec<_>>().join("\n")
}

fn all(status: &Status, columns: usize) -> Vec<Line> {
    let mut lines = head(status);
    lines.extend(urgent(status));
    let (before, after) = body(status);
    lines.extend(before);
    if !status.finished() {
        lines.extend(lags::lines(status, columns, None));
    }
    lines.extend(after);
    lines.extend(gate(status, usize::MAX));
    lines
}

fn on_screen(status: &Status, rows: usize, columns: usize) -> Vec<Line> {
    let wrapped = |lines: Vec<Line>| lines.into_iter().flat_map(|line| wrap(line, columns));
    let mut lines: Vec<Line> = wrapped(head(status)).collect();
    lines.extend(wrapped(urgent(status)));
    if lines.len() >= rows {
        // What is above is out of view then.
        lines.extend(wrapped(head(status)));
        return lines;
    }
    let room = rows - lines.len();
    let (before, after) = body(status);
    let before: Vec<Line> = wrapped(before).collect();
    let after: Vec<Line> = wrapped(after).collect();
    let gate: Vec<Line> = wrapped(gate(status, REASONS)).collect();
    let others = before.len() + after.len() + gate.len();
    let lags = match status.finished() {
        true => Vec::new(),
        false => lags::lines(status, columns, Some(room.saturating_sub(others).max(1))),
    };
    let body: Vec<Line> = before.into_iter().chain(lags).chain(after).chain(gate).collect();
    let cut = body.len() > room;
    lines.extend(body.into_iter().take(if cut { room.saturating_sub(1) } else { room }));
    if cut {
        lines.push(Line::toned(Tone::Faint, "there is more: modshift status --verbose"));
    }
    lines
}

fn head(status: &Status) -> Vec<Line> {
    let mut lines = vec![Line::plain(status.title())];
    lines.extend(status.serves.as_ref().map(|serves| Line::toned(tone_of(serves), &serves.text)));
    lines
}

fn tone_of(serves: &Serves) -> Tone {
    match serves.side {
        "none" | "unknown" => Tone::Bad,
        _ if serves.unfinished => Tone::Warning,
        _ => Tone::Strong,
    }
}

/// What somebody has to act on.
fn urgent(status: &Status) -> Vec<Line> {
    let mut lines = Vec::new();
    if status.serves.as_ref().is_none_or(|serves| serves.side == "unknown") {
        lines.extend(phases(status));
    }
    for halt in &status.halts {
        lines.push(Line::toned(
            Tone::Bad,
            format!("HALTED: {} stopped: {}", halt.stream, halt.text),
        ));
    }
    for fence in &status.fences {
        let tone = if fence.state == "open" { Tone::Bad } else { Tone::Warning };
        lines.push(Line::toned(tone, &fence.text));
    }
    lines.extend(status.refused_logins.iter().map(|refused| Line::toned(Tone::Bad, refused)));
    lines.extend(status.waits.iter().map(|waits| Line::toned(Tone::Warning, waits)));
    let old = status.old.iter().map(|old| (old.old as u16, old.unreachable.as_deref()));
    let new = status.new.iter().map(|new| (new.new as u16, new.unreachable.as_deref()));
    lines.extend(away("old", old));
    lines.extend(away("new", new));
    for old in status.old.iter().filter(|old| old.repairs_refused > 0) {
        lines.push(Line::toned(
            Tone::Bad,
            format!(
                "old shard {}: its reader REFUSED {} requests for a repair; its log says why",
                old.old, old.repairs_refused
            ),
        ));
    }
    for old in &status.old {
        for resync in old.resyncs.iter().filter(|resync| resync.refused) {
            lines.push(Line::toned(
                Tone::Bad,
                format!("old shard {}: its reader {}", old.old, resync.text()),
            ));
        }
        let of = |group| format!("old shard {}: {}", old.old, skipped(group));
        lines.extend(old.skipped.iter().map(|group| Line::toned(Tone::Warning, of(group))));
    }
    lines
}

/// Each shard's own word, where the journal cannot be read.
fn phases(status: &Status) -> Vec<Line> {
    let old = status.old.iter().map(|old| (old.old as u16, old.phase));
    let new = status.new.iter().map(|new| (new.new as u16, new.phase));
    let side = |side: &str, shards: Vec<(u16, Option<&'static str>)>| {
        let said = ["serving", "fenced"].into_iter().filter_map(|phase| {
            let are = shards.iter().filter(|(_, said)| *said == Some(phase));
            let numbers: Vec<u16> = are.map(|(number, _)| *number).collect();
            (!numbers.is_empty()).then(|| format!("{phase}: {side} {}", ranges(&numbers)))
        });
        said.collect::<Vec<_>>()
    };
    let said = [side("old", old.collect()), side("new", new.collect())].concat();
    let said = if said.is_empty() { "nothing".to_owned() } else { said.join("; ") };
    vec![Line::toned(Tone::Warning, format!("by what each shard says of itself: {said}"))]
}

fn away<'a>(side: &str, shards: impl Iterator<Item = (u16, Option<&'a str>)>) -> Option<Line> {
    let away: Vec<(u16, &str)> =
        shards.filter_map(|(number, detail)| Some((number, detail?))).collect();
    let (_, detail) = away.first()?;
    let numbers: Vec<u16> = away.iter().map(|(number, _)| *number).collect();
    let text = match away.len() {
        1 => format!("{side} shard {} does not answer: {detail}", numbers[0]),
        _ => format!("{side} shards {} do not answer: {detail}, ...", ranges(&numbers)),
    };
    Some(Line::toned(Tone::Bad, text))
}

/// What stands above the lags, and below them.
fn body(status: &Status) -> (Vec<Line>, Vec<Line>) {
    if status.finished() {
        let text = "the reshard is finished: nothing is copied and nothing is read any more";
        return (vec![Line::plain(text)], Vec::new());
    }
    let mut before = vec![copy(status), reading(status)];
    type RowsOf = fn(&New) -> u64;
    let kinds: [(RowsOf, &str); 2] = [
        (|new| new.parked.saturating_sub(new.refused), "wait for their place"),
        (|new| new.refused, "are not stored as they are, and wait for a change of their own,"),
    ];
    for (rows_of, what) in kinds {
        let rows: u64 = status.new.iter().map(rows_of).sum();
        if rows > 0 {
            let of = status.new.iter().filter(|new| rows_of(new) > 0).map(|new| new.new as u16);
            let text = format!("{rows} rows {what} on new {}", ranges(&of.collect::<Vec<_>>()));
            before.push(Line { tone: Some(Tone::Warning), ..Line::of("parked", &text) });
        }
    }
    let mut after = verification(status);
    after.extend(daemons(status));
    after.extend(back(status));
    (before, after)
}

fn share(old: &Old) -> f64 {
    match old.rows_estimated {
        0 => 0.0,
        rows => 100.0 * old.rows_copied as f64 / rows as f64,
    }
}

fn copy(status: &Status) -> Line {
    let asked = || status.old.iter().filter(|old| old.unreachable.is_none());
    let rows: u64 = asked().map(|old| old.rows_copied).sum();
    let estimated: u64 = asked().map(|old| old.rows_estimated).sum();
    let away = match status.away(true, false) {
        true if asked().count() == 0 => return Line::of("copy", "not known: no old shard answers"),
        true => "; not known of those that do not answer",
        false => "",
    };
    if asked().all(|old| old.copied) {
        let tone = away.is_empty().then_some(Tone::Good);
        return Line { tone, ..Line::of("copy", &format!("all copied, {rows} rows{away}")) };
    }
    let slowest = asked().filter(|old| !old.copied).min_by(|a, b| share(a).total_cmp(&share(b)));
    let slowest = slowest.map(|old| format!("; least of old {}: {:.1} %", old.old, share(old)));
    let slowest = slowest.filter(|_| asked().count() > 1).unwrap_or_default();
    let text = match estimated {
        0 => format!("not begun{away}"),
        _ => {
            let share = 100.0 * rows as f64 / estimated as f64;
            format!("{share:.1} % of about {estimated} rows{slowest}{away}")
        }
    };
    Line::of("copy", &text)
}

fn reading(status: &Status) -> Line {
    let asked = || status.old.iter().filter(|old| old.unreachable.is_none());
    let numbers = |is: &dyn Fn(&Old) -> bool| -> Vec<u16> {
        asked().filter(|old| is(old)).map(|old| old.old as u16).collect()
    };
    let never = numbers(&|old| old.token_age_ms.is_none());
    let silent = numbers(&Old::silent);
    let oldest = asked().filter_map(|old| Some((old.token_age_ms?, old.old))).max();
    let mut parts = Vec::new();
    if let Some((age, old)) = oldest {
        let age = age as f64 / 1000.0;
        let of = if asked().count() > 1 { format!(" (old {old})") } else { String::new() };
        parts.push(match silent.as_slice() {
            [] => format!("newest tokens up to {age:.1} s old{of}"),
            silent => format!(
                "old {} silent, for up to {age:.1} s{of}: is its daemon there?",
                ranges(silent)
            ),
        });
    }
    if !never.is_empty() {
        parts.push(format!(
            "old {} never read: no daemon has begun there, or its log says why it ended",
            ranges(&never)
        ));
    }
    if status.away(true, false) {
        parts.push("not known of those that do not answer".to_owned());
    }
    let tone = (!never.is_empty() || !silent.is_empty()).then_some(Tone::Bad);
    Line { tone, ..Line::of("read", &parts.join("; ")) }
}

fn verification(status: &Status) -> Vec<Line> {
    let verification = &status.verification;
    let coverage = &verification.coverage;
    let mut lines = Vec::new();
    let label = |text: &str| Line::of("verified", text);
    if status.new_serve() && verification.differ.is_none() {
        // What was proven before the cutover grows old, and nobody needs it any more.
        return lines;
    }
    if let Some(differ) = &verification.differ {
        let text = format!("ROWS DIFFER: {differ}; modshift verify names them");
        lines.push(Line { tone: Some(Tone::Bad), ..label(&text) });
    } else {
        let (tables, proven) = (coverage.tables, coverage.proven);
        let (tone, mut text) = match (verification.age_s, verification.limit_s) {
            (Some(age), Some(limit)) if age > limit => (
                Some(Tone::Warning),
                format!("all {tables} tables, oldest proof {} (limit {})", ago(age), span(limit)),
            ),
            (Some(age), limit) => (
                limit.map(|_| Tone::Good),
                format!("all {tables} tables equal, oldest proof {}", ago(age)),
            ),
            // Who does not answer proves nothing.
            (None, _) if status.away(false, true) => {
                (None, "not known while new shards do not answer".to_owned())
            }
            (None, _) if proven == 0 => (None, "not yet".to_owned()),
            (None, _) => (None, format!("{proven} of {tables} tables so far")),
        };
        if verification.limit_s.is_none() {
            text += "; the plan asks for no proof";
        }
        lines.push(Line { tone, ..label(&text) });
    }
    if let Some((table, rows)) = coverage.under_way.first() {
        let more = match coverage.under_way.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more tables"),
        };
        lines.push(Line::of("", &format!("comparing {table}, {rows} rows so far{more}")));
    }
    let stopped = &verification.stopped;
    if let Some(first) = stopped.first() {
        let more = match stopped.len() - 1 {
            0 => String::new(),
            more => format!(" (and on {more} more new shards)"),
        };
        lines.push(Line::toned(Tone::Bad, format!("{:LABEL$}VERIFIER STOPPED: {first}{more}", "")));
    }
    lines
}

fn daemons(status: &Status) -> Vec<Line> {
    let there: Vec<_> = status.daemons.iter().filter(|daemon| daemon.answers).collect();
    if there.is_empty() {
        let at: Vec<&str> = status.daemons.iter().map(|daemon| daemon.url.as_str()).collect();
        let text = format!("none answers at {}: pause and throttle are not known", at.join(", "));
        return vec![Line { tone: Some(Tone::Faint), ..Line::of("daemons", &text) }];
    }
    let silent = status.daemons.iter().filter(|daemon| !daemon.answers).map(|daemon| {
        let why = daemon.why.as_deref().unwrap_or("no answer");
        let text = format!(
            "{} at {} does not answer ({why}): its pause and throttle are not known",
            daemon.role, daemon.url
        );
        Line { tone: Some(Tone::Warning), ..Line::of("daemons", &text) }
    });
    let held: Vec<Line> = there
        .iter()
        .filter_map(|daemon| {
            let held = daemon.held.as_ref()?;
            let pace = daemon.pace.unwrap_or(1.0) * 100.0;
            let text = format!("{} copies and verifies at {pace:.0} %: {held}", daemon.role);
            Some(Line { tone: Some(Tone::Warning), ..Line::of("throttle", &text) })
        })
        .collect();
    let held = match held.is_empty() {
        true => vec![Line::of("throttle", "none")],
        false => held,
    };
    silent.chain(held).collect()
}

fn back(status: &Status) -> Vec<Line> {
    let copied = status.old.iter().all(|old| old.copied);
    match &status.back {
        None => vec![Line::plain("way back: given up by the plan (back.enabled = false)")],
        // Now it has something to carry, and cannot.
        Some(back) if status.away(true, true) && status.new_serve() => {
            let text = "way back: NOT READY: what shards that do not answer wrote, or lack, waits";
            let mut lines = vec![Line::toned(Tone::Bad, text)];
            lines.extend(troubles(back));
            lines
        }
        Some(back) if back.troubles.is_empty() && status.away(true, true) => {
            vec![Line::plain("way back: not known while shards do not answer")]
        }
        Some(back) if back.troubles.is_empty() && (copied || status.new_serve()) => {
            vec![Line::toned(Tone::Good, "way back: ready")]
        }
        Some(back) if back.troubles.is_empty() => {
            vec![Line::plain("way back: its streams run, with nothing to carry before the cutover")]
        }
        Some(back) => troubles(back).collect(),
    }
}

/// Halts are told of above.
fn troubles(back: &Back) -> impl Iterator<Item = Line> {
    let summary = back.summary.iter().filter(|line| !line.contains(" stopped: "));
    summary.map(|line| Line::toned(Tone::Warning, line))
}

fn gate(status: &Status, reasons_max: usize) -> Vec<Line> {
    let gate = &status.gate;
    let serves = status.serves.as_ref().map(|serves| serves.side);
    if status.finished() {
        return Vec::new();
    }
    if serves == Some("new") {
        let text = "not asked: the new shards serve; modshift rollback asks that of the way back";
        return vec![Line::of("gate", text)];
    }
    let mut lines = Vec::new();
    match gate.open {
        Some(true) => lines.push(Line { tone: Some(Tone::Good), ..Line::of("gate", "open") }),
        Some(false) if gate.holds => lines
            .push(Line::of("gate", "closed: within limits, but not yet for as long as gate.hold")),
        Some(false) if gate.summary.is_empty() => {
            let text = "closed by a daemon's gate a moment ago; modshift gate says why";
            lines.push(Line { tone: Some(Tone::Warning), ..Line::of("gate", text) });
        }
        Some(false) => {
            // The way back has said so above.
            let told = |line: &&String| !line.starts_with("way back: ");
            let told: Vec<&String> = gate.summary.iter().filter(told).collect();
            let first = told.first().map_or("the way back is not ready", |line| line.as_str());
            let closed = if gate.cannot_tell { "unknown, so closed" } else { "closed" };
            lines.push(Line {
                tone: Some(Tone::Warning),
                ..Line::of("gate", &format!("{closed}: {first}"))
            });
            let more = told.iter().skip(1);
            let room = reasons_max.saturating_sub(1);
            lines.extend(more.clone().take(room).map(|line| Line::of("", line)));
            match more.count().saturating_sub(room) {
                0 => {}
                left => lines.push(Line::of("", &format!("and {left} more: --verbose"))),
            }
        }
        None => lines.push(Line::of(
            "gate",
            "no stream keeps it closed; modshift gate asks what else has to be so",
        )),
    }
    lines
}

fn ago(s: u64) -> String {
    format!("{} ago", span(s))
}

fn span(s: u64) -> String {
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3600),
    }
}

/// By words; a word that is wider than the terminal is cut by it.
fn wrap(line: Line, columns: usize) -> Vec<Line> {
    let indent: String = " ".repeat(LABEL.min(columns / 2));
    let mut lines: Vec<String> = Vec::new();
    let mut rest = line.text.as_str();
    loop {
        let margin = if lines.is_empty() { "" } else { indent.as_str() };
        let room = columns.saturating_sub(margin.len()).max(1);
        if rest.chars().count() <= room {
            lines.push(format!("{margin}{rest}"));
            break;
        }
        let fits: usize = rest.chars().take(room).map(char::len_utf8).sum();
        // The blank behind what fits is a place to break as well.
        let blank = match rest[fits..].starts_with(' ') {
            true => Some(fits),
            false => rest[..fits].trim_end().rfind(' ').filter(|at| !rest[..*at].trim().is_empty()),
        };
        let at = blank.unwrap_or(fits);
        lines.push(format!("{margin}{}", &rest[..at]));
        rest = rest[at..].trim_start();
        if rest.is_empty() {
            break;
        }
    }
    lines.into_iter().map(|text| Line { tone: line.tone, text }).collect()
}
