//! What a cutover asks once its markers have all been applied: has everything been compared that was
//! not comparable before?
//!
//! Rows that kept changing are compared here, by the cutover itself: they stand still now. What else
//! changed since it was compared is for the verifiers beside the appliers, where the plan has them; the
//! gate has asked whether they can. Where that is no longer so it is said at once, and not waited for
//! with the application.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::Seats;
use modshift_mariadb::control::{KIND_MOVING, MISMATCH, SETTLED, TOKEN, VERIFIER};
use modshift_proto::plan::{Direction, Plan};

use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::progress;
use crate::settle::{Until, if_there};
use crate::shard::{HERE, Shard};
use crate::verifier::Verifier;

const POLL: Duration = Duration::from_millis(10);
/// How long a replica's marker may take to show, once it has been read from its binlog.
const VISIBLE_MAX: Duration = Duration::from_secs(1);
/// A verifier that has not been seen for so long is not there, as the gate has it.
const SEEN_MAX_S: u64 = 6;

/// Made ready while nobody waits: definitions are read, connections stand.
pub struct AtFence {
    verifier: Verifier,
    continuous: bool,
}

impl AtFence {
    pub async fn prepare(plan: Arc<Plan>) -> Result<AtFence, String> {
        let continuous = plan.verify.continuous && plan.direction() == Direction::Forward;
        // The application will wait for it: nobody waits for a connection then.
        let seats = Seats::new(u16::MAX);
        let verifier = Verifier::beside(plan, seats).await.map_err(|error| error.to_string())?;
        Ok(AtFence { verifier, continuous })
    }

    /// Waits, for at most what is left of the pause. The error is what keeps the rows unproven.
    pub async fn settled(&mut self, run: &str, left: Duration) -> Result<(), String> {
        let deadline = Instant::now() + left;
        self.moving(run).await.map_err(|error| error.to_string())??;
        if !self.continuous {
            return Ok(());
        }
        loop {
            let missing = self.missing(run, deadline).await.map_err(|error| error.to_string())?;
            let Some(what) = missing else { return Ok(()) };
            if what.for_good || Instant::now() >= deadline {
                return Err(what.text);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Rows that never stood still before.
    async fn moving(&mut self, run: &str) -> Result<Result<(), String>, VerifyError> {
        let moving = progress::moving(&mut self.verifier.shards.new).await?;
        if moving.is_empty() {
            return Ok(Ok(()));
        }
        self.visible(run).await?;
        let plan = self.verifier.plan.clone();
        let mut by_table: BTreeMap<usize, BTreeSet<Suspect>> = BTreeMap::new();
        for (name, suspect) in moving {
            // Of a table that is not in the plan any more.
            let Some(index) = plan.tables.iter().position(|table| table.name == name) else {
                continue;
            };
            by_table.entry(index).or_default().insert(suspect);
        }
        for (index, suspects) in by_table {
            let name = &plan.tables[index].name;
            let settled = self.verifier.settle_keys(index, suspects, Until::Now).await?;
            let differ = settled.mismatches.len();
            if differ > 0 {
                let verify = match plan.direction() {
                    Direction::Forward => "modshift verify",
                    Direction::Back => "modshift verify --back",
                };
                return Ok(Err(format!(
                    "{differ} rows of table {name} that kept changing before the fence differ: \
                     {verify} names them"
                )));
            }
            let open = settled.unsettled.len() + settled.moving.len();
            if open > 0 {
                return Ok(Err(format!("{open} rows of table {name} change behind the fence")));
            }
        }
        Ok(Ok(()))
    }

    /// Waits until the markers show where rows are read: on a replica a moment after its binlog has
    /// them.
    async fn visible(&mut self, run: &str) -> Result<(), VerifyError> {
        let sql = format!("SELECT fence FROM {HERE}{TOKEN} WHERE phase = 'fenced'");
        let plan = self.verifier.plan.clone();
        for (endpoint, shard) in plan.old.iter().zip(&mut self.verifier.shards.old) {
            let until = Instant::now() + VISIBLE_MAX;
            while endpoint.read_from.is_some() && Instant::now() < until {
                let rows: Vec<Option<String>> = shard.query("looking for a marker", &sql).await?;
                if rows.first().is_some_and(|fence| fence.as_deref() == Some(run)) {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// What the verifiers have not said yet.
    async fn missing(
        &mut self,
        run: &str,
        deadline: Instant,
    ) -> Result<Option<Missing>, VerifyError> {
        let plan = self.verifier.plan.clone();
        let said = format!("SELECT source, fence FROM {HERE}{SETTLED}");
        let damage = format!(
            "SELECT COUNT(*) FROM {HERE}{MISMATCH} WHERE kind <> '{KIND_MOVING}' AND table_name IN ({})",
            modshift_mariadb::control::planned_names(&plan)
        );
        for (target, shard) in self.verifier.shards.new.iter_mut().enumerate() {
            let rows: Vec<u64> = shard.query("counting rows that differ", &damage).await?;
            if let Some(rows) = rows.first().filter(|rows| **rows > 0) {
                let text = format!("{rows} rows differ on new shard {target}: see modshift verify");
                return Ok(Some(Missing { text, for_good: true }));
            }
            let said: Vec<(u16, String)> =
                shard.query("looking for what is settled", &said).await?;
            let source = (0..plan.old_modulus.get())
                .find(|source| !said.iter().any(|(from, fence)| from == source && fence == run));
            let Some(source) = source else { continue };
            if let Some(text) = hopeless(shard, &plan, target, deadline).await? {
                return Ok(Some(Missing { text, for_good: true }));
            }
            let text = format!(
                "what old shard {source} changed last on new shard {target} has not been compared yet"
            );
            return Ok(Some(Missing { text, for_good: false }));
        }
        Ok(None)
    }
}

struct Missing {
    text: String,
    /// Waiting does not mend it, or not within the pause.
    for_good: bool,
}

/// Why the verifier of a new shard cannot say it in time.
async fn hopeless(
    shard: &mut Shard,
    plan: &Plan,
    target: usize,
    deadline: Instant,
) -> Result<Option<String>, VerifyError> {
    let sql = format!(
        "SELECT GREATEST(TIMESTAMPDIFF(SECOND, seen, UTC_TIMESTAMP(6)), 0), keys_waiting, settle_ms, \
         trouble FROM {HERE}{VERIFIER}"
    );
    let rows: Vec<(u64, u64, u64, Option<String>)> =
        if_there(shard.query("asking the verifier", &sql).await)?;
    let Some((seen_s, keys, settle_ms, trouble)) = rows.into_iter().next() else {
        return Ok(Some(format!("nobody keeps the changes of new shard {target}")));
    };
    if let Some(trouble) = trouble {
        return Ok(Some(format!("changes on new shard {target} are not kept: {trouble}")));
    }
    if seen_s > SEEN_MAX_S {
        let text = format!("the verifier of new shard {target} was last seen {seen_s} s ago");
        return Ok(Some(text));
    }
    let lacking = progress::lacking(shard, plan).await?;
    if !lacking.is_empty() {
        return Ok(Some(format!(
            "its consumer was started again, or had too many changes to keep, and since then these \
             tables were not compared as a whole on new shard {target}: {}",
            lacking.join(", ")
        )));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if Duration::from_millis(settle_ms) > left {
        return Ok(Some(format!(
            "{keys} changed keys of new shard {target} wait to be compared, which takes about \
             {settle_ms} ms, and {} ms of the pause are left",
            left.as_millis()
        )));
    }
    Ok(None)
}
