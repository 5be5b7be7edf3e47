//! The home guard: a server refuses by itself to change rows that are not at home on it, whoever asks.
//!
//! Where a shard is split in place the old server goes on serving, so `read_only` cannot stop a client
//! that still has the old routing. Triggers do: an INSERT, UPDATE or DELETE of a row whose key is not at
//! home there ends with error 1290, as under `read_only`, and the whole statement with it. A client
//! that treats 1290 as docs/routing.md says reads the routing and makes its transaction again.
//!
//! | writes | are let through by |
//! |---|---|
//! | replication, of rows | the server: their triggers do not run (`slave_run_triggers_for_rbr = NO`) |
//! | replication, of statements | `USER()`, which has no host in such a thread |
//! | modshift's own sessions | the user name of their login, whatever the trigger's definer is |
//! | anybody else's, SUPER included | their row's key alone |
//!
//! A statement that makes a trigger waits for every transaction that has read or written its table, so
//! once it is there no transaction that began without it can still commit.
//!
//! **What no trigger sees**: TRUNCATE, DROP and EXCHANGE PARTITION, IMPORT TABLESPACE; rows that a foreign
//! key changes (ON DELETE or UPDATE CASCADE, SET NULL); the statement BINLOG, by which a binlog is
//! played back; tables that are dropped and made anew. [`HomeGuard::unguarded`] names those that the
//! tables have, and the misroute watch sees their rows. A table without transactions keeps what a
//! statement wrote before the row that was refused.
//!
//! **How a run uses it.** [`HomeGuard::read`] before anyone waits: it refuses what cannot be guarded. Once
//! the old side is fenced and drained, [`HomeGuard::put_up`] with [`Log::Kept`] and [`Insist::End`] on
//! each shard; it may be repeated after a kill between any two statements. Then [`HomeGuard::status`] must
//! say that it is up, before routing is published and anyone may write. `Kept`: until the point of no
//! return a promoted server may have to be a replica again, and a group of its own in its binlog would
//! stop it (`gtid_strict_mode`) or its primary would not know it (`current_pos`). Past that point
//! [`HomeGuard::put_up_anew`] with [`Log::Written`]: the server's own replicas get it through the binlog,
//! so a failover keeps the guard; readers pass such statements. Each trigger is replaced under its
//! table's lock: there is no moment without one. An undoing takes it down with [`take_down`]: `Kept`
//! before the point of no return, `Written` from there on. The trigger's definer is the login that made
//! it: a server on which that account is dropped, or loses SELECT or TRIGGER on the schema, refuses every
//! write of the table, so the guard goes before the account does.

mod mending;
mod trigger;

use std::collections::BTreeMap;
use std::time::Duration;

use modshift_mariadb::connect::label_of;
use modshift_mariadb::{Conn, Grants, ServerError, catalog, error};
use modshift_proto::plan::{Placement, Plan};
use modshift_proto::rule::Home;
use modshift_proto::schema::{Column, DataType};
use mysql_async::prelude::Queryable;

pub use self::mending::{Fault, Status, There};
pub use self::trigger::{Guarded, Shown, Trigger, When, triggers};
use crate::error::CutoverError;
use crate::handover::spread;
use crate::holders::{self, Reach};
use crate::server::Server;
use crate::shard::Shard;

const READING: &str = "reading what the home guard is about";
const PUTTING: &str = "putting up the home guard";
const TAKING: &str = "taking down the home guard";
/// A trigger of the application may come or go between a look and the statement that follows from it.
const ROUNDS: usize = 3;

/// Whether the statements are in the server's binlog, and so on its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Written,
    /// Takes BINLOG ADMIN.
    Kept,
}

/// How long to wait for those who hold a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insist {
    /// Nobody has anything to write there: whoever holds a table is ended, and named.
    End,
    /// The application goes on: nobody is ended, and the table is let go again every second, for
    /// behind the statement that waits everyone else waits, too.
    Wait(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    pub log: Log,
    pub insist: Insist,
}

/// The guard of one shard.
#[derive(Clone, Debug)]
pub struct HomeGuard {
    triggers: Vec<Trigger>,
    /// See [`HomeGuard::unguarded`].
    unguarded: Vec<String>,
}

