//! `modshift check`: everything that would stop the reshard, found before it starts, reported all
//! at once.
//!
//! A survey asks every server once; rules are functions from the survey to faults, one noun each.
//! What has to read whole tables (`scan`, `meeting`) runs only if every old shard answered, over
//! the tables that every old shard has.

mod fault;
mod foreign_keys;
mod grants;
mod left_behind;
mod log;
mod meeting;
mod reach;
mod report;
mod scan;
mod settings;
pub mod survey;
mod tables;

use std::sync::Arc;

use modshift_proto::plan::Plan;

pub use fault::{Fault, Severity, Side};
pub use tables::differences;

use crate::exit::Exit;
use crate::{answer, args};
use report::Report;
use survey::Survey;

type Rule = fn(&Survey) -> Vec<Fault>;

/// In the order of the report.
const RULES: [Rule; 15] = [
    reach::check,
    settings::check_version,
    grants::check,
    settings::check_binlog,
    settings::check_packet,
    settings::check_durability,
    settings::check_server_id,
    grants::check_accounts,
    tables::check,
    foreign_keys::check,
    foreign_keys::check_triggers,
    left_behind::check,
    left_behind::check_targets,
    settings::check_xa,
    settings::check_clock,
];

/// What a daemon asks of its own shards at every start, in the middle of a reshard too: no more than
/// what stays true all the way. A server that is only away is no fault then; its streams wait.
const DAEMON_RULES: [Rule; 9] = [
    settings::check_version,
    grants::check,
    settings::check_binlog,
    settings::check_packet,
    settings::check_durability,
    tables::check,
    foreign_keys::check,
    foreign_keys::check_triggers,
    left_behind::check_targets,
];

/// Faults and warnings of a daemon's shards.
pub async fn before_start(plan: Arc<Plan>, sides: Vec<Side>) -> Vec<Fault> {
    let survey = Survey::take(plan, sides).await;
    let mut faults = reach::check(&survey);
    for (fault, passing) in faults.iter_mut().zip(reach::passing(&survey)) {
        if passing {
            fault.severity = Severity::Warning;
        }
    }
    faults.extend(DAEMON_RULES.iter().flat_map(|rule| rule(&survey)));
    faults
}

/// Everything that can be known without reading whole tables.
pub fn rules(survey: &Survey) -> Vec<Fault> {
    RULES.iter().flat_map(|rule| rule(survey)).collect()
}

pub async fn run(plan: Arc<Plan>, args: &args::Check) -> anyhow::Result<Exit> {
    let survey = Survey::take(plan.clone(), survey::all_sides(&plan)).await;
    let mut faults = rules(&survey);
    faults.extend(log::check(&plan).await);
    let old_reached = survey.reached().filter(|(server, _)| server.side.is_old()).count();
    let mut matrix = None;
    if !args.quick && old_reached == plan.old.len() {
        let tables = scan::sharded(&plan, &survey);
        let (counted, strays) = scan::count(&plan, &tables).await?;
        matrix = Some(counted);
        faults.extend(strays);
        faults.extend(scan::compare_broadcast(&plan, &survey).await?);
        faults.extend(meeting::check(&plan, &tables).await?);
    }
    let report = Report::new(&plan, faults, matrix);
    match args.json {
        true => answer::line(serde_json::to_string_pretty(&report)?),
        false => answer::line(report.text().trim_end()),
    }
    Ok(if report.has_faults() { Exit::No } else { Exit::Done })
}
