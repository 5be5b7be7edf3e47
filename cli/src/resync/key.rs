//! Primary keys as an operator writes them -> their wire form.
//!
//! Numbers and bytes are read here; what has a calendar or a character set is asked of the server, which
//! alone knows how a column stores it.

use std::cmp::Ordering;

use anyhow::Context;
use modshift_mariadb::Value;
use modshift_mariadb::value::value_to_cell;
use modshift_proto::row::{RowView, RowWriter};
use modshift_proto::{Column, DataType};
use modshift_verify::{Bounds, CheckedTable, Shard};

use crate::exit::BadPlan;

/// What one part of a key is.
#[derive(Debug, PartialEq)]
enum Part {
    Value(Value),
    /// The server says it: the value, and 1 where nothing of the text was lost.
    Ask(String),
}

/// `between`: the first and the last key, in the words of the command line.
pub async fn bounds(
    shard: &mut Shard,
    table: &CheckedTable,
    between: &[String],
) -> anyhow::Result<Bounds> {
    let [from, to] = between else { return Ok(Bounds::default()) };
    let (first, last) = (values(shard, table, from).await?, values(shard, table, to).await?);
    let keys = columns(table);
    if is_reversed(&keys, &first, &last) {
        let message = format!(
            "--key-between {from} {to}: no key lies between them, the first one comes after the last one"
        );
        return Err(BadPlan(message).into());
    }
    Ok(Bounds { from: Some(cells(&keys, &first, from)?), to: Some(cells(&keys, &last, to)?) })
}

fn columns(table: &CheckedTable) -> Vec<&Column> {
    table.schema.primary_key.iter().map(|&index| &table.schema.columns[index]).collect()
}

/// As far as it is plain: the order of text is for its collation to say.
fn is_reversed(columns: &[&Column], first: &[Value], last: &[Value]) -> bool {
    use DataType as T;
    for ((column, first), last) in columns.iter().zip(first).zip(last) {
        let plain = matches!(
            column.data,
            T::Int { .. }
                | T::Year
                | T::Date
                | T::DateTime { .. }
                | T::Timestamp { .. }
                | T::VarBinary
        );
        match first.partial_cmp(last) {
            Some(Ordering::Equal) => {}
            Some(order) => return plain && order == Ordering::Greater,
            None => return false,
        }
    }
    false
}

async fn values(shard: &mut Shard, table: &CheckedTable, text: &str) -> anyhow::Result<Vec<Value>> {
    let columns = columns(table);
    let mut values = Vec::new();
    for (column, part) in columns.iter().zip(parts(text, columns.len())?) {
        values.push(match part_of(column, part).map_err(BadPlan)? {
            Part::Value(value) => value,
            Part::Ask(sql) => asked(shard, column, part, &sql).await?,
        });
    }
    Ok(values)
}

fn cells(columns: &[&Column], values: &[Value], text: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let cells = columns.iter().zip(values);
    cells
        .map(|(column, value)| cell(column, value).with_context(|| refused(column, text)))
        .collect()
}

/// As many as the key has columns, or fewer: then all rows that begin so are meant.
fn parts(text: &str, columns: usize) -> Result<Vec<&str>, BadPlan> {
    let parts: Vec<&str> = match columns {
        1 => vec![text],
        _ => text.split(',').collect(),
    };
    if parts.len() > columns {
        let message =
            format!("--key-between {text}: the primary key has {columns} columns, and no more");
        return Err(BadPlan(message));
    }
    Ok(parts)
}

fn refused(column: &Column, text: &str) -> String {
    format!("--key-between: {text} is no value of column {} {}", column.name, column.type_text)
}

fn part_of(column: &Column, text: &str) -> Result<Part, String> {
    use DataType as T;
    let no = || refused(column, text);
    let literal = || {
        let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
        format!("_utf8mb4 X'{hex}'")
    };
    let cast = |to: String| {
        let value = format!("CAST({} AS {to})", literal());
        Part::Ask(format!("SELECT {value}, {value} IS NOT NULL"))
    };
    Ok(match column.data {
        T::Int { unsigned: false, .. } => {
            Part::Value(text.parse::<i64>().map_err(|_| no())?.into())
        }
        T::Int { unsigned: true, .. } | T::Year => {
            Part::Value(text.parse::<u64>().map_err(|_| no())?.into())
        }
        T::Decimal { precision, scale } => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            if !is_number || !digits.bytes().any(|b| b.is_ascii_digit()) {
                return Err(no());
            }
            let value = format!("CAST({text} AS DECIMAL({precision},{scale}))");
            Part::Ask(format!("SELECT {value}, {value} = {text}"))
        }
        T::Date if is_like("0000-00-00", text) => cast("DATE".to_owned()),
        T::DateTime { fsp } | T::Timestamp { fsp } if is_time(text, fsp) => {
            cast(format!("DATETIME({fsp})"))
        }
        T::Date | T::DateTime { .. } | T::Timestamp { .. } => return Err(no()),
        T::Char | T::VarChar | T::Text => {
            let charset = column.charset.as_deref().unwrap_or("binary");
            let value = format!("CONVERT({} USING {charset})", literal());
            let back = format!("CAST(CONVERT({value} USING utf8mb4) AS BINARY)");
            Part::Ask(format!(
                "SELECT CAST({value} AS BINARY), {back} = CAST({} AS BINARY)",
                literal()
            ))
        }
        T::Binary { .. } | T::VarBinary | T::Blob => match text.strip_prefix("0x") {
            Some(hex) => Part::Value(Value::Bytes(bytes(hex).ok_or_else(no)?)),
            None => Part::Value(Value::Bytes(text.as_bytes().to_vec())),
        },
        _ => {
            let (name, kind) = (&column.name, &column.type_text);
            return Err(format!(
                "--key-between cannot name a value of column {name} {kind}: leave it out, and the whole \
                 table is copied again"
            ));
        }
    })
}

