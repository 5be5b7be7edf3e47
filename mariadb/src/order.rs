//! Where MariaDB's comparisons and its indexes disagree on order.
//!
//! Paging reads "after this key" from an index, but the server judges each row once more by the
//! condition. Where these differ (seen in 10.11.19 and 11.8.9) pages would leave out rows without
//! a word:
//!
//! - A CHAR column of a NO PAD collation: the index holds the value padded with spaces, the
//!   comparison has it without. So rows that begin as the bound does, and end where that goes on with
//!   what sorts below a space (a control character), stand on the other side of it. [`after`] and
//!   [`before`] name them too. Under a UCA collation that is not enough where characters have no weight
//!   of their own: such values are no bounds.
//! - Text that its character set does not allow, as old servers stored it, is no literal (error 1300).
//! - A UUID that MariaDB takes for invalid as text (version 8 or above and a variant byte up to 80),
//!   stored out of raw bytes: it shows another value than it was given, and is not found by it.

use modshift_proto::schema::{Column, DataType};

use crate::literal::text;
use crate::value::{ValueError, quote};

/// A statement that finds a row of `table` (as a statement names it) that paging by this key could
/// miss, if there can be any. It reads the whole table. A table that has such a row when its copy
/// begins must not be paged by this key; one that comes later is in the binlog.
pub fn unpageable(table: &str, keys: &[&Column]) -> Option<String> {
    let uuids = keys.iter().filter(|column| column.data == DataType::Uuid);
    // The row that is looked for by its key is the one at hand: no other page is read.
    let equal = |shown: &Column| {
        let same = |column: &&Column| {
            let name = quote(&column.name);
            match column.name == shown.name {
                true => format!("b.{name} = CAST(a.{name} AS BINARY(16))"),
                false => format!("b.{name} = a.{name}"),
            }
        };
        keys.iter().map(same).collect::<Vec<_>>().join(" AND ")
    };
    let conditions: Vec<String> = uuids
        .map(|column| format!("NOT EXISTS (SELECT 1 FROM {table} AS b WHERE {})", equal(column)))
        .chain(weightless(keys))
        .collect();
    select(table, &conditions)
}

/// The same for text alone: what both sides of a comparison would leave out alike.
pub fn unpageable_text(table: &str, keys: &[&Column]) -> Option<String> {
    select(table, &weightless(keys).collect::<Vec<_>>())
}

fn select(table: &str, conditions: &[String]) -> Option<String> {
    let condition = conditions.join(" OR ");
    (!condition.is_empty()).then(|| {
        format!("SELECT 1 FROM {table} AS a FORCE INDEX (PRIMARY) WHERE {condition} LIMIT 1")
    })
}

/// As broad as [`has_weightless`].
fn weightless<'a>(keys: &'a [&Column]) -> impl Iterator<Item = String> + 'a {
    let padded = keys.iter().filter(|column| is_padded_in_index(column) && is_uca(column));
    padded.map(|column| {
        let name = quote(&column.name);
        format!("CONVERT(a.{name} USING utf8mb4) REGEXP '(*UCP)[^[:alnum:] -~]'")
    })
}

/// May a page begin or end with this key?
pub fn is_bound(keys: &[&Column], key: &[Vec<u8>]) -> bool {
    keys.iter().zip(key).all(|(column, cell)| check(column, cell).is_ok())
}

/// An error for a cell after which rows could be missed.
pub(crate) fn check(column: &Column, cell: &[u8]) -> Result<(), ValueError> {
    let weightless = is_padded_in_index(column) && is_uca(column) && has_weightless(column, cell);
    if weightless || !is_well_formed(column, cell) {
        return Err(ValueError::Unordered { column: column.name.clone() });
    }
    Ok(())
}

