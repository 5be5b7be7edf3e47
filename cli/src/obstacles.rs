//! What would keep a pause waiting, found while nobody waits: transactions that have changed rows and
//! stay open, `LOCK TABLES`, `FLUSH TABLES WITH READ LOCK`, `BACKUP STAGE`; events that run; sources that
//! a shard replicates from and has not caught up with; whoever holds a table whose triggers or counters
//! are to be handed over.
//!
//! The server lists transactions. Locks it does not list without a plugin: so each is tried for, with
//! statements that read and change nothing, and that wait no longer than [`LOCK_WAIT_S`]. Only locks on
//! planned tables are found, and those on the whole server.

mod events;
mod held;
mod sources;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use modshift_cutover::shard;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, Few, ServerError, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

/// An application may lock a table for a moment all day long; that holds up no fence.
const LOCK_WAIT_S: u32 = 1;
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// On the shards that are to be fenced, and where triggers and counters come to, one line each. The error
/// is a shard that does not answer.
pub async fn find(plan: &Plan) -> Result<Vec<String>, ServerError> {
    let shards = plan.old_shards().zip(&plan.old);
    let few = Few::default();
    let asked = shards.map(async |(shard, endpoint)| {
        let _turn = few.turn(endpoint).await;
        // Only the login that fences sees the sessions of others.
        let endpoint = shard::login(plan, endpoint.clone());
        let (found, triggered) = of_from(plan, &endpoint).await?;
        let found: Vec<_> = found.into_iter().map(|what| format!("{shard}: {what}")).collect();
        Ok((found, triggered))
    });
    let (mut lines, mut triggered) = (Vec::new(), BTreeSet::new());
    for asked in join_all(asked).await {
        let (found, tables) = asked?;
        lines.extend(found);
        triggered.extend(tables);
    }
    let triggered: Vec<String> = triggered.into_iter().collect();
    let shards = plan.new_shards().zip(&plan.new);
    let asked = shards.map(async |(shard, endpoint)| {
        let _turn = few.turn(endpoint).await;
        let endpoint = shard::login(plan, endpoint.clone());
        let found = of_to(plan, &endpoint, triggered.clone()).await?;
        Ok(found.into_iter().map(|what| format!("{shard}: {what}")).collect::<Vec<_>>())
    });
    for found in join_all(asked).await {
        lines.extend(found?);
    }
    Ok(lines)
}

/// With the tables whose triggers are to be handed over.
async fn of_from(
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<(Vec<String>, Vec<String>), ServerError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let mut found = locks(plan, endpoint, &mut conn).await?;
    let triggered = held::with_triggers(&mut conn, plan, endpoint).await?;
    found.extend(held::find(&mut conn, plan, endpoint, &triggered).await?);
    found.extend(events::find(&mut conn, plan, endpoint).await?);
    found.extend(sources::find(&mut conn, plan, endpoint).await?);
    Ok((found, triggered))
}

async fn of_to(
    plan: &Plan,
    endpoint: &Endpoint,
    mut tables: Vec<String>,
) -> Result<Vec<String>, ServerError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    tables.extend(held::with_counters(&mut conn, plan, endpoint).await?);
    tables.sort_unstable();
    tables.dedup();
    held::find(&mut conn, plan, endpoint, &tables).await
}

async fn locks(
    plan: &Plan,
    endpoint: &Endpoint,
    conn: &mut Conn,
) -> Result<Vec<String>, ServerError> {
    let mut found = Vec::new();
    for open in transactions(conn, endpoint).await? {
        found.extend(open.obstacle(plan.cutover.budget));
    }
    // A table that somebody has locked to write to it.
    let mut locked = Vec::new();
    for table in &plan.tables {
        let sql = format!("SELECT 1 FROM {} LIMIT 0", quote(&table.name));
        if waits(conn, endpoint, &sql).await? {
            locked.push(table.name.as_str());
        }
    }
    if !locked.is_empty() {
        found.push(format!(
            "LOCK TABLES … WRITE, or a statement that alters it, holds {}: the fence would wait for it. \
             SHOW PROCESSLIST shows whose it is; have it ended",
            locked.join(", ")
        ));
    }
    // No token has this number.
    if waits(conn, endpoint, "DELETE FROM modshift_token WHERE id = 255").await? {
        found.push(
            "FLUSH TABLES WITH READ LOCK or BACKUP STAGE holds the whole server: the fence would wait \
             for it. SHOW PROCESSLIST shows whose it is; wait for the backup, or have it ended"
                .to_owned(),
        );
    }
    Ok(found)
}

/// Would this statement have to wait for a lock?
async fn waits(conn: &mut Conn, endpoint: &Endpoint, sql: &str) -> Result<bool, ServerError> {
    let sql = format!("SET STATEMENT lock_wait_timeout = {LOCK_WAIT_S} FOR {sql}");
    let tried = conn.query_drop(sql).await;
    match tried.map_err(|error| error::of(&label(endpoint), "looking for locks", error)) {
        Err(error) if error.code() == Some(LOCK_WAIT_TIMEOUT) => Ok(true),
        Err(error) if error.is_connection_lost() => Err(error),
        // A table that is not there yet, or a right that is missing, is for `check` to say.
        Ok(()) | Err(_) => Ok(false),
    }
}

/// A transaction of somebody else that has changed rows.
#[derive(Debug, PartialEq, Eq)]
struct Transaction {
    connection: u64,
    account: String,
    open: Duration,
    rows: u64,
}

impl Transaction {
    /// One that outlasts a pause will be ended by the fence, and rolled back within it.
    fn obstacle(&self, budget: Duration) -> Option<String> {
        let Transaction { connection, account, open, rows } = self;
        (*open > budget).then(|| {
            format!(
                "a transaction of {account} (connection {connection}) has been open for {} s and has \
                 changed {rows} rows: the fence would end it and wait for its rollback. Have it \
                 committed, or KILL {connection} before",
                open.as_secs()
            )
        })
    }
}

/// Nothing where the account may not see them, which `check` says.
async fn transactions(
    conn: &mut Conn,
    endpoint: &Endpoint,
) -> Result<Vec<Transaction>, ServerError> {
    let sql = "SELECT t.trx_mysql_thread_id, p.USER, \
                 GREATEST(TIMESTAMPDIFF(MICROSECOND, t.trx_started, NOW(6)), 0), \
                 t.trx_rows_modified \
               FROM information_schema.INNODB_TRX t \
               JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
               WHERE t.trx_rows_modified > 0 AND p.ID <> CONNECTION_ID() AND p.USER <> 'system user'";
    let rows = conn.query(sql).await;
    let rows: Vec<(u64, String, u64, u64)> =
        match rows.map_err(|e| error::of(&label(endpoint), "looking for transactions", e)) {
            Err(error) if error.is_connection_lost() => return Err(error),
            rows => rows.unwrap_or_default(),
        };
    let of = |(connection, account, open, rows)| Transaction {
        connection,
        account,
        open: Duration::from_micros(open),
        rows,
    };
    Ok(rows.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transaction_that_outlasts_a_pause_is_named() {
        let open = |s| Transaction {
            connection: 7,
            account: "batch".to_owned(),
            open: Duration::from_secs(s),
            rows: 12,
        };
        let budget = Duration::from_secs(3);
        assert_eq!(open(3).obstacle(budget), None);
        let named = open(4).obstacle(budget).unwrap_or_default();
        assert!(named.contains("batch (connection 7) has been open for 4 s"), "{named}");
        assert!(named.contains("KILL 7"), "{named}");
    }
}
