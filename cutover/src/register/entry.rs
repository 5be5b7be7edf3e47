//! The journal's entries: read back into a run, and the words in which they are written.

use std::time::Duration;

use modshift_mariadb::{Conn, error};
use mysql_async::prelude::{FromRow, Queryable};

use super::table::{JOURNAL, earlier};
use crate::decide::{End, Entry, Journal, Run, Since, legal};
use crate::error::CutoverError;
use crate::step::{Direction, Mode, Step};

/// A run as the journal has it.
#[derive(Clone, Debug)]
pub struct Found {
    pub number: u64,
    /// As in `modshift_token.fence`.
    pub name: String,
    pub run: Run,
    pub entries: u64,
    /// Who wrote the last entry, when, and what it was.
    pub who: String,
    pub at: String,
    pub last: String,
    /// What the last `publish` was begun with.
    pub detail: Option<String>,
    pub since: Since,
    /// From-shards that the run goes without.
    pub lost: Vec<u16>,
}

/// With which a daemon writes that it goes on with a run: that begins no budget anew.
pub const WATCHDOG: &str = "\"watchdog\"";

/// The newest run of the plan, `None` if there never was one. For `status`, and whoever asks without a
/// claim.
pub async fn newest(conn: &mut Conn, at: &str, plan: &str) -> Result<Option<Found>, CutoverError> {
    const NO_SUCH_TABLE: u16 = 1146;
    const NO_SUCH_COLUMN: u16 = 1054;
    type Row = (
        (u64, u64, String, String, String),
        (String, Option<String>, String, String, Option<String>, i64),
    );
    let sql =
        "SELECT run, entry, name, direction, mode, state, step, CAST(at AS CHAR), who, detail,
         TIMESTAMPDIFF(MICROSECOND, at, UTC_TIMESTAMP(6))
         FROM modshift_journal WHERE plan = ? AND run = (SELECT MAX(run) FROM modshift_journal
         WHERE plan = ?) ORDER BY entry";
    let rows: Result<Vec<mysql_async::Row>, _> = conn.exec(sql, (plan, plan)).await;
    let rows = match rows.map_err(|error| error::of(at, "reading the journal", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => return Ok(None),
        Err(error) if error.code() == Some(NO_SUCH_COLUMN) => {
            return Err(earlier(at.to_owned(), JOURNAL).into());
        }
        rows => rows?,
    };
    let mut found: Option<Found> = None;
    for row in rows {
        let (
            (number, entry_number, name, direction, mode),
            (state, step, at, who, detail, age_us),
        ): Row = {
            let (a, b, c, d, e, f, g, h, i, j, k) =
                FromRow::from_row_opt(row).map_err(|_| damaged("?", 0, "unreadable"))?;
            ((a, b, c, d, e), (f, g, h, i, j, k))
        };
        let last = format!("{state} {}", step.as_deref().unwrap_or_default());
        let fail = || damaged(&name, entry_number, &last);
        let entry = parse(&state, step.as_deref()).ok_or_else(fail)?;
        if found.is_none() {
            let direction = Direction::of(&direction).ok_or_else(fail)?;
            let journal = Journal::new(Mode::of(&mode).ok_or_else(fail)?);
            found = Some(Found {
                number,
                name: name.clone(),
                run: Run { direction, journal },
                entries: 0,
                who: String::new(),
                at: String::new(),
                last: String::new(),
                detail: None,
                since: Since::default(),
                lost: Vec::new(),
            });
        }
        let Some(found) = &mut found else { continue };
        if entry == Entry::Begun(Step::Publish) {
            found.run.journal.without_handover();
        }
        if !legal(&found.run.journal, entry) {
            return Err(fail());
        }
        found.run.journal.apply(entry);
        let age = Duration::from_micros(age_us.try_into().unwrap_or(0));
        let anew = entry == Entry::Resumed && detail.as_deref() != Some(WATCHDOG);
        let since = &mut found.since;
        since.written = age;
        since.paused = match since.paused.filter(|_| !anew) {
            _ if !found.run.journal.pausing() => None,
            None => Some(age),
            paused => paused,
        };
        since.waited = match since.waited {
            _ if !found.run.journal.pausing() => None,
            None => Some(age),
            waited => waited,
        };
        if entry == Entry::Begun(Step::Close)
            && let Some(detail) = &detail
        {
            found.lost = lost(detail).ok_or_else(fail)?;
        }
        if entry == Entry::Begun(Step::Publish) && detail.is_some() {
            found.detail = detail;
        }
        found.entries = entry_number;
        (found.who, found.at, found.last) = (who, at, last.trim_end().to_owned());
    }
    Ok(found)
}

/// As a run that goes without some from-shards begins: `{"lost": [2]}`.
fn lost(detail: &str) -> Option<Vec<u16>> {
    let value: serde_json::Value = serde_json::from_str(detail).ok()?;
    let numbers = value.get("lost")?.as_array()?.iter();
    numbers.map(|number| number.as_u64()?.try_into().ok()).collect()
}

pub(super) fn damaged(run: &str, at: u64, entry: &str) -> CutoverError {
    CutoverError::JournalDamaged { run: run.to_owned(), at, entry: entry.to_owned() }
}

fn parse(state: &str, step: Option<&str>) -> Option<Entry> {
    let named = || step.and_then(Step::of);
    Some(match state {
        "begun" => Entry::Begun(named()?),
        "done" => Entry::Done(named()?),
        "undone" => Entry::Undone(named()?),
        "resumed" => Entry::Resumed,
        "turned back" => Entry::TurnedBack,
        "finished" => Entry::Finished,
        "ended" => Entry::Ended(match step? {
            "to" => End::To,
            "from" => End::From,
            _ => return None,
        }),
        _ => return None,
    })
}

pub(super) fn words(entry: Entry) -> (&'static str, Option<&'static str>) {
    match entry {
        Entry::Begun(step) => ("begun", Some(step.name())),
        Entry::Done(step) => ("done", Some(step.name())),
        Entry::Undone(step) => ("undone", Some(step.name())),
        Entry::Resumed => ("resumed", None),
        Entry::TurnedBack => ("turned back", None),
        Entry::Finished => ("finished", None),
        Entry::Ended(End::To) => ("ended", Some("to")),
        Entry::Ended(End::From) => ("ended", Some("from")),
    }
}