impl HomeGuard {
    /// Of the planned tables, those that are the same everywhere left out, as this server has them; or
    /// why they cannot be guarded.
    pub async fn read(
        plan: &Plan,
        home: &Home,
        server: &mut Server,
    ) -> Result<HomeGuard, CutoverError> {
        let schema = server.endpoint.schema.clone();
        let refused = |server: &Server, what: String| {
            Err(CutoverError::Unfit { server: server.name.clone(), what })
        };
        let spared = holders::own_users(plan);
        let cutover = &plan.cutover;
        let mut named = cutover.old_accounts.iter().chain(&cutover.new_accounts);
        if let Some(account) = named.find(|account| spared.contains(&account.user)) {
            let what = format!(
                "the application's account {account} has the user name of modshift's own login, so no \
                 guard could tell them apart: give modshift a user name of its own"
            );
            return refused(server, what);
        }
        let name = server.name.clone();
        let asked = async |conn: &mut Conn| facts(conn, &name, plan, &schema).await;
        let facts = server.talk(READING, asked).await?;
        if !facts.lacking.is_empty() {
            let what = format!(
                "{} lacks {}, without which there is no home guard: \
                 deploy/mariadb/grants-cutover.sql with @guard = 1",
                server.endpoint.user,
                facts.lacking.join(" and ")
            );
            return refused(server, what);
        }
        let tables = match facts.tables {
            Ok(tables) => tables,
            Err(what) => return refused(server, what),
        };
        let of = |table: &Guarded| trigger::triggers(home, table, &spared);
        let triggers = tables.iter().flat_map(of).collect();
        Ok(HomeGuard { triggers, unguarded: facts.unguarded })
    }

    /// By which ways rows of these tables can change without a trigger, beside those that every table
    /// has (TRUNCATE among them).
    pub fn unguarded(&self) -> &[String] {
        &self.unguarded
    }

    pub async fn status(&self, server: &mut Server) -> Result<Status, CutoverError> {
        let (schema, triggers) = (server.endpoint.schema.clone(), &self.triggers);
        server.talk(READING, async |conn: &mut Conn| status(conn, &schema, triggers).await).await
    }

    /// The same for whoever only looks.
    pub async fn look(&self, conn: &mut Conn, schema: &str) -> Result<Status, ServerError> {
        status(conn, schema, &self.triggers).await
    }

    /// What is whole stays. May be repeated.
    pub async fn put_up(&self, shard: &mut Shard, how: How) -> Result<(), CutoverError> {
        self.put(shard, how, false).await
    }

    /// All of it once more, without a moment in which a trigger is not there.
    pub async fn put_up_anew(&self, shard: &mut Shard, how: How) -> Result<(), CutoverError> {
        self.put(shard, how, true).await
    }

    async fn put(&self, shard: &mut Shard, how: How, anew: bool) -> Result<(), CutoverError> {
        let unfit = |shard: &Shard, what: String| {
            Err(CutoverError::Unfit { server: shard.name().to_owned(), what })
        };
        let mut missed = None;
        for round in 0..ROUNDS {
            let status = self.status(&mut shard.primary).await?;
            if let Some(what) = status.setting {
                return unfit(
                    shard,
                    format!("{what}: SET GLOBAL slave_run_triggers_for_rbr = 'NO'"),
                );
            }
            let there = there(&mut shard.primary).await?;
            let anew = anew && round == 0;
            let statements = mending::to_put_up(&self.triggers, &there, anew);
            if statements.is_empty() {
                return Ok(());
            }
            match change(shard, how, PUTTING, statements).await {
                // The trigger that it was to run behind went away meanwhile.
                Err(CutoverError::Server(error)) if error.code() == Some(NO_SUCH_OTHER) => {
                    missed = Some(error);
                }
                outcome => outcome?,
            }
            if shard.primary.is_dry() {
                return Ok(());
            }
        }
        if let Some(error) = missed {
            return Err(error.into());
        }
        let status = self.status(&mut shard.primary).await?;
        match status.is_up() {
            true => Ok(()),
            false => unfit(
                shard,
                format!(
                    "the home guard does not stay as it is put up, somebody changes triggers there: {}",
                    status.words()
                ),
            ),
        }
    }
}

/// FOLLOWS names a trigger that is not there.
const NO_SUCH_OTHER: u16 = 4031;

