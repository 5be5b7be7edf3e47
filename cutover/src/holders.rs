//! Who keeps a table's definition from being changed: a metadata lock is held by every transaction that
//! has read the table, to its end, and by every statement on it.
//!
//! A trigger is dropped or made, and a counter raised, only once nobody holds such a lock; and behind
//! the statement that waits everyone else waits, too. Sessions of the application are gone by then.
//! What is left is whoever the plan does not name: a backup, a report. While the application waits they
//! are ended, and named.
//!
//! Which locks a session holds tells the plugin `metadata_lock_info` alone, which is rarely there.
//! Without it whoever is in the shard's schema, or names it, and has a transaction open or a statement
//! under way is taken for a holder. Where that is not enough to put a shard back, it may be a session
//! of another schema. On a server that the fence closes all of those are ended; where the plan spares
//! others on it (`fence = "accounts"`), those whose account has any right in the shard's schema, since
//! no other can have read there but through a view or routine.

use std::time::{Duration, Instant};

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::{Endpoint, FenceScope, Plan};
use mysql_async::prelude::Queryable;

use crate::error::CutoverError;
use crate::register::quote;
use crate::server::{Server, kill};

const DOING: &str = "looking for who holds a table";
/// A definition is changed in 20 ms where nobody holds its table.
const PATIENCE: Duration = Duration::from_millis(300);
/// For ending those who do.
const ENDING: Duration = Duration::from_secs(2);
/// MariaDB's lock_wait_timeout is in whole seconds.
const LOCK_WAIT_S: u64 = 1;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// Each ends with the lock's timeout.
const ATTEMPTS: usize = 3;

/// Whom to look for.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub schema: &'a str,
    pub tables: &'a [String],
    /// User names that do not count.
    pub spared: &'a [String],
    /// With a transaction or a statement that is older.
    pub older: Duration,
    /// Without the plugin.
    pub range: Range,
}

/// Sessions that may hold a table, as far as the process list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// In the shard's schema, or with a statement that names it.
    Near,
    /// And all others of accounts that may use a table of it.
    Allowed,
    Everyone,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub connection: u64,
    pub user: String,
    pub open: Duration,
    /// Those that it is known to hold.
    pub tables: Option<String>,
}

impl Holder {
    pub fn words(&self) -> String {
        let open = self.open.as_secs_f64();
        format!("{} (connection {}, open for {open:.1} s)", self.user, self.connection)
    }

    /// What it was ended for.
    fn guilt(&self, table: &str) -> String {
        let held = if self.tables.is_some() { "held" } else { "may have held" };
        format!("{}, which {held} {table}", self.words())
    }
}

/// Modshift's own logins: what they read is over in a moment.
pub fn own_users(plan: &Plan) -> Vec<String> {
    let endpoints = plan.old.iter().chain(&plan.new).map(|endpoint| endpoint.user.clone());
    let login = plan.cutover.login.iter().map(|(user, _)| user.clone());
    let mut users: Vec<String> = endpoints.chain(login).collect();
    users.sort_unstable();
    users.dedup();
    users
}

pub async fn find(
    conn: &mut Conn,
    at: &str,
    search: Search<'_>,
) -> Result<Vec<Holder>, ServerError> {
    let of = |error| error::of(at, DOING, error);
    let sql = "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' \
               AND PLUGIN_STATUS = 'ACTIVE'";
    let plugin: Option<u8> = conn.query_first(sql).await.map_err(of)?;
    let sql = search.sql(plugin.is_some());
    let rows: Vec<(u64, String, i64, Option<String>)> = conn.query(sql).await.map_err(of)?;
    let holder = |(connection, user, micros, tables): (_, _, i64, _)| Holder {
        connection,
        user,
        open: Duration::from_micros(micros.max(0).unsigned_abs()),
        tables,
    };
    Ok(rows.into_iter().map(holder).collect())
}