/// A digit where `pattern` has one, and the same where it has not: the server leaves out what it does not
/// understand.
fn is_like(pattern: &str, text: &str) -> bool {
    let same = |(pattern, byte): (u8, u8)| match pattern {
        b'0' => byte.is_ascii_digit(),
        pattern => byte == pattern,
    };
    pattern.len() == text.len() && pattern.bytes().zip(text.bytes()).all(same)
}

/// A date, with a time of no more digits than the column has, or without.
fn is_time(text: &str, fsp: u8) -> bool {
    let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = is_like("0000-00-00 00:00:00", time) || is_like("0000-00-00T00:00:00", time);
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let alone = fraction.is_empty() && !text.ends_with('.');
    (whole && digits && fraction.len() <= usize::from(fsp) && !text.ends_with('.'))
        || (alone && is_like("0000-00-00", time))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let whole = !hex.is_empty() && hex.len().is_multiple_of(2);
    pairs.map(byte).collect::<Option<Vec<u8>>>().filter(|_| whole)
}

async fn asked(shard: &mut Shard, column: &Column, text: &str, sql: &str) -> anyhow::Result<Value> {
    let rows = shard.exact("reading a key", sql).await?;
    let row = rows.first().context("no answer")?;
    let kept = row.get_opt::<Option<u64>, _>(1).and_then(Result::ok).flatten();
    let value = row.as_ref(0).cloned().unwrap_or(Value::NULL);
    if kept != Some(1) || value == Value::NULL {
        return Err(BadPlan(refused(column, text)).into());
    }
    Ok(value)
}

fn cell(column: &Column, value: &Value) -> anyhow::Result<Vec<u8>> {
    let mut wire = Vec::new();
    let mut writer = RowWriter::new(&mut wire, 1);
    value_to_cell(column.data, value, &mut writer)?;
    writer.finish();
    let view = RowView::parse(&wire)?;
    let cell = view.cells().next().context("no cell")??;
    Ok(cell.context("NULL in a primary key")?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data: DataType) -> Column {
        Column {
            name: "c".to_owned(),
            data,
            type_text: "some(9)".to_owned(),
            charset: Some("latin1".to_owned()),
            collation: None,
            nullable: false,
            generated: false,
        }
    }

    #[test]
    fn keys_are_read_to_the_letter_or_refused() {
        let int = column(DataType::Int { bytes: 8, unsigned: false });
        assert_eq!(part_of(&int, "-7"), Ok(Part::Value(Value::Int(-7))));
        for text in ["7x", "", "1.5", "9223372036854775808"] {
            let message = format!("--key-between: {text} is no value of column c some(9)");
            assert_eq!(part_of(&int, text), Err(message));
        }
        let bits = column(DataType::VarBinary);
        assert_eq!(part_of(&bits, "0x00fF"), Ok(Part::Value(Value::Bytes(vec![0, 255]))));
        assert_eq!(part_of(&bits, "ab"), Ok(Part::Value(Value::Bytes(b"ab".to_vec()))));
        assert!(part_of(&bits, "0x0").is_err() && part_of(&bits, "0x").is_err());
        let number = column(DataType::Decimal { precision: 5, scale: 2 });
        assert!(part_of(&number, "1 OR 1").is_err() && part_of(&number, ".").is_err());
        let text = column(DataType::VarChar);
        let Ok(Part::Ask(sql)) = part_of(&text, "o'x") else { panic!("not asked") };
        assert!(sql.contains("X'6F2778'") && !sql.contains("o'x"), "{sql}");
        assert!(part_of(&column(DataType::Json), "x").is_err());
    }

    #[test]
    fn dates_are_whole_dates() {
        let day = column(DataType::Date);
        assert!(matches!(part_of(&day, "2024-01-31"), Ok(Part::Ask(_))));
        let time = column(DataType::Timestamp { fsp: 3 });
        for text in ["2024-01-31", "2024-01-31 10:00:00", "2024-01-31T10:00:00.123"] {
            assert!(matches!(part_of(&time, text), Ok(Part::Ask(_))), "{text}");
        }
        for text in ["2024-01-31x", "2024-1-31", "", "2024-01-31 10:00:00.1234", "2024-01-31."] {
            assert!(part_of(&day, text).is_err() && part_of(&time, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_last_key_before_the_first_one_is_seen_where_that_is_plain() {
        let (int, text) =
            (column(DataType::Int { bytes: 8, unsigned: false }), column(DataType::VarChar));
        let check = |columns: &[&Column], first: &[Value], last: &[Value], reversed| {
            assert_eq!(is_reversed(columns, first, last), reversed, "{first:?} {last:?}");
        };
        let of = |number: i64| Value::Int(number);
        check(&[&int], &[of(9)], &[of(1)], true);
        check(&[&int], &[of(-9)], &[of(1)], false);
        check(&[&int, &int], &[of(1), of(9)], &[of(1)], false);
        check(&[&int, &int], &[of(1), of(9)], &[of(1), of(3)], true);
        check(&[&int, &int], &[of(1), of(9)], &[of(2), of(3)], false);
        check(&[&text], &[Value::Bytes(b"b".to_vec())], &[Value::Bytes(b"A".to_vec())], false);
    }

    #[test]
    fn fewer_parts_than_columns_are_a_beginning() {
        assert_eq!(parts("a,b", 1).unwrap(), ["a,b"]);
        assert_eq!(parts("7", 2).unwrap(), ["7"]);
        assert_eq!(parts("7,8", 2).unwrap(), ["7", "8"]);
        assert!(parts("7,8,9", 2).is_err());
    }
}
