//! `SHOW GLOBAL VARIABLES` of a server.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use modshift_proto::Gtid;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Empty for a variable that this version does not have.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
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
        self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    #[cfg(test)]
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(rows: I) -> Variables {
        Variables(rows.into_iter().collect())
    }
}
