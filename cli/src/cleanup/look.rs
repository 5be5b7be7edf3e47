//! What is left on each shard and its server. Nothing is changed here.

use futures_util::future::join_all;
use modshift_cutover::shard::login;
use modshift_mariadb::{ServerError, control};
use modshift_proto::plan::{Endpoint, Plan};

use super::gone::Gone;
use crate::answer;
use crate::check::Side;
use crate::check::survey::{all_sides, endpoint};
use crate::session::Server;

const DOING: &str = "looking for what is left of modshift";
const DENIED: [u16; 3] = [1044, 1142, 1143];
const NO_SUCH_TABLE: u16 = 1146;
const NO_SUCH_SCHEMA: u16 = 1049;

pub struct Shard {
    pub side: Side,
    /// With the login of the cutover, which may drop.
    pub endpoint: Endpoint,
    pub state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The server, as it calls itself.
    pub server: String,
    /// Modshift's tables and views in the shard's schema, a view with `true`.
    pub own: Vec<(String, bool)>,
    /// Triggers of a home guard.
    pub guards: Vec<String>,
    /// The plans that are finished there.
    pub finished: Vec<String>,
    /// Schemas of the server in which a stream could still go on.
    pub going_on: Vec<String>,
    /// Shards, of whichever plan, that keep the server closed.
    pub closed_for: Vec<String>,
    /// Servers of which it is still remembered there what they were before the fence.
    pub remembered: Vec<String>,
    /// What is in the schema `modshift`; `None`: there is none.
    pub schema: Option<Vec<String>>,
    /// Accounts with rights in the schema `modshift`, as far as they may be seen.
    pub users: Vec<String>,
    /// `name = value in FILE`.
    pub configured: Vec<String>,
    /// Modshift's own there, each with what SHOW GRANTS says.
    pub accounts: Vec<(String, Vec<String>)>,
}

/// Every shard but those that are gone, or the first that does not answer. One that refuses the login is left out, and that is
/// said: so does a server of which an earlier cleanup has removed it.
pub async fn all(plan: &Plan, gone: &Gone) -> anyhow::Result<Vec<Shard>> {
    let there = all_sides(plan).into_iter().filter(|&side| !gone.has(side));
    let looking = there.map(async |side| {
        let own = endpoint(plan, side).clone();
        let cutover = login(plan, own.clone());
        let mut state = match one(&cutover).await {
            Err(error @ ServerError::Login { .. }) => {
                answer::line(format_args!(
                    "{side} is left out: {error}; so it is where an earlier cleanup has removed the login"
                ));
                return Ok(None);
            }
            state => state.map_err(|error| away(side, error))?,
        };
        state.remembered.retain(|server| !gone.forgets(server));
        for login in [&cutover, &own] {
            if let Some(account) = account(login).await?
                && !state.accounts.iter().any(|(known, _)| *known == account.0)
            {
                state.accounts.push(account);
            }
        }
        Ok(Some(Shard { side, endpoint: cutover, state }))
    });
    join_all(looking).await.into_iter().filter_map(Result::transpose).collect()
}

fn away(side: Side, error: ServerError) -> anyhow::Error {
    let (word, number) = match side {
        Side::Old(shard) => ("old", shard.0),
        Side::New(shard) => ("new", shard.0),
    };
    // Without new shard 0 nothing is begun.
    if !error.is_connection_lost() || (word, number) == ("new", 0) {
        return error.into();
    }
    let hint = format!("if that server is gone for good, give --gone-{word} {number}");
    anyhow::Error::new(error).context(hint)
}

/// `None`: an earlier cleanup has removed it.
async fn account(login: &Endpoint) -> Result<Option<(String, Vec<String>)>, ServerError> {
    let mut server = match Server::open(login, DOING).await {
        Err(ServerError::Login { .. }) => return Ok(None),
        server => server?,
    };
    let name: Option<String> = server.first("SELECT CURRENT_USER()", ()).await?;
    let grants = server.all("SHOW GRANTS", ()).await?;
    Ok(name.map(|name| (name, grants)))
}

async fn one(endpoint: &Endpoint) -> Result<State, ServerError> {
    let mut server = Server::open(endpoint, DOING).await?;
    let name: Option<String> =
        server.first("SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir)", ()).await?;
    let own = server
        .all(
            "SELECT TABLE_NAME, TABLE_TYPE = 'VIEW' FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'modshift\\_%' ORDER BY 1",
            (),
        )
        .await?;
    let guards = server
        .all(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS \
             WHERE TRIGGER_SCHEMA = DATABASE() AND TRIGGER_NAME LIKE 'modshift\\_home\\_%' ORDER BY 1",
            (),
        )
        .await?;
    let going_on = format!(
        "SELECT TABLE_SCHEMA FROM information_schema.TABLES WHERE TABLE_NAME = '{}' ORDER BY 1",
        control::TOKEN
    );
    let schema = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{}' ORDER BY 1",
        control::SCHEMA
    );
    let there = format!(
        "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{}'",
        control::SCHEMA
    );
    let finished = format!("SELECT plan FROM {}", control::FINISHED);
    let closed =
        format!("SELECT CONCAT(shard, ' of plan ', plan) FROM {} ORDER BY 1", control::FENCES);
    // Of whichever plan: its journal would go, too.
    let remembered = "SELECT CONCAT(server, ' of plan ', plan) FROM modshift_fence ORDER BY 1";
    let remembered = server.all(remembered, ()).await;
    let users = format!(
        "SELECT DISTINCT CONCAT(User, '@', Host) FROM mysql.tables_priv WHERE Db = '{}' ORDER BY 1",
        control::SCHEMA
    );
    let configured = "SELECT CONCAT(LOWER(VARIABLE_NAME), ' = ', COALESCE(GLOBAL_VALUE, ''), ' in ', \
         COALESCE(GLOBAL_VALUE_PATH, 'its configuration')) FROM information_schema.SYSTEM_VARIABLES \
         WHERE GLOBAL_VALUE_ORIGIN = 'CONFIG' AND VARIABLE_NAME IN ('read_only', 'event_scheduler', \
         'skip_slave_start', 'auto_increment_increment', 'auto_increment_offset') ORDER BY 1";
    let is_there = server.first::<u8>(&there, ()).await?.is_some();
    Ok(State {
        server: name.unwrap_or_default(),
        own,
        guards,
        finished: if_there(server.all(&finished, ()).await)?,
        going_on: server.all(&going_on, ()).await?,
        closed_for: if_there(server.all(&closed, ()).await)?,
        remembered: if_there(remembered)?,
        schema: match is_there {
            true => Some(server.all(&schema, ()).await?),
            false => None,
        },
        users: if_there(server.all(&users, ()).await)?,
        configured: server.all(configured, ()).await?,
        accounts: Vec::new(),
    })
}

/// Nothing, where the table is not there or may not be seen.
fn if_there(rows: Result<Vec<String>, ServerError>) -> Result<Vec<String>, ServerError> {
    match rows {
        Err(error)
            if error.code().is_some_and(|code| {
                DENIED.contains(&code) || [NO_SUCH_TABLE, NO_SUCH_SCHEMA].contains(&code)
            }) =>
        {
            Ok(Vec::new())
        }
        rows => rows,
    }
}
