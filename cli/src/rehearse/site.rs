//! The rehearsal's schemas: taken, furnished, and given back as they were.
//!
//! Nothing is removed that a rehearsal did not make. A schema counts as a rehearsal's only if it
//! holds `modshift_rehearsal`, which is made before anything else in a schema found empty. It also
//! keeps what the servers were, so that the next rehearsal mends what a killed one left behind.
//!
//! A server on which a real shard lives as well is not fenced: there the rehearsal's own accounts
//! are locked, and no setting of the server is touched.

use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::value::quote;
use modshift_mariadb::{Conn, ServerError, control, error};
use modshift_proto::plan::{Account, Endpoint, FenceScope, HostPort, Plan, Rehearse, Secret};
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};

use crate::exit::BadPlan;
use crate::schema::Model;

const MARKER: &str = "modshift_rehearsal";
const MARKER_TABLE: &str = "CREATE TABLE modshift_rehearsal (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        plan VARCHAR(64) NOT NULL COMMENT 'whose rehearsal this schema is for',
        made_schema TINYINT NOT NULL COMMENT 'the schema was made too, and goes with the rest',
        was LONGTEXT NOT NULL COMMENT 'JSON: settings of the servers before the first fence'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
/// A lock's connection stands idle for as long as the rehearsal takes.
const LOCK_SESSION: &str = "SET SESSION wait_timeout = 2678400";

/// Settings of a server that a fence changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Was {
    read_only: bool,
    event_scheduler: String,
}

/// One schema of the rehearsal.
struct Place {
    endpoint: Endpoint,
    accounts: Vec<Account>,
    /// Found there: a killed or kept rehearsal of this plan.
    marked: bool,
    schema_exists: bool,
    made_schema: bool,
    /// Of the shard's servers, the primary first; empty where they are not touched.
    was: Vec<Was>,
}

pub struct Site {
    plan: String,
    tables: Vec<String>,
    places: Vec<Place>,
    scope: FenceScope,
    /// Of the accounts.
    pub password: Secret,
    /// Held as long as it is open.
    _lock: Conn,
}

/// The endpoint without its schema, which may not be there yet.
fn server(endpoint: &Endpoint) -> Endpoint {
    Endpoint { schema: "information_schema".to_owned(), ..endpoint.clone() }
}

/// Which server it is, whatever name it is reached by.
async fn identity(endpoint: &Endpoint) -> Result<String, ServerError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "asking which server it is", error);
    let mut conn = connect(&server(endpoint), Session::Plain).await?;
    let sql = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir)";
    let found: Option<String> = conn.query_first(sql).await.map_err(of)?;
    conn.disconnect().await.map_err(of)?;
    Ok(found.unwrap_or_default())
}

