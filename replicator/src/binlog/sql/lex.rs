//! The text of a statement to its words, as the server's own lexer cuts it (`sql_lex.cc`).
//!
//! Works on bytes, in the character set that the client spoke. What is in executable comments
//! counts: the server takes the mark out of one that it did not execute before it logs the statement.

use std::borrow::Cow;

/// How a session's statements are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexis {
    /// `"` quotes a name and not a string.
    pub ansi_quotes: bool,
    /// A backslash in a string takes the meaning from what follows.
    pub backslash: bool,
    pub charset: Charset,
}

/// What of the client's character set matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    Utf8,
    /// MariaDB's latin1, which is Windows' 1252.
    Latin1,
    /// The bytes of ASCII mean nothing else in it.
    Plain,
    /// The second byte of a character may be one of ASCII's.
    Double {
        /// 0xA1 to 0xDF are characters of their own, as in Shift-JIS.
        kana: bool,
    },
}

impl Charset {
    /// By the number of a collation of it.
    pub fn of(collation: u16) -> Charset {
        // Those without padding are the others' numbers, and 1024 more.
        match collation & !1024 {
            33 | 45 | 46 | 76 | 83 | 192..=215 | 223..=247 | 576..=579 | 608..=611 => Charset::Utf8,
            2048.. => Charset::Utf8,
            8 | 5 | 15 | 31 | 47 | 48 | 49 | 94 => Charset::Latin1,
            13 | 88 | 95 | 96 => Charset::Double { kana: true },
            1 | 84 | 28 | 87 => Charset::Double { kana: false },
            _ => Charset::Plain,
        }
    }

    /// Does this byte begin a character that the next one ends, whatever that is?
    fn leads(self, byte: u8) -> bool {
        match self {
            Charset::Double { kana: true } => matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
            Charset::Double { kana: false } => matches!(byte, 0x81..=0xfe),
            Charset::Utf8 | Charset::Latin1 | Charset::Plain => false,
        }
    }
}

impl Default for Lexis {
    fn default() -> Lexis {
        Lexis { ansi_quotes: false, backslash: true, charset: Charset::Utf8 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword, a name without quotes, or a number up to its point.
    Word(&'a [u8]),
    /// A quoted name, without its quotes.
    Name(Cow<'a, [u8]>),
    /// A string.
    Text,
    Symbol(u8),
    /// Something that is not closed, or belongs into no statement.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
    lexis: Lexis,
    /// Executable comments that are open.
    inside: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(sql: &'a [u8], lexis: Lexis) -> Lexer<'a> {
        Lexer { rest: sql, lexis, inside: 0 }
    }

    pub fn lexis(&self) -> Lexis {
        self.lexis
    }

    pub fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    /// Is the next token this keyword? Then it is taken.
    pub fn word(&mut self, word: &str) -> bool {
        let mut ahead = self.clone();
        let is = ahead.next().is_some_and(|token| token.is(word));
        if is {
            *self = ahead;
        }
        is
    }

    /// All of these in a row, or none is taken.
    pub fn words(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        let all = words.iter().all(|word| ahead.word(word));
        if all {
            *self = ahead;
        }
        all
    }

    pub fn symbol(&mut self, symbol: u8) -> bool {
        let mut ahead = self.clone();
        let is = ahead.next() == Some(Token::Symbol(symbol));
        if is {
            *self = ahead;
        }
        is
    }

    /// Nothing more, but perhaps a semicolon.
    pub fn ends(&mut self) -> bool {
        while self.symbol(b';') {}
        self.peek().is_none()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Past the first `end`; false where there is none.
    fn skip_past(&mut self, end: &[u8]) -> bool {
        let at = self.rest.windows(end.len()).position(|window| window == end);
        self.rest = at.and_then(|at| self.rest.get(at + end.len()..)).unwrap_or_default();
        at.is_some()
    }

    /// Up to the next token; false where a comment is not closed.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.rest {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => self.skip(1),
                [b'/', b'*', b'!', ..] => self.enter(3),
                [b'/', b'*', b'M', b'!', ..] => self.enter(4),
                [b'/', b'*', ..] => {
                    self.skip(2);
                    if !self.skip_past(b"*/") {
                        return false;
                    }
                }
                [b'*', b'/', ..] if self.inside > 0 => {
                    self.inside -= 1;
                    self.skip(2);
                }
                [b'#', ..] | [b'-', b'-'] => {
                    self.skip_past(b"\n");
                }
                [b'-', b'-', after, ..]
                    if after.is_ascii_whitespace() || after.is_ascii_control() =>
                {
                    self.skip_past(b"\n");
                }
                _ => return true,
            }
        }
    }

    /// Into an executable comment, past its version.
    fn enter(&mut self, mark: usize) {
        self.inside += 1;
        self.skip(mark);
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if matches!(digits, 5 | 6) {
            self.skip(digits);
        }
    }

    fn bare(&mut self) -> Token<'a> {
        let mut len = 0;
        while let Some(&byte) = self.rest.get(len) {
            match byte {
                _ if self.lexis.charset.leads(byte) => len += 2,
                b'_' | b'$' | 0x80.. => len += 1,
                _ if byte.is_ascii_alphanumeric() => len += 1,
                _ => break,
            }
        }
        let (word, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        Token::Word(word)
    }

    /// A string or name from its opening quote on.
    fn quoted(&mut self, quote: u8, is_name: bool) -> Token<'a> {
        self.skip(1);
        let inside = self.rest;
        let mut at = 0;
        let mut doubled = false;
        while let Some(&byte) = inside.get(at) {
            match byte {
                _ if self.lexis.charset.leads(byte) => at += 2,
                b'\\' if !is_name && self.lexis.backslash => at += 2,
                _ if byte == quote && inside.get(at + 1) == Some(&quote) => {
                    doubled = true;
                    at += 2;
                }
                _ if byte == quote => {
                    self.skip(at + 1);
                    let name = &inside[..at];
                    return match (is_name, doubled) {
                        (false, _) => Token::Text,
                        (true, false) => Token::Name(Cow::Borrowed(name)),
                        (true, true) => Token::Name(Cow::Owned(single(name, quote, self.lexis))),
                    };
                }
                _ => at += 1,
            }
        }
        self.rest = &[];
        Token::Broken
    }
}

/// With each doubled quote once.
fn single(name: &[u8], quote: u8, lexis: Lexis) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.get(at) {
        let len = if lexis.charset.leads(byte) { 2 } else { 1 };
        out.extend_from_slice(&name[at..(at + len).min(name.len())]);
        at += if byte == quote { 2 } else { len };
    }
    out
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if !self.skip_blank() {
            return Some(Token::Broken);
        }
        let Some(&first) = self.rest.first() else {
            let open = std::mem::take(&mut self.inside) > 0;
            return open.then_some(Token::Broken);
        };
        Some(match first {
            b'`' => self.quoted(first, true),
            b'"' => self.quoted(first, self.lexis.ansi_quotes),
            b'\'' => self.quoted(first, false),
            b'_' | b'$' | 0x80.. => self.bare(),
            _ if first.is_ascii_alphanumeric() => self.bare(),
            _ if first.is_ascii_control() => {
                self.rest = &[];
                Token::Broken
            }
            _ => {
                self.skip(1);
                Token::Symbol(first)
            }
        })
    }
}

