//! What was found, for a person and for a program. Keys and column names, never values.

use std::fmt;

use modshift_proto::plan::Direction;
use serde::Serialize;

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// On the new shard its columns are others.
    Differs,
    /// On the old shard, and not on the new one.
    Missing,
    /// On the new shard, and on no old one.
    Extra,
    /// On a new shard other than its shard key says.
    WrongShard,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Differs, Kind::Missing, Kind::Extra, Kind::WrongShard];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Differs => "differs",
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::WrongShard => "wrong_shard",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One row that differs for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    pub table: String,
    pub old: u16,
    pub new: u16,
    pub kind: Kind,
    /// In words.
    pub key: String,
    /// Those that differ, of [`Kind::Differs`].
    pub columns: Vec<String>,
    /// Wire form.
    #[serde(skip)]
    pub pk: Vec<u8>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { table, old, new, key, .. } = self;
        write!(f, "table {table}, {key}: ")?;
        match self.kind {
            Kind::Differs => {
                let columns = self.columns.join(", ");
                write!(f, "new shard {new} differs from old shard {old} in {columns}")
            }
            Kind::Missing => write!(f, "on old shard {old}, missing on new shard {new}"),
            Kind::Extra => {
                write!(f, "on new shard {new}, and not on old shard {old}, where it belongs")
            }
            Kind::WrongShard => {
                write!(f, "on new shard {new}, where its shard key does not place it")
            }
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TableReport {
    pub table: String,
    pub rows: u64,
    pub chunks: u64,
    /// Where an interrupted round was taken up again.
    pub resumed: bool,
    /// Keys that could not be compared, or whose stream did not get past them in time.
    pub unsettled: u64,
    /// Keys that kept changing: they are left for the fence, where they stand still.
    pub moving: u64,
    /// Rows that wait parked on a new shard, as they should be.
    pub parked: u64,
    pub mismatches: u64,
    /// Rows of old shards that belong on other ones: no new shard has them.
    pub strays: u64,
    /// It was written down as the table's proof. Not so where something differs, only a part was
    /// compared, or a resync was asked for meanwhile.
    pub proof: bool,
}

/// A stream that does not go on by itself: what differs behind it is neither lag nor damage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Halt {
    /// `reader of old shard 1`, in the operator's words.
    pub stream: String,
    /// What it said when it stopped, in the operator's words.
    pub why: String,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} has halted: {}", self.stream, self.why)
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// On the way back the old shards are compared with the new ones.
    pub direction: Direction,
    /// Nothing differs, and nothing is open.
    pub clean: bool,
    pub tables: Vec<TableReport>,
    pub mismatches: Vec<Mismatch>,
    /// Rows that differed, and were copied again.
    pub repaired: u64,
    /// Definitions that are not those of old shard 0.
    pub schema_differences: Vec<String>,
    /// Not compared, or differing among the old shards.
    pub notes: Vec<String>,
    /// Because of which keys were left unsettled.
    pub halts: Vec<Halt>,
    /// Shards of which nothing could be said, each with why: no word above is about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl Report {
    pub fn new(direction: Direction, schema_differences: Vec<String>) -> Report {
        Report { direction, schema_differences, ..Report::default() }
    }

    /// With the operator's numbers and words: the plan of the way back has the sides swapped.
    pub fn turned(&self) -> Report {
        let mut report = self.clone();
        if self.direction == Direction::Back {
            for mismatch in &mut report.mismatches {
                std::mem::swap(&mut mismatch.old, &mut mismatch.new);
            }
            for text in report.schema_differences.iter_mut().chain(&mut report.notes) {
                *text = Direction::Back.words(text);
            }
        }
        report
    }

    pub fn unsettled(&self) -> u64 {
        self.tables.iter().map(|table| table.unsettled).sum()
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    pub fn has_damage(&self) -> bool {
        !self.mismatches.is_empty() || !self.schema_differences.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_in_words() {
        let mismatch = |kind| Mismatch {
            table: "t".to_owned(),
            old: 1,
            new: 2,
            kind,
            key: "id=7".to_owned(),
            columns: vec!["a".to_owned(), "b".to_owned()],
            pk: Vec::new(),
        };
        let check = |kind, expected: &str| {
            assert_eq!(mismatch(kind).to_string(), expected);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        };
        check(Kind::Differs, "table t, id=7: new shard 2 differs from old shard 1 in a, b");
        check(Kind::Missing, "table t, id=7: on old shard 1, missing on new shard 2");
        check(
            Kind::Extra,
            "table t, id=7: on new shard 2, and not on old shard 1, where it belongs",
        );
        check(
            Kind::WrongShard,
            "table t, id=7: on new shard 2, where its shard key does not place it",
        );
        assert_eq!(Kind::from_name("other"), None);
    }
}
