//! A row's checksum as an SQL expression, and how those of many rows become one. Pure.
//!
//! The text that is hashed is injective. Numbers and times come first, in their exact decimal form,
//! with a comma wherever the one before has no fixed width. Short strings follow as the bytes that
//! are stored, with eight bytes between them that no text holds. Long ones come as their own
//! checksum: so no row is too large for `max_allowed_packet`, beyond which `CONCAT` would silently
//! say NULL. NULL is the text of no value. So rows that differ have different texts (long strings:
//! but for a collision of CRC-32).
//!
//! Every function costs as much as what it does: ten nanoseconds a row for a comparison or an
//! addition, twenty for an integer as text, fifty for a DECIMAL. So there are as few as can be, and
//! strings are not hashed one by one. Arithmetic in place of the text of integers costs the same
//! and mixes worse.
//!
//! Of hash functions CRC-32 is the cheapest by far, MD5 costs several times as much. But it is
//! linear: rows that exchange values of equal length would leave the XOR of their CRCs as it was. A
//! product breaks that: its carries depend on all lower bits. It is odd, so different CRCs have
//! different products, and none overflows 64 bits.

use modshift_mariadb::value::quote;
use modshift_proto::{Column, DataType, TableSchema};

/// Odd, of 32 bits, half of them set. Two rows that exchange a value go unseen once in 2^31.
const FACTOR: u64 = 0xB502_6F5B;
/// Between strings. UTF-8 has no FF, and text no zero byte.
const BETWEEN: &str = "X'00FFA0761D6478BD'";
/// In place of a string that is NULL. Well-formed in every character set, since it is taken for one
/// of the column's.
const NULL: &str = "X'0001451E0003374B'";
/// Up to here a string is hashed with its row: to copy it costs less than a checksum of its own,
/// which becomes text again.
const SHORT_BYTES_MAX: usize = 1024;
/// Of all short strings of a row: far below any `max_allowed_packet` in use.
const SHORT_BYTES_TOTAL: usize = 16 << 10;
/// No character has more.
const CHAR_BYTES_MAX: usize = 4;

/// The checksum of one row: an integer, never NULL. For a `Session::Exact` connection.
pub fn of_row(schema: &TableSchema) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut strings = Vec::new();
    let mut left = SHORT_BYTES_TOTAL;
    let mut separate = false;
    for index in schema.sent_columns() {
        let column = &schema.columns[index];
        let name = quote(&column.name);
        if let Some(bytes) = short_bytes(column).filter(|bytes| *bytes <= left) {
            left -= bytes;
            strings.push(match column.nullable {
                true => format!("IFNULL({name}, {NULL})"),
                false => name,
            });
            continue;
        }
        if separate {
            parts.push("','".to_owned());
        }
        let text = exact(column, name);
        separate = column.nullable || !has_fixed_width(column.data);
        parts.push(match column.nullable {
            true => format!("IFNULL({text}, '-')"),
            false => text,
        });
    }
    for (place, string) in strings.into_iter().enumerate() {
        // One part that says so makes the whole text binary: strings of several character sets
        // stand beside each other as they are stored.
        parts.push(match place {
            0 => format!("{BETWEEN} COLLATE `binary`"),
            _ => BETWEEN.to_owned(),
        });
        parts.push(string);
    }
    format!("CRC32(CONCAT({}))", parts.join(", "))
}

/// The checksum of a set of rows, in no order.
pub fn of_rows(row: &str) -> String {
    format!("BIT_XOR({row} * {FACTOR})")
}

/// The most that a string takes which is hashed with its row.
fn short_bytes(column: &Column) -> Option<usize> {
    use DataType as T;
    let per_length = match column.data {
        T::Char | T::VarChar => CHAR_BYTES_MAX,
        T::Binary { .. } | T::VarBinary => 1,
        _ => return None,
    };
    // `varchar(20)`, whatever follows.
    let (_, rest) = column.type_text.split_once('(')?;
    let (length, _) = rest.split_once(')')?;
    let bytes = length.parse::<usize>().ok()?.checked_mul(per_length)?;
    (bytes <= SHORT_BYTES_MAX).then_some(bytes)
}