/// Can it be written as a literal? Of other character sets than Unicode's every value can.
pub(crate) fn is_well_formed(column: &Column, cell: &[u8]) -> bool {
    let is_text = matches!(column.data, DataType::Char | DataType::VarChar | DataType::Text);
    // The server takes half of a pair in UCS-2.
    let judged = is_unicode(column) && column.charset.as_deref() != Some("ucs2");
    let known = |unit: &[u8]| code(column, unit).is_some_and(|code| char::from_u32(code).is_some());
    !is_text || !judged || units(column, cell).all(known)
}

/// A CHAR column whose comparisons take values without the spaces that its index has. `utf8mb4_0900_…`
/// are later versions' names for NO PAD collations.
pub(crate) fn is_padded_in_index(column: &Column) -> bool {
    let collation = column.collation.as_deref().unwrap_or_default();
    column.data == DataType::Char && (collation.contains("nopad") || collation.contains("_0900_"))
}

/// Has characters without a weight, and some with several.
fn is_uca(column: &Column) -> bool {
    let collation = column.collation.as_deref().unwrap_or_default();
    is_unicode(column) && !collation.contains("_general") && !collation.ends_with("_bin")
}

fn is_unicode(column: &Column) -> bool {
    let charset = column.charset.as_deref().unwrap_or_default();
    charset.starts_with("utf") || charset == "ucs2"
}

/// After `cell` in the index, or at it.
pub(crate) fn after(column: &Column, cell: &[u8], or_equal: bool) -> String {
    let (name, bound) = (quote(&column.name), padded(column, cell));
    let mut after = format!("{name} > {bound}");
    // The bound has its spaces, which the value itself has not.
    if or_equal {
        after.push_str(&format!(" OR {name} = {}", text(column, cell)));
    }
    if let Some(turned) = turned(column, cell) {
        after.push_str(&format!(" OR ({turned})"));
    }
    format!("({after})")
}

/// Before `cell` in the index, or at it.
pub(crate) fn before(column: &Column, cell: &[u8], or_equal: bool) -> String {
    let (name, bound) = (quote(&column.name), padded(column, cell));
    // The bound has its spaces, which the value itself has not.
    let up_to = match or_equal {
        true => format!("{name} <= {bound}"),
        false => format!("{name} < {bound} AND {name} <> {}", text(column, cell)),
    };
    match turned(column, cell) {
        Some(turned) => format!("({up_to} AND NOT ({turned}))"),
        None => format!("({up_to})"),
    }
}

/// Rows that are after `cell` in the index and before it in comparisons: what is left of `cell` in front
/// of a character that may sort below a space. Whether it does the server says, of values padded alike.
fn turned(column: &Column, cell: &[u8]) -> Option<String> {
    let mut heads: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    for unit in units(column, cell) {
        let head = trimmed(column, &cell[..at]);
        if may_sort_below_space(column, unit) && !heads.contains(&head) {
            heads.push(head);
        }
        at += unit.len();
    }
    // Values of the same weights and another length.
    if is_uca(column) {
        heads.push(cell);
    }
    if heads.is_empty() {
        return None;
    }
    let (name, bound) = (quote(&column.name), padded(column, cell));
    let heads: Vec<String> = heads.into_iter().map(|head| text(column, head)).collect();
    let (length, pad) = (length(column), text(column, space(column)));
    Some(format!("{name} IN ({}) AND RPAD({name}, {length}, {pad}) > {bound}", heads.join(", ")))
}

fn may_sort_below_space(column: &Column, unit: &[u8]) -> bool {
    match code(column, unit) {
        // Letters and signs of ASCII have weights above it in every collation.
        Some(code) => code < 0x20 || code >= 0x7f && is_unicode(column),
        None => false,
    }
}

/// Anything but letters, digits and what is printed of ASCII may be.
fn has_weightless(column: &Column, cell: &[u8]) -> bool {
    let plain = |code: u32| match char::from_u32(code) {
        Some(c) if c.is_ascii() => !c.is_ascii_control(),
        Some(c) => c.is_alphanumeric(),
        None => false,
    };
    units(column, cell).any(|unit| !code(column, unit).is_some_and(plain))
}

