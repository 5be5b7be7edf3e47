//! Optional metadata of TABLE_MAP events (`binlog_row_metadata` = MINIMAL or FULL): names, signs,
//! character sets, labels and primary key as the table had them when the rows were written. What
//! is there is held against the catalog; a server that logs none of it leaves that to the reader,
//! which looks the table up.
//!
//! Where the two cannot be compared without doubt (a collation without a number, labels that are
//! escaped), nothing is concluded.

use std::collections::HashMap;

use modshift_proto::{Column, DataType, TableSchema};

use super::input::{Fault, Input};
use super::table_map::{LoggedColumn, column};

/// Numbers of collations by their names.
pub type Collations = HashMap<String, u16>;

/// Collation of BINARY, BLOB and whatever else has no characters.
const BINARY: usize = 63;

#[derive(Debug, Default)]
pub(super) struct Metadata {
    signs: Option<Vec<u8>>,
    names: Option<Vec<Vec<u8>>>,
    primary_key: Option<Vec<usize>>,
    text: Option<Charsets>,
    labelled: Option<Charsets>,
    enums: Option<Vec<Vec<Vec<u8>>>>,
    sets: Option<Vec<Vec<Vec<u8>>>>,
}

/// Numbers of collations of all columns of a kind.
#[derive(Debug)]
enum Charsets {
    Each(Vec<usize>),
    Usual(usize, Vec<(usize, usize)>),
}

impl Charsets {
    fn of(&self, place: usize) -> Option<usize> {
        match self {
            Charsets::Each(all) => all.get(place).copied(),
            Charsets::Usual(usual, others) => {
                let other = others.iter().find(|(at, _)| *at == place);
                Some(other.map_or(*usual, |(_, id)| *id))
            }
        }
    }
}

/// Types of `Table_map_log_event::Optional_metadata_field_type`.
mod field {
    pub const SIGNEDNESS: u8 = 1;
    pub const DEFAULT_CHARSET: u8 = 2;
    pub const COLUMN_CHARSET: u8 = 3;
    pub const COLUMN_NAME: u8 = 4;
    pub const SET_LABELS: u8 = 5;
    pub const ENUM_LABELS: u8 = 6;
    pub const PRIMARY_KEY: u8 = 8;
    pub const PRIMARY_KEY_WITH_PREFIX: u8 = 9;
    pub const LABELS_DEFAULT_CHARSET: u8 = 10;
    pub const LABELS_COLUMN_CHARSET: u8 = 11;
}

impl Metadata {
    /// What follows the bitmap of columns that may be NULL.
    pub fn parse(input: &mut Input<'_>) -> Result<Metadata, Fault> {
        let mut found = Metadata::default();
        while !input.is_empty() {
            let kind = input.byte()?;
            let len = input.lenenc()?;
            let mut value = Input::new(input.take(len)?);
            match kind {
                field::SIGNEDNESS => found.signs = Some(value.rest().to_vec()),
                field::DEFAULT_CHARSET => found.text = Some(usual(&mut value)?),
                field::COLUMN_CHARSET => found.text = Some(Charsets::Each(numbers(&mut value)?)),
                field::LABELS_DEFAULT_CHARSET => found.labelled = Some(usual(&mut value)?),
                field::LABELS_COLUMN_CHARSET => {
                    found.labelled = Some(Charsets::Each(numbers(&mut value)?));
                }
                field::COLUMN_NAME => found.names = Some(texts(&mut value)?),
                field::SET_LABELS => found.sets = Some(labels(&mut value)?),
                field::ENUM_LABELS => found.enums = Some(labels(&mut value)?),
                field::PRIMARY_KEY => found.primary_key = Some(numbers(&mut value)?),
                field::PRIMARY_KEY_WITH_PREFIX => {
                    let pairs = numbers(&mut value)?;
                    found.primary_key = Some(pairs.chunks(2).map(|pair| pair[0]).collect());
                }
                // Kinds of geometry, and what later servers may add.
                _ => {}
            }
        }
        Ok(found)
    }

