//! Definitions: CREATE, ALTER, DROP, RENAME and TRUNCATE.
//!
//! Each names its tables exactly, and says of each whether a row of it, or what its rows are read
//! by, could be another one afterwards. What of an ALTER TABLE is not known to change nothing does.

use super::lex::{Lexer, Token};
use super::name::{Table, name, table};
use super::{Runs, Statement, Touched, Undoes};

/// What a definition that changes no table is of.
const DEFINITIONS: [&str; 12] = [
    "VIEW",
    "TRIGGER",
    "PROCEDURE",
    "FUNCTION",
    "PACKAGE",
    "EVENT",
    "DEFINER",
    "ALGORITHM",
    "SQL",
    "AGGREGATE",
    "SERVER",
    "INSENSITIVE",
];

fn touches(table: Table, changes: bool) -> Touched {
    Touched { table, changes }
}

fn tables(what: &str, touched: Vec<Touched>) -> Option<Statement> {
    Some(Statement::Tables { what: what.to_owned(), touched, runs: Runs::default() })
}

/// Of a view, a routine and the like. `undoes`: one that was there before may be gone.
fn definition(verb: &str, undoes: bool, mut lexer: Lexer<'_>) -> Option<Statement> {
    const KINDS: [&str; 7] =
        ["VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "PACKAGE", "EVENT", "SERVER"];
    /// What a statement may run unseen, by itself.
    const RUN: [&str; 4] = ["VIEW", "TRIGGER", "FUNCTION", "PACKAGE"];
    /// More than any statement has between its verb and its kind.
    const WORDS_MAX: usize = 40;
    let found = lexer
        .by_ref()
        .take(WORDS_MAX)
        .find_map(|token| KINDS.into_iter().find(|kind| token.is(kind)));
    let kind = found?;
    let undoes = (undoes && RUN.contains(&kind)).then(|| {
        lexer.word("BODY");
        lexer.words(&["IF", "EXISTS"]);
        Undoes { kind, name: table(&mut lexer) }
    });
    Some(Statement::Definition { what: format!("{verb} {kind}"), undoes })
}

pub(super) fn create(mut lexer: Lexer<'_>) -> Option<Statement> {
    let replaces = lexer.words(&["OR", "REPLACE"]);
    if lexer.word("TEMPORARY") {
        if !lexer.word("TABLE") && !lexer.word("SEQUENCE") {
            return None;
        }
        lexer.words(&["IF", "NOT", "EXISTS"]);
        let table = table(&mut lexer)?;
        let runs = super::write::runs_of_select(lexer)?;
        return Some(Statement::MakesTemporary { table, runs });
    }
    if lexer.peek()?.is_any(&DEFINITIONS) {
        return definition("CREATE", replaces, lexer);
    }
    for (kind, what) in [("USER", "CREATE USER"), ("ROLE", "CREATE ROLE")] {
        if lexer.word(kind) {
            return Some(Statement::Harmless(what));
        }
    }
    for (kind, what) in [("TABLE", "CREATE TABLE"), ("SEQUENCE", "CREATE SEQUENCE")] {
        if lexer.word(kind) {
            // Where there is one already, nothing happens.
            let careful = lexer.words(&["IF", "NOT", "EXISTS"]);
            let touched = vec![touches(table(&mut lexer)?, replaces || !careful)];
            let runs = super::write::runs_of_select(lexer)?;
            return Some(Statement::Tables { what: what.to_owned(), touched, runs });
        }
    }
    if lexer.word("DATABASE") || lexer.word("SCHEMA") {
        lexer.words(&["IF", "NOT", "EXISTS"]);
        let schema = name(&mut lexer)?;
        return Some(match replaces {
            true => Statement::Schema { what: "CREATE OR REPLACE DATABASE", schema },
            false => Statement::Harmless("CREATE DATABASE"),
        });
    }
    let _ = lexer.word("ONLINE") || lexer.word("OFFLINE");
    let _ = ["UNIQUE", "FULLTEXT", "SPATIAL"].iter().any(|kind| lexer.word(kind));
    if !lexer.word("INDEX") {
        return None;
    }
    lexer.words(&["IF", "NOT", "EXISTS"]);
    name(&mut lexer)?;
    if lexer.word("USING") {
        name(&mut lexer)?;
    }
    if !lexer.word("ON") {
        return None;
    }
    tables("CREATE INDEX", vec![touches(table(&mut lexer)?, false)])
}

pub(super) fn drop(mut lexer: Lexer<'_>) -> Option<Statement> {
    if lexer.word("TEMPORARY") {
        if !["TABLE", "TABLES", "SEQUENCE"].iter().any(|kind| lexer.word(kind)) {
            return None;
        }
        return dropped(&mut lexer).map(Statement::DropsTemporary);
    }
    for (kind, what) in [("USER", "DROP USER"), ("ROLE", "DROP ROLE")] {
        if lexer.word(kind) {
            return Some(Statement::Harmless(what));
        }
    }
    if lexer.peek()?.is_any(&DEFINITIONS) {
        return definition("DROP", true, lexer);
    }
    for (kind, what) in
        [("TABLE", "DROP TABLE"), ("TABLES", "DROP TABLE"), ("SEQUENCE", "DROP SEQUENCE")]
    {
        if lexer.word(kind) {
            let touched = dropped(&mut lexer)?;
            return tables(what, touched.into_iter().map(|table| touches(table, true)).collect());
        }
    }
    if lexer.word("DATABASE") || lexer.word("SCHEMA") {
        lexer.words(&["IF", "EXISTS"]);
        let schema = name(&mut lexer)?;
        return Some(Statement::Schema { what: "DROP DATABASE", schema });
    }
    let _ = lexer.word("ONLINE") || lexer.word("OFFLINE");
    if !lexer.word("INDEX") {
        return None;
    }
    lexer.words(&["IF", "EXISTS"]);
    let primary = name(&mut lexer)?.may_be("primary", true);
    if !lexer.word("ON") {
        return None;
    }
    tables("DROP INDEX", vec![touches(table(&mut lexer)?, primary)])
}

/// The tables of DROP TABLE, and nothing behind them.
fn dropped(lexer: &mut Lexer<'_>) -> Option<Vec<Table>> {
    lexer.words(&["IF", "EXISTS"]);
    let mut found = Vec::new();
    loop {
        found.push(table(lexer)?);
        if !lexer.symbol(b',') {
            break;
        }
    }
    waits(lexer)?;
    let _ = lexer.word("RESTRICT") || lexer.word("CASCADE");
    lexer.ends().then_some(found)
}

pub(super) fn rename(mut lexer: Lexer<'_>) -> Option<Statement> {
    if lexer.word("USER") {
        return Some(Statement::Harmless("RENAME USER"));
    }
    if !lexer.word("TABLE") && !lexer.word("TABLES") {
        return None;
    }
    lexer.words(&["IF", "EXISTS"]);
    let mut touched = Vec::new();
    loop {
        touched.push(touches(table(&mut lexer)?, true));
        waits(&mut lexer)?;
        if !lexer.word("TO") {
            return None;
        }
        touched.push(touches(table(&mut lexer)?, true));
        if !lexer.symbol(b',') {
            break;
        }
    }
    if lexer.ends() { tables("RENAME TABLE", touched) } else { None }
}

pub(super) fn truncate(mut lexer: Lexer<'_>) -> Option<Statement> {
    // A table may be called table.
    let named = |mut ahead: Lexer<'_>| ahead.word("TABLE") && !ahead.ends();
    if named(lexer.clone()) {
        lexer.word("TABLE");
    }
    let touched = vec![touches(table(&mut lexer)?, true)];
    waits(&mut lexer)?;
    if lexer.ends() { tables("TRUNCATE TABLE", touched) } else { None }
}

/// `WAIT n` or `NOWAIT`, or neither.
fn waits(lexer: &mut Lexer<'_>) -> Option<()> {
    if lexer.word("WAIT") {
        name(lexer)?;
        if lexer.symbol(b'.') {
            name(lexer)?;
        }
    } else {
        lexer.word("NOWAIT");
    }
    Some(())
}

pub(super) fn alter(mut lexer: Lexer<'_>) -> Option<Statement> {
    if lexer.word("USER") || lexer.word("ROLE") {
        return Some(Statement::Harmless("ALTER USER"));
    }
    if lexer.peek()?.is_any(&DEFINITIONS) {
        return definition("ALTER", true, lexer);
    }
    if lexer.word("DATABASE") || lexer.word("SCHEMA") {
        return alter_database(lexer);
    }
    if lexer.word("SEQUENCE") {
        lexer.words(&["IF", "EXISTS"]);
        return tables("ALTER SEQUENCE", vec![touches(table(&mut lexer)?, true)]);
    }
    let mut ignore = false;
    loop {
        if lexer.word("IGNORE") {
            // Rows that do not fit are left out.
            ignore = true;
        } else if !lexer.word("ONLINE") && !lexer.word("OFFLINE") {
            break;
        }
    }
    if !lexer.word("TABLE") {
        return None;
    }
    lexer.words(&["IF", "EXISTS"]);
    let altered = table(&mut lexer)?;
    waits(&mut lexer)?;
    let mut changes = ignore;
    let mut touched = Vec::new();
    while !lexer.ends() {
        let known = clause(lexer.clone()).is_some_and(|keeps| keeps);
        changes |= !known;
        others(&mut lexer, &mut touched)?;
    }
    touched.insert(0, touches(altered, changes));
    tables("ALTER TABLE", touched)
}

/// Only what the schema's new tables are made with, and its comment.
fn alter_database(mut lexer: Lexer<'_>) -> Option<Statement> {
    let defaults = |mut lexer: Lexer<'_>| {
        while !lexer.ends() {
            option(&mut lexer, &["CHARACTER", "CHARSET", "COLLATE", "COMMENT"])?;
        }
        Some(Statement::Harmless("ALTER DATABASE"))
    };
    if let Some(harmless) = defaults(lexer.clone()) {
        return Some(harmless);
    }
    let schema = name(&mut lexer)?;
    defaults(lexer).or(Some(Statement::Schema { what: "ALTER DATABASE", schema }))
}

