//! A statement as it may be shown: without a row's values.

/// Goes along a statement. What is in executable comments counts, for it is executed.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn new(sql: &'a [u8]) -> Words<'a> {
        Words { rest: sql }
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

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
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
