//! What a table is: columns, types, keys, and a fingerprint both sides must share.

use crate::row::CellForm;

/// A column's type, as far as values depend on it. Lengths are in bytes, `fsp` is the number of
/// digits of fractional seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 1, 2, 3, 4 or 8 bytes.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Year,
    Bit {
        bits: u8,
    },
    Enum,
    Set,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    Time {
        fsp: u8,
    },
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    Char,
    VarChar,
    Text,
    Binary {
        len: u8,
    },
    VarBinary,
    Blob,
    Json,
    Uuid,
    Inet4,
    Inet6,
    Geometry,
}

impl DataType {
    pub fn form(self) -> CellForm {
        use DataType as T;
        match self {
            T::Int { unsigned: false, .. } => CellForm::Int,
            T::Int { unsigned: true, .. } | T::Year | T::Bit { .. } | T::Enum | T::Set => {
                CellForm::UInt
            }
            T::Float => CellForm::Float,
            T::Double => CellForm::Double,
            T::Decimal { .. } => CellForm::Decimal,
            T::Date => CellForm::Date,
            T::Time { .. } => CellForm::Time,
            T::DateTime { .. } | T::Timestamp { .. } => CellForm::DateTime,
            T::Char
            | T::VarChar
            | T::Text
            | T::Binary { .. }
            | T::VarBinary
            | T::Blob
            | T::Json
            | T::Uuid
            | T::Inet4
            | T::Inet6
            | T::Geometry => CellForm::Bytes,
        }
    }

    /// Character data, whose order and equality depend on a collation.
    pub fn is_text(self) -> bool {
        use DataType as T;
        matches!(self, T::Char | T::VarChar | T::Text | T::Json | T::Enum | T::Set)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data: DataType,
    /// `COLUMN_TYPE` of information_schema, labels of ENUM and SET included.
    pub type_text: String,
    /// Character set and collation of text columns.
    pub charset: Option<String>,
    pub collation: Option<String>,
    pub nullable: bool,
    /// Computed by the server: never sent, never written.
    pub generated: bool,
}

/// Columns are indices into [`TableSchema::columns`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    pub name: String,
    pub columns: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    pub name: String,
    /// In table order, generated ones included: the binlog's order.
    pub columns: Vec<Column>,
    /// In key order; indices into `columns`. Never empty for a planned table.
    pub primary_key: Vec<usize>,
    /// Unique keys other than the primary key.
    pub unique_keys: Vec<UniqueKey>,
}

impl TableSchema {
    /// Indices of the columns that travel: all that are not generated, in table order.
    pub fn sent_columns(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns.len()).filter(|&index| !self.columns[index].generated)
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// CRC-32 over everything that decides how a row of this table is written and read. A source
    /// and a target with equal fingerprints mean the same by the same bytes.
    pub fn fingerprint(&self) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u32).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(&self.name);
        for column in &self.columns {
            add(&column.name);
            add(&column.type_text);
            add(column.charset.as_deref().unwrap_or(""));
            add(column.collation.as_deref().unwrap_or(""));
            add(match (column.nullable, column.generated) {
                (false, false) => "-",
                (true, false) => "n",
                (false, true) => "g",
                (true, true) => "ng",
            });
        }
        for &index in &self.primary_key {
            add(&self.columns[index].name);
        }
        hash.finalize()
    }
}
