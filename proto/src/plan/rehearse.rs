//! `[rehearse]`: a second set of shards, on which the whole way there and back is gone once before
//! it is gone in earnest. From it and the plan follows the plan of the rehearsal.

use std::time::Duration;

use super::render::{Rendered, render_endpoint};
use super::section::Section;
use super::{Account, AutoIncrement, Endpoint, FenceScope, Log, Plan, default};

/// Between the plan's name and the run's.
pub const SUFFIX: &str = "-rehearsal";
/// The gate of a rehearsal is no promise to anyone: it need not hold for long.
const HOLD_MAX: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq)]
pub struct Rehearse {
    /// In the place of the plan's old shards, as many.
    pub old: Vec<Endpoint>,
    pub new: Vec<Endpoint>,
    /// Carried over from each table of each old shard.
    pub rows: u32,
    /// Cutovers, each with the rollback behind it.
    pub runs: u32,
    /// Transactions a second of the synthetic load; 0: none.
    pub rate: u32,
}

impl Plan {
    /// What a rehearsal runs; `None` where the plan names no shards for it. `run` tells its topics
    /// and its logs from those of the rehearsals before: letters, digits and `-`.
    ///
    /// No routing target learns of it. It has accounts of its own, of which nothing is known but
    /// their names: whoever rehearses makes them.
    pub fn rehearsal(&self, run: &str, scope: FenceScope) -> Option<Plan> {
        let rehearse = self.rehearse.as_ref()?;
        let name = format!("{}{SUFFIX}-{run}", self.name);
        let mut log = self.log.clone();
        if let Log::Kafka(kafka) = &mut log {
            kafka.topic = format!("modshift.{name}.changes");
        }
        let mut plan = Plan {
            old: rehearse.old.clone(),
            new: rehearse.new.clone(),
            log,
            routing: Vec::new(),
            rehearse: None,
            forward: None,
            name,
            ..self.clone()
        };
        plan.gate.hold = plan.gate.hold.min(HOLD_MAX);
        // All rows are compared in the end, and a proof before each cutover would only take time.
        plan.gate.verify_age = None;
        plan.back.enabled = true;
        plan.back.verify_age = None;
        plan.cutover.scope = scope;
        plan.cutover.login = None;
        plan.cutover.watchdog = false;
        plan.cutover.old_accounts = vec![self.rehearsal_account("old")];
        plan.cutover.new_accounts = vec![self.rehearsal_account("new")];
        // A setting of the server, which would outlive the rehearsal.
        plan.cutover.auto_increment = AutoIncrement::Keep;
        Some(plan)
    }

    /// Two plans may rehearse on one server, and so may the two sides.
    fn rehearsal_account(&self, side: &str) -> Account {
        let hash = crc32fast::hash(self.name.as_bytes());
        Account { user: format!("modshift_rehearsal_{hash:08x}_{side}"), host: "%".to_owned() }
    }
}

pub(super) fn read(section: Section<'_>, (old, new): (Vec<Endpoint>, Vec<Endpoint>)) -> Rehearse {
    let rehearse = Rehearse {
        old,
        new,
        rows: section.number("rows", default::REHEARSE_ROWS, 1..=1_000_000_000),
        runs: section.number("runs", default::REHEARSE_RUNS, 1..=10_000),
        rate: section.number("rate", default::REHEARSE_RATE, 0..=1_000_000),
    };
    section.finish();
    rehearse
}

pub(super) fn render(rehearse: Option<&Rehearse>, out: &mut Rendered) {
    let Some(rehearse) = rehearse else { return };
    out.head("[rehearse]");
    out.line("rows", rehearse.rows);
    out.line("runs", rehearse.runs);
    out.line("rate", rehearse.rate);
    for (key, shards) in [("rehearse.old", &rehearse.old), ("rehearse.new", &rehearse.new)] {
        shards.iter().for_each(|shard| render_endpoint(key, shard, out));
    }
}
