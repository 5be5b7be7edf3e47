//! Asks all shards again and again, and keeps since when all was well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::{Conn, Session, connect};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{Modulus, NewShard, OldShard};
use tokio::time::timeout;

use super::decide::{Decision, Hold, decide};
use super::facts::{
    BackFacts, Facts, NewFacts, OldFacts, Outside, copied_tables, read_new, read_old,
};
use super::proof::{self, Proof};
use super::reason::Reason;
use crate::error::ApplyError;
use crate::metrics;

/// How often to ask. Fast enough to see a break in the default lag of a second, slow enough to be
/// no load.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// A shard that takes longer to answer is as good as silent, and must not hide the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Evaluator {
    plan: Arc<Plan>,
    old: Vec<Option<Conn>>,
    new: Vec<Option<Conn>>,
    hold: Hold,
    begun: Instant,
}

impl Evaluator {
    pub fn new(plan: Arc<Plan>) -> Evaluator {
        let none = |count: usize| (0..count).map(|_| None).collect();
        Evaluator {
            old: none(plan.old.len()),
            new: none(plan.new.len()),
            plan,
            hold: Hold::default(),
            begun: Instant::now(),
        }
    }

    /// Asks every shard once and decides. The gate can only open for a caller that samples at
    /// about [`SAMPLE_INTERVAL`], for as long as the plan's hold.
    pub async fn sample(&mut self, outside: Outside) -> (Decision, Facts) {
        let facts = self.facts(outside).await;
        let now = self.begun.elapsed();
        let (decision, hold) = decide(&facts, self.hold, &self.plan.gate, now);
        self.hold = hold;
        let closed: Vec<_> = decision.reasons.iter().map(Reason::kind).collect();
        metrics::gate(decision.open, &Reason::KINDS, &closed);
        (decision, facts)
    }

    /// Targets before sources: what they have applied must not be newer than the position that it
    /// is compared with.
    async fn facts(&mut self, mut outside: Outside) -> Facts {
        let plan = Arc::clone(&self.plan);
        let new = targets(&mut self.new, &plan.new, plan.old_modulus).await;
        let proofs = self.new.iter_mut().zip(&plan.new).map(|(conn, at)| verified(conn, at));
        let proofs = join_all(proofs).await;
        outside.verification = proof::join(&plan, &proofs);
        let copied = |shard| copied_tables(&plan, shard);
        let planned: Vec<&str> = plan.tables.iter().map(|table| table.name.as_str()).collect();
        let old = sources(&mut self.old, &plan.old, &planned, copied).await;
        let beside = proof::beside(&plan, &proofs, &old);
        if !plan.back.enabled {
            return Facts { old, new, back: None, beside, outside };
        }
        let targets = targets(&mut self.old, &plan.old, plan.new_modulus).await;
        // Nothing is copied by the streams that run the other way.
        let sources = sources(&mut self.new, &plan.new, &planned, |_| Vec::new()).await;
        Facts { old, new, back: Some(BackFacts { sources, targets }), beside, outside }
    }
}

/// `copied`: the tables that are copied of a shard.
async fn sources<'a>(
    conns: &mut [Option<Conn>],
    endpoints: &[Endpoint],
    planned: &[&str],
    copied: impl Fn(OldShard) -> Vec<&'a str>,
) -> Vec<Result<OldFacts, String>> {
    let ask =
        |((conn, endpoint), shard)| old_shard(conn, endpoint, copied(OldShard(shard)), planned);
    join_all(conns.iter_mut().zip(endpoints).zip(0..).map(ask)).await
}

/// `modulus`: of the shards that they take from.
async fn targets(
    conns: &mut [Option<Conn>],
    endpoints: &[Endpoint],
    modulus: Modulus,
) -> Vec<Result<NewFacts, String>> {
    let ask = |((conn, endpoint), shard)| new_shard(conn, endpoint, NewShard(shard), modulus.get());
    join_all(conns.iter_mut().zip(endpoints).zip(0..).map(ask)).await
}

async fn old_shard(
    slot: &mut Option<Conn>,
    endpoint: &Endpoint,
    copied: Vec<&str>,
    planned: &[&str],
) -> Result<OldFacts, String> {
    // Taken out: a connection whose answer did not come in time is not used again.
    let conn = slot.take();
    let ask = async {
        let mut conn = match conn {
            Some(conn) => conn,
            None => connect(endpoint, Session::Plain).await?,
        };
        let facts = read_old(&mut conn, endpoint, &copied, planned).await?;
        Ok((conn, facts))
    };
    let (conn, facts) = answer(ask).await?;
    *slot = Some(conn);
    Ok(facts)
}

async fn new_shard(
    slot: &mut Option<Conn>,
    endpoint: &Endpoint,
    shard: NewShard,
    old_shards: u16,
) -> Result<NewFacts, String> {
    let conn = slot.take();
    let ask = async {
        let mut conn = match conn {
            Some(conn) => conn,
            None => connect(endpoint, Session::Plain).await?,
        };
        let facts = read_new(&mut conn, endpoint, shard, old_shards).await?;
        Ok((conn, facts))
    };
    let (conn, facts) = answer(ask).await?;
    *slot = Some(conn);
    Ok(facts)
}

async fn verified(slot: &mut Option<Conn>, endpoint: &Endpoint) -> Result<Proof, String> {
    // Without a connection the shard has just been silent, which is said elsewhere.
    let mut conn = slot.take().ok_or("no answer")?;
    let ask = async { Ok((proof::read(&mut conn, endpoint).await?, conn)) };
    let (proof, conn) = answer(ask).await?;
    *slot = Some(conn);
    Ok(proof)
}

async fn answer<T>(ask: impl Future<Output = Result<T, ApplyError>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, ask).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}
