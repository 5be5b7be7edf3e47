//! A binlog that is read holds every change of the rows of its shard. What would keep some of them
//! out is refused, here and by whoever reads: see [`modshift_mariadb::whole_log`].

use std::fmt;

use modshift_mariadb::Grants;
use modshift_mariadb::whole_log::{Gap, IN_CNF_TOO, LogFacts, Part, gaps};

use crate::check::ahead;
use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::{self, Survey};

const RULE: &str = "whole_log";

pub fn check(survey: &Survey) -> Vec<Fault> {
    // A server that is promoted must have had everything, way back or not.
    let back = ahead::way_back(&survey.plan);
    let read = |side: Side| side.is_old() || survey.is_joined(side) || back;
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| read(server.side)) {
        let grants = &facts.grants;
        let facts = LogFacts {
            variables: facts.variables.all(),
            filters: facts.log_filters.clone().unwrap_or_default(),
            sources: facts.sources.clone(),
        };
        let login = (grants, server.endpoint.user.as_str());
        let part = match survey.is_joined(server.side) {
            true => Part::Replica,
            false => Part::Primary,
        };
        faults.extend(found(&server.side, &facts, part, login));
    }
    for part in survey.replicas().filter(survey::Part::is_tailed) {
        let of_source = |source: &survey::further::Source| source.filters.clone();
        let sources = part.facts.sources.as_ref();
        let facts = LogFacts {
            variables: part.facts.variables.all(),
            filters: part.facts.log_filters.clone().unwrap_or_default(),
            sources: sources.map(|sources| sources.iter().map(of_source).collect()),
        };
        let login = (&part.facts.grants, part.further.endpoint.user.as_str());
        faults.extend(found(&part.name(), &facts, Part::Replica, login));
        faults.extend(several(part));
    }
    faults
}

fn found(
    subject: &dyn fmt::Display,
    facts: &LogFacts,
    part: Part,
    (grants, user): (&Grants, &str),
) -> Vec<Fault> {
    let fault = |gap: Gap| {
        let fault = Fault::new(Severity::Fault, RULE, subject, gap.to_string());
        let way = if gap.is_of_sessions() { Way::SetInitConnect } else { Way::SetReplication };
        let mend = match gap.statements.is_empty() {
            true if gap.is_of_rights() => {
                let account = mend::account(grants, user);
                let grant = format!("GRANT SLAVE MONITOR ON *.* TO {account}");
                Mend::run(Way::GrantGlobal, [grant])
            }
            true => gap.advice.into(),
            false => {
                let mend = Mend::run(way, gap.statements);
                // The mend itself says which lines those are.
                let rest = gap.advice.strip_prefix(IN_CNF_TOO).unwrap_or(&gap.advice);
                match rest.trim_start_matches("; ") {
                    "" => mend,
                    rest => mend.note(rest),
                }
            }
        };
        fault.expected(gap.wanted).mend(mend)
    };
    gaps(facts, part).into_iter().map(fault).collect()
}

/// Its binlog has what all of them write: in one GTID domain their sequence numbers would not rise.
fn several(part: survey::Part<'_>) -> Option<Fault> {
    let sources = part.facts.sources.as_ref().filter(|sources| sources.len() > 1)?;
    let names: Vec<String> =
        sources.iter().map(|source| format!("{}:{}", source.host, source.port)).collect();
    let actual = format!("replicates by {} connections: {}", names.len(), names.join(", "));
    let fault = Fault::new(Severity::Warning, RULE, part.name(), actual);
    let fault =
        fault.expected("one, or servers that write other schemas under GTID domains of their own");
    Some(fault.mend("read from a replica of this shard alone, or give each source its own domain"))
}

#[cfg(test)]
mod tests {
    use crate::check::survey::made::{lines, survey, survey_further};

    #[test]
    fn a_log_that_leaves_something_out_is_a_fault_wherever_it_is_read() {
        let found = lines(&super::check(&survey(|which, facts| {
            if which == 1 || which == 3 {
                facts.log_filters = Some(vec![("binlog_ignore_db".into(), "ctl".into())]);
            }
        })));
        assert_eq!(found.len(), 2, "{found:#?}");
        for (found, shard) in found.iter().zip(["old shard 1", "new shard 1"]) {
            let line = format!("fault  {shard}: binlog_ignore_db is ctl, so that statements of");
            assert!(found.starts_with(&line), "{found}");
        }
    }

    #[test]
    fn filters_and_skips_of_a_replica_count_where_it_is_read() {
        let found = lines(&super::check(&survey_further(
            |_, _| {},
            |which, facts| {
                if which < 2 {
                    facts.variables.set("slave_exec_mode", "IDEMPOTENT");
                    let mut second = facts.sources.as_ref().unwrap()[0].clone();
                    second.filters = vec![("Replicate_Do_DB".into(), "s".into())];
                    facts.sources.as_mut().unwrap().push(second);
                }
            },
        )));
        let of = |rest: &str| format!("fault  read_from tailed:3306 of old shard 0: {rest}");
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with(&of("replicate_do_db is s, so that")), "{found:#?}");
        assert!(found[1].starts_with(&of("slave_exec_mode is IDEMPOTENT")), "{found:#?}");
        assert!(found[2].contains("replicates by 2 connections"), "{found:#?}");
    }
}
