//! Settings on which correct rows depend and which a statement has set: the next start of the server
//! takes what its own configuration says, and that no server shows while the statement holds.

use std::fmt;

use crate::check::ahead;
use crate::check::configuration;
use crate::check::fault::{Fault, Severity, once_each};
use crate::check::survey::{Survey, Variables};

const RULE: &str = "restart";

/// What ends a reader, or makes it read less than was written, once it has its former value.
const LOGGED: [&str; 10] = [
    "binlog_format",
    "binlog_row_image",
    "binlog_row_metadata",
    "binlog_checksum",
    "binlog_expire_logs_seconds",
    "expire_logs_days",
    "gtid_strict_mode",
    "gtid_domain_id",
    "server_id",
    "sync_binlog",
];

/// What loses rows, keeps them out of a binlog, or refuses them, wherever modshift or the application
/// writes.
const WRITTEN: [&str; 13] = [
    "innodb_flush_log_at_trx_commit",
    "max_allowed_packet",
    "max_statement_time",
    "sql_mode",
    "time_zone",
    "init_connect",
    "init_slave",
    "slave_exec_mode",
    "slave_run_triggers_for_rbr",
    "slave_type_conversions",
    "replicate_events_marked_for_skip",
    "innodb_strict_mode",
    "max_connections",
];

/// What fences, openings and handovers set too: judged only where no run has left them.
const SWITCHED: [&str; 4] =
    ["read_only", "event_scheduler", "auto_increment_increment", "auto_increment_offset"];

/// All of them, as the survey asks for them.
pub fn names() -> impl Iterator<Item = &'static str> {
    LOGGED.into_iter().chain(WRITTEN).chain(SWITCHED)
}

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (server, facts) in survey.reached() {
        let logged = server.side.is_old() || ahead::way_back(&survey.plan);
        // Until a run begins these are nobody's but the operator's.
        let switched = facts.token.is_none() && !facts.beside.left && !facts.handed_over;
        let judged = names()
            .filter(|name| logged || !LOGGED.contains(name))
            .filter(|name| switched || !SWITCHED.contains(name));
        let found = of_server(&server.side, &facts.variables, judged);
        faults.extend(found.map(|fault| (facts.variables.identity(), fault)));
    }
    for part in survey.replicas() {
        // A fence closes replicas too, and leaves them closed.
        let judged = names()
            .filter(|name| part.is_tailed() || !LOGGED.contains(name))
            .filter(|name| *name == "read_only" || !SWITCHED.contains(name));
        let found = of_server(&part.name(), &part.facts.variables, judged);
        faults.extend(found.map(|fault| (part.facts.variables.identity(), fault)));
    }
    // A server may have several shards.
    once_each(faults)
}

fn of_server<'a>(
    subject: &dyn fmt::Display,
    variables: &Variables,
    judged: impl Iterator<Item = &'a str>,
) -> Option<Fault> {
    let set: Vec<&str> = judged.filter(|name| variables.is_set_by_statement(name)).collect();
    if set.is_empty() {
        return None;
    }
    let shown: Vec<String> =
        set.iter().map(|name| format!("{name} = '{}'", variables.text(name))).collect();
    let lines: Vec<String> =
        set.iter().map(|name| configuration::line(name, variables.text(name))).collect();
    let actual = format!(
        "{} set by SET GLOBAL since the server was started: a restart takes what its configuration \
         says instead",
        match shown.as_slice() {
            [one] => format!("{one} was"),
            all => format!("{} were", all.join(", ")),
        }
    );
    Some(
        Fault::new(Severity::Warning, RULE, subject, actual)
            .expected(
                "the same in the configuration; no server shows whether it is, so this warning goes \
                 with the next start",
            )
            .mend(format!("under [mariadbd] in my.cnf: {}", lines.join(", "))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::survey::made::{lines, survey, survey_further};

    #[test]
    fn what_only_a_statement_has_set_is_told_with_its_lines() {
        let made = survey(|which, facts| {
            if which == 1 {
                for (name, value) in [
                    ("binlog_format", "ROW"),
                    ("sql_mode", "ANSI,STRICT_ALL_TABLES"),
                    ("init_connect", ""),
                    ("sort_buffer_size", "1"),
                ] {
                    facts.variables.set(name, value);
                    facts.variables.set_origin(name, "SQL");
                }
                facts.variables.set("sync_binlog", "1");
                facts.variables.set_origin("sync_binlog", "CONFIG");
            }
        });
        let found = lines(&check(&made));
        assert_eq!(found.len(), 1, "{found:#?}");
        let start = "warning  old shard 1: binlog_format = 'ROW', sql_mode = 'ANSI,STRICT_ALL_TABLES', \
                     init_connect = '' were set by SET GLOBAL";
        assert!(found[0].starts_with(start), "{found:#?}");
        let end = "mend: under [mariadbd] in my.cnf: binlog_format = ROW, sql_mode = \
                   ANSI,STRICT_ALL_TABLES, no line init_connect";
        assert!(found[0].ends_with(end), "{found:#?}");
    }

    #[test]
    fn what_a_fence_has_set_is_its_own() {
        let made = |left: bool| {
            survey(move |which, facts| {
                if which == 0 {
                    facts.beside.left = left;
                    facts.variables.set("read_only", "ON");
                    facts.variables.set_origin("read_only", "SQL");
                }
            })
        };
        assert_eq!(check(&made(false)).len(), 1);
        assert_eq!(check(&made(true)).len(), 0);
    }

    #[test]
    fn the_log_of_a_replica_counts_where_it_is_read() {
        let made = survey_further(
            |_, _| {},
            |_, facts| {
                facts.variables.set("binlog_row_image", "FULL");
                facts.variables.set_origin("binlog_row_image", "SQL");
            },
        );
        let found = lines(&check(&made));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("read_from tailed:3306 of old shard 0"), "{found:#?}");
    }
}
