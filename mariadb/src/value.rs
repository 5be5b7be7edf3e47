//! Values, exactly: between the driver's [`Value`]s and the wire form of `modshift_proto::row`.
//!
//! What a [`Session::Exact`](crate::Session) connection reads with [`select_expr`] over the binary
//! protocol becomes the very bytes that the binlog decoder makes of the same stored value, and
//! what [`cell_to_value`] binds stores them again. Text forms never come between: the text
//! protocol rounds FLOAT, and text of one character set is not that of another.
//!
//! Nothing here knows tables, statements or connections.

use modshift_proto::row::{
    self, DateTime, RowError, RowWriter, cell_datetime, cell_double, cell_float, cell_int,
    cell_uint,
};
use modshift_proto::schema::{Column, DataType};
use mysql_async::Value;

pub use crate::literal::{
    canonical_text, key_equal, key_order, key_page, key_range, key_within, literal,
};
pub use crate::order::{is_bound, unpageable, unpageable_text};

const MICROS: u64 = 1_000_000;
/// TIME ends at 838:59:59, within its 35th day.
const TIME_DAYS_END: u32 = 35;
/// Digits, sign and point of the longest DECIMAL (65 digits), and zeros of a ZEROFILL one.
pub(crate) const DECIMAL_LEN_MAX: usize = 96;

/// A value that does not fit the column's type: a wrong catalog, or a damaged message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("a value of type {found} where {data:?} was expected")]
    Form { data: DataType, found: &'static str },
    #[error("a value outside the range of {data:?}")]
    Range { data: DataType },
    #[error("{len} bytes where {data:?} takes {expected}")]
    Length { data: DataType, len: usize, expected: usize },
    #[error("not a decimal number")]
    Decimal,
    #[error("a key of {found} columns where the primary key has {expected}")]
    KeyParts { found: usize, expected: usize },
    #[error("NULL in column {column}, which is NOT NULL")]
    Null { column: String },
    #[error(
        "a key in column {column} after which MariaDB would leave out rows, or that is no text"
    )]
    Unordered { column: String },
    #[error(transparent)]
    Row(#[from] RowError),
}

