//! Numbers that must never be confused: shards of either side, and the modulus.

use std::fmt;

/// Old shard *i*, in `0..N` under the old modulus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OldShard(pub u16);

/// New shard *j*, in `0..M` under the new modulus. Also the number of its change-log partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewShard(pub u16);

/// How many shards a key is spread over. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Modulus(u16);

impl Modulus {
    /// `None` for zero: nothing can be placed on no shard.
    pub const fn new(shards: u16) -> Option<Modulus> {
        if shards == 0 { None } else { Some(Modulus(shards)) }
    }

    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for OldShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "old shard {}", self.0)
    }
}

impl fmt::Display for NewShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "new shard {}", self.0)
    }
}

impl fmt::Display for Modulus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
