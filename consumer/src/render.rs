//! A primary key for the operator's eyes. Never for logs.

use modshift_mariadb::value::literal;
use modshift_proto::row::RowView;
use modshift_proto::{DataType, TableSchema};

/// Longest text of one column.
const CHARS_MAX: usize = 100;

/// The key's values, comma separated: text as text where it is UTF-8, all else as a literal.
pub fn key(schema: &TableSchema, key: &[u8]) -> String {
    let mut cells = Vec::new();
    let read =
        RowView::parse(key).and_then(|view| view.collect(schema.primary_key.len(), &mut cells));
    if read.is_err() {
        return "?".to_owned();
    }
    let parts: Vec<String> = schema
        .primary_key
        .iter()
        .zip(&cells)
        .map(|(&index, cell)| {
            let column = &schema.columns[index];
            let Some(cell) = *cell else { return "NULL".to_owned() };
            let text = match (column.data, std::str::from_utf8(cell)) {
                (DataType::Char | DataType::VarChar | DataType::Text, Ok(text)) => {
                    format!("{text:?}")
                }
                _ => literal(column, cell).unwrap_or_else(|_| "?".to_owned()),
            };
            match text.char_indices().nth(CHARS_MAX) {
                Some((at, _)) => format!("{}…", &text[..at]),
                None => text,
            }
        })
        .collect();
    parts.join(", ")
}
