//! Why a table cannot be taken, and what becomes of it.

use crate::error::{Class, ServerError};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("{at}: no table `{schema}`.`{table}`, or no privilege on it")]
    NoSuchTable { at: String, schema: String, table: String },
    #[error("{at}: table `{schema}`.`{table}` is called `{spelled}` there")]
    SpelledOtherwise { at: String, schema: String, table: String, spelled: String },
    #[error("{at}: `{schema}`.`{table}` is a {kind}, not a plain table")]
    NotATable { at: String, schema: String, table: String, kind: String },
    #[error("{at}: column {column} of {table} has type {type_text}, which modshift does not know")]
    UnsupportedType { at: String, table: String, column: String, type_text: String },
    #[error("{at}: key {key} of {table} covers only the first {length} characters of {column}")]
    PrefixKey { at: String, table: String, key: String, column: String, length: u64 },
    #[error("{at}: information_schema answered in an unknown form while {doing}")]
    Form { at: String, doing: &'static str },
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl CatalogError {
    pub fn class(&self) -> Class {
        match self {
            CatalogError::Server(error) => error.class(),
            CatalogError::NoSuchTable { .. }
            | CatalogError::SpelledOtherwise { .. }
            | CatalogError::NotATable { .. }
            | CatalogError::UnsupportedType { .. }
            | CatalogError::PrefixKey { .. }
            | CatalogError::Form { .. } => Class::Halt,
        }
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            CatalogError::NoSuchTable { .. } => {
                "correct the plan, create the table (modshift schema), or grant SELECT on it"
            }
            CatalogError::SpelledOtherwise { .. } => {
                "write the name in the plan as the server spells it, in lower case where \
                 lower_case_table_names is 1"
            }
            CatalogError::NotATable { kind, .. } if kind == "system versioned" => {
                "modshift does not carry the history of rows over: take the table's [[table]] out of the \
                 plan, or, where its history may go, ALTER TABLE … DROP SYSTEM VERSIONING on every shard"
            }
            CatalogError::NotATable { .. } => {
                "take its [[table]] out of the plan (check.ignore takes its name)"
            }
            CatalogError::PrefixKey { .. } => {
                "make the key cover the whole column (ALTER TABLE, on every shard), or take its \
                 [[table]] out of the plan"
            }
            CatalogError::UnsupportedType { .. } => {
                "give the column a type that modshift knows (ALTER TABLE, on every shard), or take its \
                 [[table]] out of the plan (check.ignore takes its name)"
            }
            CatalogError::Form { .. } => {
                "see whether the server's version is one that modshift knows (modshift check), then \
                 start the daemon again"
            }
            CatalogError::Server(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each variant: a new one does not compile until it stands here.
    fn all() -> Vec<CatalogError> {
        let text = || "x".to_owned();
        let all = vec![
            CatalogError::NoSuchTable { at: text(), schema: text(), table: text() },
            CatalogError::SpelledOtherwise {
                at: text(),
                schema: text(),
                table: text(),
                spelled: text(),
            },
            CatalogError::NotATable { at: text(), schema: text(), table: text(), kind: text() },
            CatalogError::UnsupportedType {
                at: text(),
                table: text(),
                column: text(),
                type_text: text(),
            },
            CatalogError::PrefixKey {
                at: text(),
                table: text(),
                key: text(),
                column: text(),
                length: 1,
            },
            CatalogError::Form { at: text(), doing: "x" },
            ServerError::Unreachable { at: text(), detail: text() }.into(),
        ];
        for error in &all {
            match error {
                CatalogError::NoSuchTable { .. }
                | CatalogError::SpelledOtherwise { .. }
                | CatalogError::NotATable { .. }
                | CatalogError::UnsupportedType { .. }
                | CatalogError::PrefixKey { .. }
                | CatalogError::Form { .. }
                | CatalogError::Server(_) => {}
            }
        }
        all
    }

    #[test]
    fn every_halt_names_a_command_or_a_setting() {
        const WAYS: [&str; 5] = [
            "modshift schema",
            "lower_case_table_names",
            "[[table]]",
            "ALTER TABLE",
            "modshift check",
        ];
        for error in all().iter().filter(|error| error.class() == Class::Halt) {
            let hint = error.hint().unwrap_or_default();
            assert!(WAYS.iter().any(|way| hint.contains(way)), "{error}: {hint}");
        }
    }
}
