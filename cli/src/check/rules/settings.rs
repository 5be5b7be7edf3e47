//! Rules over server variables: version, binlog, packet size, durability.

use super::fault::{Fault, Severity};
use super::survey::{Facts, Survey};

/// Older servers lack BINLOG MONITOR and `INSERT ... RETURNING`-era GTID fixes; never tried.
const VERSION_MIN: (u32, u32) = (10, 5);
const VERSION_TESTED: (u32, u32) = (10, 11);

/// `10.11.6-MariaDB-…`; `None` for what is not MariaDB.
fn version_of(text: &str) -> Option<(u32, u32)> {
    if !text.contains("MariaDB") {
        return None;
    }
    // Older proxies announce 5.5.5-10.x to please MySQL clients.
    let text = text.strip_prefix("5.5.5-").unwrap_or(text);
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub fn check_version(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "version";
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let fault =
            |severity| Fault::new(severity, RULE, server.side, format!("is {}", facts.version));
        let tested = format!("{}.{}", VERSION_TESTED.0, VERSION_TESTED.1);
        match version_of(&facts.version) {
            None => faults.push(fault(Severity::Fault).expected("MariaDB")),
            Some(version) if version < VERSION_MIN => {
                let least = format!("MariaDB {}.{} or later", VERSION_MIN.0, VERSION_MIN.1);
                faults.push(fault(Severity::Fault).expected(least));
            }
            Some(version) if version != VERSION_TESTED => {
                faults.push(fault(Severity::Note).expected(format!("{tested}, which is tested")));
            }
            Some(_) => {}
        }
    }
    faults
}

fn variable<'a>(facts: &'a Facts, name: &str) -> &'a str {
    facts.variables.get(name).map_or("", String::as_str)
}

/// Old shards must log every change as full row images, under GTIDs.
pub fn check_binlog(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "binlog";
    let mut faults = Vec::new();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let mut require = |name: &str, expected: &str, mend: &str| {
            let actual = variable(facts, name);
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
        if !variable(facts, "binlog_checksum").eq_ignore_ascii_case("CRC32") {
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, "binlog_checksum is off")
                    .expected("CRC32, so that damage on the way is noticed")
                    .mend("SET GLOBAL binlog_checksum = 'CRC32'"),
            );
        }
        if !variable(facts, "gtid_strict_mode").eq_ignore_ascii_case("ON") {
            faults.push(
                Fault::new(Severity::Note, RULE, server.side, "gtid_strict_mode is off")
                    .expected(
                        "ON, so that sequence numbers cannot go back; the reader halts if they do",
                    )
                    .mend("SET GLOBAL gtid_strict_mode = 1"),
            );
        }
        faults.extend(short_lived(server.side, facts));
    }
    faults
}

/// A copy of a large table takes hours, and a reader that was down must find what it missed.
fn short_lived(side: super::fault::Side, facts: &Facts) -> Option<Fault> {
    const KEPT_MIN_S: f64 = 86_400.0;
    let seconds = variable(facts, "binlog_expire_logs_seconds").parse().unwrap_or(0.0);
    let days = variable(facts, "expire_logs_days").parse().unwrap_or(0.0);
    let kept = if seconds > 0.0 { seconds } else { days * 86_400.0 };
    (kept > 0.0 && kept < KEPT_MIN_S).then(|| {
        Fault::new(Severity::Warning, "binlog", side, format!("binlogs are kept for {kept} s only"))
            .expected("at least a day, the longest that a reader may be down")
            .mend("SET GLOBAL binlog_expire_logs_seconds = 604800")
    })
}

/// A row that an old shard could take must fit through to every new one.
pub fn check_packet(survey: &Survey) -> Vec<Fault> {
    const NAME: &str = "max_allowed_packet";
    let size = |facts: &Facts| variable(facts, NAME).parse::<u64>().unwrap_or(0);
    let largest = survey
        .reached()
        .filter(|(server, _)| server.side.is_old())
        .map(|(server, facts)| (size(facts), server.side))
        .max();
    let Some((needed, widest)) = largest else { return Vec::new() };
    let narrow =
        survey.reached().filter(|(server, facts)| !server.side.is_old() && size(facts) < needed);
    narrow
        .map(|(server, facts)| {
            let actual = format!("{NAME} is {}", size(facts));
            Fault::new(Severity::Fault, "packet", server.side, actual)
                .expected(format!("at least {needed}, as on {widest}"))
                .mend(format!("SET GLOBAL {NAME} = {needed}"))
        })
        .collect()
}

