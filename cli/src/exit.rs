//! What the process says when it ends: five codes that scripts and units may rely on.

use std::process::ExitCode;

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

/// The code for an error that reached `main`: what is not known to be the plan's fault could not
/// be found out.
pub fn code_of(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<BadPlan>().is_some() { Exit::BadPlan } else { Exit::CannotTell }
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
