//! Rows changed in statement format: of which tables, and what is called and read meanwhile.

use super::lex::{Lexer, Lexis, Token};
use super::name::{Name, Table, name, table};
use super::{Runs, Statement, Write};

/// More functions than any statement calls.
const CALLS_MAX: usize = 1000;

pub(super) fn write(verb: &str, mut lexer: Lexer<'_>) -> Option<Statement> {
    let targets = match verb {
        "INSERT" | "REPLACE" => {
            let _ = ["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY"].iter().any(|w| lexer.word(w));
            lexer.word("IGNORE");
            lexer.word("INTO");
            // A list of columns, partitions, rows or a query follows.
            vec![table(&mut lexer)?]
        }
        "UPDATE" => {
            lexer.word("LOW_PRIORITY");
            lexer.word("IGNORE");
            let tables = references(&mut lexer.clone(), &["SET"])?;
            let single = tables.len() == 1;
            if single {
                table(&mut lexer)?;
            }
            tables.into_iter().map(|reference| reference.table).collect()
        }
        "DELETE" => {
            for word in ["LOW_PRIORITY", "QUICK", "IGNORE", "HISTORY"] {
                lexer.word(word);
            }
            deleted_from(&mut lexer)?
        }
        "LOAD" => vec![loaded(&mut lexer)?],
        _ => Vec::new(),
    };
    if targets.is_empty() && verb != "SELECT" {
        return None;
    }
    let runs = runs(lexer)?;
    Some(Statement::Write(Write { verb: verb.to_owned(), targets, runs }))
}

/// LOAD DATA [LOCAL] INFILE 'file' [REPLACE | IGNORE] INTO TABLE table
fn loaded(lexer: &mut Lexer<'_>) -> Option<Table> {
    if !lexer.word("DATA") && !lexer.word("XML") {
        return None;
    }
    for word in ["LOW_PRIORITY", "CONCURRENT", "LOCAL"] {
        lexer.word(word);
    }
    if !lexer.word("INFILE") || lexer.next()? != Token::Text {
        return None;
    }
    let _ = lexer.word("REPLACE") || lexer.word("IGNORE");
    if lexer.words(&["INTO", "TABLE"]) { table(lexer) } else { None }
}

/// What follows the tables of a DELETE.
const BEHIND: [&str; 4] = ["WHERE", "ORDER", "LIMIT", "RETURNING"];

/// `FROM table …`, `tables FROM references …`, `FROM tables USING references …`
fn deleted_from(lexer: &mut Lexer<'_>) -> Option<Vec<Table>> {
    let from = lexer.word("FROM");
    let mut ahead = lexer.clone();
    let named = victims(&mut ahead);
    let several = named.filter(|_| ahead.word(if from { "USING" } else { "FROM" }));
    if let Some(victims) = several {
        return Some(written(references(&mut ahead, &BEHIND)?, &victims));
    }
    if !from {
        return None;
    }
    let mut tables = references(&mut lexer.clone(), &BEHIND)?;
    table(lexer)?;
    let only = tables.pop()?;
    tables.is_empty().then(|| vec![only.table])
}

/// `a, b.c, d.*`
fn victims(lexer: &mut Lexer<'_>) -> Option<Vec<Table>> {
    let mut found = Vec::new();
    loop {
        let mut victim = Table { schema: None, name: name(lexer)? };
        while lexer.symbol(b'.') {
            if lexer.symbol(b'*') {
                break;
            }
            victim = Table { schema: Some(victim.name), name: name(lexer)? };
        }
        found.push(victim);
        if !lexer.symbol(b',') {
            return Some(found);
        }
    }
}

/// Those that rows may be deleted from: all, unless each is clearly meant or not.
fn written(references: Vec<Reference>, victims: &[Table]) -> Vec<Table> {
    let meant = |reference: &Reference, victim: &Table| {
        let by_alias = reference.alias.as_ref().is_some_and(|alias| alias.same(&victim.name));
        by_alias || reference.table.name.same(&victim.name)
    };
    let clear = victims.iter().all(|victim| references.iter().any(|r| meant(r, victim)));
    let kept = references
        .into_iter()
        .filter(|reference| !clear || victims.iter().any(|victim| meant(reference, victim)));
    kept.map(|reference| reference.table).collect()
}

/// A table that a statement names, and what it is called within it.
struct Reference {
    table: Table,
    alias: Option<Name>,
}

/// What follows a table and is no other name of it.
const NO_ALIAS: [&str; 20] = [
    "CROSS",
    "FOR",
    "FORCE",
    "IGNORE",
    "INNER",
    "JOIN",
    "LEFT",
    "LIMIT",
    "NATURAL",
    "ON",
    "ORDER",
    "OUTER",
    "PARTITION",
    "RETURNING",
    "RIGHT",
    "SET",
    "STRAIGHT_JOIN",
    "USE",
    "USING",
    "WHERE",
];

/// All tables of a list of joins, up to one of these words.
fn references(lexer: &mut Lexer<'_>, ends: &[&str]) -> Option<Vec<Reference>> {
    let mut found: Vec<Reference> = Vec::new();
    let (mut depth, mut due) = (0u32, true);
    loop {
        if due {
            if !lexer.symbol(b'(') {
                let table = table(lexer)?;
                found.push(Reference { table, alias: alias(lexer) });
                due = false;
            } else if lexer.peek()?.is_any(&["SELECT", "WITH", "VALUES"]) {
                skip_group(lexer)?;
                due = false;
            } else {
                depth += 1;
            }
            continue;
        }
        let over = lexer.clone().ends() || lexer.peek().is_some_and(|token| token.is_any(ends));
        if depth == 0 && over {
            return (found.len() <= CALLS_MAX).then_some(found);
        }
        match lexer.next()? {
            Token::Broken | Token::Symbol(b'{' | b'}') => return None,
            Token::Symbol(b'(') => skip_group(lexer)?,
            Token::Symbol(b')') => depth = depth.checked_sub(1)?,
            Token::Symbol(b',') => due = true,
            // A column may be called set.
            Token::Symbol(b'.') => {
                lexer.next()?;
            }
            token => due = token.is_any(&["JOIN", "STRAIGHT_JOIN"]),
        }
    }
}

