//! One transaction that writes the tokens of several shards of a server, as text: one round trip,
//! however many they are. Pure.
//!
//! Each statement concerns one shard and holds only while its epoch is the shard's own: where a
//! later one has taken over it touches nothing, and those of the other shards are not touched by
//! that.

use std::fmt::Write as _;
use std::time::Duration;

use modshift_mariadb::{control, value};

use super::Progress;
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

/// The statements' text, and what each of them is for. `lock_wait`: how long one may wait for a lock.
pub(super) fn transaction(writes: &[Write<'_>], lock_wait: Duration) -> (String, Vec<Step>) {
    let wait = lock_wait.as_secs();
    let mut sql =
        format!("SET SESSION innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait};");
    sql += "START TRANSACTION;";
    let mut steps = vec![Step::Frame, Step::Frame];
    for (index, write) in writes.iter().enumerate() {
        token(&mut sql, write);
        steps.push(Step::Token(index));
        let Some(progress) = write.progress else { continue };
        record(&mut sql, write, progress);
        steps.push(Step::Resume(index));
        steps.resize(steps.len() + progress.tables.len(), Step::Table(index));
    }
    sql += "COMMIT";
    steps.push(Step::Frame);
    (sql, steps)
}

fn token(sql: &mut String, write: &Write<'_>) {
    let table = format!("{}.{}", value::quote(write.schema), control::TOKEN);
    // LAST_INSERT_ID hands the number back with the answer.
    let _ = write!(
        sql,
        "UPDATE {table} SET beat = writes + 1, quiet = {}, writes = LAST_INSERT_ID(writes + 1), \
         clock = UTC_TIMESTAMP(6), commit_us = {} WHERE id = 1 AND epoch = {};",
        u8::from(write.quiet),
        write.commit_us,
        write.epoch
    );
}

fn record(sql: &mut String, write: &Write<'_>, progress: &Progress) {
    let table = format!("{}.{}", value::quote(write.schema), control::PROGRESS);
    let (resume, epoch) = (&progress.resume, write.epoch);
    let ours = format!("name = {} AND epoch = {epoch}", text(control::RESUME_ROW.as_bytes()));
    // Not by the rows that an UPDATE touched: it touches none where nothing changes.
    let _ = write!(
        sql,
        "UPDATE {table} SET epoch = LAST_INSERT_ID(epoch), gtids = {}, digest = {}, phase = '{}' \
         WHERE {ours};",
        text(resume.before.to_string().as_bytes()),
        resume.last.map_or("NULL".to_owned(), |last| text(last.to_string().as_bytes())),
        resume.phase.name(),
    );
    for saved in &progress.tables {
        // The token's row, locked by now, keeps every later epoch out until the commit.
        let done = &saved.progress;
        let _ = write!(
            sql,
            "INSERT INTO {table} (name, epoch, copied_to, rows_copied, rows_estimated, done) \
             SELECT {}, epoch, {}, {}, {}, {} FROM {table} WHERE {ours} \
             ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), copied_to = VALUES(copied_to), \
             rows_copied = VALUES(rows_copied), rows_estimated = VALUES(rows_estimated), \
             done = VALUES(done);",
            text(saved.name.as_bytes()),
            done.copied_to.as_deref().map_or("NULL".to_owned(), |key| binary(&key_bytes(key))),
            done.rows_copied,
            saved.rows_estimated,
            u8::from(done.done),
        );
    }
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
    use crate::token::SavedTable;

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
        let (sql, steps) = transaction(&writes, Duration::from_secs(1));
        let statements: Vec<&str> = sql.split(';').collect();
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
}
