//! Servers that the plan names beside the shards' primaries: replicas, which a fence closes and a
//! reader may tail, and the servers of `[rehearse]`.
//!
//! Each is asked once, however many parts it plays.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use modshift_mariadb::Grants;
use modshift_mariadb::catalog::EventInfo;
use modshift_mariadb::connect::{Session, connect};
use modshift_mariadb::value::quote;
use modshift_mariadb::whole_log::{self, Settings};
use modshift_proto::plan::{Endpoint, HostPort, Plan};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::ask::{
    ACCOUNTS, BODIES, DISKS, EVENTS, FILTERS, GRANTS, PREPARED, REPLICAS, SOURCES, TOKEN,
    VARIABLES, VERSION, failed, fencing, if_allowed, prepared, replica_ids,
};
use super::token::{self, Token};
use super::{Account, Body, Room, RoomUnknown, Unreached, Variables, oldest, privileged, room};
use crate::check::ahead;
use crate::check::fault::Side;

/// Chosen where the schema of a role may be missing.
const NO_SCHEMA: &str = "information_schema";

/// What the server is to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Replicates from the shard's primary, and is fenced with it.
    Replica,
    /// That, and a reader reads it in the primary's place: `read_from`.
    Tailed,
    /// Takes the shard's place in a rehearsal.
    Rehearsal,
    /// Replicates from such a one.
    RehearsalReplica,
}

impl Kind {
    pub fn is_rehearsal(self) -> bool {
        matches!(self, Kind::Rehearsal | Kind::RehearsalReplica)
    }
}

#[derive(Clone, Debug)]
pub struct Role {
    pub kind: Kind,
    pub side: Side,
    pub schema: String,
}

pub struct Further {
    /// Its schema is that of the first role.
    pub endpoint: Endpoint,
    pub roles: Vec<Role>,
    pub facts: Result<Standing, Unreached>,
}

impl Further {
    pub fn at(&self) -> HostPort {
        HostPort { host: self.endpoint.host.clone(), port: self.endpoint.port }
    }

    /// As findings call one of its parts: `replica db:3307 of old shard 0`.
    pub fn part(&self, role: &Role) -> String {
        match role.kind {
            Kind::Replica => format!("replica {} of {}", self.at(), role.side),
            Kind::Tailed => format!("read_from {} of {}", self.at(), role.side),
            Kind::Rehearsal => format!("rehearsal of {} on {}", role.side, self.at()),
            Kind::RehearsalReplica => {
                format!("replica {} of the rehearsal of {}", self.at(), role.side)
            }
        }
    }

    /// Is it only there to rehearse on? What is wrong with it then stops nothing else.
    pub fn only_rehearses(&self) -> bool {
        self.roles.iter().all(|role| role.kind.is_rehearsal())
    }
}

/// All its parts; those of a rehearsal, which may be many, as one.
impl fmt::Display for Further {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self
            .roles
            .iter()
            .filter(|role| !role.kind.is_rehearsal())
            .map(|role| self.part(role))
            .collect();
        if self.roles.iter().any(|role| role.kind.is_rehearsal()) {
            parts.push(format!("rehearsal server {}", self.at()));
        }
        f.write_str(&parts.join(" and "))
    }
}

/// What such a server said.
pub struct Standing {
    pub version: String,
    pub variables: Variables,
    pub grants: Grants,
    /// Of the login of `[cutover]` on a replica, see `Facts::fencing`.
    pub fencing: Option<Result<Grants, Unreached>>,
    pub accounts: Option<Vec<Account>>,
    pub replica_ids: Option<Vec<u32>>,
    /// What its binlog leaves out by its own options.
    pub log_filters: Option<Settings>,
    /// What it replicates from; `None` where the account may not see it.
    pub sources: Option<Vec<Source>>,
    pub xa: Vec<String>,
    pub room: Result<Room, RoomUnknown>,
    /// Age of the oldest binlog file, of a server that is tailed.
    pub oldest: Option<Duration>,
    /// Those of its roles that exist, and that the account may see.
    pub schemas: BTreeMap<String, Schema>,
}

