//! Is what the plan calls a replica a copy of its shard, and does it follow?
//!
//! A replica that is only fenced may lag or stand still; one from which a reader reads
//! (`read_from`) may not. Both must hold the shard's schema, or a cutover cannot even log in.

use std::time::Duration;

use crate::check::fault::{Fault, Severity, once_each, some_of};
use crate::check::mend::{self, Mend, Way};
use crate::check::report::span;
use crate::check::survey::further::Source;
use crate::check::survey::{Facts, Part, Server, Survey, endpoint};

const RULE: &str = "replica";
/// The server counts lag in whole seconds, and shows one for a moment where there is none.
const LAG_SEEN_MIN: Duration = Duration::from_secs(2);

pub fn check(survey: &Survey) -> Vec<Fault> {
    // Those that are promoted have rules of their own, which ask for more.
    let promoted = |part: &Part<'_>| {
        let at = part.further.at();
        survey.pairs.iter().any(|pair| pair.at == at)
    };
    let found = survey.replicas().filter(|part| !promoted(part)).flat_map(|part| {
        let at = part.further.at().to_string();
        of_part(survey, part).into_iter().map(move |fault| (at.clone(), fault))
    });
    once_each(found.collect())
}

fn of_part(survey: &Survey, part: Part<'_>) -> Vec<Fault> {
    let primary = survey.primary(part.role.side);
    if let Some(fault) = primary.and_then(|(_, facts)| is_the_primary(part, facts)) {
        return vec![fault];
    }
    let mut faults = Vec::new();
    faults.extend(shared(survey, part));
    if part.schema().is_none() {
        let actual = format!("shows no schema {} to {}", part.role.schema, user(part));
        faults.push(
            Fault::new(Severity::Fault, RULE, part.name(), actual)
                .expected("the shard's schema: the cutover logs in to it on every server")
                .mend("let it replicate the schema, or take the server out of the plan's replicas"),
        );
    }
    faults.extend(follows(survey, part, primary));
    // Of a pair it may be the one that serves: `peers` says so.
    let at = part.further.at();
    let peers = endpoint(&survey.plan, part.role.side).peers.as_ref();
    let is_peer = peers.is_some_and(|peers| peers.servers.iter().any(|peer| peer.at == at));
    if !is_peer && !part.facts.variables.is_on("read_only") {
        faults.push(
            Fault::new(Severity::Warning, RULE, part.name(), "read_only is off")
                .expected("ON: what is written on a replica alone is on no other server")
                .mend(Mend::set(Way::SetReadOnly, "read_only", 1)),
        );
    }
    faults.extend(primary.and_then(|(_, facts)| wrote_by_itself(part, facts)));
    faults
}

fn user(part: Part<'_>) -> &str {
    &part.further.endpoint.user
}

/// What is bad for a reader is a risk where nobody reads.
fn severity(part: Part<'_>) -> Severity {
    if part.is_tailed() { Severity::Fault } else { Severity::Warning }
}

fn is_the_primary(part: Part<'_>, primary: &Facts) -> Option<Fault> {
    let variables = &part.facts.variables;
    if variables.identity() == primary.variables.identity() {
        let fault = Fault::new(
            Severity::Fault,
            RULE,
            part.name(),
            "is the primary itself, by another name",
        );
        return Some(
            fault
                .expected("another server, which replicates from it")
                .mend("correct replicas and read_from of the plan"),
        );
    }
    let id = variables.text("server_id");
    (id == primary.variable("server_id")).then(|| {
        Fault::new(
            Severity::Fault,
            RULE,
            part.name(),
            format!("has server_id {id}, as its primary"),
        )
        .expected("an id of its own, without which it takes nothing from the primary")
        .mend("server_id = another number under [mariadbd] in my.cnf, and SET GLOBAL server_id")
    })
}

