//! `SHOW GLOBAL VARIABLES` of a server, and where some of the values come from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use modshift_proto::Gtid;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::check::rules::restart;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    values: BTreeMap<String, String>,
    /// CONFIG, SQL, COMPILE-TIME …; empty where it was not asked for.
    origins: BTreeMap<String, String>,
}

impl Variables {
    /// Empty for a variable that this version does not have.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(0.0)
    }

    pub fn is_on(&self, name: &str) -> bool {
        ["ON", "1"].iter().any(|on| self.text(name).eq_ignore_ascii_case(on))
    }

    /// Which server it is, whatever name it is reached by: as a cutover and a rehearsal ask it.
    pub fn identity(&self) -> String {
        format!("{}:{}:{}", self.text("hostname"), self.text("port"), self.text("datadir"))
    }

    /// Every GTID of a list. Not a set with one for each domain: `gtid_binlog_state` has several.
    pub fn gtids(&self, name: &str) -> BTreeSet<Gtid> {
        self.text(name).split(',').filter_map(|gtid| gtid.parse().ok()).collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> HashMap<String, String> {
        self.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Set by the server's file or its command line: a restart does not forget it.
    pub fn is_configured(&self, name: &str) -> bool {
        let origin = self.origins.get(name).map(String::as_str);
        matches!(origin, Some("CONFIG" | "COMMAND-LINE"))
    }

    /// A restart forgets it, unless the configuration says the same.
    pub fn is_set_by_statement(&self, name: &str) -> bool {
        self.origins.get(name).is_some_and(|origin| origin == "SQL")
    }

    /// Of what has to outlive a restart.
    pub async fn ask_origins(&mut self, conn: &mut Conn) -> mysql_async::Result<()> {
        let names: Vec<String> =
            restart::names().map(|name| format!("'{}'", name.to_ascii_uppercase())).collect();
        let sql = format!(
            "SELECT LOWER(VARIABLE_NAME), GLOBAL_VALUE_ORIGIN FROM \
             information_schema.SYSTEM_VARIABLES WHERE VARIABLE_NAME IN ({})",
            names.join(", ")
        );
        self.origins = conn.query::<(String, String), _>(sql).await?.into_iter().collect();
        Ok(())
    }

    #[cfg(test)]
    pub fn set_origin(&mut self, name: &str, origin: &str) {
        self.origins.insert(name.to_owned(), origin.to_owned());
    }

    #[cfg(test)]
    pub fn set(&mut self, name: &str, value: &str) {
        self.values.insert(name.to_owned(), value.to_owned());
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(rows: I) -> Variables {
        Variables { values: rows.into_iter().collect(), origins: BTreeMap::new() }
    }
}
