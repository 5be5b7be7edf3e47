//! What standard output can show: how much fits on it, and whether words may have colours.
//!
//! Colours are for eyes alone: a file, a pipe and a terminal whose user set NO_COLOR get the bare words.
//! So no colour says anything that the words beside it do not say.

use std::env;
use std::fmt::Display;

use console::{Style, Term};

/// Why words are made to stand out; never a colour as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// It waits for morning.
    Warning,
    /// Somebody has to act.
    Bad,
    /// What is read first.
    Strong,
    /// What is read last.
    Faint,
}

/// Standard output, as it was when it was looked at: a window may be made larger meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    colours: bool,
    /// Rows and columns; `None`: no terminal.
    size: Option<(usize, usize)>,
}

/// Of a terminal that does not say how large it is.
const USUAL_SIZE: (usize, usize) = (24, 80);

impl Terminal {
    /// What is written to a file or a pipe.
    #[cfg(test)]
    pub const PLAIN: Terminal = Terminal { colours: false, size: None };

    #[cfg(test)]
    pub fn of_size(rows: usize, columns: usize) -> Terminal {
        Terminal { colours: false, size: Some((rows, columns)) }
    }

    pub fn stdout() -> Terminal {
        let term = Term::stdout();
        let size = term.is_term().then(|| match term.size_checked() {
            Some((rows, columns)) if rows > 0 && columns > 0 => (rows.into(), columns.into()),
            _ => USUAL_SIZE,
        });
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|kind| kind == "dumb");
        // https://no-color.org: whatever it is set to, but not to nothing.
        let colours = size.is_some() && !dumb && set("NO_COLOR").is_none();
        Terminal { colours, size }
    }

    /// Rows and columns; `None`: no terminal, so there is room for everything.
    pub fn size(self) -> Option<(usize, usize)> {
        self.size
    }

    pub fn paint(self, tone: Tone, text: impl Display) -> String {
        if !self.colours {
            return text.to_string();
        }
        let style = match tone {
            Tone::Good => Style::new().green(),
            Tone::Warning => Style::new().yellow(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dim(),
        };
        style.force_styling(true).apply_to(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_alone_and_end_where_the_words_end() {
        assert_eq!(Terminal::PLAIN.paint(Tone::Bad, "halted"), "halted");
        let coloured = Terminal { colours: true, size: Some(USUAL_SIZE) };
        for tone in [Tone::Good, Tone::Warning, Tone::Bad, Tone::Strong, Tone::Faint] {
            let painted = coloured.paint(tone, "halted");
            assert!(painted.starts_with("\x1b[") && painted.ends_with("\x1b[0m"), "{painted:?}");
            assert_eq!(console::strip_ansi_codes(&painted), "halted", "{tone:?}");
        }
    }
}
