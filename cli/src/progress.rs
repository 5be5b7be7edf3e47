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
    shown: bool,
}

impl Progress {
    pub fn begin() -> Progress {
        Progress { term: Term::stderr(), begun: Instant::now(), said: None, shown: false }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// As often as anything is known.
    pub fn show(&mut self, text: &str) {
        let now = Instant::now();
        let terminal = self.term.is_term();
        // A script learns nothing from what it waits for from the start, if that is over soon.
        let said = self.said.get_or_insert_with(|| (self.begun, text.to_owned()));
        if !is_due(now, self.begun, said, text, terminal) {
            return;
        }
        *said = (now, text.to_owned());
        self.shown = true;
        // A terminal that is gone is told nothing.
        let _ = match terminal {
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
        if self.shown && self.term.is_term() {
            let _ = self.term.clear_line();
        }
    }
}

fn is_due(
    now: Instant,
    begun: Instant,
    (at, before): &(Instant, String),
    text: &str,
    terminal: bool,
) -> bool {
    let passed = now - *at;
    if terminal {
        return now - begun >= PATIENCE && (before != text || *at == begun);
    }
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
        let said = (at(2000), "4 of 24 streams behind".to_owned());
        let check = |ms, said: &(Instant, String), text, terminal, due| {
            assert_eq!(is_due(at(ms), begun, said, text, terminal), due, "{ms} {text}");
        };
        let first = (begun, "4 of 24 streams behind".to_owned());
        check(900, &first, "4 of 24 streams behind", true, false);
        check(1000, &first, "4 of 24 streams behind", true, true);
        check(1000, &first, "3 of 24 streams behind", false, false);
        check(10_000, &first, "3 of 24 streams behind", false, true);
        check(1000, &first, "2 rows wait for their place", false, true);
        check(11_900, &said, "3 of 24 streams behind", false, false);
        check(12_000, &said, "3 of 24 streams behind", false, true);
        check(3000, &said, "2 rows wait for their place", false, true);
        check(2900, &said, "2 rows wait for their place", false, false);
        check(2250, &said, "3 of 24 streams behind", true, true);
        check(2250, &said, "4 of 24 streams behind", true, false);
    }
}
