//! How far a table has been compared, and what is known to differ: on the new shards, where a
//! verifier that was killed finds it again and the gate reads it.
//!
//! All new shards hold the same progress of a table, since a range is compared on all of them at
//! once. A verifier that died between two of them goes on from the earliest.

use std::time::Duration;

use futures_util::future::try_join_all;
use modshift_mariadb::Value;
use modshift_mariadb::control::{KIND_MOVING, MISMATCH, VERIFIER, VERIFY, VERIFY_TABLES};
use modshift_proto::plan::Plan;

use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::key;
use crate::report::{Kind, Mismatch};
use crate::settle::if_there;
use crate::shard::{HERE, Shard, here};
use crate::table::CheckedTable;

const DOING: &str = "recording what has been verified";

/// Rows that differ and are read into memory, of one shard and one table at once.
pub const PAGE: usize = 5000;
/// Moving rows that may be left for a fence, of one new shard: what it compares is part of the pause.
const MOVING_MAX: u64 = 1000;

/// A round of one table that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub chunk: u64,
    /// Wire form; `None`: at the beginning.
    pub verified_to: Option<Vec<u8>>,
    pub rows: u64,
    pub unsettled: u64,
    /// Since it began.
    pub age_s: u64,
}

/// Creates modshift's tables where they are not there yet.
pub async fn prepare(new: &mut [Shard]) -> Result<(), VerifyError> {
    try_join_all(new.iter_mut().map(async |shard| {
        for statement in VERIFY_TABLES {
            shard.run("creating modshift's tables", &here(statement), ()).await?;
        }
        Ok::<(), VerifyError>(())
    }))
    .await?;
    Ok(())
}

/// The round in progress, if every new shard knows of it.
pub async fn read(new: &mut [Shard], table: &CheckedTable) -> Result<Option<Saved>, VerifyError> {
    type Row = (u64, Option<Vec<u8>>, u64, u64, u64);
    let sql = format!(
        "SELECT chunk, verified_to, rows_compared, unsettled, \
                GREATEST(TIMESTAMPDIFF(SECOND, started, UTC_TIMESTAMP(6)), 0) \
         FROM {HERE}{VERIFY} WHERE table_name = {} AND fingerprint = {} AND started IS NOT NULL",
        text(&table.schema.name),
        table.fingerprint,
    );
    let rows: Vec<Vec<Row>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &sql))).await?;
    let mut earliest: Option<Saved> = None;
    for row in rows {
        let Some((chunk, verified_to, rows, unsettled, age_s)) = row.into_iter().next() else {
            return Ok(None);
        };
        if earliest.as_ref().is_none_or(|had| chunk < had.chunk) {
            earliest = Some(Saved { chunk, verified_to, rows, unsettled, age_s });
        }
    }
    Ok(earliest)
}

pub async fn begin(new: &mut [Shard], table: &CheckedTable) -> Result<(), VerifyError> {
    let sql = format!(
        "INSERT INTO {HERE}{VERIFY} (table_name, fingerprint, round, chunk, rows_compared, unsettled, \
           started) VALUES (?, ?, 1, 0, 0, 0, UTC_TIMESTAMP(6)) \
         ON DUPLICATE KEY UPDATE round = round + 1, fingerprint = VALUES(fingerprint), chunk = 0, \
           verified_to = NULL, rows_compared = 0, unsettled = 0, started = UTC_TIMESTAMP(6)"
    );
    let params = (table.schema.name.clone(), table.fingerprint);
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    Ok(())
}

pub async fn save(
    new: &mut [Shard],
    table: &CheckedTable,
    saved: &Saved,
) -> Result<(), VerifyError> {
    let sql = format!(
        "UPDATE {HERE}{VERIFY} SET chunk = ?, verified_to = ?, rows_compared = ?, unsettled = ? \
         WHERE table_name = ?"
    );
    let params = (
        saved.chunk,
        saved.verified_to.clone(),
        saved.rows,
        saved.unsettled,
        table.schema.name.clone(),
    );
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    Ok(())
}

