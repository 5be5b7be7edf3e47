//! The wire form of a row: written without an allocation per cell, read without copying.
//!
//! Each cell is the exact value of a column, in the form of its [`CellForm`]:
//!
//! | form | bytes |
//! |---|---|
//! | `Int` | zigzag varint |
//! | `UInt` | varint (also ENUM index, SET and BIT bits, YEAR) |
//! | `Float`, `Double` | IEEE 754, little endian, 4 or 8 bytes |
//! | `Decimal` | ASCII digits as MariaDB prints them, `-123.4500` |
//! | `Date` | varint of `year << 9 \| month << 5 \| day` |
//! | `DateTime` | 8 bytes little endian, see [`DateTime::pack`]; TIMESTAMP is in UTC |
//! | `Time` | zigzag varint of microseconds |
//! | `Bytes` | the bytes as stored, in the column's own character set |
//!
//! Zero and impossible dates are kept as they are: nothing here checks a calendar.

use prost::encoding::{decode_varint, encode_varint};

const CELLS_TAG: u8 = 0x12; // field 2, length delimited
const NULLS_TAG: u8 = 0x0a; // field 1, length delimited

/// Bytes of the longest varint.
const VARINT_MAX: usize = 10;

/// Which of the forms above a column uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellForm {
    Int,
    UInt,
    Float,
    Double,
    Decimal,
    Date,
    DateTime,
    Time,
    Bytes,
}

/// A calendar date and time as stored, in no time zone. May be all zero or impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DateTime {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micro: u32,
}

impl DateTime {
    /// year 14 bits, month 4, day 5, hour 5, minute 6, second 6, microsecond 20; from the top.
    pub fn pack(self) -> u64 {
        let date = (u64::from(self.year) << 9) | (u64::from(self.month) << 5) | u64::from(self.day);
        let time =
            (u64::from(self.hour) << 12) | (u64::from(self.minute) << 6) | u64::from(self.second);
        (((date << 17) | time) << 20) | u64::from(self.micro)
    }

    pub fn unpack(packed: u64) -> DateTime {
        let bits = |shift: u32, width: u32| (packed >> shift) & ((1 << width) - 1);
        DateTime {
            year: bits(46, 14) as u16,
            month: bits(42, 4) as u8,
            day: bits(37, 5) as u8,
            hour: bits(32, 5) as u8,
            minute: bits(26, 6) as u8,
            second: bits(20, 6) as u8,
            micro: bits(0, 20) as u32,
        }
    }
}

impl DateTime {
    /// Microseconds since 1970, read as UTC in the proleptic Gregorian calendar. Only meaningful
    /// for a real date.
    pub fn unix_micros(self) -> i64 {
        // Days from civil: years start in March, so that the leap day comes last.
        let (year, month) = (i64::from(self.year), i64::from(self.month));
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let hours = days * 24 + i64::from(self.hour);
        let seconds = (hours * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        seconds * 1_000_000 + i64::from(self.micro)
    }
}

pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Appends one row to a buffer, cell by cell, in column order.
pub struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
    nulls_at: usize,
    columns: usize,
    next: usize,
}

