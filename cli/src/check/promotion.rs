//! `modshift check` of a promotion: its own rules, and where each residue lives now and then, with the
//! rows that become redundant there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use modshift_mariadb::error::ServerError;
use modshift_proto::plan::{Endpoint, HostPort, Plan};
use modshift_proto::{NewShard, OldShard};
use serde::Serialize;

use super::fault::{Fault, Severity, Side};
use super::mend::Mend;
use super::report::Report;
use super::rows::{broadcast, matrix, pages};
use super::rules::promotion;
use super::survey::{Extent, Survey};
use crate::args;
use crate::exit::{BadPlan, Exit};

/// Each new shard, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    pub shards: Vec<Place>,
    /// Rows read where not all were: the counts are then shares of the servers' estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Of the shard key, under the new modulus.
    pub residue: u16,
    pub old_shard: u16,
    /// Where its rows are written now, and where they will be.
    pub server_now: String,
    pub server_then: String,
    pub schema: String,
    pub in_place: bool,
    /// Where applications are told to go.
    pub application: String,
    /// Rows of sharded tables there that stay its own, and those that are others' then. `None`: not
    /// read.
    pub rows: Option<u64>,
    pub rows_redundant: Option<u64>,
}

/// The old shards, and the servers that become shards: those in place are the same ones.
pub fn sides(plan: &Plan) -> Vec<Side> {
    plan.old_shards().map(Side::Old).chain(plan.promoted().map(Side::New)).collect()
}

pub async fn run(plan: Arc<Plan>, args: &args::Check) -> anyhow::Result<Exit> {
    for (given, option) in [(args.deep, "--deep"), (args.trial, "--trial")] {
        if given {
            let message = format!(
                "{option} is for plans with scheme = \"copy\": with scheme = \"promote\" nothing is \
                 copied, and no rows of different shards meet"
            );
            return Err(BadPlan(message).into());
        }
    }
    let survey = Survey::take(plan.clone(), sides(&plan), Extent::Whole).await;
    let mut faults: Vec<Fault> =
        promotion::ALL.iter().chain(&promotion::BESIDE).flat_map(|rule| rule(&survey)).collect();
    faults.iter_mut().for_each(|fault| fit(&plan, fault));
    let mut mapping = mapping(&plan);
    if !args.quick && survey.olds().count() == plan.old.len() {
        faults.extend(count(&plan, &survey, args.sample, &mut mapping).await?);
        faults.extend(broadcast::compare(&plan, &survey).await?);
        faults.extend(pages::check(&plan, &survey).await?);
    }
    super::show(&Report::of_promotion(&plan, faults, mapping), args)
}

/// What a gate asks of the servers themselves: a line for each fault of which no reader of rows is
/// needed.
pub async fn faults(plan: Arc<Plan>) -> Vec<String> {
    let survey = Survey::take(plan.clone(), sides(&plan), Extent::Whole).await;
    if survey.is_split() {
        return vec!["the estate is split already: there is nothing left to promote".to_owned()];
    }
    let faults = promotion::ALL.iter().flat_map(|rule| rule(&survey));
    let faults = faults.filter(|fault| fault.severity == Severity::Fault);
    faults
        .map(|mut fault| {
            fit(&plan, &mut fault);
            format!("modshift check: {fault}")
        })
        .collect()
}

