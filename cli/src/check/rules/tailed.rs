//! A replica that a reader reads in the place of the shard's primary (`read_from`): its binlog
//! must hold everything that the primary's does, and as long.

use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Facts, Part, Survey};

use super::{binlog, durability};

const RULE: &str = "read_from";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for part in survey.replicas().filter(Part::is_tailed) {
        faults.extend(settings(part));
        // InnoDB remembers how far replication was; a binlog that has lost its end has a gap there.
        faults.extend(durability::judge(
            &survey.plan,
            &part.name(),
            &part.facts.variables,
            &durability::READ,
            "1, or a crash of the replica leaves a gap in its binlog that nobody notices",
        ));
        let Some((_, primary)) = survey.primary(part.role.side) else { continue };
        faults.extend(token(part, primary));
        faults.extend(domains(part, primary));
    }
    faults
}

fn settings(part: Part<'_>) -> Vec<Fault> {
    let (subject, variables) = (part.name(), &part.facts.variables);
    let mut faults = binlog::required(&subject, variables);
    // The reader refuses it, though what comes from the primary as rows is logged as rows.
    for fault in faults.iter_mut().filter(|f| f.actual.starts_with("binlog_format")) {
        let set = "SET GLOBAL binlog_format = 'ROW'";
        // What applies keeps its value until it starts anew.
        let statements = [set, "STOP SLAVE", "START SLAVE"];
        fault.mend = Some(Mend::run(Way::SetReplicaBinlogFormat, statements));
    }
    faults.extend(binlog::advised(&subject, variables));
    faults
}

/// The reader knows by its token how far it has come: no token, no progress.
fn token(part: Part<'_>, primary: &Facts) -> Option<Fault> {
    let there = primary.token?;
    let schema = part.schema()?;
    let actual = match schema.token {
        None => "modshift_token does not arrive here".to_owned(),
        Some(here) if here.epoch < there.epoch => format!(
            "modshift_token has epoch {} here and {} on the primary",
            here.epoch, there.epoch
        ),
        Some(_) => return None,
    };
    let severity = match schema.token {
        None => Severity::Fault,
        // It may be on its way.
        Some(_) => Severity::Warning,
    };
    Some(
        Fault::new(severity, RULE, part.name(), actual)
            .expected("the primary's row: the reader waits for it")
            .mend("let it replicate without filters, and grant SELECT on the schema"),
    )
}

/// Reading starts at the primary's position, every GTID domain of which must be in this binlog.
fn domains(part: Part<'_>, primary: &Facts) -> Option<Fault> {
    if !part.facts.variables.is_on("log_slave_updates") {
        return None;
    }
    let here = part.facts.variables.gtids("gtid_binlog_pos");
    let missing: Vec<u32> = primary
        .variables
        .gtids("gtid_binlog_pos")
        .into_iter()
        .map(|gtid| gtid.domain)
        .filter(|domain| !here.iter().any(|gtid| gtid.domain == *domain))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let list = some_of(&missing);
    let actual = format!("its binlog has nothing of GTID domain {list}, which the primary's has");
    Some(
        Fault::new(Severity::Fault, RULE, part.name(), actual)
            .expected("every domain of the primary's gtid_binlog_pos: reading starts there")
            .mend(format!(
                "a write on the primary under that domain; or, where none is written any more, \
                 FLUSH BINARY LOGS DELETE_DOMAIN_ID = ({list}) on the primary"
            )),
    )
}

#[cfg(test)]
mod tests {
    use crate::check::survey::Token;
    use crate::check::survey::made::{lines, survey_further};
    use modshift_proto::message::TokenPhase;
    use std::time::Duration;

    #[test]
    fn what_is_read_must_hold_what_the_primary_writes() {
        let check = |change: &dyn Fn(&mut crate::check::survey::Standing), expected: &[&str]| {
            let phase = TokenPhase::Serving;
            let token = Token { epoch: 7, clock: Duration::ZERO, phase };
            let survey = survey_further(
                |_, facts| facts.token = Some(token),
                |_, facts| {
                    if let Some(schema) = facts.schemas.get_mut("s") {
                        schema.token = Some(token);
                    }
                    change(facts);
                },
            );
            let found = lines(&super::check(&survey));
            assert_eq!(found.len(), expected.len(), "{found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                let subject = "read_from tailed:3306 of old shard 0: ";
                let expected = expected.replacen(": ", &format!("  {subject}"), 1);
                assert!(found.starts_with(&expected), "{found}\n{expected}");
            }
        };
        check(&|_| {}, &[]);
        check(
            &|facts| {
                for (name, value) in [
                    ("binlog_format", "MIXED"),
                    ("binlog_row_image", "MINIMAL"),
                    ("binlog_checksum", "NONE"),
                    ("sync_binlog", "0"),
                ] {
                    facts.variables.set(name, value);
                }
            },
            &[
                "fault: binlog_format is MIXED, expected ROW",
                "fault: binlog_row_image is MINIMAL, expected FULL",
                "warning: binlog_checksum is off",
                "fault: sync_binlog is 0, expected 1, or a crash of the replica leaves a gap",
            ],
        );
        check(
            &|facts| facts.schemas.get_mut("s").into_iter().for_each(|schema| schema.token = None),
            &["fault: modshift_token does not arrive here"],
        );
        check(
            &|facts| facts.variables.set("gtid_binlog_pos", "4-1-3"),
            &["fault: its binlog has nothing of GTID domain 1, which the primary's has"],
        );
    }
}
