//! TABLE_MAP events: which table the row events that follow speak of, and how long its cells are.
//!
//! Types and metadata alone tell where each cell of a row ends, so rows can be counted without
//! knowing the table. What a cell *means* takes the catalog: see [`super::row::Layout`].

use std::sync::Arc;

use super::code;
use super::error::BinlogError;
use super::input::{Fault, Input};
use super::metadata::Metadata;

/// A column as the binlog describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoggedColumn {
    /// Type code; CHAR, ENUM and SET share one in the event and are told apart here.
    pub code: u8,
    /// Type specific: length, digits, width in bytes. See [`logged_column`].
    pub meta: u16,
    /// DECIMAL only.
    pub scale: u8,
    pub extent: Extent,
}

/// How to find the end of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Fixed(u8),
    /// Preceded by its length in so many bytes, little-endian.
    Prefixed(u8),
}

impl Extent {
    #[inline]
    pub fn take<'a>(self, input: &mut Input<'a>) -> Result<&'a [u8], Fault> {
        match self {
            Extent::Fixed(len) => input.take(usize::from(len)),
            Extent::Prefixed(prefix) => input.prefixed(prefix),
        }
    }
}

/// Type codes of `enum_field_types`.
pub(super) mod column {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140;
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;

    pub fn name(code: u8) -> &'static str {
        match code {
            TINY => "TINYINT",
            SHORT => "SMALLINT",
            LONG => "INT",
            FLOAT => "FLOAT",
            DOUBLE => "DOUBLE",
            TIMESTAMP => "TIMESTAMP (old format)",
            LONGLONG => "BIGINT",
            INT24 => "MEDIUMINT",
            DATE | NEWDATE => "DATE",
            TIME => "TIME (old format)",
            DATETIME => "DATETIME (old format)",
            YEAR => "YEAR",
            VARCHAR | VAR_STRING => "VARCHAR",
            BIT => "BIT",
            TIMESTAMP2 => "TIMESTAMP",
            DATETIME2 => "DATETIME",
            TIME2 => "TIME",
            BLOB_COMPRESSED => "BLOB COMPRESSED",
            VARCHAR_COMPRESSED => "VARCHAR COMPRESSED",
            NEWDECIMAL => "DECIMAL",
            ENUM => "ENUM",
            SET => "SET",
            TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB => "BLOB",
            STRING => "CHAR",
            GEOMETRY => "GEOMETRY",
            _ => "unknown type",
        }
    }
}

/// A table as its TABLE_MAP event names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    pub schema: Vec<u8>,
    pub table: Vec<u8>,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let schema = String::from_utf8_lossy(&self.schema);
        write!(f, "{schema}.{}", String::from_utf8_lossy(&self.table))
    }
}

#[derive(Debug)]
pub(super) struct TableMap {
    pub name: Arc<TableName>,
    pub columns: Vec<LoggedColumn>,
    pub metadata: Metadata,
}

impl TableMap {
    /// The body of the event after the table id.
    pub fn parse(body: &[u8]) -> Result<TableMap, BinlogError> {
        let fault = |fault| BinlogError::malformed(code::TABLE_MAP, fault);
        let mut input = Input::new(body);
        let (name, count, types) = (|| {
            input.take(2)?; // flags
            let schema = named(&mut input)?;
            let table = named(&mut input)?;
            let count = input.lenenc()?;
            Ok((Arc::new(TableName { schema, table }), count, input.take(count)?))
        })()
        .map_err(fault)?;
        let len = input.lenenc().map_err(fault)?;
        let mut metadata = Input::new(input.take(len).map_err(fault)?);
        // The NULL bitmap: the catalog knows it better.
        input.take(count.div_ceil(8)).map_err(fault)?;
        let optional = Metadata::parse(&mut input).map_err(fault)?;
        let mut columns = Vec::with_capacity(count);
        for (index, &kind) in types.iter().enumerate() {
            match logged_column(kind, &mut metadata).map_err(fault)? {
                Some(column) => columns.push(column),
                None => {
                    let table = name.to_string();
                    return Err(BinlogError::ColumnType { table, column: index, code: kind });
                }
            }
        }
        if !metadata.is_empty() {
            return Err(fault(Fault("more column metadata than columns")));
        }
        Ok(TableMap { name, columns, metadata: optional })
    }
}

/// A name preceded by one byte of length and followed by a zero.
fn named(input: &mut Input<'_>) -> Result<Vec<u8>, Fault> {
    let name = input.prefixed(1)?.to_vec();
    if input.byte()? != 0 {
        return Err(Fault("unterminated name"));
    }
    Ok(name)
}