/// Goes past one clause of ALTER TABLE, and notes which other tables it names.
fn others(lexer: &mut Lexer<'_>, touched: &mut Vec<Touched>) -> Option<()> {
    let mut depth = 0u32;
    loop {
        let ahead = lexer.clone();
        if depth == 0 && lexer.ends() {
            return Some(());
        }
        *lexer = ahead;
        let token = lexer.next()?;
        match token {
            Token::Broken => return None,
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.checked_sub(1)?,
            Token::Symbol(b',') if depth == 0 => return Some(()),
            // RENAME [TO | AS | =] table, but not RENAME COLUMN, INDEX or KEY
            _ if depth == 0 && token.is("RENAME") => {
                let mut ahead = lexer.clone();
                let _ = ahead.word("TO") || ahead.word("AS") || ahead.symbol(b'=');
                if let Some(name) = table(&mut ahead) {
                    touched.push(touches(name, true));
                }
            }
            // EXCHANGE PARTITION p WITH TABLE t, CONVERT PARTITION p TO TABLE t,
            // CONVERT TABLE t TO PARTITION p
            _ if depth == 0 && token.is("TABLE") => {
                if let Some(name) = table(&mut lexer.clone()) {
                    touched.push(touches(name, true));
                }
            }
            _ => {}
        }
    }
}