/// Writes something that is logged, so that the position moves on.
pub async fn beat(ledger: &mut [Shard], table: &CheckedTable) -> Result<(), VerifyError> {
    let sql = format!("UPDATE {HERE}{VERIFY} SET round = round + 1 WHERE table_name = ?");
    let params = (table.schema.name.clone(),);
    try_join_all(ledger.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    Ok(())
}

/// The round is over. Only a clean one is a proof, and its age counts from its beginning. Gives whether
/// every new shard has one by now: it was doubted where a resync was asked for meanwhile.
pub async fn finish(
    new: &mut [Shard],
    table: &CheckedTable,
    clean: bool,
) -> Result<bool, VerifyError> {
    let sql = format!(
        "UPDATE {HERE}{VERIFY} SET proof = IF(?, COALESCE(started, proof), proof), \
           finished = UTC_TIMESTAMP(6), started = NULL, verified_to = NULL WHERE table_name = ?"
    );
    let params = (u8::from(clean), table.schema.name.clone());
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    let written = format!(
        "SELECT proof IS NOT NULL FROM {HERE}{VERIFY} WHERE table_name = {}",
        text(&table.schema.name)
    );
    let written: Vec<Vec<bool>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &written))).await?;
    Ok(clean && written.iter().all(|rows| rows.first() == Some(&true)))
}

/// What the last round found different is equal by now, and it found nothing else: it is a proof, too.
/// `age`: since it began.
pub async fn prove(
    new: &mut [Shard],
    table: &CheckedTable,
    age: Duration,
) -> Result<(), VerifyError> {
    let sql = format!(
        "UPDATE {HERE}{VERIFY} SET proof = UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND \
         WHERE table_name = ? AND started IS NULL"
    );
    let age = (age + WHOLE_MARGIN).as_micros() as u64;
    let params = (age, table.schema.name.clone());
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    Ok(())
}

/// Names of tables with the age of their proof in seconds, as new shard `new[0]` has them.
pub async fn ages(new: &mut [Shard]) -> Result<Vec<(String, Option<u64>)>, VerifyError> {
    let sql = format!(
        "SELECT table_name, GREATEST(TIMESTAMPDIFF(SECOND, proof, UTC_TIMESTAMP(6)), 0) \
         FROM {HERE}{VERIFY}"
    );
    new[0].query("reading what has been verified", &sql).await
}

/// Rows in one statement.
const AT_ONCE: usize = 200;

/// So many lists of values, each `one`.
pub(crate) fn lists(one: &str, count: usize) -> String {
    vec![one; count].join(", ")
}

pub async fn add_mismatches(new: &mut [Shard], mismatches: &[Mismatch]) -> Result<(), VerifyError> {
    for (number, shard) in (0u16..).zip(new.iter_mut()) {
        let mine: Vec<&Mismatch> = mismatches.iter().filter(|m| m.new == number).collect();
        for some in mine.chunks(AT_ONCE) {
            let sql = format!(
                "INSERT INTO {HERE}{MISMATCH} (table_name, source, pk_md5, pk, kind, columns, found) \
                 VALUES {} ON DUPLICATE KEY UPDATE kind = VALUES(kind), columns = VALUES(columns)",
                lists("(?, ?, UNHEX(MD5(?)), ?, ?, ?, UTC_TIMESTAMP(6))", some.len())
            );
            let params: Vec<Value> = some
                .iter()
                .flat_map(|mismatch| {
                    [
                        Value::from(mismatch.table.clone()),
                        Value::from(mismatch.old),
                        Value::from(mismatch.pk.clone()),
                        Value::from(mismatch.pk.clone()),
                        Value::from(mismatch.kind.name()),
                        Value::from(mismatch.columns.join(", ")),
                    ]
                })
                .collect();
            shard.run(DOING, &sql, params).await?;
        }
    }
    Ok(())
}

/// These are equal by now.
pub async fn remove_mismatches(
    new: &mut [Shard],
    table: &CheckedTable,
    equal: &[Suspect],
) -> Result<(), VerifyError> {
    for (number, shard) in (0u16..).zip(new.iter_mut()) {
        let mine: Vec<&Suspect> = equal.iter().filter(|s| s.stream.1 == number).collect();
        for some in mine.chunks(AT_ONCE) {
            let sql = format!(
                "DELETE FROM {HERE}{MISMATCH} WHERE table_name = ? AND ({})",
                vec!["(source = ? AND pk_md5 = UNHEX(MD5(?)))"; some.len()].join(" OR ")
            );
            let mut params = vec![Value::from(table.schema.name.clone())];
            for suspect in some {
                params.push(Value::from(suspect.stream.0));
                params.push(Value::from(suspect.key.clone()));
            }
            shard.run(DOING, &sql, params).await?;
        }
    }
    Ok(())
}