/// One column, or none for a type code that no supported server writes.
fn logged_column(kind: u8, metadata: &mut Input<'_>) -> Result<Option<LoggedColumn>, Fault> {
    use Extent::{Fixed, Prefixed};
    let plain = |extent| LoggedColumn { code: kind, meta: 0, scale: 0, extent };
    let with = |meta, extent| LoggedColumn { code: kind, meta, scale: 0, extent };
    // CHAR and VARCHAR count their bytes in one byte while they can never have more than 255.
    let prefix = |len: u16| Prefixed(if len < 256 { 1 } else { 2 });
    let found = match kind {
        column::TINY | column::YEAR => plain(Fixed(1)),
        column::SHORT => plain(Fixed(2)),
        column::INT24 | column::DATE | column::NEWDATE | column::TIME => plain(Fixed(3)),
        column::LONG | column::TIMESTAMP => plain(Fixed(4)),
        column::LONGLONG | column::DATETIME => plain(Fixed(8)),
        column::FLOAT | column::DOUBLE => {
            let expected = if kind == column::FLOAT { 4 } else { 8 };
            if metadata.byte()? != expected {
                return Err(Fault("floating point of an unknown size"));
            }
            plain(Fixed(expected))
        }
        column::TIMESTAMP2 | column::DATETIME2 | column::TIME2 => {
            let fsp = metadata.byte()?;
            if fsp > 6 {
                return Err(Fault("more than six fractional digits"));
            }
            let whole = match kind {
                column::TIMESTAMP2 => 4,
                column::DATETIME2 => 5,
                _ => 3,
            };
            with(u16::from(fsp), Fixed(whole + fsp.div_ceil(2)))
        }
        column::VARCHAR | column::VAR_STRING | column::VARCHAR_COMPRESSED => {
            let len = metadata.le(2)? as u16;
            with(len, prefix(len))
        }
        column::BIT => {
            let (bits, bytes) = (metadata.byte()?, metadata.byte()?);
            let bits = u16::from(bytes) * 8 + u16::from(bits);
            if bits == 0 || bits > 64 {
                return Err(Fault("BIT of an impossible width"));
            }
            with(bits, Fixed(bits.div_ceil(8) as u8))
        }
        column::NEWDECIMAL => {
            let (precision, scale) = (metadata.byte()?, metadata.byte()?);
            let shape = super::decimal::DecimalShape::new(precision, scale)
                .ok_or(Fault("DECIMAL of an impossible size"))?;
            let extent = Fixed(shape.size());
            LoggedColumn { code: kind, meta: u16::from(precision), scale, extent }
        }
        column::TINY_BLOB
        | column::MEDIUM_BLOB
        | column::LONG_BLOB
        | column::BLOB
        | column::BLOB_COMPRESSED
        | column::GEOMETRY => {
            let width = metadata.byte()?;
            if !(1..=4).contains(&width) {
                return Err(Fault("BLOB of an impossible width"));
            }
            with(u16::from(width), Prefixed(width))
        }
        column::STRING | column::ENUM | column::SET => {
            let (first, second) = (metadata.byte()?, metadata.byte()?);
            string_column(first, second)?
        }
        _ => return Ok(None),
    };
    Ok(Some(found))
}

/// The real type in the first byte, the length in the second. A CHAR above 255 bytes hides two
/// more bits of its length, inverted, in the type (`Field_string::save_field_metadata`).
fn string_column(first: u8, second: u8) -> Result<LoggedColumn, Fault> {
    let high = u16::from((first & 0x30) ^ 0x30) << 4;
    let (code, meta) = (first | 0x30, high | u16::from(second));
    let extent = match code {
        column::STRING => Extent::Prefixed(if meta < 256 { 1 } else { 2 }),
        column::ENUM if meta == 1 || meta == 2 => Extent::Fixed(second),
        column::SET if (1..=8).contains(&meta) => Extent::Fixed(second),
        _ => return Err(Fault("unknown kind of CHAR, ENUM or SET")),
    };
    Ok(LoggedColumn { code, meta, scale: 0, extent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_char_hides_two_bits_of_its_length() {
        let column = string_column(0xfe ^ 0x30, 0xfc).unwrap();
        assert_eq!((column.code, column.meta), (column::STRING, 0x3fc));
        assert_eq!(column.extent, Extent::Prefixed(2));
        assert_eq!(string_column(0xf7, 2).unwrap().extent, Extent::Fixed(2));
        assert!(string_column(0xf7, 3).is_err());
        assert!(string_column(0x01, 0).is_err());
    }

    #[test]
    fn a_cut_table_map_is_an_error_at_every_length() {
        let body = b"\x01\x00\x01s\x00\x01t\x00\x03\x03\x0f\xf6\x04\x64\x00\x0a\x02\x06";
        let map = TableMap::parse(body).unwrap();
        assert_eq!(map.name.to_string(), "s.t");
        assert_eq!(map.columns[1].extent, Extent::Prefixed(1));
        assert_eq!(map.columns[2].extent, Extent::Fixed(5));
        for len in 0..body.len() {
            assert!(TableMap::parse(&body[..len]).is_err(), "{len}");
        }
    }
}
