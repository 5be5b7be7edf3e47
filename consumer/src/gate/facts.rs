//! What the databases say of their shards (one without our tables has answered all the same: modshift
//! has never been there), read in an order that never flatters: new shards before old ones, and
//! on an old shard the token before the position.

use std::time::Duration;

use modshift_mariadb::ServerError;
use modshift_mariadb::control::{
    PARKED, PROGRESS, REPAIR, REPAIR_REFUSED, RESUME_ROW, RESYNC, RESYNC_REFUSED, TABLES, TOKEN,
    WATERMARK, changed_tables,
};
use modshift_proto::message::TokenPhase;
use modshift_proto::plan::{Direction, Placement, Plan};
use modshift_proto::{GtidSet, NewShard, OldShard};
use serde::Serialize;

use super::ask::{Line, Place};
use super::skipped::{self, SkipFacts};
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
    pub coverage: Coverage,
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
    pub read_only: bool,
    /// `None`: no reader was ever started.
    pub token: Option<TokenFacts>,
    pub tables: Vec<CopyFacts>,
    /// Tables that this shard feeds and whose copy is not recorded there as complete.
    pub unrecorded: Vec<String>,
    /// Requests for a repair that its reader can never serve.
    pub repairs_refused: u64,
    /// Requests for a range that are not over.
    pub resyncs: Vec<ResyncFacts>,
    /// Groups of its log that were passed over, and not made up for.
    pub skipped: Vec<SkipFacts>,
    /// How the tables of the plan differ from those that its log is read for.
    pub plan_changed: Option<String>,
}

