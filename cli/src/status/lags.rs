//! The lags of N x M streams as a matrix, in seconds; where it is wider than the terminal, the worst of
//! each old shard; where it is higher than what is left, what is well in one line and the worst ones.

use crate::gate::summary::ranges;
use crate::status::found::{Status, Stream, is_far_behind};
use crate::terminal::Tone;

use super::brief::Line;

const CELL: usize = 6;
const LABEL: usize = 10;

/// `rows`: at most so many lines; `None`: as many as there are. Of the way back once the new shards
/// serve: by then the others have nothing to carry.
pub fn lines(status: &Status, columns: usize, rows: Option<usize>) -> Vec<Line> {
    let view = View::of(status);
    let shards: Vec<Shard> = (0..view.sources as u16)
        .map(|source| Shard {
            view: &view,
            source,
            streams: view.streams.iter().filter(|s| s.source == source).collect(),
        })
        .collect();
    let limit = status.max_lag_ms;
    if shards.iter().all(|shard| shard.streams.iter().all(|stream| stream.lag_ms.is_none())) {
        let text = match status.away(true, true) {
            true => "not known of shards that do not answer; no other stream has begun",
            false => "not yet: no stream has begun",
        };
        return vec![Line::plain(format!("{:LABEL$}{text}", "lag"))];
    }
    let is_wide = LABEL + CELL * view.targets > columns;
    // `said`: a line above has said already that these are lags.
    let as_matrix = |shards: &[&Shard], said: bool| {
        let numbers: String = (0..view.targets).map(|target| format!("{target:>CELL$}")).collect();
        let head = match (is_wide, said) {
            (false, _) if view.is_back => Some(format!("{:LABEL$}{numbers}", "back, s to")),
            (false, _) => Some(format!("{:LABEL$}{numbers}", "lag, s to")),
            (true, true) => None,
            (true, false) => {
                Some(format!("{:LABEL$}the worst of each {} shard", "lag", view.from()))
            }
        };
        let line = |shard: &&Shard| match is_wide {
            false => shard.cells(limit),
            true => shard.worst(limit),
        };
        let head = head.map(|text| Line::toned(Tone::Faint, text));
        head.into_iter().chain(shards.iter().map(line)).collect::<Vec<_>>()
    };
    let all: Vec<&Shard> = shards.iter().collect();
    let whole = as_matrix(&all, false);
    let Some(rows) = rows.filter(|rows| whole.len() > *rows) else { return whole };

    let (well, mut ill): (Vec<&Shard>, Vec<&Shard>) =
        all.into_iter().partition(|shard| shard.is_well(limit));
    let mut lines = Vec::new();
    if !well.is_empty() {
        let most = well.iter().filter_map(|shard| shard.most()).max().unwrap_or_default();
        let who = match ill.is_empty() {
            true => format!("all {} streams{}", view.streams.len(), view.way()),
            false => {
                let numbers: Vec<u16> = well.iter().map(|shard| shard.source).collect();
                format!("{} {}", view.from(), ranges(&numbers))
            }
        };
        lines.push(Line::toned(
            Tone::Good,
            format!("{:LABEL$}{who} within {}", "lag", seconds(most)),
        ));
    }
    // Beside the line of those that are well, the head of the matrix and the one of those left out.
    let head = usize::from(!is_wide || well.is_empty());
    let room = rows.saturating_sub(lines.len() + head);
    let cut = ill.len() > room;
    let shown = if cut { room.saturating_sub(1).max(1) } else { ill.len() };
    // What has not begun is worse than any lag.
    ill.sort_by_key(|shard| std::cmp::Reverse(shard.most().unwrap_or(i64::MAX)));
    let left: Vec<u16> = sorted(ill.split_off(shown.min(ill.len())).iter().map(|s| s.source));
    ill.sort_by_key(|shard| shard.source);
    if !ill.is_empty() {
        lines.extend(as_matrix(&ill, !well.is_empty()));
    }
    if !left.is_empty() {
        lines.push(Line::toned(
            Tone::Warning,
            format!(
                "{:LABEL$}and {} {}, not as far behind: --verbose",
                "",
                view.from(),
                ranges(&left)
            ),
        ));
    }
    lines
}

