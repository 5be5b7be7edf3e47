//! What the servers are and hold: read once from each, so that the rules are functions over data.
//!
//! Nothing here judges. What the account may not see is `None`, which is not the same as empty.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use modshift_mariadb::Class;
use modshift_mariadb::catalog::{self, CatalogError, TableKind, TriggerInfo};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::error::{self, ServerError};
use modshift_mariadb::value::quote;
use modshift_proto::TableSchema;
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::fault::Side;
use super::grants::Grants;

pub struct Survey {
    pub plan: Arc<Plan>,
    pub servers: Vec<Server>,
}

pub struct Server {
    pub side: Side,
    pub endpoint: Endpoint,
    pub facts: Result<Facts, Unreached>,
}

/// Why a server did not answer, and what to do about it.
pub struct Unreached {
    pub message: String,
    pub hint: Option<String>,
    /// It may answer later.
    pub passing: bool,
}

impl From<ServerError> for Unreached {
    fn from(error: ServerError) -> Unreached {
        let passing = error.class() == Class::Retry;
        Unreached { message: error.to_string(), hint: error.hint(), passing }
    }
}

impl From<CatalogError> for Unreached {
    fn from(error: CatalogError) -> Unreached {
        let passing = error.class() == Class::Retry;
        Unreached { message: error.to_string(), hint: error.hint(), passing }
    }
}

/// What one server said.
pub struct Facts {
    pub version: String,
    pub variables: BTreeMap<String, String>,
    pub grants: Grants,
    /// Accounts other than ours that hold BINLOG ADMIN or SUPER.
    pub binlog_admins: Option<Vec<String>>,
    /// Server ids of replicas registered now.
    pub replica_ids: Option<Vec<u32>>,
    /// Everything in the schema that has a name.
    pub objects: Vec<Object>,
    /// Kinds of objects that the account cannot see.
    pub unseen: Vec<&'static str>,
    pub triggers: Vec<TriggerInfo>,
    /// Planned tables that exist here.
    pub tables: BTreeMap<String, Table>,
    /// Transactions prepared by XA and neither committed nor rolled back.
    pub xa: Vec<String>,
    /// This server's clock less this host's.
    pub clock_ahead_us: i64,
    /// Is there a row in `modshift_watermark`? New shards only.
    pub has_watermark: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: &'static str,
    pub name: String,
}

pub struct Table {
    pub engine: String,
    /// As `SHOW CREATE TABLE` prints it.
    pub create: String,
    /// Refused where a column has a type that cannot be carried.
    pub schema: Result<TableSchema, Unreached>,
    pub empty: bool,
}

impl Survey {
    pub async fn take(plan: Arc<Plan>, sides: impl IntoIterator<Item = Side>) -> Survey {
        let servers = sides.into_iter().map(|side| {
            let plan = plan.clone();
            async move {
                let endpoint = endpoint(&plan, side).clone();
                let facts = ask(&plan, side, &endpoint).await;
                Server { side, endpoint, facts }
            }
        });
        let servers = join_all(servers).await;
        Survey { plan, servers }
    }

    /// Servers that answered, in order, old ones first.
    pub fn reached(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.servers.iter().filter_map(|server| Some((server, server.facts.as_ref().ok()?)))
    }
}

pub fn endpoint(plan: &Plan, side: Side) -> &Endpoint {
    match side {
        Side::Old(shard) => &plan.old[usize::from(shard.0)],
        Side::New(shard) => &plan.new[usize::from(shard.0)],
    }
}

/// Every shard of the plan, old ones first.
pub fn all_sides(plan: &Plan) -> Vec<Side> {
    plan.old_shards().map(Side::Old).chain(plan.new_shards().map(Side::New)).collect()
}

async fn ask(plan: &Plan, side: Side, endpoint: &Endpoint) -> Result<Facts, Unreached> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let of = |error| Unreached::from(error::of(&label(endpoint), "taking stock", error));
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of)?;
    let grants = Grants::parse(grants.iter().map(String::as_str));
    let schema = endpoint.schema.as_str();
    let (mut objects, mut unseen) = named_objects(&mut conn, schema, &grants).await.map_err(of)?;
    objects.extend(catalog::tables(&mut conn, schema).await?.into_iter().map(|table| Object {
        kind: match table.kind {
            TableKind::View => "view",
            TableKind::Sequence => "sequence",
            TableKind::Table | TableKind::Versioned | TableKind::Other => "table",
        },
        name: table.name,
    }));
    let triggers = catalog::triggers(&mut conn, schema).await?;
    objects.extend(triggers.iter().map(|t| Object { kind: "trigger", name: t.name.clone() }));
    if !grants.has("TRIGGER", schema, "*") {
        unseen.push("triggers");
    }
    let tables = planned_tables(&mut conn, plan, schema).await?;
    let rest = async {
        let old = side.is_old();
        Ok(Facts {
            clock_ahead_us: clock_ahead(&mut conn).await?,
            version: conn.query_first("SELECT VERSION()").await?.unwrap_or_default(),
            variables: conn.query("SHOW GLOBAL VARIABLES").await?.into_iter().collect(),
            binlog_admins: if old { binlog_admins(&mut conn, &endpoint.user).await? } else { None },
            replica_ids: if old { replica_ids(&mut conn).await? } else { None },
            xa: prepared(&mut conn).await?,
            has_watermark: !old && has_watermark(&mut conn).await?,
            tables,
            grants,
            objects,
            unseen,
            triggers,
        })
    };
    rest.await.map_err(of)
}

