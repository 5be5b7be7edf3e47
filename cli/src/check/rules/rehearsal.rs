//! Where it is rehearsed: on what is nobody's, and as it will be in earnest.
//!
//! A rehearsal that names a real shard would write to it: a fault. Whatever else is wrong stops
//! nothing but the rehearsal: a warning.

use std::collections::BTreeMap;

use modshift_proto::plan::Rehearse;

use super::{binlog, disk, durability, version};
use crate::check::fault::{Fault, Severity, Side, once_each, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::report::bytes;
use crate::check::survey::{Facts, Further, Kind, Part, Standing, Survey};

const RULE: &str = "rehearsal";
/// Made before anything else in a schema that a rehearsal takes.
const MARKER: &str = "modshift_rehearsal";
/// As `disk` reckons.
const FACTOR: f64 = 1.5;
/// What no server lacks room for is not asked about.
const SMALL_BYTES: u64 = 1 << 30;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let Some(rehearse) = &survey.plan.rehearse else { return Vec::new() };
    let parts: Vec<Part<'_>> =
        survey.parts().filter(|part| part.role.kind.is_rehearsal()).collect();
    let mut faults = Vec::new();
    for (index, &part) in parts.iter().enumerate() {
        faults.extend(real(survey, part));
        faults.extend(twin(&parts[..index], part));
        faults.extend(occupied(survey, part));
    }
    for (further, facts) in servers(survey) {
        faults.extend(beside(survey, further, facts));
        faults.extend(settings(survey, further, facts));
        faults.extend(other_version(survey, further, facts));
        faults.extend(room(survey, rehearse, further, facts));
    }
    // With several logins a server is there several times.
    once_each(faults.into_iter().map(|fault| (fault.subject.clone(), fault)).collect())
}

/// Those on which it is rehearsed, each once.
fn servers(survey: &Survey) -> impl Iterator<Item = (&Further, &Standing)> {
    let answered = survey.further.iter().filter_map(|f| Some((f, f.facts.as_ref().ok()?)));
    answered.filter(|(further, _)| further.roles.iter().any(|role| role.kind == Kind::Rehearsal))
}

fn warning(subject: impl std::fmt::Display, actual: impl Into<String>) -> Fault {
    Fault::new(Severity::Warning, RULE, subject, actual)
}

