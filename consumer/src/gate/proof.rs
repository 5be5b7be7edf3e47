//! What the verifier left on the new shards: how old the proof of each table is, and which rows are
//! known to differ.

use std::collections::BTreeMap;
use std::time::Duration;

use modshift_mariadb::control::{MISMATCH, VERIFY};
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

use super::facts::{Verification, if_there};

/// As one new shard has it. Times are by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// By table; `None`: no round over it was ever clean.
    pub ages: BTreeMap<String, Option<Duration>>,
    /// Rows that differ, by table.
    pub mismatches: BTreeMap<String, u64>,
}

/// One new shard. Session: plain.
pub async fn read(conn: &mut Conn, endpoint: &Endpoint) -> Result<Proof, ServerError> {
    let at = modshift_mariadb::connect::label(endpoint);
    let of = |error| error::of(&at, "asking for the last verification", error);
    let ages = conn
        .query(format!(
            "SELECT table_name, GREATEST(TIMESTAMPDIFF(MICROSECOND, proof, UTC_TIMESTAMP(6)), 0) \
             FROM {VERIFY}"
        ))
        .await
        .map_err(of);
    let ages: Vec<(String, Option<u64>)> = if_there(ages)?;
    let mismatches = conn
        .query(format!("SELECT table_name, COUNT(*) FROM {MISMATCH} GROUP BY table_name"))
        .await
        .map_err(of);
    let mismatches: Vec<(String, u64)> = if_there(mismatches)?;
    let age = |(table, us): (String, Option<u64>)| (table, us.map(Duration::from_micros));
    Ok(Proof {
        ages: ages.into_iter().map(age).collect(),
        mismatches: mismatches.into_iter().collect(),
    })
}

/// All new shards together. `None`: not every table is proven on every one, and nothing is known
/// to differ either.
pub fn join(plan: &Plan, shards: &[Result<Proof, String>]) -> Option<Verification> {
    let mut oldest = Some(Duration::ZERO);
    let mut failed = Vec::new();
    for (shard, proof) in shards.iter().enumerate() {
        let Ok(proof) = proof else {
            oldest = None;
            continue;
        };
        for table in &plan.tables {
            let age = proof.ages.get(&table.name).copied().flatten();
            oldest = oldest.zip(age).map(|(oldest, age)| oldest.max(age));
        }
        let differ = proof.mismatches.iter();
        failed.extend(differ.map(|(table, rows)| {
            format!("{rows} rows of table {table} differ on new shard {shard}")
        }));
    }
    let failed = (!failed.is_empty()).then(|| failed.join("; "));
    match (oldest, failed) {
        (None, None) => None,
        (age, failed) => Some(Verification { age: age.unwrap_or(Duration::MAX), failed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let text = "name = \"a\"\nmodulus = { old = 1, new = 2 }\n[log]\nkind = \"direct\"\n\
            [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\nhost = \"h\"\n\
            [[old]]\nschema = \"a\"\n[[new]]\nschema = \"b\"\n[[new]]\nschema = \"c\"\n\
            [[table]]\nname = \"t\"\nbroadcast = 0\n[[table]]\nname = \"s\"\nbroadcast = 0\n";
        Plan::parse(text, &|_| None).unwrap()
    }

    #[test]
    fn the_oldest_table_of_all_shards_counts_and_every_mismatch() {
        let second = Duration::from_secs(1);
        let proof = |t: Option<u32>, s: Option<u32>| Proof {
            ages: [
                ("t".to_owned(), t.map(|n| second * n)),
                ("s".to_owned(), s.map(|n| second * n)),
            ]
            .into(),
            ..Proof::default()
        };
        let check =
            |shards: &[Result<Proof, String>], age: Option<Duration>, failed: Option<&str>| {
                let found = join(&plan(), shards);
                assert_eq!(found.as_ref().map(|v| v.age), age);
                assert_eq!(found.and_then(|v| v.failed).as_deref(), failed);
            };
        check(&[Ok(proof(Some(5), Some(7))), Ok(proof(Some(9), Some(1)))], Some(second * 9), None);
        check(&[Ok(proof(Some(5), None)), Ok(proof(Some(9), Some(1)))], None, None);
        check(&[Ok(Proof::default()), Ok(Proof::default())], None, None);
        check(&[Ok(proof(Some(5), Some(7))), Err("gone".into())], None, None);
        let damaged = Proof { mismatches: [("t".to_owned(), 3)].into(), ..proof(Some(5), None) };
        let text = "3 rows of table t differ on new shard 0";
        let shards = [Ok(damaged), Ok(proof(Some(9), Some(1)))];
        check(&shards, Some(Duration::MAX), Some(text));
    }
}
