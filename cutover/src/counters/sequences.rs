//! Sequences: whatever any from-shard would give out next, no to-shard gives out again, and no two
//! to-shards the same.
//!
//! Sequences of one side that count in steps, each from a residue of its own, keep it: a to-shard goes
//! on with the first of its own values at or beyond what the from-shards have reached. So the other
//! side's residues do not matter, and those of a side that comes back are what they were.
//!
//! What is judged here is public: `modshift check` and the gate find with it what a run would refuse.

use std::collections::BTreeMap;

use modshift_mariadb::value::quote as identifier;

use crate::error::CutoverError;
use crate::register::quote;
use crate::shard::Shard;

/// Where a sequence stands. As numbers of 128 bits: a sequence may be of BIGINT UNSIGNED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Nothing at or beyond it has been given out in this round.
    pub next: i128,
    pub minimum: i128,
    pub maximum: i128,
    pub start: i128,
    /// 0: as the server's AUTO_INCREMENT does.
    pub increment: i128,
    pub cycles: bool,
    /// How often it has begun anew.
    pub round: u64,
}

pub(super) type Sequences = BTreeMap<String, Sequence>;

impl Sequence {
    pub fn descends(&self) -> bool {
        self.increment < 0
    }

    fn used_up(&self) -> bool {
        self.next > self.maximum || self.next < self.minimum
    }

    /// It counts in steps, and what it gives out next is none of its own values: it ran out and its
    /// bounds were widened, say. Which values are its own is then anybody's guess.
    pub fn strayed(&self) -> bool {
        let step = self.increment.abs().max(1);
        let cycled = if self.descends() { self.maximum } else { self.minimum };
        let own = |from: i128| (self.next - from).rem_euclid(step) == 0;
        let known = own(self.start) || (self.cycles && own(cycled));
        !(known || self.used_up())
    }

    /// Which of the two has come further.
    pub fn furthest(self, other: Sequence) -> Sequence {
        let ahead = |a: &Sequence| (a.round, if self.descends() { -a.next } else { a.next });
        if ahead(&other) > ahead(&self) { other } else { self }
    }

    /// The first of its own values, counted from its start, that is not short of this one; `None`
    /// where its bounds leave none.
    pub fn own_from(&self, value: i128) -> Option<i128> {
        let step = self.increment.abs().max(1);
        let first = match self.descends() {
            true => value - (value - self.start).rem_euclid(step),
            false => value + (self.start - value).rem_euclid(step),
        };
        (self.minimum..=self.maximum).contains(&first).then_some(first)
    }
}

/// What a to-shard's sequence gives out next: round and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is there already, or beyond.
    AsItIs,
    Set(u64, i128),
    /// Its bounds leave no value.
    UsedUp(i128),
    /// It has left its own values: see [`Sequence::strayed`].
    Strayed,
}

/// `most`: the furthest of the from-shards.
pub fn carried(own: &Sequence, most: &Sequence) -> Then {
    if own.strayed() {
        return Then::Strayed;
    }
    let step = own.increment.abs().max(1);
    // A value beyond the bounds is none of its own.
    let one = if own.used_up() { own.start } else { own.next };
    let first = match own.descends() {
        true => most.next - (most.next - one).rem_euclid(step),
        false => most.next + (one - most.next).rem_euclid(step),
    };
    if own.round > most.round {
        return Then::AsItIs;
    }
    let beyond = if own.descends() { own.next <= first } else { own.next >= first };
    if own.round == most.round && beyond {
        return Then::AsItIs;
    }
    if first >= own.minimum && first <= own.maximum {
        return Then::Set(most.round, first);
    }
    match own.cycles {
        // As the server does.
        true => Then::Set(most.round + 1, if own.descends() { own.maximum } else { own.minimum }),
        false => Then::UsedUp(first),
    }
}

const READING: &str = "reading sequences";

pub(super) async fn read(shard: &mut Shard) -> Result<Sequences, CutoverError> {
    let schema = quote(&shard.primary.endpoint.schema);
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = {schema} \
         AND TABLE_TYPE = 'SEQUENCE'"
    );
    let names: Vec<String> = shard.primary.ask(READING, &sql).await?;
    let mut sequences = Sequences::new();
    for name in names {
        let row: Vec<String> = shard.primary.ask(READING, &select(&name)).await?;
        let sequence = row.first().and_then(|row| parse(row));
        let sequence = sequence.ok_or_else(|| CutoverError::Unfit {
            server: shard.name().to_owned(),
            what: format!("sequence {name} is in an unknown form: {row:?}"),
        })?;
        sequences.insert(name, sequence);
    }
    Ok(sequences)
}

/// In one text: a value above those of BIGINT would be no number to the driver.
pub fn select(name: &str) -> String {
    format!(
        "SELECT CONCAT_WS(' ', next_not_cached_value, minimum_value, maximum_value, start_value, \
         increment, cycle_option, cycle_count) FROM {}",
        identifier(name)
    )
}

/// What [`select`] has of it.
pub fn parse(row: &str) -> Option<Sequence> {
    let numbers: Vec<i128> = row.split(' ').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let &[next, minimum, maximum, start, increment, cycles, round] = numbers.as_slice() else {
        return None;
    };
    let (cycles, round) = (cycles != 0, u64::try_from(round).ok()?);
    Some(Sequence { next, minimum, maximum, start, increment, cycles, round })
}

