//! Modshift's own tables on the old and new shards.
//!
//! | table | where | holds |
//! |---|---|---|
//! | `modshift_token` | old | one row: epoch, count of own event groups, clock |
//! | `modshift_progress` | old | the resume point, and per table how far it has been copied |
//! | `modshift_watermark` | new | a row per old shard: what of it has been applied |
//! | `modshift_parked` | new | rows that wait for their place |
//!
//! Readers of an old shard write there only with the epoch in the WHERE clause. Every own event
//! group on an old shard adds one to `modshift_token.writes` (a write of progress updates the token
//! in the same transaction), so that a lag counted in groups can leave them out.

/// Names beginning so belong to modshift.
pub const PREFIX: &str = "modshift_";

pub const TOKEN: &str = "modshift_token";
pub const PROGRESS: &str = "modshift_progress";
pub const WATERMARK: &str = "modshift_watermark";
pub const PARKED: &str = "modshift_parked";

/// Name of the row of `modshift_progress` that holds the resume point; other rows are named after
/// tables. No table can be called so.
pub const RESUME_ROW: &str = "@resume";

/// For each old shard, in order; safe to repeat.
pub const OLD_SHARD_TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS modshift_token (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        epoch BIGINT UNSIGNED NOT NULL,
        writes BIGINT UNSIGNED NOT NULL COMMENT 'event groups written here by modshift itself',
        clock DATETIME(6) NOT NULL COMMENT 'UTC, by this server',
        halted TEXT NULL COMMENT 'why the reader stopped'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE IF NOT EXISTS modshift_progress (
        name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        epoch BIGINT UNSIGNED NOT NULL,
        gtids TEXT NULL COMMENT 'resume point',
        digest TEXT NULL COMMENT 'of the last group before it; NULL before the first',
        copied_to LONGBLOB NULL COMMENT 'primary key up to which the table is copied, wire form',
        rows_copied BIGINT UNSIGNED NOT NULL DEFAULT 0,
        rows_estimated BIGINT UNSIGNED NOT NULL DEFAULT 0,
        done TINYINT NOT NULL DEFAULT 0
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
];

/// For each new shard, in order; safe to repeat.
pub const NEW_SHARD_TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS modshift_watermark (
        source SMALLINT UNSIGNED NOT NULL PRIMARY KEY COMMENT 'old shard',
        version BIGINT UNSIGNED NOT NULL COMMENT 'raised by every write and every new owner',
        epoch BIGINT UNSIGNED NOT NULL,
        number BIGINT UNSIGNED NOT NULL COMMENT 'last message applied in this epoch',
        gtids TEXT NOT NULL COMMENT 'complete event groups',
        group_gtid VARCHAR(64) NULL COMMENT 'event group in progress',
        group_ordinal INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'last change of it applied',
        token_digest VARCHAR(128) NULL COMMENT 'group of the newest token applied',
        token_writes BIGINT UNSIGNED NOT NULL DEFAULT 0,
        token_clock_us BIGINT NOT NULL DEFAULT 0 COMMENT 'the old shard''s clock at that token',
        copied TINYINT NOT NULL DEFAULT 0 COMMENT 'snapshot complete',
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
        blocked_by TEXT NOT NULL COMMENT 'key that was taken'
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
];
