//! Who did what to this reshard, and what came of it: `modshift_audit` on new shard 0; on another new
//! shard what had to be done while that one was lost.
//!
//! An action is written down before it is taken, and refused where that cannot be done; its
//! outcome follows. A row without an outcome is under way, or its process was killed. Rows are
//! never changed otherwise, and outlive the reshard: nothing here removes them.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use futures_util::future::{join, join_all};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, FromRowError, Row};
use serde::Serialize;

use crate::connect::{Session, connect, label};
use crate::control;
use crate::error::{self, ServerError};
use crate::silence;

/// What a text column holds at most, in characters; a longer text is cut there.
const TEXT_MAX: usize = 4000;
const WHO_MAX: usize = 255;
const NO_SUCH_TABLE: u16 = 1146;
/// For each new shard, while neither side serves.
const ANYWHERE: Duration = Duration::from_secs(2);

/// An action that has been written down and has no outcome yet.
#[derive(Debug)]
#[must_use = "an action without an outcome looks as if its process had been killed"]
pub struct Entry {
    endpoint: Endpoint,
    id: u64,
}

/// Writes an action of this process's own user down. `what`: the command line, see
/// [`command_line`]; `detail`: what it comes to, for people, perhaps empty. Where this fails the
/// action must not be taken.
pub async fn begin(plan: &Plan, what: &str, detail: &str) -> Result<Entry, ServerError> {
    begin_as(plan, &operator(), what, detail).await
}

/// The same for somebody else, whose word a daemon takes.
pub async fn begin_as(
    plan: &Plan,
    who: &str,
    what: &str,
    detail: &str,
) -> Result<Entry, ServerError> {
    written(home(plan).clone(), who, what, detail).await
}

/// The same on the first new shard that takes it in time: what has to be done while new shard 0 is lost
/// is done whether it can be written down or not.
pub async fn begin_anywhere(plan: &Plan, what: &str, detail: &str) -> Result<Entry, ServerError> {
    let (who, mut last) = (operator(), None);
    for endpoint in &forward(plan).new {
        let writing = written(endpoint.clone(), &who, what, detail);
        let writing = tokio::time::timeout(ANYWHERE, writing);
        let (outcome, seen) =
            silence::watched(endpoint, silence::LOOK_AFTER, writing, |_| {}).await;
        match outcome {
            Ok(Ok(entry)) => return Ok(entry),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {
                let detail = silence::detail(ANYWHERE, seen);
                let doing = "writing the audit table";
                last = Some(ServerError::Lost { at: label(endpoint), doing, detail });
            }
        }
    }
    let at = label(home(plan));
    let detail = "the plan has no new shard".to_owned();
    Err(last.unwrap_or(ServerError::Unreachable { at, detail }))
}

async fn written(
    endpoint: Endpoint,
    who: &str,
    what: &str,
    detail: &str,
) -> Result<Entry, ServerError> {
    let mut conn = connect(&endpoint, Session::Plain).await?;
    let (who, what, detail) = (cut(who, WHO_MAX), cut(what, TEXT_MAX), cut(detail, TEXT_MAX));
    let sql = "INSERT INTO modshift_audit (began, who, account, what, detail) \
               VALUES (UTC_TIMESTAMP(6), ?, CURRENT_USER(), ?, ?)";
    let failed = |error| error::of(&label(&endpoint), "writing the audit table", error);
    let inserted = conn.exec_drop(sql, (&who, &what, &detail)).await;
    match inserted {
        // Not created beforehand each time: that would be a DDL in the binlog for every action.
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => {
            conn.query_drop(control::AUDIT_TABLE).await.map_err(failed)?;
            conn.exec_drop(sql, (who, what, detail)).await.map_err(failed)?;
        }
        other => other.map_err(failed)?,
    }
    let id = conn.last_insert_id().unwrap_or_default();
    close(conn, &endpoint).await?;
    Ok(Entry { endpoint, id })
}

impl Entry {
    /// Number of the row in the audit table.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Writes down what came of it. The action has been taken whether this succeeds or not.
    pub async fn finish(self, outcome: &str) -> Result<(), ServerError> {
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        conn.exec_drop(
            "UPDATE modshift_audit SET outcome = ?, finished = UTC_TIMESTAMP(6) \
             WHERE id = ? AND outcome IS NULL",
            (cut(outcome, TEXT_MAX), self.id),
        )
        .await
        .map_err(|error| {
            error::of(&label(&self.endpoint), "writing an outcome to the audit table", error)
        })?;
        close(conn, &self.endpoint).await
    }
}

/// One row of the audit table; times in UTC by the server's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// The new shard whose table has it.
    pub shard: u16,
    pub id: u64,
    pub began: String,
    /// `user@host` of the operating system, as the client says.
    pub who: String,
    /// Account at the database.
    pub account: String,
    pub what: String,
    pub detail: String,
    /// `None`: under way, or its process was killed.
    pub outcome: Option<String>,
    pub finished: Option<String>,
}

