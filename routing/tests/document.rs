//! A document places every key where the daemons place it, and is read whole or refused.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use modshift_proto::plan::{HostPort, Plan};
use modshift_proto::row::{cell_int, zigzag};
use modshift_proto::rule::{Charset, ShardRule};
use modshift_proto::{Column, DataType, Modulus};
use modshift_routing::{Document, DocumentError, Key, RouteError, Side};
use proptest::prelude::*;

fn plan(old: u16, new: u16) -> Plan {
    let mut text = format!(
        "name = \"shop\"\nmodulus = {{ old = {old}, new = {new} }}\nlog = {{ kind = \"direct\" }}\n\
         [defaults]\nuser = \"u\"\npassword = \"p\"\n"
    );
    for (side, shards) in [("old", old), ("new", new)] {
        for shard in 0..shards {
            text.push_str(&format!(
                "[[{side}]]\nhost = \"db-{side}-{shard}\"\nschema = \"shop_{shard}\"\n"
            ));
        }
    }
    for (name, key, rule) in
        [("t_floor", "a", "rule = \"floor_mod\""), ("t_abs", "b", "rule = \"abs_mod\"")]
    {
        text.push_str(&format!("[[table]]\nname = \"{name}\"\nkey = \"{key}\"\n{rule}\n"));
    }
    for charset in Charset::ALL.map(Charset::name) {
        text.push_str(&format!(
            "[[table]]\nname = \"t_{charset}\"\nkey = \"k\"\nrule = \"crc32\"\n\
             charset = \"{charset}\"\n"
        ));
    }
    text.push_str("[[table]]\nname = \"t_all\"\nbroadcast = 0\n");
    Plan::parse(&text, &|_| None).unwrap_or_else(|errors| panic!("{errors}"))
}

fn column(data: DataType, charset: Option<Charset>) -> Column {
    Column {
        name: "k".to_owned(),
        data,
        type_text: String::new(),
        charset: charset.map(|charset| charset.name().to_owned()),
        collation: None,
        nullable: false,
        generated: false,
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut cell = Vec::new();
    while value >= 0x80 {
        cell.push(value as u8 | 0x80);
        value >>= 7;
    }
    cell.push(value as u8);
    cell
}

/// Where the daemons place a cell of a column.
fn daemons(rule: &ShardRule, column: &Column, cell: &[u8], modulus: u16) -> u16 {
    rule.bind(column).unwrap().place(cell, Modulus::new(modulus).unwrap()).unwrap()
}

fn index<'a>(document: &Document, table: &str, key: impl Into<Key<'a>>) -> u16 {
    document.route(table, key).unwrap().index
}

proptest! {
    #[test]
    fn integers_lie_where_the_daemons_place_them(key: i64, bytes in 1..=8_u8, modulus in 1..40_u16) {
        let document = Document::of_plan(&plan(modulus, modulus + 1), Side::New, 1);
        let modulus = modulus + 1;
        let shift = 64 - 8 * u32::from(bytes);
        let (signed, unsigned) = (key << shift >> shift, key as u64 >> shift);
        prop_assert_eq!(cell_int(&varint(zigzag(signed))), Ok(signed));
        for (table, rule) in [("t_floor", ShardRule::FloorMod), ("t_abs", ShardRule::AbsMod)] {
            let int = column(DataType::Int { bytes, unsigned: false }, None);
            let expected = daemons(&rule, &int, &varint(zigzag(signed)), modulus);
            prop_assert_eq!(index(&document, table, signed), expected);
            let uint = column(DataType::Int { bytes, unsigned: true }, None);
            let expected = daemons(&rule, &uint, &varint(unsigned), modulus);
            prop_assert_eq!(index(&document, table, unsigned), expected);
        }
        // And where arithmetic does.
        let floor = i128::from(signed).rem_euclid(i128::from(modulus));
        prop_assert_eq!(i128::from(index(&document, "t_floor", signed)), floor);
        let abs = i128::from(signed).abs() % i128::from(modulus);
        prop_assert_eq!(i128::from(index(&document, "t_abs", signed)), abs);
    }

    #[test]
    fn text_lies_where_the_daemons_place_it(
        key in "[ -~¡-ÿ€Ÿœ\u{81}ольга李🙂]{0,12}",
        modulus in 2..40_u16,
    ) {
        let document = Document::of_plan(&plan(modulus, modulus + 1), Side::Old, 1);
        let mut placed = 0;
        for hashed in Charset::ALL {
            let rule = ShardRule::Crc32 { charset: hashed };
            let table = format!("t_{}", hashed.name());
            for stored in Charset::ALL {
                let varchar = column(DataType::VarChar, Some(stored));
                let Some(cell) = stored.encode(&key) else { continue };
                if rule.bind(&varchar).is_err() {
                    continue;
                }
                let expected = daemons(&rule, &varchar, &cell, modulus);
                let found = match hashed {
                    // No text stands for bytes as stored.
                    Charset::Binary => index(&document, &table, &cell[..]),
                    _ => index(&document, &table, &key),
                };
                prop_assert_eq!(found, expected, "{} in {}", hashed.name(), stored.name());
                placed += 1;
            }
        }
        prop_assert!(placed >= 2, "utf8mb4 takes any text");
    }

    #[test]
    fn a_document_reads_back_as_it_was_written(old in 1..9_u16, version: u64) {
        for side in [Side::Old, Side::New] {
            let document = Document::of_plan(&plan(old, old + 1), side, version);
            let read = Document::from_json(document.to_json().as_bytes()).unwrap();
            prop_assert_eq!(read, document);
        }
    }
}

