//! Everything that can keep rows from being compared. What differs is no error: see `report`.

use modshift_mariadb::value::ValueError;
use modshift_mariadb::{CatalogError, Class, ServerError};
use modshift_proto::rule::RuleError;

use crate::report::Halt;

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("{at}: a row of table {table} cannot be read exactly: {source}")]
    Value { at: String, table: String, source: ValueError },
    #[error("table {table} has no column {column}")]
    NoKeyColumn { table: String, column: String },
    #[error("table {table} has no primary key")]
    NoPrimaryKey { table: String },
    #[error("table {table}: {source}")]
    Rule { table: String, source: RuleError },
    #[error("{at}: table {table} has rows that paging by its primary key would miss: {statement}")]
    Unpageable { at: String, table: String, statement: String },
    #[error("{at}: {what} is not readable: {text}")]
    Control { at: String, what: &'static str, text: String },
    #[error("old shard {old} is not copied to new shard {new} yet: there is nothing to compare")]
    Copying { old: u16, new: u16 },
    #[error("old shard {old} is not copied to new shard {new} yet, and {halt}")]
    Halted { old: u16, new: u16, halt: Halt },
    #[error(
        "{halt}: its rows are compared where both servers are at one position, and it comes to none"
    )]
    Apart { halt: Halt },
    #[error("the new shards serve: they are no copy of the old shards any more")]
    Switched,
    #[error("the definitions of table {table} differ too far to compare its rows")]
    Incomparable { table: String },
    #[error("table {table}: a server gave no answer for a range of rows")]
    Unanswered { table: String },
    #[error("the plan has no table {table}")]
    NoSuchTable { table: String },
    #[error("another verifier is at work on this plan (lock {lock} on {at}, held by {by})")]
    Locked { at: String, lock: String, by: String },
}

impl VerifyError {
    /// Goes on by itself, but not before somebody has mended the login.
    pub fn is_refused_login(&self) -> bool {
        use VerifyError::{Catalog, Server};
        let (Server(error) | Catalog(CatalogError::Server(error))) = self else { return false };
        matches!(error, ServerError::Login { .. })
    }

    pub fn class(&self) -> Class {
        match self {
            VerifyError::Server(error) => error.class(),
            VerifyError::Catalog(error) => error.class(),
            VerifyError::Locked { .. }
            | VerifyError::Copying { .. }
            | VerifyError::Halted { .. }
            | VerifyError::Apart { .. }
            | VerifyError::Switched
            | VerifyError::Unanswered { .. } => Class::Retry,
            VerifyError::Value { .. }
            | VerifyError::NoKeyColumn { .. }
            | VerifyError::NoPrimaryKey { .. }
            | VerifyError::Rule { .. }
            | VerifyError::Unpageable { .. }
            | VerifyError::Control { .. }
            // The definitions are looked at again each time, and may have been mended.
            | VerifyError::Incomparable { .. }
            | VerifyError::NoSuchTable { .. } => Class::Halt,
        }
    }

    /// What the operator does next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            VerifyError::Server(error) => return error.hint(),
            VerifyError::Catalog(error) => return error.hint(),
            VerifyError::Value { .. } => {
                "the table was altered meanwhile, or its definitions differ: see modshift check"
            }
            VerifyError::NoKeyColumn { .. } | VerifyError::NoSuchTable { .. } => {
                "correct the name, or the plan"
            }
            VerifyError::NoPrimaryKey { .. } => "give it one, on every shard",
            VerifyError::Rule { source, .. } => source.hint(),
            VerifyError::Unpageable { .. } => {
                "give those rows other keys, or make the column a VARCHAR on every shard"
            }
            VerifyError::Control { .. } => {
                "drop modshift's table of that name; what it held is found out again"
            }
            VerifyError::Copying { .. } => {
                "start the daemons and wait for the copy: modshift status shows how far it is"
            }
            VerifyError::Halted { .. } => {
                "mend what it says, start the daemons again, and wait for the copy"
            }
            VerifyError::Apart { .. } => {
                "modshift check names what is wrong with it; where it was promoted already nothing is \
                 compared: each server has rows of its own"
            }
            VerifyError::Switched => {
                "modshift verify compares before a cutover, modshift verify --back after one"
            }
            VerifyError::Incomparable { .. } => {
                "modshift check names what differs; once it is mended the verifier goes on by itself"
            }
            VerifyError::Unanswered { .. } => "verify again: nothing was concluded from it",
            VerifyError::Locked { .. } => "wait until it ends, or stop it",
        };
        Some(hint.to_owned())
    }
}
