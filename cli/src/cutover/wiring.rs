//! What the cutover asks of the rest: gate, verification, routing, terminal.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{FutureExt, join, join_all};
use futures_util::stream::{self, StreamExt};
use modshift_cutover::{Closed, Direction, Outside, Routed, Side, shard};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{Conn, error, silence};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_routing::publish::{self, table};
use modshift_routing::{Document, PublishError, document};
use modshift_verify::AtFence;
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use crate::gate;
use crate::tell::Form;

/// A shard that does not take the routing for so long holds up all others.
const SHARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Once one shard knows a version that leads clients back, the others are given so long before the
/// targets are told.
const STORE_GRACE: Duration = Duration::from_millis(250);
/// For a target that did not acknowledge a moment ago.
const SECOND_TRY: Duration = Duration::from_millis(300);

/// Without which shards nobody is told.
#[derive(Clone, Copy, PartialEq)]
enum Must {
    All,
    /// Those of the side that is named.
    Opened,
    /// Any; those that do not have it are named in the end.
    One,
    /// The same, but for those of the other side, some of which are known to be lost.
    Alone,
}

/// Shards that a daemon asks at the same time.
const CALMLY_AT_ONCE: usize = 2;

pub struct Wiring {
    plan: Arc<Plan>,
    dry: bool,
    /// Of a dry run, one line for each step and server.
    summary: bool,
    told: Told,
    /// Dead for good: see [`Outside::without`].
    lost: Vec<(Side, u16)>,
    /// Targets that did not acknowledge when they were last asked.
    failed: Mutex<BTreeSet<String>>,
    /// What compares the last rows at the fence, made ready by the gate.
    at_fence: AsyncMutex<Option<AtFence>>,
}

/// Where lines for the operator go.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Terminal(Form),
    /// To the log: a rehearsal is not the operator's cutover.
    Quietly,
    /// To the log, of a daemon that acts in the operator's place.
    Aloud,
    /// To the log, of a daemon that does what it always does.
    Calmly,
}

impl Wiring {
    pub fn new(plan: Arc<Plan>, dry: bool, form: Form) -> Wiring {
        Wiring::telling(plan, dry, Told::Terminal(form))
    }

    pub fn summed(self, summary: bool) -> Wiring {
        Wiring { summary, ..self }
    }

    /// That of a rehearsal.
    pub fn silent(plan: Arc<Plan>) -> Wiring {
        Wiring::telling(plan, false, Told::Quietly)
    }

    /// That of a daemon.
    pub fn watchdog(plan: Arc<Plan>) -> Wiring {
        Wiring::telling(plan, false, Told::Aloud)
    }

    /// That of a daemon before the first run.
    pub fn before(plan: Arc<Plan>) -> Wiring {
        Wiring::telling(plan, false, Told::Calmly)
    }

    fn telling(plan: Arc<Plan>, dry: bool, told: Told) -> Wiring {
        Wiring {
            plan,
            dry,
            summary: false,
            told,
            lost: Vec::new(),
            failed: Mutex::default(),
            at_fence: AsyncMutex::default(),
        }
    }

    fn plan_of(&self, direction: Direction) -> Arc<Plan> {
        match direction {
            Direction::Cutover | Direction::Promote => self.plan.clone(),
            Direction::Rollback => Arc::new(self.plan.reversed()),
        }
    }

    fn say(&self, text: impl std::fmt::Display) {
        match self.told {
            Told::Terminal(form) if self.dry => {
                form.said("script", &text.to_string(), Value::Null);
            }
            Told::Terminal(form) => form.happened("line", &text.to_string(), Value::Null),
            Told::Quietly => tracing::debug!("{text}"),
            Told::Aloud => tracing::warn!("{text}"),
            Told::Calmly => tracing::info!("{text}"),
        }
    }

    /// Old shards, then new ones, with the login of the cutover; not those that are lost.
    fn endpoints(&self) -> Vec<(Side, Endpoint)> {
        let of = |side: Side, endpoints: &[Endpoint]| {
            let numbered = (0u16..).zip(endpoints.to_vec());
            let there = numbered.filter(|(number, _)| !self.lost.contains(&(side, *number)));
            there
                .map(|(_, endpoint)| (side, shard::login(&self.plan, endpoint)))
                .collect::<Vec<_>>()
        };
        [of(Side::Old, &self.plan.old), of(Side::New, &self.plan.new)].concat()
    }

