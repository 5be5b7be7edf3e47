//! The journal on new shard 0: what a run has begun and done, who owns it, and what the servers
//! were before they were fenced.
//!
//! Two things keep a second operator out: a lock that lives as long as a connection of the first
//! (20 s at most once its process no longer stirs), and an owner's token. Every write begins with a
//! compare-and-set on the token; whoever takes over puts in one of his own.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::{FromRow, Queryable};
use tokio::task::JoinHandle;

use crate::decide::{Admission, Ask, End, Entry, Journal, Run, admit, legal, owed};
use crate::error::CutoverError;
use crate::step::{Direction, Mode, Step};

pub const JOURNAL: &str = "modshift_journal";
pub const OPERATOR: &str = "modshift_operator";
pub const FENCE: &str = "modshift_fence";

const TABLES: [(&str, &str); 3] = [
    (
        JOURNAL,
        "CREATE TABLE modshift_journal (
            run BIGINT UNSIGNED NOT NULL,
            entry BIGINT UNSIGNED NOT NULL,
            name VARCHAR(64) NOT NULL COMMENT 'of the run, as in modshift_token.fence',
            direction VARCHAR(16) NOT NULL,
            mode VARCHAR(16) NOT NULL,
            state VARCHAR(16) NOT NULL COMMENT 'begun, done, undone, resumed, turned back, ended, finished',
            step VARCHAR(16) NULL COMMENT 'of ended: the side that serves',
            at DATETIME(6) NOT NULL COMMENT 'UTC',
            who VARCHAR(255) NOT NULL,
            detail LONGTEXT NULL COMMENT 'JSON',
            PRIMARY KEY (run, entry)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
    (
        OPERATOR,
        "CREATE TABLE modshift_operator (
            id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
            token VARCHAR(64) NOT NULL,
            writes BIGINT UNSIGNED NOT NULL,
            who VARCHAR(255) NOT NULL,
            since DATETIME(6) NOT NULL COMMENT 'UTC'
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
    (
        FENCE,
        "CREATE TABLE modshift_fence (
            server VARCHAR(255) NOT NULL PRIMARY KEY,
            was LONGTEXT NOT NULL COMMENT 'JSON: its settings before the fence',
            at DATETIME(6) NOT NULL COMMENT 'UTC'
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    ),
];

/// How long a lock outlives a process that no longer stirs.
const LOCK_IDLE_S: u64 = 20;
const LOCK_PING: Duration = Duration::from_secs(4);
/// How long a write of the journal is tried again. The application may be waiting.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
const WRITE_PAUSE: Duration = Duration::from_millis(50);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Proof of ownership, to be shown again wherever a process connects anew.
#[derive(Clone, Debug)]
pub struct Claim {
    endpoint: Endpoint,
    token: String,
}

impl Claim {
    pub async fn verify(&self) -> Result<(), CutoverError> {
        let ask = async {
            let mut conn = connect(&self.endpoint, Session::Plain).await?;
            let row = operator(&mut conn, &self.endpoint).await?;
            // The answer is known, whatever becomes of the connection.
            let _ = conn.disconnect().await;
            Ok(row)
        };
        match within(&self.endpoint, ask).await {
            Ok(Some((token, ..))) if token == self.token => Ok(()),
            Ok(other) => Err(superseded(other)),
            Err(error) => Err(CutoverError::JournalLost(error)),
        }
    }
}

type OperatorRow = (String, String, String);

fn superseded(row: Option<OperatorRow>) -> CutoverError {
    let who = row.map_or_else(|| "another operator".to_owned(), |(_, who, _)| who);
    CutoverError::Superseded { who }
}

async fn operator(
    conn: &mut Conn,
    endpoint: &Endpoint,
) -> Result<Option<OperatorRow>, ServerError> {
    let sql = "SELECT token, who, CAST(since AS CHAR) FROM modshift_operator WHERE id = 1";
    let row = conn.query_first(sql).await;
    row.map_err(|error| error::of(&label(endpoint), "reading who owns the run", error))
}

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
}

/// The newest run, `None` if there never was one. For `status`, and whoever asks without a claim.
pub async fn newest(conn: &mut Conn, at: &str) -> Result<Option<Found>, CutoverError> {
    const NO_SUCH_TABLE: u16 = 1146;
    type Row = (
        (u64, u64, String, String, String),
        (String, Option<String>, String, String, Option<String>),
    );
    let sql = "SELECT run, entry, name, direction, mode, state, step, CAST(at AS CHAR), who, detail
         FROM modshift_journal WHERE run = (SELECT MAX(run) FROM modshift_journal) ORDER BY entry";
    let rows: Result<Vec<mysql_async::Row>, _> = conn.query(sql).await;
    let rows = match rows.map_err(|error| error::of(at, "reading the journal", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => return Ok(None),
        rows => rows?,
    };
    let mut found: Option<Found> = None;
    for row in rows {
        let ((number, entry_number, name, direction, mode), (state, step, at, who, detail)): Row = {
            let (a, b, c, d, e, f, g, h, i, j) =
                FromRow::from_row_opt(row).map_err(|_| damaged("?", 0, "unreadable"))?;
            ((a, b, c, d, e), (f, g, h, i, j))
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
            });
        }
        let Some(found) = &mut found else { continue };
        if !legal(&found.run.journal, entry) {
            return Err(fail());
        }
        found.run.journal.apply(entry);
        if entry == Entry::Begun(Step::Publish) && detail.is_some() {
            found.detail = detail;
        }
        found.entries = entry_number;
        (found.who, found.at, found.last) = (who, at, last.trim_end().to_owned());
    }
    Ok(found)
}

