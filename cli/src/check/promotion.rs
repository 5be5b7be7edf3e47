//! `modshift check` of a promotion: its own rules, and where each residue lives now and then, with the
//! rows that become redundant there.

use std::fmt::Write as _;
use std::sync::Arc;

use modshift_mariadb::error::ServerError;
use modshift_proto::plan::{HostPort, Plan};
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
/// there.
fn fit(plan: &Plan, fault: &mut Fault) {
    const UNLOGGED: &str = "SET SESSION sql_log_bin = 0";
    let is_of = |shard: NewShard| {
        let rest = fault.subject.strip_prefix(&shard.to_string());
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if !plan.promoted().any(is_of) {
        return;
    }
    let logged = |statement: &String| {
        let kinds = ["ALTER ", "CREATE ", "DROP ", "GRANT ", "REVOKE ", "INSTALL "];
        kinds.iter().any(|kind| statement.starts_with(kind))
    };
    fault.mend = match fault.mend.take() {
        Some(Mend::Run { way, statements, at, note })
            if at.is_empty()
                && statements.iter().any(logged)
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

/// Before the split all servers of an old shard hold the same rows, and only primaries are read. After
/// it each server is read by itself.
async fn count(
    plan: &Plan,
    survey: &Survey,
    sample: Option<u64>,
    mapping: &mut Mapping,
) -> Result<Vec<Fault>, ServerError> {
    let tables = matrix::sharded(plan, survey);
    let of_old = plan.old.len();
    let mut faults = Vec::new();
    let generations = match survey.is_split() {
        true => plan.new.chunks(of_old).map(<[_]>::to_vec).collect(),
        false => vec![plan.old.clone()],
    };
    let mut read = Vec::new();
    for old in generations {
        let there = Plan { old, ..plan.clone() };
        let (counted, strays) = matrix::count(&there, survey, &tables, sample).await?;
        faults.extend(strays);
        if let Some(rows) = counted.sampled {
            *mapping.sampled.get_or_insert(0) += rows;
        }
        read.push(counted);
    }
    for place in &mut mapping.shards {
        let (generation, home) =
            (usize::from(place.residue) / of_old, usize::from(OldShard(place.old_shard).0));
        let Some(counted) = read.get(generation).or(read.first()) else { continue };
        let row = &counted.rows[home];
        let own = row[usize::from(place.residue)];
        place.rows = Some(own);
        place.rows_redundant = Some(row.iter().sum::<u64>() - own);
    }
    Ok(faults)
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
        let start = Mend::run(Way::RemoveDelay, ["START SLAVE"]);
        assert_eq!(mended("new shard 1 (b:1)", start), "START SLAVE;");
        let words = mended(of_table, "modshift schema --apply".into());
        assert!(words.starts_with("build the replica anew"), "{words}");
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
