//! Modshift's own tables. Each shard has all of them: on the way back old and new change roles.
//!
//! | table | a shard has it as | holds |
//! |---|---|---|
//! | `modshift_token` | source | one row: epoch, count of own event groups, clock, phase |
//! | `modshift_progress` | source | the resume point, and per table how far it has been copied |
//! | `modshift_tables` | source | the plan's tables, each with the definition that its log is read by |
//! | `modshift_watermark` | target | a row per source: what of it has been applied |
//! | `modshift_parked` | target | rows that wait for their place |
//! | `modshift_finished` | any | the reshard is over: nobody starts it anew |
//! | `modshift_restart` | any | the copy is being started over: no stream of this shard starts |
//! | `modshift_plan` | any | whose tables these are: of which reshard, and as which of its shards |
//! | `modshift_audit` | new shard 0 | who did what, and what came of it |
//! | `modshift_verify` | new | per table: how far this round has compared, and the age of the proof |
//! | `modshift_mismatch` | new | rows that are known to differ, or never stand still to be compared |
//! | `modshift_settled` | new | up to which fence everything that changed has been compared |
//! | `modshift_verifier` | new | one row: what the verifier beside the applier says of itself |
//! | `modshift_handover` | each | triggers and events taken down there, and whether they are up |
//! | `modshift_repair` | old | rows to be copied again through the change log |
//! | `modshift_resync` | old | ranges of rows to be copied again, and how far that is |
//! | `modshift_misroute`, `modshift_misrouted` | new, split in place | rows written there that are another shard's, and since when that is known |
//! | `modshift_skip` | each | what an operator has had passed over (`skip`) |
//!
//! Readers of a shard write there only with the epoch in the WHERE clause. Every own event group of
//! a reader adds one to `modshift_token.writes` (a write of progress updates the token in the same
//! transaction), so that a lag counted in groups can leave them out.
//!
//! A write whose number is in `beat` is a plain heartbeat of the reader. A *quiet* one stays with the
//! reader: a bound for chunks, and nothing that a new shard would miss. The log says so itself, so
//! that whoever reads it again sends the very same tokens as who read it first. Who changes the row
//! for another reason raises `writes` alone, and is heard at once.
//!
//! The phase travels in the log. Each image of the token's row says whether applications may write
//! from there on; a *marker* is an UPDATE of that row by a cutover, which names its run in `fence`.
//! The row's present phase says nothing about an older position: the resume point has its own.

mod owner;
pub mod skip;

use std::collections::BTreeMap;

use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

pub use self::owner::{Owner, Stage, owner, place};
use crate::error::{self, ServerError};

/// Names beginning so belong to modshift.
pub const PREFIX: &str = "modshift_";

/// Triggers of the home guard are called so and something more. They change no row, and let modshift's
/// own sessions pass: whoever asks for triggers that do something with rows leaves them out.
pub const HOME_GUARD: &str = "modshift_home_";

/// A condition over information_schema.TRIGGERS: not one of those.
pub const NOT_HOME_GUARD: &str = "LEFT(TRIGGER_NAME, 14) <> 'modshift_home_'";

pub const TOKEN: &str = "modshift_token";
pub const PROGRESS: &str = "modshift_progress";
pub const TABLES: &str = "modshift_tables";
pub const WATERMARK: &str = "modshift_watermark";
pub const PARKED: &str = "modshift_parked";
pub const HANDOVER: &str = "modshift_handover";
pub const AUDIT: &str = "modshift_audit";

pub const VERIFY: &str = "modshift_verify";
pub const MISMATCH: &str = "modshift_mismatch";
pub const SETTLED: &str = "modshift_settled";
pub const VERIFIER: &str = "modshift_verifier";
pub const REPAIR: &str = "modshift_repair";
pub const RESYNC: &str = "modshift_resync";
pub const SKIP: &str = "modshift_skip";
pub const FINISHED: &str = "modshift_finished";
pub const RESTART: &str = "modshift_restart";
pub const PLAN: &str = "modshift_plan";

/// All that a command of modshift may make on a shard. `modshift finish` removes them, but for a few
/// that it keeps; and what its other commands made for them: [`OWN_REMAINS`].
pub const OWN_TABLES: [&str; 19] = [
    PLAN,
    TOKEN,
    PROGRESS,
    TABLES,
    WATERMARK,
    PARKED,
    HANDOVER,
    REPAIR,
    RESYNC,
    SKIP,
    VERIFY,
    SETTLED,
    VERIFIER,
    MISMATCH,
    "modshift_routing",
    "modshift_journal",
    "modshift_operator",
    "modshift_fence",
    AUDIT,
];

