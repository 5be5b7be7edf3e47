//! Triggers and events as a server holds them, and the statements that make the very same again in
//! another schema.
//!
//! **A body is carried as bytes.** It is stored in the character set of the client that wrote it,
//! with comments, introducers and escapes as they were; what information_schema shows of it is a
//! conversion that loses. So it is read without any conversion and sent under the session settings
//! that it was written under. What stands before it is text: names and comments, which the server
//! keeps in utf8 whatever the client spoke. Names of schemas are left out: they would tie the
//! program to the schema that it comes from.

mod header;
mod read;

use serde::{Deserialize, Serialize};

use crate::value::quote;

pub use read::{Named, named, read, schema_collation};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Trigger,
    Event,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Trigger => "trigger",
            Kind::Event => "event",
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Kind::Trigger => "TRIGGER",
            Kind::Event => "EVENT",
        }
    }
}

/// One trigger or event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub kind: Kind,
    pub name: String,
    /// Of a trigger: its table, and `BEFORE INSERT` and the like. Empty for an event.
    pub table: String,
    pub when: String,
    /// `user@host`.
    pub definer: String,
    /// What the session was in which it was written.
    pub sql_mode: String,
    pub charset: String,
    pub collation: String,
    /// Of an event; `SYSTEM` for a trigger.
    pub time_zone: String,
    /// The schema's default when it was written: of its variables without a character set.
    pub database_collation: String,
    /// The statement up to its body.
    pub header: String,
    /// The rest of it, in `charset`. A trigger's begins at the word TRIGGER.
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// A session of ours before a program is read or made, and after. In between it speaks bytes.
pub const BEGIN: &str = "SET @modshift_sql_mode = @@sql_mode, sql_mode = '', \
     character_set_results = NULL";
pub const RESET: &str = "SET NAMES utf8mb4, time_zone = '+00:00', \
     sql_mode = COALESCE(@modshift_sql_mode, @@sql_mode)";

impl Program {
    /// What the session must be for the statement to mean what it meant.
    pub fn session(&self) -> String {
        format!(
            "SET sql_mode = '{}', time_zone = '{}', character_set_client = {}, \
             collation_connection = {}",
            self.sql_mode, self.time_zone, self.charset, self.collation,
        )
    }

    /// `None`: the header is the same bytes in `charset`. Else the question whose answer it is.
    pub fn converted_header(&self) -> Option<String> {
        if self.header.is_ascii() || self.charset.starts_with("utf8") {
            return None;
        }
        let hex: String = self.header.bytes().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("SELECT CAST(CONVERT(_utf8mb4 x'{hex}' USING {}) AS BINARY)", self.charset))
    }

    pub fn statement(&self, header: Option<Vec<u8>>) -> Vec<u8> {
        let mut statement = header.unwrap_or_else(|| self.header.as_bytes().to_vec());
        statement.extend_from_slice(&self.body);
        statement
    }

    pub fn drop(&self) -> String {
        drop_sql(self.kind, &self.name)
    }

    /// In what they differ, if at all. Not in where an event that repeats begins: that is the moment
    /// of its creation unless somebody said otherwise, so another on each server on which one script
    /// has run.
    pub fn differs_in(&self, other: &Program) -> Option<&'static str> {
        let header = |program: &Program| match program.kind {
            Kind::Event => header::without_start(&program.header),
            Kind::Trigger => program.header.clone(),
        };
        let differs = [
            ("table", self.table != other.table),
            ("time", self.when != other.when),
            ("definer", self.definer != other.definer),
            ("sql_mode", self.sql_mode != other.sql_mode),
            ("character set", self.charset != other.charset),
            ("collation", self.collation != other.collation),
            ("time zone", self.time_zone != other.time_zone),
            ("database collation", self.database_collation != other.database_collation),
            ("body", self.body != other.body),
            ("definition", header(self) != header(other)),
        ];
        differs.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
    }
}

fn drop_sql(kind: Kind, name: &str) -> String {
    format!("DROP {} IF EXISTS {}", kind.sql(), quote(name))
}

/// The first difference between what two shards have, in words. Triggers of one table and time must
/// have the same order, too: both lists are as [`read`] gives them.
pub fn difference(ours: &[Program], theirs: &[Program]) -> Option<String> {
    let find = |all: &[Program], one: &Program| {
        all.iter().find(|p| p.kind == one.kind && p.name == one.name).cloned()
    };
    for one in ours {
        let name = format!("{} {}", one.kind.name(), one.name);
        match find(theirs, one) {
            None => return Some(format!("{name} is on the one only")),
            Some(other) => {
                if let Some(what) = one.differs_in(&other) {
                    return Some(format!("{name} has another {what}"));
                }
            }
        }
    }
    if let Some(one) = theirs.iter().find(|one| find(ours, one).is_none()) {
        return Some(format!("{} {} is on the other only", one.kind.name(), one.name));
    }
    let order = |all: &[Program]| -> Vec<String> { all.iter().map(|p| p.name.clone()).collect() };
    let moved = order(ours).into_iter().zip(order(theirs)).find(|(a, b)| a != b);
    moved.map(|(one, other)| format!("trigger {one} runs before {other}, and there after it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> Program {
        let text = |text: &str| text.to_owned();
        Program {
            kind: Kind::Trigger,
            name: text(name),
            table: text("t"),
            when: text("BEFORE INSERT"),
            definer: text("app@%"),
            sql_mode: text("ANSI_QUOTES"),
            charset: text("latin1"),
            collation: text("latin1_swedish_ci"),
            time_zone: text("SYSTEM"),
            database_collation: text("utf8mb4_general_ci"),
            header: text("CREATE DEFINER=`app`@`%` "),
            body: b"TRIGGER a BEFORE INSERT ON t FOR EACH ROW SET @a = '\xe4'".to_vec(),
        }
    }

    #[test]
    fn shards_are_compared_by_all_that_makes_a_program_what_it_is() {
        let (a, b) = (program("a"), program("b"));
        let both = [a.clone(), b.clone()];
        let check = |theirs: &[Program], expected: Option<&str>| {
            assert_eq!(difference(&both, theirs).as_deref(), expected);
        };
        check(&both, None);
        check(std::slice::from_ref(&a), Some("trigger b is on the one only"));
        check(&[a.clone(), b.clone(), program("c")], Some("trigger c is on the other only"));
        check(&[b.clone(), a.clone()], Some("trigger a runs before b, and there after it"));
        let other = |change: fn(&mut Program)| {
            let mut changed = b.clone();
            change(&mut changed);
            [a.clone(), changed]
        };
        check(&other(|b| b.sql_mode.clear()), Some("trigger b has another sql_mode"));
        check(&other(|b| b.body.push(b' ')), Some("trigger b has another body"));
        check(&other(|b| b.definer.clear()), Some("trigger b has another definer"));
        check(&other(|b| b.charset.clear()), Some("trigger b has another character set"));
    }

    #[test]
    fn a_header_is_asked_for_in_the_character_set_of_the_body() {
        let mut program = program("a");
        assert_eq!(program.converted_header(), None);
        program.header.push('ä');
        let asked = program.converted_header().unwrap_or_default();
        assert!(asked.ends_with("20c3a4' USING latin1) AS BINARY)"), "{asked}");
        assert!(program.statement(Some(b"X ".to_vec())).starts_with(b"X TRIGGER a"));
        program.charset = "utf8mb4".to_owned();
        assert_eq!(program.converted_header(), None);
    }
}
