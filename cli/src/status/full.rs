//! Every shard, every stream and every reason on a line of its own: `--verbose`.

use std::fmt::Write as _;

use crate::status::found::{Status, skipped};
use crate::terminal::{Terminal, Tone};

pub fn text(status: &Status, terminal: Terminal) -> String {
    // Writing to a String does not fail.
    let mut text = format!("{}\n", status.title());
    if let Some(serves) = &status.serves {
        let tone = if serves.side == "none" { Tone::Bad } else { Tone::Strong };
        let _ = writeln!(text, "{}", terminal.paint(tone, &serves.text));
    }
    for halt in &status.halts {
        let halted = terminal.paint(Tone::Bad, "HALTED:");
        let _ = writeln!(text, "{halted} {} stopped: {}", halt.stream, halt.text);
    }
    let fences = status.fences.iter().map(|fence| &fence.text);
    for line in fences.chain(&status.refused_logins).chain(&status.waits) {
        let _ = writeln!(text, "{line}");
    }
    text.push('\n');
    for old in &status.old {
        if let Some(detail) = &old.unreachable {
            let _ = writeln!(text, "old {:<4} does not answer: {detail}", old.old);
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
        if let Some(phase) = old.phase {
            let _ = write!(text, ", {phase}");
        }
        if old.repairs_refused > 0 {
            let _ = write!(text, "  REFUSED {} requests for a repair", old.repairs_refused);
        }
        for resync in &old.resyncs {
            let _ = write!(text, ", {}", resync.text());
        }
        text += if old.halted.is_some() { "  HALTED\n" } else { "\n" };
        for group in &old.skipped {
            let _ = writeln!(text, "         {}", skipped(group));
        }
    }
    text.push('\n');
    for new in &status.new {
        if let Some(detail) = &new.unreachable {
            let _ = writeln!(text, "new {:<4} does not answer: {detail}", new.new);
            continue;
        }
        let _ = write!(text, "new {:<4} parked {:>7}", new.new, new.parked);
        if new.refused > 0 {
            let _ = write!(text, " ({} not stored as they are)", new.refused);
        }
        if let Some(phase) = new.phase {
            let _ = write!(text, ", {phase}");
        }
        text += if new.halted.is_some() { "  HALTED\n" } else { "\n" };
    }
    let head = format!("{:<12}{:>12}{:>12}  copied", "stream", "lag", "groups");
    let _ = writeln!(text, "\n{}", terminal.paint(Tone::Faint, head));
    for stream in &status.streams {
        let name = format!("{} -> {}", stream.old, stream.new);
        let unknown = if status.is_away(stream) { "not known" } else { "not yet" };
        let lag = stream.lag_ms.map_or(unknown.to_owned(), seconds);
        let groups = stream.groups_behind.map_or("-".to_owned(), |groups| groups.to_string());
        let copied = if stream.copied { "yes" } else { "no" };
        let _ = writeln!(text, "{name:<12}{lag:>12}{groups:>12}  {copied}");
    }
    if let Some(back) = status.back.as_ref().filter(|_| status.new_serve()) {
        let head = format!("{:<12}{:>12}", "way back", "lag");
        let _ = writeln!(text, "\n{}", terminal.paint(Tone::Faint, head));
        for stream in &back.streams {
            let name = format!("{} -> {}", stream.new, stream.old);
            let unknown = if status.is_away(stream) { "not known" } else { "not yet" };
            let lag = stream.lag_ms.map_or(unknown.to_owned(), seconds);
            let _ = writeln!(text, "{name:<12}{lag:>12}");
        }
    }
    verification(&mut text, status);
    for daemon in &status.daemons {
        let said = match (daemon.answers, &daemon.held) {
            (false, _) => {
                let why = daemon.why.as_deref().unwrap_or("no answer");
                format!("does not answer ({why}), so its pause and throttle are not known")
            }
            (true, None) => "at full pace".to_owned(),
            (true, Some(why)) => {
                let pace = daemon.pace.unwrap_or(1.0) * 100.0;
                format!("copies and verifies at {pace:.0} %: {why}")
            }
        };
        let _ = writeln!(text, "modshift {} at {}: {said}", daemon.role, daemon.url);
    }
    match &status.back {
        None => text += "\nway back: given up by the plan (back.enabled = false)\n",
        Some(back) if back.troubles.is_empty() && status.away(true, true) => {
            text += "\nway back: not known while shards do not answer\n";
        }
        Some(back) if back.troubles.is_empty() => text += "\nway back: no trouble\n",
        Some(back) => {
            text.push('\n');
            back.troubles.iter().for_each(|trouble| text += &format!("{trouble}\n"));
        }
    }
    let gate = match status.gate.open {
        Some(true) => "open",
        Some(false) if status.gate.cannot_tell => "unknown, so closed",
        Some(false) => "closed",
        None => "no stream keeps it closed; modshift gate asks what else has to be so",
    };
    let _ = writeln!(text, "\ngate: {gate}");
    for reason in status.gate.reasons.iter().filter(|reason| !reason.starts_with("way back: ")) {
        let _ = writeln!(text, "  {reason}");
    }
    for note in &status.notes {
        let _ = writeln!(text, "{}", terminal.paint(Tone::Warning, format_args!("note: {note}")));
    }
    text.trim_end().to_owned()
}

fn verification(text: &mut String, status: &Status) {
    let verification = &status.verification;
    let coverage = &verification.coverage;
    let (proven, tables) = (coverage.proven, coverage.tables);
    let _ = write!(text, "\nverified: {proven} of {tables} tables");
    if let Some(age) = verification.age_s {
        let _ = write!(text, ", oldest proof {age} s ago");
    }
    if let Some(limit) = verification.limit_s {
        let _ = write!(text, " (limit {limit} s)");
    }
    text.push('\n');
    for (table, rows) in &coverage.under_way {
        let _ = writeln!(text, "comparing {table}: {rows} rows so far");
    }
    if let Some(differ) = &verification.differ {
        let _ = writeln!(text, "ROWS DIFFER: {differ}");
    }
    for why in &verification.stopped {
        let _ = writeln!(text, "VERIFIER STOPPED: {why}");
    }
}

fn seconds(ms: i64) -> String {
    format!("{:.3} s", ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use modshift_consumer::gate::SkipFacts;

    use super::*;
    use crate::status::found::tests::well;
    use crate::status::found::{Back, Old};

    #[test]
    fn every_shard_and_every_stream_has_its_line() {
        let mut status = well(2, 1);
        status.old[0].copied = false;
        status.old[0].rows_copied = 250;
        status.old[0].repairs_refused = 3;
        let (gtid, why, tables) = ("0-1-7".into(), "a CALL".into(), vec!["t".into(), "s".into()]);
        status.old[0].skipped = vec![SkipFacts { gtid, why, passed: true, tables }];
        status.old[0].halted = Some("a stray".into());
        let gone = Some("db:3307 cannot be reached: gone".into());
        status.old[1] = Old { old: 1, unreachable: gone, ..Old::default() };
        status.new[0].parked = 2;
        status.streams[1].lag_ms = None;
        status.streams[1].groups_behind = None;
        let troubles = vec!["way back: new shard 0 has never been read".to_owned()];
        status.back = Some(Back { summary: troubles.clone(), troubles, ..Back::default() });
        status.gate.open = Some(false);
        status.gate.reasons = vec!["2 rows wait for their place on new shard 0".into()];
        status.notes = vec!["verification: given up by the plan".into()];
        let expected = "shop: 2 -> 1 shards\n\
            the old shards serve; no cutover yet\n\n\
            old 0    copied  25.0 % (250 rows), read 0.120 s ago, serving  \
            REFUSED 3 requests for a repair  HALTED\n         \
            SKIPPED group 0-1-7 (a CALL): not proven equal since: t, s\n\
            old 1    does not answer: db:3307 cannot be reached: gone\n\n\
            new 0    parked       2, fenced\n\n\
            stream               lag      groups  copied\n\
            0 -> 0           0.200 s           0  yes\n\
            1 -> 0         not known           -  yes\n\n\
            verified: 3 of 3 tables, oldest proof 720 s ago (limit 3600 s)\n\n\
            way back: new shard 0 has never been read\n\n\
            gate: closed\n  2 rows wait for their place on new shard 0\n\
            note: verification: given up by the plan";
        assert_eq!(text(&status, Terminal::PLAIN), expected);
    }
}
