//! Asks all shards again and again, and keeps since when all was well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use modshift_mariadb::control::planned_names;
use modshift_proto::Modulus;
use modshift_proto::plan::Plan;

use super::ask::{Answers, Line, Place, Server, Side, servers};
use super::decide::{Decision, Hold, decide};
use super::facts::{
    Asked, BackFacts, Facts, NewFacts, OldFacts, Outside, copied_tables, read_new, read_old,
};
use super::proof::{self, Proof};
use super::reason::Reason;
use crate::metrics;

/// How often to ask. Fast enough to see a break in the default lag of a second, slow enough to be
/// no load.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

pub struct Evaluator {
    plan: Arc<Plan>,
    servers: Vec<Server>,
    hold: Hold,
    begun: Instant,
}

impl Evaluator {
    pub fn new(plan: Arc<Plan>) -> Evaluator {
        let servers = servers(&plan);
        Evaluator { plan, servers, hold: Hold::default(), begun: Instant::now() }
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
        metrics::found(&facts);
        (decision, facts)
    }

    /// Targets before sources: what they have applied must not be newer than the position that it
    /// is compared with.
    async fn facts(&mut self, mut outside: Outside) -> Facts {
        let plan = Arc::clone(&self.plan);
        let planned: Vec<&str> = plan.tables.iter().map(|table| table.name.as_str()).collect();
        let new = self.targets(Side::New, plan.old_modulus).await;
        let proofs = self.proofs().await;
        outside.verification = proof::join(&plan, &proofs);
        let copied = plan.old_shards().map(|shard| copied_tables(&plan, shard)).collect();
        let old = self.sources(Side::Old, &Asked { copied, planned: &planned }).await;
        let beside = proof::beside(&plan, &proofs, &old);
        let coverage = proof::coverage(&plan, &proofs);
        if !plan.back.enabled {
            return Facts { old, new, back: None, beside, coverage, outside };
        }
        let targets = self.targets(Side::Old, plan.new_modulus).await;
        // Nothing is copied by the streams that run the other way.
        let asked = Asked { copied: Vec::new(), planned: &planned };
        let sources = self.sources(Side::New, &asked).await;
        let back = Some(BackFacts { sources, targets });
        Facts { old, new, back, beside, coverage, outside }
    }

    /// `modulus`: of the shards that they take from.
    async fn targets(&mut self, side: Side, modulus: Modulus) -> Vec<Result<NewFacts, String>> {
        let planned = &planned_names(&self.plan);
        let asked = self.servers.iter_mut().map(|server| {
            server.ask(side, async move |line: &mut Line, places: &[&Place]| {
                read_new(line, places, modulus.get(), planned).await
            })
        });
        by_shard(join_all(asked).await)
    }

    async fn proofs(&mut self) -> Vec<Result<Proof, String>> {
        let asked = self.servers.iter_mut().map(|server| {
            server.ask(Side::New, async |line: &mut Line, places: &[&Place]| {
                Ok(proof::read(line, places).await?)
            })
        });
        by_shard(join_all(asked).await)
    }

    async fn sources(&mut self, side: Side, what: &Asked<'_>) -> Vec<Result<OldFacts, String>> {
        let asked = self.servers.iter_mut().map(|server| {
            server.ask(side, async |line: &mut Line, places: &[&Place]| {
                Ok(read_old(line, places, what).await?)
            })
        });
        by_shard(join_all(asked).await)
    }
}

fn by_shard<T>(answers: Vec<Answers<T>>) -> Vec<Result<T, String>> {
    let mut all: Vec<_> = answers.into_iter().flatten().collect();
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, answer)| answer).collect()
}