/// A row of `SHOW ALL SLAVES STATUS`.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub host: String,
    pub port: u16,
    /// As the source said when it was last reached; 0: never.
    pub server_id: u32,
    pub io: String,
    pub sql: String,
    pub io_errno: u32,
    pub sql_errno: u32,
    pub behind: Option<Duration>,
    pub delay: Duration,
    /// No, Slave_Pos or Current_Pos.
    pub using_gtid: String,
    /// Settings that leave something out, with their values.
    pub filters: Settings,
}

impl Source {
    pub fn runs(&self) -> bool {
        self.io == "Yes" && self.sql == "Yes"
    }

    /// A rehearsal asks no more: connecting counts.
    pub fn is_started(&self) -> bool {
        self.io != "No" || self.sql != "No"
    }
}

#[derive(Default)]
pub struct Schema {
    pub tables: Vec<String>,
    pub events: Option<Vec<EventInfo>>,
    pub bodies: Option<Vec<Body>>,
    pub token: Option<Token>,
    /// Whose rehearsal it is for, if a rehearsal made or took it.
    pub rehearsed_by: Option<String>,
}

/// All of them, each once; nothing has been asked yet.
pub fn named(plan: &Plan) -> Vec<(Endpoint, Vec<Role>)> {
    let mut found: Vec<(Endpoint, Vec<Role>)> = Vec::new();
    let mut add = |endpoint: Endpoint, kind, side| {
        let role = Role { kind, side, schema: endpoint.schema.clone() };
        let login = endpoint.login();
        match found.iter_mut().find(|(other, _)| other.login() == login) {
            Some((_, roles)) => roles.push(role),
            None => found.push((endpoint, vec![role])),
        }
    };
    for side in super::all_sides(plan) {
        let shard = super::endpoint(plan, side);
        for server in &shard.replicas {
            let read = side.is_old() || ahead::way_back(plan);
            let kind = match shard.read_from.as_ref() == Some(server) && read {
                true => Kind::Tailed,
                false => Kind::Replica,
            };
            add(shard.on(server), kind, side);
        }
    }
    let Some(rehearse) = &plan.rehearse else { return found };
    let old = plan.old_shards().map(Side::Old).zip(&rehearse.old);
    let new = plan.new_shards().map(Side::New).zip(&rehearse.new);
    for (side, shard) in old.chain(new) {
        for (index, server) in shard.servers().into_iter().enumerate() {
            let kind = if index == 0 { Kind::Rehearsal } else { Kind::RehearsalReplica };
            add(server, kind, side);
        }
    }
    found
}

/// Only those that readers read.
pub fn tailed(plan: &Plan) -> Vec<(Endpoint, Vec<Role>)> {
    let is_tailed = |role: &Role| role.kind == Kind::Tailed;
    named(plan).into_iter().filter(|(_, roles)| roles.iter().any(is_tailed)).collect()
}

pub async fn ask(plan: &Plan, endpoint: &Endpoint, roles: &[Role]) -> Result<Standing, Unreached> {
    // A schema may be missing, which is for a rule to say.
    let server = Endpoint { schema: NO_SCHEMA.to_owned(), ..endpoint.clone() };
    let of = |doing| failed(&server, doing);
    // The name would only puzzle whoever reads of a server that is away.
    let nameless = |error| {
        let unreached = Unreached::from(error);
        let message = unreached.message.replace(&format!("/{NO_SCHEMA}"), "");
        Unreached { message, ..unreached }
    };
    let mut conn = connect(&server, Session::Plain).await.map_err(nameless)?;
    let login = plan.cutover.login.as_ref();
    let fenced = roles.iter().any(|role| !role.kind.is_rehearsal());
    let fencing = match login.filter(|_| fenced) {
        Some((user, password)) => Some(fencing(&server, user, password).await),
        None => None,
    };
    let grants: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of(GRANTS))?;
    let grants = Grants::parse(grants.iter().map(String::as_str));
    let variables: Vec<(String, String)> =
        conn.query("SHOW GLOBAL VARIABLES").await.map_err(of(VARIABLES))?;
    let mut variables: Variables = variables.into_iter().collect();
    variables.ask_origins(&mut conn).await.map_err(of(VARIABLES))?;
    let tailed = roles.iter().any(|role| role.kind == Kind::Tailed);
    let logs = variables.is_on("log_bin") && grants.has_global("REPLICATION SLAVE");
    let oldest = match tailed && logs {
        true => oldest::age(&server).await,
        false => None,
    };
    let (mut schemas, mut accounts) = (BTreeMap::new(), None);
    for role in roles {
        if schemas.contains_key(&role.schema)
            || !enter(&mut conn, &role.schema).await.map_err(of("entering the schema"))?
        {
            continue;
        }
        let inside = schema(&mut conn, &role.schema, of).await?;
        schemas.insert(role.schema.clone(), inside);
        // Through a view of the schema, where the account may not see the table itself.
        if accounts.is_none() {
            accounts = privileged::accounts(&mut conn, true).await.map_err(of(ACCOUNTS))?;
        }
    }
    Ok(Standing {
        version: conn
            .query_first("SELECT VERSION()")
            .await
            .map_err(of(VERSION))?
            .unwrap_or_default(),
        fencing,
        accounts,
        replica_ids: replica_ids(&mut conn, true).await.map_err(of(REPLICAS))?,
        log_filters: if_allowed(whole_log::filters(&mut conn).await).map_err(of(FILTERS))?,
        sources: sources(&mut conn).await.map_err(of(SOURCES))?,
        xa: prepared(&mut conn).await.map_err(of(PREPARED))?,
        room: room::of(&mut conn, variables.text("datadir"), true).await.map_err(of(DISKS))?,
        oldest,
        schemas,
        variables,
        grants,
    })
}