/// Refuses to rehearse in a real shard's schema, under whatever name; and what a fence may touch.
pub async fn scope(plan: &Plan, rehearse: &Rehearse) -> anyhow::Result<FenceScope> {
    let servers = |endpoints: Vec<&Endpoint>| {
        let servers: Vec<Endpoint> = endpoints.into_iter().flat_map(Endpoint::servers).collect();
        async move {
            let asked = try_join_all(servers.iter().map(identity)).await?;
            Ok::<_, ServerError>(servers.iter().cloned().zip(asked).collect::<Vec<_>>())
        }
    };
    let real = servers(plan.old.iter().chain(&plan.new).collect()).await;
    let real =
        real.context("what is a real shard's server, and must be left alone, is not known")?;
    let ours = servers(rehearse.old.iter().chain(&rehearse.new).collect()).await?;
    // Names of schemas may or may not know upper case: in doubt it is the same.
    let same = |a: &Endpoint, b: &Endpoint| a.schema.to_lowercase() == b.schema.to_lowercase();
    for (endpoint, id) in &ours {
        if let Some((other, _)) = real.iter().find(|(other, of)| of == id && same(other, endpoint))
        {
            let (at, other) = (label(endpoint), label(other));
            let message = format!("[rehearse] names {at}, which is a real shard: {other}");
            return Err(BadPlan(message).into());
        }
    }
    // Whatever is written on a replica alone stands in the way of its replication.
    let replicas: Vec<HostPort> =
        plan.old.iter().chain(&plan.new).flat_map(|e| e.replicas.clone()).collect();
    let is_replica =
        |e: &Endpoint| replicas.iter().any(|at| (&at.host, at.port) == (&e.host, e.port));
    for (endpoint, id) in &ours {
        if let Some((other, _)) = real.iter().find(|(other, of)| of == id && is_replica(other)) {
            let (at, other) = (label(endpoint), label(other));
            let message =
                format!("[rehearse] names {at}, whose server is a replica of real shards: {other}");
            return Err(BadPlan(message).into());
        }
    }
    let primaries: Vec<_> = ours.iter().filter(|(e, _)| e.schema != "information_schema").collect();
    for (index, (endpoint, id)) in primaries.iter().enumerate() {
        let twin = primaries[..index].iter().find(|(other, of)| of == id && same(other, endpoint));
        if let Some((twin, _)) = twin {
            let message = format!("[rehearse]: {} and {} are one", label(endpoint), label(twin));
            return Err(BadPlan(message).into());
        }
    }
    let shared = ours.iter().any(|(_, id)| real.iter().any(|(_, of)| of == id));
    Ok(if shared { FenceScope::Accounts } else { FenceScope::Server })
}

impl Site {
    /// Looks at every schema and refuses those that are in use. Nothing is changed.
    pub async fn take(plan: &Plan, rehearsal: &Plan) -> anyhow::Result<Site> {
        let lock = lock(&plan.name, &rehearsal.new[0]).await?;
        let cutover = &rehearsal.cutover;
        let old = rehearsal.old.iter().map(|endpoint| (endpoint, &cutover.old_accounts));
        let new = rehearsal.new.iter().map(|endpoint| (endpoint, &cutover.new_accounts));
        let looks =
            old.chain(new).map(|(e, accounts)| look(&plan.name, cutover.scope, e, accounts));
        Ok(Site {
            plan: plan.name.clone(),
            tables: plan.tables.iter().map(|table| table.name.clone()).collect(),
            places: try_join_all(looks).await?,
            scope: cutover.scope,
            password: password()?,
            _lock: lock,
        })
    }

    /// Empty tables as the real old shards have them, and accounts to write them with.
    pub async fn furnish(&mut self, models: &[Model]) -> anyhow::Result<()> {
        let (plan, tables, scope) = (&self.plan, &self.tables, self.scope);
        let marked = self.places.iter_mut().map(|place| place.mark(plan));
        try_join_all(marked).await?;
        let emptied = self.places.iter().map(async |place| {
            place.restore(plan, scope).await?;
            place.empty(tables, false).await?;
            place.make_tables(models).await
        });
        try_join_all(emptied).await?;
        // Shards may share a server: every account first, then what each may.
        for place in &self.places {
            place.make_accounts(&self.password).await?;
        }
        for place in &self.places {
            place.grant().await?;
        }
        Ok(())
    }

    /// Gives everything back; what could not be, in words.
    pub async fn clean(self, keep: bool) -> Vec<String> {
        let mut left = Vec::new();
        let cleaned = join_all(self.places.iter().map(async |place| {
            place.restore(&self.plan, self.scope).await?;
            place.drop_accounts().await?;
            if !keep {
                place.empty(&self.tables, true).await?;
            }
            Ok::<_, ServerError>(())
        }));
        for (outcome, place) in cleaned.await.into_iter().zip(&self.places) {
            if let Err(error) = outcome {
                left.push(format!(
                    "{} is not cleaned up: {error}; the next rehearsal does it",
                    label(&place.endpoint)
                ));
            }
        }
        if keep {
            let places: Vec<String> = self.places.iter().map(|p| label(&p.endpoint)).collect();
            left.push(format!("kept until the next rehearsal: {}", places.join(", ")));
        }
        left
    }
}

