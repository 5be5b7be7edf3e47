//! Can every server be reached, and does it let us in?

use crate::check::fault::{Fault, Severity};
use crate::check::survey::Survey;

pub fn check(survey: &Survey) -> Vec<Fault> {
    let missed = survey.servers.iter().filter_map(|server| {
        let error = server.facts.as_ref().err()?;
        let fault = Fault::new(Severity::Fault, "reach", server.side, &*error.message);
        let hint = error.hint.as_deref();
        let mend = hint.unwrap_or("see the server's error log, then check again");
        Some(fault.expected("an answer").mend(mend))
    });
    missed.collect()
}

/// For each fault of `check`, in the same order: may the server answer later?
pub fn passing(survey: &Survey) -> impl Iterator<Item = bool> {
    survey.servers.iter().filter_map(|server| Some(server.facts.as_ref().err()?.passing))
}
