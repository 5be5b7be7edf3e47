//! Does the server to promote replicate from this primary, from nobody else, and right now?

use std::time::Duration;

use super::joined;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::report::span;
use crate::check::survey::further::Source;
use crate::check::survey::{Both, Pair, Survey};

const RULE: &str = "promotion";
/// The server counts lag in whole seconds, and shows one for a moment where there is none.
const LAG_SEEN_MIN: Duration = Duration::from_secs(2);

/// Pairs of which one side did not answer, though each was reached before.
pub fn reach(survey: &Survey) -> Vec<Fault> {
    let known = |message: &str| {
        survey.servers.iter().any(|s| s.facts.as_ref().err().is_some_and(|e| e.message == message))
    };
    let missed = survey.pairs.iter().filter_map(|pair| {
        let error = pair.facts.as_ref().err().filter(|error| !known(&error.message))?;
        let hint = error.hint.as_deref().unwrap_or("see the server's error log, then check again");
        Some(
            Fault::new(Severity::Fault, "reach", pair.name(), &*error.message)
                .expected("an answer")
                .mend(hint),
        )
    });
    missed.collect()
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = split(survey);
    faults.extend(joined(survey).flat_map(|(pair, both)| of_pair(survey, pair, both)));
    faults
}

/// Servers that go on by themselves. Whatever is wrong with one, it is left alone: its rows may be on no
/// other server.
fn split(survey: &Survey) -> Vec<Fault> {
    let split: Vec<(&Pair, &Both)> = survey
        .pairs
        .iter()
        .filter(|pair| pair.is_split())
        .filter_map(|pair| Some((pair, pair.facts.as_ref().ok()?)))
        .collect();
    let mut faults = Vec::new();
    if survey.is_split() {
        let list = some_of(split.iter().map(|(pair, _)| &pair.at));
        let actual = format!(
            "the estate is split already: at {list} replication has ended, and transactions of their own \
             followed; there is nothing left to promote"
        );
        let subject = format!("plan {}", survey.plan.name);
        faults.push(
            Fault::new(Severity::Note, RULE, subject, actual)
                .expected("rows that live elsewhere by now on each of them, until they are deleted")
                .mend(
                    "none: such a plan is checked, and nothing is promoted. A server that was only filled \
                     from a dump, with its binlog on, and never served looks the same: CHANGE MASTER TO \
                     the primary is for that one alone",
                ),
        );
    }
    for (pair, both) in split {
        let fault = |severity, actual: &str| Fault::new(severity, RULE, pair.name(), actual);
        if !survey.is_split() {
            faults.push(
                fault(
                    Severity::Fault,
                    "serves by itself already: its replication has ended, and it has transactions that \
                     its primary lacks, while others still replicate",
                )
                .expected("all servers of the plan to be split, or none")
                .mend(
                    "leave it as it is: its rows may be on no other server. The others are split in the \
                     way in which this one was; only one that has never served is built anew",
                ),
            );
        }
        if both.replica.variables.is_on("read_only") {
            faults.push(
                fault(
                    Severity::Fault,
                    "replicates from nobody and has transactions of its own, and read_only is ON",
                )
                .expected("OFF on a server that serves by itself, or replication from its primary")
                .mend(
                    "see whether it served before a restart: then end read_only there (and take it out of \
                     my.cnf). Where it never did, and what it wrote is known, build it anew from the \
                     primary",
                ),
            );
        }
        if both.sources.as_ref().is_some_and(|sources| !sources.is_empty()) {
            faults.push(
                fault(
                    Severity::Warning,
                    "serves by itself, and its replication is only stopped: a restart may begin it again",
                )
                .expected("no source: what comes from it changes rows of a shard that serves")
                .mend("if it serves as a shard, RESET SLAVE ALL there (for each connection by its name)"),
            );
        }
    }
    faults
}

