//! Cells as SQL literals, for paging through a table by its primary key.
//!
//! A literal compares under the column's own type, character set and collation, so that
//! `column > literal` is a range on the index and its order is the index's order.

use std::fmt::Write as _;

use modshift_proto::row::{cell_datetime, cell_double, cell_float, cell_int, cell_uint};
use modshift_proto::schema::{Column, DataType};

use crate::order;
use crate::value::{DECIMAL_LEN_MAX, ValueError, canonical_decimal, cell_date, quote};

/// A literal for one cell of a column, for a [`Session::Exact`](crate::Session) connection.
pub fn literal(column: &Column, cell: &[u8]) -> Result<String, ValueError> {
    use DataType as T;
    Ok(match column.data {
        T::Int { unsigned: false, .. } => cell_int(cell)?.to_string(),
        T::Int { unsigned: true, .. } | T::Year | T::Bit { .. } | T::Enum | T::Set => {
            cell_uint(cell)?.to_string()
        }
        // Shortest digits that read back as the same double; a FLOAT compares as one, so it is
        // widened first.
        T::Float => format!("{:e}", f64::from(cell_float(cell)?)),
        T::Double => format!("{:e}", cell_double(cell)?),
        T::Decimal { .. } => {
            let mut buffer = [0; DECIMAL_LEN_MAX];
            let text = canonical_decimal(cell, &mut buffer)?;
            String::from_utf8_lossy(text).into_owned()
        }
        T::Date => {
            let (year, month, day) = cell_date(cell)?;
            format!("DATE'{year:04}-{month:02}-{day:02}'")
        }
        T::DateTime { .. } | T::Timestamp { .. } => {
            let at = cell_datetime(cell)?;
            format!(
                "TIMESTAMP'{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}'",
                at.year, at.month, at.day, at.hour, at.minute, at.second, at.micro
            )
        }
        T::Time { .. } => {
            let time = cell_int(cell)?;
            let (seconds, micros) =
                (time.unsigned_abs() / 1_000_000, time.unsigned_abs() % 1_000_000);
            format!(
                "TIME'{}{:02}:{:02}:{:02}.{micros:06}'",
                if time < 0 { "-" } else { "" },
                seconds / 3_600,
                seconds / 60 % 60,
                seconds % 60
            )
        }
        T::Char | T::VarChar | T::Text | T::Json => text(column, cell),
        T::Binary { .. } | T::VarBinary | T::Blob | T::Uuid | T::Inet4 | T::Inet6 | T::Geometry => {
            hex(cell)
        }
    })
}

/// The condition "primary key after this one", `TRUE` without one. `keys` are the columns of the
/// primary key in key order, `after` the cells of a key.
///
/// Not `(a, b) > (x, y)`: MariaDB reads the whole index for a comparison of rows, while the
/// expanded OR becomes ranges.
pub fn key_page(keys: &[&Column], after: Option<&[Vec<u8>]>) -> Result<String, ValueError> {
    let Some(after) = after else { return Ok("TRUE".to_owned()) };
    if after.len() != keys.len() {
        return Err(ValueError::KeyParts { found: after.len(), expected: keys.len() });
    }
    let mut condition = String::new();
    let mut equal = String::new();
    for (column, cell) in keys.iter().zip(after) {
        order::check(column, cell)?;
        let (name, value) = (quote(&column.name), literal(column, cell)?);
        if !condition.is_empty() {
            condition.push_str(" OR ");
        }
        let _ = write!(condition, "({equal}{})", greater(column, &name, &value, cell, false)?);
        let _ = write!(equal, "{name} = {value} AND ");
    }
    Ok(format!("({condition})"))
}

/// The condition "primary key after `after`, up to and including `until`": [`key_page`] with an end,
/// expanded in the same way. For every row that a range gives MariaDB asks the condition again, so
/// a key that is one integer gets the form that is asked fastest.
pub fn key_range(
    keys: &[&Column],
    after: Option<&[Vec<u8>]>,
    until: Option<&[Vec<u8>]>,
) -> Result<String, ValueError> {
    if let ([column], Some([after]), Some([until])) = (keys, after, until)
        && let Some(first) = next_integer(column, after)?
    {
        let (name, last) = (quote(&column.name), literal(column, until)?);
        return Ok(format!("{name} BETWEEN {first} AND {last}"));
    }
    let page = key_page(keys, after)?;
    let Some(until) = until else { return Ok(page) };
    if until.len() != keys.len() {
        return Err(ValueError::KeyParts { found: until.len(), expected: keys.len() });
    }
    let end = key_bound(keys, until, less)?;
    Ok(format!("{page} AND {end}"))
}