/// The fence closes a replica whole: it may not serve the other side.
fn shared(survey: &Survey, part: Part<'_>) -> Option<Fault> {
    if survey.plan.scheme.is_promotion() {
        return None;
    }
    let id = part.facts.variables.identity();
    let across = |side: crate::check::Side| side.is_old() != part.role.side.is_old();
    let primaries = survey
        .reached()
        .filter(|(server, facts)| across(server.side) && facts.variables.identity() == id);
    let replicas = survey
        .replicas()
        .filter(|other| across(other.role.side) && other.facts.variables.identity() == id);
    let names = primaries.map(|(server, _)| server.side.to_string());
    let other = names.chain(replicas.map(|other| other.name())).next()?;
    let fault =
        Fault::new(Severity::Fault, RULE, part.name(), format!("is the server of {other}, too"));
    Some(
        fault
            .expected("a server of one side: a cutover closes it for the whole of that side")
            .mend("take it out of replicas, or move one of the two to another server"),
    )
}

fn follows(survey: &Survey, part: Part<'_>, primary: Option<(&Server, &Facts)>) -> Vec<Fault> {
    let Some(sources) = &part.facts.sources else {
        return vec![
            Fault::new(Severity::Warning, RULE, part.name(), "cannot see whether it replicates")
                .expected("to know that it follows its primary")
                .mend(Mend::run(
                    Way::GrantGlobal,
                    [
                        "SET SESSION sql_log_bin = 0".to_owned(),
                        format!(
                            "GRANT SLAVE MONITOR ON *.* TO {}",
                            mend::account(&part.facts.grants, user(part))
                        ),
                        "SET SESSION sql_log_bin = 1".to_owned(),
                    ],
                )),
        ];
    };
    let id = primary.and_then(|(_, facts)| facts.variable("server_id").parse().ok()).unwrap_or(0);
    let straight = sources.iter().find(|source| source.server_id == id);
    let Some(source) = straight.or(sources.first()) else {
        let mend = match primary {
            Some((server, _)) => format!(
                "let it replicate from {}:{} (CHANGE MASTER TO ... MASTER_USE_GTID = slave_pos, START \
                 SLAVE), or take it out of the plan's replicas",
                server.endpoint.host, server.endpoint.port
            ),
            None => "let it replicate from its primary".to_owned(),
        };
        return vec![
            Fault::new(severity(part), RULE, part.name(), "replicates from nobody")
                .expected("a replica of the shard's primary")
                .mend(mend),
        ];
    };
    if !source.runs() {
        return vec![stopped(part, source)];
    }
    let mut faults = Vec::new();
    if let Some((_, facts)) = primary.filter(|_| straight.is_none() && !knows(part, primary)) {
        let actual = format!(
            "replicates from {}:{} (server_id {}) and has nothing that the primary (server_id {}) \
             has written",
            source.host,
            source.port,
            source.server_id,
            facts.variable("server_id"),
        );
        faults.push(
            Fault::new(severity(part), RULE, part.name(), actual)
                .expected("a replica of the shard's primary, straight or through others")
                .mend(
                    "correct replicas and read_from of the plan, or CHANGE MASTER TO the primary",
                ),
        );
    }
    faults.extend(lag(survey, part, source, primary));
    faults
}

/// Through others it comes from the primary if it has GTIDs of it.
fn knows(part: Part<'_>, primary: Option<(&Server, &Facts)>) -> bool {
    let Some((_, primary)) = primary else { return true };
    let variables = &part.facts.variables;
    let mut theirs = variables.gtids("gtid_slave_pos");
    theirs.extend(variables.gtids("gtid_binlog_state"));
    let written = primary.variables.gtids("gtid_binlog_state");
    written.is_empty()
        || written
            .iter()
            .any(|gtid| theirs.iter().any(|g| (g.domain, g.server) == (gtid.domain, gtid.server)))
}