/// An identifier, quoted.
pub fn quote(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

/// What to select so that the binary protocol gives the stored value and not its label or text.
///
/// ENUM and SET: number and bits (a label could be `''` for both the error value and a member).
/// UUID and INET: the bytes of the row image, network order.
pub fn select_expr(column: &Column) -> String {
    let name = quote(&column.name);
    match column.data {
        DataType::Enum | DataType::Set => format!("CAST({name} AS UNSIGNED)"),
        DataType::Uuid | DataType::Inet6 => format!("CAST({name} AS BINARY(16))"),
        DataType::Inet4 => format!("CAST({name} AS BINARY(4))"),
        _ => name,
    }
}

/// Appends what was selected to a row on the wire. After an error the row is to be thrown away.
pub fn value_to_cell(
    data: DataType,
    value: &Value,
    row: &mut RowWriter<'_>,
) -> Result<(), ValueError> {
    use DataType as T;
    match (data, value) {
        (_, Value::NULL) => row.null(),
        (T::Int { unsigned: false, .. }, Value::Int(v)) => row.int(*v),
        (T::Int { unsigned: false, .. }, Value::UInt(v)) => {
            row.int(i64::try_from(*v).map_err(|_| ValueError::Range { data })?);
        }
        (T::Int { unsigned: true, .. } | T::Year | T::Enum, Value::Int(v)) => {
            row.uint(u64::try_from(*v).map_err(|_| ValueError::Range { data })?);
        }
        // The 64th member of a SET is the sign bit of what some servers call a signed number.
        (T::Set | T::Bit { .. }, Value::Int(v)) => row.uint(*v as u64),
        (
            T::Int { unsigned: true, .. } | T::Year | T::Enum | T::Set | T::Bit { .. },
            Value::UInt(v),
        ) => row.uint(*v),
        (T::Bit { .. }, Value::Bytes(bytes)) => {
            if bytes.len() > 8 {
                return Err(ValueError::Length { data, len: bytes.len(), expected: 8 });
            }
            row.uint(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
        }
        (T::Float, Value::Float(v)) => row.float(*v),
        (T::Double, Value::Double(v)) => row.double(*v),
        (T::Decimal { .. }, Value::Bytes(text)) => {
            let mut buffer = [0; DECIMAL_LEN_MAX];
            row.bytes(canonical_decimal(text, &mut buffer)?);
        }
        (T::Date, Value::Date(year, month, day, 0, 0, 0, 0)) => row.date(*year, *month, *day),
        (
            T::DateTime { .. } | T::Timestamp { .. },
            &Value::Date(year, month, day, hour, minute, second, micro),
        ) => row.datetime(DateTime { year, month, day, hour, minute, second, micro }),
        (T::Time { .. }, &Value::Time(_, TIME_DAYS_END.., ..)) => {
            return Err(ValueError::Range { data });
        }
        (T::Time { .. }, &Value::Time(negative, days, hours, minutes, seconds, micros)) => {
            let hours = u64::from(days) * 24 + u64::from(hours);
            let seconds = (hours * 60 + u64::from(minutes)) * 60 + u64::from(seconds);
            let micros = (seconds * MICROS + u64::from(micros)) as i64;
            row.time(if negative { -micros } else { micros });
        }
        (T::Binary { len }, Value::Bytes(bytes)) => row.bytes_padded(bytes, len.into()),
        (T::Uuid | T::Inet6, Value::Bytes(bytes)) => row.bytes(exact(data, bytes, 16)?),
        (T::Inet4, Value::Bytes(bytes)) => row.bytes(exact(data, bytes, 4)?),
        (
            T::Char | T::VarChar | T::Text | T::VarBinary | T::Blob | T::Json | T::Geometry,
            Value::Bytes(bytes),
        ) => row.bytes(bytes),
        (_, found) => return Err(ValueError::Form { data, found: form_of(found) }),
    }
    Ok(())
}

/// What to bind for a cell. The variant depends on the type alone, NULL excepted: the rows of one
/// bulk execute must agree on it (error 1210 otherwise).
pub fn cell_to_value(data: DataType, cell: Option<&[u8]>) -> Result<Value, ValueError> {
    use DataType as T;
    let Some(cell) = cell else { return Ok(Value::NULL) };
    Ok(match data {
        T::Int { unsigned: false, .. } => Value::Int(cell_int(cell)?),
        T::Int { unsigned: true, .. } | T::Year | T::Bit { .. } | T::Enum | T::Set => {
            Value::UInt(cell_uint(cell)?)
        }
        T::Float => Value::Float(cell_float(cell)?),
        T::Double => Value::Double(cell_double(cell)?),
        T::Date => {
            let (year, month, day) = cell_date(cell)?;
            Value::Date(year, month, day, 0, 0, 0, 0)
        }
        T::DateTime { .. } | T::Timestamp { .. } => {
            let at = cell_datetime(cell)?;
            Value::Date(at.year, at.month, at.day, at.hour, at.minute, at.second, at.micro)
        }
        T::Time { .. } => {
            let time = cell_int(cell)?;
            let seconds = time.unsigned_abs() / MICROS;
            let days = u32::try_from(seconds / 86_400).map_err(|_| ValueError::Range { data })?;
            let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
            let micros = time.unsigned_abs() % MICROS;
            Value::Time(
                time < 0,
                days,
                hours as u8,
                minutes as u8,
                (seconds % 60) as u8,
                micros as u32,
            )
        }
        T::Uuid | T::Inet6 => Value::Bytes(exact(data, cell, 16)?.to_vec()),
        T::Inet4 => Value::Bytes(exact(data, cell, 4)?.to_vec()),
        T::Decimal { .. }
        | T::Char
        | T::VarChar
        | T::Text
        | T::Binary { .. }
        | T::VarBinary
        | T::Blob
        | T::Json
        | T::Geometry => Value::Bytes(cell.to_vec()),
    })
}

/// Do two cells of a column hold the same value? Byte by byte, but for the negative zero of a
/// floating-point number: 11.4.5 stores it, 10.11 and 11.8 store 0 in its place, and all of them
/// compare the two as equal.
pub fn same_value(data: DataType, one: Option<&[u8]>, two: Option<&[u8]>) -> bool {
    if one == two {
        return true;
    }
    let zero = |cell: Option<&[u8]>| {
        cell.is_some_and(|cell| match data {
            DataType::Float => cell_float(cell).is_ok_and(|value| value == 0.0),
            DataType::Double => cell_double(cell).is_ok_and(|value| value == 0.0),
            _ => false,
        })
    };
    zero(one) && zero(two)
}

/// Year, month and day of a cell of the form `Date`.
pub(crate) fn cell_date(cell: &[u8]) -> Result<(u16, u8, u8), ValueError> {
    let packed = row::cell_uint(cell)?;
    let year =
        u16::try_from(packed >> 9).map_err(|_| ValueError::Range { data: DataType::Date })?;
    Ok((year, (packed >> 5 & 0xf) as u8, (packed & 0x1f) as u8))
}

/// DECIMAL text without the zeros of ZEROFILL and without a negative zero, which the server does
/// not store either.
pub(crate) fn canonical_decimal<'a>(
    text: &'a [u8],
    buffer: &'a mut [u8; DECIMAL_LEN_MAX],
) -> Result<&'a [u8], ValueError> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let whole = &digits[..point.unwrap_or(digits.len())];
    let fraction = point.map_or(&[][..], |at| &digits[at + 1..]);
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || digits.is_empty() || (point.is_some() && fraction.is_empty()) {
        return Err(ValueError::Decimal);
    }
    let leading = whole.iter().take_while(|byte| **byte == b'0').count();
    let zero = whole.iter().chain(fraction).all(|byte| *byte == b'0');
    if leading == usize::from(whole == b"0") && !whole.is_empty() && !(negative && zero) {
        return Ok(text);
    }
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        let room = buffer.get_mut(len..len + bytes.len()).ok_or(ValueError::Decimal)?;
        room.copy_from_slice(bytes);
        len += bytes.len();
        Ok::<(), ValueError>(())
    };
    if negative && !zero {
        put(b"-")?;
    }
    put(if leading == whole.len() { b"0" } else { &whole[leading..] })?;
    if point.is_some() {
        put(b".")?;
        put(fraction)?;
    }
    Ok(&buffer[..len])
}

