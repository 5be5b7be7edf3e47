//! Shard rules against a naive model, and what they refuse. The SQL form is compared with the Rust
//! form on a real server elsewhere; here its text is held still.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

use modshift_proto::row::zigzag;
use modshift_proto::rule::{Charset, RuleError, ShardRule};
use modshift_proto::{Column, DataType, Modulus};
use proptest::prelude::*;
use prost::encoding::encode_varint;

fn column(data: DataType, type_text: &str, charset: Option<&str>) -> Column {
    Column {
        name: "key".to_owned(),
        data,
        type_text: type_text.to_owned(),
        charset: charset.map(str::to_owned),
        collation: None,
        nullable: false,
        generated: false,
    }
}

fn int(bytes: u8, unsigned: bool) -> Column {
    let type_text = if unsigned { "bigint(20) unsigned" } else { "bigint(20)" };
    column(DataType::Int { bytes, unsigned }, type_text, None)
}

fn varint(value: u64) -> Vec<u8> {
    let mut cell = Vec::new();
    encode_varint(value, &mut cell);
    cell
}

fn modulus(shards: u16) -> Modulus {
    Modulus::new(shards).unwrap()
}

/// The shard of a cell, found twice: binding again must change nothing.
fn place(rule: &ShardRule, column: &Column, cell: &[u8], shards: u16) -> u16 {
    let first = rule.bind(column).unwrap().place(cell, modulus(shards)).unwrap();
    let again = rule.bind(column).unwrap().clone().place(cell, modulus(shards)).unwrap();
    assert_eq!(first, again, "a place is stable");
    assert!(first < shards, "a place is a shard");
    first
}

const CRC32: ShardRule = ShardRule::Crc32 { charset: Charset::Utf8mb4 };

/// Anything, the ends, and what lies beside them and beside zero.
fn signed() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        (i64::MIN..=i64::MIN + 70_000),
        (i64::MAX - 70_000..=i64::MAX),
        -70_000..=70_000i64,
    ]
}

fn shards() -> impl Strategy<Value = u16> {
    prop_oneof![1..=16u16, any::<u16>().prop_map(|shards| shards.max(1)), Just(u16::MAX)]
}

#[test]
fn integers_are_placed_as_the_model_says() {
    let mut runner = proptest::test_runner::TestRunner::new(support::cases("integers", 20_000));
    let (narrow, wide, unsigned) = (int(1, false), int(8, false), int(8, true));
    let test = |(value, bits, shards): (i64, u64, u16)| {
        let (cell, n) = (varint(zigzag(value)), i128::from(shards));
        let floor = ((i128::from(value) % n) + n) % n;
        let abs = i128::from(value).abs() % n;
        // The width plays no part: only the sign of the type does.
        for column in [&narrow, &wide] {
            prop_assert_eq!(i128::from(place(&ShardRule::FloorMod, column, &cell, shards)), floor);
            prop_assert_eq!(i128::from(place(&ShardRule::AbsMod, column, &cell, shards)), abs);
        }
        for rule in [ShardRule::FloorMod, ShardRule::AbsMod] {
            let found = place(&rule, &unsigned, &varint(bits), shards);
            prop_assert_eq!(i128::from(found), i128::from(bits) % n);
        }
        Ok(())
    };
    let bits = prop_oneof![any::<u64>(), u64::MAX - 70_000..=u64::MAX];
    runner.run(&(signed(), bits, shards()), test).unwrap();
}