/// As long as the column: as its index has it.
fn padded(column: &Column, cell: &[u8]) -> String {
    let missing = length(column).saturating_sub(units(column, cell).count());
    text(column, &[cell, &space(column).repeat(missing)].concat())
}

/// `char(40)`
fn length(column: &Column) -> usize {
    let inner = column.type_text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inner.and_then(|(length, _)| length.parse().ok()).unwrap_or(0)
}

fn trimmed<'c>(column: &Column, mut cell: &'c [u8]) -> &'c [u8] {
    while let Some(rest) = cell.strip_suffix(space(column)) {
        cell = rest;
    }
    cell
}

fn space(column: &Column) -> &'static [u8] {
    match column.charset.as_deref().unwrap_or_default() {
        "utf16" | "ucs2" => b"\0 ",
        "utf16le" => b" \0",
        "utf32" => b"\0\0\0 ",
        _ => b" ",
    }
}

/// The characters of a value. Of character sets whose characters have one or two bytes, byte by byte:
/// what is below 32 is never a part of another one there, and too many spaces do no harm.
fn units<'c>(column: &Column, cell: &'c [u8]) -> impl Iterator<Item = &'c [u8]> {
    let charset = column.charset.clone().unwrap_or_default();
    let mut rest = cell;
    std::iter::from_fn(move || {
        let wide = match charset.as_str() {
            "ucs2" => 2,
            "utf16" if rest.first().is_some_and(|high| high & 0xfc == 0xd8) => 4,
            "utf16le" if rest.get(1).is_some_and(|high| high & 0xfc == 0xd8) => 4,
            "utf16" | "utf16le" => 2,
            "utf32" => 4,
            name if name.starts_with("utf8") => {
                1 + rest.iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80).count()
            }
            _ => 1,
        };
        let (unit, after) = rest.split_at(wide.min(rest.len()));
        rest = after;
        (!unit.is_empty()).then_some(unit)
    })
}