    /// The highest of those that answer: it was on all of them before it was on any target.
    async fn highest(&self) -> Option<Document> {
        let endpoints = self.endpoints();
        let asked = endpoints.iter().map(|(_, at)| held(at, &self.plan.name));
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(self.at_once()).collect().await;
        answers.into_iter().flatten().flatten().max_by_key(|held| held.version)
    }

    /// Shards that are asked at the same time. A daemon leaves the connections of a server to others;
    /// a run has no time for that.
    fn at_once(&self) -> usize {
        match self.told {
            Told::Calmly => CALMLY_AT_ONCE,
            Told::Terminal(_) | Told::Quietly | Told::Aloud => {
                (self.plan.old.len() + self.plan.new.len()).max(1)
            }
        }
    }

    /// The shards first: no target ever has a version that no shard knows, or that one of those that
    /// `must` have it does not know.
    async fn bring(&self, side: Side, version: u64, must: Must) -> Result<(), String> {
        let document = Document::of_plan(&self.plan, side_in_document(side), version);
        let endpoints = self.endpoints();
        if self.dry && self.summary {
            let targets: Vec<&str> =
                self.plan.routing.iter().map(|target| target.name.as_str()).collect();
            let targets = if targets.is_empty() { "none".to_owned() } else { targets.join(", ") };
            self.say(format_args!(
                "routing  version {version} ({side} shards) stored on {} shards, told to: {targets}",
                endpoints.len()
            ));
            return Ok(());
        }
        if self.dry {
            for (_, endpoint) in &endpoints {
                let at = label(endpoint);
                self.say(format_args!("{at}: store routing version {version} ({side} shards)"));
            }
            for target in &self.plan.routing {
                let text = publish::preview(target, &document).map_err(|error| said(&error))?;
                self.say(format_args!("{}: {text}", target.name));
            }
            return Ok(());
        }
        let spared = |of: Side| match must {
            Must::All | Must::One => false,
            Must::Opened | Must::Alone => of != side,
        };
        let stores = endpoints
            .iter()
            .map(|(of, endpoint)| store(endpoint, &document).map(move |stored| (*of, stored)));
        let mut storing = stream::iter(stores).buffer_unordered(self.at_once());
        let mut failed = Vec::new();
        let mut known = false;
        let mut take = |(of, stored): (Side, Result<(), String>)| match stored {
            Ok(()) => known = true,
            Err(error) if !spared(of) => failed.push(error),
            Err(_) => {}
        };
        if matches!(must, Must::One | Must::Alone) {
            // No target waits for a shard that is silent, once another one knows the version.
            while let Some(stored) = storing.next().await {
                let stands = stored.1.is_ok();
                take(stored);
                if stands {
                    break;
                }
            }
            let rest = async {
                while let Some(stored) = storing.next().await {
                    take(stored);
                }
            };
            tokio::pin!(rest);
            let early = tokio::time::timeout(STORE_GRACE, &mut rest).await.is_ok();
            // What is left goes on beside the targets.
            let targets = self.targets(&document);
            let missed = match early {
                true => targets.await,
                false => join(rest, targets).await.1,
            };
            if !known {
                return Err(failed.join("; "));
            }
            failed.extend(missed);
        } else {
            while let Some(stored) = storing.next().await {
                take(stored);
            }
            if !known || !failed.is_empty() {
                return Err(failed.join("; "));
            }
            match must {
                Must::Opened => failed.extend(self.targets(&document).await),
                _ => self.in_order(&document).await?,
            }
        }
        if !failed.is_empty() {
            return Err(failed.join("; "));
        }
        self.say(format_args!("routing version {version} names the {side} shards"));
        Ok(())
    }

    /// One target after the other, up to the first that does not acknowledge.
    async fn in_order(&self, document: &Document) -> Result<(), String> {
        for (target, outcome) in publish::publish(&self.plan.routing, document).await {
            if let Err(error) = outcome {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(target);
                return Err(said(&error));
            }
        }
        Ok(())
    }