    /// The first thing in which the log and the catalog differ: column, as logged, as known.
    pub fn difference(
        &self,
        logged: &[LoggedColumn],
        schema: &TableSchema,
        collations: &Collations,
    ) -> Option<(String, String, String)> {
        let places = Places::of(logged);
        for (index, known) in schema.columns.iter().enumerate() {
            let differs =
                |logged: String, known_as: String| Some((known.name.clone(), logged, known_as));
            if let Some(name) = self.names.as_ref().and_then(|names| names.get(index))
                && name != known.name.as_bytes()
            {
                let logged =
                    format!("column {} named {}", index + 1, String::from_utf8_lossy(name));
                return differs(logged, format!("{} {}", known.name, known.type_text));
            }
            let sign = places.number[index].and_then(|place| self.is_unsigned(place));
            if let Some(unsigned) = sign.filter(|&unsigned| unsigned != is_unsigned(known)) {
                let logged = if unsigned { "UNSIGNED" } else { "a signed number" };
                return differs(logged.to_owned(), known.type_text.clone());
            }
            let of_text = places.text[index].and_then(|at| self.text.as_ref()?.of(at));
            let of_labels = places.labelled[index].and_then(|at| self.labelled.as_ref()?.of(at));
            if let (Some(logged), Some(expected)) =
                (of_text.or(of_labels), collation(known, collations))
                && logged != expected
            {
                let name = collations.iter().find(|(_, id)| usize::from(**id) == logged);
                let name = name.map_or("unknown", |(name, _)| name.as_str());
                let known_as = known.collation.as_deref().unwrap_or("binary");
                return differs(format!("collation {name} ({logged})"), known_as.to_owned());
            }
            let of = |all: &Option<Vec<_>>, place: Option<usize>| -> Option<Vec<Vec<u8>>> {
                all.as_ref()?.get(place?).cloned()
            };
            let logged =
                of(&self.enums, places.an_enum[index]).or(of(&self.sets, places.a_set[index]));
            if let (Some(logged), Some(expected)) = (logged, known_labels(known))
                && logged != expected
            {
                let texts = logged.iter().map(|label| String::from_utf8_lossy(label).into_owned());
                let logged = format!("labels {}", texts.collect::<Vec<_>>().join(","));
                return differs(logged, known.type_text.clone());
            }
        }
        let key = self.primary_key.as_ref().filter(|key| **key != schema.primary_key)?;
        let names = |key: &[usize]| {
            let name = |&index: &usize| schema.columns.get(index).map_or("?", |c| c.name.as_str());
            format!("({})", key.iter().map(name).collect::<Vec<_>>().join(", "))
        };
        Some(("primary key".to_owned(), names(key), names(&schema.primary_key)))
    }

    /// Most significant bit first.
    fn is_unsigned(&self, place: usize) -> Option<bool> {
        let byte = self.signs.as_ref()?.get(place / 8)?;
        Some(byte & (0x80 >> (place % 8)) != 0)
    }
}

/// For each column, its place in each of the lists that leave other columns out.
struct Places {
    number: Vec<Option<usize>>,
    text: Vec<Option<usize>>,
    labelled: Vec<Option<usize>>,
    an_enum: Vec<Option<usize>>,
    a_set: Vec<Option<usize>>,
}

impl Places {
    fn of(logged: &[LoggedColumn]) -> Places {
        let among = |of_kind: &dyn Fn(u8) -> bool| {
            let mut next = 0..;
            let place =
                |logged: &LoggedColumn| if of_kind(logged.code) { next.next() } else { None };
            logged.iter().map(place).collect()
        };
        Places {
            // YEAR counts among the numbers, BIT does not (seen on 10.11.19).
            number: among(&|code| {
                matches!(
                    code,
                    column::TINY
                        | column::SHORT
                        | column::INT24
                        | column::LONG
                        | column::LONGLONG
                        | column::YEAR
                        | column::FLOAT
                        | column::DOUBLE
                        | column::NEWDECIMAL
                )
            }),
            // GEOMETRY counts among them, and so do UUID and INET6, which are logged as CHAR.
            text: among(&|code| {
                matches!(
                    code,
                    column::VARCHAR
                        | column::VAR_STRING
                        | column::VARCHAR_COMPRESSED
                        | column::STRING
                        | column::TINY_BLOB
                        | column::MEDIUM_BLOB
                        | column::LONG_BLOB
                        | column::BLOB
                        | column::BLOB_COMPRESSED
                        | column::GEOMETRY
                )
            }),
            labelled: among(&|code| matches!(code, column::ENUM | column::SET)),
            an_enum: among(&|code| code == column::ENUM),
            a_set: among(&|code| code == column::SET),
        }
    }
}

