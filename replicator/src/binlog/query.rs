//! What a statement in the binlog is, by its first words. Works on bytes: SQL comes in whatever
//! character set the client spoke.
//!
//! Only statements known to change no row of an ordinary table are called harmless. Whatever is
//! not recognised is [`QueryKind::Unknown`], and stops the reader.

/// What a statement does, as far as a reader must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryKind {
    Begin,
    Commit,
    Rollback,
    /// SAVEPOINT or RELEASE SAVEPOINT.
    Savepoint,
    /// Undoes rows that are already in the log.
    RollbackToSavepoint,
    /// Changes no row and no table.
    Harmless(&'static str),
    Ddl {
        what: String,
    },
    Xa {
        verb: String,
    },
    /// Rows changed in statement format.
    Statement {
        verb: String,
    },
    Unknown,
}

pub fn classify(sql: &[u8]) -> QueryKind {
    // What the server puts in place of an event that it believes its replica cannot read.
    if sql.trim_ascii_start().starts_with(b"# Dummy event") {
        return QueryKind::Unknown;
    }
    let mut words = Words::new(sql);
    let Some(first) = words.next() else { return QueryKind::Harmless("comment") };
    match first.as_str() {
        "BEGIN" => QueryKind::Begin,
        "START" => match words.is("TRANSACTION") {
            true => QueryKind::Begin,
            false => QueryKind::Unknown,
        },
        "COMMIT" => QueryKind::Commit,
        "ROLLBACK" => rollback(words),
        "SAVEPOINT" | "RELEASE" => QueryKind::Savepoint,
        "XA" => QueryKind::Xa { verb: words.next().unwrap_or_default() },
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "CALL" | "DO" | "SELECT" | "WITH"
        | "VALUES" | "TABLE" | "EXECUTE" => QueryKind::Statement { verb: first },
        "ALTER" if sets_counter(words.clone()) => QueryKind::Harmless("ALTER TABLE AUTO_INCREMENT"),
        "CREATE" | "ALTER" | "DROP" | "RENAME" => define(first, words),
        "TRUNCATE" => QueryKind::Ddl { what: "TRUNCATE TABLE".to_owned() },
        "REPAIR" => QueryKind::Ddl { what: "REPAIR TABLE".to_owned() },
        "FLUSH" => QueryKind::Harmless("FLUSH"),
        "ANALYZE" => analyze(words),
        "OPTIMIZE" => QueryKind::Harmless("OPTIMIZE"),
        "GRANT" => QueryKind::Harmless("GRANT"),
        "REVOKE" => QueryKind::Harmless("REVOKE"),
        "SET" => set(words),
        _ => QueryKind::Unknown,
    }
}

fn rollback(mut words: Words<'_>) -> QueryKind {
    // ROLLBACK [WORK] [TO [SAVEPOINT] name | AND CHAIN ...]
    let next = words.next();
    let next = if next.as_deref() == Some("WORK") { words.next() } else { next };
    match next.as_deref() {
        Some("TO") => QueryKind::RollbackToSavepoint,
        _ => QueryKind::Rollback,
    }
}

/// `ANALYZE TABLE` only: `ANALYZE UPDATE ...` runs the statement.
fn analyze(mut words: Words<'_>) -> QueryKind {
    match words.next().as_deref() {
        Some("TABLE" | "TABLES") => QueryKind::Harmless("ANALYZE"),
        Some("LOCAL" | "NO_WRITE_TO_BINLOG") => QueryKind::Harmless("ANALYZE"),
        Some(verb @ ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "SELECT" | "WITH")) => {
            QueryKind::Statement { verb: verb.to_owned() }
        }
        _ => QueryKind::Unknown,
    }
}

fn set(mut words: Words<'_>) -> QueryKind {
    match words.next().as_deref() {
        Some("PASSWORD") => QueryKind::Harmless("SET PASSWORD"),
        Some("DEFAULT") if words.is("ROLE") => QueryKind::Harmless("SET DEFAULT ROLE"),
        // SET STATEMENT variable = value, ... FOR statement
        Some("STATEMENT") => loop {
            match words.next().as_deref() {
                Some("FOR") => return classify(words.rest()),
                Some(_) => {}
                None => return QueryKind::Unknown,
            }
        },
        _ => QueryKind::Unknown,
    }
}