async fn clock_ahead(conn: &mut Conn) -> mysql_async::Result<i64> {
    let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
    let theirs: i64 = conn.query_first(sql).await?.unwrap_or_default();
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(theirs - i64::try_from(ours.as_micros()).unwrap_or(i64::MAX))
}

/// Routines and events: tables of `mysql` show all of them to who may read them, and
/// information_schema only to who may use them.
async fn named_objects(
    conn: &mut Conn,
    schema: &str,
    grants: &Grants,
) -> mysql_async::Result<(Vec<Object>, Vec<&'static str>)> {
    const KINDS: [(&str, &str, &str, &str); 2] = [
        (
            "routines",
            "EXECUTE",
            "SELECT CAST(type AS CHAR), CAST(name AS CHAR) FROM mysql.proc WHERE db = ?",
            "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA = ?",
        ),
        (
            "events",
            "EVENT",
            "SELECT 'EVENT', CAST(name AS CHAR) FROM mysql.event WHERE db = ?",
            "SELECT 'EVENT', EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?",
        ),
    ];
    let (mut objects, mut unseen) = (Vec::new(), Vec::new());
    for (what, privilege, system, visible) in KINDS {
        let mut rows: Option<Vec<(String, String)>> =
            if_allowed(conn.exec(system, (schema,)).await)?;
        if rows.is_none() && grants.has(privilege, schema, "*") {
            rows = Some(conn.exec(visible, (schema,)).await?);
        }
        match rows {
            None => unseen.push(what),
            Some(rows) => objects
                .extend(rows.into_iter().map(|(kind, name)| Object { kind: kind_of(&kind), name })),
        }
    }
    Ok((objects, unseen))
}

fn kind_of(kind: &str) -> &'static str {
    match kind {
        "PROCEDURE" => "procedure",
        "FUNCTION" => "function",
        "PACKAGE" => "package",
        "PACKAGE BODY" => "package body",
        "EVENT" => "event",
        _ => "routine",
    }
}

/// `None` where the server says that this account may not, or that there is no such table.
fn if_allowed<T>(result: mysql_async::Result<T>) -> mysql_async::Result<Option<T>> {
    const DENIED: [u16; 7] = [1044, 1142, 1143, 1227, 1146, 1356, 1370];
    match result {
        Ok(value) => Ok(Some(value)),
        Err(mysql_async::Error::Server(error)) if DENIED.contains(&error.code) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bits of `access` in `mysql.global_priv`, see sql/privilege.h: SUPER is 1 << 15 and
/// BINLOG ADMIN is 1 << 36. Roles count: whoever holds one can take it up.
async fn binlog_admins(conn: &mut Conn, own: &str) -> mysql_async::Result<Option<Vec<String>>> {
    let accounts = "SELECT CONCAT(User, IF(Host = '', ' (role)', CONCAT('@', Host))) FROM";
    let holds = "(access & (1 << 15 | 1 << 36)) <> 0 AND User NOT IN (?, 'mariadb.sys')";
    let global = "(SELECT User, Host, CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) AS access \
                  FROM mysql.global_priv) a";
    for source in [global, "modshift_accounts"] {
        let sql = format!("{accounts} {source} WHERE {holds} ORDER BY 1");
        if let Some(names) = if_allowed(conn.exec(sql, (own,)).await)? {
            return Ok(Some(names));
        }
    }
    Ok(None)
}

async fn replica_ids(conn: &mut Conn) -> mysql_async::Result<Option<Vec<u32>>> {
    let rows: Option<Vec<mysql_async::Row>> = if_allowed(conn.query("SHOW SLAVE HOSTS").await)?;
    Ok(rows.map(|rows| rows.iter().filter_map(|row| row.get(0)).collect()))
}

async fn prepared(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    let rows: Vec<(u64, u64, u64, Vec<u8>)> = conn.query("XA RECOVER").await?;
    Ok(rows.into_iter().map(|row| String::from_utf8_lossy(&row.3).into_owned()).collect())
}

async fn has_watermark(conn: &mut Conn) -> mysql_async::Result<bool> {
    let row: mysql_async::Result<Option<u8>> =
        conn.query_first("SELECT 1 FROM modshift_watermark LIMIT 1").await;
    Ok(if_allowed(row)?.flatten().is_some())
}

async fn planned_tables(
    conn: &mut Conn,
    plan: &Plan,
    schema: &str,
) -> Result<BTreeMap<String, Table>, Unreached> {
    let found = catalog::tables(conn, schema).await?;
    let mut tables = BTreeMap::new();
    for planned in &plan.tables {
        let Some(info) = found.iter().find(|info| info.name == planned.name) else { continue };
        // Refused for want of a privilege: as good as missing, and said to be either.
        let Ok(create) = catalog::show_create_table(conn, schema, &planned.name).await else {
            continue;
        };
        let any = format!("SELECT 1 FROM {} LIMIT 1", quote(&planned.name));
        let any: mysql_async::Result<Option<u8>> = conn.query_first(any).await;
        let read = catalog::table(conn, schema, &planned.name).await;
        tables.insert(
            planned.name.clone(),
            Table {
                engine: info.engine.clone().unwrap_or_default(),
                create,
                schema: read.map_err(Unreached::from),
                empty: matches!(any, Ok(None)),
            },
        );
    }
    Ok(tables)
}