impl Search<'_> {
    fn sql(&self, plugin: bool) -> String {
        let schema = quote(self.schema);
        let list = |names: &[String]| {
            let quoted: Vec<String> = names.iter().map(|name| quote(name)).collect();
            if quoted.is_empty() { "''".to_owned() } else { quoted.join(", ") }
        };
        let statement = "p.COMMAND IN ('Query', 'Execute')";
        let age = "COALESCE(TIMESTAMPDIFF(MICROSECOND, MIN(t.trx_started), NOW(6)), \
                   CAST(MAX(p.TIME_MS) * 1000 AS SIGNED))";
        let near = format!("(p.DB = {schema} OR LOCATE({schema}, p.INFO) > 0)");
        let (tables, join, which) = match (plugin, self.range) {
            (true, _) => (
                "GROUP_CONCAT(DISTINCT m.TABLE_NAME ORDER BY m.TABLE_NAME SEPARATOR ', ')",
                format!(
                    "JOIN information_schema.METADATA_LOCK_INFO m ON m.THREAD_ID = p.ID \
                     AND m.LOCK_TYPE = 'Table metadata lock' AND m.TABLE_SCHEMA = {schema} \
                     AND m.TABLE_NAME IN ({})",
                    list(self.tables)
                ),
                "TRUE".to_owned(),
            ),
            (false, Range::Everyone) => ("NULL", String::new(), "TRUE".to_owned()),
            (false, Range::Near) => ("NULL", String::new(), near),
            (false, Range::Allowed) => {
                ("NULL", String::new(), format!("({near} OR {})", allowed(&schema)))
            }
        };
        let holds = match plugin {
            true => "TRUE".to_owned(),
            false => format!("(t.trx_mysql_thread_id IS NOT NULL OR {statement})"),
        };
        format!(
            "SELECT p.ID, MAX(p.USER), {age} AS age, {tables} FROM information_schema.PROCESSLIST p \
             LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID {join} \
             WHERE p.ID <> CONNECTION_ID() AND p.COMMAND NOT LIKE 'Binlog Dump%' \
             AND BINARY p.USER NOT IN ('system user', 'unauthenticated user', 'event_scheduler', {}) \
             AND {holds} AND {which} GROUP BY p.ID HAVING age > {} ORDER BY age DESC",
            list(self.spared),
            self.older.as_micros(),
        )
    }
}

/// Sessions of user names that have a right on all schemas, on this one, or on a table of it; a role is
/// seen where it is the default. Asks only for columns that deploy/mariadb/grants-cutover.sql gives.
fn allowed(schema: &str) -> String {
    /// SELECT, INSERT, UPDATE and DELETE among an account's global privileges.
    const ROWS: u64 = 0b1111;
    let of_db = format!("SELECT d.User FROM mysql.db d WHERE {schema} LIKE d.Db");
    let of_table = format!("SELECT t.User FROM mysql.tables_priv t WHERE t.Db = {schema}");
    let names = "BINARY p.USER, BINARY 'PUBLIC'";
    // An anonymous account lets in any name.
    let has = |users: &str| {
        format!(
            "EXISTS (SELECT 1 FROM ({users}) AS a WHERE a.User = '' OR BINARY a.User IN ({names}) \
             OR BINARY a.User IN (SELECT BINARY JSON_VALUE(g.Priv, '$.default_role') \
             FROM mysql.global_priv g WHERE BINARY g.User = BINARY p.USER))"
        )
    };
    let global = format!(
        "SELECT g.User FROM mysql.global_priv g \
         WHERE COALESCE(CAST(JSON_VALUE(g.Priv, '$.access') AS UNSIGNED), 0) & {ROWS} > 0"
    );
    has(&format!("{of_db} UNION ALL {of_table} UNION ALL {global}"))
}

/// How far the search for holders goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those that are likely to hold it.
    Likely,
    /// The application waits for nothing else: from the second attempt on all who may.
    Beyond(Range),
}

impl Reach {
    /// For what puts back a shard that nobody can use until then.
    pub(crate) fn beyond(scope: FenceScope) -> Reach {
        match scope {
            FenceScope::Server => Reach::Beyond(Range::Everyone),
            FenceScope::Accounts => Reach::Beyond(Range::Allowed),
        }
    }

    fn range(self, attempt: usize) -> Range {
        match self {
            Reach::Beyond(range) if attempt > 0 => range,
            Reach::Beyond(_) | Reach::Likely => Range::Near,
        }
    }
}