/// What is missing on this to-shard, in words.
pub(super) async fn carry(
    shard: &mut Shard,
    from: &Sequences,
) -> Result<Vec<String>, CutoverError> {
    let own = read(shard).await?;
    let mut missing = Vec::new();
    for (name, most) in from {
        let Some(own) = own.get(name) else {
            missing.push(format!("{} has no sequence {name}", shard.name()));
            continue;
        };
        match carried(own, most) {
            Then::AsItIs => {}
            Then::Set(round, value) => {
                let sql = format!("DO SETVAL({}, {value}, 0, {round})", identifier(name));
                shard.primary.run("carrying over sequences", &sql).await?;
            }
            Then::Strayed => {
                let name = identifier(name);
                return Err(CutoverError::Unfit {
                    server: shard.name().to_owned(),
                    what: format!(
                        "sequence {name} gives out {} next, which is none of the values that it \
                         counts from {} in steps of {}: ALTER SEQUENCE {name} RESTART WITH one of \
                         them, or ALTER SEQUENCE {name} START WITH {} if that is what it shall \
                         count from",
                        own.next, own.start, own.increment, own.next
                    ),
                });
            }
            Then::UsedUp(value) => {
                return Err(CutoverError::Unfit {
                    server: shard.name().to_owned(),
                    what: format!(
                        "sequence {name} must go on from {value}, and its bounds are {} and {}: \
                         ALTER SEQUENCE {} with wider ones",
                        own.minimum,
                        own.maximum,
                        identifier(name)
                    ),
                });
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(next: i128, increment: i128) -> Sequence {
        let (start, minimum, maximum) = (next, 1, 9_000);
        Sequence { next, minimum, maximum, start, increment, cycles: false, round: 0 }
    }

    #[test]
    fn each_goes_on_with_the_first_of_its_own_values() {
        let most = up(801, 1);
        let then = |own| carried(&own, &most);
        assert_eq!(then(up(702, 3)), Then::Set(0, 801));
        assert_eq!(then(up(703, 3)), Then::Set(0, 802));
        assert_eq!(then(up(701, 3)), Then::Set(0, 803));
        assert_eq!(then(up(5, 1)), Then::Set(0, 801));
        assert_eq!(then(up(900, 3)), Then::AsItIs);
        assert_eq!(then(up(801, 3)), Then::AsItIs);
        // As AUTO_INCREMENT does: the server finds its own.
        assert_eq!(then(up(5, 0)), Then::Set(0, 801));
        // Back to old shards with residues of their own.
        assert_eq!(carried(&up(700, 2), &up(1_203, 3)), Then::Set(0, 1_204));
        assert_eq!(carried(&up(701, 2), &up(1_203, 3)), Then::Set(0, 1_203));
    }

    #[test]
    fn sequences_that_count_down_go_on_below() {
        let down =
            |next, increment| Sequence { minimum: -9_000, maximum: -1, ..up(next, increment) };
        let most = down(-801, -1);
        let then = |own| carried(&own, &most);
        assert_eq!(then(down(-3, -3)), Then::Set(0, -801));
        assert_eq!(then(down(-1, -3)), Then::Set(0, -802));
        assert_eq!(then(down(-2, -3)), Then::Set(0, -803));
        assert_eq!(then(down(-900, -3)), Then::AsItIs);
        assert_eq!(down(-5, -1).furthest(down(-7, -1)), down(-7, -1));
        assert_eq!(up(5, 1).furthest(up(7, 1)), up(7, 1));
    }

    #[test]
    fn bounds_run_out_by_name_and_cycles_begin_anew() {
        let own = Sequence { maximum: 800, ..up(702, 3) };
        assert_eq!(carried(&own, &up(801, 1)), Then::UsedUp(801));
        let own = Sequence { cycles: true, ..own };
        assert_eq!(carried(&own, &up(801, 1)), Then::Set(1, 1));
        let further = Sequence { round: 2, ..up(10, 1) };
        assert_eq!(carried(&own, &further), Then::Set(2, 12));
        assert_eq!(carried(&further, &up(801, 1)), Then::AsItIs);
        assert_eq!(up(900, 1).furthest(further), further);
        // What it gives out next is beyond its bounds: its start says which values are its own.
        let used_up = Sequence { next: 9_001, start: 2, ..up(2, 3) };
        assert_eq!(carried(&used_up, &up(9_000, 1)), Then::UsedUp(9_002));
        // With wider bounds it would go on from there, and so would its neighbours.
        let wider = Sequence { maximum: 20_000, ..used_up };
        assert_eq!(carried(&wider, &up(9_500, 1)), Then::Strayed);
        let begun_anew = Sequence { next: 4, start: 702, cycles: true, ..up(702, 3) };
        assert_eq!(carried(&begun_anew, &up(9, 1)), Then::Set(0, 10));
    }

    #[test]
    fn one_that_has_strayed_finds_its_own_values_again() {
        let strayed = Sequence { next: 9_001, maximum: 20_000, start: 2, ..up(2, 3) };
        assert!(strayed.strayed());
        assert_eq!(strayed.own_from(9_001), Some(9_002));
        assert_eq!(strayed.own_from(9_002), Some(9_002));
        assert_eq!(strayed.own_from(20_000), Some(20_000));
        assert_eq!(strayed.own_from(20_001), None);
        let back = Sequence { next: 9_002, ..strayed };
        assert!(!back.strayed());
        let down = Sequence { minimum: -20_000, maximum: -1, start: -2, ..up(-9_001, -3) };
        assert!(down.strayed());
        assert_eq!(down.own_from(-9_001), Some(-9_002));
    }

    #[test]
    fn a_row_is_read_whatever_its_type() {
        let row = "18446744073709551615 0 18446744073709551615 1 3 1 7";
        let read = parse(row);
        assert_eq!(read.map(|s| (s.next, s.round, s.cycles)), Some((u64::MAX.into(), 7, true)));
        assert_eq!(parse("1 2 3"), None);
    }
}