fn sorted(numbers: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut numbers: Vec<u16> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// The streams that carry what the application writes.
struct View {
    is_back: bool,
    sources: usize,
    targets: usize,
    streams: Vec<Flow>,
}

struct Flow {
    source: u16,
    target: u16,
    lag_ms: Option<i64>,
    copied: bool,
    /// One of its shards does not answer.
    away: bool,
}

impl View {
    fn of(status: &Status) -> View {
        let back = status.back.as_ref().filter(|_| status.new_serve());
        let streams = back.map_or(&status.streams, |back| &back.streams);
        let is_back = back.is_some();
        let flow = |stream: &Stream| {
            let (source, target) =
                if is_back { (stream.new, stream.old) } else { (stream.old, stream.new) };
            let Stream { lag_ms, copied, .. } = *stream;
            Flow { source, target, lag_ms, copied, away: status.is_away(stream) }
        };
        let (old, new) = (status.old.len(), status.new.len());
        let (sources, targets) = if is_back { (new, old) } else { (old, new) };
        View { is_back, sources, targets, streams: streams.iter().map(flow).collect() }
    }

    fn from(&self) -> &'static str {
        if self.is_back { "new" } else { "old" }
    }

    fn to(&self) -> &'static str {
        if self.is_back { "old" } else { "new" }
    }

    fn way(&self) -> &'static str {
        if self.is_back { " of the way back" } else { "" }
    }
}

struct Shard<'a> {
    view: &'a View,
    source: u16,
    streams: Vec<&'a Flow>,
}

impl Shard<'_> {
    fn is_well(&self, limit: i64) -> bool {
        self.streams.iter().all(|stream| {
            stream.copied && stream.lag_ms.is_some_and(|lag| (0..=limit).contains(&lag))
        })
    }

    /// `None`: some stream has not begun.
    fn most(&self) -> Option<i64> {
        self.streams
            .iter()
            .map(|stream| stream.lag_ms)
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
    }

    fn tone(&self, limit: i64) -> Option<Tone> {
        let most = self.streams.iter().filter_map(|stream| stream.lag_ms).max();
        match most {
            Some(lag) if is_far_behind(lag) => Some(Tone::Bad),
            Some(lag) if !(0..=limit).contains(&lag) => Some(Tone::Warning),
            _ => None,
        }
    }

    fn cells(&self, limit: i64) -> Line {
        let cell = |flow: &&Flow| {
            let none = if flow.away { "away" } else { "-" };
            format!("{:>CELL$}", flow.lag_ms.map_or(none.to_owned(), short))
        };
        let cells: String = self.streams.iter().map(cell).collect();
        Line { tone: self.tone(limit), text: format!("{:LABEL$}{cells}", self.name()) }
    }

    fn worst(&self, limit: i64) -> Line {
        let begun = self.streams.iter().filter_map(|stream| Some((stream.lag_ms?, stream.target)));
        let worst = begun.clone().max();
        let away = self.streams.iter().filter(|flow| flow.away && flow.lag_ms.is_none()).count();
        let missing = self.streams.len() - begun.count() - away;
        let mut text = match worst {
            Some((lag, target)) => {
                format!("worst {} ({} {target})", seconds(lag), self.view.to())
            }
            None if away > 0 => "not known".to_owned(),
            None => "not yet".to_owned(),
        };
        if away > 0 {
            text += &format!(", does not answer: {away}");
        }
        if worst.is_some() && missing > 0 {
            text += &format!(", not begun: {missing}");
        }
        Line { tone: self.tone(limit), text: format!("{:LABEL$}{text}", self.name()) }
    }

    fn name(&self) -> String {
        format!("  {} {}", self.view.from(), self.source)
    }
}

fn seconds(ms: i64) -> String {
    format!("{} s", short(ms))
}

