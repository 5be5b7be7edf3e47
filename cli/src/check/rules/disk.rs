//! Room on the new shards for the bytes to come. Nothing is guessed: without the plugin `disks` SQL
//! cannot tell.

use std::collections::BTreeMap;
use std::fmt;

use modshift_proto::plan::Placement;

use crate::check::fault::{Fault, Severity, Side, sides_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::report::bytes;
use crate::check::rows::matrix::Matrix;
use crate::check::survey::{RoomUnknown, Server, Survey};

const RULE: &str = "disk";
/// Indexes filled out of order, undo and binlogs take more than the rows did.
const FACTOR: f64 = 1.5;

/// Bytes that each new shard gets: by the matrix, or evenly where rows were not read.
pub fn coming(survey: &Survey, matrix: Option<&Matrix>) -> Vec<u64> {
    let shards = usize::from(survey.plan.new_modulus.get());
    let mut coming = vec![0u64; shards];
    for planned in &survey.plan.tables {
        let sizes = survey.olds().map(|(server, facts)| {
            let bytes = facts.tables.get(&planned.name).map_or(0, |table| table.bytes);
            (server.side, bytes)
        });
        match planned.placement {
            Placement::Sharded { .. } if matrix.is_some() => {}
            Placement::Sharded { .. } => {
                let total: u64 = sizes.map(|(_, bytes)| bytes).sum();
                coming.iter_mut().for_each(|bytes| *bytes += total / shards as u64);
            }
            Placement::Broadcast { source } => {
                let of_source = sizes.filter(|(side, _)| *side == Side::Old(source));
                let total: u64 = of_source.map(|(_, bytes)| bytes).sum();
                coming.iter_mut().for_each(|bytes| *bytes += total);
            }
        }
    }
    for row in matrix.iter().flat_map(|matrix| &matrix.bytes) {
        coming.iter_mut().zip(row).for_each(|(sum, bytes)| *sum += bytes);
    }
    coming
}

pub fn check(survey: &Survey, matrix: Option<&Matrix>) -> Vec<Fault> {
    let coming = coming(survey, matrix);
    // Schemas of one server share its disk.
    let mut servers: BTreeMap<String, Vec<(&Server, u64)>> = BTreeMap::new();
    for (server, facts) in survey.news() {
        let Side::New(shard) = server.side else { continue };
        // What came already needs no more room.
        let here: u64 = facts.tables.values().map(|table| table.bytes).sum();
        let missing = coming[usize::from(shard.0)].saturating_sub(here);
        servers.entry(facts.variables.identity()).or_default().push((server, missing));
    }
    let mut faults = Vec::new();
    for shards in servers.values() {
        let sides = sides_of(shards.iter().map(|(server, _)| server.side));
        let needed = shards.iter().map(|(_, bytes)| *bytes).sum::<u64>() as f64 * FACTOR;
        let needed = needed as u64;
        let (server, _) = shards[0];
        let Ok(facts) = &server.facts else { continue };
        let room = match &facts.room {
            Ok(room) => room,
            Err(why) => {
                let account = mend::account(&facts.grants, &server.endpoint.user);
                let mut fault = unknown(RULE, sides, needed, *why, &account);
                // One server, whichever of its shards.
                fault.mend = fault.mend.map(|mend| mend.at([server.side]));
                faults.push(fault);
                continue;
            }
        };
        if room.available_bytes < needed {
            let actual = format!("{} has {} left", room.path, bytes(room.available_bytes));
            faults.push(
                Fault::new(Severity::Fault, RULE, sides, actual)
                    .expected(format!("{}, half as much again as the rows take", bytes(needed)))
                    .mend("a larger disk, or fewer shards on this server"),
            );
        }
    }
    faults
}

/// SQL cannot tell whether so much fits, and what makes it able to.
pub fn unknown(
    rule: &'static str,
    subject: impl fmt::Display,
    needed: u64,
    why: RoomUnknown,
    account: &str,
) -> Fault {
    let actual = format!("SQL cannot tell whether {} fit on its disk", bytes(needed));
    let (actual, mend) = match why {
        RoomUnknown::NotTold => (actual, disks(account)),
        RoomUnknown::NoMtab => (
            format!(
                "{actual}: information_schema.DISKS answers error 1105, as it does where the server \
                 finds no /etc/mtab"
            ),
            Mend::from("ln -s /proc/mounts /etc/mtab, where the server runs; or look: df -h"),
        ),
    };
    Fault::new(Severity::Note, rule, subject, actual)
        .expected("room for the rows to come, and half as much again")
        .mend(mend)
}

/// Lets SQL tell. FILE is what the plugin asks for.
fn disks(account: &str) -> Mend {
    let grant = format!("GRANT FILE ON *.* TO {account}");
    // Answered with a warning where it is there already.
    let install = "INSTALL PLUGIN IF NOT EXISTS disks SONAME 'disks'".to_owned();
    Mend::run(Way::InstallDisks, [install, grant]).note("or look: df -h")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::Room;
    use crate::check::survey::made::{lines, survey};

    #[test]
    fn a_disk_too_small_for_what_comes_is_refused() {
        let survey = survey(|which, facts| {
            let table = facts.tables.get_mut("t").unwrap();
            table.bytes = if which < 2 { 3 << 30 } else { 0 };
            let available_bytes = [0, 0, 4 << 30, 2 << 30, 4 << 30][which];
            facts.room = Ok(Room { path: "/db".into(), total_bytes: 1 << 40, available_bytes });
            if which == 4 {
                facts.room = Err(RoomUnknown::NoMtab);
            }
        });
        // 6 GiB over three new shards, and half as much again.
        assert_eq!(
            lines(&check(&survey, None)),
            [
                "fault  new shard 1: /db has 2.00 GiB left, expected 3.00 GiB, half as much again as \
              the rows take; mend: a larger disk, or fewer shards on this server",
                "note  new shard 2: SQL cannot tell whether 3.00 GiB fit on its disk: \
                 information_schema.DISKS answers error 1105, as it does where the server finds no \
                 /etc/mtab, expected room for the rows to come, and half as much again; mend: ln -s \
                 /proc/mounts /etc/mtab, where the server runs; or look: df -h",
            ]
        );
    }
}
