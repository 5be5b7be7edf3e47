//! Which rows are at home on a shard: those whose key leaves one of these remainders. Pure.

use super::{BoundRule, KeyNumber};
use crate::shard::Modulus;

/// Above that many values the server would look them up as it does rows
/// (`in_predicate_conversion_threshold`).
const LIST_MAX: usize = 500;
/// From here on a run of remainders is shorter as a range.
const RUN_MIN: usize = 3;
/// Each is judged for each row.
const TERMS_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HomeError {
    #[error("{residue} is no remainder of {modulus}")]
    OutOfRange { residue: u16, modulus: Modulus },
    #[error("{terms} terms for each row are too many: at most {TERMS_MAX}")]
    Scattered { terms: usize },
}

/// A set of remainders under a modulus: of one new shard, or, while an estate moves slice by slice, any
/// under the least common multiple of both moduli.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The smallest under which the same rows are at home.
    modulus: Modulus,
    /// Whether each remainder is at home.
    held: Vec<bool>,
}

impl Home {
    pub fn new(
        modulus: Modulus,
        residues: impl IntoIterator<Item = u16>,
    ) -> Result<Home, HomeError> {
        let shards = usize::from(modulus.get());
        let mut held = vec![false; shards];
        for residue in residues {
            match held.get_mut(usize::from(residue)) {
                Some(held) => *held = true,
                None => return Err(HomeError::OutOfRange { residue, modulus }),
            }
        }
        let repeats = |after: &usize| {
            shards.is_multiple_of(*after) && (*after..shards).all(|at| held[at] == held[at - after])
        };
        let period = (1..shards).find(repeats).unwrap_or(shards);
        held.truncate(period);
        let smallest = u16::try_from(period).ok().and_then(Modulus::new).unwrap_or(modulus);
        let home = Home { modulus: smallest, held };
        match home.terms(home.is_mostly_held()).1 {
            terms if terms > TERMS_MAX => Err(HomeError::Scattered { terms }),
            _ => Ok(home),
        }
    }

    /// What shard `index` of `modulus` shards holds.
    pub fn of_shard(modulus: Modulus, index: u16) -> Result<Home, HomeError> {
        Home::new(modulus, [index])
    }

    pub fn holds(&self, key: KeyNumber) -> bool {
        self.held[usize::from(key.place(self.modulus))]
    }

    /// `2 of 4`, `0, 5 of 6`: the remainders, of which modulus.
    pub fn words(&self) -> String {
        const SHOWN_MAX: usize = 8;
        let residues: Vec<String> = self.residues(true).map(|r| r.to_string()).collect();
        let shown = residues[..residues.len().min(SHOWN_MAX)].join(", ");
        match residues.len() {
            0 => format!("none of {}", self.modulus),
            more if more > SHOWN_MAX => {
                format!("{shown} and {} more of {}", more - SHOWN_MAX, self.modulus)
            }
            _ => format!("{shown} of {}", self.modulus),
        }
    }

    /// A condition within a trigger over its row `NEW` or `OLD`: true for a row that is at home, false
    /// or NULL (of a NULL, which has no home) for any other.
    pub fn condition(&self, rule: &BoundRule, row: &str) -> String {
        if self.held.iter().all(|held| *held) {
            return format!("{} IS NOT NULL", rule.column_of(row));
        }
        if !self.held.contains(&true) {
            return "FALSE".to_owned();
        }
        let place = rule.sql_of(row, self.modulus);
        let away = self.is_mostly_held();
        let (terms, _) = self.terms(away);
        let (mut single, mut any) = (Vec::new(), Vec::new());
        for (first, last) in terms {
            match first == last {
                true => single.push(first.to_string()),
                false => any.push(format!("{place} BETWEEN {first} AND {last}")),
            }
        }
        for list in single.chunks(LIST_MAX) {
            any.push(match list {
                [one] => format!("{place} = {one}"),
                list => format!("{place} IN ({})", list.join(", ")),
            });
        }
        let any = any.join(" OR ");
        if away { format!("NOT ({any})") } else { format!("({any})") }
    }

    /// What is away is the shorter list.
    fn is_mostly_held(&self) -> bool {
        self.terms(true).1 < self.terms(false).1
    }

    fn residues(&self, held: bool) -> impl Iterator<Item = u16> {
        let all = (0..self.modulus.get()).zip(&self.held);
        all.filter(move |(_, is)| **is == held).map(|(residue, _)| residue)
    }

    /// Runs and single remainders, of those that are away or of those at home; and how many.
    fn terms(&self, away: bool) -> (Vec<(u16, u16)>, usize) {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for residue in self.residues(!away) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == residue => *last = residue,
                _ => runs.push((residue, residue)),
            }
        }
        let short = |(first, last): (u16, u16)| match usize::from(last - first) + 1 < RUN_MIN {
            true => (first..=last).map(|residue| (residue, residue)).collect(),
            false => vec![(first, last)],
        };
        let terms: Vec<(u16, u16)> = runs.into_iter().flat_map(short).collect();
        let count = terms.len();
        (terms, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::ShardRule;
    use crate::schema::{Column, DataType};

    fn modulus(shards: u16) -> Modulus {
        Modulus::new(shards).unwrap()
    }

    fn check(shards: u16, residues: &[u16], expected: &str) {
        let column = Column {
            name: "k".to_owned(),
            data: DataType::Int { bytes: 8, unsigned: true },
            type_text: "bigint unsigned".to_owned(),
            charset: None,
            collation: None,
            nullable: true,
            generated: false,
        };
        let rule = ShardRule::FloorMod.bind(&column).unwrap();
        let home = Home::new(modulus(shards), residues.iter().copied()).unwrap();
        assert_eq!(home.condition(&rule, "NEW"), expected);
        for key in 0..4 * u64::from(shards) {
            let held = residues.contains(&((key % u64::from(shards)) as u16));
            assert_eq!(home.holds(KeyNumber::Plain(key)), held, "{key} under {shards}");
        }
    }

    #[test]
    fn a_home_is_said_under_the_smallest_modulus_and_by_the_shorter_list() {
        check(4, &[2], "((NEW.`k` MOD 4) = 2)");
        check(6, &[1, 3, 5], "((NEW.`k` MOD 2) = 1)");
        check(12, &[2, 5, 8, 11, 0], "((NEW.`k` MOD 12) IN (0, 2, 5, 8, 11))");
        check(4, &[0, 1, 3], "NOT ((NEW.`k` MOD 4) = 2)");
        check(9, &[0, 1, 2, 3], "((NEW.`k` MOD 9) BETWEEN 0 AND 3)");
        check(3, &[0, 1, 2], "NEW.`k` IS NOT NULL");
        check(3, &[], "FALSE");
        check(1, &[0], "NEW.`k` IS NOT NULL");
    }

    #[test]
    fn what_a_server_could_not_judge_row_by_row_is_refused() {
        let scattered = (0..60_000).filter(|r| r % 7 == 0 || r % 11 == 0 || r % 13 == 5);
        let found = Home::new(modulus(60_001), scattered);
        assert!(matches!(found, Err(HomeError::Scattered { .. })), "{found:?}");
        let beyond = Home::of_shard(modulus(4), 4);
        assert_eq!(beyond, Err(HomeError::OutOfRange { residue: 4, modulus: modulus(4) }));
        assert_eq!(Home::new(modulus(24), [1, 2, 9, 10, 17, 18]).unwrap().words(), "1, 2 of 8");
    }
}