impl Token<'_> {
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    pub fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(sql: &[u8], lexis: Lexis) -> String {
        let shown = |token| match token {
            Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
            Token::Name(name) => format!("[{}]", String::from_utf8_lossy(&name)),
            Token::Text => "TEXT".to_owned(),
            Token::Symbol(symbol) => char::from(symbol).to_string(),
            Token::Broken => "BROKEN".to_owned(),
        };
        Lexer::new(sql, lexis).map(shown).collect::<Vec<_>>().join(" ")
    }

    fn check(sql: &str, expected: &str) {
        assert_eq!(show(sql.as_bytes(), Lexis::default()), expected, "{sql}");
    }

    #[test]
    fn words_names_and_strings_are_told_apart() {
        check("DROP TABLE `a``b`.c_1$,größe;", "DROP TABLE [a`b] . c_1$ , größe ;");
        check(r"'it''s \' me' x'00' 1.5e3 @a", "TEXT x TEXT 1 . 5e3 @ a");
        check(r"`a\`b", "[a\\] b");
        check("'open", "BROKEN");
        check("`open", "BROKEN");
        check("a\0b", "a BROKEN");
        check("", "");
    }

    #[test]
    fn comments_hide_nothing_that_is_executed() {
        check("a /* ` */ b -- c '\nd # e \"\nf --g", "a b d f - - g");
        check("DROP /*!40005 TEMPORARY */ TABLE t /*M!100100 x*/", "DROP TEMPORARY TABLE t x");
        check("/*! a /* b */ c */ d", "a c d");
        check("a /* b", "a BROKEN");
        check("/*! a", "a BROKEN");
        check("/*!1 a */", "1 a");
        check("a */ b", "a * / b");
        check("a --", "a");
    }

    #[test]
    fn sql_mode_says_what_quotes_mean() {
        let ansi = Lexis { ansi_quotes: true, ..Lexis::default() };
        assert_eq!(show(br#"DROP TABLE "a""b\" x"#, ansi), "DROP TABLE [a\"b\\] x");
        assert_eq!(show(br#""a""b\" x" y"#, Lexis::default()), "TEXT y");
        let plain = Lexis { backslash: false, ..Lexis::default() };
        assert_eq!(show(br"'a\' b", plain), "TEXT b");
    }

    #[test]
    fn the_second_byte_of_a_character_is_no_quote() {
        let double = |kana| Lexis { charset: Charset::Double { kana }, ..Lexis::default() };
        // A character of GBK and one of Shift-JIS end with a backquote, and one with a backslash.
        let gbk = show(b"`\x81\x60` a", double(false));
        assert!(gbk.ends_with("] a"), "{gbk}");
        assert_eq!(show(b"'\x95\x5c' a", double(true)), "TEXT a");
        assert_eq!(show(b"'\xb1' a", double(true)), "TEXT a");
        assert_eq!(Charset::of(28), Charset::Double { kana: false });
        assert_eq!(Charset::of(1024 + 13), Charset::Double { kana: true });
        assert_eq!(Charset::of(45), Charset::Utf8);
        assert_eq!(Charset::of(8), Charset::Latin1);
        assert_eq!(Charset::of(11), Charset::Plain);
    }
}
