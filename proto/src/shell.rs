//! Words of commands that are printed for an operator: each is one word to a POSIX shell, whatever it holds.

use std::borrow::Cow;

/// As it is where a shell leaves it alone, and else in single quotes.
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

/// An option that is given once for each value, with a blank before each.
pub fn options<T: AsRef<str>>(name: &str, values: &[T]) -> String {
    values.iter().map(|value| format!(" {name} {}", word(value.as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_to_a_shell() {
        let plain = ["t", "t_user2", "a.b-c", "/etc/plan.toml"];
        for text in plain {
            assert_eq!(word(text), text);
        }
        let quoted =
            ["a;b", "a b", "a`b", "a$b", "a\"b", "a*b", "~a", "#a", "ä", "", "a\nb", "a\\b", "!a"];
        for text in quoted {
            assert_eq!(word(text), format!("'{text}'"));
        }
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(options("--table", &["t", "a;b"]), " --table t --table 'a;b'");
    }

    /// A shell is asked.
    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let words = ["t", "a;b", "it's", "$(exit 1)", "a\\", "''", "--x", "a  b", "\"", "ü`\n!"];
        let line: String = options("printf '%s\\0'", &words).replace(" printf", "\nprintf");
        let output =
            std::process::Command::new("sh").args(["-c", &line]).output().expect("a shell");
        let read = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words, "{line}");
    }
}
