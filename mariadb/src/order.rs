//! Where MariaDB's comparisons and its indexes disagree on order.
//!
//! Paging reads "after this key" from an index, but the server judges each row once more by the
//! condition. For two kinds of values these differ (seen in 10.11.19), and pages would leave out
//! rows without a word:
//!
//! - UUIDs of version 8 and above. (Of non-standard variants it even stores another value than
//!   the one given.)
//! - Characters below the space in a CHAR column of a NO PAD collation: the index holds the value
//!   padded with spaces, the comparison has it without.

use modshift_proto::schema::{Column, DataType};

use crate::value::{ValueError, quote};

/// First byte of the third group of a UUID: its high half is the version.
const UUID_VERSION_AT: usize = 6;
const UUID_VERSION_END: u8 = 0x80;

/// A condition on rows that paging by this key could miss, if there can be any. A table that has
/// such a row when its copy begins must not be paged by this key; one that comes later is in the
/// binlog.
pub fn unpageable(keys: &[&Column]) -> Option<String> {
    let conditions: Vec<String> = keys
        .iter()
        .filter_map(|column| {
            let name = quote(&column.name);
            if column.data == DataType::Uuid {
                let at = UUID_VERSION_AT + 1;
                let byte = format!("SUBSTR(CAST({name} AS BINARY(16)), {at}, 1)");
                Some(format!("{byte} >= X'{UUID_VERSION_END:02X}'"))
            } else if is_unpadded_char(column) {
                Some(format!("CONVERT({name} USING utf8mb4) REGEXP '[[:cntrl:]]'"))
            } else {
                None
            }
        })
        .collect();
    (!conditions.is_empty()).then(|| conditions.join(" OR "))
}

/// An error for a cell after which rows could be missed.
pub(crate) fn check(column: &Column, cell: &[u8]) -> Result<(), ValueError> {
    let ordered = if column.data == DataType::Uuid {
        cell.get(UUID_VERSION_AT).is_some_and(|byte| *byte < UUID_VERSION_END)
    } else if is_unpadded_char(column) {
        !has_control(column.charset.as_deref().unwrap_or_default(), cell)
    } else {
        true
    };
    if ordered { Ok(()) } else { Err(ValueError::Unordered { column: column.name.clone() }) }
}

/// `utf8mb4_0900_…` are later versions' names for NO PAD collations.
fn is_unpadded_char(column: &Column) -> bool {
    let collation = column.collation.as_deref().unwrap_or_default();
    column.data == DataType::Char && (collation.contains("nopad") || collation.contains("_0900_"))
}

fn has_control(charset: &str, cell: &[u8]) -> bool {
    let unit = match charset {
        "utf16" | "utf16le" | "ucs2" => 2,
        "utf32" => 4,
        _ => 1,
    };
    cell.chunks(unit).any(|unit| {
        let (low, high) = match charset {
            "utf16le" => unit.split_first(),
            _ => unit.split_last(),
        }
        .unwrap_or((&b' ', &[]));
        *low < b' ' && high.iter().all(|byte| *byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data: DataType, charset: &str, collation: &str) -> Column {
        Column {
            name: "k".to_owned(),
            data,
            type_text: String::new(),
            charset: Some(charset.to_owned()),
            collation: Some(collation.to_owned()),
            nullable: false,
            generated: false,
        }
    }

    #[test]
    fn a_uuid_that_mariadb_cannot_order_is_no_bound() {
        let uuid = column(DataType::Uuid, "", "");
        assert!(check(&uuid, &[0x7f; 16]).is_ok());
        assert!(check(&uuid, &[0x80; 16]).is_err());
        assert_eq!(
            unpageable(&[&uuid]).as_deref(),
            Some("SUBSTR(CAST(`k` AS BINARY(16)), 7, 1) >= X'80'")
        );
    }

    #[test]
    fn a_control_character_matters_in_an_unpadded_char_alone() {
        let padded = column(DataType::Char, "utf8mb4", "utf8mb4_bin");
        let varying = column(DataType::VarChar, "utf8mb4", "utf8mb4_nopad_bin");
        assert!(check(&padded, b"a\t").is_ok() && check(&varying, b"a\t").is_ok());
        assert_eq!(unpageable(&[&padded, &varying]), None);
        let char = column(DataType::Char, "utf8mb4", "utf8mb4_nopad_bin");
        assert!(check(&char, b"a b").is_ok() && check(&char, b"a\t").is_err());
        let wide = column(DataType::Char, "utf16", "utf16_general_nopad_ci");
        assert!(check(&wide, b"\x09\x00\x00a").is_ok() && check(&wide, b"\0a\0\x09").is_err());
        let little = column(DataType::Char, "utf16le", "utf16le_general_nopad_ci");
        assert!(check(&little, b"\x00\x09").is_ok() && check(&little, b"\x09\x00").is_err());
    }
}