/// Of whatever plan and tables it is. May be repeated.
pub async fn take_down(shard: &mut Shard, how: How) -> Result<(), CutoverError> {
    let there = there(&mut shard.primary).await?;
    change(shard, how, TAKING, mending::to_take_down(&there)).await
}

async fn there(server: &mut Server) -> Result<Vec<There>, CutoverError> {
    let schema = server.endpoint.schema.clone();
    server.talk(READING, async |conn: &mut Conn| triggers_of(conn, &schema).await).await
}

async fn status(conn: &mut Conn, schema: &str, wanted: &[Trigger]) -> Result<Status, ServerError> {
    let of = |error, conn: &Conn| error::of(&label_of(conn), READING, error);
    let sql = "SELECT @@GLOBAL.slave_run_triggers_for_rbr";
    let runs: Option<String> = conn.query_first(sql).await.map_err(|e| of(e, conn))?;
    let there = triggers_of(conn, schema).await?;
    let runs = runs.filter(|runs| runs != "NO");
    let setting = runs.map(|runs| {
        format!(
            "slave_run_triggers_for_rbr is {runs}, so triggers run for rows that come by replication"
        )
    });
    Ok(Status { setting, ..mending::judge(wanted, &there) })
}

async fn triggers_of(conn: &mut Conn, schema: &str) -> Result<Vec<There>, ServerError> {
    let at = label_of(conn);
    let sql = "SELECT TRIGGER_NAME, EVENT_OBJECT_TABLE, \
               CONCAT(ACTION_TIMING, ' ', EVENT_MANIPULATION), ACTION_ORDER, ACTION_STATEMENT, \
               SQL_MODE FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = ? \
               ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER";
    let rows: Vec<(String, String, String, u64, Vec<u8>, String)> =
        conn.exec(sql, (schema,)).await.map_err(|error| error::of(&at, READING, error))?;
    let of = |(name, table, when, order, body, sql_mode): (_, _, _, _, Vec<u8>, _)| {
        // What is no UTF-8 is not ours either.
        let body = String::from_utf8_lossy(&body).into_owned();
        There { name, table, when, order, body, sql_mode }
    };
    Ok(rows.into_iter().map(of).collect())
}

struct Facts {
    /// Rights of modshift's login.
    lacking: Vec<&'static str>,
    /// Or what cannot be guarded, and why.
    tables: Result<Vec<Guarded>, String>,
    unguarded: Vec<String>,
}

async fn facts(
    conn: &mut Conn,
    server: &str,
    plan: &Plan,
    schema: &str,
) -> Result<Facts, ServerError> {
    let at = label_of(conn);
    let of = |error| error::of(&at, READING, error);
    let lines: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of)?;
    let grants = Grants::parse(lines.iter().map(String::as_str));
    let sql = "SELECT @@log_bin AND NOT @@log_bin_trust_function_creators";
    let distrusts: Option<bool> = conn.query_first(sql).await.map_err(of)?;
    let lacking = lacking(&grants, schema, distrusts == Some(true));
    let sql = "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS \
               WHERE TABLE_SCHEMA = ? AND EXTRA LIKE '%auto_increment%'";
    let given: Vec<(String, String)> = conn.exec(sql, (schema,)).await.map_err(of)?;
    let sql = "SELECT DISTINCT TABLE_NAME FROM information_schema.PARTITIONS \
               WHERE TABLE_SCHEMA = ? AND PARTITION_NAME IS NOT NULL";
    let partitioned: Vec<String> = conn.exec(sql, (schema,)).await.map_err(of)?;
    let mut tables = Ok(Vec::new());
    let mut unguarded = Vec::new();
    for table in &plan.tables {
        let Placement::Sharded { key, rule } = &table.placement else { continue };
        let found = match catalog::table(conn, schema, &table.name).await {
            Err(modshift_mariadb::CatalogError::Server(error)) => return Err(error),
            Err(error) => Err(error.to_string()),
            Ok(found) => Ok(found),
        };
        let guarded = found.and_then(|found| {
            let column = found.columns.into_iter().find(|column| column.name == *key);
            let column =
                column.ok_or_else(|| format!("table {} has no column {key}", table.name))?;
            let rule = rule.bind(&column).map_err(|error| {
                format!("table {} of {server}: {error}; {}", table.name, error.hint())
            })?;
            let shown = shown(&column);
            let given_out = given.iter().any(|(of, name)| *of == table.name && name == key);
            Ok(Guarded { table: table.name.clone(), key: key.clone(), rule, shown, given_out })
        });
        if let Ok(all) = &mut tables {
            match guarded {
                Ok(guarded) => all.push(guarded),
                Err(what) => tables = Err(what),
            }
        }
        if partitioned.contains(&table.name) {
            unguarded.push(format!(
                "table {}: ALTER TABLE ... DROP, TRUNCATE and EXCHANGE PARTITION",
                table.name
            ));
        }
    }
    let keys = match catalog::foreign_keys(conn, schema).await {
        Err(modshift_mariadb::CatalogError::Server(error)) => return Err(error),
        keys => keys.unwrap_or_default(),
    };
    let planned = |name: &str| plan.tables.iter().any(|table| table.name == name);
    let cascades = keys.iter().filter(|key| key.cascades() && planned(&key.table));
    unguarded.extend(cascades.map(|key| {
        format!(
            "table {}: foreign key {} changes its rows with those of {}",
            key.table, key.name, key.parent_table
        )
    }));
    Ok(Facts { lacking, tables, unguarded })
}