fn alias(lexer: &mut Lexer<'_>) -> Option<Name> {
    if lexer.word("AS") {
        return name(lexer);
    }
    match lexer.peek()? {
        Token::Name(_) => name(lexer),
        token @ Token::Word(_) if !token.is_any(&NO_ALIAS) => name(lexer),
        _ => None,
    }
}

/// Past the parenthesis that is open.
fn skip_group(lexer: &mut Lexer<'_>) -> Option<()> {
    let mut depth = 1u32;
    while depth > 0 {
        match lexer.next()? {
            Token::Broken => return None,
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth -= 1,
            _ => {}
        }
    }
    Some(())
}

/// Of CREATE TABLE … SELECT.
pub(super) fn runs_of_select(mut lexer: Lexer<'_>) -> Option<Runs> {
    while let Some(token) = lexer.next() {
        if token == Token::Broken {
            return None;
        }
        // VALUES LESS THAN and VALUES IN are of partitions.
        let rows = token.is("VALUES") && lexer.peek() == Some(Token::Symbol(b'('));
        if rows || token.is("SELECT") {
            return runs(lexer);
        }
    }
    Some(Runs::default())
}

/// What stands before a parenthesis and is no function.
const KEYWORDS: [&str; 36] = [
    "ALL",
    "AND",
    "ANY",
    "AS",
    "BETWEEN",
    "BY",
    "CASE",
    "DISTINCT",
    "DIV",
    "DUAL",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FROM",
    "HAVING",
    "IN",
    "INTERSECT",
    "INTERVAL",
    "JOIN",
    "LIKE",
    "MOD",
    "NOT",
    "ON",
    "OR",
    "OVER",
    "PARTITION",
    "SELECT",
    "SOME",
    "THEN",
    "UNION",
    "USING",
    "VALUE",
    "VALUES",
    "WHEN",
    "WHERE",
    "XOR",
];

/// What ends a list of tables.
const AFTER_TABLES: [&str; 19] = [
    "DUPLICATE",
    "EXCEPT",
    "FETCH",
    "GROUP",
    "HAVING",
    "INTERSECT",
    "INTO",
    "LIMIT",
    "LOCK",
    "ORDER",
    "PROCEDURE",
    "RETURNING",
    "SELECT",
    "SET",
    "UNION",
    "VALUES",
    "WHERE",
    "WINDOW",
    "WITH",
];

/// The query of a view, as the server prints it.
pub fn view(sql: &[u8]) -> Option<Runs> {
    runs(Lexer::new(sql, Lexis::default()))
}

/// Names before a parenthesis are functions, of which some may be stored ones; what FROM and JOIN
/// name may be a view. More names than that do no harm. `None`: not understood.
fn runs(mut lexer: Lexer<'_>) -> Option<Runs> {
    let charset = lexer.lexis().charset;
    let Runs { mut calls, mut reads } = Runs::default();
    let mut before: Option<Token<'_>> = None;
    // Within each open parenthesis: is this a list of tables? And is one of them due?
    let (mut tables, mut due) = (vec![false], false);
    loop {
        let ahead = lexer.clone();
        let Some(token) = lexer.next() else { break };
        let list = tables.last_mut()?;
        let query = token.is_any(&["SELECT", "WITH", "VALUES"]);
        match &token {
            Token::Broken => return None,
            Token::Word(_) | Token::Name(_) | Token::Symbol(b'.') if due && !query => {
                due = token.is("LATERAL");
                lexer = ahead;
                let table = table(&mut lexer)?;
                if !token.is("DUAL") && !due && !reads.contains(&table) {
                    if reads.len() == CALLS_MAX {
                        return None;
                    }
                    // JSON_TABLE and the like are functions.
                    before = Some(token);
                    reads.push(table);
                    continue;
                }
            }
            Token::Symbol(b'(') => {
                let name = match &before {
                    Some(word @ Token::Word(bytes)) if !word.is_any(&KEYWORDS) => {
                        Some(Name::new(bytes, charset))
                    }
                    Some(Token::Name(bytes)) => Some(Name::new(bytes, charset)),
                    _ => None,
                };
                if let Some(name) = name.filter(|name| !calls.contains(name)) {
                    if calls.len() == CALLS_MAX {
                        return None;
                    }
                    calls.push(name);
                }
                tables.push(due);
            }
            Token::Symbol(b')') => {
                tables.pop();
                due = false;
            }
            Token::Symbol(b',') => due = *list,
            // A name, whatever it says. What is called is known by its last part.
            Token::Symbol(b'.') => {
                before = lexer.next();
                continue;
            }
            _ if token.is_any(&["FROM", "JOIN", "STRAIGHT_JOIN"]) => (*list, due) = (true, true),
            _ if token.is_any(&AFTER_TABLES) => (*list, due) = (false, false),
            _ => due = false,
        }
        // SELECT … INTO OUTFILE, NEXT VALUE FOR, PROCEDURE ANALYSE change no row of a table.
        before = Some(token);
    }
    Some(Runs { calls, reads })
}
