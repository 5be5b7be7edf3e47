//! The part of a stored statement before its body: cut off, and freed of names of schemas.
//!
//! A trigger is stored as it was typed, in the character set of that client, behind a definer that
//! the server wrote. An event's header is written anew by the server for whoever asks, in utf8.

use crate::value::quote;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Keyword, number or name without quotes.
    Word,
    Quoted,
    Symbol(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    form: Form,
    start: usize,
    end: usize,
}

/// Just enough of the server's lexer for headers.
struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the first byte of a character of two may be followed by one that looks like a quote.
    is_lead: fn(u8) -> bool,
    ansi_quotes: bool,
}

/// Character sets of clients whose characters may end in an ASCII byte.
fn lead_of(charset: &str) -> fn(u8) -> bool {
    match charset {
        "big5" | "gbk" => |byte| (0x81..=0xfe).contains(&byte),
        "sjis" | "cp932" => |byte| matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
        _ => |_| false,
    }
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Token> {
        self.skip();
        let start = self.at;
        let first = *self.text.get(start)?;
        let form = match first {
            b'`' | b'\'' => self.quoted(first)?,
            b'"' if self.ansi_quotes => self.quoted(first)?,
            _ if self.in_word() => {
                while self.in_word() {
                    self.step();
                }
                Form::Word
            }
            symbol => {
                self.at += 1;
                Form::Symbol(symbol)
            }
        };
        Some(Token { form, start, end: self.at })
    }

    fn step(&mut self) {
        let two = self.text.get(self.at).is_some_and(|&byte| (self.is_lead)(byte));
        self.at += if two { 2 } else { 1 };
    }

    fn in_word(&self) -> bool {
        let byte = self.text.get(self.at);
        byte.is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80)
    }

    fn quoted(&mut self, quote: u8) -> Option<Form> {
        self.at += 1;
        loop {
            match *self.text.get(self.at)? {
                byte if byte == quote && self.text.get(self.at + 1) == Some(&quote) => self.at += 2,
                byte if byte == quote => {
                    self.at += 1;
                    return Some(Form::Quoted);
                }
                // The server writes strings in headers with backslashes doubled.
                b'\\' if quote == b'\'' => self.at += 2,
                _ => self.step(),
            }
        }
    }

    /// Blanks and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let length = if rest.first().is_some_and(u8::is_ascii_whitespace) {
                1
            } else if rest.starts_with(b"/*") && !rest.starts_with(b"/*!") {
                rest.windows(2).skip(2).position(|two| two == b"*/").map_or(rest.len(), |at| at + 4)
            } else if rest.starts_with(b"#") || rest.starts_with(b"-- ") {
                rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
            } else {
                return;
            };
            self.at += length;
        }
    }

    fn is(&self, token: Token, word: &str) -> bool {
        let text = &self.text[token.start..token.end.min(self.text.len())];
        token.form == Form::Word && text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// A name, and what is left out of it: its schema.
    fn name(&mut self, first: Token) -> Option<(usize, usize)> {
        if matches!(first.form, Form::Symbol(_)) {
            return None;
        }
        let back = self.at;
        match self.next() {
            Some(Token { form: Form::Symbol(b'.'), .. }) => {
                let name = self.next()?;
                Some((first.start, name.start))
            }
            _ => {
                self.at = back;
                Some((first.start, first.start))
            }
        }
    }
}

/// From the word TRIGGER on, without the schemas of its name and of its table.
pub(super) fn of_trigger(stored: &[u8], charset: &str, ansi_quotes: bool) -> Option<Vec<u8>> {
    let mut lexer = Lexer { text: stored, at: 0, is_lead: lead_of(charset), ansi_quotes };
    let start = loop {
        let token = lexer.next()?;
        if lexer.is(token, "TRIGGER") {
            break token.start;
        }
    };
    let mut first = lexer.next()?;
    // A trigger may itself be called so, but then something else follows.
    if lexer.is(first, "IF") {
        let back = lexer.at;
        let not = lexer.next()?;
        if lexer.is(not, "NOT") {
            lexer.next()?;
            first = lexer.next()?;
        } else {
            lexer.at = back;
        }
    }
    let of_name = lexer.name(first)?;
    loop {
        let token = lexer.next()?;
        if lexer.is(token, "ON") {
            break;
        }
    }
    let first = lexer.next()?;
    let of_table = lexer.name(first)?;
    for word in ["FOR", "EACH", "ROW"] {
        let token = lexer.next()?;
        if !lexer.is(token, word) {
            return None;
        }
    }
    let parts = [
        &stored[start..of_name.0],
        &stored[of_name.1..of_table.0],
        stored.get(of_table.1..).unwrap_or_default(),
    ];
    Some(parts.concat())
}

/// The header, with `comment` in the place of its own, and the body.
pub(super) fn of_event(stored: &[u8], comment: &str) -> Option<(String, Vec<u8>)> {
    let mut lexer = Lexer { text: stored, at: 0, is_lead: |_| false, ansi_quotes: false };
    let mut end = None;
    loop {
        let token = lexer.next()?;
        if lexer.is(token, "COMMENT") {
            end = Some(token.start);
        }
        if lexer.is(token, "DO") {
            let header = &stored[..end.unwrap_or(token.start)];
            let header = std::str::from_utf8(header).ok()?.trim_end();
            // A blank follows.
            let body = stored.get(token.end + 1..).unwrap_or_default();
            return Some((format!("{header}{comment} DO "), body.to_vec()));
        }
    }
}