fn is_unsigned(known: &Column) -> bool {
    known.data == DataType::Year || known.type_text.split(' ').any(|word| word == "unsigned")
}

/// `None`: not known for sure.
fn collation(known: &Column, collations: &Collations) -> Option<usize> {
    match (&known.collation, known.data) {
        (Some(name), _) => collations.get(name).map(|&id| usize::from(id)),
        (None, DataType::Binary { .. } | DataType::VarBinary | DataType::Blob) => Some(BINARY),
        (None, _) => None,
    }
}

/// The labels of an ENUM or SET as the catalog prints them, in the bytes of their character set;
/// `None` where these cannot be told from the text.
fn known_labels(known: &Column) -> Option<Vec<Vec<u8>>> {
    let text = &known.type_text;
    let inside = text.strip_prefix("enum(").or(text.strip_prefix("set("))?.strip_suffix(')')?;
    let utf8 = known.charset.as_deref().is_some_and(|name| name.starts_with("utf8"));
    let narrow = ["latin1", "ascii", "latin2", "cp1250", "cp1251", "koi8r"];
    let ascii = known.charset.as_deref().is_some_and(|name| narrow.contains(&name));
    if inside.contains('\\') || !(utf8 || (ascii && inside.is_ascii())) {
        return None;
    }
    let mut labels = Vec::new();
    let mut rest = inside;
    loop {
        let mut label = String::new();
        rest = rest.strip_prefix('\'')?;
        loop {
            let (part, after) = rest.split_once('\'')?;
            label += part;
            rest = after;
            let Some(quoted) = rest.strip_prefix('\'') else { break };
            label.push('\'');
            rest = quoted;
        }
        labels.push(label.into_bytes());
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(labels),
        }
    }
}

fn usual(value: &mut Input<'_>) -> Result<Charsets, Fault> {
    let usual = value.lenenc()?;
    let others = numbers(value)?;
    let pairs = others.chunks_exact(2);
    match pairs.remainder().is_empty() {
        true => Ok(Charsets::Usual(usual, pairs.map(|pair| (pair[0], pair[1])).collect())),
        false => Err(Fault("a column without its character set")),
    }
}

fn numbers(value: &mut Input<'_>) -> Result<Vec<usize>, Fault> {
    let mut found = Vec::new();
    while !value.is_empty() {
        found.push(value.lenenc()?);
    }
    Ok(found)
}

fn texts(value: &mut Input<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut found = Vec::new();
    while !value.is_empty() {
        found.push(text(value)?);
    }
    Ok(found)
}

fn text(value: &mut Input<'_>) -> Result<Vec<u8>, Fault> {
    let len = value.lenenc()?;
    Ok(value.take(len)?.to_vec())
}

