//! What a statement in the binlog does, and to which tables. Pure: bytes in.
//!
//! Not every statement is understood, and none needs to be: what is not is [`Statement::Unknown`],
//! and stops the reader. What is understood names its tables exactly, however they are quoted.

mod ddl;
mod lex;
mod name;
mod savepoint;
#[cfg(test)]
mod tests;
mod write;

pub use lex::{Charset, Lexer, Lexis, Token};
pub use name::{Name, Table};
pub use savepoint::{Savepoint, savepoint};
pub use write::view;

/// What a statement does, as far as a reader must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Commit,
    Rollback,
    /// SAVEPOINT, RELEASE SAVEPOINT or ROLLBACK TO; see [`savepoint`].
    Savepoint,
    /// Changes no row, no table and no schema.
    Harmless(&'static str),
    /// Defines tables. Rows that it changes are in the log as rows, if it calls nothing.
    Tables {
        what: String,
        touched: Vec<Touched>,
        runs: Runs,
    },
    MakesTemporary {
        table: Table,
        runs: Runs,
    },
    DropsTemporary(Vec<Table>),
    /// Changes all of a schema.
    Schema {
        what: &'static str,
        schema: Name,
    },
    /// Of a view, a trigger, a routine and the like: changes no row and no table.
    Definition {
        what: String,
        undoes: Option<Undoes>,
    },
    /// Rows changed in statement format.
    Write(Write),
    /// XA START or XA END, within the group that XA PREPARE ends.
    XaGoesOn,
    XaCommit,
    XaRollback,
    Unknown,
}

/// What was there before is not there any more, or another: a statement before it may have run that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undoes {
    pub kind: &'static str,
    /// `None`: it is not understood.
    pub name: Option<Table>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub table: Table,
    /// A row of it, or what rows are read by, may be another one afterwards.
    pub changes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub verb: String,
    /// None: a SELECT of functions.
    pub targets: Vec<Table>,
    pub runs: Runs,
}

/// What a statement may run that the log does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// What is called, in whatever schema.
    pub calls: Vec<Name>,
    /// What is read, each perhaps a view, which calls what it likes.
    pub reads: Vec<Table>,
}

impl Runs {
    pub fn nothing(&self) -> bool {
        self.calls.is_empty() && self.reads.is_empty()
    }
}

pub fn read(sql: &[u8], lexis: Lexis) -> Statement {
    // What the server puts in place of an event that it believes its replica cannot read.
    if sql.trim_ascii_start().starts_with(b"# Dummy event") {
        return Statement::Unknown;
    }
    let lexer = Lexer::new(sql, lexis);
    if lexer.peek().is_none() {
        return Statement::Harmless("comment");
    }
    statement(lexer).unwrap_or(Statement::Unknown)
}

fn statement(mut lexer: Lexer<'_>) -> Option<Statement> {
    let Token::Word(first) = lexer.next()? else { return None };
    let first = String::from_utf8(first.to_ascii_uppercase()).ok()?;
    match first.as_str() {
        "BEGIN" => Some(Statement::Begin),
        "START" => lexer.word("TRANSACTION").then_some(Statement::Begin),
        "COMMIT" => Some(Statement::Commit),
        "ROLLBACK" => {
            lexer.word("WORK");
            let to = lexer.peek().is_some_and(|token| token.is("TO"));
            Some(if to { Statement::Savepoint } else { Statement::Rollback })
        }
        "SAVEPOINT" | "RELEASE" => Some(Statement::Savepoint),
        "XA" => xa(lexer),
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "SELECT" | "LOAD" => {
            write::write(&first, lexer)
        }
        "CREATE" => ddl::create(lexer),
        "ALTER" => ddl::alter(lexer),
        "DROP" => ddl::drop(lexer),
        "RENAME" => ddl::rename(lexer),
        "TRUNCATE" => ddl::truncate(lexer),
        "FLUSH" => Some(Statement::Harmless("FLUSH")),
        "GRANT" => Some(Statement::Harmless("GRANT")),
        "REVOKE" => Some(Statement::Harmless("REVOKE")),
        // ANALYZE UPDATE … runs the statement.
        "ANALYZE" => of_tables(lexer, "ANALYZE TABLE"),
        "OPTIMIZE" => of_tables(lexer, "OPTIMIZE TABLE"),
        "REPAIR" => of_tables(lexer, "REPAIR TABLE"),
        "CHECK" => of_tables(lexer, "CHECK TABLE"),
        "SET" => set(lexer),
        _ => None,
    }
}

fn xa(mut lexer: Lexer<'_>) -> Option<Statement> {
    let Token::Word(verb) = lexer.next()? else { return None };
    match verb.to_ascii_uppercase().as_slice() {
        b"START" | b"BEGIN" | b"END" => Some(Statement::XaGoesOn),
        b"COMMIT" => Some(Statement::XaCommit),
        b"ROLLBACK" => Some(Statement::XaRollback),
        _ => None,
    }
}

fn of_tables(mut lexer: Lexer<'_>, what: &'static str) -> Option<Statement> {
    let _ = lexer.word("NO_WRITE_TO_BINLOG") || lexer.word("LOCAL");
    let tables = ["TABLE", "TABLES", "VIEW"].iter().any(|word| lexer.word(word));
    tables.then_some(Statement::Harmless(what))
}

fn set(mut lexer: Lexer<'_>) -> Option<Statement> {
    if lexer.word("PASSWORD") {
        return Some(Statement::Harmless("SET PASSWORD"));
    }
    if lexer.words(&["DEFAULT", "ROLE"]) {
        return Some(Statement::Harmless("SET DEFAULT ROLE"));
    }
    if !lexer.word("STATEMENT") {
        return None;
    }
    // SET STATEMENT variable = value, … FOR statement
    let mut depth = 0u32;
    loop {
        match lexer.next()? {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.checked_sub(1)?,
            Token::Broken => return None,
            token if depth == 0 && token.is("FOR") => return statement(lexer),
            _ => {}
        }
    }
}