/// The polynomial's definition, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |hash, &byte| {
        (0..8).fold(hash ^ u32::from(byte), |hash, _| {
            (hash >> 1) ^ if hash & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn strings_are_placed_as_the_model_says() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    let mut runner = proptest::test_runner::TestRunner::new(support::cases("strings", 10_000));
    let varchar = |charset| column(DataType::VarChar, "varchar(99)", Some(charset));
    let test = |(text, bytes, shards): (String, Vec<u8>, u16)| {
        let expected = |bytes: &[u8]| (crc32(bytes) % u32::from(shards)) as u16;
        let utf8 = text.as_bytes();
        prop_assert_eq!(place(&CRC32, &varchar("utf8mb4"), utf8, shards), expected(utf8));
        prop_assert_eq!(place(&CRC32, &varchar("ascii"), utf8, shards), expected(utf8));
        let char_column = column(DataType::Char, "char(99)", Some("utf8mb3"));
        let trimmed = text.trim_end_matches(' ').as_bytes();
        prop_assert_eq!(place(&CRC32, &char_column, utf8, shards), expected(trimmed));
        let binary = ShardRule::Crc32 { charset: Charset::Binary };
        for column in [column(DataType::VarBinary, "varbinary(99)", None), varchar("latin1")] {
            prop_assert_eq!(place(&binary, &column, &bytes, shards), expected(&bytes));
        }
        // Code points of latin1 that are the same in cp1252: all but 80 to 9f.
        let same: Vec<u8> = bytes.iter().copied().filter(|b| !(0x80..0xa0).contains(b)).collect();
        let same_utf8: String = same.iter().copied().map(char::from).collect();
        let found = place(&CRC32, &varchar("latin1"), &same, shards);
        prop_assert_eq!(found, expected(same_utf8.as_bytes()));
        Ok(())
    };
    let text = prop_oneof!["\\PC{0,40}", "[ a\u{e9}\u{1f600}\t]{0,12} {0,4}"];
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    runner.run(&(text, bytes, shards()), test).unwrap();
}

#[test]
fn latin1_is_what_the_server_calls_so() {
    // From MariaDB: SELECT HEX(CONVERT(_latin1 x'80...9f' USING utf8mb4)).
    let table = "E282ACC281E2809AC692E2809EE280A6E280A0E280A1CB86E280B0C5A0E280B9C592C28DC5BDC28F\
                 C290E28098E28099E2809CE2809DE280A2E28093E28094CB9CE284A2C5A1E280BAC593C29DC5BEC5B8";
    let utf8: Vec<u8> = (0..table.len() / 2)
        .map(|at| u8::from_str_radix(&table[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let stored: Vec<u8> = (0x80..0xa0).collect();
    let column = column(DataType::VarChar, "varchar(99)", Some("latin1"));
    assert_eq!(place(&CRC32, &column, &stored, 65_535), (crc32(&utf8) % 65_535) as u16);
}

#[test]
fn a_key_that_may_be_null_is_placed_while_it_is_not() {
    let nullable = Column { nullable: true, ..int(8, false) };
    let rule = ShardRule::FloorMod.bind(&nullable).unwrap();
    assert_eq!(rule.sql_or(modulus(2), 9), "IFNULL((((`key` MOD 2) + 2) MOD 2), 9)");
    let rule = ShardRule::FloorMod.bind(&int(8, false)).unwrap();
    assert_eq!(rule.sql_or(modulus(2), 9), rule.sql(modulus(2)));
}

#[test]
fn keys_that_have_no_certain_place_are_refused() {
    let check = |rule: &ShardRule, column: &Column, expected: &str| {
        let error = rule.bind(column).map(|_| "bound").expect_err(expected);
        assert_eq!(error.to_string(), expected);
        assert!(!error.hint().is_empty());
    };
    let text = |charset| column(DataType::VarChar, "varchar(9)", Some(charset));
    let generated = Column { generated: true, ..int(8, false) };
    check(
        &ShardRule::FloorMod,
        &generated,
        "shard key key is a generated column, which is never sent",
    );
    check(
        &ShardRule::AbsMod,
        &text("utf8mb4"),
        "shard key key is varchar(9), rule abs_mod needs an integer",
    );
    check(
        &CRC32,
        &int(8, false),
        "shard key key is bigint(20), rule crc32 needs CHAR, VARCHAR, TEXT or their binary kin",
    );
    for (data, type_text) in [(DataType::Uuid, "uuid"), (DataType::Inet6, "inet6")] {
        let column = column(data, type_text, None);
        assert!(matches!(CRC32.bind(&column), Err(RuleError::Type { .. })));
        assert!(matches!(ShardRule::FloorMod.bind(&column), Err(RuleError::Type { .. })));
    }
    check(
        &CRC32,
        &text("sjis"),
        "shard key key has character set sjis, which rule crc32 does not know",
    );
    let latin1 = ShardRule::Crc32 { charset: Charset::Latin1 };
    check(
        &latin1,
        &text("utf8mb4"),
        "shard key key has character set utf8mb4, not all of which can be written in latin1",
    );
}

/// Which charsets of a column go with which of the rule.
#[test]
fn only_lossless_conversions_are_accepted() {
    let binary = column(DataType::VarBinary, "varbinary(9)", None);
    let text = |charset| column(DataType::VarChar, "varchar(9)", Some(charset));
    let columns = [
        ("binary", binary),
        ("ascii", text("ascii")),
        ("latin1", text("latin1")),
        ("utf8mb3", text("utf8")),
        ("utf8mb4", text("utf8mb4")),
        ("gbk", text("gbk")),
    ];
    let accepted: Vec<String> = columns
        .iter()
        .map(|(name, column)| {
            let to = Charset::ALL
                .into_iter()
                .filter(|&charset| ShardRule::Crc32 { charset }.bind(column).is_ok())
                .map(Charset::name);
            format!("{name}: {}", to.collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert_eq!(
        accepted,
        [
            "binary: binary",
            "ascii: binary ascii latin1 utf8mb3 utf8mb4",
            "latin1: binary latin1 utf8mb3 utf8mb4",
            "utf8mb3: binary utf8mb3 utf8mb4",
            "utf8mb4: binary utf8mb4",
            "gbk: binary",
        ]
    );
}

#[test]
fn the_sql_form_takes_the_remainder_first_and_quotes_the_column() {
    let check = |rule: ShardRule, column: Column, expected: &str| {
        let column = Column { name: "a`b".to_owned(), ..column };
        assert_eq!(rule.bind(&column).unwrap().sql(modulus(4)), expected);
    };
    let text = |data, charset| column(data, "text", Some(charset));
    check(ShardRule::FloorMod, int(8, false), "(((`a``b` MOD 4) + 4) MOD 4)");
    check(ShardRule::AbsMod, int(8, false), "ABS(`a``b` MOD 4)");
    check(ShardRule::FloorMod, int(8, true), "(`a``b` MOD 4)");
    check(ShardRule::AbsMod, int(8, true), "(`a``b` MOD 4)");
    check(CRC32, text(DataType::VarChar, "utf8mb4"), "(CRC32(`a``b`) MOD 4)");
    check(CRC32, text(DataType::Text, "latin1"), "(CRC32(CONVERT(`a``b` USING utf8mb4)) MOD 4)");
    check(CRC32, text(DataType::Char, "utf8mb4"), "(COALESCE(CRC32(RTRIM(`a``b`)), 0) MOD 4)");
}

#[test]
fn away_from_home_is_asked_in_few_steps() {
    let check = |rule: ShardRule, column: Column, shards: u16, expected: &str| {
        assert_eq!(rule.bind(&column).unwrap().sql_away(modulus(shards), 2), expected);
    };
    let text = || column(DataType::VarChar, "text", Some("utf8mb4"));
    check(ShardRule::FloorMod, int(8, false), 4, "(BIT_OR(`key` ^ 2) & 3)");
    check(ShardRule::AbsMod, int(8, true), 4, "(BIT_OR(`key` ^ 2) & 3)");
    // 2^63 MOD 3 is 2, and 2 + 2 is 1 again.
    let signed = "BIT_OR(((`key` ^ 9223372036854775808) MOD 3) ^ 1)";
    check(ShardRule::FloorMod, int(8, false), 3, signed);
    check(ShardRule::FloorMod, int(8, true), 3, "BIT_OR((`key` MOD 3) ^ 2)");
    check(ShardRule::AbsMod, int(8, false), 4, "BIT_OR(ABS(`key` MOD 4) ^ 2)");
    check(CRC32, text(), 4, "BIT_OR((CRC32(`key`) MOD 4) ^ 2)");
}

#[test]
fn a_cell_of_another_form_is_an_error() {
    let bound = ShardRule::FloorMod.bind(&int(8, false)).unwrap();
    for cell in [&b""[..], b"\x80", b"\x01\x01", &[0xff; 11]] {
        assert!(bound.place(cell, modulus(3)).is_err(), "{cell:?}");
    }
}
