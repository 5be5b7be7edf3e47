//! Who keeps a server closed: `modshift.fences` on the server itself, a row for each shard that does,
//! of whichever plan.
//!
//! `read_only`, the event scheduler and replication into a server are the whole server's, and several
//! shards of one plan may live there, and other plans. So the row is written before the server is
//! closed, and says before it is opened that it keeps it closed no longer; **a server is opened only by
//! the last who closed it**. What it was before is known to the first who closes it; everyone after
//! takes that over from him. The row goes only once all is as it was: whoever dies between leaves what
//! another needs to go on.

use modshift_mariadb::control::{FENCES, FENCES_TABLE, SCHEMA};

use crate::error::CutoverError;
use crate::register::quote;
use crate::server::Server;
use crate::shard::{Shard, Was};

const NO_SUCH_TABLE: u16 = 1146;
const NO_SUCH_SCHEMA: u16 = 1049;
const DOING: &str = "reading who keeps the server closed";
/// In the column `server`, of a row whose server is being opened.
const GOING: u8 = 2;

/// Why a shard is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A run that was begun keeps it out until it serves.
    KeptOut,
    /// A run has left it: it stays closed whatever becomes of later runs.
    Left,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub plan: String,
    /// `old shard 0`.
    pub shard: String,
    pub cause: Cause,
    /// The server is closed, not accounts alone.
    pub server: bool,
    /// It is being opened: who goes after it need not wait for it.
    pub going: bool,
    /// Of the shard's primary, then of its replicas.
    pub was: Vec<Was>,
}

impl Record {
    fn is_of(&self, shard: &Shard) -> bool {
        self.plan == shard.plan && self.shard == shard.name()
    }

    /// Of another shard of the same side of the plan.
    fn is_twin(&self, shard: &Shard) -> bool {
        self.plan == shard.plan && self.shard.starts_with(&format!("{} shard ", shard.side))
    }

    fn words(&self) -> String {
        format!("{} of plan {}", self.shard, self.plan)
    }
}

/// Every row on the shard's server.
async fn all(shard: &mut Shard) -> Result<Vec<Record>, CutoverError> {
    let sql = format!(
        "SELECT plan, shard, abandoned, server > 0, server = {GOING}, was FROM {FENCES} \
         ORDER BY plan, shard"
    );
    type Row = (String, String, bool, bool, bool, String);
    let rows: Vec<Row> = match shard.primary.ask(DOING, &sql).await {
        Err(CutoverError::Server(error))
            if matches!(error.code(), Some(NO_SUCH_TABLE | NO_SUCH_SCHEMA)) =>
        {
            Vec::new()
        }
        rows => rows?,
    };
    let record = |(plan, of, left, server, going, was): Row| Record {
        plan,
        shard: of,
        cause: if left { Cause::Left } else { Cause::KeptOut },
        server,
        going,
        was: serde_json::from_str(&was).unwrap_or_default(),
    };
    Ok(rows.into_iter().map(record).collect())
}

pub(crate) async fn own(shard: &mut Shard) -> Result<Option<Record>, CutoverError> {
    let records = all(shard).await?;
    Ok(records.into_iter().find(|record| record.is_of(shard)))
}

/// What is known of a server from those who keep it closed.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// The shard itself has a row.
    pub is_own: bool,
    /// What that row says: of its primary, then of its replicas.
    pub own: Option<Vec<Was>>,
    /// What another shard of its side says of the primary: their accounts are the same.
    pub twin: Option<Was>,
    /// What the server was before anyone closed it.
    pub server: Option<Was>,
}

/// What the server was before anyone closed it, where someone has. An error where another plan keeps
/// it closed: then it cannot serve, nor be let go.
pub(crate) async fn before(shard: &mut Shard) -> Result<Before, CutoverError> {
    let records = all(shard).await?;
    let other = records.iter().find(|record| record.server && record.plan != shard.plan);
    if let Some(other) = other.filter(|_| !shard.accounts_only) {
        return Err(still_closed(&shard.primary, other));
    }
    let own = records.iter().find(|record| record.is_of(shard));
    let primary = |record: &Record| record.was.first().cloned();
    let first = own.filter(|own| own.server).or(records.iter().find(|record| record.server));
    Ok(Before {
        is_own: own.is_some(),
        own: own.map(|own| own.was.clone()).filter(|was| !was.is_empty()),
        twin: own.or(records.iter().find(|record| record.is_twin(shard))).and_then(primary),
        server: first.and_then(primary),
    })
}