#[test]
fn a_document_is_json_that_others_can_read() {
    let document = Document::of_plan(&plan(2, 3), Side::New, 7);
    let json: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["plan"], "shop");
    assert_eq!(json["version"], 7);
    assert_eq!(json["side"], "new");
    assert_eq!(json["modulus"], 3);
    let shard = serde_json::json!(
        { "index": 2, "host": "db-new-2", "port": 3306, "schema": "shop_2" }
    );
    assert_eq!(json["shards"][2], shard);
    let shard = serde_json::json!({
        "index": 0, "host": "shop-0.vip", "port": 6033, "schema": "shop_0",
        "server": { "host": "db-new-0", "port": 3306 },
    });
    let mut plan = plan(2, 3);
    let application = HostPort { host: "shop-0.vip".to_owned(), port: 6033 };
    plan.new[0].application = Some(application);
    let behind = Document::of_plan(&plan, Side::New, 7);
    let found: serde_json::Value = serde_json::from_str(&behind.to_json()).unwrap();
    assert_eq!(found["shards"][0], shard);
    assert_eq!(Document::from_json(behind.to_json().as_bytes()).unwrap(), behind);
    let floor = serde_json::json!({ "rule": "floor_mod", "key": "a" });
    assert_eq!(json["tables"]["t_floor"], floor);
    let crc32 = serde_json::json!({ "rule": "crc32", "key": "k", "charset": "latin1" });
    assert_eq!(json["tables"]["t_latin1"], crc32);
    assert_eq!(json["tables"]["t_all"], serde_json::json!({ "rule": "broadcast" }));
    assert_eq!(json.get("default"), None, "there is no one rule of all tables");
}

#[test]
fn a_table_that_is_not_listed_follows_the_rule_that_all_share() {
    let mut document = Document::of_plan(&plan(2, 3), Side::New, 7);
    let unknown = RouteError::UnknownTable { table: "t_new".to_owned(), version: 7 };
    assert_eq!(document.route("t_new", 5), Err(unknown));
    let mut plan = plan(2, 3);
    plan.tables.truncate(1);
    document = Document::of_plan(&plan, Side::New, 7);
    assert_eq!(index(&document, "t_new", -1), 2);
    assert_eq!(document.route("t_new", -1).unwrap().host, "db-new-2");
}

#[test]
fn a_key_that_has_no_shard_is_refused() {
    let document = Document::of_plan(&plan(2, 3), Side::New, 7);
    let check = |table: &str, key: Key<'_>, expected: &str| {
        assert_eq!(document.route(table, key).unwrap_err().to_string(), expected);
    };
    check(
        "t_floor",
        Key::Text("5"),
        "the key of t_floor is text, rule floor_mod places an integer",
    );
    check(
        "t_ascii",
        Key::Int(5),
        "the key of t_ascii is an integer, rule crc32 places text or bytes",
    );
    check("t_ascii", Key::Text("é"), "the key of t_ascii cannot be written in ascii");
    check("t_binary", Key::Text("e"), "the key of t_binary cannot be written in binary");
    check("t_utf8mb3", Key::Text("🙂"), "the key of t_utf8mb3 cannot be written in utf8mb3");
    let everywhere = "table t_all is on every shard: write to all of them, read from any";
    check("t_all", Key::Int(5), everywhere);
}

#[test]
fn unknown_fields_are_ignored_and_unknown_formats_are_not() {
    let document = Document::of_plan(&plan(2, 3), Side::New, 7);
    let mut json: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
    json["colour"] = "blue".into();
    json["shards"][0]["weight"] = 3.into();
    json["tables"]["t_floor"]["since"] = 2020.into();
    assert_eq!(Document::from_json(json.to_string().as_bytes()).unwrap(), document);

    let check = |change: &dyn Fn(&mut serde_json::Value), expected: &str| {
        let mut json = json.clone();
        change(&mut json);
        let error = Document::from_json(json.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&|json| json["format"] = 2.into(), "routing document of format 2, known is 1");
    check(&|json| json["modulus"] = 4.into(), "modulus 4 with 3 shards");
    check(&|json| json["shards"][1]["index"] = 2.into(), "shard 2 in the place of shard 1");
    check(&|json| json["tables"]["t_floor"]["rule"] = "range".into(), "unknown variant `range`");
    check(&|json| json["tables"]["t_latin1"]["charset"] = "koi8r".into(), "character set koi8r");
    check(&|json| json["version"] = (-1).into(), "not a routing document");
    let text = Document::from_json(b"version: 7");
    assert!(matches!(text, Err(DocumentError::Json(_))), "{text:?}");
    // What a newer format means by its fields is not looked at.
    let newer = Document::from_json(br#"{"format": 9, "version": "seven"}"#);
    assert!(matches!(newer, Err(DocumentError::Format { found: 9 })), "{newer:?}");
}
