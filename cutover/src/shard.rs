//! A shard as the cutover sees it: its servers, whom to keep out, and what they were before.

use std::time::Duration;

use modshift_proto::plan::{Account, Endpoint, FenceScope, Plan};
use serde::{Deserialize, Serialize};

use crate::accounts::{self, is_locked};
use crate::error::CutoverError;
use crate::held;
use crate::holders;
use crate::server::{Guard, Server};
use crate::step::Side;
use modshift_mariadb::connect::label;
use modshift_mariadb::{Grants, ServerError, Session, connect, error};
use mysql_async::prelude::Queryable;

const GRANTS_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Shard {
    /// Of which plan.
    pub plan: String,
    pub side: Side,
    pub number: u16,
    pub primary: Server,
    pub replicas: Vec<Server>,
    /// The application's.
    pub accounts: Vec<Account>,
    /// The server holds a shard of the other side too: read_only is not touched.
    pub accounts_only: bool,
    pub scope: FenceScope,
    /// Another plan keeps the server closed: found out when this one let it go.
    pub kept_closed: bool,
    /// Of the primary, then of the replicas.
    pub was: Vec<Was>,
    /// What a step waits for on this shard, where it is not what the step always waits for.
    pub waiting: String,
}

/// Settings of a server before it was fenced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    pub read_only: bool,
    /// ON, OFF or DISABLED.
    pub event_scheduler: String,
    /// Accounts of the plan that were locked already.
    pub locked: Vec<String>,
    /// Names of connections to other primaries that were running.
    pub replicating: Vec<String>,
}

impl Shard {
    pub fn name(&self) -> &str {
        &self.primary.name
    }

    pub fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.primary).chain(&mut self.replicas)
    }

    /// Under which the journal remembers each server.
    pub fn keys(&self) -> Vec<String> {
        let key = |server: &Server| {
            format!("{} {}:{}", self.side, server.endpoint.host, server.endpoint.port)
        };
        std::iter::once(&self.primary).chain(&self.replicas).map(key).collect()
    }

    /// What its servers are, for the journal; of a server that somebody keeps closed, what it was
    /// before. Nothing is changed.
    pub async fn look(&mut self) -> Result<Look, CutoverError> {
        accounts::doors(&mut self.primary, &self.accounts, self.accounts_only).await?;
        let server = self.scope == FenceScope::Server;
        let now = settings(&mut self.primary).await?;
        if self.accounts_only && now.read_only {
            return Err(CutoverError::Unfit {
                server: self.name().to_owned(),
                what: "is read-only, and a fence of accounts does not end that: SET GLOBAL \
                       read_only = 0 there first (locked accounts keep the application out)"
                    .to_owned(),
            });
        }
        let closed = held::before(self).await?;
        if let Some(was) = closed.own
            && was.len() == 1 + self.replicas.len()
        {
            return Ok(Look { was, fresh: false });
        }
        let mut was = match (server, closed.server) {
            (true, Some(before)) => before,
            (true, None) => {
                let replicating = replicating(&mut self.primary).await?;
                Was { replicating, ..now }
            }
            // What is not touched need not be known.
            (false, _) => Was::default(),
        };
        // Accounts are the whole server's, too.
        was.locked = match closed.twin {
            Some(twin) => twin.locked,
            None => self.locked().await?,
        };
        let mut all = vec![was];
        for replica in &mut self.replicas {
            all.push(settings(replica).await?);
        }
        // A row that says nothing of a replica that came into the plan since leaves the rest to what
        // is remembered.
        Ok(Look { was: all, fresh: !closed.is_own })
    }

    async fn locked(&mut self) -> Result<Vec<String>, CutoverError> {
        let mut locked = Vec::new();
        for account in &self.accounts {
            if is_locked(&mut self.primary, account).await? {
                locked.push(account.to_string());
            }
        }
        Ok(locked)
    }
}

/// What [`Shard::look`] sees.
#[derive(Debug)]
pub struct Look {
    /// Of the primary, then of the replicas.
    pub was: Vec<Was>,
    /// No fence of this shard stands: whatever is remembered of it is of an earlier time.
    pub fresh: bool,
}