/// Mends of rules that know nothing of replicas: what is run on one to be promoted stays out of its
/// binlog, or it would have a transaction that its primary lacks; and no command of ours creates tables
/// there. It goes by where a mend is run, which is not always the subject of the finding.
fn fit(plan: &Plan, fault: &mut Fault) {
    const UNLOGGED: &str = "SET SESSION sql_log_bin = 0";
    let is_promoted = |place: &str| {
        plan.promoted().any(|shard| {
            let rest = place.strip_prefix(&shard.to_string());
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    if let Some(Mend::Run { at, .. }) = &mut fault.mend {
        // Replication brings there what is run on primaries, and the next check names what is left.
        if at.iter().any(|place| !is_promoted(place)) {
            at.retain(|place| !is_promoted(place));
        }
    }
    let on_replicas = match &fault.mend {
        Some(Mend::Run { at, .. }) if !at.is_empty() => at.iter().all(|place| is_promoted(place)),
        _ => is_promoted(&fault.subject),
    };
    if !on_replicas {
        return;
    }
    let logged = |statement: &String| {
        let kinds = ["ALTER ", "CREATE ", "DROP ", "GRANT ", "REVOKE ", "INSTALL "];
        kinds.iter().any(|kind| statement.starts_with(kind))
    };
    fault.mend = match fault.mend.take() {
        Some(Mend::Run { way, statements, at, note })
            if statements.iter().any(logged)
                && statements.first().is_none_or(|first| first != UNLOGGED) =>
        {
            Some(Mend::Run { way, statements, at, note }.first(UNLOGGED))
        }
        Some(Mend::Words(words)) if words.contains("modshift schema") => Some(Mend::from(
            "build the replica anew, or create it there as the primary has it, with sql_log_bin = 0",
        )),
        mend => mend,
    };
}

/// As the plan has it; no row is counted yet.
fn mapping(plan: &Plan) -> Mapping {
    let server = |host: &str, port: u16| HostPort { host: host.to_owned(), port }.to_string();
    let place = |shard: NewShard| {
        let home = plan.home(shard)?;
        let (then, now) = (&plan.new[usize::from(shard.0)], &plan.old[usize::from(home.0)]);
        Some(Place {
            residue: shard.0,
            old_shard: home.0,
            server_now: server(&now.host, now.port),
            server_then: server(&then.host, then.port),
            schema: then.schema.clone(),
            in_place: plan.is_in_place(shard),
            application: then.application().to_string(),
            rows: None,
            rows_redundant: None,
        })
    };
    Mapping { shards: plan.new_shards().filter_map(place).collect(), sampled: None }
}

/// Before the split all servers of an old shard hold the same rows, and only primaries are read. A
/// server that is split off already is read by itself, whatever the others are.
async fn count(
    plan: &Plan,
    survey: &Survey,
    sample: Option<u64>,
    mapping: &mut Mapping,
) -> Result<Vec<Fault>, ServerError> {
    let tables = matrix::sharded(plan, survey);
    let of_old = plan.old.len();
    let mut faults = Vec::new();
    let split: BTreeSet<NewShard> =
        survey.pairs.iter().filter(|pair| pair.is_split()).map(|pair| pair.shard).collect();
    let mut read = Vec::new();
    for old in generations(plan, &split) {
        let Some(old) = old else {
            read.push(None);
            continue;
        };
        let there = Plan { old, ..plan.clone() };
        let (counted, strays) = matrix::count(&there, survey, &tables, sample).await?;
        // A primary that was read once more says the same.
        let strays: Vec<Fault> =
            strays.into_iter().filter(|stray| !faults.contains(stray)).collect();
        faults.extend(strays);
        if let Some(rows) = counted.sampled {
            *mapping.sampled.get_or_insert(0) += rows;
        }
        read.push(Some(counted));
    }
    for place in &mut mapping.shards {
        let (generation, home) =
            (usize::from(place.residue) / of_old, usize::from(OldShard(place.old_shard).0));
        let own = read.get(generation).and_then(Option::as_ref);
        let Some(counted) = own.or_else(|| read.first()?.as_ref()) else { continue };
        let row = &counted.rows[home];
        let own = row[usize::from(place.residue)];
        place.rows = Some(own);
        place.rows_redundant = Some(row.iter().sum::<u64>() - own);
    }
    Ok(faults)
}

/// Which servers are read for the new shards 0 to N - 1, N to 2N - 1, and so on; `None`: what the
/// primaries showed holds for all of these. The primary stands in for a server that still follows it.
fn generations(plan: &Plan, split: &BTreeSet<NewShard>) -> Vec<Option<Vec<Endpoint>>> {
    let shards: Vec<NewShard> = plan.new_shards().collect();
    let generation = |shards: &[NewShard]| {
        let is_read = |shard: &NewShard| plan.is_in_place(*shard) || split.contains(shard);
        let server = |(shard, primary): (&NewShard, &Endpoint)| match split.contains(shard) {
            true => plan.new[usize::from(shard.0)].clone(),
            false => primary.clone(),
        };
        shards
            .iter()
            .any(is_read)
            .then(|| shards.iter().zip(&plan.old).map(server).collect::<Vec<_>>())
    };
    shards.chunks(plan.old.len()).map(generation).collect()
}

/// One line for each new shard.
pub fn text(mapping: &Mapping) -> String {
    let modulus = mapping.shards.len();
    let head = ["residue", "now", "then", "application", "rows", "redundant there"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(mapping.shards.iter().map(|place| {
        let number =
            |rows: Option<u64>| rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string());
        [
            format!("{} mod {modulus}", place.residue),
            format!("old {} {}", place.old_shard, place.server_now),
            match place.in_place {
                true => format!("new {} in place", place.residue),
                false => format!("new {} {}", place.residue, place.server_then),
            },
            place.application.clone(),
            number(place.rows),
            number(place.rows_redundant),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text =
        String::from("mapping: where the rows of each residue live, and which are left over\n");
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column < 4 {
            true => format!("  {cell:<width$}"),
            false => format!("  {cell:>width$}"),
        });
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", cells.collect::<String>().trim_end());
    }
    if let Some(read) = mapping.sampled {
        let _ = writeln!(text, "sampled: {read} rows were read, the rest is the servers' estimate");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::mend::Way;

    fn plan() -> Plan {
        let text = "name = \"p\"\nscheme = \"promote\"\nmodulus = { old = 1, new = 2 }\n[defaults]\n\
                    user = \"u\"\npassword = \"p\"\nschema = \"s\"\n[[old]]\nhost = \"a\"\n\
                    replicas = [\"b:1\"]\n[[table]]\nname = \"t\"\nkey = \"id\"\nrule = \"floor_mod\"\n";
        Plan::parse(text, &|_| None).unwrap()
    }

    #[test]
    fn what_mends_a_replica_stays_out_of_its_binlog() {
        let mended = |subject: &str, mend: Mend| {
            let mut fault = Fault::new(Severity::Fault, "rule", subject, "is wrong").mend(mend);
            fit(&plan(), &mut fault);
            fault.mend.unwrap().to_string()
        };
        let alter = || Mend::run(Way::AlterTable, ["ALTER TABLE t ADD c INT"]);
        let of_table = "new shard 1: table t";
        let unlogged = "SET SESSION sql_log_bin = 0; ALTER TABLE t ADD c INT;";
        assert_eq!(mended(of_table, alter()), unlogged);
        assert_eq!(mended(of_table, alter().first("SET SESSION sql_log_bin = 0")), unlogged);
        assert_eq!(mended("old shard 0: table t", alter()), "ALTER TABLE t ADD c INT;");
        assert_eq!(mended("new shard 10: table t", alter()), "ALTER TABLE t ADD c INT;");
        // It goes by where it is run.
        let rebuilt = alter().at(["new shard 1"]);
        let there = format!("{unlogged} -- on new shard 1");
        assert_eq!(mended("old shard 0: table t", rebuilt.clone()), there);
        assert_eq!(mended(of_table, rebuilt), there);
        let primary = "ALTER TABLE t ADD c INT; -- on old shard 0";
        assert_eq!(mended(of_table, alter().at(["old shard 0"])), primary);
        let everywhere = alter().at(["old shard 0", "new shard 1"]);
        assert_eq!(mended("table t", everywhere), primary);
        let start = Mend::run(Way::RemoveDelay, ["START SLAVE"]);
        assert_eq!(mended("new shard 1 (b:1)", start), "START SLAVE;");
        let words = mended(of_table, "modshift schema --apply".into());
        assert!(words.starts_with("build the replica anew"), "{words}");
    }

    #[test]
    fn each_server_that_is_split_off_is_read_by_itself() {
        let old =
            |n: u8| format!("[[old]]\nhost = \"a{n}\"\nreplicas = [\"b{n}:1\", \"c{n}:1\"]\n");
        let text = format!(
            "name = \"p\"\nscheme = \"promote\"\nmodulus = {{ old = 2, new = 6 }}\n[defaults]\n\
             user = \"u\"\npassword = \"p\"\nschema = \"s\"\n{}{}[[table]]\nname = \"t\"\n\
             key = \"id\"\nrule = \"floor_mod\"\n",
            old(0),
            old(1)
        );
        let plan = Plan::parse(&text, &|_| None).unwrap();
        let read = |split: &[u16]| -> Vec<String> {
            let split = split.iter().copied().map(NewShard).collect();
            let hosts = |old: Vec<Endpoint>| {
                old.iter().map(|server| server.host.clone()).collect::<Vec<_>>().join(" ")
            };
            let generations = generations(&plan, &split).into_iter();
            generations.map(|old| old.map_or_else(|| "-".to_owned(), hosts)).collect()
        };
        assert_eq!(read(&[]), ["a0 a1", "-", "-"]);
        assert_eq!(read(&[2, 3, 4, 5]), ["a0 a1", "b0 b1", "c0 c1"]);
        assert_eq!(read(&[3]), ["a0 a1", "a0 b1", "-"]);
    }

    #[test]
    fn the_mapping_reads_as_a_table() {
        let place = |residue: u16, rows| Place {
            residue,
            old_shard: 0,
            server_now: "a:3306".to_owned(),
            server_then: if residue == 0 { "a:3306" } else { "a0:3306" }.to_owned(),
            schema: "s".to_owned(),
            in_place: residue == 0,
            application: if residue == 0 { "vip-1:3306" } else { "a0:3306" }.to_owned(),
            rows,
            rows_redundant: rows.map(|rows| 1200 - rows),
        };
        let shards = vec![place(0, Some(700)), place(1, None)];
        let text = text(&Mapping { shards, sampled: Some(20) });
        assert_eq!(
            text,
            "mapping: where the rows of each residue live, and which are left over\n\
             \x20 residue  now           then            application  rows  redundant there\n\
             \x20 0 mod 2  old 0 a:3306  new 0 in place  vip-1:3306    700              500\n\
             \x20 1 mod 2  old 0 a:3306  new 1 a0:3306   a0:3306         ?                ?\n\
             sampled: 20 rows were read, the rest is the servers' estimate\n"
        );
    }
}
