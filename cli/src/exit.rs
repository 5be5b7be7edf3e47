//! What the process says when it ends: five codes that scripts and units may rely on.

use std::process::ExitCode;

use modshift_cutover::CutoverError;
use modshift_mariadb::ServerError;
use modshift_verify::VerifyError;

/// Codes are part of the interface: `deploy/cutover-gate.sh` and the systemd units use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Did what was asked; the gate is open; nothing to object to.
    Done = 0,
    /// The gate is closed; the check found faults; the schemas differ.
    No = 1,
    /// Something that had to be asked did not answer.
    CannotTell = 2,
    /// The plan or the command line is wrong: starting again will not help.
    BadPlan = 3,
    /// Every stream of this process has halted on a fact that a retry cannot change, or the reshard is
    /// finished.
    Halted = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error that ends the process with [`Exit::BadPlan`]: put into an `anyhow` chain as context.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPlan(pub String);

/// An error that says in its own line what is next; a program gets that apart as well.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Hinted {
    pub text: String,
    pub hint: Option<String>,
}

/// The code for an error that reached `main`: what is not known to be the plan's fault could not
/// be found out.
pub fn code_of(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<BadPlan>().is_some() { Exit::BadPlan } else { Exit::CannotTell }
}

/// What the operator does next, where an error in its chain knows: in the words of that one.
pub fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let of_server = cause.downcast_ref::<ServerError>().and_then(ServerError::hint);
        let of_run = cause.downcast_ref::<CutoverError>().and_then(CutoverError::hint);
        let of_verifier = cause.downcast_ref::<VerifyError>().and_then(VerifyError::hint);
        let told = || cause.downcast_ref::<Hinted>().and_then(|told| told.hint.clone());
        of_server.or(of_run).or(of_verifier).or_else(told)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_bad_plan_keeps_its_code_under_context() {
        let error = anyhow::Error::new(BadPlan("no tables".into())).context("reading the plan");
        assert_eq!(code_of(&error), Exit::BadPlan);
        let other = Err::<(), _>(std::io::Error::other("refused")).context("connecting");
        assert_eq!(code_of(&other.unwrap_err()), Exit::CannotTell);
    }
}
