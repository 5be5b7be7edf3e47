//! What the servers are and hold: read once from each, so that the rules are functions over data.
//!
//! Nothing here judges. What the account may not see is `None`, which is not the same as empty.

mod ask;
#[cfg(test)]
pub mod made;
mod oldest;
mod privileged;
mod room;
mod sequence;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::catalog::{CatalogError, EventInfo, TriggerInfo};
use modshift_mariadb::error::ServerError;
use modshift_mariadb::{Class, Grants};
use modshift_proto::TableSchema;
use modshift_proto::plan::{Endpoint, Plan};

use super::fault::Side;
use super::rows::record::Record;

pub use privileged::{Account, Body};
pub use room::Room;
pub use sequence::Sequence;

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
    /// It said no more than "Unknown error" (seen on 10.11.19 while other schemas of the server came
    /// and went): worth asking again.
    pub disturbed: bool,
}

/// How often such a server is asked.
const ASKED_MAX: u32 = 3;
const DISTURBED_PAUSE: Duration = Duration::from_millis(200);
const UNKNOWN_ERROR: u16 = 1105;

impl From<ServerError> for Unreached {
    fn from(error: ServerError) -> Unreached {
        let passing = error.class() == Class::Retry;
        let disturbed = error.code() == Some(UNKNOWN_ERROR);
        Unreached { message: error.to_string(), hint: error.hint(), passing, disturbed }
    }
}

impl From<CatalogError> for Unreached {
    fn from(error: CatalogError) -> Unreached {
        let passing = error.class() == Class::Retry;
        let code = match &error {
            CatalogError::Server(error) => error.code(),
            _ => None,
        };
        let disturbed = code == Some(UNKNOWN_ERROR);
        Unreached { message: error.to_string(), hint: error.hint(), passing, disturbed }
    }
}

/// What one server said.
pub struct Facts {
    pub version: String,
    pub variables: BTreeMap<String, String>,
    pub grants: Grants,
    /// Of the login that the plan has for the cutover, where that is another; or why it may not
    /// come in.
    pub fencing: Option<Result<Grants, Unreached>>,
    /// Every account and role with its global privileges, and modshift's own.
    pub accounts: Option<Vec<Account>>,
    /// Accounts that may write in the schema, `user@host`; those that may write everywhere are
    /// in `accounts`.
    pub writers: Option<Vec<String>>,
    /// Server ids of replicas registered now.
    pub replica_ids: Option<Vec<u32>>,
    /// It replicates from another server.
    pub is_replica: Option<bool>,
    /// Everything in the schema that has a name.
    pub objects: Vec<Object>,
    /// Kinds of objects that the account cannot see.
    pub unseen: Vec<&'static str>,
    pub triggers: Vec<TriggerInfo>,
    pub events: Option<Vec<EventInfo>>,
    /// Stored code of the schema and in whose name it runs.
    pub bodies: Option<Vec<Body>>,
    pub sequences: BTreeMap<String, Sequence>,
    /// Planned tables that exist here.
    pub tables: BTreeMap<String, Table>,
    /// Transactions prepared by XA and neither committed nor rolled back.
    pub xa: Vec<String>,
    /// This server's clock less this host's.
    pub clock_ahead_us: i64,
    /// Is there a row in `modshift_watermark`? New shards only.
    pub has_watermark: bool,
    /// The plan's reshard was ended here by `modshift finish`.
    pub finished: bool,
    /// Of the disk with the data directory.
    pub room: Option<Room>,
    pub binlog: Binlog,
    /// What the last `check --deep` found. New shards only.
    pub collisions: Option<Record>,
}

impl Facts {
    /// Empty for a variable that this version does not have.
    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> f64 {
        self.variable(name).parse().unwrap_or(0.0)
    }

    pub fn is_on(&self, name: &str) -> bool {
        ["ON", "1"].iter().any(|on| self.variable(name).eq_ignore_ascii_case(on))
    }
}

/// How much is written, and how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Binlog {
    /// Since the start of the server.
    pub written_bytes: u64,
    pub uptime: Duration,
    pub read_at: Instant,
    /// Age of the oldest file by the server's own clock.
    pub oldest: Option<Duration>,
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
    /// InnoDB's estimate.
    pub rows: u64,
    /// Data and indexes, as far as the server knows.
    pub bytes: u64,
    /// The AUTO_INCREMENT column and the next value it gives out.
    pub counter: Option<(String, u64)>,
}

/// How much a survey asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What a daemon needs to know at each of its starts.
    Start,
    Whole,
}

impl Survey {
    pub async fn take(
        plan: Arc<Plan>,
        sides: impl IntoIterator<Item = Side>,
        extent: Extent,
    ) -> Survey {
        let servers = sides.into_iter().map(|side| {
            let plan = plan.clone();
            async move {
                let endpoint = endpoint(&plan, side).clone();
                let mut facts = ask::ask(&plan, side, &endpoint, extent).await;
                for _ in 1..ASKED_MAX {
                    if !facts.as_ref().is_err_and(|unreached| unreached.disturbed) {
                        break;
                    }
                    tokio::time::sleep(DISTURBED_PAUSE).await;
                    facts = ask::ask(&plan, side, &endpoint, extent).await;
                }
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

    pub fn olds(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.reached().filter(|(server, _)| server.side.is_old())
    }

    pub fn news(&self) -> impl Iterator<Item = (&Server, &Facts)> {
        self.reached().filter(|(server, _)| !server.side.is_old())
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