const OPTIONS: [&str; 24] = [
    "AUTO_INCREMENT",
    "AVG_ROW_LENGTH",
    "CHARACTER",
    "CHARSET",
    "CHECKSUM",
    "COLLATE",
    "COMMENT",
    "DELAY_KEY_WRITE",
    "ENCRYPTED",
    "ENCRYPTION_KEY_ID",
    "ENGINE",
    "KEY_BLOCK_SIZE",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PAGE_CHECKSUM",
    "PAGE_COMPRESSED",
    "PAGE_COMPRESSION_LEVEL",
    "ROW_FORMAT",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "TABLE_CHECKSUM",
    "TRANSACTIONAL",
];

/// `[DEFAULT] name [=] value` of one of these.
fn option(lexer: &mut Lexer<'_>, known: &[&str]) -> Option<()> {
    lexer.word("DEFAULT");
    let is = known.iter().copied().find(|name| lexer.word(name))?;
    if is == "CHARACTER" && !lexer.word("SET") {
        return None;
    }
    lexer.symbol(b'=');
    match lexer.next()? {
        // Rows of another engine may be others.
        token if is == "ENGINE" => (token.is("InnoDB")
            || matches!(&token, Token::Name(name) if name.eq_ignore_ascii_case(b"innodb")))
        .then_some(()),
        Token::Word(_) | Token::Name(_) | Token::Text => Some(()),
        Token::Symbol(_) | Token::Broken => None,
    }
}