impl<'a> RowWriter<'a> {
    /// Opens a row of exactly `columns` cells.
    pub fn new(out: &'a mut Vec<u8>, columns: usize) -> RowWriter<'a> {
        let nulls = columns.div_ceil(8);
        out.push(NULLS_TAG);
        encode_varint(nulls as u64, out);
        let nulls_at = out.len();
        out.resize(nulls_at + nulls, 0);
        RowWriter { out, nulls_at, columns, next: 0 }
    }

    /// Ends the row. A row with a cell too few or too many is a bug of the caller.
    pub fn finish(self) {
        assert_eq!(self.next, self.columns, "a row has one cell per column");
    }

    /// Bytes in the buffer so far: where the next cell will begin.
    #[inline]
    pub fn written(&self) -> usize {
        self.out.len()
    }

    pub fn null(&mut self) {
        self.out[self.nulls_at + self.next / 8] |= 1 << (self.next % 8);
        self.open(0);
    }

    #[inline]
    pub fn int(&mut self, value: i64) {
        self.uint(zigzag(value));
    }

    #[inline]
    pub fn uint(&mut self, value: u64) {
        // Built apart and appended once: the buffer is looked at once per cell.
        let mut cell = [CELLS_TAG; 2 + VARINT_MAX];
        let mut len = 2;
        let mut rest = value;
        while rest >= 0x80 {
            cell[len] = rest as u8 | 0x80;
            rest >>= 7;
            len += 1;
        }
        cell[len] = rest as u8;
        len += 1;
        cell[1] = (len - 2) as u8;
        self.next += 1;
        self.out.extend_from_slice(&cell[..len]);
    }

    pub fn float(&mut self, value: f32) {
        self.bytes(&value.to_le_bytes());
    }

    pub fn double(&mut self, value: f64) {
        self.bytes(&value.to_le_bytes());
    }

    pub fn date(&mut self, year: u16, month: u8, day: u8) {
        self.uint((u64::from(year) << 9) | (u64::from(month) << 5) | u64::from(day));
    }

    #[inline]
    pub fn datetime(&mut self, value: DateTime) {
        self.bytes(&value.pack().to_le_bytes());
    }

    /// Microseconds, negative for a negative TIME.
    pub fn time(&mut self, micros: i64) {
        self.int(micros);
    }

    /// Strings, decimals, everything that is bytes.
    #[inline]
    pub fn bytes(&mut self, value: &[u8]) {
        self.out.reserve(value.len() + 2 + VARINT_MAX);
        self.open(value.len());
        self.out.extend_from_slice(value);
    }

    /// The value followed by zero bytes up to `width`: the binlog strips the trailing zeros of
    /// BINARY(n), INET and UUID columns.
    pub fn bytes_padded(&mut self, value: &[u8], width: usize) {
        let width = width.max(value.len());
        self.open(width);
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len() + width - value.len(), 0);
    }

    #[inline]
    fn open(&mut self, len: usize) {
        self.next += 1;
        self.out.push(CELLS_TAG);
        if len < 0x80 {
            self.out.push(len as u8);
        } else {
            encode_varint(len as u64, self.out);
        }
    }
}

/// The bytes are not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed row on the wire: {0}")]
pub struct RowError(pub &'static str);

/// A row as it lies in a message, read without copying. Unknown fields are refused: within one
/// wire version there are none.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    nulls: &'a [u8],
    cells: &'a [u8],
}

impl<'a> RowView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<RowView<'a>, RowError> {
        let mut rest = bytes;
        let mut nulls: &[u8] = &[];
        if rest.first() == Some(&NULLS_TAG) {
            rest = &rest[1..];
            nulls = take_delimited(&mut rest)?;
        }
        Ok(RowView { nulls, cells: rest })
    }

    /// Cells in column order, `None` for NULL.
    pub fn cells(&self) -> CellIter<'a> {
        CellIter { nulls: self.nulls, rest: self.cells, index: 0 }
    }

    /// All cells at once; the error if any is malformed or their number is not `columns`.
    pub fn collect(
        &self,
        columns: usize,
        into: &mut Vec<Option<&'a [u8]>>,
    ) -> Result<(), RowError> {
        into.clear();
        for cell in self.cells() {
            into.push(cell?);
        }
        if into.len() != columns {
            return Err(RowError("the number of cells is not that of the columns"));
        }
        if self.nulls.len() != columns.div_ceil(8) {
            return Err(RowError("the NULL bitmap has not one bit per column"));
        }
        Ok(())
    }
}

pub struct CellIter<'a> {
    nulls: &'a [u8],
    rest: &'a [u8],
    index: usize,
}

/// The cell that begins a run of cells, read as not NULL.
#[inline]
pub fn first_cell(cells: &[u8]) -> Result<&[u8], RowError> {
    match cells {
        [CELLS_TAG, len, rest @ ..] if *len < 0x80 => {
            rest.get(..usize::from(*len)).ok_or(RowError("truncated"))
        }
        [CELLS_TAG, rest @ ..] => take_delimited(&mut { rest }),
        _ => Err(RowError("unexpected field")),
    }
}

impl<'a> Iterator for CellIter<'a> {
    type Item = Result<Option<&'a [u8]>, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        if tag != CELLS_TAG {
            self.rest = &[];
            return Some(Err(RowError("unexpected field")));
        }
        let cell = match take_delimited(&mut self.rest) {
            Ok(cell) => cell,
            Err(error) => {
                self.rest = &[];
                return Some(Err(error));
            }
        };
        let null =
            self.nulls.get(self.index / 8).is_some_and(|byte| byte & (1 << (self.index % 8)) != 0);
        self.index += 1;
        if null && !cell.is_empty() {
            self.rest = &[];
            return Some(Err(RowError("a NULL with a value")));
        }
        Some(Ok((!null).then_some(cell)))
    }
}

