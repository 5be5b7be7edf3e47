//! Rows changed in statement format: which table, and what is called meanwhile.

use super::lex::{Lexer, Token};
use super::name::{Name, Table, table};
use super::{Runs, Statement, Write};

/// More functions than any statement calls.
const CALLS_MAX: usize = 1000;

pub(super) fn write(verb: &str, mut lexer: Lexer<'_>) -> Option<Statement> {
    let target = match verb {
        "INSERT" | "REPLACE" => {
            let _ = ["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY"].iter().any(|w| lexer.word(w));
            lexer.word("IGNORE");
            lexer.word("INTO");
            single(&mut lexer, &[])
        }
        "UPDATE" => {
            lexer.word("LOW_PRIORITY");
            lexer.word("IGNORE");
            single(&mut lexer, &["SET"])
        }
        "DELETE" => {
            for word in ["LOW_PRIORITY", "QUICK", "IGNORE", "HISTORY"] {
                lexer.word(word);
            }
            match lexer.word("FROM") {
                true => single(&mut lexer, &["WHERE", "ORDER", "LIMIT", "RETURNING"]),
                false => None,
            }
        }
        _ => None,
    };
    let target = if verb == "SELECT" { Vec::new() } else { vec![target?] };
    let runs = runs(lexer)?;
    Some(Statement::Write(Write { verb: verb.to_owned(), target: target.into_iter().next(), runs }))
}

/// The one table that is written; `None` where there may be several.
fn single(lexer: &mut Lexer<'_>, ends: &[&str]) -> Option<Table> {
    let target = table(lexer)?;
    if ends.is_empty() {
        // INSERT and REPLACE: a list of columns, partitions, rows or a query.
        return Some(target);
    }
    let mut ahead = lexer.clone();
    ahead.word("AS");
    // Perhaps an alias.
    let ended = |lexer: &mut Lexer<'_>| {
        lexer.clone().ends() || lexer.peek().is_some_and(|token| token.is_any(ends))
    };
    if ended(&mut ahead) {
        return Some(target);
    }
    match ahead.next()? {
        Token::Word(_) | Token::Name(_) if ended(&mut ahead) => Some(target),
        _ => None,
    }
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

/// Names before a parenthesis are functions, of which some may be stored ones; what follows FROM or
/// JOIN may be a view. `None`: not understood.
fn runs(lexer: Lexer<'_>) -> Option<Runs> {
    let charset = lexer.lexis().charset;
    let Runs { mut calls, mut reads } = Runs::default();
    let mut before: Option<Token<'_>> = None;
    for token in lexer {
        if token == Token::Broken {
            return None;
        }
        reads |= token.is_any(&["FROM", "JOIN", "STRAIGHT_JOIN"]);
        if token == Token::Symbol(b'(') {
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
        }
        // SELECT … INTO OUTFILE, NEXT VALUE FOR, PROCEDURE ANALYSE change no row of a table.
        before = Some(token);
    }
    Some(Runs { calls, reads })
}
