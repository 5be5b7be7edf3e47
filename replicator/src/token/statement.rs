//! One transaction that writes the tokens of several shards of a server, as text: one round trip,
//! however many they are, unless what is recorded of many tables is more than a packet holds. Pure.
//!
//! Each statement concerns one shard and holds only while its epoch is the shard's own: where a
//! later one has taken over it touches nothing, and those of the other shards are not touched by
//! that.

use std::fmt::Write as _;
use std::time::Duration;

use modshift_mariadb::{control, value};

use super::{Progress, SavedTable};
use crate::epoch::key_bytes;

/// The token of one shard, and what is to be recorded with it.
pub(super) struct Write<'a> {
    pub schema: &'a str,
    pub epoch: u64,
    pub quiet: bool,
    /// What the write before this one took.
    pub commit_us: u32,
    pub progress: Option<&'a Progress>,
}

/// What a statement is for, and in which of the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of all: the transaction itself.
    Frame,
    /// Answers with the token's number, or touches nothing.
    Token(usize),
    /// Answers with the epoch, or touches nothing.
    Resume(usize),
    Table(usize),
}

impl Step {
    pub(super) fn write(self) -> Option<usize> {
        match self {
            Step::Frame => None,
            Step::Token(index) | Step::Resume(index) | Step::Table(index) => Some(index),
        }
    }
}

/// A transaction, to be sent packet by packet.
pub(super) struct Transaction {
    /// Of whole statements each; the last one commits.
    pub packets: Vec<String>,
    /// What each statement is for.
    pub steps: Vec<Step>,
}