/// What the misroute watch knows: since when and up to where, and rows.
pub const MISROUTE: &str = "modshift_misroute";
pub const MISROUTED: &str = "modshift_misrouted";

/// What `check --deep` keeps, what the misroute watch knows, what a killed `check --trial` or `restart-copy` leaves behind, and what
/// `finish` leaves on purpose.
pub const OWN_REMAINS: [&str; 6] =
    ["modshift_check", "modshift_trial", MISROUTE, MISROUTED, RESTART, FINISHED];

/// Name of the row of `modshift_progress` that holds the resume point; other rows are named after
/// tables. No table can be called so.
pub const RESUME_ROW: &str = "@resume";

/// Of each shard, old or new, in order; safe to repeat. [`create`] sends them where needed.
pub const SHARD_TABLES: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS modshift_token (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        epoch BIGINT UNSIGNED NOT NULL,
        writes BIGINT UNSIGNED NOT NULL COMMENT 'event groups written here by modshift itself',
        clock DATETIME(6) NOT NULL COMMENT 'UTC, by this server',
        commit_us INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'what the write before this one took',
        halted TEXT NULL COMMENT 'why the reader stopped',
        phase ENUM('serving','fenced') NOT NULL COMMENT 'may applications write here?',
        fence VARCHAR(64) NULL COMMENT 'run that wrote the last marker',
        beat BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'number of the newest plain heartbeat',
        quiet TINYINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'new shards need not hear of that one'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_progress (
        name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        epoch BIGINT UNSIGNED NOT NULL,
        gtids TEXT NULL COMMENT 'resume point',
        digest TEXT NULL COMMENT 'of the last group before it; NULL before the first',
        copied_to LONGBLOB NULL COMMENT 'primary key up to which the table is copied, wire form',
        rows_copied BIGINT UNSIGNED NOT NULL DEFAULT 0,
        rows_estimated BIGINT UNSIGNED NOT NULL DEFAULT 0,
        done TINYINT NOT NULL DEFAULT 0,
        phase ENUM('serving','fenced') NULL COMMENT 'at the resume point'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_watermark (
        source SMALLINT UNSIGNED NOT NULL PRIMARY KEY COMMENT 'shard that it comes from',
        version BIGINT UNSIGNED NOT NULL COMMENT 'raised by every write and every new owner',
        epoch BIGINT UNSIGNED NOT NULL,
        number BIGINT UNSIGNED NOT NULL COMMENT 'last message applied in this epoch',
        gtids TEXT NOT NULL COMMENT 'complete event groups',
        group_gtid VARCHAR(64) NULL COMMENT 'event group in progress',
        group_ordinal INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'last change of it applied',
        token_digest VARCHAR(128) NULL COMMENT 'group of the newest token applied',
        token_writes BIGINT UNSIGNED NOT NULL DEFAULT 0,
        token_clock_us BIGINT NOT NULL DEFAULT 0 COMMENT 'the source''s clock at that token',
        copied TINYINT NOT NULL DEFAULT 0 COMMENT 'snapshot complete',
        commit_us INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'what the commit before this one took',
        tables INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'CRC-32 of the names of what the source sends',
        log_offset BIGINT NULL COMMENT 'offset to resume the partition from; NULL: direct log',
        halted TEXT NULL COMMENT 'why the applier stopped'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_parked (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        source SMALLINT UNSIGNED NOT NULL,
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        pk LONGBLOB NOT NULL COMMENT 'primary key, wire form',
        image LONGBLOB NOT NULL COMMENT 'row, wire form',
        parked_clock_us BIGINT NOT NULL COMMENT 'clock of the source''s newest token then',
        blocked_by TEXT NOT NULL COMMENT 'key that was taken, or why it cannot be stored'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_tables (
        name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        definition LONGTEXT NOT NULL COMMENT 'by which its binlog is read',
        added TINYINT NOT NULL COMMENT 'came into the plan after the first start'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_handover (
        id INT UNSIGNED NOT NULL PRIMARY KEY COMMENT '0: the state; else programs, in order',
        what ENUM('down','raising','up','had','wanted') NOT NULL,
        name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'of the program',
        about LONGTEXT NULL COMMENT 'JSON: the program without its body',
        body LONGBLOB NULL COMMENT 'in the character set of who wrote it',
        run VARCHAR(64) NULL COMMENT 'that wrote this row',
        at DATETIME(6) NOT NULL COMMENT 'UTC, by this server'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
];

/// A row in `modshift_handover` with which no planned row may be applied: the application's triggers
/// are there, or come. Reads it under a lock where it stands in an UPDATE.
pub const HANDED_OVER: &str =
    "SELECT 1 FROM modshift_handover WHERE id = 0 AND what IN ('raising', 'up')";

/// What earlier versions of modshift did not have.
const LATER_COLUMNS: [(&str, &str); 8] = [
    (TOKEN, "phase"),
    (TOKEN, "fence"),
    (TOKEN, "commit_us"),
    (TOKEN, "beat"),
    (PROGRESS, "phase"),
    (WATERMARK, "commit_us"),
    (WATERMARK, "tables"),
    (SKIP, "events"),
];

/// On each shard, by `modshift finish`, before the tables above go: to a reader without a token its
/// shard is new, and it would copy old rows over newer ones. So it is said on the shard itself, which
/// whoever would do that has to reach.
pub const FINISHED_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_finished (
        plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        at DATETIME(6) NOT NULL COMMENT 'UTC, by this server'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// On each shard while `modshift restart-copy` is at it: what is there without rows says enough.
pub const RESTART_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_restart (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY
    ) ENGINE=InnoDB COMMENT='its copy is being started over'";

/// Modshift's own schema, where a server needs to know something of all plans.
pub const SCHEMA: &str = "modshift";
pub const FENCES: &str = "modshift.fences";
pub const FENCES_NAME: &str = "fences";

/// On each server that a fence closes: which shards keep it closed. Whoever opens one asks here.
pub const FENCES_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift.fences (
        plan VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        shard VARCHAR(64) NOT NULL COMMENT 'old shard 0',
        abandoned BOOLEAN NOT NULL COMMENT '1: a run has left it, 0: kept out until it serves',
        server TINYINT NOT NULL COMMENT '1: the whole server is closed, 2: and being opened, 0: accounts alone',
        was LONGTEXT NOT NULL COMMENT 'JSON: settings before, of the primary and its replicas',
        since DATETIME(6) NOT NULL COMMENT 'UTC',
        PRIMARY KEY (plan, shard)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// What `modshift finish` has said on this shard.
pub async fn is_finished(conn: &mut Conn, at: &str, plan: &Plan) -> Result<bool, ServerError> {
    finished(conn, at, plan.forward_name()).await
}

async fn finished(conn: &mut Conn, at: &str, plan: &str) -> Result<bool, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let sql = format!("SELECT 1 FROM {FINISHED} WHERE plan = ?");
    let found: Result<Option<u8>, _> = conn.exec_first(sql, (plan,)).await;
    match found.map_err(|error| error::of(at, "looking whether the reshard is finished", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(false),
        found => Ok(found?.is_some()),
    }
}

/// The tables that the log of this shard is read for, each with its definition. Empty where no
/// reader was ever started, or none of a version that kept them.
pub async fn kept_tables(
    conn: &mut Conn,
    at: &str,
) -> Result<BTreeMap<String, String>, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let rows: Result<Vec<(String, String)>, _> =
        conn.query(format!("SELECT name, definition FROM {TABLES}")).await;
    match rows.map_err(|error| error::of(at, "reading which tables are read", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(BTreeMap::new()),
        rows => Ok(rows?.into_iter().collect()),
    }
}

/// How a plan's tables differ from those that were kept, in words; `None` where they do not.
pub fn changed_tables<'a>(
    kept: impl Iterator<Item = &'a str> + Clone,
    planned: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    let beyond = |these: &mut dyn Iterator<Item = &'a str>, those: Vec<&'a str>| {
        these.filter(|name| !those.contains(name)).collect::<Vec<_>>().join(", ")
    };
    let added = beyond(&mut planned.clone(), kept.clone().collect());
    let gone = beyond(&mut kept.clone(), planned.clone().collect());
    match (added.is_empty(), gone.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("has {added} in addition")),
        (true, false) => Some(format!("lacks {gone}")),
        (false, false) => Some(format!("has {added} in addition, and lacks {gone}")),
    }
}

/// A name as a string in SQL.
pub fn name_literal(name: &str) -> String {
    format!("'{}'", name.replace('\\', r"\\").replace('\'', "''"))
}

/// The plan's tables as literals, for an IN: rows of modshift's own about a table that has left the plan
/// stay until it comes back, and say nothing meanwhile.
pub fn planned_names(plan: &Plan) -> String {
    plan.tables.iter().map(|table| name_literal(&table.name)).collect::<Vec<_>>().join(", ")
}

/// Do applications write to this shard, as far as its token says?
pub async fn serves(conn: &mut Conn, at: &str) -> Result<bool, ServerError> {
    Ok(phase(conn, at).await?.is_some_and(|(phase, _)| phase == "serving"))
}

/// Has a cutover or rollback closed this shard, and not opened it since?
pub async fn is_closed(conn: &mut Conn, at: &str) -> Result<bool, ServerError> {
    Ok(phase(conn, at).await?.is_some_and(|(phase, by)| phase != "serving" && by.is_some()))
}

/// What its token says, and the run that wrote the last marker.
async fn phase(conn: &mut Conn, at: &str) -> Result<Option<(String, Option<String>)>, ServerError> {
    const NO_SUCH_TABLE: u16 = 1146;
    let asked = conn.query_first(format!("SELECT phase, fence FROM {TOKEN} WHERE id = 1")).await;
    match asked.map_err(|error| error::of(at, "asking which side serves", error)) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(None),
        phase => phase,
    }
}

/// Creates the tables that are missing, and refuses those of an earlier version: the binlog between
/// their change and the resume point could not be read. An existing table is not touched, since
/// even `CREATE TABLE IF NOT EXISTS` writes an event group. Refuses a reshard that is finished, one whose
/// copy is being started over, and a shard that another one still has.
pub async fn create(
    conn: &mut Conn,
    at: &str,
    endpoint: &Endpoint,
    plan: &Plan,
) -> Result<(), ServerError> {
    let schema = &endpoint.schema;
    if is_finished(conn, at, plan).await? {
        let plan = plan.forward_name().to_owned();
        return Err(ServerError::Finished { at: at.to_owned(), plan });
    }
    let owned = owner::is_ours(conn, at, endpoint, plan).await?;
    let failed = |error| error::of(at, "creating modshift's tables", error);
    let columns: Vec<(String, String)> = conn
        .exec(
            "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME IN (?, ?, ?, ?, ?, ?, ?, ?)",
            (schema, TOKEN, PROGRESS, WATERMARK, PARKED, TABLES, HANDOVER, RESTART, SKIP),
        )
        .await
        .map_err(failed)?;
    let present = |name: &str| columns.iter().any(|(table, _)| table == name);
    if present(RESTART) {
        return Err(ServerError::Restarting { at: at.to_owned() });
    }
    for (table, column) in LATER_COLUMNS {
        let has = columns.iter().any(|(t, c)| t == table && c == column);
        if present(table) && !has {
            return Err(ServerError::EarlierTable { at: at.to_owned(), table, column });
        }
    }
    let names = [TOKEN, PROGRESS, WATERMARK, PARKED, TABLES, HANDOVER];
    for (name, sql) in names.into_iter().zip(SHARD_TABLES) {
        if !present(name) {
            conn.query_drop(sql).await.map_err(failed)?;
        }
    }
    if !owned {
        owner::take(conn, at, endpoint, plan).await?;
    }
    Ok(())
}

/// For new shard 0, by whoever writes there first.
pub const AUDIT_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_audit (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        began DATETIME(6) NOT NULL COMMENT 'UTC, by this server',
        who VARCHAR(255) NOT NULL COMMENT 'user@host of the operating system, as the client says',
        account VARCHAR(255) NOT NULL COMMENT 'of the database',
        what TEXT NOT NULL COMMENT 'command line, without secrets',
        detail TEXT NOT NULL,
        outcome TEXT NULL COMMENT 'NULL: under way, or its process was killed',
        finished DATETIME(6) NULL
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// For each new shard, in order; created by whoever verifies first. Times are UTC, by this server.
pub const VERIFY_TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS modshift_verify (
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        fingerprint INT UNSIGNED NOT NULL COMMENT 'definition that verified_to is a key of',
        round BIGINT UNSIGNED NOT NULL,
        chunk BIGINT UNSIGNED NOT NULL COMMENT 'chunks compared in this round',
        verified_to LONGBLOB NULL COMMENT 'primary key up to which this round is done, wire form',
        rows_compared BIGINT UNSIGNED NOT NULL,
        unsettled BIGINT UNSIGNED NOT NULL COMMENT 'keys of this round that kept changing or lagging',
        started DATETIME(6) NULL COMMENT 'of the round in progress; NULL between rounds',
        finished DATETIME(6) NULL COMMENT 'of the last whole round',
        proof DATETIME(6) NULL COMMENT 'start of the last whole round that found all equal'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_mismatch (
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        source SMALLINT UNSIGNED NOT NULL,
        pk_md5 BINARY(16) NOT NULL,
        pk LONGBLOB NOT NULL COMMENT 'primary key, wire form',
        kind VARCHAR(16) CHARACTER SET latin1 NOT NULL,
        columns TEXT NOT NULL COMMENT 'names of those that differ',
        found DATETIME(6) NOT NULL,
        PRIMARY KEY (table_name, source, pk_md5)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_settled (
        source SMALLINT UNSIGNED NOT NULL PRIMARY KEY,
        fence VARCHAR(64) NOT NULL COMMENT 'run id of the cutover whose fence it is',
        gtids TEXT NOT NULL COMMENT 'position of the old shard, its fence marker included',
        keys_compared BIGINT UNSIGNED NOT NULL,
        at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
];

/// For each new shard; created by the daemon that verifies beside its applier.
pub const VERIFIER_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_verifier (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        whole_since DATETIME(6) NOT NULL COMMENT 'what was applied since is compared, or waits for it',
        seen DATETIME(6) NOT NULL COMMENT 'when the verifier last wrote this',
        keys_waiting BIGINT UNSIGNED NOT NULL COMMENT 'changed, and not compared since',
        settle_ms BIGINT UNSIGNED NOT NULL COMMENT 'what comparing them would take',
        trouble TEXT NULL COMMENT 'what keeps it from comparing'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// Said of a new shard before its applier starts: its changes are kept from now on only, so that a
/// proof of before is none for a fence. The verifier says it again once it is there.
pub const VERIFIER_BEGINS: &str = "REPLACE INTO modshift_verifier \
    (id, whole_since, seen, keys_waiting, settle_ms, trouble) \
    VALUES (1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), 0, 0, 'its verifier has not started yet')";

/// `kind` in `modshift_mismatch` of a row that changed whenever it was compared. It is no damage, and
/// no proof: it is compared at the fence, when it stands still.
pub const KIND_MOVING: &str = "moving";

/// Values of `sent` in `modshift_repair`.
pub const REPAIR_WAITS: u8 = 0;
pub const REPAIR_SENT: u8 = 1;
/// It can never be served; the reader's log says why. Stays until a person removes it.
pub const REPAIR_REFUSED: u8 = 2;

/// On each old shard; created by whoever asks for a repair.
pub const REPAIR_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_repair (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        target SMALLINT UNSIGNED NOT NULL COMMENT 'new shard',
        pk LONGBLOB NOT NULL COMMENT 'primary key, wire form',
        sent TINYINT NOT NULL DEFAULT 0 COMMENT '0 waits, 1 is in the change log, 2 is refused'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// Values of `state` in `modshift_resync`.
pub const RESYNC_WAITS: u8 = 0;
/// All its rows are in the change log; the comparison is still to come.
pub const RESYNC_COPIED: u8 = 1;
/// It cannot be served; `why` says why.
pub const RESYNC_REFUSED: u8 = 2;

/// On each old shard; created by whoever asks for a range. A row goes once the range was compared: as
/// long as there is one the gate is closed.
pub const RESYNC_TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_resync (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        key_from LONGBLOB NULL COMMENT 'first primary key, or its first columns, wire form',
        key_to LONGBLOB NULL COMMENT 'the last one, included',
        state TINYINT NOT NULL DEFAULT 0 COMMENT '0 waits, 1 is in the change log, 2 is refused',
        copied_to LONGBLOB NULL COMMENT 'up to here it is in the change log',
        rows_copied BIGINT UNSIGNED NOT NULL DEFAULT 0,
        rows_estimated BIGINT UNSIGNED NOT NULL DEFAULT 0,
        why TEXT NULL
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
