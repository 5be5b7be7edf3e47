//! What an operator has had passed over, and what has been proven equal since: `modshift_skip`.
//!
//! | what | on | name | state |
//! |---|---|---|---|
//! | `group` | the shard that is read | its GTID | `halted`: the reader stands there; `asked`; `passed`; `proven`: it was asked for and is not there, another group has its GTID |
//! | `table` | there too | the same | `open` until a verification has found the table equal; `proven` |
//! | `record` | the new shard of its partition | its offset in the change log | `halted`: the applier stands there; `asked` |
//! | `stream` | each shard that is applied to | the same | `asked`: its rows may be in each other's places |
//!
//! A row of a group comes from the reader that halts there, and goes when that reader starts again
//! without having been sent on: so nothing else can be asked to be passed over. What was asked for
//! stays as long as the reshard: a reader that goes through the log once more passes it over again.

use std::time::Duration;

use modshift_proto::{Gtid, NewShard, OldShard};

use super::SKIP;

/// For each shard, by whoever writes there first. Even `IF NOT EXISTS` writes an event group.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS modshift_skip (
        what ENUM('group','table','stream','record') NOT NULL,
        source SMALLINT UNSIGNED NOT NULL COMMENT 'shard whose log it is of; of a record its partition',
        name VARCHAR(128) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL COMMENT 'GTID or offset',
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
        state ENUM('halted','asked','passed','open','proven') NOT NULL,
        at DATETIME(6) NOT NULL COMMENT 'UTC, by this server: of the state; of a table: from when on it can be compared',
        said TEXT NULL COMMENT 'what the reader halted with',
        why TEXT NULL COMMENT 'in the words of who has it passed over',
        who VARCHAR(255) NULL,
        checksum INT UNSIGNED NULL COMMENT 'of the group as it was passed over',
        events BIGINT UNSIGNED NULL COMMENT 'of the group, up to where the reader stands in it',
        events_checksum INT UNSIGNED NULL,
        PRIMARY KEY (what, source, name, table_name)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

/// What somebody stands at: a group of a shard's binlog, or a record of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    what: &'static str,
    source: u16,
    name: String,
}

impl Place {
    pub fn group(source: OldShard, gtid: Gtid) -> Place {
        Place { what: GROUP, source: source.0, name: gtid.to_string() }
    }

    pub fn record(partition: NewShard, offset: i64) -> Place {
        Place { what: RECORD, source: partition.0, name: offset.to_string() }
    }

    /// Its row, in a WHERE.
    pub fn row(&self) -> String {
        let Place { what, source, name } = self;
        format!("what = '{what}' AND source = {source} AND name = '{name}'")
    }

    /// Somebody halts there; parameters: what it says, and how many events of a group it has read, with
    /// their checksum. Nothing where it was asked for meanwhile.
    pub fn halts(&self) -> String {
        let Place { what, source, name } = self;
        format!(
            "INSERT INTO {SKIP} (what, source, name, state, at, said, events, events_checksum) \
             VALUES ('{what}', {source}, '{name}', 'halted', UTC_TIMESTAMP(6), ?, ?, ?) \
             ON DUPLICATE KEY UPDATE said = VALUES(said), \
             events = IF(state IN ('halted', 'proven'), VALUES(events), events), \
             events_checksum = IF(state IN ('halted', 'proven'), VALUES(events_checksum), events_checksum), \
             state = IF(state = 'proven', 'halted', state)"
        )
    }

    /// An operator has it passed over; parameters: why, who. One row, or none where nobody stands there.
    pub fn ask(&self) -> String {
        format!(
            "UPDATE {SKIP} SET state = 'asked', at = UTC_TIMESTAMP(6), why = ?, who = ? \
             WHERE {} AND state = 'halted'",
            self.row()
        )
    }
}

const GROUP: &str = "group";
const RECORD: &str = "record";
/// State of a group that was asked for and is not there: another has its GTID.
pub const GONE: &str = "proven";

/// Groups to be passed over, with their states, and their checksums where they were before; and how many of
/// the events of each the reader had read when it halted there, and their checksum. What is there no more
/// is in the binlog still, as far as it was written.
pub fn asked(source: OldShard) -> String {
    format!(
        "SELECT name, BINARY state, checksum, events, events_checksum FROM {SKIP} WHERE what = '{GROUP}' AND source = {} \
         AND state IN ('asked', 'passed', '{GONE}')",
        source.0
    )
}

/// What was asked for is not there any more: another group has its GTID.
pub fn gone(source: OldShard, gtid: Gtid) -> String {
    format!(
        "UPDATE {SKIP} SET state = '{GONE}', at = UTC_TIMESTAMP(6) WHERE {} AND state = 'asked'",
        Place::group(source, gtid).row()
    )
}

/// Offsets of records to be passed over.
pub fn asked_records(partition: NewShard) -> String {
    format!(
        "SELECT name FROM {SKIP} WHERE what = '{RECORD}' AND source = {} AND state = 'asked'",
        partition.0
    )
}

/// A reader begins: it stands nowhere.
pub fn reader_begins(source: OldShard) -> String {
    begins(GROUP, source.0)
}

/// An applier begins: it stands nowhere.
pub fn applier_begins(partition: NewShard) -> String {
    begins(RECORD, partition.0)
}

fn begins(what: &str, source: u16) -> String {
    format!("DELETE FROM {SKIP} WHERE what = '{what}' AND source = {source} AND state = 'halted'")
}

/// Of the shards that are applied to, before anything is passed over; parameters: why, who.
pub fn ask_of_target(source: OldShard, gtid: Gtid) -> String {
    format!(
        "INSERT INTO {SKIP} (what, source, name, state, at, why, who) \
         VALUES ('stream', {}, '{gtid}', 'asked', UTC_TIMESTAMP(6), ?, ?) \
         ON DUPLICATE KEY UPDATE why = VALUES(why), who = VALUES(who)",
        source.0
    )
}

/// The opposite of [`ask_of_target`].
pub fn forget_of_target(source: OldShard, gtid: Gtid) -> String {
    format!(
        "DELETE FROM {SKIP} WHERE what = 'stream' AND source = {} AND name = '{gtid}'",
        source.0
    )
}

/// Of a shard that is applied to: may rows of this source be where they are not there any more?
pub fn sent_past(source: OldShard) -> String {
    format!("SELECT 1 FROM {SKIP} WHERE what = 'stream' AND source = {} LIMIT 1", source.0)
}

/// It was passed over for the first time: a table that may lack what it changed; parameter: its name.
/// `late`: so long it may take until others see that.
pub fn marks(source: OldShard, gtid: Gtid, late: Duration) -> String {
    format!(
        "INSERT INTO {SKIP} (what, source, name, table_name, state, at, why, who) \
         SELECT 'table', source, name, ?, 'open', UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND, why, who \
         FROM {SKIP} WHERE {} AND state = 'asked'",
        late.as_micros(),
        Place::group(source, gtid).row()
    )
}

/// After [`marks`], in the same transaction.
pub fn passed(source: OldShard, gtid: Gtid, checksum: u32) -> String {
    format!(
        "UPDATE {SKIP} SET state = 'passed', at = UTC_TIMESTAMP(6), checksum = {checksum} \
         WHERE {} AND state = 'asked'",
        Place::group(source, gtid).row()
    )
}
