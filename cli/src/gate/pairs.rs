//! `modshift gate` of a promotion: is every server that is to be promoted where its primary is, and
//! proven equal to it? What `check` finds is asked once all else is well: it is the longest question.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::control::{KIND_MOVING, MISMATCH, VERIFY};
use modshift_mariadb::error;
use modshift_proto::OldShard;
use modshift_proto::plan::Plan;
use mysql_async::prelude::{FromRow, Queryable};
use tokio::time::{MissedTickBehavior, interval};

use super::{Answer, Line};
use crate::args;
use crate::check;
use crate::check::survey::{Both, Pair};
use crate::exit::Exit;

/// Replication tells its lag in whole seconds.
const EVERY: Duration = Duration::from_secs(1);

/// What keeps it closed.
#[derive(Default)]
struct Found {
    reasons: Vec<String>,
    /// What did not answer.
    unknown: Vec<String>,
}

/// What an old shard's primary has of verifications.
#[derive(Default)]
struct Proofs {
    /// By table, in seconds.
    ages: BTreeMap<String, u64>,
    differing: u64,
}

pub async fn run(plan: Arc<Plan>, args: &args::Gate) -> anyhow::Result<Exit> {
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well_since: Option<Instant> = None;
    loop {
        every.tick().await;
        let asked_at = Instant::now();
        let mut found = ask(&plan).await;
        let well = found.reasons.is_empty() && found.unknown.is_empty();
        well_since = well_since.filter(|_| well).or(well.then_some(asked_at));
        let held = well_since.map(|since| since.elapsed());
        let holds = held.is_some_and(|held| held >= plan.gate.hold);
        if holds {
            found.reasons.extend(check::faults_of_promotion(plan.clone()).await);
            // Asked again when all has been well for as long once more.
            well_since = None;
        }
        let open = holds && found.reasons.is_empty();
        let over = match deadline {
            None => !well || holds,
            Some(deadline) => Instant::now() >= deadline,
        };
        if open || over {
            if let Some(held) = held.filter(|_| !holds) {
                found.reasons.push(format!(
                    "all has been well for {:.1} s, of {} s (gate.hold)",
                    held.as_secs_f64(),
                    plan.gate.hold.as_secs_f64()
                ));
            }
            let answer = answer(&plan, found, open, asked_at);
            answer.print(args.json)?;
            return Ok(answer.exit());
        }
    }
}

fn answer(plan: &Plan, found: Found, open: bool, asked_at: Instant) -> Answer {
    let cannot_tell = found.reasons.is_empty() && !open;
    let lines = found.reasons.into_iter().chain(found.unknown);
    let mut notes = Vec::new();
    if plan.gate.verify_age.is_none() {
        notes.push("verification is given up by the plan (gate.verify_age = \"none\")".to_owned());
    }
    Answer {
        open,
        cannot_tell,
        reasons: lines.map(|message| Line { message, reason: None }).collect(),
        notes,
        asked_at,
    }
}

async fn ask(plan: &Plan) -> Found {
    let homes = plan.promoted().filter_map(|shard| Some((shard, plan.home(shard)?)));
    let pairs = join_all(homes.map(|(shard, home)| check::survey::pair(plan, shard, home)));
    let proofs = join_all(plan.old_shards().map(|shard| proofs(plan, shard)));
    let (pairs, proofs) = join(pairs, proofs).await;
    let mut found = Found::default();
    for pair in &pairs {
        match &pair.facts {
            Ok(both) => found.reasons.extend(lag(plan, pair, both)),
            Err(error) => found.unknown.push(format!("{}: {}", pair.name(), error.message)),
        }
    }
    for (shard, proofs) in plan.old_shards().zip(proofs) {
        match proofs {
            Ok(proofs) => found.reasons.extend(unproven(plan, shard, &proofs)),
            Err(error) => found.unknown.push(format!("{shard}: {error}")),
        }
    }
    found
}

/// By the server's own word, and by positions. What does not run is infinitely late.
fn lag(plan: &Plan, pair: &Pair, both: &Both) -> Vec<String> {
    let name = pair.name();
    let sources = both.sources.as_deref().unwrap_or_default();
    let id = both.primary.server_id();
    let Some(source) = sources.iter().find(|source| source.server_id == id) else {
        return vec![format!(
            "{name}: does not replicate from {}, as far as can be seen",
            pair.home
        )];
    };
    let Some(behind) = source.behind.filter(|_| source.runs()) else {
        let (io, sql) = (&source.io, &source.sql);
        return vec![format!(
            "{name}: its lag is unknown: Slave_IO_Running {io}, Slave_SQL_Running {sql}"
        )];
    };
    let mut reasons = Vec::new();
    let limit = plan.gate.max_lag;
    if behind > limit {
        reasons.push(format!(
            "{name}: is {} s behind {}, the limit is {} s (gate.max_lag)",
            behind.as_secs(),
            pair.home,
            limit.as_secs_f64()
        ));
    }
    let groups = groups_behind(both);
    if groups > plan.gate.max_lag_groups {
        reasons.push(format!(
            "{name}: is {groups} event groups behind {}, the limit is {} (gate.max_lag_groups)",
            pair.home, plan.gate.max_lag_groups
        ));
    }
    reasons
}

