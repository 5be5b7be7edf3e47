//! The questions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join;
use modshift_cutover::shard;
use modshift_mariadb::Grants;
use modshift_mariadb::catalog::{self, TableKind};
use modshift_mariadb::connect::{Session, connect, label, label_of};
use modshift_mariadb::value::quote;
use modshift_mariadb::{control, error, program, whole_log};
use modshift_proto::plan::{Endpoint, Plan, Secret};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::{
    Binlog, Extent, Facts, Object, Table, Unreached, Variables, beside, connections, oldest,
    privileged, room, sequence, token,
};
use crate::check::fault::Side;
use crate::check::rows::record;

pub async fn ask(
    plan: &Plan,
    side: Side,
    endpoint: &Endpoint,
    extent: Extent,
) -> Result<Facts, Unreached> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let of = |doing| failed(endpoint, doing);
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of(GRANTS))?;
    let grants = Grants::parse(grants.iter().map(String::as_str));
    let schema = endpoint.schema.as_str();
    let (mut objects, mut unseen) = named_objects(&mut conn, schema, &grants)
        .await
        .map_err(of("listing routines and events"))?;
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
    if !grants.has_on_schema(schema, "TRIGGER") {
        unseen.push("triggers");
    }
    let tables = planned_tables(&mut conn, plan, schema).await?;
    let kept_tables = control::kept_tables(&mut conn, &label(endpoint)).await;
    let serves = control::serves(&mut conn, &label(endpoint)).await;
    // What may not be read is as good as missing: `grants` tells.
    let owner = control::owner(&mut conn, &label(endpoint)).await;
    let whole = extent == Extent::Whole;
    let names: Vec<String> = plan.tables.iter().map(|table| table.name.clone()).collect();
    let programs = match whole {
        true => program::read(&mut conn, schema, &names).await?,
        false => Vec::new(),
    };
    let collation = program::schema_collation(&mut conn, schema).await?;
    let login = plan.cutover.login.as_ref().filter(|_| whole);
    let fencing = match login {
        Some((user, password)) => Some(fencing(endpoint, user, password).await),
        None => None,
    };
    let named = match side.is_old() {
        true => &plan.cutover.old_accounts,
        false => &plan.cutover.new_accounts,
    };
    let lockable = match whole && !named.is_empty() {
        true => lockable(plan, endpoint).await,
        false => None,
    };
    let (definers, proxies) = match whole {
        true => join(definers(plan, endpoint), proxies(plan, endpoint)).await,
        false => (None, Vec::new()),
    };
    let old = side.is_old();
    let more = extent != Extent::Start;
    let sequences = objects.iter().filter(|object| more && object.kind == "sequence");
    let sequences = sequences.map(|object| object.name.clone()).collect::<Vec<_>>();
    let status: BTreeMap<String, String> =
        conn.query("SHOW GLOBAL STATUS").await.map_err(of(STATUS))?.into_iter().collect();
    let status = |name: &str| status.get(name).and_then(|v| v.parse().ok()).unwrap_or(0u64);
    let variables: Vec<(String, String)> =
        conn.query("SHOW GLOBAL VARIABLES").await.map_err(of(VARIABLES))?;
    let mut variables: Variables = variables.into_iter().collect();
    if whole {
        variables.ask_origins(&mut conn).await.map_err(of(VARIABLES))?;
    }
    let read = sequence::all(&mut conn, &sequences).await.map_err(of("reading sequences"))?;
    let logs = whole && variables.is_on("log_bin");
    let oldest = match old && logs && grants.has_global("REPLICATION SLAVE") {
        true => oldest::age(endpoint).await,
        false => None,
    };
    Ok(Facts {
        clock_ahead_us: clock_ahead(&mut conn).await.map_err(of("reading the server's clock"))?,
        version: conn
            .query_first("SELECT VERSION()")
            .await
            .map_err(of(VERSION))?
            .unwrap_or_default(),
        accounts: privileged::accounts(&mut conn, whole).await.map_err(of(ACCOUNTS))?,
        writers: privileged::writers(&mut conn, schema, whole)
            .await
            .map_err(of("looking for accounts that may write"))?,
        bodies: privileged::bodies(&mut conn, schema, whole).await.map_err(of(BODIES))?,
        events: privileged::events(&mut conn, schema, more).await.map_err(of(EVENTS))?,
        replica_ids: replica_ids(&mut conn, whole).await.map_err(of(REPLICAS))?,
        log_filters: if_allowed(whole_log::filters(&mut conn).await).map_err(of(FILTERS))?,
        sources: sources(&mut conn).await.map_err(of(SOURCES))?,
        xa: prepared(&mut conn).await.map_err(of(PREPARED))?,
        has_watermark: !old
            && has_watermark(&mut conn).await.map_err(of("looking for a watermark"))?,
        finished: finished(&mut conn, plan)
            .await
            .map_err(of("looking for a reshard that is finished"))?,
        owner: owner.ok().flatten(),
        handed_over: handed_over(&mut conn).await.map_err(of("looking for a hand-over"))?,
        room: room::of(&mut conn, variables.text("datadir"), whole).await.map_err(of(DISKS))?,
        sequences: read.0,
        unknown_sequences: read.1,
        collisions: if old {
            None
        } else {
            record::read(&mut conn).await.map_err(of("reading what check --deep found"))?
        },
        token: token::read(&mut conn).await.map_err(of(TOKEN))?,
        connections: match whole {
            true => Some(
                connections::ask(&mut conn, status("Max_used_connections"))
                    .await
                    .map_err(of("counting connections"))?,
            ),
            false => None,
        },
        beside: beside::ask(&mut conn, schema, whole)
            .await
            .map_err(of("looking for what else is on the server"))?,
        // What may not be read is as good as missing: `grants` tells.
        kept_tables: kept_tables.unwrap_or_default(),
        serves: serves.unwrap_or_default(),
        binlog: Binlog {
            written_bytes: status("Binlog_bytes_written"),
            uptime: Duration::from_secs(status("Uptime")),
            read_at: Instant::now(),
            oldest,
        },
        variables,
        tables,
        grants,
        fencing,
        lockable,
        objects,
        unseen,
        triggers,
        programs,
        definers,
        proxies,
        collation,
    })
}

