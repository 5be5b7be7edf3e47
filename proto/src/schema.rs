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
    /// Too long for an index of its values: kept by a hash in a hidden column, behind all others.
    pub hashed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    pub name: String,
    /// In table order, generated ones included: the binlog's order, in which a hidden column follows
    /// for each hashed unique key.
    pub columns: Vec<Column>,
    /// In key order; indices into `columns`. Never empty for a planned table.
    pub primary_key: Vec<usize>,
    /// Unique keys other than the primary key.
    pub unique_keys: Vec<UniqueKey>,
}

/// What differs between two texts of [`TableSchema::described`] (and what may stand before them),
/// in words: of the second against the first. Empty where nothing does.
pub fn differences(known: &str, found: &str) -> Vec<String> {
    let parts = |text: &str| -> Vec<(String, String)> {
        let split = |line: &str| line.split_once('\t').map(|(of, is)| (of.to_owned(), short(is)));
        text.lines().filter_map(split).collect()
    };
    let full = |text: &str, of: &str| {
        let begin = format!("{of}\t");
        text.lines().find(|line| line.starts_with(&begin)).map(str::to_owned)
    };
    let (had, has) = (parts(known), parts(found));
    let mut differ = Vec::new();
    for (of, was) in &had {
        match has.iter().find(|(other, _)| other == of) {
            None => differ.push(format!("{of} ({was}) is gone")),
            Some((_, is)) if full(known, of) != full(found, of) => {
                differ.push(format!("{of} is {is}, not {was}"));
            }
            Some(_) => {}
        }
    }
    let beyond = has.iter().filter(|(of, _)| !had.iter().any(|(other, _)| other == of));
    differ.extend(beyond.map(|(of, is)| format!("{of} ({is}) is new")));
    differ
}

/// Labels of an ENUM may fill pages.
fn short(text: &str) -> String {
    const SHOWN_MAX: usize = 160;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl TableSchema {
    /// Indices of the columns that travel: all that are not generated, in table order.
    pub fn sent_columns(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns.len()).filter(|&index| !self.columns[index].generated)
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// What [`TableSchema::fingerprint`] covers, in words, one line for each column and for the
    /// primary key: name, a tab, and what it is.
    pub fn described(&self) -> String {
        let columns = self.columns.iter().enumerate().map(|(index, column)| {
            let text = [column.charset.as_deref(), column.collation.as_deref()];
            let text = text.into_iter().flatten().map(|word| format!(" {word}"));
            let null = if column.nullable { "NULL" } else { "NOT NULL" };
            let generated = if column.generated { " generated" } else { "" };
            let (name, kind, text) = (&column.name, &column.type_text, text.collect::<String>());
            format!("column {}\t{name} {kind}{text} {null}{generated}\n", index + 1)
        });
        let names = self.primary_key.iter().map(|&index| self.columns[index].name.as_str());
        let key = names.collect::<Vec<_>>().join(", ");
        format!("{}primary key\t({key})\n", columns.collect::<String>())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, &str, Option<&str>)], primary_key: Vec<usize>) -> TableSchema {
        let column = |&(name, kind, charset): &(&str, &str, Option<&str>)| Column {
            name: name.to_owned(),
            data: DataType::VarChar,
            type_text: kind.to_owned(),
            charset: charset.map(str::to_owned),
            collation: charset.map(|charset| format!("{charset}_bin")),
            nullable: name != "id",
            generated: false,
        };
        let columns = columns.iter().map(column).collect();
        TableSchema { name: "t".to_owned(), columns, primary_key, unique_keys: Vec::new() }
    }

    #[test]
    fn what_differs_is_said_of_each_column_and_agrees_with_the_fingerprint() {
        let latin = Some("latin1");
        let known = table(&[("id", "int(11)", None), ("a", "int(11)", None)], vec![0]);
        let check = |found: TableSchema, expected: &[&str]| {
            assert_eq!(differences(&known.described(), &found.described()), expected);
            assert_eq!(found.fingerprint() == known.fingerprint(), expected.is_empty());
        };
        check(known.clone(), &[]);
        check(
            table(&[("id", "int(11)", None), ("b", "varchar(9)", latin)], vec![0]),
            &["column 2 is b varchar(9) latin1 latin1_bin NULL, not a int(11) NULL"],
        );
        check(table(&[("id", "int(11)", None)], vec![0]), &["column 2 (a int(11) NULL) is gone"]);
        check(
            table(&[("id", "int(11)", None), ("a", "int(11)", None), ("c", "date", None)], vec![1]),
            &["primary key is (a), not (id)", "column 3 (c date NULL) is new"],
        );
        let long = |label: &str| {
            let kind = format!("enum('{}','{label}')", "x".repeat(500));
            table(&[("id", "int(11)", None), ("a", &kind, None)], vec![0]).described()
        };
        assert_eq!(differences(&long("b"), &long("c")).len(), 1, "beyond what is shown");
    }
}
