//! How the application places its rows, in Rust and in SQL. Written down here independently of the
//! product: the writer and the oracle must not share the product's mistakes.

use crate::random::Random;

/// What places the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The remainder that is never negative: -1 mod 3 is 2.
    FloorMod { column: String },
    /// The absolute value's remainder: -1 mod 3 is 1.
    AbsMod { column: String },
    /// CRC-32 (IEEE) over the bytes of the text in utf8mb4.
    Crc32 { column: String },
    /// The same rows on every shard; this old shard feeds the new ones.
    Broadcast { feeder: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    pub table: String,
    pub rule: Rule,
}

impl TableRule {
    pub fn new(table: &str, rule: Rule) -> Self {
        Self { table: table.to_owned(), rule }
    }
}

impl Rule {
    pub fn floor_mod(column: &str) -> Self {
        Self::FloorMod { column: column.to_owned() }
    }

    pub fn abs_mod(column: &str) -> Self {
        Self::AbsMod { column: column.to_owned() }
    }

    pub fn crc32(column: &str) -> Self {
        Self::Crc32 { column: column.to_owned() }
    }

    /// The shard index as an SQL expression over the table's columns; NULL for a broadcast table.
    pub fn sql(&self, modulus: usize) -> String {
        match self {
            // The remainder first: no step of this can overflow, whatever the key.
            Self::FloorMod { column } => {
                format!("((`{column}` MOD {modulus}) + {modulus}) MOD {modulus}")
            }
            Self::AbsMod { column } => format!("ABS(`{column}` MOD {modulus})"),
            Self::Crc32 { column } => {
                format!("CRC32(CONVERT(`{column}` USING utf8mb4)) MOD {modulus}")
            }
            Self::Broadcast { .. } => "NULL".to_owned(),
        }
    }

    /// The table's part of a plan file.
    pub fn plan_toml(&self, table: &str) -> String {
        let body = match self {
            Self::FloorMod { column } => format!("key = \"{column}\"\nrule = \"floor_mod\"\n"),
            Self::AbsMod { column } => format!("key = \"{column}\"\nrule = \"abs_mod\"\n"),
            Self::Crc32 { column } => {
                format!("key = \"{column}\"\nrule = \"crc32\"\ncharset = \"utf8mb4\"\n")
            }
            Self::Broadcast { feeder } => format!("broadcast = {feeder}\n"),
        };
        format!("[[table]]\nname = \"{table}\"\n{body}\n")
    }
}

pub fn shard_of_number(key: i64, modulus: usize) -> usize {
    key.rem_euclid(modulus as i64) as usize
}

pub fn shard_of_text(key: &str, modulus: usize) -> usize {
    crc32fast::hash(key.as_bytes()) as usize % modulus
}

/// A number near `near` that lies on `shard`.
pub fn number_on(shard: usize, modulus: usize, near: i64) -> i64 {
    let step = shard as i64 - shard_of_number(near, modulus) as i64;
    near.checked_add(step).unwrap_or_else(|| near + (step - step.signum() * modulus as i64))
}

/// A text that begins with `stem` and lies on `shard`.
pub fn text_on(shard: usize, modulus: usize, stem: &str, random: &mut Random) -> String {
    loop {
        let text = format!("{stem}.{:x}", random.below(1 << 24));
        if shard_of_text(&text, modulus) == shard {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_key_has_a_shard_and_neighbours_stay_on_it() {
        assert_eq!(shard_of_number(-1, 3), 2);
        for near in [-7, -1, 0, 5, i64::MAX, i64::MIN + 4] {
            for shard in 0..5 {
                assert_eq!(shard_of_number(number_on(shard, 5, near), 5), shard);
            }
        }
    }

    #[test]
    fn a_text_can_be_found_for_each_shard() {
        let mut random = Random::new(1);
        for shard in 0..7 {
            assert_eq!(shard_of_text(&text_on(shard, 7, "Jürgen", &mut random), 7), shard);
        }
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
    }
}
