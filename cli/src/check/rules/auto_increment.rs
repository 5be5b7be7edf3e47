//! Keys that the servers give out after the cutover: several new shards feed one old shard on the
//! way back, where their keys must not meet; and there must be keys left.

use modshift_mariadb::value::quote;
use modshift_proto::plan::{Placement, Plan, key_step};
use modshift_proto::schema::DataType;
use modshift_proto::{NewShard, OldShard, TableSchema};

use super::foreign_keys;
use crate::check::ahead;
use crate::check::fault::{Fault, Severity, Side, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::rows::matrix::gcd;
use crate::check::survey::{Facts, Survey, Variables};

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
        faults.extend(old_steps(survey, &counted));
    }
    faults.extend(one_step_for_several(survey));
    faults.extend(strays(survey));
    faults.extend(headroom(survey));
    faults
}

/// `auto_increment_increment` and `_offset` by which this server of a shard gives out keys that are at
/// home there; a master of a pair gives out every other one of them.
fn wanted(survey: &Survey, side: Side, facts: &Facts) -> (u64, u64) {
    let plan = &survey.plan;
    let (number, modulus, shard) = match side {
        Side::Old(shard) if stays(plan) => {
            (shard.0, plan.new_modulus, &plan.new[usize::from(shard.0)])
        }
        Side::Old(shard) => (shard.0, plan.old_modulus, &plan.old[usize::from(shard.0)]),
        Side::New(shard) => (shard.0, plan.new_modulus, &plan.new[usize::from(shard.0)]),
    };
    let id = facts.variables.text("server_id").parse();
    let peer = shard.peers.as_ref().zip(id.ok());
    key_step(modulus, number, peer.and_then(|(peers, id)| peers.position(id)))
}

/// Of a promotion whose plan leaves the steps alone: the primaries go on with those that they have, as
/// shards of the new modulus. What is at home there is so by the old one, too.
fn stays(plan: &Plan) -> bool {
    plan.scheme.is_promotion() && !ahead::interleaves(plan)
}

/// Tables whose shard key is what AUTO_INCREMENT gives out.
fn keyed_by_counter(survey: &Survey) -> Vec<&str> {
    let tables = survey.plan.tables.iter().filter(|planned| {
        let Placement::Sharded { key, .. } = &planned.placement else { return false };
        let table = survey.olds().find_map(|(_, facts)| facts.tables.get(&planned.name));
        let counter = table.and_then(|table| table.counter.as_ref());
        counter.is_some_and(|(counter, _)| counter.eq_ignore_ascii_case(key))
    });
    tables.map(|planned| planned.name.as_str()).collect()
}

/// There a row without a key gets one from its server, and must be at home on it.
pub fn strays(survey: &Survey) -> Vec<Fault> {
    let tables = keyed_by_counter(survey);
    if tables.is_empty() {
        return Vec::new();
    }
    let plan = &survey.plan;
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let (number, modulus) = match server.side {
            Side::Old(shard) if !stays(plan) => (shard.0, plan.old_modulus.get()),
            Side::Old(OldShard(number)) | Side::New(NewShard(number)) => {
                (number, plan.new_modulus.get())
            }
        };
        let (step, offset) = step_of(&facts.variables);
        let (own, all) = (u64::from(number), u64::from(modulus));
        // The cutover sets it on the others.
        let counts =
            survey.takes_writes(server.side) || !server.side.is_old() && !ahead::interleaves(plan);
        if !counts || step.is_multiple_of(all) && offset % all == own {
            continue;
        }
        let (scale, first) = wanted(survey, server.side, facts);
        let actual = format!(
            "gives out keys of {} that belong to other shards (auto_increment_increment {step}, \
             offset {offset})",
            some_of(&tables)
        );
        faults.push(
            Fault::new(Severity::Warning, RULE, server.side, actual)
                .expected("keys that are at home there, or rows that bring their key with them")
                .mend(Mend::run(
                    Way::SetStep,
                    [format!(
                        "SET GLOBAL auto_increment_increment = {scale}, GLOBAL auto_increment_offset = \
                         {first}"
                    )],
                )),
        );
    }
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
pub fn step_of(variables: &Variables) -> (u64, u64) {
    let number = |name| (variables.number(name) as u64).max(1);
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
        let (step, offset) = step_of(&facts.variables);
        let meets = survey.news().find(|(other, theirs)| {
            let (their_step, their_offset) = step_of(&theirs.variables);
            let common = gcd(step, their_step);
            meet_on_the_way_back(plan, own, number(other.side))
                && offset % common == their_offset % common
        });
        let Some((other, _)) = meets else { continue };
        let id = facts.variables.identity();
        let shares = survey
            .reached()
            .any(|(other, facts)| other.side != server.side && facts.variables.identity() == id);
        let (scale, first) = wanted(survey, server.side, facts);
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
                .mend(match shares {
                    // Variables are the server's, and another shard has the same server.
                    true => format!(
                        "let every session of the application there begin with SET SESSION \
                         auto_increment_increment = {scale}, auto_increment_offset = {first}"
                    )
                    .into(),
                    false => Mend::run(
                        Way::SetStep,
                        [format!(
                            "SET GLOBAL auto_increment_increment = {scale}, GLOBAL \
                             auto_increment_offset = {first}"
                        )],
                    )
                    .note("as the cutover does"),
                }),
        );
    }
    faults
}

