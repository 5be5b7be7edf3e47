//! Of which reshard modshift's tables on a shard are.
//!
//! The new shards of one reshard become the old ones of the next. Where the first was not ended by
//! `modshift finish`, its token, resume point and watermarks are still there; and on its old shards,
//! until `modshift unfence`, their triggers.

use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::{PLAN, finished, phase};
use crate::error::{self, ServerError};

const NO_SUCH_TABLE: u16 = 1146;

/// On each shard, by whoever makes modshift's tables there. To a reader of another reshard the resume
/// point of this one would be its own.
pub(super) const PLAN_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_plan (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        shard VARCHAR(64) NOT NULL COMMENT 'old shard 0'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// How far that reshard is, as far as the shard itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The old side serves.
    Before,
    /// The new side serves, or is about to.
    CutOver,
    /// `modshift finish` was given. An old shard is let go by `modshift unfence`.
    Finished,
    /// A new shard without a token: the plan has no way back.
    Untold,
}

/// Of which reshard a shard's tables are, and as which shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub plan: String,
    /// `old shard 0`, in the words of that plan.
    pub shard: String,
    pub stage: Stage,
}

impl Owner {
    /// The plan does not call that shard so.
    pub fn is_other(&self, plan: &str, shard: &str) -> bool {
        self.plan != plan || self.shard != shard
    }

    /// How another reshard comes to have the shard.
    pub fn way_out(&self) -> String {
        let Owner { plan, stage, .. } = self;
        let of = format!("--plan FILE (FILE is the plan of {plan})");
        let finish = format!("stop its daemons, then modshift finish {of} ends it");
        let restart = format!(
            "stop its daemons, then modshift restart-copy {of} forgets its copy and empties its new shards"
        );
        match stage {
            Stage::CutOver => finish,
            Stage::Finished => format!("modshift unfence {of} lets its old shards go"),
            Stage::Before => format!("go on with {plan}; or give it up: {restart}"),
            Stage::Untold => format!("where {plan} has cut over: {finish}; else: {restart}"),
        }
    }
}

/// `None`: nobody's, or those of a version that did not write it down.
pub async fn owner(conn: &mut Conn, at: &str) -> Result<Option<Owner>, ServerError> {
    let sql = format!("SELECT plan, shard FROM {PLAN} WHERE id = 1");
    let row: Result<Option<(String, String)>, _> = conn.query_first(sql).await;
    let row = match row.map_err(|error| error::of(at, "asking whose tables these are", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => None,
        row => row?,
    };
    let Some((plan, shard)) = row else { return Ok(None) };
    let stage = match finished(conn, at, &plan).await? {
        true => Stage::Finished,
        false => stage(&shard, phase(conn, at).await?.map(|(phase, _)| phase == "serving")),
    };
    Ok(Some(Owner { plan, shard, stage }))
}

/// An error where another reshard has the shard; `false` where none has.
pub(super) async fn is_ours(
    conn: &mut Conn,
    at: &str,
    endpoint: &Endpoint,
    plan: &Plan,
) -> Result<bool, ServerError> {
    let Some(owner) = owner(conn, at).await? else { return Ok(false) };
    if owner.is_other(plan.forward_name(), &place(plan, endpoint)) {
        return Err(ServerError::OtherPlan { at: at.to_owned(), owner });
    }
    Ok(true)
}

/// Of two that come at once the second finds what the first has written.
pub(super) async fn take(
    conn: &mut Conn,
    at: &str,
    endpoint: &Endpoint,
    plan: &Plan,
) -> Result<(), ServerError> {
    let failed = |error| error::of(at, "noting whose tables these are", error);
    conn.query_drop(PLAN_TABLE).await.map_err(failed)?;
    let sql = format!("INSERT IGNORE INTO {PLAN} SET id = 1, plan = ?, shard = ?");
    let values = (plan.forward_name(), place(plan, endpoint));
    conn.exec_drop(sql, values).await.map_err(failed)?;
    is_ours(conn, at, endpoint, plan).await.map(drop)
}

/// `serves`: by its token, where it has one.
fn stage(shard: &str, serves: Option<bool>) -> Stage {
    match (shard.starts_with("new"), serves) {
        (true, None) => Stage::Untold,
        (false, None) => Stage::Before,
        (new, Some(serves)) if new == serves => Stage::CutOver,
        (_, Some(_)) => Stage::Before,
    }
}

/// What this plan calls that shard, in the operator's words; empty for what is no shard of it.
pub fn place(plan: &Plan, endpoint: &Endpoint) -> String {
    let forward = plan.forward.as_deref().unwrap_or(plan);
    let is = |other: &Endpoint| {
        (&other.host, other.port, &other.schema)
            == (&endpoint.host, endpoint.port, &endpoint.schema)
    };
    let olds = forward.old.iter().map(|endpoint| ("old", endpoint)).enumerate();
    let news = forward.new.iter().map(|endpoint| ("new", endpoint)).enumerate();
    let is_there = |(_, (_, endpoint)): &(usize, (&str, &Endpoint))| is(endpoint);
    // Sides are numbered from 0 each.
    let found = olds.chain(news).find(is_there);
    found.map(|(number, (side, _))| format!("{side} shard {number}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_says_how_far_its_reshard_is() {
        for (shard, serves, expected) in [
            ("old shard 0", None, Stage::Before),
            ("old shard 0", Some(true), Stage::Before),
            ("old shard 0", Some(false), Stage::CutOver),
            ("new shard 1", Some(true), Stage::CutOver),
            ("new shard 1", Some(false), Stage::Before),
            ("new shard 1", None, Stage::Untold),
        ] {
            assert_eq!(stage(shard, serves), expected, "{shard}, {serves:?}");
        }
    }
}