fn stopped(part: Part<'_>, source: &Source) -> Fault {
    let mut actual = format!(
        "does not replicate: Slave_IO_Running {}, Slave_SQL_Running {}",
        source.io, source.sql
    );
    // Numbers only: the text of an error may hold values of rows.
    let errors = [("Last_IO_Errno", source.io_errno), ("Last_SQL_Errno", source.sql_errno)];
    for (name, number) in errors.into_iter().filter(|&(_, number)| number != 0) {
        actual += &format!(", {name} {number}");
    }
    Fault::new(severity(part), RULE, part.name(), actual)
        .expected("both to be Yes")
        .mend("SHOW ALL SLAVES STATUS there, mend what it names, START SLAVE")
}

fn lag(
    survey: &Survey,
    part: Part<'_>,
    source: &Source,
    primary: Option<(&Server, &Facts)>,
) -> Option<Fault> {
    let plan = &survey.plan;
    let (limit, setting) = match part.is_tailed() {
        true => (plan.gate.max_lag, "gate.max_lag: what is read here is never nearer"),
        false => (
            plan.throttle.replica_lag_max?,
            "throttle.replica_lag_max: copying and verifying wait for it",
        ),
    };
    let held = part.is_tailed() && source.delay > limit;
    if held {
        let actual = format!("is held {} behind its primary (MASTER_DELAY)", span(source.delay));
        return Some(
            Fault::new(Severity::Fault, RULE, part.name(), actual)
                .expected(format!("at most {}, {setting}", span(limit)))
                .mend(Mend::run(
                    Way::RemoveDelay,
                    ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"],
                )),
        );
    }
    // What the token says counts too: Seconds_Behind_Master leaves out what has not arrived.
    let tokens = part.schema().and_then(|schema| schema.token).zip(primary.and_then(|p| p.1.token));
    let of_token = tokens.map(|(here, there)| there.clock.saturating_sub(here.clock));
    let behind = source.behind.max(of_token)?;
    (behind > limit.max(LAG_SEEN_MIN)).then(|| {
        Fault::new(Severity::Warning, RULE, part.name(), format!("is {} behind", span(behind)))
            .expected(format!("at most {}, {setting}", span(limit)))
            .mend("wait for it, or set slave_parallel_threads and slave_parallel_mode")
    })
}

