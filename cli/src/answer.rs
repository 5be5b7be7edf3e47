//! What a command answers, on standard output. A reader that has heard enough (`| head`) is no
//! error: the exit code still says how it went.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set with the document, or the last object, of a command that answers programs: exactly one of those.
static ENDED: AtomicBool = AtomicBool::new(false);

pub fn line(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // See above; there is nobody left to tell.
    let _ = writeln!(out, "{text}");
}

/// Nothing follows that a program has to read.
pub fn last(text: impl fmt::Display) {
    line(text);
    ENDED.store(true, Ordering::Relaxed);
}

pub fn has_ended() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// Without an end of line: what a terminal shows until it is drawn again.
pub fn part(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // As above.
    let _ = write!(out, "{text}");
    let _ = out.flush();
}
