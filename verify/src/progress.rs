//! How far a table has been compared, and what is known to differ: on the new shards, where a
//! verifier that was killed finds it again and the gate reads it.
//!
//! All new shards hold the same progress of a table, since a range is compared on all of them at
//! once. A verifier that died between two of them goes on from the earliest.

use futures_util::future::try_join_all;
use modshift_mariadb::control::{MISMATCH, VERIFY, VERIFY_TABLES};
use modshift_proto::plan::Plan;

use crate::compare::Suspect;
use crate::error::VerifyError;
use crate::key;
use crate::report::{Kind, Mismatch};
use crate::shard::Shard;
use crate::table::CheckedTable;

const DOING: &str = "recording what has been verified";

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
            shard.run("creating modshift's tables", statement, ()).await?;
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
         FROM {VERIFY} WHERE table_name = {} AND fingerprint = {} AND started IS NOT NULL",
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
        "INSERT INTO {VERIFY} (table_name, fingerprint, round, chunk, rows_compared, unsettled, \
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
        "UPDATE {VERIFY} SET chunk = ?, verified_to = ?, rows_compared = ?, unsettled = ? \
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

/// The round is over. Only a clean one is a proof, and its age counts from its beginning.
pub async fn finish(
    new: &mut [Shard],
    table: &CheckedTable,
    clean: bool,
) -> Result<(), VerifyError> {
    let sql = format!(
        "UPDATE {VERIFY} SET proof = IF(?, COALESCE(started, proof), proof), \
           finished = UTC_TIMESTAMP(6), started = NULL, verified_to = NULL WHERE table_name = ?"
    );
    let params = (u8::from(clean), table.schema.name.clone());
    try_join_all(new.iter_mut().map(|shard| shard.run(DOING, &sql, params.clone()))).await?;
    Ok(())
}

/// Names of tables with the age of their proof in seconds, as new shard `new[0]` has them.
pub async fn ages(new: &mut [Shard]) -> Result<Vec<(String, Option<u64>)>, VerifyError> {
    let sql = format!(
        "SELECT table_name, GREATEST(TIMESTAMPDIFF(SECOND, proof, UTC_TIMESTAMP(6)), 0) \
         FROM {VERIFY}"
    );
    new[0].query("reading what has been verified", &sql).await
}

pub async fn add_mismatches(new: &mut [Shard], mismatches: &[Mismatch]) -> Result<(), VerifyError> {
    let sql = format!(
        "INSERT INTO {MISMATCH} (table_name, source, pk_md5, pk, kind, columns, found) \
         VALUES (?, ?, UNHEX(MD5(?)), ?, ?, ?, UTC_TIMESTAMP(6)) \
         ON DUPLICATE KEY UPDATE kind = VALUES(kind), columns = VALUES(columns)"
    );
    for mismatch in mismatches {
        let params = (
            mismatch.table.clone(),
            mismatch.old,
            mismatch.pk.clone(),
            mismatch.pk.clone(),
            mismatch.kind.name(),
            mismatch.columns.join(", "),
        );
        new[usize::from(mismatch.new)].run(DOING, &sql, params).await?;
    }
    Ok(())
}

/// These are equal by now.
pub async fn remove_mismatches(
    new: &mut [Shard],
    table: &CheckedTable,
    equal: &[Suspect],
) -> Result<(), VerifyError> {
    let sql = format!(
        "DELETE FROM {MISMATCH} WHERE table_name = ? AND source = ? AND pk_md5 = UNHEX(MD5(?))"
    );
    for suspect in equal {
        let (old, new_shard) = suspect.stream;
        let params = (table.schema.name.clone(), old, suspect.key.clone());
        new[usize::from(new_shard)].run(DOING, &sql, params).await?;
    }
    Ok(())
}

/// Everything known to differ in one table.
pub async fn mismatches(
    new: &mut [Shard],
    plan: &Plan,
    table: &CheckedTable,
) -> Result<Vec<Mismatch>, VerifyError> {
    type Row = (u16, Vec<u8>, String, String);
    let sql = format!(
        "SELECT source, pk, kind, columns FROM {MISMATCH} WHERE table_name = {} \
         ORDER BY source, pk_md5",
        text(&table.schema.name)
    );
    let rows: Vec<Vec<Row>> =
        try_join_all(new.iter_mut().map(|shard| shard.query(DOING, &sql))).await?;
    let mut found = Vec::new();
    for (shard, rows) in rows.into_iter().enumerate() {
        for (old, pk, kind, columns) in rows {
            let kind = Kind::from_name(&kind).filter(|_| old < plan.old_modulus.get());
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

/// A string literal under any character set of the session.
fn text(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02X}")).collect();
    format!("_utf8mb4 X'{hex}'")
}
