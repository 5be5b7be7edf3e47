//! The triggers of a guard, as text. Pure.
//!
//! The remainders stand in the text: a transaction that reads by an old snapshot would see an old
//! version of any table that held them. BEFORE triggers, so that a row that is not at home is refused as
//! such before a key that is taken by what lies there still is found to be a duplicate. The last of
//! them, since one of the application may change the key. A key that the server gives out
//! (AUTO_INCREMENT) is not known before the row is written: there an AFTER trigger judges it as well.

use std::fmt;

use modshift_mariadb::control::HOME_GUARD;
use modshift_mariadb::value::quote as name;
use modshift_proto::rule::{BoundRule, Home};

/// What a server says that is read-only.
const REFUSED: u16 = 1290;
/// A name has at most 64 characters.
const READABLE_MAX: usize = 30;
/// Of a key, in the error's text.
const KEY_SHOWN_MAX: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    BeforeInsert,
    BeforeUpdate,
    BeforeDelete,
    AfterInsert,
}

impl When {
    pub const fn sql(self) -> &'static str {
        match self {
            When::BeforeInsert => "BEFORE INSERT",
            When::BeforeUpdate => "BEFORE UPDATE",
            When::BeforeDelete => "BEFORE DELETE",
            When::AfterInsert => "AFTER INSERT",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            When::BeforeInsert => "bi",
            When::BeforeUpdate => "bu",
            When::BeforeDelete => "bd",
            When::AfterInsert => "ai",
        }
    }

    /// One of the application that runs behind it could give the row another key.
    pub(super) const fn must_be_last(self) -> bool {
        matches!(self, When::BeforeInsert | When::BeforeUpdate)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sql())
    }
}

/// How a key is shown to whoever is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Number,
    Text,
    Hex,
}

/// A table as its guard sees it.
#[derive(Clone, Debug)]
pub struct Guarded {
    pub table: String,
    pub key: String,
    pub rule: BoundRule,
    pub shown: Shown,
    /// The server gives out the key.
    pub given_out: bool,
}

/// One that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub name: String,
    pub table: String,
    pub when: When,
    pub body: String,
}

impl Trigger {
    /// Put behind the trigger of that name, if there is one.
    pub fn create(&self, behind: Option<&str>) -> String {
        let follows = behind.map(|other| format!("FOLLOWS {} ", name(other))).unwrap_or_default();
        format!(
            "CREATE OR REPLACE TRIGGER {} {} ON {} FOR EACH ROW {follows}{}",
            name(&self.name),
            self.when,
            name(&self.table),
            self.body
        )
    }
}

pub fn drop(trigger: &str) -> String {
    format!("DROP TRIGGER IF EXISTS {}", name(trigger))
}

/// All of one table. `spared`: user names of sessions that may write any row.
pub fn triggers(home: &Home, guarded: &Guarded, spared: &[String]) -> Vec<Trigger> {
    let mut whens = vec![When::BeforeInsert, When::BeforeUpdate, When::BeforeDelete];
    if guarded.given_out {
        whens.push(When::AfterInsert);
    }
    let trigger = |when: When| Trigger {
        name: trigger_name(&guarded.table, when),
        table: guarded.table.clone(),
        when,
        body: body(home, guarded, spared, when),
    };
    whens.into_iter().map(trigger).collect()
}

/// The same for a table however often it is asked for; told apart by a hash, since names of tables may be
/// as long as this one.
fn trigger_name(table: &str, when: When) -> String {
    let hash = table.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let readable: String =
        table.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let readable = &readable[..readable.len().min(READABLE_MAX)];
    format!("{HOME_GUARD}{}_{hash:016x}_{readable}", when.short())
}

/// Text of which the server shows the same that it was given: what it shows of a quote or a backslash
/// within a body depends on how it was written.
fn literal(text: &str) -> String {
    match text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\'' && byte != b'\\') {
        true => format!("'{text}'"),
        false => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
            format!("CONVERT(X'{hex}' USING utf8mb4)")
        }
    }
}

fn body(home: &Home, guarded: &Guarded, spared: &[String], when: When) -> String {
    let at_home = |row: &str| home.condition(&guarded.rule, row);
    let shown = |row: &str| shown(guarded, row);
    let (allowed, key) = match when {
        // Given out behind this trigger: see AFTER INSERT.
        When::BeforeInsert if guarded.given_out => {
            let column = guarded.rule.column_of("NEW");
            (format!("({column} IS NULL OR {column} = 0 OR {})", at_home("NEW")), shown("NEW"))
        }
        When::BeforeInsert | When::AfterInsert => (at_home("NEW"), shown("NEW")),
        When::BeforeDelete => (at_home("OLD"), shown("OLD")),
        When::BeforeUpdate => {
            let (old, new) = (at_home("OLD"), at_home("NEW"));
            let key = format!("IF(({old}) IS TRUE, {}, {})", shown("NEW"), shown("OLD"));
            (format!("({old} AND {new})"), key)
        }
    };
    let says = format!(
        "'modshift: this row is not at home on this server: read the routing again, then make the \
         whole transaction again; table ', {}, ', ', {}, ' = '",
        literal(&guarded.table),
        literal(&guarded.key)
    );
    // A user variable: a declared one would be set up anew for each row.
    format!(
        "IF ({allowed}) IS NOT TRUE AND {stranger} THEN\n  \
         SET @modshift_refused = CONCAT({says}, IFNULL({key}, 'NULL'));\n  \
         SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {REFUSED}, MESSAGE_TEXT = @modshift_refused;\n\
         END IF",
        stranger = stranger(spared),
    )
}