/// The condition "primary key from `from` to `to`", both included. Either may name the first columns of
/// the key alone: then all rows that have these values are within.
pub fn key_within(
    keys: &[&Column],
    from: Option<&[Vec<u8>]>,
    to: Option<&[Vec<u8>]>,
) -> Result<String, ValueError> {
    let mut terms = Vec::new();
    for (bound, compare) in [(from, greater as Compare), (to, less as Compare)] {
        let Some(bound) = bound else { continue };
        if bound.is_empty() || bound.len() > keys.len() {
            return Err(ValueError::KeyParts { found: bound.len(), expected: keys.len() });
        }
        terms.push(key_bound(keys, bound, compare)?);
    }
    Ok(if terms.is_empty() { "TRUE".to_owned() } else { terms.join(" AND ") })
}

type Compare = fn(&Column, &str, &str, &[u8], bool) -> Result<String, ValueError>;

/// On one side of a key or of the first columns of one, or equal to it.
fn key_bound(keys: &[&Column], bound: &[Vec<u8>], compare: Compare) -> Result<String, ValueError> {
    let mut condition = String::new();
    let mut equal = String::new();
    for (part, (column, cell)) in keys.iter().zip(bound).enumerate() {
        order::check(column, cell)?;
        let (name, value) = (quote(&column.name), literal(column, cell)?);
        if part > 0 {
            condition.push_str(" OR ");
        }
        let last = part + 1 == bound.len();
        let _ = write!(condition, "({equal}{})", compare(column, &name, &value, cell, last)?);
        let _ = write!(equal, "{name} = {value} AND ");
    }
    Ok(format!("({condition})"))
}

/// `None`: no integer, or the last one of 64 bits.
fn next_integer(column: &Column, cell: &[u8]) -> Result<Option<String>, ValueError> {
    Ok(match column.data {
        DataType::Int { unsigned: false, .. } => {
            cell_int(cell)?.checked_add(1).map(|next| next.to_string())
        }
        DataType::Int { unsigned: true, .. } => {
            cell_uint(cell)?.checked_add(1).map(|next| next.to_string())
        }
        _ => None,
    })
}

/// The condition "primary key is this one", as far as the column's collation tells keys apart. Text that
/// its character set does not allow is compared as bytes, for which there is no index.
pub fn key_equal(keys: &[&Column], key: &[Vec<u8>]) -> Result<String, ValueError> {
    if key.len() != keys.len() {
        return Err(ValueError::KeyParts { found: key.len(), expected: keys.len() });
    }
    let terms = keys.iter().zip(key).map(|(column, cell)| {
        let name = quote(&column.name);
        Ok(match order::is_well_formed(column, cell) {
            true => format!("{name} = {}", literal(column, cell)?),
            false => format!("CAST({name} AS BINARY) = {}", hex(cell)),
        })
    });
    Ok(format!("({})", terms.collect::<Result<Vec<_>, ValueError>>()?.join(" AND ")))
}

/// What to put after ORDER BY for [`key_page`].
pub fn key_order(keys: &[&Column]) -> String {
    keys.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
}

/// ENUM: the numbers after it one by one, because MariaDB makes ranges of `= 3` and `IN (3, 4)`
/// only.
fn greater(
    column: &Column,
    name: &str,
    value: &str,
    cell: &[u8],
    or_equal: bool,
) -> Result<String, ValueError> {
    if order::is_padded_in_index(column) {
        return Ok(order::after(column, cell, or_equal));
    }
    if column.data != DataType::Enum {
        return Ok(format!("{name} {} {value}", if or_equal { ">=" } else { ">" }));
    }
    let (first, last) = (cell_uint(cell)? + u64::from(!or_equal), enum_members(&column.type_text));
    let after: Vec<String> = (first..=last).map(|n| n.to_string()).collect();
    Ok(if after.is_empty() {
        "FALSE".to_owned()
    } else {
        format!("{name} IN ({})", after.join(", "))
    })
}

/// The mirror of [`greater`]. 0 is the number of the error value, which sorts first.
fn less(
    column: &Column,
    name: &str,
    value: &str,
    cell: &[u8],
    or_equal: bool,
) -> Result<String, ValueError> {
    if order::is_padded_in_index(column) {
        return Ok(order::before(column, cell, or_equal));
    }
    if column.data != DataType::Enum {
        return Ok(format!("{name} {} {value}", if or_equal { "<=" } else { "<" }));
    }
    let end = cell_uint(cell)? + u64::from(or_equal);
    let before: Vec<String> = (0..end).map(|n| n.to_string()).collect();
    Ok(if before.is_empty() {
        "FALSE".to_owned()
    } else {
        format!("{name} IN ({})", before.join(", "))
    })
}

/// Labels in `enum('a','it''s')`.
fn enum_members(type_text: &str) -> u64 {
    let mut quoted = false;
    let mut members = 0;
    // A doubled quote closes and opens at once: two toggles, and no member between.
    let mut previous = ' ';
    for c in type_text.chars() {
        if c == '\'' {
            quoted = !quoted;
            if quoted && previous != '\'' {
                members += 1;
            }
        }
        previous = c;
    }
    members
}