#[inline]
fn take_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], RowError> {
    let len = match rest.split_first() {
        // Most cells are short.
        Some((&len, after)) if len < 0x80 => {
            *rest = after;
            usize::from(len)
        }
        _ => {
            let len = decode_varint(rest).map_err(|_| RowError("bad length"))?;
            usize::try_from(len).map_err(|_| RowError("length beyond memory"))?
        }
    };
    if len > rest.len() {
        return Err(RowError("truncated"));
    }
    let (cell, after) = rest.split_at(len);
    *rest = after;
    Ok(cell)
}

/// A cell's integer, for the forms `UInt` and `Date`.
#[inline]
pub fn cell_uint(cell: &[u8]) -> Result<u64, RowError> {
    let Some((&last, before)) = cell.split_last() else { return Err(RowError("bad integer")) };
    let overflows = cell.len() > VARINT_MAX || (cell.len() == VARINT_MAX && last > 1);
    if last >= 0x80 || overflows {
        return Err(RowError("bad integer"));
    }
    let mut value = u64::from(last);
    for &byte in before.iter().rev() {
        if byte < 0x80 {
            return Err(RowError("bytes after an integer"));
        }
        value = value << 7 | u64::from(byte & 0x7f);
    }
    Ok(value)
}

/// A cell's integer, for the forms `Int` and `Time`.
pub fn cell_int(cell: &[u8]) -> Result<i64, RowError> {
    cell_uint(cell).map(unzigzag)
}

pub fn cell_float(cell: &[u8]) -> Result<f32, RowError> {
    cell.try_into().map(f32::from_le_bytes).map_err(|_| RowError("a float has 4 bytes"))
}

pub fn cell_double(cell: &[u8]) -> Result<f64, RowError> {
    cell.try_into().map(f64::from_le_bytes).map_err(|_| RowError("a double has 8 bytes"))
}

pub fn cell_datetime(cell: &[u8]) -> Result<DateTime, RowError> {
    let packed = cell.try_into().map(u64::from_le_bytes);
    packed.map(DateTime::unpack).map_err(|_| RowError("a date and time has 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let when = DateTime {
            year: 9999,
            month: 12,
            day: 31,
            hour: 23,
            minute: 59,
            second: 59,
            micro: 999_999,
        };
        let mut out = vec![0xff];
        let mut row = RowWriter::new(&mut out, 9);
        row.int(i64::MIN);
        row.null();
        row.uint(u64::MAX);
        row.float(-0.0);
        row.double(f64::MAX);
        row.datetime(when);
        row.bytes(&[0; 300]);
        row.bytes_padded(b"ab", 4);
        row.date(0, 0, 0);
        row.finish();
        let mut cells = Vec::new();
        RowView::parse(&out[1..]).unwrap().collect(9, &mut cells).unwrap();
        assert_eq!(cell_int(cells[0].unwrap()), Ok(i64::MIN));
        assert_eq!(cells[1], None);
        assert_eq!(cell_uint(cells[2].unwrap()), Ok(u64::MAX));
        assert!(cell_float(cells[3].unwrap()).unwrap().is_sign_negative());
        assert_eq!(cell_double(cells[4].unwrap()), Ok(f64::MAX));
        assert_eq!(cell_datetime(cells[5].unwrap()), Ok(when));
        assert_eq!(cells[6].unwrap(), [0; 300]);
        assert_eq!(cells[7].unwrap(), b"ab\0\0");
        assert_eq!(cell_uint(cells[8].unwrap()), Ok(0));
    }

    #[test]
    fn dates_count_from_1970() {
        let day = |year, month, day| DateTime { year, month, day, ..DateTime::default() };
        assert_eq!(day(1970, 1, 1).unix_micros(), 0);
        assert_eq!(day(2000, 3, 1).unix_micros(), 951_868_800_000_000);
        assert_eq!(day(1969, 12, 31).unix_micros(), -86_400_000_000);
    }

    #[test]
    fn an_integer_is_the_whole_of_its_cell() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
            let mut cell = Vec::new();
            encode_varint(value, &mut cell);
            assert_eq!(cell_uint(&cell), Ok(value));
            assert!(cell_uint(&cell[..cell.len() - 1]).is_err());
            cell.push(0);
            assert!(cell_uint(&cell).is_err(), "{value}");
        }
        // One bit too many, and one byte.
        assert!(cell_uint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        assert!(cell_uint(&[0x80; 11]).is_err());
    }

    #[test]
    fn zigzag_is_its_own_inverse_at_the_ends() {
        for value in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