/// ` COMMENT '...'` as a session with or without NO_BACKSLASH_ESCAPES reads it.
pub(super) fn comment(text: &str, no_backslash_escapes: bool) -> String {
    if text.is_empty() {
        return String::new();
    }
    let quoted = text.replace('\'', "''");
    let quoted = if no_backslash_escapes { quoted } else { quoted.replace('\\', "\\\\") };
    format!(" COMMENT '{quoted}'")
}

/// `user@host`, or a role.
pub(super) fn definer(text: &str) -> String {
    let account = match text.rsplit_once('@') {
        None | Some((_, "")) => quote(text.trim_end_matches('@')),
        Some((user, host)) => format!("{}@{}", quote(user), quote(host)),
    };
    format!("CREATE DEFINER={account} ")
}

/// The header of an event that repeats, without when it begins.
pub(super) fn without_start(header: &str) -> String {
    let mut lexer =
        Lexer { text: header.as_bytes(), at: 0, is_lead: |_| false, ansi_quotes: false };
    let mut repeats = false;
    while let Some(token) = lexer.next() {
        repeats |= lexer.is(token, "EVERY");
        if repeats && lexer.is(token, "STARTS") {
            let Some(value) = lexer.next() else { break };
            return format!("{}{}", &header[..token.start], &header[value.end..]);
        }
    }
    header.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_freed_of_the_schema_it_comes_from() {
        let check = |stored: &[u8], charset, ansi, expected: Option<&[u8]>| {
            let cut = of_trigger(stored, charset, ansi);
            assert_eq!(cut.as_deref(), expected, "{}", String::from_utf8_lossy(stored));
        };
        let head = "CREATE DEFINER=`a``t`@`%` ";
        let of = |rest: &str| format!("{head}{rest}").into_bytes();
        let same = |rest: &str, expected: &str| {
            check(&of(rest), "utf8mb4", false, Some(expected.as_bytes()));
        };
        let plain = "TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.v = shop.f(1)";
        same(plain, plain);
        same(
            "TRIGGER shop_0 . tr /* ON a.b */ BEFORE UPDATE -- ON x\n ON `shop_0`.`t``x` FOR EACH \
             ROW BEGIN /* c */ END",
            "TRIGGER tr /* ON a.b */ BEFORE UPDATE -- ON x\n ON `t``x` FOR EACH ROW BEGIN /* c */ END",
        );
        same(
            "TRIGGER IF NOT EXISTS `s`.tr AFTER DELETE ON s.t FOR EACH ROW DO 1",
            "TRIGGER IF NOT EXISTS tr AFTER DELETE ON t FOR EACH ROW DO 1",
        );
        same(
            "TRIGGER if BEFORE INSERT ON t FOR EACH ROW DO 1",
            "TRIGGER if BEFORE INSERT ON t FOR EACH ROW DO 1",
        );
        let ansi = b"CREATE DEFINER=\"a\"@\"%\" TRIGGER \"s\".\"t r\" BEFORE INSERT ON \"s\".\"t\" FOR EACH ROW DO 1";
        let cut = b"TRIGGER \"t r\" BEFORE INSERT ON \"t\" FOR EACH ROW DO 1";
        check(ansi, "utf8mb4", true, Some(cut));
        // 0x60, the backtick, ends a character here.
        let gbk = b"CREATE DEFINER=`a`@`%` TRIGGER s.`\x81\x60` BEFORE INSERT ON s.`t` FOR EACH ROW SET @a = '\x81\x60'";
        let cut = b"TRIGGER `\x81\x60` BEFORE INSERT ON `t` FOR EACH ROW SET @a = '\x81\x60'";
        check(gbk, "gbk", false, Some(cut));
        check(b"CREATE TRIGGER a BEFORE INSERT ON t", "utf8mb4", false, None);
        check(b"CREATE TRIGGER `a", "utf8mb4", false, None);
    }

    #[test]
    fn an_event_has_its_header_in_utf8_and_its_body_as_it_was() {
        let stored =
            b"CREATE DEFINER=`a`@`%` EVENT `DO` ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01 \
            00:00:00' ON COMPLETION NOT PRESERVE ENABLE COMMENT 'DO ''it\\\\' DO set @a = '\xe4'";
        let (header, body) = of_event(stored, " COMMENT 'ä'").unwrap();
        assert_eq!(
            header,
            "CREATE DEFINER=`a`@`%` EVENT `DO` ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01 00:00:00' \
             ON COMPLETION NOT PRESERVE ENABLE COMMENT 'ä' DO "
        );
        assert_eq!(body, b"set @a = '\xe4'");
        assert_eq!(
            without_start(&header),
            "CREATE DEFINER=`a`@`%` EVENT `DO` ON SCHEDULE EVERY 1 DAY  ON COMPLETION NOT PRESERVE \
             ENABLE COMMENT 'ä' DO "
        );
        let once = "CREATE EVENT `STARTS` ON SCHEDULE AT '2026-01-01 00:00:00' DO ";
        assert_eq!(without_start(once), once);
        assert_eq!(comment("a'b\\", false), " COMMENT 'a''b\\\\'");
        assert_eq!(comment("a'b\\", true), " COMMENT 'a''b\\'");
        assert_eq!(comment("", true), "");
        assert_eq!(definer("u@v@10.%"), "CREATE DEFINER=`u@v`@`10.%` ");
        assert_eq!(definer("role"), "CREATE DEFINER=`role` ");
    }
}