/// All shards of a side, with the login that the cutover uses.
pub fn side(plan: &Plan, side: Side, guard: &Guard) -> Vec<Shard> {
    let (endpoints, accounts) = match side {
        Side::Old => (&plan.old, &plan.cutover.old_accounts),
        Side::New => (&plan.new, &plan.cutover.new_accounts),
    };
    let own_users = holders::own_users(plan);
    let shard = |(endpoint, number): (&Endpoint, u16)| {
        let name = format!("{side} shard {number}");
        let mut servers = endpoint.servers().into_iter().map(|server| login(plan, server));
        let primary = servers.next().unwrap_or_else(|| login(plan, endpoint.clone()));
        let replica = |server: Endpoint| {
            let name = format!("replica {}:{} of {name}", server.host, server.port);
            Server::new(name, &plan.name, server, guard.clone()).with_own_users(own_users.clone())
        };
        Shard {
            plan: plan.name.clone(),
            side,
            number,
            replicas: match plan.cutover.scope {
                FenceScope::Server => servers.map(replica).collect(),
                FenceScope::Accounts => Vec::new(),
            },
            primary: Server::new(name.clone(), &plan.name, primary, guard.clone())
                .with_own_users(own_users.clone()),
            accounts: accounts.clone(),
            accounts_only: plan.cutover.scope == FenceScope::Accounts,
            scope: plan.cutover.scope,
            kept_closed: false,
            was: Vec::new(),
            waiting: String::new(),
        }
    };
    endpoints.iter().zip(0..).map(shard).collect()
}

/// Gives each shard what the journal remembers of its servers.
pub fn recall(shards: &mut [Shard], remembered: &[(String, String)]) {
    for shard in shards {
        let of = |key: &String| {
            let (_, was) = remembered.iter().find(|(server, _)| server == key)?;
            serde_json::from_str(was).ok()
        };
        let was: Option<Vec<_>> = shard.keys().iter().map(of).collect();
        shard.was = was.unwrap_or_default();
    }
}

/// An endpoint with the login of `[cutover]`, if the plan names one.
pub fn login(plan: &Plan, endpoint: Endpoint) -> Endpoint {
    match &plan.cutover.login {
        Some((user, password)) => {
            Endpoint { user: user.clone(), password: password.clone(), ..endpoint }
        }
        None => endpoint,
    }
}

async fn settings(server: &mut Server) -> Result<Was, CutoverError> {
    let sql = "SELECT @@read_only, @@event_scheduler";
    let rows: Vec<(bool, String)> = server.ask("reading its settings", sql).await?;
    let (read_only, event_scheduler) = rows.into_iter().next().unwrap_or_default();
    Ok(Was { read_only, event_scheduler, ..Was::default() })
}

/// A connection to another server, from which a server replicates.
#[derive(Debug)]
pub(crate) struct Connection {
    pub name: String,
    /// One of its threads does.
    pub runs: bool,
}

pub(crate) async fn connections(server: &mut Server) -> Result<Vec<Connection>, CutoverError> {
    let doing = "looking for replication into it";
    let rows: Vec<mysql_async::Row> = server.ask(doing, "SHOW ALL SLAVES STATUS").await?;
    let text = |row: &mysql_async::Row, column: &str| -> String {
        row.get_opt::<String, _>(column).and_then(Result::ok).unwrap_or_default()
    };
    let connection = |row: &mysql_async::Row| Connection {
        name: text(row, "Connection_name"),
        runs: text(row, "Slave_IO_Running") != "No" || text(row, "Slave_SQL_Running") != "No",
    };
    Ok(rows.iter().map(connection).collect())
}

/// Names of those that run.
pub(crate) async fn replicating(server: &mut Server) -> Result<Vec<String>, CutoverError> {
    let connections = connections(server).await?;
    Ok(connections.into_iter().filter(|c| c.runs).map(|c| c.name).collect())
}

/// Do the daemons, with the shard's own login, write through read_only? SUPER alone does not.
pub async fn writes_through(endpoint: &Endpoint) -> Result<(), CutoverError> {
    let late = |_| {
        let detail = format!("no answer in {} s", GRANTS_TIMEOUT.as_secs());
        Err(ServerError::Unreachable { at: label(endpoint), detail }.into())
    };
    tokio::time::timeout(GRANTS_TIMEOUT, may_write(endpoint)).await.unwrap_or_else(late)
}

async fn may_write(endpoint: &Endpoint) -> Result<(), CutoverError> {
    let at = label(endpoint);
    let of = |error| error::of(&at, "reading modshift's own grants", error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let lines: Vec<String> = conn.query("SHOW GRANTS").await.map_err(of)?;
    conn.disconnect().await.map_err(of)?;
    match Grants::parse(lines.iter().map(String::as_str)).has_global("READ_ONLY ADMIN")
        || Grants::parse(lines.iter().map(String::as_str)).has_global("READ ONLY ADMIN")
    {
        true => Ok(()),
        false => Err(CutoverError::Unfit {
            server: at,
            what: format!("{} lacks READ_ONLY ADMIN, and read_only would stop it", endpoint.user),
        }),
    }
}