fn of_pair(survey: &Survey, pair: &Pair, both: &Both) -> Vec<Fault> {
    let fault = |actual: String| Fault::new(Severity::Fault, RULE, pair.name(), actual);
    let variables = (&both.replica.variables, &both.primary.variables);
    if variables.0.identity() == variables.1.identity() {
        return vec![
            fault("is the primary itself, by another name".to_owned())
                .expected("another server, which replicates from it")
                .mend("correct the replicas of the old shard in the plan"),
        ];
    }
    // What may not be seen is for `whole_log` to say.
    let Some(sources) = &both.sources else { return Vec::new() };
    let id = both.primary.server_id();
    let (straight, others): (Vec<&Source>, Vec<&Source>) = sources
        .iter()
        .partition(|source| source.server_id == id || is_unreached(source, pair, survey));
    let mut faults: Vec<Fault> = others
        .iter()
        .map(|source| {
            let from = format!(
                "replicates from {}:{} (server_id {}), which is not {}",
                source.host, source.port, source.server_id, pair.home
            );
            fault(from)
                .expected(format!(
                    "replication from {} (server_id {id}) and from nobody else: what comes from \
                     elsewhere would go on changing a shard that serves",
                    pair.home
                ))
                .mend(
                    "correct the replicas of the old shards in the plan; or on that server STOP SLAVE \
                     and RESET SLAVE ALL for this source, by its connection name, and CHANGE MASTER TO \
                     the primary where it lacks that",
                )
        })
        .collect();
    match straight.first() {
        None if others.is_empty() => {
            let open = match both.replica.variables.is_on("read_only") {
                true => "",
                false => " and takes writes (read_only is OFF)",
            };
            faults.push(
                fault(format!("replicates from nobody{open}"))
                    .expected(format!("replication from {}", pair.home))
                    .mend(
                        "see first whether applications write there: a server that serves as a shard \
                         already has rows that are on no other, and is left alone. One that was never \
                         joined, or was stopped by mistake, is made read-only and told to follow: CHANGE \
                         MASTER TO the primary with MASTER_USE_GTID = slave_pos, START SLAVE",
                    ),
            );
        }
        None => {}
        Some(source) => faults.extend(of_source(survey, pair, both, source)),
    }
    faults
}

/// It never came as far as to learn who is there: what it is told to go to then counts.
fn is_unreached(source: &Source, pair: &Pair, survey: &Survey) -> bool {
    let primary = &survey.plan.old[usize::from(pair.home.0)];
    source.server_id == 0 && source.port == primary.port
}

fn of_source(survey: &Survey, pair: &Pair, both: &Both, source: &Source) -> Vec<Fault> {
    let fault = |actual: String| Fault::new(Severity::Fault, RULE, pair.name(), actual);
    if !source.runs() {
        let mut actual = format!(
            "does not replicate: Slave_IO_Running {}, Slave_SQL_Running {}",
            source.io, source.sql
        );
        // Numbers only: the text of an error may hold values of rows.
        for (name, number) in
            [("Last_IO_Errno", source.io_errno), ("Last_SQL_Errno", source.sql_errno)]
        {
            if number != 0 {
                actual += &format!(", {name} {number}");
            }
        }
        return vec![
            fault(actual)
                .expected("both to be Yes")
                .mend("SHOW ALL SLAVES STATUS there, mend what it names, START SLAVE"),
        ];
    }
    let mut faults = Vec::new();
    let written = both.primary.variables.gtids("gtid_binlog_state");
    let common = written.iter().any(|gtid| {
        let mut theirs = both.replica.variables.gtids("gtid_binlog_state");
        theirs.extend(both.replica.variables.gtids("gtid_slave_pos"));
        theirs.iter().any(|g| (g.domain, g.server) == (gtid.domain, gtid.server))
    });
    if !written.is_empty() && !common {
        faults.push(
            fault(format!(
                "replicates from a server with server_id {}, as {} has it, and has no GTID of that one",
                source.server_id, pair.home
            ))
            .expected("a replica of this very server")
            .mend("look at what answers there: two servers have one server_id, or it was set up anew"),
        );
    }
    if source.delay > Duration::ZERO {
        faults.push(
            fault(format!("is held {} behind its primary (MASTER_DELAY)", span(source.delay)))
                .expected("no delay: the pause would wait for it")
                .mend(Mend::run(
                    Way::RemoveDelay,
                    ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"],
                )),
        );
    }
    let limit = survey.plan.gate.max_lag;
    if let Some(behind) = source.behind.filter(|&behind| behind > limit.max(LAG_SEEN_MIN)) {
        faults.push(
            fault(format!("is {} behind", span(behind)))
                .expected(format!("at most {}, gate.max_lag: the pause waits for it", span(limit)))
                .mend("wait for it, or set slave_parallel_threads and slave_parallel_mode"),
        );
    }
    if source.using_gtid.eq_ignore_ascii_case("No") {
        faults.push(
            fault("replicates by file and offset (Using_Gtid is No)".to_owned())
                .expected("Slave_Pos: it is stopped, joined again and compared by GTID")
                .mend(
                    "let it go on by GTID: STOP SLAVE, CHANGE MASTER TO MASTER_USE_GTID = slave_pos, START \
                     SLAVE",
                ),
        );
    }
    faults
}
