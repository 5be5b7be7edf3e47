//! One cell: the bytes of the row image to the wire form, as `modshift_proto::row` describes it.

use modshift_proto::DataType;
use modshift_proto::row::{DateTime, RowWriter};

use super::compress;
use super::decimal::{DecimalShape, TEXT_MAX};
use super::input::{Fault, TRUNCATED, be, le};
use super::table_map::{LoggedColumn, column};

const MALFORMED: Fault = Fault("a value of the wrong size");

/// How a cell of a column becomes wire form: worked out once per table definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// Little-endian, any width; with the shift that moves the sign bit to the top.
    Int {
        shift: u8,
    },
    /// Little-endian: unsigned integers, ENUM, SET, and DATE, whose packing is that of the wire.
    UInt,
    Year,
    /// Big-endian.
    Bit,
    Decimal(DecimalShape),
    Time {
        fsp: u8,
    },
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    /// `mysql56_temporal_format=OFF`, without fractions.
    OldTime,
    OldDateTime,
    OldTimestamp,
    /// As they are; floating point too, which is IEEE 754 little-endian on either side.
    Bytes,
    /// The binlog strips trailing zero bytes of fixed-length binary types.
    Padded {
        width: u8,
    },
    Compressed,
}

impl Conversion {
    /// None if the column that was logged is not the one in the catalog: a DDL came between.
    pub fn between(logged: LoggedColumn, data: DataType) -> Option<Conversion> {
        use Conversion as C;
        use DataType as T;
        let LoggedColumn { code, meta, scale, .. } = logged;
        let fixed = |width: u8| {
            (code == column::STRING && meta == u16::from(width)).then_some(C::Padded { width })
        };
        let var = match code {
            column::VARCHAR | column::VAR_STRING => Some(C::Bytes),
            column::VARCHAR_COMPRESSED => Some(C::Compressed),
            _ => None,
        };
        let blob = match code {
            column::TINY_BLOB | column::MEDIUM_BLOB | column::LONG_BLOB | column::BLOB => {
                Some(C::Bytes)
            }
            column::BLOB_COMPRESSED => Some(C::Compressed),
            _ => None,
        };
        match data {
            T::Int { bytes, unsigned } => {
                let expected = match code {
                    column::TINY => 1,
                    column::SHORT => 2,
                    column::INT24 => 3,
                    column::LONG => 4,
                    column::LONGLONG => 8,
                    _ => return None,
                };
                let op = if unsigned { C::UInt } else { C::Int { shift: 64 - 8 * expected } };
                (bytes == expected).then_some(op)
            }
            T::Year => (code == column::YEAR).then_some(C::Year),
            T::Bit { bits } => (code == column::BIT && meta == u16::from(bits)).then_some(C::Bit),
            T::Enum => (code == column::ENUM).then_some(C::UInt),
            T::Set => (code == column::SET).then_some(C::UInt),
            T::Float => (code == column::FLOAT).then_some(C::Bytes),
            T::Double => (code == column::DOUBLE).then_some(C::Bytes),
            T::Decimal { precision, scale: expected } => {
                let same = meta == u16::from(precision) && scale == expected;
                let shape = DecimalShape::new(precision, expected)?;
                (code == column::NEWDECIMAL && same).then_some(C::Decimal(shape))
            }
            T::Date => matches!(code, column::DATE | column::NEWDATE).then_some(C::UInt),
            T::Time { fsp } => match code {
                column::TIME2 if meta == u16::from(fsp) => Some(C::Time { fsp }),
                column::TIME if fsp == 0 => Some(C::OldTime),
                _ => None,
            },
            T::DateTime { fsp } => match code {
                column::DATETIME2 if meta == u16::from(fsp) => Some(C::DateTime { fsp }),
                column::DATETIME if fsp == 0 => Some(C::OldDateTime),
                _ => None,
            },
            T::Timestamp { fsp } => match code {
                column::TIMESTAMP2 if meta == u16::from(fsp) => Some(C::Timestamp { fsp }),
                column::TIMESTAMP if fsp == 0 => Some(C::OldTimestamp),
                _ => None,
            },
            T::Char => (code == column::STRING).then_some(C::Bytes),
            T::Binary { len } => fixed(len),
            T::Uuid | T::Inet6 => fixed(16),
            T::Inet4 => fixed(4),
            T::VarChar | T::VarBinary => var,
            T::Text | T::Blob | T::Json => blob,
            T::Geometry => (code == column::GEOMETRY).then_some(C::Bytes),
        }
    }

