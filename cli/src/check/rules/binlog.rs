//! Old shards must log every change as full row images, under GTIDs.

use std::fmt;

use crate::check::fault::{Fault, Severity};
use crate::check::mend::{Mend, Way};
use crate::check::survey::{Survey, Variables};

const RULE: &str = "binlog";
const RECONNECT: &str = "and let every connection open anew: sessions keep their value";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        faults.extend(required(&server.side, &facts.variables));
        faults.extend(advised(&server.side, &facts.variables));
    }
    faults
}

/// What a server must log so that it can be read.
pub fn required(subject: &dyn fmt::Display, variables: &Variables) -> Vec<Fault> {
    let settings = [
        ("log_bin", "ON", "log_bin = binlog under [mariadbd] in my.cnf, and a restart".into()),
        (
            "binlog_format",
            "ROW",
            Mend::set(Way::SetBinlogFormat, "binlog_format", "'ROW'").note(RECONNECT),
        ),
        (
            "binlog_row_image",
            "FULL",
            Mend::set(Way::SetBinlogRowImage, "binlog_row_image", "'FULL'").note(RECONNECT),
        ),
    ];
    let wrong = settings.into_iter().filter_map(|(name, expected, mend)| {
        let actual = variables.text(name);
        (!actual.eq_ignore_ascii_case(expected)).then(|| {
            Fault::new(Severity::Fault, RULE, subject, format!("{name} is {actual}"))
                .expected(expected)
                .mend(mend)
        })
    });
    wrong.collect()
}

/// What makes damage and disorder noticed sooner.
pub fn advised(subject: &dyn fmt::Display, variables: &Variables) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !variables.text("binlog_checksum").eq_ignore_ascii_case("CRC32") {
        faults.push(
            Fault::new(Severity::Warning, RULE, subject, "binlog_checksum is off")
                .expected("CRC32, so that damage on the way is noticed")
                .mend(Mend::set(Way::SetBinlogChecksum, "binlog_checksum", "'CRC32'")),
        );
    }
    if !variables.text("gtid_strict_mode").eq_ignore_ascii_case("ON") {
        faults.push(
            Fault::new(Severity::Note, RULE, subject, "gtid_strict_mode is off")
                .expected(
                    "ON, so that sequence numbers cannot go back; the reader halts if they do",
                )
                .mend(Mend::set(Way::SetGtidStrictMode, "gtid_strict_mode", 1)),
        );
    }
    faults
}