/// A cell in words, for a person: what is text in itself is shown so, other bytes as hexadecimal.
pub fn canonical_text(column: &Column, cell: &[u8]) -> String {
    use DataType as T;
    match column.data {
        T::Char | T::VarChar | T::Text | T::Json => match std::str::from_utf8(cell) {
            Ok(text) if !text.chars().any(char::is_control) => format!("'{text}'"),
            _ => hex(cell),
        },
        _ => literal(column, cell).unwrap_or_else(|_| hex(cell)),
    }
}

pub(crate) fn text(column: &Column, cell: &[u8]) -> String {
    match (&column.charset, &column.collation) {
        (Some(charset), Some(collation)) => format!("_{charset} {} COLLATE {collation}", hex(cell)),
        _ => hex(cell),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("X'");
    for byte in bytes {
        let _ = write!(out, "{byte:02X}");
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data: DataType, type_text: &str) -> Column {
        let text = matches!(data, DataType::VarChar);
        Column {
            name: name.to_owned(),
            data,
            type_text: type_text.to_owned(),
            charset: text.then(|| "latin1".to_owned()),
            collation: text.then(|| "latin1_swedish_ci".to_owned()),
            nullable: false,
            generated: false,
        }
    }

    #[test]
    fn a_page_begins_after_the_whole_key() {
        let text = column("a`b", DataType::VarChar, "varchar(9)");
        let label = column("e", DataType::Enum, "enum('a','it''s',',','','''')");
        let number = column("n", DataType::Int { bytes: 4, unsigned: false }, "int(11)");
        let keys = [&text, &label, &number];
        assert_eq!(key_page(&keys, None).unwrap(), "TRUE");
        let after = [b"x'".to_vec(), vec![3], vec![1]];
        assert_eq!(
            key_page(&keys, Some(&after)).unwrap(),
            "((`a``b` > _latin1 X'7827' COLLATE latin1_swedish_ci) \
             OR (`a``b` = _latin1 X'7827' COLLATE latin1_swedish_ci AND `e` IN (4, 5)) \
             OR (`a``b` = _latin1 X'7827' COLLATE latin1_swedish_ci AND `e` = 3 AND `n` > -1))"
        );
        assert!(key_page(&keys, Some(&after[..2])).is_err());
        assert_eq!(key_order(&keys), "`a``b`, `e`, `n`");
    }

    #[test]
    fn what_lies_between_may_be_told_by_the_first_columns_alone() {
        let label = column("e", DataType::Enum, "enum('a','b','c')");
        let number = column("n", DataType::Int { bytes: 4, unsigned: false }, "int(11)");
        let keys = [&number, &label];
        let within = |from: &[Vec<u8>], to: &[Vec<u8>]| key_within(&keys, Some(from), Some(to));
        assert_eq!(key_within(&keys, None, None).unwrap(), "TRUE");
        // 2 and 4 are 1 and 2 in zigzag form.
        assert_eq!(within(&[vec![2]], &[vec![4]]).unwrap(), "((`n` >= 1)) AND ((`n` <= 2))");
        assert_eq!(
            within(&[vec![2], vec![2]], &[vec![4]]).unwrap(),
            "((`n` > 1) OR (`n` = 1 AND `e` IN (2, 3))) AND ((`n` <= 2))"
        );
        assert!(key_within(&keys, Some(&[]), None).is_err());
    }

    #[test]
    fn a_range_ends_with_its_key_and_not_before() {
        let label = column("e", DataType::Enum, "enum('a','b','c')");
        let number = column("n", DataType::Int { bytes: 4, unsigned: false }, "int(11)");
        let keys = [&number, &label];
        let (low, high) = ([vec![2], vec![1]], [vec![4], vec![2]]);
        assert_eq!(key_range(&keys, None, None).unwrap(), "TRUE");
        assert_eq!(
            key_range(&keys, Some(&low), Some(&high)).unwrap(),
            "((`n` > 1) OR (`n` = 1 AND `e` IN (2, 3))) \
             AND ((`n` < 2) OR (`n` = 2 AND `e` IN (0, 1, 2)))"
        );
        assert_eq!(key_equal(&keys, &high).unwrap(), "(`n` = 2 AND `e` = 2)");
        assert!(key_range(&keys, None, Some(&high[..1])).is_err());
        let one = |low: Option<&[Vec<u8>]>| key_range(&keys[..1], low, Some(&high[..1])).unwrap();
        assert_eq!(one(Some(&[vec![3]])), "`n` BETWEEN -1 AND 2");
        assert_eq!(one(None), "TRUE AND ((`n` <= 2))");
        // The largest that there is, zigzag: nothing comes after it.
        let largest = vec![0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(one(Some(&[largest])), "((`n` > 9223372036854775807)) AND ((`n` <= 2))");
    }
}