/// In five characters at most, up to eleven years.
fn short(ms: i64) -> String {
    match ms {
        ms if ms.abs() < 100_000 => format!("{:.1}", ms as f64 / 1000.0),
        ms if ms.abs() < 10_000_000 => format!("{}", ms / 1000),
        ms => format!("{}h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::Serves;
    use crate::status::found::tests::well;

    fn check(status: &Status, columns: usize, rows: Option<usize>, expected: &[&str]) {
        let lines = lines(status, columns, rows);
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), expected);
    }

    fn stream(status: &mut Status, old: u16, new: u16) -> &mut Stream {
        let is = |stream: &&mut Stream| (stream.old, stream.new) == (old, new);
        status.streams.iter_mut().find(is).unwrap()
    }

    #[test]
    fn a_matrix_where_it_fits() {
        let mut status = well(2, 3);
        stream(&mut status, 1, 2).lag_ms = Some(1900);
        stream(&mut status, 1, 0).lag_ms = None;
        let expected = [
            "lag, s to      0     1     2",
            "  old 0      0.2   0.2   0.2",
            "  old 1        -   0.2   1.9",
        ];
        check(&status, 80, None, &expected);
        let summed = [
            "lag       the worst of each old shard",
            "  old 0   worst 0.2 s (new 2)",
            "  old 1   worst 1.9 s (new 2), not begun: 1",
        ];
        check(&status, 27, None, &summed);
    }

    #[test]
    fn who_does_not_answer_is_away_and_not_late() {
        let mut status = well(2, 3);
        status.new[2].unreachable = Some("gone".to_owned());
        stream(&mut status, 0, 2).lag_ms = None;
        stream(&mut status, 1, 2).lag_ms = None;
        stream(&mut status, 1, 0).lag_ms = None;
        let expected = [
            "lag, s to      0     1     2",
            "  old 0      0.2   0.2  away",
            "  old 1        -   0.2  away",
        ];
        check(&status, 80, None, &expected);
        let summed = [
            "lag       the worst of each old shard",
            "  old 0   worst 0.2 s (new 1), does not answer: 1",
            "  old 1   worst 0.2 s (new 1), does not answer: 1, not begun: 1",
        ];
        check(&status, 27, None, &summed);
    }

    #[test]
    fn once_the_new_shards_serve_it_is_the_way_back_that_carries() {
        let mut status = well(2, 3);
        let back = status.back.as_mut().unwrap();
        let is = |stream: &&mut Stream| (stream.old, stream.new) == (1, 2);
        back.streams.iter_mut().find(is).unwrap().lag_ms = Some(65_000);
        status.serves = Some(Serves::by_journal("new", String::new()));
        let expected = [
            "back, s to     0     1",
            "  new 0      0.2   0.2",
            "  new 1      0.2   0.2",
            "  new 2      0.2  65.0",
        ];
        check(&status, 80, None, &expected);
        let expected =
            ["lag       new 0-1 within 0.2 s", "back, s to     0     1", "  new 2      0.2  65.0"];
        check(&status, 80, Some(3), &expected);
    }

    #[test]
    fn what_is_well_is_left_out_where_there_is_no_room() {
        let mut status = well(16, 24);
        check(&status, 80, Some(5), &["lag       all 384 streams within 0.2 s"]);
        stream(&mut status, 3, 5).lag_ms = Some(7_250_000);
        stream(&mut status, 9, 1).lag_ms = None;
        let expected = [
            "lag       old 0-2, 4-8, 10-15 within 0.2 s",
            "  old 3   worst 7250 s (new 5)",
            "  old 9   worst 0.2 s (new 23), not begun: 1",
        ];
        check(&status, 80, Some(5), &expected);
        for old in 10..16 {
            stream(&mut status, old, 0).lag_ms = Some(2000 + i64::from(old));
        }
        let expected = [
            "lag       old 0-2, 4-8 within 0.2 s",
            "  old 3   worst 7250 s (new 5)",
            "  old 9   worst 0.2 s (new 23), not begun: 1",
            "  old 15  worst 2.0 s (new 0)",
            "          and old 10-14, not as far behind: --verbose",
        ];
        check(&status, 80, Some(5), &expected);
        for stream in &mut status.streams {
            stream.lag_ms = None;
        }
        check(&status, 80, Some(5), &["lag       not yet: no stream has begun"]);
    }

    #[test]
    fn every_lag_fits_its_cell() {
        for (ms, text) in [(0, "0.0"), (99_949, "99.9"), (100_000, "100"), (-1500, "-1.5")] {
            assert_eq!(short(ms), text);
        }
        assert!([i64::from(u32::MAX), 99_999 * 1000].iter().all(|ms| short(*ms).len() < CELL));
    }
}