/// Changes definitions of a table, and ends whoever keeps it waiting. `act` may be repeated.
pub(crate) async fn past<T>(
    server: &mut Server,
    table: &str,
    reach: Reach,
    act: impl AsyncFn(&mut Server) -> Result<T, CutoverError>,
) -> Result<T, CutoverError> {
    if server.is_dry() {
        return act(server).await;
    }
    server.run(DOING, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")).await?;
    let (endpoint, name) = (server.endpoint.clone(), server.name.clone());
    let (tables, spared) = (vec![table.to_owned()], server.own_users.clone());
    let mut held_by = Vec::new();
    for attempt in 0..ATTEMPTS {
        let search = Search {
            schema: &endpoint.schema,
            tables: &tables,
            spared: &spared,
            older: Duration::ZERO,
            range: reach.range(attempt),
        };
        let mut ended = Vec::new();
        let outcome = {
            let acting = act(server);
            tokio::pin!(acting);
            tokio::select! {
                outcome = &mut acting => outcome,
                () = tokio::time::sleep(PATIENCE) => {
                    match tokio::time::timeout(ENDING, end(&endpoint, search)).await {
                        Ok(Ok(found)) => ended = found,
                        Ok(Err(error)) => tracing::warn!(server = name, %error, "who holds it?"),
                        Err(_) => {}
                    }
                    acting.await
                }
            }
        };
        for holder in ended {
            let words = holder.words();
            tracing::warn!(server = name, table, holder = words, "ended: it may have held a table");
            server.note(format!("{name}: ended {}", holder.guilt(table)));
            held_by.push(words);
        }
        match outcome {
            Err(CutoverError::Server(error)) if error.code() == Some(LOCK_WAIT_TIMEOUT) => {}
            outcome => return outcome,
        }
    }
    Err(held(server, table, held_by).await)
}

/// The same where the application goes on: nobody is ended. Whoever comes behind the statement that
/// waits waits as long, so it gives up each time after a second, lets those pass, and tries again.
pub(crate) async fn wait<T>(
    server: &mut Server,
    table: &str,
    bound: Duration,
    act: impl AsyncFn(&mut Server) -> Result<T, CutoverError>,
) -> Result<T, CutoverError> {
    /// For those who waited behind it.
    const PASS: Duration = Duration::from_millis(200);
    server.run(DOING, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")).await?;
    let deadline = Instant::now() + bound;
    loop {
        match act(server).await {
            Err(CutoverError::Server(error)) if error.code() == Some(LOCK_WAIT_TIMEOUT) => {}
            outcome => return outcome,
        }
        if Instant::now() >= deadline {
            return Err(held(server, table, Vec::new()).await);
        }
        tokio::time::sleep(PASS).await;
    }
}

/// Who may hold it still, beside those who were ended.
async fn held(server: &Server, table: &str, mut held_by: Vec<String>) -> CutoverError {
    let tables = [table.to_owned()];
    // Not ended, and perhaps not guilty.
    let likely = Search {
        schema: &server.endpoint.schema,
        tables: &tables,
        spared: &server.own_users,
        older: PATIENCE,
        range: Range::Everyone,
    };
    let looking = async {
        let mut conn = connect(&server.endpoint, Session::Plain).await?;
        find(&mut conn, &label(&server.endpoint), likely).await
    };
    if let Ok(Ok(found)) = tokio::time::timeout(ENDING, looking).await {
        held_by.extend(found.iter().map(Holder::words));
    }
    let by = match held_by.is_empty() {
        true => "a session that is gone by now, or modshift's own".to_owned(),
        false => held_by.join(", "),
    };
    CutoverError::Held { server: server.name.clone(), table: table.to_owned(), by }
}

/// Where a statement of ours waits for such a lock in fact.
async fn end(endpoint: &Endpoint, search: Search<'_>) -> Result<Vec<Holder>, ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, DOING, error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!(
        "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE = 'Waiting for table metadata lock' \
         AND BINARY USER = {} AND TIME_MS >= {} LIMIT 1",
        quote(&endpoint.user),
        (PATIENCE / 2).as_millis()
    );
    let waits: Option<u8> = conn.query_first(sql).await.map_err(of)?;
    if waits.is_none() {
        return Ok(Vec::new());
    }
    let found = match find(&mut conn, &at, search).await {
        // Which accounts have rights there it may not see.
        Err(ServerError::Privilege { .. }) => {
            find(&mut conn, &at, Search { range: Range::Near, ..search }).await?
        }
        found => found?,
    };
    for holder in &found {
        kill(&mut conn, holder.connection).await.map_err(of)?;
    }
    conn.disconnect().await.map_err(of)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_plugin_whoever_is_in_the_schema_may_hold_it() {
        let (tables, spared) = (["t'".to_owned()], ["modshift".to_owned()]);
        let search = Search {
            schema: "shop",
            tables: &tables,
            spared: &spared,
            older: Duration::from_millis(300),
            range: Range::Near,
        };
        let sql = search.sql(false);
        assert!(sql.contains("p.DB = 'shop' OR LOCATE('shop', p.INFO) > 0"), "{sql}");
        assert!(sql.contains("'event_scheduler', 'modshift')"), "{sql}");
        assert!(sql.contains("HAVING age > 300000"), "{sql}");
        assert!(!Search { range: Range::Everyone, ..search }.sql(false).contains("LOCATE"));
        let sql = Search { range: Range::Allowed, ..search }.sql(false);
        assert!(sql.contains("LOCATE('shop', p.INFO) > 0) OR EXISTS"), "{sql}");
        assert!(sql.contains("'shop' LIKE d.Db") && sql.contains("t.Db = 'shop'"), "{sql}");
        let sql = search.sql(true);
        assert!(sql.contains("m.TABLE_NAME IN ('t''')") && !sql.contains("LOCATE"), "{sql}");
    }

    #[test]
    fn sessions_of_others_are_ended_only_where_the_plan_closes_the_whole_server() {
        let wide = Reach::beyond(FenceScope::Server);
        let spares = Reach::beyond(FenceScope::Accounts);
        let ranges = |reach: Reach| [0, 1, 2].map(|attempt| reach.range(attempt));
        assert_eq!(ranges(Reach::Likely), [Range::Near; 3]);
        assert_eq!(ranges(wide), [Range::Near, Range::Everyone, Range::Everyone]);
        assert_eq!(ranges(spares), [Range::Near, Range::Allowed, Range::Allowed]);
    }
}
