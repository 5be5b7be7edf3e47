//! Keys that the servers give out after the cutover: several new shards feed one old shard on the
//! way back, where their keys must not meet; and there must be keys left.

use modshift_proto::TableSchema;
use modshift_proto::plan::{Placement, Plan};
use modshift_proto::schema::DataType;

use crate::check::ahead;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::rows::matrix::gcd;
use crate::check::survey::Survey;

const RULE: &str = "auto_increment";
/// Share of a type's keys after which one should think of a wider type.
const USED_MAX: f64 = 0.8;

/// New shards that send to a common old shard on the way back: those congruent modulo gcd(N, M).
pub fn meet_on_the_way_back(plan: &Plan, a: u16, b: u16) -> bool {
    let divisor = gcd(plan.old_modulus.get().into(), plan.new_modulus.get().into());
    a != b && u64::from(a) % divisor == u64::from(b) % divisor
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    let counted: Vec<&str> = counted(survey).collect();
    if !counted.is_empty() {
        faults.extend(steps(survey, &counted));
    }
    faults.extend(headroom(survey));
    faults
}

/// Sharded tables with a unique key that an AUTO_INCREMENT alone keeps unique.
fn counted(survey: &Survey) -> impl Iterator<Item = &str> {
    survey.plan.tables.iter().filter_map(|planned| {
        let Placement::Sharded { key, .. } = &planned.placement else { return None };
        let table = survey.olds().find_map(|(_, facts)| facts.tables.get(&planned.name))?;
        let (counter, _) = table.counter.as_ref()?;
        let schema = table.schema.as_ref().ok()?;
        let alone = |columns: &[usize]| {
            let has = |name: &str| {
                columns.iter().any(|&c| schema.columns[c].name.eq_ignore_ascii_case(name))
            };
            has(counter) && !has(key)
        };
        let keys = schema.unique_keys.iter().map(|key| key.columns.as_slice());
        let mut keys = keys.chain([schema.primary_key.as_slice()]);
        keys.any(alone).then_some(planned.name.as_str())
    })
}

/// `(step, offset)` as the server takes them: an offset above the step does not count.
fn step_of(facts: &crate::check::survey::Facts) -> (u64, u64) {
    let number = |name| (facts.number(name) as u64).max(1);
    let (step, offset) = (number("auto_increment_increment"), number("auto_increment_offset"));
    (step, if offset > step { 1 } else { offset })
}

fn steps(survey: &Survey, tables: &[&str]) -> Vec<Fault> {
    let plan = &survey.plan;
    let number = |side| match side {
        crate::check::Side::New(shard) => shard.0,
        crate::check::Side::Old(shard) => shard.0,
    };
    let mut faults = Vec::new();
    for (server, facts) in survey.news() {
        let own = number(server.side);
        let (step, offset) = step_of(facts);
        let meets = survey.news().find(|(other, theirs)| {
            let (their_step, their_offset) = step_of(theirs);
            let common = gcd(step, their_step);
            meet_on_the_way_back(plan, own, number(other.side))
                && offset % common == their_offset % common
        });
        let Some((other, _)) = meets else { continue };
        let shares = survey.news().any(|(other, _)| {
            other.side != server.side
                && (&other.endpoint.host, other.endpoint.port)
                    == (&server.endpoint.host, server.endpoint.port)
        });
        let (scope, end) = match shares {
            // Variables are the server's, and another new shard has the same server.
            true => ("SESSION", " in every session of the application there"),
            false => ("GLOBAL", ", as the cutover does, and the same in my.cnf"),
        };
        let (scale, first) = (plan.new_modulus.get(), own + 1);
        let actual = format!(
            "gives out the same keys as {} (auto_increment_increment {step}, offset {offset}) for {}",
            other.side,
            some_of(tables)
        );
        // The cutover sets what the server has, for sessions that come after it.
        let severity = match ahead::interleaves(plan) && !shares {
            true => Severity::Note,
            false => Severity::Warning,
        };
        faults.push(
            Fault::new(severity, RULE, server.side, actual)
                .expected("keys that do not meet on an old shard on the way back")
                .mend(format!(
                    "SET {scope} auto_increment_increment = {scale}, auto_increment_offset = {first}{end}"
                )),
        );
    }
    faults
}

fn headroom(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for planned in &survey.plan.tables {
        let name = &planned.name;
        let tables = survey.olds().filter_map(|(_, facts)| facts.tables.get(name));
        let counters = tables.filter_map(|table| {
            let (column, next) = table.counter.as_ref()?;
            Some((*next, column.as_str(), table.schema.as_ref().ok()?))
        });
        // All new counters go on from the highest of the old ones.
        let Some((next, column, schema)) = counters.max_by_key(|&(next, ..)| next) else {
            continue;
        };
        let Some((last, type_text)) = last_key(schema, column) else { continue };
        let step = u64::from(survey.plan.new_modulus.get());
        let used = next as f64 / last as f64;
        if used < USED_MAX && next < last - step.min(last) {
            continue;
        }
        let severity = match next >= last - step.min(last) {
            true => Severity::Fault,
            false => Severity::Warning,
        };
        let actual = format!(
            "{column} is {type_text} and its counter is at {next}: {:.0} % of {last} are used",
            100.0 * used
        );
        faults.push(
            Fault::new(severity, RULE, format!("table {name}"), actual)
                .expected(format!("keys for new shards that count in steps of {step}"))
                .mend(format!(
                    "ALTER TABLE {name} MODIFY {column} BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, on \
                     every shard"
                )),
        );
    }
    faults
}

fn last_key<'a>(schema: &'a TableSchema, column: &str) -> Option<(u64, &'a str)> {
    let column = &schema.columns[schema.column(column)?];
    let DataType::Int { bytes, unsigned } = column.data else { return None };
    let bits = u32::from(bytes) * 8 - u32::from(!unsigned);
    Some((u64::MAX >> (64 - bits), &column.type_text))
}