/// Is there such a schema, as far as the account may know?
async fn enter(conn: &mut Conn, schema: &str) -> mysql_async::Result<bool> {
    const UNKNOWN_DATABASE: u16 = 1049;
    match conn.query_drop(format!("USE {}", quote(schema))).await {
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_DATABASE => Ok(false),
        outcome => Ok(if_allowed(outcome)?.is_some()),
    }
}

async fn schema<F>(
    conn: &mut Conn,
    name: &str,
    of: impl Fn(&'static str) -> F,
) -> Result<Schema, Unreached>
where
    F: Fn(mysql_async::Error) -> Unreached,
{
    // Views are the administrator's: see deploy/mariadb/grants-old.sql.
    let sql = "SELECT TABLE_NAME FROM information_schema.TABLES \
               WHERE TABLE_SCHEMA = ? AND TABLE_TYPE <> 'VIEW' ORDER BY TABLE_NAME";
    let sql_of_rehearsal = "SELECT plan FROM modshift_rehearsal WHERE id = 1";
    let owner: mysql_async::Result<Option<String>> = conn.query_first(sql_of_rehearsal).await;
    Ok(Schema {
        tables: conn.exec(sql, (name,)).await.map_err(of("listing tables"))?,
        events: privileged::events(conn, name, true).await.map_err(of(EVENTS))?,
        bodies: privileged::bodies(conn, name, true).await.map_err(of(BODIES))?,
        token: token::read(conn).await.map_err(of(TOKEN))?,
        rehearsed_by: if_allowed(owner).map_err(of("reading modshift_rehearsal"))?.flatten(),
    })
}

pub(super) async fn sources(conn: &mut Conn) -> mysql_async::Result<Option<Vec<Source>>> {
    let rows: Option<Vec<Row>> = if_allowed(conn.query("SHOW ALL SLAVES STATUS").await)?;
    Ok(rows.map(|rows| rows.iter().map(source).collect()))
}

fn source(row: &Row) -> Source {
    let text = |column: &str| -> String {
        row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
    };
    let seconds = |column: &str| text(column).parse().ok().map(Duration::from_secs);
    Source {
        host: text("Master_Host"),
        port: text("Master_Port").parse().unwrap_or_default(),
        server_id: text("Master_Server_Id").parse().unwrap_or_default(),
        io: text("Slave_IO_Running"),
        sql: text("Slave_SQL_Running"),
        io_errno: text("Last_IO_Errno").parse().unwrap_or_default(),
        sql_errno: text("Last_SQL_Errno").parse().unwrap_or_default(),
        behind: seconds("Seconds_Behind_Master"),
        delay: seconds("SQL_Delay").unwrap_or_default(),
        using_gtid: text("Using_Gtid"),
        filters: whole_log::left_out(row),
    }
}
