//! What a command answers, on standard output. A reader that has heard enough (`| head`) is no
//! error: the exit code still says how it went.

use std::fmt;
use std::io::Write;

pub fn line(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // See above; there is nobody left to tell.
    let _ = writeln!(out, "{text}");
}

/// Without an end of line: what a terminal shows until it is drawn again.
pub fn part(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // As above.
    let _ = write!(out, "{text}");
    let _ = out.flush();
}