fn damaged(run: &str, at: u64, entry: &str) -> CutoverError {
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

fn words(entry: Entry) -> (&'static str, Option<&'static str>) {
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

/// The owner's hold on the journal.
#[derive(Debug)]
pub struct Register {
    endpoint: Endpoint,
    conn: Option<Conn>,
    lock: Option<Lock>,
    token: String,
    who: String,
    number: u64,
    /// Written or tried to be: a number is used once, so that a late commit cannot be mistaken.
    entries: u64,
    /// Entries that may not be there, to be written with the next one: see [`owed`].
    owed: Vec<(u64, String)>,
    pub run: Run,
    pub name: String,
    /// With which the routing was last begun to be published.
    pub detail: Option<String>,
    /// In place of writing; see [`Register::take_script`].
    script: Option<Vec<String>>,
}

/// Ends with the process, or with [`Register`].
#[derive(Debug)]
struct Lock(JoinHandle<()>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Register {
    /// Takes the run that `ask` is about, if there is nobody at it and the last run admits it.
    /// `mode` counts for a new run. A dry one only looks.
    pub async fn take(
        plan: &str,
        endpoint: Endpoint,
        ask: Ask,
        mode: Mode,
        dry: bool,
    ) -> Result<(Register, Admission), CutoverError> {
        let at = label(&endpoint);
        let of = |error| error::of(&at, "taking the journal", error);
        let mut conn = connect(&endpoint, Session::Plain).await?;
        let lock = if dry { None } else { Some(lock(plan, &endpoint).await?) };
        if !dry {
            create(&mut conn, &endpoint).await?;
        }
        let last = newest(&mut conn, &at).await?;
        let newest_number = last.as_ref().map_or(0, |found| found.number);
        let admission = admit(last.as_ref().map(|found| &found.run), ask)?;
        let random = RandomState::new().hash_one((std::process::id(), &at));
        let who = who();
        // What is about a run that there is, or was.
        let kept = last.filter(|_| !matches!(ask, Ask::Start(_)) || admission != Admission::Begin);
        let (number, name, run, entries, detail) = match (kept, ask) {
            (Some(found), _) => (found.number, found.name, found.run, found.entries, found.detail),
            (None, Ask::Start(direction)) => {
                let number = newest_number + 1;
                let name = format!("{direction}-{number}-{:08x}", random as u32);
                (number, name, Run { direction, journal: Journal::new(mode) }, 0, None)
            }
            // Nothing but a start is admitted without one.
            (None, _) => return Err(damaged("?", 0, "no run")),
        };
        let token = format!("{random:016x}");
        if !dry {
            let sql = "INSERT INTO modshift_operator (id, token, writes, who, since)
                 VALUES (1, ?, 1, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE
                 token = VALUES(token), writes = writes + 1, who = VALUES(who),
                 since = VALUES(since)";
            conn.exec_drop(sql, (&token, &who)).await.map_err(of)?;
            // Entries that the one before had under way are in by now, or never will be.
            let again = newest(&mut conn, &at).await?;
            if again.is_some_and(|found| found.number == number && found.entries != entries) {
                return Err(CutoverError::Superseded { who: "another operator".to_owned() });
            }
        }
        let script = dry.then(Vec::new);
        let conn = Some(conn);
        let register = Register {
            endpoint,
            conn,
            lock,
            token,
            who,
            number,
            entries,
            owed: Vec::new(),
            run,
            name,
            detail,
            script,
        };
        Ok((register, admission))
    }

    pub fn journal(&self) -> &Journal {
        &self.run.journal
    }

    pub fn claim(&self) -> Claim {
        Claim { endpoint: self.endpoint.clone(), token: self.token.clone() }
    }

    pub fn take_script(&mut self) -> Vec<String> {
        self.script.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Writes an entry, or fails without anyone knowing whether it is there. Then it counts as
    /// written if it is [`owed`], and is brought by the next write that succeeds.
    pub async fn write(&mut self, entry: Entry, detail: Option<&str>) -> Result<(), CutoverError> {
        assert!(legal(self.journal(), entry), "journal entry {entry:?} cannot follow");
        self.entries += 1;
        let (state, step) = words(entry);
        let quoted = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quote);
        let insert = format!(
            "INSERT INTO modshift_journal SET run = {}, entry = {}, name = {}, direction = '{}', \
             mode = '{}', state = '{state}', step = {}, at = UTC_TIMESTAMP(6), who = {}, \
             detail = {}",
            self.number,
            self.entries,
            quote(&self.name),
            self.run.direction,
            self.journal().mode().name(),
            quoted(step),
            quote(&self.who),
            quoted(detail),
        );
        let mut statements: Vec<(Option<u64>, String)> =
            self.owed.iter().map(|(number, sql)| (Some(*number), sql.clone())).collect();
        statements.push((Some(self.entries), insert.clone()));
        let outcome = self.commit(&statements).await;
        match &outcome {
            Ok(()) => self.owed.clear(),
            Err(CutoverError::JournalLost(_)) if owed(entry) => {
                self.owed.push((self.entries, insert));
            }
            Err(_) => return outcome,
        }
        self.run.journal.apply(entry);
        // A version that perhaps is not written down is not used.
        if entry == Entry::Begun(Step::Publish) && outcome.is_ok() {
            self.detail = detail.map(str::to_owned);
        }
        outcome
    }

    /// What servers were before the fence; one that is known keeps what is known of it.
    pub async fn remember(&mut self, was: &[(String, String)]) -> Result<(), CutoverError> {
        let statement = |(server, was): &(String, String)| {
            let sql = format!(
                "INSERT IGNORE INTO modshift_fence SET server = {}, was = {}, \
                 at = UTC_TIMESTAMP(6)",
                quote(server),
                quote(was)
            );
            (None, sql)
        };
        let statements: Vec<_> = was.iter().map(statement).collect();
        self.commit(&statements).await
    }

    pub async fn forget(&mut self, servers: &[String]) -> Result<(), CutoverError> {
        let statement = |server: &String| {
            (None, format!("DELETE FROM modshift_fence WHERE server = {}", quote(server)))
        };
        let statements: Vec<_> = servers.iter().map(statement).collect();
        self.commit(&statements).await
    }

    /// Every server that is remembered.
    pub async fn remembered(&mut self) -> Result<Vec<(String, String)>, CutoverError> {
        const NO_SUCH_TABLE: u16 = 1146;
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.endpoint, Session::Plain).await?,
        };
        let rows = conn.query("SELECT server, was FROM modshift_fence").await;
        let rows = rows.map_err(|error| {
            error::of(&label(&self.endpoint), "reading what the servers were", error)
        });
        let rows = match rows {
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => Vec::new(),
            rows => rows?,
        };
        self.conn = Some(conn);
        Ok(rows)
    }

    /// One transaction that begins with the compare-and-set. After a lost connection it is tried
    /// again; the number of an entry tells whether it was done already.
    async fn commit(&mut self, statements: &[(Option<u64>, String)]) -> Result<(), CutoverError> {
        if let Some(script) = &mut self.script {
            script.extend(statements.iter().map(|(_, sql)| sql.clone()));
            return Ok(());
        }
        let deadline = Instant::now() + WRITE_PATIENCE;
        loop {
            let endpoint = self.endpoint.clone();
            let error = match within(&endpoint, self.attempt(statements)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(error) => error,
            };
            self.conn = None;
            if error.class() != modshift_mariadb::Class::Retry || Instant::now() >= deadline {
                return Err(CutoverError::JournalLost(error));
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    async fn attempt(
        &mut self,
        statements: &[(Option<u64>, String)],
    ) -> Result<Result<(), CutoverError>, ServerError> {
        let at = label(&self.endpoint);
        let of = |error| error::of(&at, "writing the journal", error);
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.endpoint, Session::Plain).await?,
        };
        conn.query_drop("START TRANSACTION").await.map_err(of)?;
        // Waits for a commit of ours that nobody answered: the row is locked until then.
        let sql = "UPDATE modshift_operator SET writes = writes + 1 WHERE id = 1 AND token = ?";
        conn.exec_drop(sql, (&self.token,)).await.map_err(of)?;
        if conn.affected_rows() != 1 {
            conn.query_drop("ROLLBACK").await.map_err(of)?;
            let row = operator(&mut conn, &self.endpoint).await?;
            return Ok(Err(superseded(row)));
        }
        let sql = "SELECT 1 FROM modshift_journal WHERE run = ? AND entry = ?";
        for (entry, statement) in statements {
            let there: Option<u8> = match entry {
                Some(entry) => conn.exec_first(sql, (self.number, entry)).await.map_err(of)?,
                None => None,
            };
            if there.is_none() {
                conn.query_drop(statement).await.map_err(of)?;
            }
        }
        conn.query_drop("COMMIT").await.map_err(of)?;
        self.conn = Some(conn);
        Ok(Ok(()))
    }

    /// Lets the next operator in at once.
    pub async fn release(mut self) {
        self.lock = None;
        if let Some(conn) = self.conn.take() {
            // Everything is written.
            let _ = conn.disconnect().await;
        }
    }
}

async fn lock(plan: &str, endpoint: &Endpoint) -> Result<Lock, CutoverError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let at = label(endpoint);
    let of = |error| error::of(&at, "locking the journal", error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!("SET SESSION wait_timeout = {LOCK_IDLE_S}");
    conn.query_drop(sql).await.map_err(of)?;
    let name = format!("modshift.operator.{:08x}", crc32fast::hash(plan.as_bytes()));
    let got: Option<Option<u8>> =
        conn.query_first(format!("SELECT GET_LOCK('{name}', 0)")).await.map_err(of)?;
    if got != Some(Some(1)) {
        let row = match operator(&mut conn, endpoint).await {
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => None,
            row => row?,
        };
        let found = newest(&mut conn, &at).await?;
        let run = found.map_or_else(|| "about to begin".to_owned(), |found| found.name);
        let (_, who, since) = row.unwrap_or_else(|| {
            (String::new(), "another operator".to_owned(), "just now".to_owned())
        });
        return Err(CutoverError::Busy { who, since, run });
    }
    Ok(Lock(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOCK_PING).await;
            if let Err(error) = conn.query_drop("DO 1").await {
                // The token still tells the owner.
                tracing::warn!(error = %error, "the lock on the journal is lost");
                return;
            }
        }
    })))
}

/// Only what is missing: even `IF NOT EXISTS` would write an event group.
async fn create(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "creating the journal", error);
    let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?";
    let present: Vec<String> = conn.exec(sql, (&endpoint.schema,)).await.map_err(of)?;
    for (name, sql) in TABLES {
        if !present.iter().any(|table| table == name) {
            conn.query_drop(sql).await.map_err(of)?;
        }
    }
    Ok(())
}

async fn within<T>(
    endpoint: &Endpoint,
    attempt: impl Future<Output = Result<T, ServerError>>,
) -> Result<T, ServerError> {
    tokio::time::timeout(WRITE_TIMEOUT, attempt).await.unwrap_or_else(|_| {
        Err(ServerError::Lost {
            at: label(endpoint),
            doing: "writing the journal",
            detail: format!("no answer in {} s", WRITE_TIMEOUT.as_secs()),
        })
    })
}

/// A string literal under any sql_mode but ANSI's, whatever it holds.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// `user@host, process 123`.
fn who() -> String {
    format!("{}, process {}", modshift_mariadb::audit::operator(), std::process::id())
}