    /// All at once, none waits for another; one that has just failed is asked once more, shortly.
    /// Those that do not acknowledge.
    async fn targets(&self, document: &Document) -> Vec<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = self.plan.routing.iter().map(async |target| {
            let mut target = target.clone();
            if failed.contains(&target.name) {
                target.timeout = target.timeout.min(SECOND_TRY);
            }
            let outcome = publish::publish_one(&target, document).await;
            outcome.err().map(|error| (target.name, error))
        });
        let missed: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            missed.iter().map(|(name, _)| name.clone()).collect();
        missed.iter().map(|(_, error)| said(error)).collect()
    }
}

/// Which target, why, and what next: only the target's own error knows that.
fn said(error: &PublishError) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

impl Outside for Wiring {
    async fn gate(&self, direction: Direction, wait: Option<Duration>) -> Result<(), Closed> {
        let plan = self.plan_of(direction);
        let lost: Vec<u16> = self.lost.iter().map(|(_, number)| *number).collect();
        let told = match self.told {
            Told::Terminal(_) if self.summary => gate::Told::Summed,
            Told::Terminal(_) => gate::Told::Aloud,
            _ => gate::Told::Quietly,
        };
        gate::wait_open(plan.clone(), wait, &lost, told).await?;
        if !self.dry && is_proven(&plan) && lost.is_empty() {
            // Definitions are read and connections made while nobody waits.
            let unready = |reason| Closed { reasons: vec![reason], unproven_back: false };
            let ready = AtFence::prepare(plan).await.map_err(unready)?;
            self.at_fence.lock().await.replace(ready);
        }
        Ok(())
    }

    async fn verified(
        &self,
        direction: Direction,
        run: &str,
        left: Option<Duration>,
    ) -> Result<(), String> {
        match direction {
            Direction::Cutover | Direction::Promote if self.plan.gate.verify_age.is_none() => {
                self.say("note: verification is given up by the plan (gate.verify_age = \"none\")");
            }
            Direction::Rollback if self.plan.back.verify_age.is_none() => {
                self.say(
                    "note: no proof of the way back is asked for (back.verify_age = \"none\")",
                );
            }
            Direction::Cutover | Direction::Promote | Direction::Rollback => {}
        }
        if !self.lost.is_empty() {
            self.say("note: rows are not compared at the fence: a shard is given up");
            return Ok(());
        }
        let plan = self.plan_of(direction);
        if self.dry || !is_proven(&plan) {
            return Ok(());
        }
        let ready = self.at_fence.lock().await.take();
        let mut at_fence = match ready {
            Some(ready) => ready,
            // A run that another process began: the gate was asked by that one.
            None => AtFence::prepare(plan).await?,
        };
        at_fence.settled(run, left.unwrap_or(self.plan.cutover.budget)).await
    }

    fn without(&mut self, side: Side, shards: &[u16]) {
        self.lost = shards.iter().map(|&number| (side, number)).collect();
    }

    async fn routed(&self) -> Result<Option<Routed>, String> {
        let highest = self.highest().await;
        Ok(highest.map(|held| Routed { version: held.version, side: side_of(held.side) }))
    }

    async fn version_that_stands(&self, routed: Routed) -> Result<u64, String> {
        let today = Document::of_plan(&self.plan, side_in_document(routed.side), routed.version);
        // One that was published meanwhile is looked at by whoever publishes next.
        let held = self.highest().await.filter(|held| held.version == routed.version);
        Ok(routed.version + u64::from(held.is_some_and(|held| held != today)))
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

    async fn publish_alone(&self, side: Side, version: u64) -> Result<(), String> {
        self.bring(side, version, Must::Alone).await
    }

    fn tell(&self, line: &str) {
        self.say(line);
    }

    fn measured(&self, what: &'static str, ms: f64, line: &str) {
        match self.told {
            Told::Terminal(form) => {
                form.happened("measured", line, json!({ "what": what, "ms": ms }));
            }
            _ => self.say(line),
        }
    }
}

/// Does this way wait for a proof, or for verifiers that make one all the time?
fn is_proven(plan: &Plan) -> bool {
    let beside =
        plan.verify.continuous && plan.direction() == modshift_proto::plan::Direction::Forward;
    plan.gate.verify_age.is_some() || beside
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
    let ask = tokio::time::timeout(SHARD_TIMEOUT, ask);
    let (answer, seen) = silence::watched(endpoint, silence::LOOK_AFTER, ask, |_| {}).await;
    let late = |_| Err(format!("{}: {}", label(endpoint), silence::detail(SHARD_TIMEOUT, seen)));
    answer.unwrap_or_else(late)
}