/// Is this `[ONLINE] TABLE [IF EXISTS] [schema.]name AUTO_INCREMENT [=] number` and nothing else?
fn sets_counter(mut words: Words<'_>) -> bool {
    let kind = words.next();
    let kind = if kind.as_deref() == Some("ONLINE") { words.next() } else { kind };
    if kind.as_deref() != Some("TABLE") {
        return false;
    }
    let ahead = words.clone();
    if !(words.is("IF") && words.is("EXISTS")) {
        words = ahead;
    }
    // What stands between two words is looked at too: a comma begins another clause.
    let gap = |words: &Words<'_>| words.rest.trim_ascii_start().first().copied();
    let Some(_name) = words.next() else { return false };
    if gap(&words) == Some(b'.') {
        words.next();
    }
    if !gap(&words).is_some_and(is_name_byte) || !words.is("AUTO_INCREMENT") {
        return false;
    }
    let value = words.rest.trim_ascii();
    let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii();
    let value = value.strip_suffix(b";").unwrap_or(value).trim_ascii();
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// CREATE, ALTER, DROP and RENAME: by the first word that names a kind of object.
fn define(verb: String, mut words: Words<'_>) -> QueryKind {
    /// More than any statement has between its verb and its object.
    const WORDS_MAX: usize = 40;
    let mut temporary = false;
    for _ in 0..WORDS_MAX {
        let Some(word) = words.next() else { break };
        match word.as_str() {
            "TEMPORARY" => temporary = true,
            // Accounts are not part of a reshard.
            "USER" | "ROLE" => {
                return QueryKind::Harmless(match (verb.as_str(), word.as_str()) {
                    ("CREATE", "USER") => "CREATE USER",
                    ("CREATE", _) => "CREATE ROLE",
                    ("DROP", "USER") => "DROP USER",
                    ("DROP", _) => "DROP ROLE",
                    ("ALTER", _) => "ALTER USER",
                    _ => "RENAME USER",
                });
            }
            // Temporary tables live in one session, and shadow others only there.
            "TABLE" | "TABLES" | "SEQUENCE" if temporary && verb == "CREATE" => {
                return QueryKind::Harmless("CREATE TEMPORARY TABLE");
            }
            "TABLE" | "TABLES" | "SEQUENCE" if temporary && verb == "DROP" => {
                return QueryKind::Harmless("DROP TEMPORARY TABLE");
            }
            "TABLE" | "TABLES" | "VIEW" | "INDEX" | "DATABASE" | "SCHEMA" | "PROCEDURE"
            | "FUNCTION" | "PACKAGE" | "TRIGGER" | "EVENT" | "SEQUENCE" | "SERVER"
            | "TABLESPACE" | "LOGFILE" => {
                return QueryKind::Ddl { what: format!("{verb} {word}") };
            }
            _ => {}
        }
    }
    QueryKind::Ddl { what: verb }
}

/// The words of a statement, in upper case. Comments are left out; what is in executable comments
/// is not, for it is executed. Quoted names and strings come as one word each, their quote first.
#[derive(Clone)]
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn new(sql: &'a [u8]) -> Words<'a> {
        Words { rest: sql }
    }

    fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn is(&mut self, word: &str) -> bool {
        self.next().as_deref() == Some(word)
    }

    /// Up to and with the first `end`, or all.
    fn skip_past(&mut self, end: &[u8]) {
        let at = self.rest.windows(end.len()).position(|window| window == end);
        self.rest = at.and_then(|at| self.rest.get(at + end.len()..)).unwrap_or_default();
    }

    /// Takes bytes off the front while they pass.
    fn take_while(&mut self, pass: impl Fn(u8) -> bool) -> &'a [u8] {
        let len = self.rest.iter().take_while(|&&byte| pass(byte)).count();
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// Skips a comment if one begins here. `/*!50000` and `/*M!100100` only lose their marks.
    fn comment(&mut self) -> bool {
        match self.rest {
            [b'/', b'*', b'!', rest @ ..] | [b'/', b'*', b'M', b'!', rest @ ..] => {
                self.rest = rest;
                self.take_while(|byte| byte.is_ascii_digit());
            }
            [b'/', b'*', rest @ ..] => {
                self.rest = rest;
                self.skip_past(b"*/");
            }
            // The end of an executable comment.
            [b'*', b'/', rest @ ..] => self.rest = rest,
            [b'-', b'-'] => self.rest = &[],
            [b'-', b'-', space, ..] if space.is_ascii_whitespace() || space.is_ascii_control() => {
                self.skip_past(b"\n");
            }
            [b'#', ..] => self.skip_past(b"\n"),
            _ => return false,
        }
        true
    }

    /// Past a quoted name or string that begins here; doubled quotes and escapes stay inside.
    fn skip_quoted(&mut self, quote: u8) {
        self.rest = self.rest.get(1..).unwrap_or_default();
        while let Some((&byte, rest)) = self.rest.split_first() {
            self.rest = rest;
            if byte == b'\\' && quote != b'`' {
                self.rest = self.rest.get(1..).unwrap_or_default();
            } else if byte == quote {
                return;
            }
        }
    }
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if self.comment() {
                continue;
            }
            let &first = self.rest.first()?;
            if matches!(first, b'`' | b'\'' | b'"') {
                self.skip_quoted(first);
                return Some(char::from(first).to_string());
            }
            if is_name_byte(first) {
                let word = self.take_while(is_name_byte).to_ascii_uppercase();
                return Some(String::from_utf8_lossy(&word).into_owned());
            }
            self.rest = self.rest.get(1..)?;
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// Might the statement speak of something of this name? Errs on the side of yes: strings and
/// comments count, case does not, and a name beyond ASCII, which may be written in any character
/// set, is met by any bytes beyond ASCII.
pub fn mentions(sql: &[u8], identifier: &str) -> bool {
    let name = identifier.as_bytes();
    if name.is_empty() || !name.is_ascii() {
        return name.is_empty() || !sql.is_ascii();
    }
    let doubled = identifier.replace('`', "``");
    let found = |name: &[u8]| {
        sql.windows(name.len()).enumerate().any(|(at, window)| {
            window.eq_ignore_ascii_case(name) && is_whole(sql, at, name.len(), name)
        })
    };
    found(name) || (doubled != identifier && found(doubled.as_bytes()))
}

/// Neither side goes on with the name. A byte beyond ASCII is no border: it may be the second half
/// of a character, or a space that is not ASCII's.
fn is_whole(sql: &[u8], at: usize, len: usize, name: &[u8]) -> bool {
    let joins = |byte: Option<&u8>, edge: Option<&u8>| {
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
        byte.is_some_and(word) && edge.is_some_and(word)
    };
    let before = at.checked_sub(1).and_then(|before| sql.get(before));
    !joins(before, name.first()) && !joins(sql.get(at + len), name.last())
}

/// The beginning of a statement for a log line: what could be a value of a row, any string and any
/// number, is shown as `?`, and comments are left out.
pub fn without_values(sql: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let words = &mut Words::new(sql);
    let mut text = String::new();
    while text.len() < SHOWN_MAX {
        if words.comment() {
            continue;
        }
        let Some(&first) = words.rest.first() else { return text };
        let before = words.rest;
        match first {
            b'\'' | b'"' | b'`' => words.skip_quoted(first),
            _ if first.is_ascii_whitespace() => {
                words.take_while(|byte| byte.is_ascii_whitespace());
            }
            _ if is_name_byte(first) => {
                // A number may have a point in it.
                words.take_while(|byte| {
                    is_name_byte(byte) || (first.is_ascii_digit() && byte == b'.')
                });
            }
            _ => words.rest = before.get(1..).unwrap_or_default(),
        }
        match first {
            b'\'' | b'"' | b'0'..=b'9' => text.push('?'),
            _ if first.is_ascii_whitespace() => text.push(' '),
            _ => {
                let taken = &before[..before.len() - words.rest.len()];
                text.push_str(&String::from_utf8_lossy(taken));
            }
        }
    }
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: QueryKind) {
        assert_eq!(classify(sql.as_bytes()), expected, "{sql}");
    }

    fn ddl(what: &str) -> QueryKind {
        QueryKind::Ddl { what: what.to_owned() }
    }

    fn statement(verb: &str) -> QueryKind {
        QueryKind::Statement { verb: verb.to_owned() }
    }

    #[test]
    fn transactions_are_known_by_their_first_words() {
        check("BEGIN", QueryKind::Begin);
        check("start transaction", QueryKind::Begin);
        check("COMMIT", QueryKind::Commit);
        check("ROLLBACK", QueryKind::Rollback);
        check("SAVEPOINT `a`", QueryKind::Savepoint);
        check("ROLLBACK TO `a`", QueryKind::RollbackToSavepoint);
        check("rollback work to savepoint a", QueryKind::RollbackToSavepoint);
        check("XA END X'01',X'',1", QueryKind::Xa { verb: "END".to_owned() });
    }

    #[test]
    fn definitions_name_their_object() {
        check("CREATE TABLE t (a INT)", ddl("CREATE TABLE"));
        check("create or replace table t (a INT)", ddl("CREATE TABLE"));
        check("DROP TABLE IF EXISTS `t` /* generated by server */", ddl("DROP TABLE"));
        check("CREATE DEFINER=`root`@`%` PROCEDURE p() BEGIN END", ddl("CREATE PROCEDURE"));
        check(
            "CREATE ALGORITHM=UNDEFINED DEFINER=`table`@`%` SQL SECURITY DEFINER VIEW v AS SELECT 1",
            ddl("CREATE VIEW"),
        );
        check("ALTER ONLINE IGNORE TABLE t ADD b INT", ddl("ALTER TABLE"));
        check("TRUNCATE t", ddl("TRUNCATE TABLE"));
        check("CREATE UNIQUE INDEX i ON t(a)", ddl("CREATE INDEX"));
        check("CREATE OR REPLACE USER u@h", QueryKind::Harmless("CREATE USER"));
        check("DROP ROLE r", QueryKind::Harmless("DROP ROLE"));
        check("CREATE TEMPORARY TABLE x (a INT)", QueryKind::Harmless("CREATE TEMPORARY TABLE"));
        check("DROP /*!40005 TEMPORARY */ TABLE x", QueryKind::Harmless("DROP TEMPORARY TABLE"));
        check("SET STATEMENT max_statement_time=1 FOR ALTER TABLE t FORCE", ddl("ALTER TABLE"));
    }

    #[test]
    fn only_a_counter_alone_is_harmless_to_alter() {
        for sql in [
            "ALTER TABLE t AUTO_INCREMENT = 42",
            "alter online table `s`.`t` auto_increment=42;",
            "ALTER TABLE IF EXISTS s . t AUTO_INCREMENT 42 ",
            "ALTER TABLE `if` AUTO_INCREMENT=1",
        ] {
            check(sql, QueryKind::Harmless("ALTER TABLE AUTO_INCREMENT"));
        }
        for sql in [
            "ALTER TABLE t AUTO_INCREMENT = 42, ADD c INT",
            "ALTER TABLE t FORCE, AUTO_INCREMENT = 42",
            "ALTER TABLE t ENGINE=InnoDB AUTO_INCREMENT = 42",
            "ALTER TABLE t AUTO_INCREMENT = 42 /*! FORCE */",
            "ALTER TABLE t /*! FORCE, */ AUTO_INCREMENT = 42",
            "ALTER TABLE t AUTO_INCREMENT =",
            "ALTER TABLE t MODIFY auto_increment INT",
            "ALTER IGNORE TABLE t AUTO_INCREMENT = 42",
        ] {
            check(sql, ddl("ALTER TABLE"));
        }
    }

    #[test]
    fn comments_hide_nothing() {
        check("/* DROP */ -- x\n# y\nFLUSH TABLES", QueryKind::Harmless("FLUSH"));
        check("/*!50000 INSERT */ INTO t VALUES (1)", statement("INSERT"));
        check("/*M!100100 DELETE FROM t */", statement("DELETE"));
        check("  /* only */ ", QueryKind::Harmless("comment"));
        check(
            "# Dummy event replacing event type 160 that slave cannot handle.",
            QueryKind::Unknown,
        );
        check("/* never closed", QueryKind::Harmless("comment"));
        check("--1", QueryKind::Unknown);
    }

    #[test]
    fn writes_are_never_harmless() {
        check("insert into t values(1)", statement("INSERT"));
        check("ANALYZE UPDATE t SET a=1", statement("UPDATE"));
        check("ANALYZE TABLE t", QueryKind::Harmless("ANALYZE"));
        check("SELECT `d`.`f`(1)", statement("SELECT"));
        check("(SELECT f())", statement("SELECT"));
        check("SET @a = 1", QueryKind::Unknown);
        check("SET PASSWORD FOR u = 'x'", QueryKind::Harmless("SET PASSWORD"));
        check("HANDLER t OPEN", QueryKind::Unknown);
        assert_eq!(classify(b"\xff\xfe"), QueryKind::Unknown);
    }

    #[test]
    fn a_name_is_mentioned_whole_in_any_case_and_quoting() {
        for sql in
            ["ALTER TABLE orders ADD x INT", "DROP TABLE `a`,`Orders`", "x.ORDERS;", "'orders'"]
        {
            assert!(mentions(sql.as_bytes(), "orders"), "{sql}");
        }
        for sql in ["DROP TABLE orders2", "DROP TABLE my_orders", "DROP TABLE o"] {
            assert!(!mentions(sql.as_bytes(), "orders"), "{sql}");
        }
        assert!(mentions(b"DROP TABLE `a``b`", "a`b"));
        assert!(mentions("DROP TABLE größe".as_bytes(), "größe"));
        assert!(mentions(b"DROP TABLE gr\xf6\xdfe", "größe"));
        assert!(!mentions(b"DROP TABLE t", "größe"));
        assert!(!mentions(b"", "t"));
    }

    #[test]
    fn a_log_line_shows_no_values() {
        let shown = |sql: &str| without_values(sql.as_bytes());
        assert_eq!(
            shown(
                "UPDATE `t1` SET a='it''s \\' me', b2 = -12.5e3 /* 7 */ WHERE id\n IN (0x1F,x'2a')"
            ),
            "UPDATE `t1` SET a=??, b2 = -?  WHERE id IN (?,x?)"
        );
        assert_eq!(shown("ALTER TABLE t ADD c2 INT"), "ALTER TABLE t ADD c2 INT");
        assert_eq!(shown("INSERT INTO t VALUES ('open"), "INSERT INTO t VALUES (?");
        let long = shown(&format!("INSERT INTO t VALUES {}", "(1),".repeat(1000)));
        assert!(long.len() < 210 && long.ends_with('…'), "{long}");
    }
}
