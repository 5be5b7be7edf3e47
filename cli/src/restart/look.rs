//! What each shard is and holds, before anything is emptied. Nothing is changed here.

use futures_util::future::join_all;
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::value::quote;
use modshift_mariadb::{ServerError, control};
use modshift_proto::plan::{Endpoint, Plan};

use crate::check::Side;
use crate::check::survey::{all_sides, endpoint};
use crate::session::Server;

const DOING: &str = "looking at what is to be copied anew";
const NO_SUCH_TABLE: u16 = 1146;

pub struct Shard {
    pub side: Side,
    /// With modshift's own login.
    pub endpoint: Endpoint,
    pub state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Server and schema, as the server itself calls them.
    pub place: String,
    /// What its token says; `None` where no reader was ever started.
    pub phase: Option<String>,
    /// The application's triggers are there, or come.
    pub handed_over: bool,
    pub finished: bool,
    /// Another reshard has it: which, and what comes first.
    pub other: Option<String>,
    /// Modshift's own tables and views.
    pub own: Vec<String>,
    /// Planned tables that hold rows.
    pub filled: Vec<Filled>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    pub table: String,
    /// As the server estimates.
    pub rows: u64,
}

impl State {
    pub fn has(&self, own: &str) -> bool {
        self.own.iter().any(|name| name == own)
    }
}

/// Every shard, or the first that does not answer.
pub async fn all(plan: &Plan) -> Result<Vec<Shard>, ServerError> {
    let looking = all_sides(plan).into_iter().map(async |side| {
        let endpoint = endpoint(plan, side).clone();
        let state = one(plan, &endpoint, side.is_old()).await?;
        Ok(Shard { side, endpoint, state })
    });
    join_all(looking).await.into_iter().collect()
}

/// The same once more, with the marks that stood at the first look and no other.
pub async fn again(plan: &Plan, before: &[Shard]) -> Result<Vec<Shard>, ServerError> {
    let mut shards = all(plan).await?;
    for (now, then) in shards.iter_mut().zip(before) {
        if !then.state.has(control::RESTART) {
            now.state.own.retain(|name| name != control::RESTART);
        }
    }
    Ok(shards)
}

async fn one(plan: &Plan, endpoint: &Endpoint, old: bool) -> Result<State, ServerError> {
    let mut server = Server::open(endpoint, DOING).await?;
    let place = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir, ' ', DATABASE())";
    let place: Option<String> = server.first(place, ()).await?;
    let own: Vec<String> = server
        .all(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
             AND TABLE_NAME LIKE 'modshift\\_%' ORDER BY 1",
            (),
        )
        .await?;
    let mut state = State { place: place.unwrap_or_default(), own, ..State::default() };
    if state.has(control::TOKEN) {
        let sql = format!("SELECT phase FROM {} WHERE id = 1", control::TOKEN);
        state.phase = server.first(&sql, ()).await?;
    }
    if state.has(control::HANDOVER) {
        state.handed_over = server.first::<u8>(control::HANDED_OVER, ()).await?.is_some();
    }
    if state.has(control::FINISHED) {
        let sql = format!("SELECT 1 FROM {} WHERE plan = ?", control::FINISHED);
        state.finished = server.first::<u8>(&sql, (plan.forward_name(),)).await?.is_some();
    }
    state.other = other(plan, endpoint).await?;
    if old {
        return Ok(state);
    }
    for table in &plan.tables {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", quote(&table.name));
        match server.first::<u8>(&sql, ()).await {
            Ok(None) => continue,
            Ok(Some(_)) => {}
            Err(error) if error.code() == Some(NO_SUCH_TABLE) => continue,
            Err(error) => return Err(error),
        }
        let sql = "SELECT CAST(TABLE_ROWS AS UNSIGNED) FROM information_schema.TABLES \
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
        let rows: Option<Option<u64>> = server.first(sql, (&table.name,)).await?;
        let rows = rows.flatten().unwrap_or_default();
        state.filled.push(Filled { table: table.name.clone(), rows });
    }
    Ok(state)
}

async fn other(plan: &Plan, endpoint: &Endpoint) -> Result<Option<String>, ServerError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let owner = control::owner(&mut conn, &label(endpoint)).await?;
    let owner =
        owner.filter(|owner| owner.is_other(plan.forward_name(), &control::place(plan, endpoint)));
    Ok(owner
        .map(|owner| format!("{} of the reshard {}: {}", owner.shard, owner.plan, owner.way_out())))
}
