//! `modshift check`: everything that would stop the reshard, the cutover or the way back, found
//! before it starts, reported all at once.
//!
//! A survey asks every server once; `rules` are functions from the survey to faults, one file
//! each. What has to read rows is in `rows`: it runs only if every old shard answered, over the
//! tables that every old shard has.

mod ahead;
mod alter;
mod configuration;
mod created;
mod fault;
mod group;
mod load;
mod log;
mod mend;
mod promotion;
mod report;
pub mod rows;
pub mod rules;
pub mod survey;

use std::path::PathBuf;
use std::sync::Arc;

use modshift_proto::plan::{Direction, Plan};

pub use fault::{Fault, Severity, Side, some_of};
pub use promotion::faults as faults_of_promotion;
pub use rules::tables::differences;

use crate::exit::Exit;
use crate::terminal::Terminal;
use crate::{answer, args};
use report::Report;
use rows::collisions::{self, Listing};
use rows::matrix::Matrix;
use rows::trial::Estimate;
use rows::{broadcast, growth, matrix, pages, record, trial};
use rules::{connections, disk, reach, retention};
use survey::{Extent, Survey};

/// Faults and warnings of a daemon's shards.
pub async fn before_start(plan: Arc<Plan>, sides: Vec<Side>) -> Vec<Fault> {
    let survey = Survey::take(plan, sides, Extent::Start).await;
    let mut faults = reach::check(&survey);
    for (fault, passing) in faults.iter_mut().zip(reach::passing(&survey)) {
        if passing {
            fault.severity = Severity::Warning;
        }
    }
    faults.extend(rules::OF_DAEMONS.iter().flat_map(|rule| rule(&survey)));
    faults
}

/// What a gate asks of the shards themselves.
pub struct Standing {
    /// Of planned tables.
    pub tables: Vec<Fault>,
    /// Whatever else correct rows depend on.
    pub others: Vec<Fault>,
}

/// Faults on which correct rows depend, as of now; `None`: some shard did not answer. One survey,
/// which reads definitions and settings, and no rows.
pub async fn standing(plan: Arc<Plan>) -> Option<Standing> {
    let back = plan.direction() == Direction::Back;
    let survey = Survey::take(plan.clone(), survey::all_sides(&plan), Extent::Gate).await;
    if !reach::check(&survey).is_empty() || survey.further.iter().any(|f| f.facts.is_err()) {
        return None;
    }
    let mut faults: Vec<Fault> = match back {
        true => rules::OF_GATE_BACK.iter().flat_map(|rule| rule(&survey)).collect(),
        false => rules::OF_GATE.iter().flat_map(|rule| rule(&survey)).collect(),
    };
    faults.extend((rules::OF_TAILED)(&survey));
    // Names that a plan leaves behind: rows are lost with a table, nothing else is.
    let concerns = |fault: &Fault| {
        fault.severity == Severity::Fault
            && (fault.rule != "left_behind" || fault.subject.starts_with("table "))
    };
    let of_tables = |fault: &Fault| ["tables", "engine", "primary_key"].contains(&fault.rule);
    let (tables, others) = faults.into_iter().filter(concerns).partition(of_tables);
    Some(Standing { tables, others })
}

pub async fn run(plan: Arc<Plan>, args: &args::Check) -> anyhow::Result<Exit> {
    if plan.scheme.is_promotion() {
        return promotion::run(plan, args).await;
    }
    let mut survey = Survey::take(plan.clone(), survey::all_sides(&plan), Extent::Whole).await;
    // What is over is the application's alone: nothing there is to fit a reshard any more.
    let over = !rules::finished::check(&survey).is_empty();
    let asked: &[rules::Rule] = if over { &rules::OF_THE_FINISHED } else { &rules::ALL };
    let mut faults: Vec<Fault> = asked.iter().flat_map(|rule| rule(&survey)).collect();
    if over {
        return show(&Report::new(&plan, faults, None, None), args);
    }
    faults.extend(created::faults(&mut survey, asked, &faults));
    faults.extend(log::check(&plan).await);
    let mut read = Read::default();
    if !args.quick && survey.olds().count() == plan.old.len() {
        read = read_rows(&plan, &survey, args, &mut faults).await?;
    }
    faults.extend(disk::check(&survey, read.matrix.as_ref()));
    show(&Report::new(&plan, faults, read.matrix, read.estimate), args)
}

fn show(report: &Report, args: &args::Check) -> anyhow::Result<Exit> {
    match args.json {
        true => answer::last(serde_json::to_string_pretty(report)?),
        false => answer::line(report.text(Terminal::stdout()).trim_end()),
    }
    Ok(if report.has_faults() { Exit::No } else { Exit::Done })
}

/// What the rows themselves showed.
#[derive(Default)]
struct Read {
    matrix: Option<Matrix>,
    estimate: Option<Estimate>,
}

async fn read_rows(
    plan: &Plan,
    survey: &Survey,
    args: &args::Check,
    faults: &mut Vec<Fault>,
) -> anyhow::Result<Read> {
    let tables = matrix::sharded(plan, survey);
    let (counted, strays) = matrix::count(plan, survey, &tables, args.sample).await?;
    faults.extend(strays);
    faults.extend(broadcast::compare(plan, survey).await?);
    faults.extend(pages::check(plan, survey).await?);
    if args.deep {
        let file = format!("{}.collisions.tsv", plan.name);
        let file = args.collisions.clone().unwrap_or_else(|| PathBuf::from(file));
        let found = collisions::check(plan, &tables, &mut Listing::new(file)).await?;
        // What an earlier look said, or that there was none, no longer counts.
        faults.retain(|fault| fault.rule != collisions::RULE);
        faults.extend(found.faults);
        if found.complete && survey.news().count() == plan.new.len() {
            faults.extend(record::write(plan, &found.tables).await.err().map(record::unkept));
        }
    }
    let mut estimate = None;
    if args.trial && survey.news().count() == plan.new.len() {
        let (measured, refused) = trial::run(plan, survey, &tables, &counted).await?;
        estimate = measured;
        faults.extend(refused);
    }
    faults.extend(connections::tell(survey));
    let growth = growth::measure(survey).await;
    let copy = estimate.as_ref().map(Estimate::copy);
    faults.extend(retention::check_measured(survey, &growth, copy));
    Ok(Read { matrix: Some(counted), estimate })
}