/// A server that may lose its last transactions in a crash gives old GTIDs to new ones.
pub fn check_durability(survey: &Survey) -> Vec<Fault> {
    let accepted = survey.plan.check.accept_unsafe_durability;
    let severity = if accepted { Severity::Warning } else { Severity::Fault };
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let mut names = vec!["innodb_flush_log_at_trx_commit"];
        if server.side.is_old() {
            names.push("sync_binlog");
        }
        for name in names {
            let actual = variable(facts, name);
            if actual != "1" {
                faults.push(
                    Fault::new(severity, "durability", server.side, format!("{name} is {actual}"))
                        .expected(match server.side.is_old() {
                            true => "1, or a crash of the server loses what was already sent on",
                            false => "1, or a crash of the server loses what was acknowledged",
                        })
                        .mend(format!(
                            "SET GLOBAL {name} = 1, or check.accept_unsafe_durability = true"
                        )),
                );
            }
        }
    }
    faults
}

/// Two replicas under one server id cut each other off.
pub fn check_server_id(survey: &Survey) -> Vec<Fault> {
    const RULE: &str = "server_id";
    let mut faults = Vec::new();
    let own_ids: Vec<(u32, String)> = survey
        .reached()
        .map(|(server, facts)| {
            (variable(facts, "server_id").parse().unwrap_or(0), server.side.to_string())
        })
        .collect();
    for (server, facts) in survey.reached().filter(|(server, _)| server.side.is_old()) {
        let id = server.endpoint.replica_server_id;
        let mend = "choose another replica_server_id in the plan";
        for (taken, who) in own_ids.iter().filter(|(taken, _)| *taken == id) {
            let actual = format!("replica_server_id {taken} is the server_id of {who} itself");
            faults.push(Fault::new(Severity::Fault, RULE, server.side, actual).mend(mend));
        }
        match &facts.replica_ids {
            Some(ids) if ids.contains(&id) => {
                let actual = format!(
                    "a replica with server_id {id} is connected: a running replicator of this \
                     plan, or a stranger that will be cut off"
                );
                faults.push(Fault::new(Severity::Warning, RULE, server.side, actual).mend(mend));
            }
            Some(_) => {}
            None => {
                let actual = "cannot see the server ids of connected replicas";
                let mend = "GRANT REPLICATION MASTER ADMIN, or make sure that no replica uses";
                faults.push(
                    Fault::new(Severity::Note, RULE, server.side, actual)
                        .mend(format!("{mend} {id}")),
                );
            }
        }
    }
    faults
}

/// Lag is told by each old shard's own clock, so a wrong clock harms nobody; it confuses people.
pub fn check_clock(survey: &Survey) -> Vec<Fault> {
    const SKEW_MAX_US: u64 = 1_000_000;
    let skewed = survey.reached().filter(|(_, f)| f.clock_ahead_us.unsigned_abs() > SKEW_MAX_US);
    skewed
        .map(|(server, facts)| {
            let skew_s = facts.clock_ahead_us as f64 / 1e6;
            let word = if skew_s > 0.0 { "ahead of" } else { "behind" };
            let actual = format!("its clock is {:.1} s {word} this host's", skew_s.abs());
            Fault::new(Severity::Note, "clock", server.side, actual)
        })
        .collect()
}

pub fn check_xa(survey: &Survey) -> Vec<Fault> {
    let pending = survey.reached().filter(|(_, facts)| !facts.xa.is_empty());
    pending
        .map(|(server, facts)| {
            let list = super::fault::some_of(&facts.xa);
            let actual = format!("has prepared XA transactions: {list}");
            Fault::new(Severity::Fault, "xa", server.side, actual)
                .expected("none, since their rows lie before where reading starts")
                .mend("XA COMMIT or XA ROLLBACK each of XA RECOVER")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(version_of("10.11.19-MariaDB-0+deb12u1-log"), Some((10, 11)));
        assert_eq!(version_of("5.5.5-10.4.3-MariaDB"), Some((10, 4)));
        assert_eq!(version_of("8.0.36"), None);
    }
}