/// By the name that the session logged in with, whatever its rights: `CURRENT_USER()` is the definer
/// here. A thread that replicates statements has a name of the server's own and no host; whoever logs in
/// has a host, under that name too.
fn stranger(spared: &[String]) -> String {
    const THREAD: &str = "USER() NOT IN ('', '<replication_slave>@')";
    let names: Vec<String> = spared.iter().map(|user| literal(user)).collect();
    match names.is_empty() {
        true => THREAD.to_owned(),
        // A user name may hold an @, a host's name does not.
        false => format!(
            "{THREAD} AND BINARY LEFT(USER(), CHAR_LENGTH(USER()) - \
             CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1) NOT IN ({})",
            names.join(", ")
        ),
    }
}

fn shown(guarded: &Guarded, row: &str) -> String {
    let column = guarded.rule.column_of(row);
    match guarded.shown {
        Shown::Number => column,
        Shown::Text => format!("LEFT(CONVERT({column} USING utf8mb4), {KEY_SHOWN_MAX})"),
        Shown::Hex => format!("CONCAT('0x', LEFT(HEX({column}), {KEY_SHOWN_MAX}))"),
    }
}

#[cfg(test)]
mod tests {
    use modshift_proto::Modulus;
    use modshift_proto::rule::ShardRule;
    use modshift_proto::schema::{Column, DataType};

    use super::*;

    fn guarded(table: &str, given_out: bool) -> Guarded {
        let column = Column {
            name: "k`y".to_owned(),
            data: DataType::Int { bytes: 8, unsigned: true },
            type_text: "bigint unsigned".to_owned(),
            charset: None,
            collation: None,
            nullable: true,
            generated: false,
        };
        let rule = ShardRule::FloorMod.bind(&column).unwrap();
        let (table, key) = (table.to_owned(), column.name);
        Guarded { table, key, rule, shown: Shown::Number, given_out }
    }

    #[test]
    fn a_guard_says_what_is_refused_and_to_whom() {
        let home = Home::of_shard(Modulus::new(4).unwrap(), 2).unwrap();
        let all = triggers(&home, &guarded("o'k", false), &["mod'shift".to_owned()]);
        assert_eq!(all.len(), 3);
        assert_eq!(
            all[0].create(Some("a`b")),
            "CREATE OR REPLACE TRIGGER `modshift_home_bi_194db019212b73b0_ok` BEFORE INSERT ON \
             `o'k` FOR EACH ROW FOLLOWS `a``b` IF (((NEW.`k``y` MOD 4) = 2)) IS NOT TRUE \
             AND USER() NOT IN ('', '<replication_slave>@') AND BINARY LEFT(USER(), \
             CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1) NOT IN \
             (CONVERT(X'6D6F64277368696674' USING utf8mb4)) THEN\n  SET @modshift_refused = \
             CONCAT('modshift: this row is not at home on this server: read the routing again, then \
             make the whole transaction again; table ', CONVERT(X'6F276B' USING utf8mb4), ', ', \
             'k`y', ' = ', IFNULL(NEW.`k``y`, 'NULL'));\n  SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = \
             1290, MESSAGE_TEXT = @modshift_refused;\nEND IF"
        );
        assert!(all[1].body.contains("(((OLD.`k``y` MOD 4) = 2) AND ((NEW.`k``y` MOD 4) = 2))"));
        assert!(all[2].body.contains("OLD.") && !all[2].body.contains("NEW."), "{}", all[2].body);
        // What the server gives out is judged once it is known.
        let given = triggers(&home, &guarded("t", true), &[]);
        assert_eq!(given[3].when, When::AfterInsert);
        assert!(given[0].body.contains("NEW.`k``y` = 0 OR"), "{}", given[0].body);
        assert!(given[3].body.starts_with("IF (((NEW.`k``y` MOD 4) = 2)) IS NOT TRUE"));
    }

    #[test]
    fn names_fit_and_are_told_apart_where_tables_differ_at_their_ends() {
        let long = |end: &str| format!("{}{end}", "x".repeat(63));
        let name = |table: &str| trigger_name(table, When::BeforeUpdate);
        assert_eq!(name(&long("a")).chars().count(), 64);
        assert_ne!(name(&long("a")), name(&long("b")));
        assert_ne!(name("таблица"), name("таблицы"));
        assert!(name("t").starts_with(HOME_GUARD));
        assert_eq!(format!("LEFT(TRIGGER_NAME, {}) <> '{HOME_GUARD}'", HOME_GUARD.len()), {
            modshift_mariadb::control::NOT_HOME_GUARD
        });
    }
}