    /// Writes one cell. `scratch` holds what a compressed value expands to.
    #[inline]
    pub fn write(
        self,
        raw: &[u8],
        row: &mut RowWriter<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match self {
            Conversion::Int { shift } => row.int(((le(raw) << shift) as i64) >> shift),
            Conversion::UInt => row.uint(le(raw)),
            Conversion::Bytes => row.bytes(raw),
            Conversion::Decimal(shape) => {
                let mut text = [0; TEXT_MAX];
                let len = shape.print(raw, &mut text)?;
                row.bytes(text.get(..len).ok_or(MALFORMED)?);
            }
            Conversion::Padded { width } => {
                if raw.len() > usize::from(width) {
                    return Err(MALFORMED);
                }
                row.bytes_padded(raw, usize::from(width));
            }
            Conversion::DateTime { fsp } => row.datetime(datetime(raw, fsp)?),
            Conversion::Timestamp { fsp } => row.datetime(timestamp(raw, fsp)?),
            Conversion::Time { fsp } => row.time(time(raw, fsp)?),
            Conversion::Year => match le(raw) {
                0 => row.uint(0),
                since_1900 => row.uint(1900 + since_1900),
            },
            Conversion::Bit => row.uint(be(raw)),
            Conversion::OldTime => row.time(old_time(raw)),
            Conversion::OldDateTime => row.datetime(old_datetime(le(raw))?),
            Conversion::OldTimestamp => row.datetime(civil(le(raw) as u32, 0)),
            Conversion::Compressed => {
                compress::value(raw, scratch)?;
                row.bytes(scratch);
            }
        }
        Ok(())
    }
}

/// Fractional digits, as packed big-endian in `fsp` digits rounded up to pairs, to microseconds.
fn micros(raw: &[u8], fsp: u8) -> u32 {
    let scale = match fsp {
        0 => 0,
        1 | 2 => 10_000,
        3 | 4 => 100,
        _ => 1,
    };
    be(raw) as u32 * scale
}

/// Five bytes big-endian, offset so that they sort: year * 13 + month, day, hour, minute, second.
fn datetime(raw: &[u8], fsp: u8) -> Result<DateTime, Fault> {
    let (whole, fraction) = raw.split_at_checked(5).ok_or(TRUNCATED)?;
    let packed = be(whole).checked_sub(0x80_0000_0000).ok_or(Fault("negative DATETIME"))?;
    let (date, time) = (packed >> 17, packed & 0x1_ffff);
    let months = date >> 5;
    let micro = micros(fraction, fsp);
    if micro > 999_999 || months / 13 > 9999 {
        return Err(Fault("DATETIME out of range"));
    }
    Ok(DateTime {
        year: (months / 13) as u16,
        month: (months % 13) as u8,
        day: (date & 0x1f) as u8,
        hour: (time >> 12) as u8,
        minute: (time >> 6 & 0x3f) as u8,
        second: (time & 0x3f) as u8,
        micro,
    })
}

fn timestamp(raw: &[u8], fsp: u8) -> Result<DateTime, Fault> {
    let (whole, fraction) = raw.split_at_checked(4).ok_or(TRUNCATED)?;
    let micro = micros(fraction, fsp);
    if micro > 999_999 {
        return Err(Fault("TIMESTAMP out of range"));
    }
    Ok(civil(be(whole) as u32, micro))
}

/// Seconds since 1970 in UTC to a date; nothing at all is the zero date, as on the server.
fn civil(seconds: u32, micro: u32) -> DateTime {
    if seconds == 0 && micro == 0 {
        return DateTime::default();
    }
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in the proleptic Gregorian calendar; years begin in March so that the
    // leap day is last. A u32 of seconds ends in 2106: within the eras 4 and 5.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    DateTime {
        year: (year_of_era + era * 400 + u32::from(month <= 2)) as u16,
        month: month as u8,
        day: (day_of_year - (153 * mp + 2) / 5 + 1) as u8,
        hour: (in_day / 3600) as u8,
        minute: (in_day / 60 % 60) as u8,
        second: (in_day % 60) as u8,
        micro,
    }
}

