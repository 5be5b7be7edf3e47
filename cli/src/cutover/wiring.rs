//! What the cutover asks of the rest: gate, verification, routing, terminal.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use modshift_cutover::{Closed, Direction, Outside, Routed, Side, shard};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{Conn, error};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_routing::publish::{self, table};
use modshift_routing::{Document, document};
use mysql_async::prelude::Queryable;

use crate::{answer, gate};

/// A shard that does not take the routing for so long holds up all others.
const SHARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Without which shards nobody is told.
#[derive(Clone, Copy, PartialEq)]
enum Must {
    All,
    /// Those of the side that is named.
    Opened,
    /// Any; those that do not have it are named in the end.
    One,
}

pub struct Wiring {
    plan: Arc<Plan>,
    dry: bool,
    told: Told,
}

/// Where lines for the operator go.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Terminal,
    /// To the log: a rehearsal is not the operator's cutover.
    Quietly,
    /// To the log, of a daemon that acts in the operator's place.
    Aloud,
}

impl Wiring {
    pub fn new(plan: Arc<Plan>, dry: bool) -> Wiring {
        Wiring { plan, dry, told: Told::Terminal }
    }

    /// That of a rehearsal.
    pub fn silent(plan: Arc<Plan>) -> Wiring {
        Wiring { plan, dry: false, told: Told::Quietly }
    }

    /// That of a daemon.
    pub fn watchdog(plan: Arc<Plan>) -> Wiring {
        Wiring { plan, dry: false, told: Told::Aloud }
    }

    fn say(&self, text: impl std::fmt::Display) {
        match self.told {
            Told::Terminal => answer::line(text),
            Told::Quietly => tracing::debug!("{text}"),
            Told::Aloud => tracing::warn!("{text}"),
        }
    }

    /// Old shards, then new ones, with the login of the cutover.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let all = self.plan.old.iter().chain(&self.plan.new);
        all.map(|endpoint| shard::login(&self.plan, endpoint.clone()))
    }

    /// The shards first: no target ever has a version that no shard knows, or that one of those that
    /// `must` have it does not know.
    async fn bring(&self, side: Side, version: u64, must: Must) -> Result<(), String> {
        let document = Document::of_plan(&self.plan, side_in_document(side), version);
        let endpoints: Vec<Endpoint> = self.endpoints().collect();
        if self.dry {
            for endpoint in &endpoints {
                let at = label(endpoint);
                self.say(format_args!("{at}: store routing version {version} ({side} shards)"));
            }
            for target in &self.plan.routing {
                let text = publish::preview(target, &document).map_err(|e| e.to_string())?;
                self.say(format_args!("{}: {text}", target.name));
            }
            return Ok(());
        }
        let stored = join_all(endpoints.iter().map(|endpoint| store(endpoint, &document))).await;
        let all_failed = stored.iter().all(Result::is_err);
        let olds = self.plan.old.len();
        let spared = |index: usize| match must {
            Must::All | Must::One => false,
            Must::Opened => (side == Side::New) == (index < olds),
        };
        let failed: Vec<String> = stored
            .into_iter()
            .enumerate()
            .filter(|(index, _)| !spared(*index))
            .filter_map(|(_, stored)| stored.err())
            .collect();
        if all_failed || must != Must::One && !failed.is_empty() {
            return Err(failed.join("; "));
        }
        for (target, outcome) in publish::publish(&self.plan.routing, &document).await {
            outcome.map_err(|error| format!("{target}: {error}"))?;
        }
        self.say(format_args!("routing version {version} names the {side} shards"));
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }
}

impl Outside for Wiring {
    async fn gate(&self, direction: Direction, wait: Option<Duration>) -> Result<(), Closed> {
        let plan = match direction {
            Direction::Cutover => self.plan.clone(),
            Direction::Rollback => Arc::new(self.plan.reversed()),
        };
        gate::wait_open(plan, wait).await
    }