/// Old shards whose keys were apart by their ranges alone: a rollback finds each of them with keys of the
/// new shards, above all ranges, and their counters go on from there.
fn old_steps(survey: &Survey, tables: &[&str]) -> Vec<Fault> {
    let plan = &survey.plan;
    let mut faults = Vec::new();
    if !ahead::way_back(plan) {
        return faults;
    }
    for (server, facts) in survey.olds() {
        let (Side::Old(_), (step, offset)) = (server.side, step_of(&facts.variables)) else {
            continue;
        };
        let meets = survey.olds().find(|(other, theirs)| {
            let (their_step, their_offset) = step_of(&theirs.variables);
            let common = gcd(step, their_step);
            other.side != server.side && offset % common == their_offset % common
        });
        let Some((other, _)) = meets else { continue };
        let id = facts.variables.identity();
        let shares = survey
            .reached()
            .any(|(other, facts)| other.side != server.side && facts.variables.identity() == id);
        let (scale, first) = wanted(survey, server.side, facts);
        let actual = format!(
            "would give out the same keys as {} after a rollback (auto_increment_increment {step}, \
             offset {offset}) for {}: both counters then stand behind the keys of the new shards",
            other.side,
            some_of(tables)
        );
        let fault = Fault::new(Severity::Warning, RULE, server.side, actual)
            .expected("keys that do not meet, before a rollback");
        faults.push(match shares {
            true => fault.mend(format!(
                "let every session of the application there begin with SET SESSION \
                 auto_increment_increment = {scale}, auto_increment_offset = {first}"
            )),
            false => fault.mend(
                Mend::run(
                    Way::SetStep,
                    [format!(
                        "SET GLOBAL auto_increment_increment = {scale}, GLOBAL \
                         auto_increment_offset = {first}"
                    )],
                )
                .note("for sessions that begin after it"),
            ),
        });
    }
    faults
}

/// The cutover would set what the server gives out to all its schemas, and refuses where another shard
/// of the plan has the same server.
fn one_step_for_several(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !ahead::interleaves(&survey.plan) {
        return faults;
    }
    for (server, facts) in survey.news() {
        let id = facts.variables.identity();
        let counted: Vec<&str> = facts
            .tables
            .iter()
            .filter(|(_, t)| t.counter.is_some())
            .map(|(n, _)| n.as_str())
            .collect();
        let other = survey
            .reached()
            .find(|(other, facts)| other.side != server.side && facts.variables.identity() == id);
        let Some((other, _)) = other.filter(|_| !counted.is_empty()) else { continue };
        let actual = format!(
            "has the server of {}, which has one auto_increment_offset for both: the cutover refuses \
             to set it for {}",
            other.side,
            some_of(&counted)
        );
        faults.push(
            Fault::new(Severity::Fault, RULE, server.side, actual)
                .expected("a server of its own where tables have AUTO_INCREMENT")
                .mend(
                    "cutover.auto_increment = \"keep\" in the plan, and SET SESSION \
                     auto_increment_increment and auto_increment_offset in the application; or \
                     another server",
                ),
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
            let schema = table.schema.as_ref().ok()?;
            Some((*next, column.as_str(), schema, table.create.as_str()))
        });
        // All new counters go on from the highest of the old ones.
        let Some((next, column, schema, create)) = counters.max_by_key(|&(next, ..)| next) else {
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
                .mend(widened(survey, name, column, type_text, create)),
        );
    }
    faults
}

/// The column in its own words but for the type.
fn widened(survey: &Survey, table: &str, column: &str, type_text: &str, create: &str) -> Mend {
    // The server changes no type that a foreign key holds to another's.
    if survey.reached().any(|(_, facts)| foreign_keys::holds(facts, table, column)) {
        return format!(
            "take down the foreign keys of {column}, give it and the columns that refer to it a wider \
             type, and put the foreign keys up again, on every shard"
        )
        .into();
    }
    let head = format!("{} {type_text}", quote(column));
    let tail = create.lines().find_map(|line| line.trim().strip_prefix(&head));
    let wider = match type_text.starts_with("bigint") {
        true if type_text.contains("unsigned") => None,
        // There may be negative keys; counters give out none.
        true => Some("bigint(20) unsigned"),
        false if type_text.contains("unsigned") => Some("bigint(20) unsigned"),
        false => Some("bigint(20)"),
    };
    let (Some(tail), Some(wider)) = (tail, wider) else {
        return "no type is wider: renumber the rows, or take keys from another source".into();
    };
    let tail = tail.strip_suffix(',').unwrap_or(tail);
    let change = format!("MODIFY COLUMN {} {wider}{tail}", quote(column));
    let alter = format!("ALTER TABLE {} {change}", quote(table));
    Mend::run(Way::WidenCounter, [alter]).at(survey.reached().map(|(server, _)| server.side))
}

fn last_key<'a>(schema: &'a TableSchema, column: &str) -> Option<(u64, &'a str)> {
    let column = &schema.columns[schema.column(column)?];
    let DataType::Int { bytes, unsigned } = column.data else { return None };
    let bits = u32::from(bytes) * 8 - u32::from(!unsigned);
    Some((u64::MAX >> (64 - bits), &column.type_text))
}