/// Sequence numbers that the primary has logged and the replica, asked before it, has not applied.
fn groups_behind(both: &Both) -> u64 {
    let applied = both.replica.variables.gtids("gtid_slave_pos");
    let written = both.primary.variables.gtids("gtid_binlog_pos");
    let of = |domain: u32| applied.iter().find(|gtid| gtid.domain == domain).map_or(0, |g| g.seq);
    written.iter().map(|gtid| gtid.seq.saturating_sub(of(gtid.domain))).sum()
}

async fn proofs(plan: &Plan, shard: OldShard) -> Result<Proofs, error::ServerError> {
    let endpoint = &plan.old[usize::from(shard.0)];
    let at = label(endpoint);
    let of = |error| error::of(&at, "reading what has been verified", error);
    let mut conn = connect(endpoint, Session::Plain).await?;
    let sql = format!(
        "SELECT table_name, GREATEST(TIMESTAMPDIFF(SECOND, proof, UTC_TIMESTAMP(6)), 0) FROM {VERIFY} \
         WHERE proof IS NOT NULL"
    );
    let ages = if_there(conn.query(sql).await).map_err(of)?;
    let sql = format!("SELECT COUNT(*) FROM {MISMATCH} WHERE kind <> '{KIND_MOVING}'");
    let differing = if_there(conn.query(sql).await).map_err(of)?;
    // What it said is known; the server closes what we cannot.
    let _ = conn.disconnect().await;
    Ok(Proofs {
        ages: ages.into_iter().collect(),
        differing: differing.into_iter().next().unwrap_or_default(),
    })
}

/// Before the first verification there is no such table.
fn if_there<T: FromRow>(rows: mysql_async::Result<Vec<T>>) -> mysql_async::Result<Vec<T>> {
    const NO_SUCH_TABLE: u16 = 1146;
    match rows {
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => Ok(Vec::new()),
        rows => rows,
    }
}

fn unproven(plan: &Plan, shard: OldShard, proofs: &Proofs) -> Vec<String> {
    let mut reasons = Vec::new();
    if proofs.differing > 0 {
        reasons.push(format!(
            "{shard}: {} rows are known to differ on its replicas: modshift verify names them",
            proofs.differing
        ));
    }
    let Some(limit) = plan.gate.verify_age else { return reasons };
    for table in &plan.tables {
        match proofs.ages.get(&table.name) {
            None => reasons.push(format!(
                "{shard}: table {} was never compared with its replicas: modshift verify",
                table.name
            )),
            Some(&age) if age > limit.as_secs() => reasons.push(format!(
                "{shard}: the proof of table {} is {age} s old, the limit is {} s (gate.verify_age): \
                 modshift verify",
                table.name,
                limit.as_secs()
            )),
            Some(_) => {}
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made;

    fn told(change: impl Fn(&mut Both)) -> Vec<String> {
        let survey = made::pair("[gate]\nmax_lag_groups = 50\n", change);
        let both = survey.pairs[0].facts.as_ref().map_err(|_| ()).unwrap();
        lag(&survey.plan, &survey.pairs[0], both)
    }

    /// The one reason has these words.
    fn check(words: &str, change: impl Fn(&mut Both)) {
        let told = told(change);
        assert!(told.len() == 1 && told[0].contains(words), "{words}: {told:#?}");
    }

    #[test]
    fn lag_is_told_by_time_and_by_position_and_what_stands_is_late() {
        let position = |both: &mut Both, written: &str| {
            both.primary.variables.set("gtid_binlog_pos", written);
        };
        assert_eq!(told(|both| position(both, "1-1-149")), Vec::<String>::new());
        check("51 event groups behind", |both| position(both, "1-1-150"));
        check("100 event groups behind", |both| position(both, "1-1-99,7-1-100"));
        check("is 2 s behind", |both| {
            position(both, "1-1-99");
            both.sources.as_mut().unwrap()[0].behind = Some(Duration::from_secs(2));
        });
        check("its lag is unknown", |both| both.sources.as_mut().unwrap()[0].sql = "No".to_owned());
        check("does not replicate", |both| both.sources = Some(Vec::new()));
    }

    #[test]
    fn every_table_needs_a_young_proof_unless_the_plan_gives_it_up() {
        let with = |tail: &str, ages: &[(&str, u64)], differing| {
            let survey = made::pair(tail, |_| {});
            let ages = ages.iter().map(|&(name, age)| (name.to_owned(), age)).collect();
            unproven(&survey.plan, OldShard(0), &Proofs { ages, differing })
        };
        assert_eq!(with("", &[("t", 3600)], 0), Vec::<String>::new());
        assert!(with("", &[("t", 3601)], 0)[0].contains("is 3601 s old, the limit is 3600 s"));
        assert!(with("", &[], 0)[0].contains("table t was never compared"));
        assert!(with("", &[("t", 1)], 4)[0].contains("4 rows are known to differ"));
        assert_eq!(with("[gate]\nverify_age = \"none\"\n", &[], 0), Vec::<String>::new());
    }
}
