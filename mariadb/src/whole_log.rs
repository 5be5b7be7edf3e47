//! Does a server's binlog hold every change of the rows that are there?
//!
//! Settings let a binlog look complete while it is not: the token that modshift writes arrives, and
//! changes of the application do not. Whoever reads a binlog asks these before it reads, each time
//! it connects and now and then meanwhile; `check` asks the same. [`read`] asks, [`gaps`] judges.
//!
//! What no setting shows is not here: a session with BINLOG ADMIN that switches `sql_log_bin` off
//! (`check` names who may), and what a replica skipped before it was looked at
//! (`sql_slave_skip_counter`, a position moved by hand).

use std::collections::HashMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::error::{self, ServerError};

const SHOW_SOURCES: &str = "SHOW ALL SLAVES STATUS";
const DOING: &str = "asking what its binlog leaves out";

/// What the server is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The application writes here.
    Primary,
    /// Read in the place of its primary.
    Replica,
}

/// A setting by which changes go missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, so that {lost}")]
pub struct Gap {
    pub setting: String,
    pub value: String,
    /// What the binlog then lacks.
    pub lost: &'static str,
    pub wanted: &'static str,
    /// Statements that mend it, if there are some.
    pub statements: Vec<String>,
    /// What else is to be done, or all that is.
    pub advice: String,
}

impl Gap {
    /// For people.
    pub fn mend(&self) -> String {
        let parts = self.statements.iter().chain([&self.advice]);
        parts.filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Is it only that nobody may look?
    pub fn is_of_rights(&self) -> bool {
        self.setting == SHOW_SOURCES
    }

    /// Does it concern what new sessions begin with?
    pub fn is_of_sessions(&self) -> bool {
        self.setting.starts_with("init_")
    }
}

/// Names and values of settings, as the server prints them.
pub type Settings = Vec<(String, String)>;

#[derive(Clone, Debug, Default)]
pub struct LogFacts {
    /// `SHOW GLOBAL VARIABLES`.
    pub variables: HashMap<String, String>,
    /// Of `SHOW MASTER STATUS`: what is not logged.
    pub filters: Settings,
    /// For each connection that it replicates by, what that leaves out. `None`: the account may not
    /// see them.
    pub sources: Option<Vec<Settings>>,
}

/// Asks a server. It takes BINLOG MONITOR; of a replica that is read, SLAVE MONITOR too.
pub async fn read(conn: &mut Conn, at: &str) -> Result<LogFacts, ServerError> {
    let failed = |error| error::of(at, DOING, error);
    let variables: Vec<(String, String)> =
        conn.query("SHOW GLOBAL VARIABLES").await.map_err(failed)?;
    let filters = filters(conn).await.map_err(failed)?;
    let sources: Option<Vec<Row>> = match conn.query(SHOW_SOURCES).await {
        Ok(rows) => Some(rows),
        Err(error) => match failed(error) {
            ServerError::Privilege { .. } => None,
            error => return Err(error),
        },
    };
    let sources = sources.map(|rows| rows.iter().map(left_out).collect());
    Ok(LogFacts { variables: variables.into_iter().collect(), filters, sources })
}

/// What the server does not log, by its own options. Empty without a binlog.
pub async fn filters(conn: &mut Conn) -> mysql_async::Result<Settings> {
    let row: Option<Row> = conn.query_first("SHOW MASTER STATUS").await?;
    let names = [("Binlog_Do_DB", "binlog_do_db"), ("Binlog_Ignore_DB", "binlog_ignore_db")];
    let value = |column: &str| row.as_ref()?.get_opt::<String, _>(column)?.ok();
    let set = names.into_iter().filter_map(|(column, name)| Some((name, value(column)?)));
    Ok(set.filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n.to_owned(), v)).collect())
}