/// Nothing is proven of the table any more; nor will a round that is under way prove it.
pub async fn doubt(new: &mut [Shard], table: &str) -> Result<(), VerifyError> {
    let sql = format!(
        "UPDATE {HERE}{VERIFY} SET proof = NULL, started = NULL, verified_to = NULL \
         WHERE table_name = ?"
    );
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, (table.to_owned(),)))).await?;
    Ok(())
}

/// Remembers rows that cannot be compared before the fence. Gives how many there was no room for.
pub async fn add_moving(
    new: &mut [Shard],
    table: &CheckedTable,
    moving: &[Suspect],
) -> Result<u64, VerifyError> {
    let count = format!("SELECT COUNT(*) FROM {HERE}{MISMATCH} WHERE kind = '{KIND_MOVING}'");
    // What is known to differ stays so, however it moves.
    let insert = format!(
        "INSERT IGNORE INTO {HERE}{MISMATCH} (table_name, source, pk_md5, pk, kind, columns, found) \
         VALUES (?, ?, UNHEX(MD5(?)), ?, '{KIND_MOVING}', '', UTC_TIMESTAMP(6))"
    );
    let mut beyond = 0;
    for (number, shard) in (0u16..).zip(new.iter_mut()) {
        let mine: Vec<&Suspect> = moving.iter().filter(|s| s.stream.1 == number).collect();
        if mine.is_empty() {
            continue;
        }
        let there: Vec<u64> = shard.query("counting rows that keep changing", &count).await?;
        let room = MOVING_MAX.saturating_sub(there.first().copied().unwrap_or(0)) as usize;
        beyond += mine.len().saturating_sub(room) as u64;
        for suspect in mine.into_iter().take(room) {
            let name = table.schema.name.clone();
            let params = (name, suspect.stream.0, suspect.key.clone(), suspect.key.clone());
            shard.run(DOING, &insert, params).await?;
        }
    }
    Ok(beyond)
}

/// Rows that were left for the fence: table, stream, key in wire form.
pub async fn moving(new: &mut [Shard]) -> Result<Vec<(String, Suspect)>, VerifyError> {
    let sql =
        format!("SELECT table_name, source, pk FROM {HERE}{MISMATCH} WHERE kind = '{KIND_MOVING}'");
    let rows: Vec<Vec<(String, u16, Vec<u8>)>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &sql))).await?;
    let of = |(number, rows): (usize, Vec<(String, u16, Vec<u8>)>)| {
        rows.into_iter().map(move |(table, source, key)| {
            (table, Suspect { stream: (source, number as u16), key })
        })
    };
    Ok(rows.into_iter().enumerate().flat_map(of).collect())
}

/// How many rows of a table are known to differ.
pub async fn count(new: &mut [Shard], table: &CheckedTable) -> Result<u64, VerifyError> {
    let sql = format!(
        "SELECT COUNT(*) FROM {HERE}{MISMATCH} WHERE table_name = {} AND kind <> '{KIND_MOVING}'",
        text(&table.schema.name)
    );
    let rows: Vec<Vec<u64>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &sql))).await?;
    Ok(rows.into_iter().flatten().sum())
}

/// A row of one new shard that is known to differ, or keeps changing.
pub struct Known {
    pub source: u16,
    pub md5: Vec<u8>,
    pub key: Vec<u8>,
}

/// The next page of those, moving ones too; after this one.
pub async fn known(
    shard: &mut Shard,
    table: &CheckedTable,
    after: Option<&Known>,
) -> Result<Vec<Known>, VerifyError> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let after = match after {
        None => String::new(),
        Some(last) => {
            format!(" AND (source, pk_md5) > ({}, X'{}')", last.source, hex(&last.md5))
        }
    };
    let sql = format!(
        "SELECT source, pk_md5, pk FROM {HERE}{MISMATCH} WHERE table_name = {}{after} \
         ORDER BY source, pk_md5 LIMIT {PAGE}",
        text(&table.schema.name)
    );
    let rows: Vec<(u16, Vec<u8>, Vec<u8>)> = shard.query(DOING, &sql).await?;
    Ok(rows.into_iter().map(|(source, md5, key)| Known { source, md5, key }).collect())
}