impl FromRow for Audited {
    fn from_row_opt(row: Row) -> Result<Audited, FromRowError> {
        let (id, began, who, account, what, detail, outcome, finished) =
            FromRow::from_row_opt(row)?;
        Ok(Audited { shard: 0, id, began, who, account, what, detail, outcome, finished })
    }
}

/// The newest actions, newest first; also those of other new shards, as far as they answer. None
/// where nothing has been written down yet.
pub async fn list(plan: &Plan, limit: u32) -> Result<Vec<Audited>, ServerError> {
    let news = &forward(plan).new;
    let others = join_all(news.iter().skip(1).map(|endpoint| {
        let listing = tokio::time::timeout(ANYWHERE, listed(endpoint, limit));
        async move { listing.await.ok().and_then(Result::ok).unwrap_or_default() }
    }));
    let (own, others) = join(listed(home(plan), limit), others).await;
    let mut all = own?;
    for (shard, rows) in (1..).zip(others) {
        all.extend(rows.into_iter().map(|row| Audited { shard, ..row }));
    }
    all.sort_by(|a, b| (&b.began, b.shard, b.id).cmp(&(&a.began, a.shard, a.id)));
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(all)
}

async fn listed(endpoint: &Endpoint, limit: u32) -> Result<Vec<Audited>, ServerError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = "SELECT id, CAST(began AS CHAR), who, account, what, detail, outcome, \
               CAST(finished AS CHAR) FROM modshift_audit ORDER BY id DESC LIMIT ?";
    let rows = match conn.exec(sql, (limit,)).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => Vec::new(),
        other => other.map_err(|e| error::of(&label(endpoint), "reading the audit table", e))?,
    };
    close(conn, endpoint).await?;
    Ok(rows)
}

/// How often since then, and when last, for each kind of action like this; `since` as in the table.
pub async fn counted(
    plan: &Plan,
    like: &str,
    since: &str,
) -> Result<Vec<(String, u64, String)>, ServerError> {
    let endpoint = home(plan);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = "SELECT what, COUNT(*), CAST(MAX(began) AS CHAR) FROM modshift_audit \
               WHERE what LIKE ? AND began >= ? GROUP BY what";
    let rows = match conn.exec(sql, (like, since)).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => Vec::new(),
        other => other.map_err(|e| error::of(&label(endpoint), "reading the audit table", e))?,
    };
    close(conn, endpoint).await?;
    Ok(rows)
}

/// Where the audit table is, whichever way round the plan is.
fn home(plan: &Plan) -> &Endpoint {
    &forward(plan).new[0]
}

fn forward(plan: &Plan) -> &Plan {
    plan.forward.as_deref().unwrap_or(plan)
}

async fn close(conn: Conn, endpoint: &Endpoint) -> Result<(), ServerError> {
    let closed = conn.disconnect().await;
    closed.map_err(|error| error::of(&label(endpoint), "closing a connection", error))
}

/// The operating system's user of this process, `alice@db-1`; `alice as root@db-1` under sudo.
/// Believed, not proven: whoever runs this can also change what it says.
pub fn operator() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "?",
        host => host,
    };
    let user = user();
    match std::env::var("SUDO_USER") {
        Ok(real) if !real.is_empty() && real != user => format!("{real} as {user}@{host}"),
        _ => format!("{user}@{host}"),
    }
}

fn user() -> String {
    let Ok(process) = std::fs::metadata("/proc/self") else { return "?".to_owned() };
    let uid = process.uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid.as_str())).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}

/// A command line as it may be written down: no option of ours takes a secret, but an address may
/// carry one (`http://user:secret@host`), which is left out.
pub fn command_line(arguments: impl IntoIterator<Item = String>) -> String {
    let mut arguments = arguments.into_iter();
    // Of the program its name alone.
    let program = arguments.next().map(|path| match path.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => path,
    });
    let rest = arguments.map(|argument| without_login(&argument));
    let quoted = program.into_iter().chain(rest).map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+*".contains(c);
        match !argument.is_empty() && argument.chars().all(plain) {
            true => argument,
            false => format!("'{}'", argument.replace('\'', "'\\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// `http://user:secret@host/x` becomes `http://***@host/x`.
fn without_login(argument: &str) -> String {
    let Some((scheme, rest)) = argument.split_once("://") else { return argument.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => argument.to_owned(),
    }
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((at, _)) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], expected: &str) {
        assert_eq!(command_line(arguments.iter().map(|&text| text.to_owned())), expected);
    }

    #[test]
    fn a_command_line_reads_back_and_holds_no_login() {
        check(&["/usr/bin/modshift", "pause", "--plan", "p.toml"], "modshift pause --plan p.toml");
        check(
            &["modshift", "pause", "--replicator=https://u:s3cret@db:9477/x@y"],
            "modshift pause --replicator=https://***@db:9477/x@y",
        );
        check(&["modshift", "--note", "it's a test", ""], r"modshift --note 'it'\''s a test' ''");
        check(&[], "");
    }

    #[test]
    fn the_operator_is_a_user_on_a_host() {
        let operator = operator();
        let (user, host) = operator.split_once('@').expect(&operator);
        assert!(!user.is_empty() && !host.is_empty() && !host.contains('\n'), "{operator}");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äö", 2), "äö");
    }
}