    async fn verified(&self, direction: Direction, run: &str) -> Result<(), String> {
        match direction {
            Direction::Cutover if self.plan.gate.verify_age.is_none() => {
                self.say("note: verification is not configured (gate.verify_age)");
            }
            Direction::Rollback if self.plan.back.verify_age.is_none() => {
                self.say("note: verification of the way back is not configured (back.verify_age)");
            }
            Direction::Cutover | Direction::Rollback => {}
        }
        // Only the way forward is verified, and what changed last only by a daemon that keeps it.
        if self.dry || direction == Direction::Rollback || !self.plan.verify.continuous {
            return Ok(());
        }
        modshift_verify::settled(&self.plan, run, self.plan.cutover.budget).await
    }

    async fn routed(&self) -> Result<Option<Routed>, String> {
        let endpoints: Vec<Endpoint> = self.endpoints().collect();
        let asked = join_all(endpoints.iter().map(|endpoint| held(endpoint, &self.plan.name)));
        // The highest of those that answer: it was on all of them before it was on any target.
        let highest = asked.await.into_iter().flatten().flatten().max_by_key(|held| held.version);
        Ok(highest.map(|held| Routed { version: held.version, side: side_of(held.side) }))
    }

    async fn publish(&self, side: Side, version: u64) -> Result<(), String> {
        self.bring(side, version, Must::All).await
    }

    async fn publish_opened(&self, side: Side, version: u64) -> Result<(), String> {
        self.bring(side, version, Must::Opened).await
    }

    async fn publish_back(&self, side: Side, version: u64) -> Result<(), String> {
        self.bring(side, version, Must::One).await
    }

    fn tell(&self, line: &str) {
        self.say(line);
    }
}

fn side_of(side: document::Side) -> Side {
    match side {
        document::Side::Old => Side::Old,
        document::Side::New => Side::New,
    }
}

fn side_in_document(side: Side) -> document::Side {
    match side {
        Side::Old => document::Side::Old,
        Side::New => document::Side::New,
    }
}

/// `Ok(None)`: nothing was ever published there.
async fn held(endpoint: &Endpoint, plan: &str) -> Result<Option<Document>, String> {
    let ask = async {
        let mut conn = connect(endpoint, Session::Plain).await.map_err(|e| e.to_string())?;
        if !has_table(&mut conn, endpoint).await? {
            return Ok(None);
        }
        table::held(&mut conn, plan).await.map_err(|error| error.to_string())
    };
    bounded(endpoint, ask).await
}

async fn store(endpoint: &Endpoint, document: &Document) -> Result<(), String> {
    let ask = async {
        let mut conn = connect(endpoint, Session::Plain).await.map_err(|e| e.to_string())?;
        if !has_table(&mut conn, endpoint).await? {
            let created = conn.query_drop(table::CREATE_TABLE).await;
            created.map_err(|error| {
                error::of(&label(endpoint), "creating modshift_routing", error).to_string()
            })?;
        }
        table::store(&mut conn, document).await.map(drop).map_err(|error| error.to_string())
    };
    bounded(endpoint, ask).await
}

/// Asked first: even CREATE TABLE IF NOT EXISTS writes an event group.
async fn has_table(conn: &mut Conn, endpoint: &Endpoint) -> Result<bool, String> {
    let sql = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let found: Result<Option<u8>, _> = conn.exec_first(sql, (&endpoint.schema, table::TABLE)).await;
    let found = found.map_err(|error| {
        error::of(&label(endpoint), "looking for modshift_routing", error).to_string()
    })?;
    Ok(found.is_some())
}

async fn bounded<T>(
    endpoint: &Endpoint,
    ask: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| Err(format!("{}: no answer in {} s", label(endpoint), SHARD_TIMEOUT.as_secs()));
    tokio::time::timeout(SHARD_TIMEOUT, ask).await.unwrap_or_else(late)
}