/// Transactions of its own: a copy that has more than the original.
fn wrote_by_itself(part: Part<'_>, primary: &Facts) -> Option<Fault> {
    let id: u32 = part.facts.variables.text("server_id").parse().ok()?;
    let known = primary.variables.gtids("gtid_binlog_state");
    let covered = |gtid: &modshift_proto::Gtid| {
        known.iter().any(|k| (k.domain, k.server) == (gtid.domain, id) && k.seq >= gtid.seq)
    };
    let own = part.facts.variables.gtids("gtid_binlog_state");
    let own: Vec<_> = own.iter().filter(|gtid| gtid.server == id && !covered(gtid)).collect();
    if own.is_empty() {
        return None;
    }
    let list = some_of(own.iter().map(|gtid| gtid.to_string()));
    let actual = format!("has written by itself, up to {list}, which the primary's binlog has not");
    Some(
        Fault::new(Severity::Warning, RULE, part.name(), actual)
            .expected("nothing but what comes from the primary")
            .mend("look at them with mariadb-binlog; if rows differ, build the replica anew"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::Standing;
    use crate::check::survey::made::{lines, survey_further};

    /// Of the replica that is read, and of the other, the same is wrong.
    fn check(change: impl Fn(&mut Standing), expected: [&str; 2]) {
        let survey = survey_further(
            |_, _| {},
            |which, facts| {
                if which < 2 {
                    change(facts);
                }
            },
        );
        let found = lines(&super::check(&survey));
        let wanted: Vec<&str> = expected.into_iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{found}\n{wanted}");
        }
    }

    fn source(facts: &mut Standing) -> &mut Source {
        &mut facts.sources.as_mut().unwrap()[0]
    }

    #[test]
    fn a_replica_that_follows_is_good() {
        check(|_| {}, ["", ""]);
        // Through a server between.
        check(|facts| source(facts).server_id = 77, ["", ""]);
    }

    #[test]
    fn one_that_does_not_follow_is_a_fault_where_it_is_read() {
        check(
            |facts| facts.sources = Some(Vec::new()),
            [
                "fault  read_from tailed:3306 of old shard 0: replicates from nobody",
                "warning  replica spare:3306 of old shard 0: replicates from nobody",
            ],
        );
        check(
            |facts| {
                source(facts).sql = "No".to_owned();
                source(facts).sql_errno = 1032;
            },
            [
                "fault  read_from tailed:3306 of old shard 0: does not replicate: \
                 Slave_IO_Running Yes, Slave_SQL_Running No, Last_SQL_Errno 1032, expected",
                "warning  replica spare:3306 of old shard 0: does not replicate",
            ],
        );
        check(
            |facts| {
                source(facts).server_id = 77;
                for name in ["gtid_binlog_state", "gtid_slave_pos"] {
                    facts.variables.set(name, "1-9-5");
                }
            },
            [
                "fault  read_from tailed:3306 of old shard 0: replicates from h:3306 (server_id 77) \
                 and has nothing that the primary (server_id 1) has written",
                "warning  replica spare:3306",
            ],
        );
        check(
            |facts| facts.sources = None,
            [
                "warning  read_from tailed:3306 of old shard 0: cannot see whether it replicates, \
                 expected to know that it follows its primary; mend: SET SESSION sql_log_bin = 0; GRANT SLAVE MONITOR",
                "warning  replica spare:3306",
            ],
        );
    }

    #[test]
    fn lag_is_measured_against_what_waits_for_it() {
        let behind =
            |s| move |facts: &mut Standing| source(facts).behind = Some(Duration::from_secs(s));
        check(behind(2), ["", ""]);
        check(
            behind(9),
            [
                "warning  read_from tailed:3306 of old shard 0: is 9 s behind, expected at most 1 s",
                "",
            ],
        );
        check(
            behind(90),
            [
                "warning  read_from tailed:3306",
                "warning  replica spare:3306 of old shard 0: is 1 min 30 s behind, expected at most 10 s",
            ],
        );
        check(
            |facts| source(facts).delay = Duration::from_secs(3600),
            ["fault  read_from tailed:3306 of old shard 0: is held 1 h 0 min behind", ""],
        );
    }

    #[test]
    fn what_is_no_copy_is_named() {
        check(
            |facts| facts.schemas.clear(),
            [
                "fault  read_from tailed:3306 of old shard 0: shows no schema s to u",
                "fault  replica spare:3306 of old shard 0: shows no schema s to u",
            ],
        );
        check(
            |facts| facts.variables.set("read_only", "OFF"),
            [
                "warning  read_from tailed:3306 of old shard 0: read_only is off",
                "warning  replica spare:3306 of old shard 0: read_only is off",
            ],
        );
        check(
            |facts| {
                let id = facts.variables.text("server_id").to_owned();
                facts.variables.set("gtid_binlog_state", &format!("1-1-99,1-{id}-40"));
            },
            [
                "warning  read_from tailed:3306 of old shard 0: has written by itself, up to 1-11-40",
                "warning  replica spare:3306 of old shard 0: has written by itself, up to 1-12-40",
            ],
        );
        check(
            |facts| facts.variables.set("server_id", "1"),
            [
                "fault  read_from tailed:3306 of old shard 0: has server_id 1, as its primary",
                "fault  replica spare:3306",
            ],
        );
        let of = |port| {
            move |facts: &mut Standing| {
                facts.variables.set("hostname", "h");
                facts.variables.set("port", port);
            }
        };
        check(
            of("3306"),
            [
                "fault  read_from tailed:3306 of old shard 0: is the primary itself",
                "fault  replica spare:3306",
            ],
        );
        check(
            of("3308"),
            [
                "fault  read_from tailed:3306 of old shard 0: is the server of new shard 0, too",
                "fault  replica spare:3306",
            ],
        );
    }
}