/// `distrusts`: the server has triggers made by those alone who hold SUPER (error 1419).
fn lacking(grants: &Grants, schema: &str, distrusts: bool) -> Vec<&'static str> {
    let on_schema = [("TRIGGER", "TRIGGER on the schema"), ("SELECT", "SELECT on the schema")];
    let mut lacking: Vec<&str> = on_schema
        .into_iter()
        .filter(|(privilege, _)| !grants.has_on_schema(schema, privilege))
        .map(|(_, words)| words)
        .collect();
    if !grants.has_global("BINLOG ADMIN") {
        lacking.push("BINLOG ADMIN");
    }
    if distrusts && !grants.has_global("SUPER") {
        lacking.push("SUPER (or log_bin_trust_function_creators = 1 on the server)");
    }
    lacking
}

/// Text that the server would have to convert from a character set of many bytes is shown as bytes.
fn shown(column: &Column) -> Shown {
    let plain = ["ascii", "latin1", "utf8", "utf8mb3", "utf8mb4"];
    match column.data {
        DataType::Int { .. } => Shown::Number,
        DataType::Char | DataType::VarChar | DataType::Text
            if column.charset.as_deref().is_some_and(|charset| plain.contains(&charset)) =>
        {
            Shown::Text
        }
        _ => Shown::Hex,
    }
}

/// Statements of a table one after the other, tables beside each other.
async fn change(
    shard: &mut Shard,
    how: How,
    doing: &'static str,
    statements: BTreeMap<String, Vec<String>>,
) -> Result<(), CutoverError> {
    let groups = statements.into_iter().collect();
    let act = async |server: &mut Server, (table, statements): &(String, Vec<String>)| {
        let act = async |server: &mut Server| of_table(server, how.log, doing, statements).await;
        match how.insist {
            Insist::End => holders::past(server, table, Reach::Likely, act).await,
            Insist::Wait(bound) => holders::wait(server, table, bound, act).await,
        }
    };
    spread(shard, groups, act).await
}

/// In a session that means by a body what [`trigger`] means by it. Afterwards it is as it was, or not
/// used again: a marker that is not in the binlog would be worse than none.
async fn of_table(
    server: &mut Server,
    log: Log,
    doing: &'static str,
    statements: &[String],
) -> Result<(), CutoverError> {
    let (begin, end) = match log {
        Log::Written => ("", ""),
        Log::Kept => (", sql_log_bin = 0", ", sql_log_bin = 1"),
    };
    server
        .run(doing, &format!("SET @modshift_sql_mode = @@sql_mode, sql_mode = ''{begin}"))
        .await?;
    let mut outcome = Ok(());
    for statement in statements {
        outcome = server.run(doing, statement).await.map(drop);
        if outcome.is_err() {
            break;
        }
    }
    if server.is_dry() || server.is_live() {
        let sql = format!("SET sql_mode = @modshift_sql_mode{end}");
        if let Err(error) = server.run(doing, &sql).await {
            server.abandon();
            return outcome.and(Err(error));
        }
    }
    outcome
}
