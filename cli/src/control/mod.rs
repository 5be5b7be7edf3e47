//! Asking a running daemon to hold back: `modshift pause`, `resume` and `throttle`.
//!
//! `api` is the daemon's side: POST with the plan's token, off without one. `clerk` writes what was
//! asked into the audit table. `command` is the operator's side, and `pages` what it reads of theirs; `listener` is the TLS between them, `serve` what bounds a connection.
//!
//! These actions are taken even while the audit table cannot be written (every other action is
//! refused then): a database that is in trouble is what they are for. They are kept and written as
//! soon as it answers, and the answer says so. What was asked lives in memory: a daemon that starts
//! is neither paused nor slowed down.

pub mod api;
pub mod clerk;
pub mod command;
pub mod listener;
pub mod pages;
pub mod serve;

/// Headers in which a command says on whose behalf it asks; both are believed, as the token is what
/// proves anything.
const OPERATOR: &str = "x-modshift-operator";
const COMMAND: &str = "x-modshift-command";