async fn lock(plan: &str, endpoint: &Endpoint) -> anyhow::Result<Conn> {
    let of = |error| error::of(&label(endpoint), "locking the rehearsal", error);
    let mut conn = connect(&server(endpoint), Session::Plain).await?;
    conn.query_drop(LOCK_SESSION).await.map_err(of)?;
    let name = format!("modshift.rehearsal.{:08x}", crc32fast::hash(plan.as_bytes()));
    let got: Option<Option<u8>> =
        conn.exec_first("SELECT GET_LOCK(?, 0)", (name,)).await.map_err(of)?;
    match got.flatten() {
        Some(1) => Ok(conn),
        _ => anyhow::bail!("another rehearsal of {plan} is under way on {}", label(endpoint)),
    }
}

/// For as long as the rehearsal; nobody has to type it. All classes of characters, for servers
/// that check passwords.
fn password() -> anyhow::Result<Secret> {
    use std::io::Read;
    let mut bytes = [0; 18];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.context("reading /dev/urandom for a password")?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(format!("Aa1!{hex}")))
}

async fn look(
    plan: &str,
    scope: FenceScope,
    endpoint: &Endpoint,
    accounts: &[Account],
) -> anyhow::Result<Place> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "looking at a schema to rehearse in", error);
    let mut conn = connect(&server(endpoint), Session::Plain).await?;
    let schema = &endpoint.schema;
    let sql = "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
    let exists: Option<u8> = conn.exec_first(sql, (schema,)).await.map_err(of)?;
    let sql = "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES \
               WHERE TABLE_SCHEMA = ? ORDER BY TABLE_NAME";
    let tables: Vec<(String, String)> = conn.exec(sql, (schema,)).await.map_err(of)?;
    let mut place = Place {
        endpoint: endpoint.clone(),
        accounts: accounts.to_vec(),
        marked: tables.iter().any(|(name, _)| name == MARKER),
        schema_exists: exists == Some(1),
        made_schema: false,
        was: Vec::new(),
    };
    if place.marked {
        let sql = format!("SELECT plan, made_schema, was FROM {}.{MARKER}", quote(schema));
        let row: Option<(String, bool, String)> = conn.query_first(sql).await.map_err(of)?;
        // Without a row it was killed before it went on: nothing else has been made.
        if let Some((owner, made, was)) = row {
            if owner != plan {
                let message = format!("{at} is what the plan {owner} rehearses in");
                return Err(BadPlan(message).into());
            }
            place.made_schema = made;
            place.was = serde_json::from_str(&was).with_context(|| format!("{at}: {MARKER}"))?;
            return Ok(place);
        }
    }
    // The views of deploy/mariadb/grants-old.sql are the administrator's, and stay.
    let is_view = |kind: &str| kind == "VIEW";
    let strange: Vec<&str> = tables
        .iter()
        .filter(|(name, kind)| {
            name != MARKER && !(is_view(kind) && name.starts_with(control::PREFIX))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !strange.is_empty() {
        let message = format!(
            "{at} holds what no rehearsal made ({}): name an empty schema, or none that exists",
            crate::check::some_of(strange)
        );
        return Err(BadPlan(message).into());
    }
    if scope == FenceScope::Server {
        refuse_replica(&mut conn, &at).await?;
        for server in endpoint.servers() {
            place.was.push(settings(&server).await?);
        }
    }
    Ok(place)
}

/// The fence would stop what is replicated into it.
async fn refuse_replica(conn: &mut Conn, at: &str) -> anyhow::Result<()> {
    let sql = "SHOW ALL SLAVES STATUS";
    let rows: Vec<mysql_async::Row> =
        conn.query(sql).await.map_err(|e| error::of(at, "looking for replication into it", e))?;
    let runs = |row: &mysql_async::Row, column: &str| {
        row.get_opt::<String, _>(column).and_then(Result::ok).is_some_and(|state| state != "No")
    };
    let running =
        |row: &&mysql_async::Row| runs(row, "Slave_IO_Running") || runs(row, "Slave_SQL_Running");
    if rows.iter().any(|row| running(&row)) {
        let message =
            format!("{at} replicates from another server: stop that, or rehearse elsewhere");
        return Err(BadPlan(message).into());
    }
    Ok(())
}

async fn settings(endpoint: &Endpoint) -> Result<Was, ServerError> {
    let of = |error| error::of(&label(endpoint), "reading its settings", error);
    let mut conn = connect(&server(endpoint), Session::Plain).await?;
    let sql = "SELECT @@GLOBAL.read_only, @@GLOBAL.event_scheduler";
    let row: Option<(bool, String)> = conn.query_first(sql).await.map_err(of)?;
    let (read_only, event_scheduler) = row.unwrap_or_default();
    Ok(Was { read_only, event_scheduler })
}

impl Place {
    async fn mark(&mut self, plan: &str) -> Result<(), ServerError> {
        let Place { endpoint, schema_exists, .. } = self;
        let of = |error| error::of(&label(endpoint), "marking the schema of a rehearsal", error);
        let mut conn = connect(&server(endpoint), Session::Plain).await?;
        if !*schema_exists {
            let sql = format!("CREATE DATABASE {}", quote(&endpoint.schema));
            conn.query_drop(sql).await.map_err(of)?;
            (self.made_schema, self.schema_exists) = (true, true);
        }
        let sql = format!("USE {}", quote(&endpoint.schema));
        conn.query_drop(sql).await.map_err(of)?;
        if !self.marked {
            conn.query_drop(MARKER_TABLE).await.map_err(of)?;
            self.marked = true;
        }
        let was = serde_json::to_string(&self.was).unwrap_or_default();
        let sql = "INSERT IGNORE INTO modshift_rehearsal (id, plan, made_schema, was) \
                   VALUES (1, ?, ?, ?)";
        conn.exec_drop(sql, (plan, self.made_schema, was)).await.map_err(of)
    }

    async fn make_tables(&self, models: &[Model]) -> Result<(), ServerError> {
        let of = |error| error::of(&label(&self.endpoint), "creating tables", error);
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        // A child may come before its parent in the plan.
        conn.query_drop("SET foreign_key_checks = 0").await.map_err(of)?;
        for model in models {
            conn.query_drop(&model.statement).await.map_err(of)?;
        }
        Ok(())
    }

    async fn make_accounts(&self, password: &Secret) -> Result<(), ServerError> {
        let of = |error| error::of(&label(&self.endpoint), "making accounts", error);
        let mut conn = connect(&server(&self.endpoint), Session::Plain).await?;
        for account in &self.accounts {
            let sql = format!(
                "CREATE OR REPLACE USER {} IDENTIFIED BY '{}'",
                named(account),
                password.expose()
            );
            conn.query_drop(sql).await.map_err(of)?;
        }
        Ok(())
    }

    async fn grant(&self) -> Result<(), ServerError> {
        let of = |error| error::of(&label(&self.endpoint), "granting on its schema", error);
        let mut conn = connect(&server(&self.endpoint), Session::Plain).await?;
        // In the name of a schema grants take _ and % for wildcards.
        let pattern = self.endpoint.schema.replace('_', "\\_").replace('%', "\\%");
        for account in &self.accounts {
            let on = quote(&pattern);
            let sql = format!("GRANT SELECT, INSERT, DELETE ON {on}.* TO {}", named(account));
            conn.query_drop(sql).await.map_err(of)?;
        }
        Ok(())
    }

    async fn drop_accounts(&self) -> Result<(), ServerError> {
        let of = |error| error::of(&label(&self.endpoint), "dropping accounts", error);
        let mut conn = connect(&server(&self.endpoint), Session::Plain).await?;
        for account in &self.accounts {
            let sql = format!("DROP USER IF EXISTS {}", named(account));
            conn.query_drop(sql).await.map_err(of)?;
        }
        Ok(())
    }

    /// That its shards keep the server closed: nobody lets them go any more.
    async fn forget_fences(&self, plan: &str) -> Result<(), ServerError> {
        const NO_SUCH: [u16; 2] = [1049, 1146];
        if !self.marked {
            return Ok(());
        }
        let mut conn = connect(&server(&self.endpoint), Session::Plain).await?;
        let fenced_as = format!("{plan}{}-", modshift_proto::plan::REHEARSAL_SUFFIX);
        let sql = format!("DELETE FROM {} WHERE LEFT(plan, ?) = ?", control::FENCES);
        let gone = conn.exec_drop(sql, (fenced_as.chars().count(), &fenced_as)).await;
        match gone.map_err(|e| error::of(&label(&self.endpoint), "forgetting its fences", e)) {
            Err(error) if error.code().is_some_and(|code| NO_SUCH.contains(&code)) => Ok(()),
            outcome => outcome,
        }
    }

    /// The servers' settings as they were before the first fence.
    async fn restore(&self, plan: &str, scope: FenceScope) -> Result<(), ServerError> {
        self.forget_fences(plan).await?;
        if scope == FenceScope::Accounts || !self.marked {
            return Ok(());
        }
        for (endpoint, was) in self.endpoint.servers().iter().zip(&self.was) {
            let of = |error| error::of(&label(endpoint), "restoring its settings", error);
            let is = settings(endpoint).await?;
            let mut conn = connect(&server(endpoint), Session::Plain).await?;
            if is.read_only != was.read_only {
                let sql = format!("SET GLOBAL read_only = {}", u8::from(was.read_only));
                conn.query_drop(sql).await.map_err(of)?;
            }
            // DISABLED cannot be set, and is not left by a fence either.
            if is.event_scheduler != was.event_scheduler && is.event_scheduler != "DISABLED" {
                let sql = format!("SET GLOBAL event_scheduler = {}", was.event_scheduler);
                conn.query_drop(sql).await.map_err(of)?;
            }
        }
        Ok(())
    }

    /// Drops the plan's tables and modshift's own; at the end the marker too, and the schema if it
    /// was made and nobody else has put anything into it.
    async fn empty(&self, planned: &[String], end: bool) -> Result<(), ServerError> {
        if !self.marked {
            return Ok(());
        }
        let schema = &self.endpoint.schema;
        let of = |error| error::of(&label(&self.endpoint), "removing a rehearsal's tables", error);
        let mut conn = connect(&self.endpoint, Session::Plain).await?;
        conn.query_drop("SET foreign_key_checks = 0").await.map_err(of)?;
        let sql = "SELECT TABLE_NAME FROM information_schema.TABLES \
                   WHERE TABLE_SCHEMA = ? AND TABLE_TYPE <> 'VIEW'";
        let found: Vec<String> = conn.exec(sql, (schema,)).await.map_err(of)?;
        let ours = |name: &&String| {
            name.as_str() != MARKER
                && (name.starts_with(control::PREFIX)
                    || planned.iter().any(|table| table.eq_ignore_ascii_case(name)))
        };
        for name in found.iter().filter(ours) {
            conn.query_drop(format!("DROP TABLE {}", quote(name))).await.map_err(of)?;
        }
        if !end {
            return Ok(());
        }
        // Last: until then the next rehearsal knows the schema for its own.
        conn.query_drop(format!("DROP TABLE {MARKER}")).await.map_err(of)?;
        let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?";
        let others: Option<u64> = conn.exec_first(sql, (schema,)).await.map_err(of)?;
        if self.made_schema && others == Some(0) {
            let sql = format!("DROP DATABASE {}", quote(schema));
            conn.query_drop(sql).await.map_err(of)?;
        }
        Ok(())
    }
}

/// As in CREATE USER. The names are the plan's hash and a few letters: nothing to escape.
fn named(account: &Account) -> String {
    format!("'{}'@'{}'", account.user, account.host)
}