/// The number of a character; of one beyond ASCII only in Unicode.
fn code(column: &Column, unit: &[u8]) -> Option<u32> {
    let wide = |bytes: &[u8]| bytes.iter().fold(0, |code, byte| code << 8 | u32::from(*byte));
    let pair = |high: u32, low: u32| {
        let is_low = low & 0xfc00 == 0xdc00;
        is_low.then_some(0x1_0000 + ((high & 0x3ff) << 10 | low & 0x3ff))
    };
    let swapped = |bytes: &[u8]| wide(&[bytes[1], bytes[0]]);
    match (column.charset.as_deref().unwrap_or_default(), unit.len()) {
        ("utf16", 4) => pair(wide(&unit[..2]), wide(&unit[2..])),
        ("utf16le", 4) => pair(swapped(&unit[..2]), swapped(&unit[2..])),
        ("utf16le", 2) => Some(swapped(unit)),
        ("utf16" | "ucs2", 2) | ("utf32", 4) => Some(wide(unit)),
        (name, _) if name.starts_with("utf8") => {
            std::str::from_utf8(unit).ok()?.chars().next().map(u32::from)
        }
        (_, 1) => Some(unit[0].into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data: DataType, type_text: &str, charset: &str, collation: &str) -> Column {
        Column {
            name: "k".to_owned(),
            data,
            type_text: type_text.to_owned(),
            charset: Some(charset.to_owned()),
            collation: Some(collation.to_owned()),
            nullable: false,
            generated: false,
        }
    }

    #[test]
    fn a_uuid_is_sought_by_what_it_shows() {
        let uuid = column(DataType::Uuid, "uuid", "", "");
        assert!(check(&uuid, &[0x80; 16]).is_ok());
        assert_eq!(
            unpageable("`s`.`t`", &[&uuid]).as_deref(),
            Some(
                "SELECT 1 FROM `s`.`t` AS a FORCE INDEX (PRIMARY) WHERE NOT EXISTS (SELECT 1 FROM \
                 `s`.`t` AS b WHERE b.`k` = CAST(a.`k` AS BINARY(16))) LIMIT 1"
            )
        );
        assert_eq!(unpageable_text("`t`", &[&uuid]), None);
    }

    #[test]
    fn only_weightless_characters_of_an_unpadded_char_are_no_bounds() {
        let bin = column(DataType::Char, "char(3)", "utf8mb4", "utf8mb4_nopad_bin");
        let varying =
            column(DataType::VarChar, "varchar(3)", "utf8mb4", "utf8mb4_unicode_nopad_ci");
        let padded = column(DataType::Char, "char(3)", "utf8mb4", "utf8mb4_unicode_ci");
        for pageable in [&bin, &varying, &padded] {
            assert!(check(pageable, b"a\t").is_ok());
            assert_eq!(unpageable("`t`", &[pageable]), None);
        }
        let uca = column(DataType::Char, "char(3)", "utf8mb4", "uca1400_nopad_ai_ci");
        assert!(check(&uca, "aé ß".as_bytes()).is_ok());
        for weightless in ["a\u{1}", "a\u{ad}", "e\u{301}"] {
            assert!(check(&uca, weightless.as_bytes()).is_err(), "{weightless:?}");
        }
        assert!(unpageable_text("`t`", &[&uca]).is_some());
        let wide = column(DataType::Char, "char(3)", "utf16", "utf16_unicode_nopad_ci");
        assert!(check(&wide, b"\0a\xd8\x35\xdc\x00").is_ok(), "a letter of four bytes");
        assert!(check(&wide, b"\0a\0\x01").is_err());
    }

    #[test]
    fn text_that_its_character_set_does_not_allow_is_no_bound() {
        let ok = |charset: &str, cell: &[u8]| {
            check(&column(DataType::VarChar, "varchar(9)", charset, "x_bin"), cell).is_ok()
        };
        assert!(ok("utf8mb4", "aé𝄞".as_bytes()) && !ok("utf8mb4", b"a\xffb"));
        assert!(!ok("utf8mb3", b"\xc3") && ok("latin1", b"\xff") && ok("ascii", b"\xff"));
        assert!(ok("utf16", b"\xd8\x34\xdd\x1e") && !ok("utf16", b"\xd8\x34\0a"));
        assert!(!ok("utf16", b"\xdd\x1e") && !ok("utf16le", b"\x34\xd8") && !ok("utf32", b"\0a"));
        assert!(ok("ucs2", b"\xd8\x34") && ok("utf16le", b"\x34\xd8\x1e\xdd"));
    }

    #[test]
    fn a_bound_has_the_spaces_of_the_index_and_names_what_it_turns_around() {
        let char = column(DataType::Char, "char(3)", "latin1", "latin1_nopad_bin");
        let of = |hex: &str| format!("_latin1 X'{hex}' COLLATE latin1_nopad_bin");
        let bound = of("612020");
        assert_eq!(after(&char, b"a", false), format!("(`k` > {bound})"));
        assert_eq!(after(&char, b"a", true), format!("(`k` > {bound} OR `k` = {})", of("61")));
        assert_eq!(before(&char, b"a", true), format!("(`k` <= {bound})"));
        let own = of("61");
        assert_eq!(before(&char, b"a", false), format!("(`k` < {bound} AND `k` <> {own})"));
        let (bound, space) = (of("612009"), of("20"));
        let turned = format!("`k` IN ({own}) AND RPAD(`k`, 3, {space}) > {bound}");
        assert_eq!(after(&char, b"a \t", false), format!("(`k` > {bound} OR ({turned}))"));
        assert_eq!(before(&char, b"a \t", true), format!("(`k` <= {bound} AND NOT ({turned}))"));
        let wide = column(DataType::Char, "char(2)", "utf16le", "utf16le_general_nopad_ci");
        assert!(
            after(&wide, b"a\0", false).contains("X'61002000'"),
            "{}",
            after(&wide, b"a\0", false)
        );
        assert!(after(&wide, b"\t\0", false).contains("IN (_utf16le X'' "));
    }
}