/// `lock_wait`: how long one may wait for a lock. No packet is longer than `bytes_max`, unless one
/// statement is.
pub(super) fn transaction(
    writes: &[Write<'_>],
    lock_wait: Duration,
    bytes_max: usize,
) -> Transaction {
    let wait = lock_wait.as_secs();
    let mut packed = Packed { bytes_max, packets: vec![String::new()], steps: Vec::new() };
    packed.add(
        Step::Frame,
        format!("SET SESSION innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}"),
    );
    packed.add(Step::Frame, "START TRANSACTION".to_owned());
    for (index, write) in writes.iter().enumerate() {
        packed.add(Step::Token(index), token(write));
        let Some(progress) = write.progress else { continue };
        packed.add(Step::Resume(index), resume(write, progress));
        for saved in &progress.tables {
            packed.add(Step::Table(index), table(write, saved));
        }
    }
    packed.add(Step::Frame, "COMMIT".to_owned());
    Transaction { packets: packed.packets, steps: packed.steps }
}

struct Packed {
    bytes_max: usize,
    packets: Vec<String>,
    steps: Vec<Step>,
}

impl Packed {
    fn add(&mut self, step: Step, statement: String) {
        self.steps.push(step);
        match self.packets.last_mut() {
            Some(packet) if packet.is_empty() => packet.push_str(&statement),
            Some(packet) if packet.len() + 1 + statement.len() <= self.bytes_max => {
                packet.push(';');
                packet.push_str(&statement);
            }
            _ => self.packets.push(statement),
        }
    }
}

fn token(write: &Write<'_>) -> String {
    let table = format!("{}.{}", value::quote(write.schema), control::TOKEN);
    // LAST_INSERT_ID hands the number back with the answer.
    format!(
        "UPDATE {table} SET beat = writes + 1, quiet = {}, writes = LAST_INSERT_ID(writes + 1), \
         clock = UTC_TIMESTAMP(6), commit_us = {} WHERE id = 1 AND epoch = {}",
        u8::from(write.quiet),
        write.commit_us,
        write.epoch
    )
}

/// The row of the resume point, as long as it is this epoch's.
fn ours(epoch: u64) -> String {
    format!("name = {} AND epoch = {epoch}", text(control::RESUME_ROW.as_bytes()))
}

fn resume(write: &Write<'_>, progress: &Progress) -> String {
    let table = format!("{}.{}", value::quote(write.schema), control::PROGRESS);
    let resume = &progress.resume;
    // Not by the rows that an UPDATE touched: it touches none where nothing changes.
    format!(
        "UPDATE {table} SET epoch = LAST_INSERT_ID(epoch), gtids = {}, digest = {}, phase = '{}' \
         WHERE {}",
        text(resume.before.to_string().as_bytes()),
        resume.last.map_or("NULL".to_owned(), |last| text(last.to_string().as_bytes())),
        resume.phase.name(),
        ours(write.epoch),
    )
}

fn table(write: &Write<'_>, saved: &SavedTable) -> String {
    let table = format!("{}.{}", value::quote(write.schema), control::PROGRESS);
    // The token's row, locked by now, keeps every later epoch out until the commit.
    let done = &saved.progress;
    format!(
        "INSERT INTO {table} (name, epoch, copied_to, rows_copied, rows_estimated, done) \
         SELECT {}, epoch, {}, {}, {}, {} FROM {table} WHERE {} \
         ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), copied_to = VALUES(copied_to), \
         rows_copied = VALUES(rows_copied), rows_estimated = VALUES(rows_estimated), \
         done = VALUES(done)",
        text(saved.name.as_bytes()),
        done.copied_to.as_deref().map_or("NULL".to_owned(), |key| binary(&key_bytes(key))),
        done.rows_copied,
        saved.rows_estimated,
        u8::from(done.done),
        ours(write.epoch),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn binary(bytes: &[u8]) -> String {
    format!("X'{}'", hex(bytes))
}

/// Whatever is in it: nothing to escape.
fn text(bytes: &[u8]) -> String {
    format!("_utf8mb4 X'{}'", hex(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::ResumePoint;
    use crate::snapshot::TableProgress;

    #[test]
    fn each_statement_is_known_by_its_write() {
        let table = |name: &str| SavedTable {
            name: name.to_owned(),
            progress: TableProgress { copied_to: Some(vec![vec![1]]), rows_copied: 7, done: false },
            rows_estimated: 9,
        };
        let progress =
            Progress { resume: ResumePoint::default(), tables: vec![table("it's"), table("b")] };
        let write =
            |schema, progress| Write { schema, epoch: 5, quiet: true, commit_us: 3, progress };
        let writes = [write("a", None), write("odd`name", Some(&progress)), write("c", None)];
        let Transaction { packets, steps } = transaction(&writes, Duration::from_secs(1), 1 << 20);
        assert_eq!(packets.len(), 1, "one round trip");
        let statements: Vec<&str> = packets[0].split(';').collect();
        assert_eq!(statements.len(), steps.len());
        use Step as S;
        let expected = [
            S::Frame,
            S::Frame,
            S::Token(0),
            S::Token(1),
            S::Resume(1),
            S::Table(1),
            S::Table(1),
            S::Token(2),
            S::Frame,
        ];
        assert_eq!(steps, expected);
        assert_eq!(
            statements[2],
            "UPDATE `a`.modshift_token SET beat = writes + 1, quiet = 1, writes = \
             LAST_INSERT_ID(writes + 1), clock = UTC_TIMESTAMP(6), commit_us = 3 WHERE id = 1 AND \
             epoch = 5"
        );
        assert!(statements[3].starts_with("UPDATE `odd``name`.modshift_token "));
        // 'it's' in hexadecimal: nothing of a name is read as SQL.
        assert!(statements[5].contains("SELECT _utf8mb4 X'69742773', epoch, X'"));
        assert!(statements[5].contains("WHERE name = _utf8mb4 X'40726573756d65' AND epoch = 5"));
    }
    #[test]
    fn what_is_recorded_of_ten_thousand_tables_comes_in_packets_that_a_server_takes() {
        let key = vec![vec![0xff; 300]];
        let table = |number: usize| SavedTable {
            name: format!("a_table_of_some_length_{number}"),
            progress: TableProgress { copied_to: Some(key.clone()), rows_copied: 1, done: true },
            rows_estimated: 2,
        };
        let tables = (0..10_000).map(table).collect();
        let progress = Progress { resume: ResumePoint::default(), tables };
        let write = |schema| Write {
            schema,
            epoch: 5,
            quiet: false,
            commit_us: 3,
            progress: Some(&progress),
        };
        let writes = [write("a"), write("b")];
        let wait = Duration::from_secs(1);
        let whole = transaction(&writes, wait, usize::MAX);
        assert_eq!(whole.packets.len(), 1);
        assert!(whole.packets[0].len() > 16 << 20, "more than any default takes");
        let bytes_max = 512 << 10;
        let cut = transaction(&writes, wait, bytes_max);
        assert!(cut.packets.iter().all(|packet| packet.len() <= bytes_max));
        assert_eq!(cut.packets.join(";"), whole.packets[0], "the same statements, each whole");
        assert_eq!(cut.steps, whole.steps);
        assert_eq!(cut.steps.len(), 2 * 10_002 + 3);
        // One that no packet of that length holds is not cut.
        let cut = transaction(&writes, wait, 1);
        assert_eq!(cut.packets.len(), cut.steps.len());
    }
}