impl OldFacts {
    /// By the shard's own word; `None`: it has none. Accounts that are locked do not show.
    pub fn takes_writes(&self) -> Option<bool> {
        let token = self.token.as_ref()?;
        Some(token.phase == TokenPhase::Serving && !self.read_only)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncFacts {
    pub table: String,
    pub rows_copied: u64,
    pub rows_estimated: u64,
    pub refused: bool,
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
    /// How long the one has waited that has waited longest, by the clock of the old shards' tokens.
    pub parked_ms: Option<i64>,
    /// What some of them wait for: table and taken key, each once.
    pub parked_for: Vec<String>,
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

/// How far the tables have been compared: for people, the gate asks for the proof.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    pub tables: usize,
    /// Those with a proof on every new shard, of whatever age.
    pub proven: usize,
    /// Of a round that has not ended: table, and rows compared so far. Its verifier may be gone.
    pub under_way: Vec<(String, u64)>,
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

/// What is asked of the shards that are read.
pub struct Asked<'a> {
    /// By shard: the tables that are copied of it.
    pub copied: Vec<Vec<&'a str>>,
    pub planned: &'a [&'a str],
}

/// The old shards of one server.
pub async fn read_old(
    line: &mut Line,
    places: &[&Place],
    asked: &Asked<'_>,
) -> Result<Vec<Result<OldFacts, String>>, ServerError> {
    type TokenRow = (u64, u64, i64, Option<String>, String, Option<String>, usize);
    let micros = |value: &str| format!("CAST(UNIX_TIMESTAMP({value}) * 1000000 AS SIGNED)");
    let clock = micros("clock");
    let columns = format!("epoch, writes, {clock}, BINARY halted, BINARY phase, BINARY fence");
    let doing = "reading the token";
    let tokens: Vec<Vec<TokenRow>> = line.rows(places, doing, (&columns, TOKEN, "")).await?;
    // Only now: a group counted among our own writes must not be missing from the position.
    let now = micros("UTC_TIMESTAMP(6)");
    let sql = format!("SELECT @@gtid_binlog_pos, {now}, @@global.read_only");
    let (gtids, now_us, read_only): (String, i64, bool) = line.server(doing, &sql).await?;
    let gtids: GtidSet = gtids.parse().map_err(|_| ServerError::Driver {
        at: line.at().to_owned(),
        doing: "reading the position of the binlog",
        detail: gtids,
    })?;
    let doing = "reading the progress of the copy";
    let columns = "BINARY name, rows_copied, rows_estimated, done";
    let condition = format!(" WHERE name <> '{RESUME_ROW}'");
    type CopyRow = (String, u64, u64, bool, usize);
    let copies: Vec<Vec<CopyRow>> =
        line.rows(places, doing, (columns, PROGRESS, &condition)).await?;
    let doing = "counting refused repairs";
    let condition = format!(" WHERE sent = {REPAIR_REFUSED}");
    // Of none where nobody has ever asked for a repair.
    let refused: Vec<Vec<(u64, usize)>> =
        line.rows(places, doing, ("COUNT(*)", REPAIR, &condition)).await?;
    let doing = "looking for resyncs that are not over";
    let columns =
        format!("BINARY table_name, rows_copied, rows_estimated, state = {RESYNC_REFUSED}");
    type ResyncRow = (String, u64, u64, bool, usize);
    let resyncs: Vec<Vec<ResyncRow>> = line.rows(places, doing, (&columns, RESYNC, "")).await?;
    let doing = "reading which tables are read";
    // Of none where its reader is of a version that kept none.
    let kept: Vec<Vec<(String, usize)>> =
        line.rows(places, doing, ("BINARY name", TABLES, "")).await?;

    let skipped = skipped::read(line, places, asked).await?;

    let rows = tokens.into_iter().zip(copies).zip(refused).zip(resyncs).zip(skipped);
    let rows = rows.zip(kept).zip(places);
    let facts = rows.map(|((((((tokens, copies), refused), resyncs), skipped), kept), place)| {
        let of = |(table, rows_copied, rows_estimated, done, _)| CopyFacts {
            table,
            rows_copied,
            rows_estimated,
            done,
        };
        let mut tables: Vec<CopyFacts> = copies.into_iter().map(of).collect();
        tables.sort_by(|one, two| one.table.cmp(&two.table));
        let of_resync = |(table, rows_copied, rows_estimated, refused, _)| ResyncFacts {
            table,
            rows_copied,
            rows_estimated,
            refused,
        };
        let token = tokens.into_iter().next();
        let token = token.map(|(epoch, writes, clock_us, halted, phase, fence, _)| TokenFacts {
            epoch,
            writes,
            clock_us,
            halted,
            // An ENUM without its value: serving is what must not be believed.
            phase: TokenPhase::from_name(&phase).unwrap_or(TokenPhase::Fenced),
            fence,
        });
        let names = kept.iter().map(|(name, _)| name.as_str());
        let plan_changed = match kept.is_empty() {
            true => None,
            false => changed_tables(names, asked.planned.iter().copied()),
        };
        let recorded =
            |name: &&&str| tables.iter().any(|table| table.done && table.table == ***name);
        let copied = asked.copied.get(usize::from(place.number));
        let unrecorded = copied.into_iter().flatten().filter(|name| !recorded(name));
        Ok(OldFacts {
            unrecorded: unrecorded.map(|name| (*name).to_owned()).collect(),
            now_us,
            gtids: gtids.clone(),
            read_only,
            token,
            tables,
            repairs_refused: refused.first().map_or(0, |(count, _)| *count),
            resyncs: resyncs.into_iter().map(of_resync).collect(),
            skipped,
            plan_changed,
        })
    });
    Ok(facts.collect())
}

/// So many of what parked rows wait for: a line stays a line.
const PARKED_SHOWN: usize = 3;

/// The new shards of one server. `planned`: the plan's tables as literals.
pub async fn read_new(
    line: &mut Line,
    places: &[&Place],
    old_shards: u16,
    planned: &str,
) -> Result<Vec<Result<NewFacts, String>>, ApplyError> {
    let doing = "counting parked rows";
    let columns = format!(
        "COUNT(*), COUNT(IF(blocked_by LIKE '{REFUSED}%', 1, NULL)), MIN(parked_clock_us), \
         GROUP_CONCAT(DISTINCT \
         IF(blocked_by LIKE '{REFUSED}%', table_name, CONCAT(table_name, ' for ', LEFT(blocked_by, \
         200))) ORDER BY 1 SEPARATOR '\\n' LIMIT {PARKED_SHOWN})"
    );
    let of_tables = format!(" WHERE table_name IN ({planned})");
    /// Rows, those refused, since when, what some wait for, the place.
    type Waiting = (u64, u64, Option<i64>, Option<String>, usize);
    let parked: Vec<Vec<Waiting>> =
        line.rows(places, doing, (&columns, PARKED, &of_tables)).await?;
    let doing = "reading the watermark";
    let marks = line.raw(places, doing, (watermark::COLUMNS, WATERMARK, "")).await?;
    let rows = parked.into_iter().zip(marks).zip(places);
    let facts = rows.map(|((parked, marks), place)| {
        let marks = watermark::read(&marks, NewShard(place.number), old_shards);
        let marks = marks.map_err(|error| error.to_string())?;
        // Beside a watermark the table of parked rows must be there.
        if parked.is_empty() && !marks.is_empty() {
            return Err(format!("{}.{PARKED} is not there", place.schema));
        }
        let (parked, refused, since_us, of, _) = parked.into_iter().next().unwrap_or_default();
        let now_us = marks.iter().map(|kept: &Kept| kept.mark.token_clock_us).max();
        let parked_ms = since_us.zip(now_us).map(|(since, now)| (now - since) / 1000);
        let parked_for = of.iter().flat_map(|of| of.lines()).map(str::to_owned).collect();
        Ok(NewFacts { marks, parked, refused, parked_ms, parked_for })
    });
    Ok(facts.collect())
}
