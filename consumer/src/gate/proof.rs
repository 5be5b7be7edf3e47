//! What verifiers left on the new shards: how old the proof of each table is, which rows are known
//! to differ, and how ready those beside the appliers are for a fence.

use std::collections::BTreeMap;
use std::time::Duration;

use modshift_mariadb::ServerError;
use modshift_mariadb::control::{KIND_MOVING, MISMATCH, VERIFIER, VERIFY};
use modshift_proto::plan::{Direction, Plan};

use super::ask::{Line, Place};
use super::facts::{Beside, Coverage, OldFacts, Verification};

/// A verifier that has not written for so long is not there: it does so every second or two.
const SEEN_MAX: Duration = Duration::from_secs(6);
/// Of the pause, what the comparison at the fence may take.
const SETTLE_SHARE: u32 = 4;

/// As one new shard has it. Times are by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    pub tables: BTreeMap<String, Round>,
    /// Rows that differ, by table.
    pub mismatches: BTreeMap<String, u64>,
    /// `None`: none was ever there.
    pub verifier: Option<Verifier>,
}

/// How far one table has been compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Age of the proof; `None`: no round was ever clean.
    pub proof: Option<Duration>,
    /// Of the round in progress, or else of the last one.
    pub rows: u64,
    /// What those took; `None`: not known.
    pub took: Option<Duration>,
    pub in_progress: bool,
}

/// What the verifier beside the applier said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verifier {
    /// For how long no change is missing from those that it keeps.
    pub whole: Duration,
    /// How long ago it said so.
    pub seen: Duration,
    pub keys: u64,
    pub settle: Duration,
    pub trouble: Option<String>,
}

/// The new shards of one server.
pub async fn read(
    line: &mut Line,
    places: &[&Place],
) -> Result<Vec<Result<Proof, String>>, ServerError> {
    let doing = "asking for the last verification";
    let since =
        |time: &str, end: &str| format!("GREATEST(TIMESTAMPDIFF(MICROSECOND, {time}, {end}), 0)");
    let now = "UTC_TIMESTAMP(6)";
    let columns = format!(
        "BINARY table_name, {}, rows_compared, {}, started IS NOT NULL",
        since("proof", now),
        since("COALESCE(started, proof)", &format!("IF(started IS NULL, finished, {now})")),
    );
    type RoundRow = (String, Option<u64>, u64, Option<u64>, bool, usize);
    let tables: Vec<Vec<RoundRow>> = line.rows(places, doing, (&columns, VERIFY, "")).await?;
    let condition = format!(" WHERE kind <> '{KIND_MOVING}' GROUP BY table_name");
    let columns = "BINARY table_name, COUNT(*)";
    let mismatches: Vec<Vec<(String, u64, usize)>> =
        line.rows(places, doing, (columns, MISMATCH, &condition)).await?;
    let columns = format!(
        "{}, {}, keys_waiting, settle_ms, BINARY trouble",
        since("whole_since", now),
        since("seen", now),
    );
    type SaidRow = (u64, u64, u64, u64, Option<String>, usize);
    let verifiers: Vec<Vec<SaidRow>> = line.rows(places, doing, (&columns, VERIFIER, "")).await?;
    let micros = Duration::from_micros;
    let round = |(table, proof, rows, took, in_progress, _): RoundRow| {
        let (proof, took) = (proof.map(micros), took.map(micros));
        (table, Round { proof, rows, took, in_progress })
    };
    let said = |(whole, seen, keys, settle_ms, trouble, _): SaidRow| Verifier {
        whole: micros(whole),
        seen: micros(seen),
        keys,
        settle: Duration::from_millis(settle_ms),
        trouble,
    };
    let rows = tables.into_iter().zip(mismatches).zip(verifiers);
    let proofs = rows.map(|((tables, mismatches), verifier)| {
        Ok(Proof {
            tables: tables.into_iter().map(round).collect(),
            mismatches: mismatches.into_iter().map(|(table, rows, _)| (table, rows)).collect(),
            verifier: verifier.into_iter().next().map(said),
        })
    });
    Ok(proofs.collect())
}

/// All new shards together. `None`: no table is proven on every one, and nothing is known to differ
/// either.
pub fn join(plan: &Plan, shards: &[Result<Proof, String>]) -> Option<Verification> {
    let mut oldest = Some(Duration::ZERO);
    let mut failed = Vec::new();
    let mut unproven: Vec<String> = Vec::new();
    for table in &plan.tables {
        let age = shards.iter().map(|proof| proof.as_ref().ok()?.tables.get(&table.name)?.proof);
        let age = age.collect::<Option<Vec<_>>>().and_then(|ages| ages.into_iter().max());
        if age.is_none() {
            unproven.push(table.name.clone());
        }
        oldest = oldest.zip(age).map(|(oldest, age)| oldest.max(age));
    }
    // What was known of a table that has left the plan says nothing of what is moved.
    let planned = |name: &str| plan.tables.iter().any(|table| table.name == name);
    for (shard, proof) in shards.iter().enumerate() {
        let differ = proof.iter().flat_map(|proof| &proof.mismatches);
        let differ = differ.filter(|(table, _)| planned(table));
        failed.extend(differ.map(|(table, rows)| {
            format!("{rows} rows of table {table} differ on new shard {shard}")
        }));
    }
    let failed = (!failed.is_empty()).then(|| failed.join("; "));
    if failed.is_none() && unproven.len() == plan.tables.len() {
        return None;
    }
    Some(Verification { age: oldest, unproven, failed })
}