/// What is known to differ in one table, from so many sources: at most [`PAGE`] rows of each new
/// shard.
pub async fn mismatches(
    new: &mut [Shard],
    sources: u16,
    table: &CheckedTable,
) -> Result<Vec<Mismatch>, VerifyError> {
    type Row = (u16, Vec<u8>, String, String);
    let sql = format!(
        "SELECT source, pk, kind, columns FROM {HERE}{MISMATCH} \
         WHERE table_name = {} AND kind <> '{KIND_MOVING}' ORDER BY source, pk_md5 LIMIT {PAGE}",
        text(&table.schema.name)
    );
    let rows: Vec<Vec<Row>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &sql))).await?;
    let mut found = Vec::new();
    for (shard, rows) in rows.into_iter().enumerate() {
        for (old, pk, kind, columns) in rows {
            let kind = Kind::from_name(&kind).filter(|_| old < sources);
            let Some(kind) = kind else {
                let text = format!("a mismatch of old shard {old}");
                return Err(VerifyError::Control { at: new[shard].label(), what: MISMATCH, text });
            };
            found.push(Mismatch {
                table: table.schema.name.clone(),
                old,
                new: shard as u16,
                kind,
                key: key::shown(&table.schema, &pk),
                columns: columns.split(", ").filter(|c| !c.is_empty()).map(str::to_owned).collect(),
                pk,
            });
        }
    }
    Ok(found)
}

/// What the verifier beside an applier says of itself. `anew`: for how long changes are kept by now,
/// where that began anew since it last said so.
pub struct Beside<'a> {
    pub anew: Option<Duration>,
    pub keys: u64,
    pub settle: Duration,
    pub trouble: Option<&'a str>,
}

/// A proof counts from a second later on: what is a moment for this process may be another for the
/// server.
const WHOLE_MARGIN: Duration = Duration::from_secs(1);

pub async fn say_beside(shard: &mut Shard, said: &Beside<'_>) -> Result<(), VerifyError> {
    let doing = "saying how far changes have been compared";
    let (keys, settle_ms) = (said.keys, said.settle.as_millis() as u64);
    match said.anew {
        Some(kept) => {
            let kept = kept.saturating_sub(WHOLE_MARGIN).as_micros() as u64;
            let sql = format!(
                "REPLACE INTO {HERE}{VERIFIER} (id, whole_since, seen, keys_waiting, settle_ms, trouble) \
                 VALUES (1, UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6), ?, ?, ?)"
            );
            shard.run(doing, &sql, (kept, keys, settle_ms, said.trouble.map(str::to_owned))).await
        }
        None => {
            let sql = format!(
                "UPDATE {HERE}{VERIFIER} SET seen = UTC_TIMESTAMP(6), keys_waiting = ?, settle_ms = ?, \
                 trouble = ? WHERE id = 1"
            );
            shard.run(doing, &sql, (keys, settle_ms, said.trouble.map(str::to_owned))).await
        }
    }
}

/// Tables that were not compared as a whole since all changes on this new shard are kept.
pub async fn lacking(shard: &mut Shard, plan: &Plan) -> Result<Vec<String>, VerifyError> {
    let sql = format!(
        "SELECT v.table_name FROM {HERE}{VERIFY} v JOIN {HERE}{VERIFIER} k ON k.id = 1 \
         WHERE v.proof > k.whole_since"
    );
    let whole: Vec<String> = shard.query("reading what has been verified", &sql).await?;
    let names = plan.tables.iter().map(|table| table.name.clone());
    Ok(names.filter(|name| !whole.contains(name)).collect())
}

/// When changes began to be kept, seconds ago, on the new shard where that is the shortest time; `None`:
/// nobody keeps them on some.
pub async fn kept_for(new: &mut [Shard]) -> Result<Option<u64>, VerifyError> {
    let sql = format!(
        "SELECT GREATEST(TIMESTAMPDIFF(SECOND, whole_since, UTC_TIMESTAMP(6)), 0) FROM {HERE}{VERIFIER}"
    );
    let doing = "asking for how long changes are kept";
    let rows = try_join_all(new.iter_mut().map(async |shard| {
        let rows: Vec<u64> = if_there(shard.query(doing, &sql).await)?;
        Ok::<_, VerifyError>(rows.first().copied())
    }))
    .await?;
    Ok(rows.into_iter().collect::<Option<Vec<u64>>>().and_then(|rows| rows.into_iter().min()))
}

/// A string literal under any character set of the session.
fn text(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02X}")).collect();
    format!("_utf8mb4 X'{hex}'")
}
