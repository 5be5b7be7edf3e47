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

/// The same of the other servers that the plan names: a fence must close every replica, and a
/// rehearsal needs its own.
pub fn check_further(survey: &Survey) -> Vec<Fault> {
    let missed = survey.further.iter().filter_map(|further| {
        let error = further.facts.as_ref().err()?;
        let severity = match further.only_rehearses() {
            true => Severity::Warning,
            false => Severity::Fault,
        };
        let fault = Fault::new(severity, "reach", further, &*error.message);
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