/// Does this clause of ALTER TABLE leave rows and columns as they are? `None`: not understood.
fn clause(mut lexer: Lexer<'_>) -> Option<bool> {
    let l = &mut lexer;
    let rest_of_partitions = |l: &mut Lexer<'_>| l.word("PARTITION").then_some(true);
    if l.word("ADD") {
        if l.word("CONSTRAINT") {
            let unnamed = l.peek()?.is_any(&["UNIQUE", "CHECK", "PRIMARY", "FOREIGN"]);
            if !unnamed {
                l.words(&["IF", "NOT", "EXISTS"]);
                name(l)?;
            }
        }
        let keeps = ["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "CHECK", "PARTITION"];
        return Some(l.peek()?.is_any(&keeps));
    }
    if l.word("DROP") {
        if l.words(&["FOREIGN", "KEY"]) {
            return Some(true);
        }
        if !l.word("INDEX") && !l.word("KEY") && !l.word("CONSTRAINT") {
            return Some(false);
        }
        l.words(&["IF", "EXISTS"]);
        return Some(!name(l)?.may_be("primary", true));
    }
    if l.word("RENAME") {
        return Some(l.word("INDEX") || l.word("KEY"));
    }
    if l.word("ALTER") {
        if l.word("INDEX") || l.word("KEY") {
            return Some(true);
        }
        l.word("COLUMN");
        l.words(&["IF", "EXISTS"]);
        name(l)?;
        return Some(l.words(&["SET", "DEFAULT"]) || l.words(&["DROP", "DEFAULT"]));
    }
    if l.word("ALGORITHM") || l.word("LOCK") {
        l.symbol(b'=');
        name(l)?;
        return Some(at_end(l));
    }
    if l.word("FORCE") || l.words(&["ENABLE", "KEYS"]) || l.words(&["DISABLE", "KEYS"]) {
        return Some(at_end(l));
    }
    if l.words(&["REMOVE", "PARTITIONING"]) {
        return Some(at_end(l));
    }
    if l.words(&["PARTITION", "BY"]) {
        // The last clause; what comes behind a comma in it is another part of the same.
        return Some(true);
    }
    for verb in ["ANALYZE", "OPTIMIZE", "REPAIR", "CHECK", "REBUILD", "REORGANIZE", "COALESCE"] {
        if l.word(verb) {
            return rest_of_partitions(l);
        }
    }
    loop {
        option(l, &OPTIONS)?;
        if at_end(l) {
            return Some(true);
        }
    }
}

/// Of the clause.
fn at_end(lexer: &mut Lexer<'_>) -> bool {
    lexer.peek() == Some(Token::Symbol(b',')) || lexer.clone().ends()
}
