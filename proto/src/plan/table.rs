//! `[[table]]`: what is resharded, and how its rows are placed.

use std::collections::HashMap;

use super::endpoint::is_identifier;
use super::section::Section;
use super::{Placement, Table};
use crate::rule::{Charset, ShardRule};
use crate::shard::{Modulus, OldShard};

#[derive(Clone, Copy)]
enum RuleName {
    FloorMod,
    AbsMod,
    Crc32,
}

const RULES: [(&str, RuleName); 3] =
    [("floor_mod", RuleName::FloorMod), ("abs_mod", RuleName::AbsMod), ("crc32", RuleName::Crc32)];

pub(super) fn read(root: &Section<'_>, old_modulus: Option<Modulus>) -> Vec<Table> {
    let mut first: HashMap<String, String> = HashMap::new();
    let sections = root.sections("table");
    if sections.is_empty() && !root.has("table") {
        root.missing("table", "at least one [[table]]");
    }
    let mut tables = Vec::with_capacity(sections.len());
    for section in sections {
        let name = section
            .required("name", "a table's name")
            .and_then(|item| item.text_that("1 to 64 characters", is_identifier));
        if let Some(name) = &name {
            if let Some(first) = first.get(name) {
                section.fault_at("name", format!("table {name} is that of {first} too"));
            }
            first.entry(name.clone()).or_insert_with(|| section.path.clone());
            if name.to_ascii_lowercase().starts_with("modshift_") {
                section.fault_at("name", "expected no name that begins with modshift_: ours do");
            }
        }
        let placement = if section.has("broadcast") {
            read_broadcast(&section, old_modulus)
        } else {
            read_sharded(&section)
        };
        section.finish();
        if let (Some(name), Some(placement)) = (name, placement) {
            tables.push(Table { name, placement });
        }
    }
    tables
}

fn read_broadcast(section: &Section<'_>, old_modulus: Option<Modulus>) -> Option<Placement> {
    for key in ["key", "rule", "charset"] {
        if section.get(key).is_some() {
            section.fault_at(key, "a broadcast table has none: its rows are on every shard");
        }
    }
    let item = section.get("broadcast")?;
    let shards = old_modulus.map_or(u16::MAX, Modulus::get);
    let number = item.number(0..=u64::from(shards) - 1)?;
    Some(Placement::Broadcast { source: OldShard(u16::try_from(number).ok()?) })
}

fn read_sharded(section: &Section<'_>) -> Option<Placement> {
    section.get("broadcast"); // known, and absent
    let key = match section.get("key") {
        Some(item) => item.text_that("a column's name, 1 to 64 characters", is_identifier),
        None => {
            section.missing("key", "the column that places a row, or broadcast = an old shard");
            None
        }
    };
    let rule = section
        .required("rule", "floor_mod, abs_mod or crc32: what the application uses")
        .and_then(|item| item.word(&RULES));
    let charset = section.get("charset");
    let rule = match rule {
        Some(RuleName::Crc32) => {
            let words = Charset::ALL.map(|charset| (charset.name(), charset));
            if charset.is_none() {
                section.missing("charset", "the character set whose bytes crc32 hashes");
            }
            ShardRule::Crc32 { charset: charset?.word(&words)? }
        }
        Some(rule) => {
            if let Some(charset) = &charset {
                charset.fault("only rule crc32 has a character set");
            }
            match rule {
                RuleName::AbsMod => ShardRule::AbsMod,
                _ => ShardRule::FloorMod,
            }
        }
        None => return None,
    };
    Some(Placement::Sharded { key: key?, rule })
}