/// Writes the row. What is known of the server's settings stays.
pub(crate) async fn claim(shard: &mut Shard, cause: Cause) -> Result<(), CutoverError> {
    let known = own(shard).await?;
    let (server, left) = (!shard.accounts_only, cause == Cause::Left);
    let done = |record: &Record| {
        record.server == server && !record.going && (record.cause == cause || !left)
    };
    if known.as_ref().is_some_and(done) {
        return Ok(());
    }
    let doing = "noting that the server is closed";
    if known.is_none() {
        create(&mut shard.primary).await?;
    }
    let was = serde_json::to_string(&shard.was).unwrap_or_default();
    let update = match left {
        true => "server = VALUES(server), abandoned = 1",
        false => "server = VALUES(server)",
    };
    let sql = format!(
        "INSERT INTO {FENCES} SET plan = {}, shard = {}, abandoned = {left}, server = {server}, \
         was = {}, since = UTC_TIMESTAMP(6) ON DUPLICATE KEY UPDATE {update}",
        quote(&shard.plan),
        quote(shard.primary.name.as_str()),
        quote(&was),
    );
    shard.primary.run(doing, &sql).await.map(drop)
}

async fn create(server: &mut Server) -> Result<(), CutoverError> {
    let doing = "creating the table of who keeps the server closed";
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{SCHEMA}' AND \
         CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) = '{FENCES}'"
    );
    let there: Vec<String> = server.ask(doing, &sql).await?;
    if !there.is_empty() {
        return Ok(());
    }
    // An account with the shipped grants may not create the schema, and finds it there.
    let sql = format!(
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{SCHEMA}'"
    );
    let schema: Vec<String> = server.ask(doing, &sql).await?;
    if schema.is_empty() {
        server.run(doing, &format!("CREATE DATABASE IF NOT EXISTS {SCHEMA}")).await?;
    }
    server.run(doing, FENCES_TABLE).await.map(drop)
}

/// Who else keeps the server closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Others {
    Nobody,
    /// A shard of this plan: it opens the server when it is let go itself.
    Twin,
    OtherPlan(Record),
}

/// Says in the row that the server is being opened, then looks who else keeps it closed: of two that go
/// at once the last sees none. Repeated, it says the same.
pub(crate) async fn let_go(shard: &mut Shard) -> Result<Others, CutoverError> {
    if let Some(record) = own(shard).await? {
        if shard.was.is_empty() {
            // Who does without the journal knows it from here.
            shard.accounts_only = !record.server;
            shard.was = record.was;
        }
        let sql = format!(
            "UPDATE {FENCES} SET server = {GOING} WHERE plan = {} AND shard = {} AND server = 1",
            quote(&shard.plan),
            quote(shard.primary.name.as_str())
        );
        shard.primary.run("noting that the server is being opened", &sql).await?;
    }
    let records = all(shard).await?;
    Ok(others(&records, shard))
}

/// All is as it was, or serves.
pub(crate) async fn forget(shard: &mut Shard) -> Result<(), CutoverError> {
    if own(shard).await?.is_none() {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM {FENCES} WHERE plan = {} AND shard = {}",
        quote(&shard.plan),
        quote(shard.primary.name.as_str())
    );
    shard.primary.run("noting that the server is open", &sql).await.map(drop)
}

fn others(records: &[Record], shard: &Shard) -> Others {
    let closes = |record: &&Record| record.server && !record.going && !record.is_of(shard);
    let mut others = records.iter().filter(closes);
    let foreign = others.clone().find(|record| record.plan != shard.plan);
    match (foreign, others.next()) {
        (Some(record), _) => Others::OtherPlan(record.clone()),
        // A dry run has written nothing.
        (None, Some(_)) if !shard.primary.is_dry() => Others::Twin,
        (None, _) => Others::Nobody,
    }
}

pub(crate) fn still_closed(server: &Server, by: &Record) -> CutoverError {
    CutoverError::ClosedByOther {
        server: server.name.clone(),
        by: by.words(),
        plan: by.plan.clone(),
    }
}
