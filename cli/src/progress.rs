//! What a command waits for, while it waits: on a terminal one line that is written anew, elsewhere a line
//! every ten seconds, and one when something else is waited for. On standard error, beside the log: what a
//! command answers stays what it was.

use std::time::{Duration, Instant};

use console::Term;

/// A script's log is to be read.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Who waits for less was not kept waiting.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Progress {
    term: Term,
    begun: Instant,
    said: Option<(Instant, String)>,
}

impl Progress {
    pub fn begin() -> Progress {
        Progress { term: Term::stderr(), begun: Instant::now(), said: None }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// As often as anything is known.
    pub fn show(&mut self, text: &str) {
        let now = Instant::now();
        if !is_due(now, self.begun, self.said.as_ref(), text, self.term.is_term()) {
            return;
        }
        self.said = Some((now, text.to_owned()));
        // A terminal that is gone is told nothing.
        let _ = match self.term.is_term() {
            true => {
                let columns = usize::from(self.term.size().1).max(2);
                let shown = console::truncate_str(text, columns - 1, "...").into_owned();
                self.term.clear_line().and_then(|()| self.term.write_str(&shown))
            }
            false => self.term.write_line(text),
        };
    }
}

impl Drop for Progress {
    /// What follows begins at the beginning of its line.
    fn drop(&mut self) {
        if self.said.is_some() && self.term.is_term() {
            let _ = self.term.clear_line();
        }
    }
}

fn is_due(
    now: Instant,
    begun: Instant,
    said: Option<&(Instant, String)>,
    text: &str,
    terminal: bool,
) -> bool {
    let Some((at, before)) = said else { return now - begun >= PATIENCE };
    if terminal {
        return before != text;
    }
    let passed = now - *at;
    // Numbers change all the time.
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    passed >= SAY_EVERY || (passed >= PATIENCE && words(before) != words(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_every_ten_seconds_or_when_the_reason_changes() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let said = Some((at(2000), "4 of 24 streams behind".to_owned()));
        let check = |ms, said: &Option<(Instant, String)>, text, terminal, due| {
            assert_eq!(is_due(at(ms), begun, said.as_ref(), text, terminal), due, "{ms} {text}");
        };
        check(900, &None, "any", false, false);
        check(1000, &None, "any", true, true);
        check(11_900, &said, "3 of 24 streams behind", false, false);
        check(12_000, &said, "3 of 24 streams behind", false, true);
        check(3000, &said, "2 rows wait for their place", false, true);
        check(2900, &said, "2 rows wait for their place", false, false);
        check(2250, &said, "3 of 24 streams behind", true, true);
        check(2250, &said, "4 of 24 streams behind", true, false);
    }
}