/// All new shards together; one that does not answer has proven nothing.
pub fn coverage(plan: &Plan, shards: &[Result<Proof, String>]) -> Coverage {
    let round = |proof: &Result<Proof, String>, name: &str| {
        proof.as_ref().ok().and_then(|proof| proof.tables.get(name).copied())
    };
    let mut coverage = Coverage { tables: plan.tables.len(), ..Coverage::default() };
    for name in plan.tables.iter().map(|table| &table.name) {
        let rounds: Vec<_> = shards.iter().map(|proof| round(proof, name)).collect();
        let proven = |round: &Option<Round>| round.is_some_and(|round| round.proof.is_some());
        coverage.proven += usize::from(!rounds.is_empty() && rounds.iter().all(proven));
        // All new shards hold the same progress of a table.
        let running = rounds.into_iter().flatten().find(|round| round.in_progress);
        coverage.under_way.extend(running.map(|round| (name.clone(), round.rows)));
    }
    coverage
}

/// What is missing until a fence can have the rest compared; `None`: nobody compares beside the
/// appliers. `old`: for how many rows there are. A shard that does not answer is said elsewhere.
pub fn beside(
    plan: &Plan,
    shards: &[Result<Proof, String>],
    old: &[Result<OldFacts, String>],
) -> Option<Beside> {
    if !plan.verify.continuous || plan.direction() == Direction::Back {
        return None;
    }
    let mut beside = Beside { settle_max: plan.cutover.budget / SETTLE_SHARE, ..Beside::default() };
    for (new, proof) in (0u16..).zip(shards) {
        let Ok(proof) = proof else { continue };
        match &proof.verifier {
            None => beside.absent.push((
                new,
                "no consumer with verify.continuous has been there; start it, or restart it with this \
                 plan"
                    .to_owned(),
            )),
            Some(said) => match &said.trouble {
                _ if said.seen > SEEN_MAX => beside.absent.push((
                    new,
                    format!(
                        "the verifier of its consumer was last seen {} s ago{}",
                        said.seen.as_secs(),
                        said.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default(),
                    ),
                )),
                Some(trouble) => beside.absent.push((new, trouble.clone())),
                None => beside.waiting.push((new, said.keys, said.settle)),
            },
        }
    }
    let mut pace = (0u64, Duration::ZERO);
    for table in &plan.tables {
        let name = &table.name;
        let rounds = shards.iter().flatten().filter_map(|proof| proof.tables.get(name));
        let round = rounds.max_by_key(|round| (round.in_progress, round.rows));
        if let Some((rows, took)) = round.and_then(|round| Some((round.rows, round.took?))) {
            pace = (pace.0 + rows, pace.1 + took);
        }
        let is_whole = |proof: &Proof| {
            let proven = proof.tables.get(name).and_then(|round| round.proof);
            proven.zip(proof.verifier.as_ref()).is_none_or(|(age, said)| age < said.whole)
                && proven.is_some()
        };
        if shards.iter().flatten().all(is_whole) {
            continue;
        }
        let copied = |facts: &OldFacts| -> u64 {
            facts.tables.iter().filter(|t| t.table == *name).map(|t| t.rows_copied).sum()
        };
        let there: u64 = old.iter().flatten().map(copied).sum();
        let done = round.filter(|round| round.in_progress).map_or(0, |round| round.rows);
        beside.lacking_rows += there.saturating_sub(done);
        beside.lacking.push(name.clone());
    }
    let seconds = pace.1.as_secs_f64();
    beside.rows_per_s = (seconds > 0.0).then(|| (pace.0 as f64 / seconds) as u64);
    Some(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan() -> Plan {
        let text = "name = \"a\"\nmodulus = { old = 1, new = 2 }\n[log]\nkind = \"direct\"\n\
            [verify]\ncontinuous = true\n\
            [defaults]\nuser = \"u\"\npassword = \"p\"\ntls = \"off\"\nhost = \"h\"\n\
            [[old]]\nschema = \"a\"\n[[new]]\nschema = \"b\"\n[[new]]\nschema = \"c\"\n\
            [[table]]\nname = \"t\"\nbroadcast = 0\n[[table]]\nname = \"s\"\nbroadcast = 0\n";
        Plan::parse(text, &|_| None).unwrap()
    }

    fn proof(t: Option<u32>, s: Option<u32>) -> Proof {
        let round = |age: Option<u32>| Round { proof: age.map(|n| SECOND * n), ..Round::default() };
        Proof {
            tables: [("t".to_owned(), round(t)), ("s".to_owned(), round(s))].into(),
            ..Proof::default()
        }
    }

    #[test]
    fn the_oldest_table_of_all_shards_counts_and_every_mismatch() {
        let check = |shards: &[Result<Proof, String>], expected: Option<(Option<u32>, &[&str])>| {
            let found = join(&plan(), shards);
            let expected = expected.map(|(age, unproven)| Verification {
                age: age.map(|n| SECOND * n),
                unproven: unproven.iter().map(|name| (*name).to_owned()).collect(),
                failed: None,
            });
            assert_eq!(found, expected);
        };
        let good = || Ok(proof(Some(9), Some(1)));
        check(&[Ok(proof(Some(5), Some(7))), good()], Some((Some(9), &[])));
        check(&[Ok(proof(Some(5), None)), good()], Some((None, &["s"])));
        check(&[Ok(Proof::default()), Ok(Proof::default())], None);
        check(&[Ok(proof(Some(5), Some(7))), Err("gone".into())], None);
        let damaged = Proof { mismatches: [("t".to_owned(), 3)].into(), ..proof(Some(5), None) };
        let found = join(&plan(), &[Ok(damaged), good()]).unwrap();
        assert_eq!(found.failed.as_deref(), Some("3 rows of table t differ on new shard 0"));
    }

    #[test]
    fn a_table_is_covered_once_every_new_shard_has_its_proof() {
        let check = |shards: &[Result<Proof, String>], proven, under_way: &[(&str, u64)]| {
            let under_way = under_way.iter().map(|(name, rows)| ((*name).to_owned(), *rows));
            let expected = Coverage { tables: 2, proven, under_way: under_way.collect() };
            assert_eq!(coverage(&plan(), shards), expected);
        };
        let mut running = proof(Some(5), None);
        let round = Round { rows: 40, in_progress: true, ..Round::default() };
        running.tables.insert("s".to_owned(), round);
        check(&[Ok(proof(Some(5), Some(7))), Ok(proof(Some(9), Some(1)))], 2, &[]);
        check(&[Ok(proof(Some(5), Some(7))), Ok(running)], 1, &[("s", 40)]);
        check(&[Ok(proof(Some(5), Some(7))), Err("gone".into())], 0, &[]);
        check(&[Ok(Proof::default()), Ok(Proof::default())], 0, &[]);
    }

    #[test]
    fn a_round_counts_that_began_after_the_changes_are_kept() {
        let plan = plan();
        let said = |whole: u32, seen: u32| Verifier {
            whole: SECOND * whole,
            seen: SECOND * seen,
            keys: 12,
            settle: SECOND / 100,
            trouble: None,
        };
        let old = [Ok(OldFacts {
            read_only: false,
            now_us: 0,
            gtids: "0-1-1".parse().unwrap(),
            token: None,
            tables: ["t", "s"]
                .map(|table| super::super::facts::CopyFacts {
                    table: table.to_owned(),
                    rows_copied: 1000,
                    rows_estimated: 1000,
                    done: true,
                })
                .into(),
            unrecorded: Vec::new(),
            repairs_refused: 0,
            resyncs: Vec::new(),
            skipped: Vec::new(),
            plan_changed: None,
        })];
        let ask = |shards: [Proof; 2]| beside(&plan, &shards.map(Ok), &old).unwrap();
        let with = |said, t, s| Proof { verifier: Some(said), ..proof(t, s) };
        let ready =
            ask([with(said(60, 1), Some(50), Some(40)), with(said(60, 1), Some(50), Some(40))]);
        assert_eq!((ready.lacking.len(), ready.absent.len(), ready.lacking_rows), (0, 0, 0));
        assert_eq!(ready.waiting, [(0, 12, SECOND / 100), (1, 12, SECOND / 100)]);
        // A consumer started again 45 s ago: the proof of t is of before.
        let mut again = with(said(45, 1), Some(50), Some(40));
        let round =
            Round { rows: 400, took: Some(SECOND * 4), in_progress: true, ..Round::default() };
        again.tables.insert("t".to_owned(), Round { proof: Some(SECOND * 50), ..round });
        let waits = ask([with(said(60, 1), Some(50), Some(40)), again]);
        assert_eq!(
            (waits.lacking.as_slice(), waits.lacking_rows),
            (["t".to_owned()].as_slice(), 600)
        );
        assert_eq!(waits.rows_per_s, Some(100));
        // Gone, never there, and in trouble.
        let gone = ask([with(said(60, 9), Some(50), Some(40)), proof(Some(50), Some(40))]);
        assert_eq!(gone.absent.iter().map(|absent| absent.0).collect::<Vec<_>>(), [0, 1]);
        let trouble = Verifier { trouble: Some("no login".to_owned()), ..said(60, 1) };
        let refused = ask([with(trouble, Some(1), Some(1)), with(said(60, 1), Some(1), Some(1))]);
        assert_eq!(refused.absent, [(0, "no login".to_owned())]);
        // Only the way forward is verified beside it.
        assert_eq!(beside(&plan.reversed(), &[], &[]), None);
    }
}