fn labels(value: &mut Input<'_>) -> Result<Vec<Vec<Vec<u8>>>, Fault> {
    let mut found = Vec::new();
    while !value.is_empty() {
        let count = value.lenenc()?;
        // Not reserved: the count is not to be trusted.
        let mut labels = Vec::new();
        for _ in 0..count {
            labels.push(text(value)?);
        }
        found.push(labels);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::table_map::Extent;

    fn known(name: &str, type_text: &str, data: DataType, collation: Option<&str>) -> Column {
        Column {
            name: name.to_owned(),
            data,
            type_text: type_text.to_owned(),
            charset: collation.map(|name| name.split('_').next().unwrap().to_owned()),
            collation: collation.map(str::to_owned),
            nullable: true,
            generated: false,
        }
    }

    fn schema() -> TableSchema {
        let int = DataType::Int { bytes: 4, unsigned: false };
        let columns = vec![
            known("id", "int(11)", int, None),
            known("y", "year(4)", DataType::Year, None),
            known("u", "int(10) unsigned", DataType::Int { bytes: 4, unsigned: true }, None),
            known("v", "varchar(9)", DataType::VarChar, Some("latin1_bin")),
            known("e", "enum('a','it''s')", DataType::Enum, Some("utf8mb4_bin")),
        ];
        TableSchema { name: "t".into(), columns, primary_key: vec![0], unique_keys: vec![] }
    }

    /// As FULL logs the table above, with some bytes exchanged.
    fn difference(change: impl Fn(&mut Vec<u8>)) -> Option<(String, String, String)> {
        let mut bytes = vec![1, 1, 0b0110_0000, 2, 1, 47, 10, 1, 46, 8, 1, 0];
        bytes.extend_from_slice(&[4, 11, 2, b'i', b'd', 1, b'y', 1, b'u', 1, b'v', 1, b'e']);
        bytes.extend_from_slice(&[6, 8, 2, 1, b'a', 4, b'i', b't', b'\'', b's']);
        change(&mut bytes);
        let metadata = Metadata::parse(&mut Input::new(&bytes)).unwrap();
        let codes = [column::LONG, column::YEAR, column::LONG, column::VARCHAR, column::ENUM];
        let logged: Vec<LoggedColumn> = codes
            .into_iter()
            .map(|code| LoggedColumn { code, meta: 0, scale: 0, extent: Extent::Fixed(1) })
            .collect();
        let collations = [("latin1_bin", 47), ("utf8mb4_bin", 46), ("greek_bin", 70)];
        let collations = collations.map(|(name, id)| (name.to_owned(), id)).into_iter().collect();
        metadata.difference(&logged, &schema(), &collations)
    }

    #[test]
    fn what_the_log_tells_of_columns_is_held_against_the_catalog() {
        assert_eq!(difference(|_| {}), None);
        let column = |change: &dyn Fn(&mut Vec<u8>)| difference(change).unwrap().0;
        assert_eq!(column(&|bytes| bytes[2] = 0b1110_0000), "id");
        assert_eq!(column(&|bytes| bytes[2] = 0b0100_0000), "u");
        assert_eq!(column(&|bytes| bytes[5] = 70), "v");
        assert_eq!(column(&|bytes| bytes[8] = 47), "e");
        assert_eq!(column(&|bytes| bytes[11] = 2), "primary key");
        assert_eq!(column(&|bytes| bytes[20] = b'w'), "u");
        assert_eq!(column(&|bytes| *bytes.last_mut().unwrap() = b't'), "e");
        let (_, logged, known) = difference(|bytes| bytes[5] = 70).unwrap();
        assert_eq!((logged.as_str(), known.as_str()), ("collation greek_bin (70)", "latin1_bin"));
    }

    #[test]
    fn what_is_not_there_or_not_sure_is_no_difference() {
        assert_eq!(difference(Vec::clear), None);
        let known = known("e", r"enum('a\\b')", DataType::Enum, Some("utf8mb4_bin"));
        assert_eq!(known_labels(&known), None);
    }

    #[test]
    fn cut_metadata_is_an_error_or_less_of_it() {
        let bytes = [4, 3, 2, b'i', b'd', 6, 5, 2, 1, b'a', 1, b'b'];
        assert!(Metadata::parse(&mut Input::new(&bytes)).is_ok());
        for len in [1, 2, 3, 4, 6, 8, 10, 11] {
            assert!(Metadata::parse(&mut Input::new(&bytes[..len])).is_err(), "{len}");
        }
        assert!(Metadata::parse(&mut Input::new(&[6, 4, 200, 1, b'a', 1])).is_err());
    }
}