// Questions that shards are asked and other servers, too.
pub(super) const GRANTS: &str = "reading the account's grants";
pub(super) const STATUS: &str = "reading the global status";
pub(super) const VARIABLES: &str = "reading the global variables";
pub(super) const VERSION: &str = "reading the version";
pub(super) const ACCOUNTS: &str = "listing accounts";
pub(super) const BODIES: &str = "listing stored code and its definers";
pub(super) const EVENTS: &str = "listing events";
pub(super) const REPLICAS: &str = "listing replicas";
pub(super) const FILTERS: &str = "reading filters of the binlog";
pub(super) const SOURCES: &str = "reading the replica status";
pub(super) const PREPARED: &str = "looking for prepared transactions";
pub(super) const DISKS: &str = "reading information_schema.DISKS";
pub(super) const TOKEN: &str = "reading modshift_token";

/// What the server was asked when it failed: some of its errors have no words of their own.
pub(super) fn failed(
    endpoint: &Endpoint,
    doing: &'static str,
) -> impl Fn(mysql_async::Error) -> Unreached {
    let at = label(endpoint);
    move |error| Unreached::from(error::of(&at, doing, error))
}

/// What the login of `[cutover]` may there.
pub(super) async fn fencing(
    endpoint: &Endpoint,
    user: &str,
    password: &Secret,
) -> Result<Grants, Unreached> {
    let endpoint =
        Endpoint { user: user.to_owned(), password: password.clone(), ..endpoint.clone() };
    let mut conn = connect(&endpoint, Session::Plain).await?;
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(failed(&endpoint, GRANTS))?;
    Ok(Grants::parse(grants.iter().map(String::as_str)))
}

/// In whose name triggers of the schema may run, as the cutover finds out before it hands them over.
async fn definers(plan: &Plan, endpoint: &Endpoint) -> Option<BTreeMap<String, bool>> {
    /// Bit of TRIGGER among an account's global privileges.
    const TRIGGER: u64 = 1 << 27;
    let mut conn = connect(&shard::login(plan, endpoint.clone()), Session::Plain).await.ok()?;
    let of = |table: &str| {
        format!(
            "EXISTS (SELECT 1 FROM mysql.{table} h WHERE h.User = g.User AND h.Host = g.Host AND "
        )
    };
    let sql = format!(
        "SELECT CONCAT(g.User, '@', g.Host), \
         COALESCE(CAST(JSON_VALUE(g.Priv, '$.access') AS UNSIGNED), 0) & {TRIGGER} > 0 \
         OR {}DATABASE() LIKE h.Db AND h.Trigger_priv = 'Y') \
         OR {}h.Db = DATABASE() AND FIND_IN_SET('Trigger', h.Table_priv)) \
         FROM mysql.global_priv g WHERE g.Host <> ''",
        of("db"),
        of("tables_priv")
    );
    let rows: Vec<(String, bool)> = conn.query(sql).await.ok()?;
    Some(rows.into_iter().collect())
}

