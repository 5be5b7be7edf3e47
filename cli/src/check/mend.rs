//! What an operator does about a finding: statements that do it as they stand, or words.
//!
//! Statements are data, so that a test can take each kind of them through the fault that it mends:
//! see `tests/tests/check/mends.rs`, which walks over every [`Way`]. Whatever begins like a statement
//! has one: prose is for what only a person can decide.

use std::fmt;

use modshift_mariadb::Grants;
use modshift_mariadb::value::quote;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::configuration;

/// Kinds of mends that are statements. Each is run by a test against the fault that it mends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// What makes a table like that of another shard.
    AlterTable,
    ChangeEngine,
    /// One that no other new shard's meets.
    CreateSequence,
    CreateView,
    /// Stores DATETIME, TIME and TIMESTAMP as the other shards do.
    RebuildTable,
    /// Back to its own values.
    RestartSequence,
    RestrictForeignKey,
    RevokeBinlogControl,
    RevokeReadOnlyAdmin,
    WidenCounter,
    DisableEvent,
    DropTrigger,
    GrantColumns,
    GrantGlobal,
    GrantSchema,
    GrantTable,
    InstallDisks,
    RaiseUserConnections,
    RemoveDelay,
    SetAlike,
    SetBinlogChecksum,
    SetBinlogExpiry,
    SetBinlogFormat,
    SetBinlogRowImage,
    SetFlush,
    SetGtidStrictMode,
    SetMaxConnections,
    /// So that every change comes into the binlog.
    SetInitConnect,
    SetPacket,
    SetReadOnly,
    SetReplicaBinlogFormat,
    /// What a server leaves out of what it replicates.
    SetReplication,
    SetStep,
    SetSyncBinlog,
    /// Its own values are those that it gives out now.
    StartSequence,
    WidenSequence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    Words(String),
    Run {
        way: Way,
        /// Whole statements, in this order, each in the schema of the shard.
        statements: Vec<String>,
        /// Where, if not at the subject of the finding.
        at: Vec<String>,
        /// What else is to be done, or could be done instead.
        note: Option<String>,
    },
}

impl Mend {
    pub fn run(way: Way, statements: impl IntoIterator<Item = impl Into<String>>) -> Mend {
        let statements = statements.into_iter().map(Into::into).collect();
        Mend::Run { way, statements, at: Vec::new(), note: None }
    }

    /// `SET GLOBAL name = value`, the value as a literal.
    pub fn set(way: Way, name: &str, value: impl fmt::Display) -> Mend {
        Mend::run(way, [format!("SET GLOBAL {name} = {value}")])
    }

    /// What is to be done before.
    pub fn first(mut self, statement: &str) -> Mend {
        if let Mend::Run { statements, .. } = &mut self {
            statements.insert(0, statement.to_owned());
        }
        self
    }

    pub fn note(mut self, words: impl Into<String>) -> Mend {
        if let Mend::Run { note, .. } = &mut self {
            *note = Some(words.into());
        }
        self
    }

    /// Lines for the server's own configuration: a restart forgets what a statement has set.
    pub fn configuration(&self) -> Vec<String> {
        match self {
            Mend::Words(_) => Vec::new(),
            Mend::Run { statements, .. } => {
                configuration::lines(statements.iter().map(String::as_str))
            }
        }
    }

    pub fn at(mut self, places: impl IntoIterator<Item = impl fmt::Display>) -> Mend {
        if let Mend::Run { at, .. } = &mut self {
            *at = places.into_iter().map(|place| place.to_string()).collect();
        }
        self
    }
}

impl From<&str> for Mend {
    fn from(words: &str) -> Mend {
        Mend::Words(words.to_owned())
    }
}

impl From<String> for Mend {
    fn from(words: String) -> Mend {
        Mend::Words(words)
    }
}

impl From<&String> for Mend {
    fn from(words: &String) -> Mend {
        Mend::Words(words.clone())
    }
}

/// As a client takes it: what is no statement is a comment.
impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (statements, at, note) = match self {
            Mend::Words(words) => return f.write_str(words),
            Mend::Run { statements, at, note, .. } => (statements, at, note),
        };
        write!(f, "{};", statements.join("; "))?;
        let place = (!at.is_empty()).then(|| format!("on {}", at.join(", ")));
        let lines = self.configuration();
        let kept = (!lines.is_empty()).then(|| {
            format!("and under [mariadbd] in my.cnf, or a restart forgets it: {}", lines.join(", "))
        });
        let remarks: Vec<&str> =
            place.iter().chain(note).chain(&kept).map(String::as_str).collect();
        match remarks.is_empty() {
            true => Ok(()),
            false => write!(f, " -- {}", remarks.join("; ")),
        }
    }
}

/// Fields of the finding itself: `mend` for people, the rest for programs.
impl Serialize for Mend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Mend", 5)?;
        fields.serialize_field("mend", &self.to_string())?;
        if let Mend::Run { way, statements, at, .. } = self {
            fields.serialize_field("way", way)?;
            fields.serialize_field("statements", statements)?;
            fields.serialize_field("at", at)?;
            fields.serialize_field("configuration", &self.configuration())?;
        }
        fields.end()
    }
}

/// Who holds these privileges, as GRANT takes it.
pub fn account(grants: &Grants, user: &str) -> String {
    grants.account().map_or_else(|| format!("{}@'%'", quote(user)), str::to_owned)
}

/// A schema as GRANT takes it: there `_` and `%` stand for other characters.
pub fn on_schema(schema: &str) -> String {
    let plain = schema.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%");
    format!("{}.*", quote(&plain))
}

/// GRANT takes a table that is not there yet only together with CREATE.
pub fn on_table(schema: &str, table: &str) -> String {
    format!("{}.{}", quote(schema), quote(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_a_client_takes() {
        let mend = Mend::set(Way::SetBinlogFormat, "binlog_format", "'ROW'");
        let kept = "and under [mariadbd] in my.cnf, or a restart forgets it: binlog_format = ROW";
        assert_eq!(mend.to_string(), format!("SET GLOBAL binlog_format = 'ROW'; -- {kept}"));
        let mend = mend.at(["old shard 0", "old shard 1"]).note("sessions keep their value");
        assert_eq!(
            mend.to_string(),
            format!(
                "SET GLOBAL binlog_format = 'ROW'; -- on old shard 0, old shard 1; sessions keep \
                 their value; {kept}"
            )
        );
        let mend = Mend::run(Way::DropTrigger, ["DROP TRIGGER a"]);
        assert_eq!(mend.to_string(), "DROP TRIGGER a;");
        assert_eq!(on_schema("shop_0"), "`shop\\_0`.*");
    }
}
