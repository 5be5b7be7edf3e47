//! How a command tells of its steps: in words with the time of day, or with `--json` one object a line,
//! each with `at` in RFC 3339 (UTC), `kind` and `text`, and what else its kind has.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::answer;
use crate::exit::Exit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

impl Form {
    pub fn of(json: bool) -> Form {
        if json { Form::Json } else { Form::Text }
    }

    /// Something that has happened, with the time of day.
    pub fn happened(self, kind: &str, text: &str, more: Value) {
        match self {
            Form::Text => answer::line(format_args!("{} {text}", time_of_day(SystemTime::now()))),
            Form::Json => object(kind, text, more),
        }
    }

    /// What would be done, or was found: as it stands.
    pub fn said(self, kind: &str, text: &str, more: Value) {
        match self {
            Form::Text => answer::line(text),
            Form::Json => object(kind, text, more),
        }
    }

    /// How it ended, and what to do next.
    pub fn end(self, text: &str, hint: Option<&str>, exit: Exit) {
        match self {
            Form::Text => {
                answer::line(text);
                if let Some(hint) = hint {
                    answer::line(format_args!("hint: {hint}"));
                }
            }
            Form::Json => last("end", text, json!({ "exit": exit as u8, "hint": hint })),
        }
    }
}

/// The last line of a command that comes to a report, with all its fields.
pub fn report(text: &str, report: &impl Serialize, exit: Exit) -> anyhow::Result<()> {
    let Value::Object(mut more) = serde_json::to_value(report)? else {
        anyhow::bail!("a report has fields");
    };
    more.insert("exit".to_owned(), json!(exit as u8));
    last("report", text, Value::Object(more));
    Ok(())
}

fn last(kind: &str, text: &str, more: Value) {
    answer::last(Value::Object(fields(SystemTime::now(), kind, text, more)));
}

fn object(kind: &str, text: &str, more: Value) {
    answer::line(Value::Object(fields(SystemTime::now(), kind, text, more)));
}

fn fields(now: SystemTime, kind: &str, text: &str, more: Value) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("at".to_owned(), Value::String(rfc3339(now)));
    fields.insert("kind".to_owned(), Value::String(kind.to_owned()));
    fields.insert("text".to_owned(), Value::String(text.to_owned()));
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields
}

/// `2026-11-30T14:02:11.123Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = since_1970(time);
    // Days since 0000-03-01; years begin in March so that the leap day is last.
    let days = since.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leaps = day_of_era / 1460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * since_march + 2) / 5 + 1;
    let month = if since_march < 10 { since_march + 3 } else { since_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{}Z", time_of_day(time))
}

/// UTC, like every time that modshift shows.
pub fn time_of_day(time: SystemTime) -> String {
    let since = since_1970(time);
    let in_day = since.as_secs() % 86_400;
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", since.subsec_millis())
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let check = |ms, text| {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(ms)), text);
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_001, "2000-02-29T00:00:00.001Z");
        check(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        check(1_767_225_599_500, "2025-12-31T23:59:59.500Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        assert_eq!(time_of_day(UNIX_EPOCH + Duration::from_millis(86_399_007)), "23:59:59.007");
    }

    #[test]
    fn an_object_has_its_time_kind_and_text_and_what_its_kind_adds() {
        let more = json!({ "step": "fence", "ms": 12.5 });
        let fields = fields(UNIX_EPOCH, "step", "fence 12.5 ms", more);
        let expected = json!({
            "at": "1970-01-01T00:00:00.000Z", "kind": "step", "text": "fence 12.5 ms",
            "step": "fence", "ms": 12.5,
        });
        assert_eq!(Value::Object(fields), expected);
    }
}
