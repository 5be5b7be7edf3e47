//! Writes of the journal: each one a transaction that begins with the compare-and-set on the token,
//! tried again for a while when its answer is lost.

use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::silence::{self, LOOK_AFTER};
use modshift_mariadb::{ServerError, Session, connect, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;

use super::claim::{operator, superseded};
use super::entry::words;
use super::{Register, quote};
use crate::decide::{Entry, legal, owed};
use crate::error::CutoverError;
use crate::step::Step;

/// How long a write of the journal is tried again. The application may be waiting.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
const WRITE_PAUSE: Duration = Duration::from_millis(50);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

impl Register {
    /// Writes an entry, or fails without anyone knowing whether it is there. Then it counts as
    /// written if it is [`owed`], and is brought by the next write that succeeds.
    pub async fn write(&mut self, entry: Entry, detail: Option<&str>) -> Result<(), CutoverError> {
        self.write_for(entry, detail, WRITE_PATIENCE).await
    }

    /// The same, tried until it is known to be there, or whose run it is.
    pub async fn write_however_long(
        &mut self,
        entry: Entry,
        detail: Option<&str>,
    ) -> Result<(), CutoverError> {
        self.write_for(entry, detail, Duration::MAX).await
    }

    async fn write_for(
        &mut self,
        entry: Entry,
        detail: Option<&str>,
        patience: Duration,
    ) -> Result<(), CutoverError> {
        assert!(legal(self.journal(), entry), "journal entry {entry:?} cannot follow");
        self.entries += 1;
        let (state, step) = words(entry);
        let quoted = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quote);
        let insert = format!(
            "INSERT INTO modshift_journal SET plan = {}, run = {}, entry = {}, name = {}, direction = '{}', \
             mode = '{}', state = '{state}', step = {}, at = UTC_TIMESTAMP(6), who = {}, \
             detail = {}",
            quote(&self.plan),
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
        let outcome = self.commit(&statements, patience).await;
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

    /// What servers were before the fence: of `fresh` ones this is what counts from now on; one of
    /// `kept` that is known keeps what is known of it.
    pub async fn remember(
        &mut self,
        fresh: &[(String, String)],
        kept: &[(String, String)],
    ) -> Result<(), CutoverError> {
        let plan = quote(&self.plan);
        let statement = |verb: &str, (server, was): &(String, String)| {
            let (server, was) = (quote(server), quote(was));
            let sql = format!(
                "{verb} INTO modshift_fence SET plan = {plan}, server = {server}, was = {was}, \
                 at = UTC_TIMESTAMP(6)"
            );
            (None, sql)
        };
        let replaced = fresh.iter().map(|known| statement("REPLACE", known));
        let inserted = kept.iter().map(|known| statement("INSERT IGNORE", known));
        let statements: Vec<_> = replaced.chain(inserted).collect();
        self.commit(&statements, WRITE_PATIENCE).await
    }

    pub async fn forget(&mut self, servers: &[String]) -> Result<(), CutoverError> {
        let plan = quote(&self.plan);
        let statement = |server: &String| {
            let server = quote(server);
            let of = format!("plan = {plan} AND server = {server}");
            (None, format!("DELETE FROM modshift_fence WHERE {of}"))
        };
        let statements: Vec<_> = servers.iter().map(statement).collect();
        self.commit(&statements, WRITE_PATIENCE).await
    }

    /// One transaction that begins with the compare-and-set. After a lost connection it is tried
    /// again; the number of an entry tells whether it was done already.
    async fn commit(
        &mut self,
        statements: &[(Option<u64>, String)],
        patience: Duration,
    ) -> Result<(), CutoverError> {
        if let Some(script) = &mut self.script {
            script.extend(statements.iter().map(|(_, sql)| sql.clone()));
            return Ok(());
        }
        let begun = Instant::now();
        let mut said = false;
        loop {
            let endpoint = self.endpoint.clone();
            let error = match within(&endpoint, self.attempt(statements)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(error) => error,
            };
            self.conn = None;
            if error.class() != modshift_mariadb::Class::Retry || begun.elapsed() >= patience {
                return Err(CutoverError::JournalLost(error));
            }
            if begun.elapsed() >= WRITE_PATIENCE && !said {
                tracing::warn!(%error, "the journal is written as soon as its server answers");
                said = true;
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
        let sql = "UPDATE modshift_operator SET writes = writes + 1 WHERE plan = ? AND token = ?";
        conn.exec_drop(sql, (&self.plan, &self.token)).await.map_err(of)?;
        if conn.affected_rows() != 1 {
            conn.query_drop("ROLLBACK").await.map_err(of)?;
            let row = operator(&mut conn, &self.endpoint, &self.plan).await?;
            return Ok(Err(superseded(row)));
        }
        let sql = "SELECT 1 FROM modshift_journal WHERE plan = ? AND run = ? AND entry = ?";
        for (entry, statement) in statements {
            let there: Option<u8> = match entry {
                Some(entry) => {
                    let key = (&self.plan, self.number, entry);
                    conn.exec_first(sql, key).await.map_err(of)?
                }
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
}

pub(super) async fn within<T>(
    endpoint: &Endpoint,
    attempt: impl Future<Output = Result<T, ServerError>>,
) -> Result<T, ServerError> {
    let attempt = tokio::time::timeout(WRITE_TIMEOUT, attempt);
    let (outcome, seen) = silence::watched(endpoint, LOOK_AFTER, attempt, |_| {}).await;
    outcome.unwrap_or_else(|_| {
        Err(ServerError::Lost {
            at: label(endpoint),
            doing: "writing the journal",
            detail: silence::detail(WRITE_TIMEOUT, seen),
        })
    })
}
