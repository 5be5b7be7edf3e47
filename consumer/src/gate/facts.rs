//! What the databases say, read in an order that never flatters: new shards before old ones, and
//! on an old shard the token before the position.

use std::time::Duration;

use modshift_mariadb::control::{
    PARKED, PROGRESS, REPAIR, REPAIR_REFUSED, RESUME_ROW, TOKEN, changed_tables, kept_tables,
};
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Direction, Endpoint, Placement, Plan};
use modshift_proto::{GtidSet, NewShard, OldShard};
use mysql_async::prelude::Queryable;
use serde::Serialize;

use crate::error::ApplyError;
use crate::places::REFUSED;
use crate::watermark::{self, Kept};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Index = old shard; what kept it from answering.
    pub old: Vec<Result<OldFacts, String>>,
    /// Index = new shard.
    pub new: Vec<Result<NewFacts, String>>,
    /// `None`: the plan wants no way back.
    pub back: Option<BackFacts>,
    /// `None`: nobody verifies beside the appliers.
    pub beside: Option<Beside>,
    pub outside: Outside,
}

/// The streams the other way, in the roles that the shards have in them.
#[derive(Clone, Debug, Default)]
pub struct BackFacts {
    /// Index = new shard, as what is read.
    pub sources: Vec<Result<OldFacts, String>>,
    /// Index = old shard, as what is applied to.
    pub targets: Vec<Result<NewFacts, String>>,
}

#[derive(Clone, Debug)]
pub struct OldFacts {
    /// That server's clock, microseconds since 1970 UTC.
    pub now_us: i64,
    /// Its `gtid_binlog_pos`, read after the token.
    pub gtids: GtidSet,
    /// `None`: no reader was ever started.
    pub token: Option<TokenFacts>,
    pub tables: Vec<CopyFacts>,
    /// Tables that this shard feeds and whose copy is not recorded there as complete.
    pub unrecorded: Vec<String>,
    /// Requests for a repair that its reader can never serve.
    pub repairs_refused: u64,
    /// How the tables of the plan differ from those that its log is read for.
    pub plan_changed: Option<String>,
}

#[derive(Clone, Debug)]
pub struct TokenFacts {
    pub epoch: u64,
    pub writes: u64,
    pub clock_us: i64,
    pub halted: Option<String>,
    /// The present one.
    pub phase: TokenPhase,
    /// The run that wrote the last marker.
    pub fence: Option<String>,
}

/// How far one table has been copied from an old shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyFacts {
    pub table: String,
    pub rows_copied: u64,
    pub rows_estimated: u64,
    pub done: bool,
}

#[derive(Clone, Debug, Default)]
pub struct NewFacts {
    pub marks: Vec<Kept>,
    pub parked: u64,
    /// Of the parked rows, those that the server does not store as they are.
    pub refused: u64,
}

/// What others found out.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// `None`: not compared.
    pub schema_differences: Option<Vec<String>>,
    /// Whatever else `check` calls a fault and correct rows depend on, one line each.
    pub faults: Vec<String>,
    /// What would keep a fence waiting, one line each.
    pub obstacles: Vec<String>,
    /// What the journal says against a cutover; the error is what keeps it from being read. `None`:
    /// not asked, for it is the run itself that wants to know.
    pub journal: Option<Result<Option<String>, String>>,
    /// Daemons that are dead, halted or do not answer, one line each.
    pub daemons: Vec<String>,
    /// The last verification of the rows.
    pub verification: Option<Verification>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Of the oldest proof; `None`: some table has none.
    pub age: Option<Duration>,
    /// Tables without one.
    pub unproven: Vec<String>,
    /// What differed; `None`: clean.
    pub failed: Option<String>,
}

/// What the verifiers beside the appliers still have to do before a fence can wait for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// New shards of which nobody keeps the changes, and what is known of why.
    pub absent: Vec<(u16, String)>,
    /// Tables that have not been compared as a whole since changes are kept everywhere.
    pub lacking: Vec<String>,
    /// Theirs, as far as they were copied, without what the round in progress has compared.
    pub lacking_rows: u64,
    /// How fast rounds were so far.
    pub rows_per_s: Option<u64>,
    /// New shard, the keys that changed since they were compared, and how long comparing them would
    /// take.
    pub waiting: Vec<(u16, u64, Duration)>,
    /// How long it may take amid a pause.
    pub settle_max: Duration,
}

/// The tables that this old shard is copied of. None on the way back: nothing is copied there.
pub fn copied_tables(plan: &Plan, shard: OldShard) -> Vec<&str> {
    let feeds = |placement: &Placement| match placement {
        Placement::Sharded { .. } => true,
        Placement::Broadcast { source } => *source == shard,
    };
    let forward = plan.direction() == Direction::Forward;
    let tables = plan.tables.iter().filter(|table| forward && feeds(&table.placement));
    tables.map(|table| table.name.as_str()).collect()
}

