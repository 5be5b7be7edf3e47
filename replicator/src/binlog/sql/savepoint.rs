//! Savepoints, with their names as bytes.

use super::lex::{Lexer, Lexis, Token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Savepoint {
    Set(Vec<u8>),
    Release(Vec<u8>),
    RollBackTo(Vec<u8>),
}

/// `None`: the statement is another one, or is not understood to its end.
pub fn savepoint(sql: &[u8], lexis: Lexis) -> Option<Savepoint> {
    let mut lexer = Lexer::new(sql, lexis);
    let make = if lexer.word("SAVEPOINT") {
        Savepoint::Set
    } else if lexer.words(&["RELEASE", "SAVEPOINT"]) {
        Savepoint::Release
    } else if lexer.word("ROLLBACK") {
        lexer.word("WORK");
        if !lexer.word("TO") {
            return None;
        }
        // A savepoint may be called savepoint.
        let named = |mut ahead: Lexer<'_>| ahead.next().is_some() && !ahead.ends();
        if named(lexer.clone()) {
            lexer.word("SAVEPOINT");
        }
        Savepoint::RollBackTo
    } else {
        return None;
    };
    let name = match lexer.next()? {
        Token::Word(name) => name.to_vec(),
        Token::Name(name) => name.into_owned(),
        Token::Text | Token::Symbol(_) | Token::Broken => return None,
    };
    lexer.ends().then(|| make(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn savepoints_are_known_by_name() {
        let of = |sql: &str| savepoint(sql.as_bytes(), Lexis::default());
        assert_eq!(of("SAVEPOINT `a``b`"), Some(Savepoint::Set(b"a`b".to_vec())));
        assert_eq!(of("release savepoint A;"), Some(Savepoint::Release(b"A".to_vec())));
        for sql in ["ROLLBACK TO `x`", "ROLLBACK WORK TO SAVEPOINT x", "rollback to savepoint `x`"]
        {
            assert_eq!(of(sql), Some(Savepoint::RollBackTo(b"x".to_vec())), "{sql}");
        }
        let name = b"savepoint".to_vec();
        assert_eq!(of("ROLLBACK TO savepoint"), Some(Savepoint::RollBackTo(name)));
        for sql in
            ["ROLLBACK", "SAVEPOINT", "SAVEPOINT a b", "SAVEPOINT 'a'", "COMMIT", "SAVEPOINT `a"]
        {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