fn exact(data: DataType, bytes: &[u8], expected: usize) -> Result<&[u8], ValueError> {
    if bytes.len() == expected {
        Ok(bytes)
    } else {
        Err(ValueError::Length { data, len: bytes.len(), expected })
    }
}

/// The variant alone: values stay out of logs.
fn form_of(value: &Value) -> &'static str {
    match value {
        Value::NULL => "NULL",
        Value::Bytes(_) => "bytes",
        Value::Int(_) => "signed integer",
        Value::UInt(_) => "unsigned integer",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::Date(..) => "date",
        Value::Time(..) => "time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_decimal(text: &str, canonical: Option<&str>) {
        let mut buffer = [0; DECIMAL_LEN_MAX];
        let found = canonical_decimal(text.as_bytes(), &mut buffer).ok();
        assert_eq!(found, canonical.map(str::as_bytes), "{text}");
    }

    #[test]
    fn a_decimal_has_one_form() {
        for same in ["0", "0.00", "7", "-0.50", "-123.4500", "0.000000000000000000000000000001"] {
            check_decimal(same, Some(same));
        }
        check_decimal("0001.50", Some("1.50"));
        check_decimal("-0.00", Some("0.00"));
        check_decimal("-0", Some("0"));
        check_decimal(".5", Some("0.5"));
        check_decimal("000", Some("0"));
        for bad in ["", "-", ".", "1.", "1e5", "+1", "1,5", "nan", "1.2.3"] {
            check_decimal(bad, None);
        }
        check_decimal(&format!("0{}", "9".repeat(200)), None);
    }

    fn check_cell(data: DataType, value: Value) {
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 1);
        value_to_cell(data, &value, &mut row).unwrap();
        row.finish();
        let cell = row::RowView::parse(&wire).unwrap().cells().next().unwrap().unwrap();
        assert_eq!(cell_to_value(data, cell), Ok(value));
    }

    #[test]
    fn a_value_comes_back_from_the_wire_as_it_went() {
        use DataType as T;
        check_cell(T::Int { bytes: 8, unsigned: false }, Value::Int(i64::MIN));
        check_cell(T::Int { bytes: 8, unsigned: true }, Value::UInt(u64::MAX));
        check_cell(T::Set, Value::UInt(1 << 63));
        check_cell(T::Float, Value::Float(f32::from_bits(1)));
        check_cell(T::Double, Value::Double(f64::MIN));
        check_cell(T::Date, Value::Date(2020, 2, 31, 0, 0, 0, 0));
        check_cell(T::DateTime { fsp: 6 }, Value::Date(9999, 12, 31, 23, 59, 59, 999_999));
        check_cell(T::Time { fsp: 6 }, Value::Time(true, 34, 22, 59, 59, 999_999));
        check_cell(T::Time { fsp: 6 }, Value::Time(true, 0, 0, 0, 0, 1));
        check_cell(T::Blob, Value::Bytes(vec![0; 70_000]));
        check_cell(T::Text, Value::NULL);
    }

    #[test]
    fn the_sign_of_a_zero_is_no_difference() {
        let (zero, negative) = (0f64.to_le_bytes(), (-0f64).to_le_bytes());
        assert!(same_value(DataType::Double, Some(&zero), Some(&negative)));
        assert!(!same_value(DataType::Double, Some(&zero), Some(&5e-324f64.to_le_bytes())));
        assert!(!same_value(DataType::Double, Some(&zero), None));
        assert!(!same_value(DataType::Blob, Some(&zero), Some(&negative)));
        let (zero, negative) = (0f32.to_le_bytes(), (-0f32).to_le_bytes());
        assert!(same_value(DataType::Float, Some(&zero), Some(&negative)));
        assert!(same_value(DataType::Float, None, None));
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 1);
        let int = DataType::Int { bytes: 4, unsigned: true };
        for (data, value) in [
            (int, Value::Int(-1)),
            (int, Value::Bytes(b"1".to_vec())),
            (DataType::Uuid, Value::Bytes(b"0123".to_vec())),
            (DataType::Date, Value::Date(2020, 1, 1, 1, 0, 0, 0)),
            (DataType::Time { fsp: 0 }, Value::Time(false, u32::MAX, 0, 0, 0, 0)),
        ] {
            assert!(value_to_cell(data, &value, &mut row).is_err(), "{data:?}");
        }
        assert!(cell_to_value(DataType::Double, Some(b"short")).is_err());
        assert!(cell_to_value(int, Some(&[0x80])).is_err());
    }
}
