//! Names of schemas and tables in a statement.

use super::lex::{Charset, Lexer, Token};

/// A name as the client wrote it, without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: Vec<u8>,
    charset: Charset,
}

/// `schema.table`, or `table` in the default schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub schema: Option<Name>,
    pub name: Name,
}

impl Name {
    pub fn new(bytes: &[u8], charset: Charset) -> Name {
        Name { bytes: bytes.to_vec(), charset }
    }

    /// Of one statement: the same, or perhaps so.
    pub fn same(&self, other: &Name) -> bool {
        let ascii = self.bytes.is_ascii() && other.bytes.is_ascii();
        if ascii { self.bytes.eq_ignore_ascii_case(&other.bytes) } else { true }
    }

    /// As the catalog shows it, where that can be told.
    pub fn text(&self) -> Option<String> {
        match self.charset {
            _ if self.bytes.is_ascii() => String::from_utf8(self.bytes.clone()).ok(),
            Charset::Utf8 => String::from_utf8(self.bytes.clone()).ok(),
            Charset::Latin1 => Some(latin1(&self.bytes)),
            Charset::Plain | Charset::Double { .. } => None,
        }
    }

    /// May this be the one that the catalog shows as `known`? Exact for ASCII, UTF-8 and latin1; in
    /// any other character set a name beyond ASCII may be any such name. What the server writes
    /// itself is in UTF-8 whatever the client spoke. `fold`: the server does not tell case.
    pub fn may_be(&self, known: &str, fold: bool) -> bool {
        let same = |text: &str| match fold {
            true => text.to_lowercase() == known.to_lowercase(),
            false => text == known,
        };
        let utf8 = std::str::from_utf8(&self.bytes).is_ok_and(same);
        match self.charset {
            _ if self.bytes.is_ascii() => utf8,
            Charset::Utf8 => utf8,
            Charset::Latin1 => utf8 || same(&latin1(&self.bytes)),
            Charset::Plain | Charset::Double { .. } => !known.is_ascii(),
        }
    }
}

/// Windows' 1252, with its five gaps as MariaDB fills them.
fn latin1(bytes: &[u8]) -> String {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    let char_of = |&byte: &u8| match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    };
    bytes.iter().map(char_of).collect()
}

/// The next token as a name.
pub(super) fn name(lexer: &mut Lexer<'_>) -> Option<Name> {
    let charset = lexer.lexis().charset;
    match lexer.next()? {
        Token::Word(word) => Some(Name::new(word, charset)),
        Token::Name(name) => Some(Name::new(&name, charset)),
        Token::Text | Token::Symbol(_) | Token::Broken => None,
    }
}

/// `[schema.]table`; `.table` is in the default schema.
pub(super) fn table(lexer: &mut Lexer<'_>) -> Option<Table> {
    if lexer.symbol(b'.') {
        return Some(Table { schema: None, name: name(lexer)? });
    }
    let first = name(lexer)?;
    match lexer.symbol(b'.') {
        true => Some(Table { schema: Some(first), name: name(lexer)? }),
        false => Some(Table { schema: None, name: first }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_in_the_character_set_of_their_statement() {
        let is = |bytes: &[u8], charset, known| Name::new(bytes, charset).may_be(known, false);
        assert!(is("größe".as_bytes(), Charset::Utf8, "größe"));
        assert!(!is("große".as_bytes(), Charset::Utf8, "größe"));
        assert!(is(b"gr\xf6\xdfe", Charset::Latin1, "größe"));
        assert!(is("größe".as_bytes(), Charset::Latin1, "größe"), "written by the server");
        assert!(!is(b"gr\xf6\xdfe", Charset::Latin1, "groesse"));
        assert!(is(b"\x81\x60", Charset::Double { kana: false }, "größe"), "cannot be told");
        assert!(!is(b"\x81\x60", Charset::Double { kana: false }, "orders"));
        assert!(is(b"\x80", Charset::Latin1, "€"));
        let folds = |fold| Name::new(b"ORDERS", Charset::Utf8).may_be("orders", fold);
        assert!(folds(true) && !folds(false));
        assert!(Name::new("GRÖẞE".as_bytes(), Charset::Utf8).may_be("größe", true));
    }
}
