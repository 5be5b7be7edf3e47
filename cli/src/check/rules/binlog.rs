//! Old shards must log every change as full row images, under GTIDs.

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "binlog";
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let mut require = |name: &str, expected: &str, mend: &str| {
            let actual = facts.variable(name);
            if !actual.eq_ignore_ascii_case(expected) {
                faults.push(
                    Fault::new(Severity::Fault, RULE, server.side, format!("{name} is {actual}"))
                        .expected(expected)
                        .mend(mend),
                );
            }
        };
        require("log_bin", "ON", "log_bin = binlog under [mariadbd] in my.cnf, and a restart");
        let reconnect = "and let every connection open anew: sessions keep their value";
        let format = format!("SET GLOBAL binlog_format = 'ROW' {reconnect}");
        require("binlog_format", "ROW", &format);
        let image = format!("SET GLOBAL binlog_row_image = 'FULL' {reconnect}");
        require("binlog_row_image", "FULL", &image);
        if !facts.variable("binlog_checksum").eq_ignore_ascii_case("CRC32") {
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, "binlog_checksum is off")
                    .expected("CRC32, so that damage on the way is noticed")
                    .mend("SET GLOBAL binlog_checksum = 'CRC32'"),
            );
        }
        if !facts.variable("gtid_strict_mode").eq_ignore_ascii_case("ON") {
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, "gtid_strict_mode is off")
                    .expected(
                        "ON, so that sequence numbers cannot go back; the reader halts if they do",
                    )
                    .mend("SET GLOBAL gtid_strict_mode = 1"),
            );
        }
    }
    faults
}