/// Names of schemas may or may not know upper case: in doubt it is the same.
fn same_schema(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// A real shard's schema, or a server that replicates a real shard.
fn real(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    let id = part.facts.variables.identity();
    let replica = survey.replicas().find(|other| other.facts.variables.identity() == id);
    let shard = survey.reached().find(|(server, facts)| {
        facts.variables.identity() == id && same_schema(&server.endpoint.schema, &part.role.schema)
    });
    let (actual, expected) = match (shard, replica) {
        (Some((server, _)), _) => (
            format!("schema {} is that of {} itself", part.role.schema, server.side),
            "a schema that is nobody's: a rehearsal writes to it, and empties it",
        ),
        (None, Some(other)) => (
            format!("its server is {}", other.name()),
            "a server that replicates no real shard: what is written there would be in its way",
        ),
        (None, None) => return None,
    };
    Some(
        Fault::new(Severity::Fault, RULE, part.name(), actual)
            .expected(expected)
            .mend("name another server or schema in [rehearse] of the plan"),
    )
}

fn twin(before: &[Part<'_>], part: Part<'_>) -> Option<Fault> {
    let id = part.facts.variables.identity();
    if part.role.kind != Kind::Rehearsal {
        return None;
    }
    let twin = before.iter().find(|other| {
        other.role.kind == Kind::Rehearsal
            && other.facts.variables.identity() == id
            && same_schema(&other.role.schema, &part.role.schema)
    })?;
    let actual = format!("schema {} is that of the {}, too", part.role.schema, twin.name());
    Some(
        warning(part.name(), actual)
            .expected("a schema for each shard")
            .mend("name another schema in [rehearse] of the plan"),
    )
}

/// What a rehearsal refuses to touch.
fn occupied(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    let schema = part.schema().filter(|_| part.role.kind == Kind::Rehearsal)?;
    let expected = "an empty schema, or none that exists";
    let mend = "name another schema in [rehearse] of the plan";
    if let Some(owner) = &schema.rehearsed_by {
        let actual = format!("schema {} is what the plan {owner} rehearses in", part.role.schema);
        let other = *owner != survey.plan.name;
        return other.then(|| warning(part.name(), actual).expected(expected).mend(mend));
    }
    let strange: Vec<&String> = schema.tables.iter().filter(|name| *name != MARKER).collect();
    // The real shard's own tables: said already, and worse.
    if strange.is_empty() || real(survey, part).is_some() {
        return None;
    }
    let actual =
        format!("schema {} holds what no rehearsal made: {}", part.role.schema, some_of(strange));
    Some(warning(part.name(), actual).expected(expected).mend(mend))
}

/// A server of real shards is not fenced, and so not timed.
fn beside(survey: &Survey, further: &Further, facts: &Standing) -> Option<Fault> {
    let id = facts.variables.identity();
    let shard = survey.reached().find(|(_, facts)| facts.variables.identity() == id);
    if let Some((server, _)) = shard {
        let actual = format!("is the server of {}, where only accounts are fenced", server.side);
        return Some(
            Fault::new(Severity::Note, RULE, further, actual)
                .expected("a server of its own: read_only is not in what is predicted")
                .mend("name another server in [rehearse] of the plan"),
        );
    }
    let started = facts.sources.as_ref()?.iter().find(|source| source.is_started())?;
    let actual = format!("replicates from {}:{}", started.host, started.port);
    Some(
        warning(further, actual)
            .expected("a server that replicates from nobody: the fence would stop it")
            .mend("stop its replication, or name another server in [rehearse]"),
    )
}

/// Its streams ask for what those of the real shards do.
fn settings(survey: &Survey, further: &Further, facts: &Standing) -> Vec<Fault> {
    let variables = &facts.variables;
    let mut faults = binlog::required(further, variables);
    let expected = "1, as the streams of the rehearsal ask of their shards too";
    faults.extend(durability::judge(&survey.plan, further, variables, &durability::READ, expected));
    for fault in &mut faults {
        fault.severity = fault.severity.max(Severity::Warning);
    }
    let packet = |facts: &Facts| facts.number("max_allowed_packet") as u64;
    let needed = survey.olds().map(|(_, facts)| packet(facts)).max().unwrap_or(0);
    let has = variables.number("max_allowed_packet") as u64;
    if has < needed {
        faults.push(
            warning(further, format!("max_allowed_packet is {has}"))
                .expected(format!("at least {needed}, as on the old shards"))
                .mend(Mend::set(Way::SetPacket, "max_allowed_packet", needed)),
        );
    }
    if !facts.xa.is_empty() {
        let list = some_of(&facts.xa);
        faults.push(
            warning(further, format!("has prepared XA transactions: {list}"))
                .expected("none, or its fence does not close")
                .mend(
                    "commit or roll back each that XA RECOVER lists, with XA COMMIT or XA ROLLBACK",
                ),
        );
    }
    faults
}

/// Another version predicts another pause.
fn other_version(survey: &Survey, further: &Further, facts: &Standing) -> Option<Fault> {
    let (real, theirs) = survey.olds().next()?;
    let (here, there) = (version::of(&facts.version)?, version::of(&theirs.version)?);
    (here != there).then(|| {
        Fault::new(Severity::Note, RULE, further, format!("is {}", facts.version))
            .expected(format!(
                "{}, as {}: a pause on another version says less",
                theirs.version, real.side
            ))
            .mend("rehearse on servers of the version of the real ones")
    })
}

/// Bytes that the rehearsal brings to each shard of either side.
fn coming(survey: &Survey, rehearse: &Rehearse) -> BTreeMap<Side, u64> {
    let rows_max = u64::from(rehearse.rows);
    let of_old = survey.olds().map(|(server, facts)| {
        let tables = facts.tables.values().filter(|table| table.rows > 0);
        let carried = tables.map(|t| t.bytes / t.rows * t.rows.min(rows_max));
        (server.side, carried.sum::<u64>())
    });
    let mut coming: BTreeMap<Side, u64> = of_old.collect();
    let each = coming.values().sum::<u64>() / u64::from(survey.plan.new_modulus.get());
    coming.extend(survey.plan.new_shards().map(|shard| (Side::New(shard), each)));
    coming
}

fn room(
    survey: &Survey,
    rehearse: &Rehearse,
    further: &Further,
    facts: &Standing,
) -> Option<Fault> {
    let coming = coming(survey, rehearse);
    let roles = further.roles.iter().filter(|role| role.kind == Kind::Rehearsal);
    let bytes_here: u64 = roles.filter_map(|role| coming.get(&role.side)).sum();
    let needed = (bytes_here as f64 * FACTOR) as u64;
    let room = match &facts.room {
        Ok(room) => room,
        Err(why) => {
            let account = mend::account(&facts.grants, &further.endpoint.user);
            return (needed >= SMALL_BYTES)
                .then(|| disk::unknown(RULE, further, needed, *why, &account));
        }
    };
    (room.available_bytes < needed).then(|| {
        warning(further, format!("{} has {} left", room.path, bytes(room.available_bytes)))
            .expected(format!("{}, half as much again as the rows take", bytes(needed)))
            .mend("a larger disk, or fewer rehearse.rows")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::Room;
    use crate::check::survey::further::{Schema, Source};
    use crate::check::survey::made::{lines, survey_further};

    fn check(change: impl Fn(&mut Standing), expected: &[&str]) {
        let survey = survey_further(
            |which, facts| {
                let table = facts.tables.get_mut("t").unwrap();
                (table.rows, table.bytes) = if which < 2 { (100_000, 1 << 40) } else { (0, 0) };
            },
            |which, facts| {
                if which == 2 {
                    let (total_bytes, available_bytes) = (1 << 50, 1 << 50);
                    facts.room = Ok(Room { path: "/db".into(), total_bytes, available_bytes });
                    change(facts);
                }
            },
        );
        let found = lines(&super::check(&survey));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn a_server_of_its_own_is_good() {
        check(|_| {}, &[]);
    }

    #[test]
    fn a_real_shard_is_never_rehearsed_on() {
        let at = |host: &'static str, port: &'static str| {
            move |facts: &mut Standing| {
                facts.variables.set("hostname", host);
                facts.variables.set("port", port);
            }
        };
        let beside = "note  rehearsal server trial:3306: is the server of new shard 0, where only \
                      accounts are fenced";
        check(at("h", "3308"), &[beside]);
        let replica = "fault  rehearsal of old shard 0 on trial:3306: its server is replica \
                       spare:3306 of old shard 0, expected a server that replicates no real shard";
        let survey = survey_further(
            |_, _| {},
            |which, facts| {
                if which == 2 {
                    at("spare", "3306")(facts);
                }
            },
        );
        let found = lines(&super::check(&survey));
        assert!(found.len() == 5 && found[0].starts_with(replica), "{found:#?}");
        let mut survey = survey_further(
            |_, _| {},
            |which, facts| {
                if which == 2 {
                    at("h", "3307")(facts);
                }
            },
        );
        survey.further[2].roles[4].schema = "S".to_owned();
        let found = lines(&super::check(&survey));
        let real =
            "fault  rehearsal of new shard 2 on trial:3306: schema S is that of old shard 1 itself";
        assert!(found[0].starts_with(real), "{found:#?}");
    }

    #[test]
    fn what_stops_only_the_rehearsal_is_a_warning() {
        let schema = |tables: &[&str], owner: Option<&str>| Schema {
            tables: tables.iter().map(|&name| name.to_owned()).collect(),
            rehearsed_by: owner.map(str::to_owned),
            ..Schema::default()
        };
        check(
            |facts| {
                facts.schemas.insert("trial_0".into(), schema(&["t", MARKER], Some("made")));
                facts.schemas.insert("trial_1".into(), schema(&[MARKER], Some("other")));
                facts.schemas.insert("trial_2".into(), schema(&["orders"], None));
                let io = "Connecting".to_owned();
                let source = Source { host: "x".into(), port: 1, io, ..Source::default() };
                facts.sources = Some(vec![source]);
                facts.variables.set("binlog_format", "MIXED");
                facts.variables.set("sync_binlog", "0");
                facts.xa = vec!["x1".to_owned()];
                facts.version = "11.4.2-MariaDB".to_owned();
                facts.room.as_mut().unwrap().available_bytes = 1 << 30;
            },
            &[
                "warning  rehearsal of old shard 1 on trial:3306: schema trial_1 is what the plan \
                 other rehearses in",
                "warning  rehearsal of new shard 0 on trial:3306: schema trial_2 holds what no \
                 rehearsal made: orders",
                "warning  rehearsal server trial:3306: replicates from x:1",
                "warning  rehearsal server trial:3306: binlog_format is MIXED",
                "warning  rehearsal server trial:3306: sync_binlog is 0",
                "warning  rehearsal server trial:3306: has prepared XA transactions: x1",
                // A tenth of two tables of a TiB, on either side.
                "warning  rehearsal server trial:3306: /db has 1.00 GiB left, expected 614 GiB",
                "note  rehearsal server trial:3306: is 11.4.2-MariaDB, expected 10.11.6-MariaDB",
            ],
        );
    }
}
