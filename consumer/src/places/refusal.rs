//! Why a server does not store a row as it is, in words without the row's values.
//!
//! Such a row is an old one: stored before its column, its character set or the server was another,
//! or by a session that was not strict. The server's own sentence prints the value, so none of it is
//! passed on but the name of the column.

use std::fmt;

use modshift_mariadb::ServerError;
use modshift_proto::{DataType, TableSchema};

/// Begins `modshift_parked.blocked_by` of such a row.
pub const MARK: &str = "cannot be stored: ";

/// "Cannot get geometry object from data you send to the GEOMETRY field", whichever that is.
const NO_GEOMETRY: u16 = 1416;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None`: the server does not say.
    column: Option<String>,
    /// `None`: it was stored, but not as it is.
    code: Option<u16>,
}

impl Refusal {
    /// What the server stored is another row.
    pub fn changed() -> Refusal {
        Refusal { column: None, code: None }
    }

    /// `None` for an error that is not about the values of a row.
    pub fn of(error: &ServerError, schema: &TableSchema) -> Option<Refusal> {
        let ServerError::Statement { code, state, message, .. } = error else { return None };
        // Class 22 is "data exception". NULL in a column that takes none; "data truncated"; a string
        // or another value that is incorrect; no partition; a CHECK constraint.
        let about_values =
            state.starts_with("22") || matches!(code, 1048 | 1265 | 1300 | 1366 | 1526 | 4025);
        let known = |name: &str| schema.columns.iter().any(|column| column.name == name);
        let named = column(message).filter(|name| known(name)).map(str::to_owned);
        let column =
            named.or_else(|| (*code == NO_GEOMETRY).then(|| only_geometry(schema)).flatten());
        about_values.then_some(Refusal { column, code: Some(*code) })
    }

    fn why(&self) -> &'static str {
        match self.code {
            Some(1048) => "NULL, where the column takes none",
            Some(1264 | 1690) => "a value that is out of range",
            Some(1265 | 1292) => "a value that its type does not have",
            Some(1300 | 1366) => "text that is not valid in its character set, or no such value",
            Some(1406) => "a value that is too long",
            Some(NO_GEOMETRY) => "bytes that are no geometry",
            Some(1526) => "the table has no partition for the row",
            Some(4025) => "a CHECK constraint",
            Some(_) => "a value that the server does not take",
            None => "the server changes a value as it stores it",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        if let Some(column) = &self.column {
            write!(f, "column {column}: ")?;
        }
        f.write_str(self.why())?;
        match self.code {
            Some(code) => write!(f, " (error {code})"),
            None => Ok(()),
        }
    }
}

/// The column in `… for column 'c' at row 1`, `` … for column `s`.`t`.`c` at row 1 `` and `Column 'c'
/// cannot be null`. A value may say anything, so from the end.
fn column(message: &str) -> Option<&str> {
    let named = match message.rsplit_once(" for column ") {
        Some((_, rest)) => rest.rsplit_once(" at row ").map_or(rest, |(column, _)| column),
        None => message.strip_prefix("Column ")?.strip_suffix(" cannot be null")?,
    };
    match named.strip_prefix('`').and_then(|named| named.strip_suffix('`')) {
        Some(path) => Some(path.rsplit_once("`.`").map_or(path, |(_, column)| column)),
        None => named.strip_prefix('\'')?.strip_suffix('\''),
    }
}

fn only_geometry(schema: &TableSchema) -> Option<String> {
    let mut all = schema.columns.iter().filter(|column| column.data == DataType::Geometry);
    all.next().filter(|_| all.next().is_none()).map(|column| column.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::Column;

    fn check(code: u16, state: &str, message: &str, shown: Option<&str>) {
        let column = |name: &str| Column {
            name: name.to_owned(),
            data: DataType::Date,
            type_text: String::new(),
            charset: None,
            collation: None,
            nullable: true,
            generated: false,
        };
        let schema = TableSchema {
            name: "t".to_owned(),
            columns: vec![column("c"), column("at row")],
            primary_key: vec![0],
            unique_keys: Vec::new(),
        };
        let (state, message) = (state.to_owned(), message.to_owned());
        let at = "h:1/s".to_owned();
        let error = ServerError::Statement { at, doing: "writing rows", code, state, message };
        let refusal = Refusal::of(&error, &schema).map(|refusal| refusal.to_string());
        assert_eq!(refusal.as_deref(), shown);
    }

    #[test]
    fn a_refusal_names_the_column_and_never_a_value() {
        let range = "cannot be stored: column c: a value that is out of range (error 1264)";
        check(1264, "22003", "Out of range value for column 'c' at row 12", Some(range));
        check(
            1366,
            "22007",
            "Incorrect string value: '\\xE4 for column 'x' at row' for column `s`.`t`.`at row` at \
             row 1",
            Some(
                "cannot be stored: column at row: text that is not valid in its character set, or \
                 no such value (error 1366)",
            ),
        );
        // No column of the table: it may be a part of a value.
        check(
            1292,
            "22007",
            "Incorrect value: ' for column 'secret' at row 1",
            Some("cannot be stored: a value that its type does not have (error 1292)"),
        );
        check(
            1048,
            "23000",
            "Column 'c' cannot be null",
            Some("cannot be stored: column c: NULL, where the column takes none (error 1048)"),
        );
        check(1146, "42S02", "Table 's.t' doesn't exist", None);
        check(1062, "23000", "Duplicate entry '1' for key 'PRIMARY'", None);
    }
}