/// Hours, minutes and seconds in 24 bits and the fraction behind them, big-endian, offset by half
/// so that they sort. A negative TIME is the two's complement of the whole
/// (`my_time_packed_from_binary`), so the fraction counts upwards from the whole before it.
fn time(raw: &[u8], fsp: u8) -> Result<i64, Fault> {
    let (whole, fraction) = raw.split_at_checked(3).ok_or(TRUNCATED)?;
    let bits = 8 * u32::from(fsp.div_ceil(2));
    let packed = (((be(whole) as i64) - 0x80_0000) << bits) + be(fraction) as i64;
    let magnitude = packed.unsigned_abs();
    let hms = magnitude >> bits;
    let units = (magnitude & ((1 << bits) - 1)) as i64;
    let micro = match fsp {
        0 => 0,
        1 | 2 => units * 10_000,
        3 | 4 => units * 100,
        _ => units,
    };
    let seconds = (hms >> 12 & 0x3ff) * 3600 + (hms >> 6 & 0x3f) * 60 + (hms & 0x3f);
    let total = seconds as i64 * 1_000_000 + micro;
    Ok(if packed < 0 { -total } else { total })
}

/// Three bytes little-endian, signed: `hhmmss` as a decimal number.
fn old_time(raw: &[u8]) -> i64 {
    let value = ((le(raw) << 40) as i64) >> 40;
    let hms = value.unsigned_abs();
    let seconds = (hms / 10_000 * 3600 + hms / 100 % 100 * 60 + hms % 100) as i64;
    seconds * 1_000_000 * value.signum()
}

/// `YYYYMMDDhhmmss` as a decimal number.
fn old_datetime(value: u64) -> Result<DateTime, Fault> {
    let (date, time) = (value / 1_000_000, value % 1_000_000);
    let year = u16::try_from(date / 10_000).ok().filter(|&year| year <= 9999);
    Ok(DateTime {
        year: year.ok_or(Fault("DATETIME out of range"))?,
        month: (date / 100 % 100) as u8,
        day: (date % 100) as u8,
        hour: (time / 10_000) as u8,
        minute: (time / 100 % 100) as u8,
        second: (time % 100) as u8,
        micro: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> DateTime {
        DateTime { year, month, day, hour, minute, second, micro: 0 }
    }

    #[test]
    fn seconds_become_dates_in_utc() {
        assert_eq!(civil(0, 0), DateTime::default());
        assert_eq!(civil(1, 0), at(1970, 1, 1, 0, 0, 1));
        assert_eq!(civil(951_782_400, 0), at(2000, 2, 29, 0, 0, 0));
        assert_eq!(civil(0x7fff_ffff, 0), at(2038, 1, 19, 3, 14, 7));
        assert_eq!(civil(u32::MAX, 0), at(2106, 2, 7, 6, 28, 15));
        assert_eq!(civil(4_107_542_400, 0), at(2100, 3, 1, 0, 0, 0));
    }

    #[test]
    fn a_negative_time_counts_its_fraction_backwards() {
        // From a server: -00:00:00.01 in TIME(2), -838:59:59 in TIME, -12:34:56.789 in TIME(3).
        assert_eq!(time(&[0x7f, 0xff, 0xff, 0xff], 2), Ok(-10_000));
        assert_eq!(time(&[0x80, 0x00, 0x00], 0), Ok(0));
        assert_eq!(time(&[0x80, 0x00, 0x01, 0x32], 2), Ok(1_500_000));
        assert_eq!(time(&[0x7f, 0xff, 0xfe, 0xce], 2), Ok(-1_500_000));
        assert!(time(&[0x7f], 0).is_err());
    }

    #[test]
    fn old_temporal_formats_are_decimal_numbers() {
        assert_eq!(old_datetime(20_240_229_235_958), Ok(at(2024, 2, 29, 23, 59, 58)));
        assert_eq!(old_datetime(0), Ok(DateTime::default()));
        assert!(old_datetime(u64::MAX).is_err());
        assert_eq!(old_time(&1_02_03u32.to_le_bytes()[..3]), 3_723_000_000);
        assert_eq!(old_time(&(-1_02_03i32).to_le_bytes()[..3]), -3_723_000_000);
    }

    #[test]
    fn a_column_that_changed_since_the_catalog_was_read_is_not_converted() {
        use super::super::table_map::Extent;
        let logged =
            |code, meta| LoggedColumn { code, meta, scale: 0, extent: Extent::Prefixed(1) };
        let int = DataType::Int { bytes: 4, unsigned: false };
        assert_eq!(
            Conversion::between(logged(column::LONG, 0), int),
            Some(Conversion::Int { shift: 32 })
        );
        assert_eq!(Conversion::between(logged(column::LONGLONG, 0), int), None);
        assert_eq!(Conversion::between(logged(column::STRING, 16), DataType::Inet4), None);
        assert_eq!(Conversion::between(logged(column::TIME2, 3), DataType::Time { fsp: 6 }), None);
    }
}
