//! Commands that modshift prints for its operator: a test gives them exactly as they stand there.

use anyhow::{Context, Result};

/// The arguments of `modshift <command> ...` in a text, as a shell would split them; up to the closing
/// backquote, or the end of the line.
pub fn printed(text: &str, command: &str) -> Result<Vec<String>> {
    let begin = text.find(&format!("modshift {command}")).with_context(|| text.to_owned())?;
    let rest = &text[begin + "modshift ".len()..];
    let end = rest.find(['`', '\n']).unwrap_or(rest.len());
    let mut words: Vec<String> = Vec::new();
    // A log line has its own quotes escaped.
    for (index, part) in rest[..end].replace("\\\"", "\"").split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_as_it_stands() {
        let text = r#"hint="do so; `modshift skip --gtid 0-1-7 --why \"A B\"` passes""#;
        let words = printed(text, "skip").expect("it is there");
        assert_eq!(words, ["skip", "--gtid", "0-1-7", "--why", "A B"]);
        assert!(printed(text, "verify").is_err());
    }
}