/// One old shard. Session: plain.
pub async fn read_old(
    conn: &mut Conn,
    endpoint: &Endpoint,
    copied: &[&str],
    planned: &[&str],
) -> Result<OldFacts, ServerError> {
    type TokenRow = (u64, u64, i64, Option<String>, String, Option<String>);
    let at = modshift_mariadb::connect::label(endpoint);
    let of = |error| error::of(&at, "reading the token", error);
    let of_copy = |error| error::of(&at, "reading the progress of the copy", error);
    let micros = |value: &str| format!("CAST(UNIX_TIMESTAMP({value}) * 1000000 AS SIGNED)");
    let token = conn
        .query_first(format!(
            "SELECT epoch, writes, {}, halted, phase, fence FROM {TOKEN}",
            micros("clock"),
        ))
        .await
        .map_err(of);
    let token: Option<TokenRow> = if_there(token)?;
    // Only now: a group counted among our own writes must not be missing from the position.
    let (gtids, now_us): (String, i64) = conn
        .query_first(format!("SELECT @@gtid_binlog_pos, {}", micros("UTC_TIMESTAMP(6)")))
        .await
        .map_err(of)?
        .unwrap_or_default();
    let gtids = gtids.parse().map_err(|_| ServerError::Driver {
        at: at.clone(),
        doing: "reading the position of the binlog",
        detail: gtids,
    })?;
    let tables = conn
        .query(format!(
            "SELECT name, rows_copied, rows_estimated, done FROM {PROGRESS} \
             WHERE name <> '{RESUME_ROW}' ORDER BY name"
        ))
        .await
        .map_err(of_copy);
    let tables: Vec<(String, u64, u64, bool)> = if_there(tables)?;
    let of = |(table, rows_copied, rows_estimated, done)| CopyFacts {
        table,
        rows_copied,
        rows_estimated,
        done,
    };
    let tables: Vec<CopyFacts> = tables.into_iter().map(of).collect();
    let refused = conn
        .query_first(format!("SELECT COUNT(*) FROM {REPAIR} WHERE sent = {REPAIR_REFUSED}"))
        .await
        .map_err(|error| error::of(&at, "counting refused repairs", error));
    // Nobody has ever asked for a repair.
    let refused: Option<u64> = if_there(refused)?;
    // Empty where its reader is of a version that kept none.
    let kept = kept_tables(conn, &at).await?;
    let names = kept.keys().map(String::as_str);
    let plan_changed = match kept.is_empty() {
        true => None,
        false => changed_tables(names, planned.iter().copied()),
    };
    let recorded = |name: &&&str| tables.iter().any(|table| table.done && table.table == ***name);
    let unrecorded = copied.iter().filter(|name| !recorded(name));
    Ok(OldFacts {
        unrecorded: unrecorded.map(|name| (*name).to_owned()).collect(),
        now_us,
        gtids,
        token: token.map(|(epoch, writes, clock_us, halted, phase, fence)| TokenFacts {
            epoch,
            writes,
            clock_us,
            halted,
            // An ENUM without its value: serving is what must not be believed.
            phase: TokenPhase::from_name(&phase).unwrap_or(TokenPhase::Fenced),
            fence,
        }),
        tables,
        repairs_refused: refused.unwrap_or_default(),
        plan_changed,
    })
}

/// One new shard. Session: plain.
pub async fn read_new(
    conn: &mut Conn,
    endpoint: &Endpoint,
    shard: NewShard,
    old_shards: u16,
) -> Result<NewFacts, ApplyError> {
    let at = modshift_mariadb::connect::label(endpoint);
    let parked = conn
        .query_first(format!(
            "SELECT COUNT(*), COUNT(IF(blocked_by LIKE '{REFUSED}%', 1, NULL)) FROM {PARKED}"
        ))
        .await
        .map_err(|error| error::of(&at, "counting parked rows", error));
    let marks = match watermark::read(conn, &at, shard, old_shards).await {
        Err(ApplyError::Server(error)) => if_there(Err(error))?,
        marks => marks?,
    };
    // Beside a watermark the table of parked rows must be there.
    let parked: Option<(u64, u64)> = if marks.is_empty() { if_there(parked)? } else { parked? };
    let (parked, refused) = parked.unwrap_or_default();
    Ok(NewFacts { marks, parked, refused })
}

/// Without its control tables a shard has answered all the same: modshift has never been there.
pub(super) fn if_there<T: Default>(read: Result<T, ServerError>) -> Result<T, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    match read {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(T::default()),
        read => read,
    }
}