/// None where the login may not see them, which is another finding.
async fn proxies(plan: &Plan, endpoint: &Endpoint) -> Vec<(String, String)> {
    let login = shard::login(plan, endpoint.clone());
    let Ok(mut conn) = connect(&login, Session::Plain).await else { return Vec::new() };
    let sql = "SELECT CONCAT(User, '@', Host), Proxied_user FROM mysql.proxies_priv \
               WHERE User <> '' AND Proxied_user <> ''";
    conn.query(sql).await.unwrap_or_default()
}

/// Accounts that the login of the cutover can find and lock there; `None` where it may not see them,
/// which is another finding.
async fn lockable(plan: &Plan, endpoint: &Endpoint) -> Option<Vec<String>> {
    let mut endpoint = endpoint.clone();
    if let Some((user, password)) = &plan.cutover.login {
        (endpoint.user, endpoint.password) = (user.clone(), password.clone());
    }
    let mut conn = connect(&endpoint, Session::Plain).await.ok()?;
    // With the columns that grants-cutover.sql gives.
    let sql = "SELECT CONCAT(User, '@', Host) FROM mysql.global_priv WHERE Host <> ''";
    conn.query(sql).await.ok()
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
        if rows.is_none() && grants.has_on_schema(schema, privilege) {
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
pub(super) fn if_allowed<T>(result: mysql_async::Result<T>) -> mysql_async::Result<Option<T>> {
    const DENIED: [u16; 7] = [1044, 1142, 1143, 1227, 1146, 1356, 1370];
    match result {
        Ok(value) => Ok(Some(value)),
        Err(mysql_async::Error::Server(error)) if DENIED.contains(&error.code) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn replica_ids(
    conn: &mut Conn,
    whole: bool,
) -> mysql_async::Result<Option<Vec<u32>>> {
    if !whole {
        return Ok(None);
    }
    let rows: Option<Vec<mysql_async::Row>> = if_allowed(conn.query("SHOW SLAVE HOSTS").await)?;
    Ok(rows.map(|rows| rows.iter().filter_map(|row| row.get(0)).collect()))
}

async fn sources(conn: &mut Conn) -> mysql_async::Result<Option<Vec<whole_log::Settings>>> {
    let rows: Option<Vec<mysql_async::Row>> =
        if_allowed(conn.query("SHOW ALL SLAVES STATUS").await)?;
    Ok(rows.map(|rows| rows.iter().map(whole_log::left_out).collect()))
}

pub(super) async fn prepared(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    let rows: Vec<(u64, u64, u64, Vec<u8>)> = conn.query("XA RECOVER").await?;
    Ok(rows.into_iter().map(|row| String::from_utf8_lossy(&row.3).into_owned()).collect())
}

async fn has_watermark(conn: &mut Conn) -> mysql_async::Result<bool> {
    let row: mysql_async::Result<Option<u8>> =
        conn.query_first("SELECT 1 FROM modshift_watermark LIMIT 1").await;
    Ok(if_allowed(row)?.flatten().is_some())
}

async fn handed_over(conn: &mut Conn) -> mysql_async::Result<bool> {
    let row: mysql_async::Result<Option<u8>> = conn.query_first(control::HANDED_OVER).await;
    Ok(if_allowed(row)?.flatten().is_some())
}

async fn finished(conn: &mut Conn, plan: &Plan) -> mysql_async::Result<bool> {
    let sql = format!("SELECT 1 FROM {} WHERE plan = ?", control::FINISHED);
    let row: mysql_async::Result<Option<u8>> = conn.exec_first(sql, (plan.forward_name(),)).await;
    Ok(if_allowed(row)?.flatten().is_some())
}

async fn planned_tables(
    conn: &mut Conn,
    plan: &Plan,
    schema: &str,
) -> Result<BTreeMap<String, Table>, Unreached> {
    let found = catalog::tables(conn, schema).await?;
    let counters: Vec<(String, String)> = conn
        .exec(
            "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND EXTRA LIKE '%auto_increment%'",
            (schema,),
        )
        .await
        .map_err(|error| error::of(&label_of(conn), "looking for AUTO_INCREMENT columns", error))?;
    let counters: BTreeMap<String, String> = counters.into_iter().collect();
    let folds: Option<bool> = conn
        .query_first("SELECT @@global.lower_case_table_names <> 0")
        .await
        .map_err(|error| error::of(&label_of(conn), VARIABLES, error))?;
    let mut tables = BTreeMap::new();
    for planned in &plan.tables {
        // One that is only spelled otherwise is there; reading it says how.
        let same = |info: &&catalog::TableInfo| {
            info.name == planned.name
                || folds == Some(true) && info.name.to_lowercase() == planned.name.to_lowercase()
        };
        let Some(info) = found.iter().find(same) else { continue };
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
                rows: info.rows_estimated,
                bytes: info.data_bytes + info.index_bytes,
                counter: counters.get(&planned.name).cloned().zip(info.auto_increment),
            },
        );
    }
    Ok(tables)
}
