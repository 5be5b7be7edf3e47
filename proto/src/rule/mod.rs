//! Shard rules: which shard a key's row lives on, in Rust and in SQL.
//!
//! A [`ShardRule`] is what the plan says; bound to the key's column it becomes a [`BoundRule`],
//! which has two forms that agree bit for bit: a function over the key in its wire form, and an
//! SQL expression over the column. Binding refuses every column for which they could not agree on
//! all values, so that neither form ever meets a value it cannot place.

mod bound;
mod charset;
mod home;

pub use bound::{BoundRule, KeyNumber, RuleError};
pub use charset::Charset;
pub use home::{Home, HomeError};

/// `shard = f(key) mod modulus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardRule {
    /// Integers; the remainder that is never negative: `-1` under 3 is 2.
    FloorMod,
    /// Integers; the remainder of the absolute value: `-1` under 3 is 1.
    AbsMod,
    /// Strings; CRC-32 of the key's bytes in a character set.
    Crc32 { charset: Charset },
}

impl ShardRule {
    /// As in the plan.
    pub fn name(&self) -> &'static str {
        match self {
            ShardRule::FloorMod => "floor_mod",
            ShardRule::AbsMod => "abs_mod",
            ShardRule::Crc32 { .. } => "crc32",
        }
    }
}