/// An expression whose text is exact and has no comma.
fn exact(column: &Column, name: String) -> String {
    use DataType as T;
    match column.data {
        // A FLOAT by itself shows six digits, a DOUBLE(m, d) its d; a sum shows all. It has no
        // negative zero: 11.4.5 stores one, 10.11 and 11.8 write 0 in its place, and the two must
        // be the same here.
        T::Float | T::Double => format!("{name} + 0e0"),
        T::Enum | T::Set | T::Bit { .. } => format!("CAST({name} AS UNSIGNED)"),
        T::Uuid | T::Inet6 => format!("HEX(CAST({name} AS BINARY(16)))"),
        T::Inet4 => format!("HEX(CAST({name} AS BINARY(4)))"),
        T::Char | T::VarChar | T::Text | T::Json | T::Binary { .. } | T::VarBinary => {
            format!("CRC32({name})")
        }
        T::Blob | T::Geometry => format!("CRC32({name})"),
        T::Int { .. } | T::Year | T::Decimal { .. } => name,
        T::Date | T::Time { .. } | T::DateTime { .. } | T::Timestamp { .. } => name,
    }
}

/// Where that text ends is known without a comma: it always has as many characters, or always as
/// many after the point.
fn has_fixed_width(data: DataType) -> bool {
    use DataType as T;
    match data {
        T::Decimal { scale, .. } => scale > 0,
        T::Date | T::DateTime { .. } | T::Timestamp { .. } => true,
        T::Uuid | T::Inet4 | T::Inet6 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data: DataType, type_text: &str, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            data,
            type_text: type_text.to_owned(),
            charset: None,
            collation: None,
            nullable,
            generated: name == "sum",
        }
    }

    fn text(columns: Vec<Column>) -> String {
        of_row(&TableSchema {
            name: "t".to_owned(),
            columns,
            primary_key: vec![0],
            unique_keys: Vec::new(),
        })
    }

    #[test]
    fn a_row_is_its_numbers_and_then_its_strings() {
        let int = DataType::Int { bytes: 8, unsigned: true };
        assert_eq!(
            text(vec![
                column("id", int, "bigint(20) unsigned", false),
                column("name", DataType::VarChar, "varchar(20)", false),
                column("note", DataType::Text, "text", true),
                column("sum", DataType::Double, "double", true),
                column("at", DataType::DateTime { fsp: 6 }, "datetime(6)", false),
                column("rate", DataType::Float, "float", true),
                column("kind", DataType::Enum, "enum('a')", false),
                column("code", DataType::Char, "char(2)", true),
            ]),
            "CRC32(CONCAT(`id`, ',', IFNULL(CRC32(`note`), '-'), ',', `at`, \
             IFNULL(`rate` + 0e0, '-'), ',', CAST(`kind` AS UNSIGNED), \
             X'00FFA0761D6478BD' COLLATE `binary`, `name`, \
             X'00FFA0761D6478BD', IFNULL(`code`, X'0001451E0003374B')))"
        );
        assert_eq!(of_rows("x"), "BIT_XOR(x * 3036835675)");
    }

    #[test]
    fn long_strings_and_too_many_of_them_have_a_checksum_of_their_own() {
        let long = column("a", DataType::VarChar, "varchar(257)", false);
        assert_eq!(text(vec![long]), "CRC32(CONCAT(CRC32(`a`)))");
        let bytes = column("a", DataType::VarBinary, "varbinary(1000) COMPRESSED", false);
        let short = "CRC32(CONCAT(X'00FFA0761D6478BD' COLLATE `binary`, `a`))";
        assert_eq!(text(vec![bytes]), short);
        let many = |n: usize| {
            let column = |i| column(&format!("c{i}"), DataType::VarChar, "varchar(256)", false);
            text((0..n).map(column).collect())
        };
        assert!(!many(16).contains("CRC32(`"));
        assert!(many(17).starts_with("CRC32(CONCAT(CRC32(`c16`), X'"));
    }

    #[test]
    fn no_product_overflows() {
        assert!(FACTOR.checked_mul(u64::from(u32::MAX)).is_some());
        assert_eq!(FACTOR % 2, 1);
    }
}