/// The filters in a row of `SHOW ALL SLAVES STATUS`.
pub fn left_out(row: &Row) -> Settings {
    let columns = row.columns_ref().iter().map(|column| column.name_str().into_owned());
    let value = |column: &str| row.get_opt::<String, _>(column).and_then(Result::ok);
    columns
        .filter(|column| column.starts_with("Replicate_"))
        .filter_map(|column| Some((column.clone(), value(&column)?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// Everything by which the binlog of this server lacks changes of its rows or of its primary's.
pub fn gaps(facts: &LogFacts, part: Part) -> Vec<Gap> {
    let mut found = Found { facts, gaps: Vec::new() };
    found.of_any();
    if found.replicates() || part == Part::Replica {
        found.of_what_replicates(part);
    }
    if part == Part::Replica {
        found.of_a_replica();
    }
    found.gaps
}

const IN_CNF: &str = "under [mariadbd] in my.cnf, and restart the server";
/// Of a mend by statement.
pub const IN_CNF_TOO: &str = "and the same in my.cnf";

/// Settings of replication are changed while it stands.
fn while_stopped(statement: String) -> Vec<String> {
    vec!["STOP ALL SLAVES".to_owned(), statement, "START ALL SLAVES".to_owned()]
}

struct Found<'a> {
    facts: &'a LogFacts,
    gaps: Vec<Gap>,
}

impl Found<'_> {
    /// Empty where this version does not know the variable.
    fn value(&self, name: &str) -> &str {
        self.facts.variables.get(name).map_or("", String::as_str)
    }

    fn add(
        &mut self,
        setting: &str,
        value: &str,
        lost: &'static str,
        wanted: &'static str,
        advice: String,
    ) {
        self.add_with(setting, value, lost, wanted, (Vec::new(), advice));
    }

    fn add_with(
        &mut self,
        setting: &str,
        value: &str,
        lost: &'static str,
        wanted: &'static str,
        (statements, advice): (Vec<String>, String),
    ) {
        let (setting, value) = (setting.to_owned(), value.to_owned());
        self.gaps.push(Gap { setting, value, lost, wanted, statements, advice });
    }

    /// A variable that has another value than the harmless one; unknown ones are harmless.
    fn unless(&mut self, name: &str, harmless: &str, lost: &'static str, wanted: &'static str) {
        let value = self.value(name).to_owned();
        if !value.is_empty() && !value.eq_ignore_ascii_case(harmless) {
            // A number is no text to the server.
            let literal = match harmless.parse::<u64>() {
                Ok(number) => number.to_string(),
                Err(_) => format!("'{harmless}'"),
            };
            let statements = while_stopped(format!("SET GLOBAL {name} = {literal}"));
            self.add_with(name, &value, lost, wanted, (statements, IN_CNF_TOO.to_owned()));
        }
    }

    fn of_any(&mut self) {
        for (name, value) in &self.facts.filters {
            // Statements go by the default schema of their session, whatever table they name.
            let lost = "statements of sessions in other schemas are not logged, though they \
                        change tables of this one (USE other; TRUNCATE this.t)";
            self.add(name, value, lost, "no filter", format!("take {name} out {IN_CNF}"));
        }
        if ["ON", "1"].contains(&self.value("wsrep_on")) {
            let lost = "other nodes of the Galera cluster write rows under positions of their own, \
                        and a state transfer brings rows that no binlog has";
            let mend = "reshard from servers outside of the cluster: an asynchronous replica of it \
                        that is made the primary of the shard";
            self.add("wsrep_on", "ON", lost, "OFF", mend.to_owned());
        }
        self.hidden_by("init_connect");
    }

    /// What every session begins with.
    fn hidden_by(&mut self, name: &str) {
        const WORDS: [&str; 2] = ["sql_log_bin", "skip_replication"];
        let value = self.value(name).to_owned();
        if WORDS.iter().any(|word| value.to_ascii_lowercase().contains(word)) {
            let lost = "sessions begin with their changes kept out of the binlog";
            let wanted = "none that touches sql_log_bin or skip_replication";
            let statements = vec![format!("SET GLOBAL {name} = ''")];
            let advice = format!("{IN_CNF_TOO}; sessions that are open keep what they began with");
            self.add_with(name, &value, lost, wanted, (statements, advice));
        }
    }

    /// An account that may not see connections sees at least that changes of others came.
    fn replicates(&self) -> bool {
        match &self.facts.sources {
            Some(sources) => !sources.is_empty(),
            None => !self.value("gtid_slave_pos").is_empty(),
        }
    }

    fn of_what_replicates(&mut self, part: Part) {
        if !["ON", "1"].contains(&self.value("log_slave_updates")) {
            let value = self.value("log_slave_updates").to_owned();
            let lost = match part {
                Part::Primary => "what it applies from another server is not in its binlog",
                Part::Replica => "its binlog has nothing of what the primary writes",
            };
            let unseen = self.facts.sources.is_none();
            let mend = match (part, unseen) {
                (Part::Primary, true) => format!(
                    "log_slave_updates = ON {IN_CNF}; or, if it replicates from nobody any more, \
                     GRANT SLAVE MONITOR ON *.* to the account of the plan, to show that"
                ),
                (Part::Primary, false) => format!(
                    "log_slave_updates = ON {IN_CNF}; or RESET SLAVE ALL, if it need not replicate"
                ),
                (Part::Replica, _) => format!("log_slave_updates = ON {IN_CNF}"),
            };
            self.add("log_slave_updates", &value, lost, "ON", mend);
        }
        if self.value("slave_run_triggers_for_rbr").eq_ignore_ascii_case("YES") {
            let lost = "triggers change rows here again, and that is not logged";
            self.unless("slave_run_triggers_for_rbr", "NO", lost, "NO");
        }
        self.hidden_by("init_slave");
    }

    fn of_a_replica(&mut self) {
        let Some(sources) = &self.facts.sources else {
            let mend = "GRANT SLAVE MONITOR ON *.* to the account of the plan".to_owned();
            let lost = "nobody knows what it leaves out of the primary's changes";
            let wanted = "an account that may see them";
            return self.add(SHOW_SOURCES, "not allowed", lost, wanted, mend);
        };
        // A filter of a connection that is yet to be made stands in the variables only.
        let harmless = ["replicate_annotate_row_events", "replicate_events_marked_for_skip"];
        let of_server = self.facts.variables.iter().filter(|(name, value)| {
            name.starts_with("replicate_")
                && !harmless.contains(&name.as_str())
                && !value.is_empty()
        });
        let mut filters: Settings =
            of_server.map(|(name, value)| (name.clone(), value.clone())).collect();
        for (name, value) in sources.iter().flatten() {
            let name = name.to_ascii_lowercase();
            if !filters.iter().any(|(known, same)| *known == name && same == value) {
                filters.push((name, value.clone()));
            }
        }
        filters.sort();
        for (name, value) in filters {
            let lost = "changes of the primary are left out here, and so are statements of \
                        sessions in other schemas";
            let statement = match name.as_str() {
                "replicate_ignore_server_ids" => {
                    "CHANGE MASTER TO IGNORE_SERVER_IDS = ()".to_owned()
                }
                "replicate_do_domain_ids" | "replicate_ignore_domain_ids" => {
                    let option = name.trim_start_matches("replicate_").to_ascii_uppercase();
                    format!("CHANGE MASTER TO {option} = ()")
                }
                _ => format!("SET GLOBAL {name} = ''"),
            };
            let advice =
                format!("{IN_CNF_TOO}; build the replica anew, if changes were left out already");
            let mend = (while_stopped(statement), advice);
            self.add_with(&name, &value, lost, "no filter on a replica that is read", mend);
        }
        let skipped = "events that it cannot apply are passed over, and it is no copy any more";
        let skip_errors = self.value("slave_skip_errors").to_owned();
        if !skip_errors.is_empty() && !skip_errors.eq_ignore_ascii_case("OFF") {
            let mend = format!("take slave_skip_errors out {IN_CNF}");
            self.add("slave_skip_errors", &skip_errors, skipped, "OFF", mend);
        }
        self.unless("slave_exec_mode", "STRICT", skipped, "STRICT");
        self.unless("sql_slave_skip_counter", "0", skipped, "0");
        if self.value("slave_type_conversions").to_ascii_uppercase().contains("LOSSY")
            && !self.value("slave_type_conversions").eq_ignore_ascii_case("ALL_NON_LOSSY")
        {
            let lost = "values that do not fit into a column here are cut";
            self.unless("slave_type_conversions", "", lost, "no lossy conversion");
        }
        let marked = "what a session marked with skip_replication is left out";
        self.unless("replicate_events_marked_for_skip", "REPLICATE", marked, "REPLICATE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(variables: &[(&str, &str)]) -> LogFacts {
        let usual = [
            ("log_slave_updates", "ON"),
            ("slave_exec_mode", "STRICT"),
            ("slave_skip_errors", "OFF"),
            ("slave_run_triggers_for_rbr", "NO"),
            ("slave_type_conversions", ""),
            ("sql_slave_skip_counter", "0"),
            ("replicate_annotate_row_events", "ON"),
            ("replicate_events_marked_for_skip", "REPLICATE"),
            ("wsrep_on", "OFF"),
        ];
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = usual.iter().chain(variables).map(own).collect();
        LogFacts { variables, filters: Vec::new(), sources: Some(vec![Vec::new()]) }
    }

    fn check(facts: &LogFacts, part: Part, expected: &[&str]) {
        let found = gaps(facts, part);
        let found: Vec<String> =
            found.iter().map(|g| format!("{}={}", g.setting, g.value)).collect();
        assert_eq!(found, expected, "{part:?}");
    }

    #[test]
    fn usual_settings_leave_nothing_out() {
        check(&facts(&[]), Part::Primary, &[]);
        check(&facts(&[]), Part::Replica, &[]);
        let promoted = LogFacts {
            sources: Some(Vec::new()),
            ..facts(&[("log_slave_updates", "OFF"), ("gtid_slave_pos", "0-1-7")])
        };
        check(&promoted, Part::Primary, &[]);
    }

    #[test]
    fn each_setting_that_hides_changes_is_found() {
        let both = |variables: &[(&str, &str)], expected: &[&str]| {
            check(&facts(variables), Part::Primary, expected);
            check(&facts(variables), Part::Replica, expected);
        };
        both(&[("wsrep_on", "ON")], &["wsrep_on=ON"]);
        both(&[("log_slave_updates", "OFF")], &["log_slave_updates=OFF"]);
        both(&[("slave_run_triggers_for_rbr", "YES")], &["slave_run_triggers_for_rbr=YES"]);
        both(&[("init_connect", "SET SQL_LOG_BIN=0")], &["init_connect=SET SQL_LOG_BIN=0"]);
        both(&[("init_slave", "SET sql_log_bin=0")], &["init_slave=SET sql_log_bin=0"]);
        let filtered =
            LogFacts { filters: vec![("binlog_do_db".into(), "app".into())], ..facts(&[]) };
        check(&filtered, Part::Primary, &["binlog_do_db=app"]);
        for (name, value) in [
            ("slave_exec_mode", "IDEMPOTENT"),
            ("slave_skip_errors", "1062"),
            ("sql_slave_skip_counter", "3"),
            ("slave_type_conversions", "ALL_LOSSY"),
            ("replicate_events_marked_for_skip", "FILTER_ON_SLAVE"),
            ("replicate_wild_do_table", "a.%"),
        ] {
            check(&facts(&[(name, value)]), Part::Primary, &[]);
            check(&facts(&[(name, value)]), Part::Replica, &[&format!("{name}={value}")]);
        }
    }

    #[test]
    fn filters_of_every_connection_count_and_each_is_said_once() {
        let one = |value: &str| ("Replicate_Ignore_Table".to_owned(), value.to_owned());
        let facts = LogFacts {
            sources: Some(vec![vec![one("s.t")], vec![one("s.u")]]),
            ..facts(&[("replicate_ignore_table", "s.t")])
        };
        let expected = ["replicate_ignore_table=s.t", "replicate_ignore_table=s.u"];
        check(&facts, Part::Replica, &expected);
    }

    #[test]
    fn what_cannot_be_seen_is_not_taken_for_good() {
        let unseen = LogFacts { sources: None, ..facts(&[]) };
        check(&unseen, Part::Replica, &["SHOW ALL SLAVES STATUS=not allowed"]);
        check(&unseen, Part::Primary, &[]);
        let unseen = LogFacts {
            sources: None,
            ..facts(&[("log_slave_updates", "OFF"), ("gtid_slave_pos", "0-1-7")])
        };
        check(&unseen, Part::Primary, &["log_slave_updates=OFF"]);
    }
}
