//! What else lives on a server, and what reaches it: the rest of what a fence of the whole server stops.

use std::collections::{BTreeMap, BTreeSet};

use modshift_mariadb::control::{FENCES, SCHEMA};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::ask::if_allowed;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Other schemas and their tables, as far as the account may see them.
    pub schemas: BTreeMap<String, BTreeSet<String>>,
    /// Connections to other servers that run.
    pub upstream: Vec<Upstream>,
    /// Shards, with their plan, that keep the server closed: `old shard 0`.
    pub closed_for: Vec<(String, String)>,
    /// A run has fenced this shard and left it.
    pub left: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub at: String,
    pub server_id: u32,
    /// The one that receives and the one that applies, where one of them does not run.
    pub stands: Option<String>,
}

pub(super) async fn ask(conn: &mut Conn, schema: &str, whole: bool) -> mysql_async::Result<Beside> {
    if !whole {
        return Ok(Beside::default());
    }
    Ok(Beside {
        schemas: schemas(conn, schema).await?,
        upstream: upstream(conn).await?,
        closed_for: closed_for(conn).await?,
        left: left(conn).await?,
    })
}

async fn schemas(
    conn: &mut Conn,
    own: &str,
) -> mysql_async::Result<BTreeMap<String, BTreeSet<String>>> {
    // The second shows all that InnoDB has to who may read it, the first only what one may use.
    const SOURCES: [(&str, &str, &str); 2] = [
        ("TABLE_SCHEMA", "TABLE_NAME", "information_schema.TABLES"),
        ("database_name", "table_name", "mysql.innodb_table_stats"),
    ];
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (schema, table, source) in SOURCES {
        let sql = format!(
            "SELECT CAST({schema} AS CHAR), CAST({table} AS CHAR) FROM {source} WHERE {schema} NOT \
             IN ('information_schema', 'performance_schema', 'mysql', 'sys', '{SCHEMA}', ?)"
        );
        let rows: mysql_async::Result<Vec<(String, String)>> = conn.exec(sql, (own,)).await;
        for (schema, table) in if_allowed(rows)?.unwrap_or_default() {
            found.entry(schema).or_default().insert(table);
        }
    }
    Ok(found)
}

async fn upstream(conn: &mut Conn) -> mysql_async::Result<Vec<Upstream>> {
    let rows: Option<Vec<Row>> = if_allowed(conn.query("SHOW ALL SLAVES STATUS").await)?;
    let text = |row: &Row, column: &str| -> String {
        row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
    };
    let runs = |row: &Row| {
        ["Slave_IO_Running", "Slave_SQL_Running"].iter().any(|state| text(row, state) != "No")
    };
    let upstream = |row: &Row| {
        let (io, sql) = (text(row, "Slave_IO_Running"), text(row, "Slave_SQL_Running"));
        let stands = format!("Slave_IO_Running {io}, Slave_SQL_Running {sql}");
        Upstream {
            at: format!("{}:{}", text(row, "Master_Host"), text(row, "Master_Port")),
            server_id: text(row, "Master_Server_Id").parse().unwrap_or_default(),
            stands: (io != "Yes" || sql != "Yes").then_some(stands),
        }
    };
    Ok(rows.unwrap_or_default().iter().filter(|row| runs(row)).map(upstream).collect())
}

async fn closed_for(conn: &mut Conn) -> mysql_async::Result<Vec<(String, String)>> {
    const NO_SUCH_SCHEMA: u16 = 1049;
    let sql = format!("SELECT plan, shard FROM {FENCES} WHERE server ORDER BY plan, shard");
    match conn.query(sql).await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_SCHEMA => Ok(Vec::new()),
        rows => Ok(if_allowed(rows)?.unwrap_or_default()),
    }
}

async fn left(conn: &mut Conn) -> mysql_async::Result<bool> {
    // A token of an earlier version, which no run has marked.
    const NO_SUCH_COLUMN: u16 = 1054;
    let sql = "SELECT phase = 'fenced' AND fence IS NOT NULL FROM modshift_token WHERE id = 1";
    let row: mysql_async::Result<Option<Option<bool>>> = conn.query_first(sql).await;
    if let Err(mysql_async::Error::Server(error)) = &row
        && error.code == NO_SUCH_COLUMN
    {
        return Ok(false);
    }
    Ok(if_allowed(row)?.flatten().flatten().unwrap_or_default())
}
