//! The version of every row of one new shard, from group to group of its binlog.

use std::collections::{BTreeMap, HashMap};

/// Column number to value, as printed; only what the layout asks for.
pub type Image = BTreeMap<usize, Vec<u8>>;

/// Column numbers, from 1.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub key: Vec<usize>,
    pub ver: usize,
}

const DESCRIBED_MOST: usize = 20;

/// What a binlog showed.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    pub groups: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    /// Rows replaced by themselves in one transaction.
    pub replaced: u64,
    pub fault_count: u64,
    pub faults: Vec<String>,
}

impl Versions {
    pub fn add(&mut self, other: &Self) {
        self.groups += other.groups;
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.replaced += other.replaced;
        self.fault_count += other.fault_count;
        self.faults.extend(other.faults.iter().cloned());
    }
}

/// Table and primary key.
type Place = (String, Vec<Vec<u8>>);

/// A row within the group in progress.
struct Touched {
    /// Its version before the group.
    before: Option<u64>,
    now: Option<u64>,
    deleted: bool,
}

pub struct Ledger {
    layouts: HashMap<String, Layout>,
    live: HashMap<Place, u64>,
    /// Of rows that are gone: the highest version they had.
    gone: HashMap<Place, u64>,
    group: HashMap<Place, Touched>,
    gtid: String,
    versions: Versions,
}

impl Ledger {
    pub fn new(layouts: HashMap<String, Layout>) -> Self {
        Self {
            layouts,
            live: HashMap::new(),
            gone: HashMap::new(),
            group: HashMap::new(),
            gtid: "the beginning".to_owned(),
            versions: Versions::default(),
        }
    }

    pub fn knows(&self, table: &str) -> bool {
        self.layouts.contains_key(table)
    }

    pub fn wants(&self, table: &str, column: usize) -> bool {
        self.layouts.get(table).is_some_and(|l| l.ver == column || l.key.contains(&column))
    }

    /// A group begins: the one before it is complete.
    pub fn group(&mut self, gtid: String) {
        self.settle();
        self.versions.groups += 1;
        self.gtid = gtid;
    }

    pub fn finish(mut self) -> Versions {
        self.settle();
        self.versions
    }

    pub fn change(&mut self, table: &str, before: Option<&Image>, after: Option<&Image>) {
        match (before, after) {
            (None, _) => self.versions.inserts += 1,
            (Some(_), Some(_)) => self.versions.updates += 1,
            (Some(_), None) => self.versions.deletes += 1,
        }
        let before = before.and_then(|image| self.read(table, image));
        let after = after.and_then(|image| self.read(table, image));
        if let Some((place, ver)) = &before {
            let now = self.touch(place).now;
            if now != Some(*ver) {
                self.fault(place, format!("{now:?} was expected to be changed, not {ver}"));
            }
        }
        // A row whose place stays is updated; else it leaves one place and takes another.
        let same = matches!((&before, &after), (Some((a, _)), Some((b, _))) if a == b);
        if let Some((place, _)) = before.filter(|_| !same) {
            let touched = self.touch(&place);
            (touched.now, touched.deleted) = (None, true);
        }
        if let Some((place, ver)) = after {
            if !same && self.touch(&place).now.is_some() {
                self.fault(&place, format!("version {ver} was inserted where a row is"));
            }
            self.touch(&place).now = Some(ver);
        }
    }

    fn read(&mut self, table: &str, image: &Image) -> Option<(Place, u64)> {
        let layout = self.layouts.get(table)?;
        let key = layout.key.iter().map(|column| image.get(column).cloned()).collect();
        let ver =
            image.get(&layout.ver).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        match (key, ver) {
            (Some(key), Some(ver)) => Some(((table.to_owned(), key), ver)),
            _ => {
                let place = (table.to_owned(), Vec::new());
                self.fault(&place, format!("no key or no version in {image:?}"));
                None
            }
        }
    }

    fn touch(&mut self, place: &Place) -> &mut Touched {
        let before = self.live.get(place).copied();
        let fresh = || Touched { before, now: before, deleted: false };
        self.group.entry(place.clone()).or_insert_with(fresh)
    }

    fn settle(&mut self) {
        for (place, touched) in std::mem::take(&mut self.group) {
            match (touched.before, touched.now) {
                (Some(before), Some(now)) if touched.deleted && now == before => {
                    self.versions.replaced += 1;
                }
                (Some(before), Some(now)) if now <= before => {
                    self.fault(&place, format!("version {now} came after {before}"));
                }
                (None, Some(now)) => {
                    let had = self.gone.get(&place).copied();
                    if had.is_some_and(|had| now <= had) {
                        let had = had.unwrap_or(0);
                        self.fault(
                            &place,
                            format!("it was deleted at {had} and came back as {now}"),
                        );
                    }
                }
                _ => {}
            }
            match touched.now {
                Some(now) => {
                    self.live.insert(place, now);
                }
                None => {
                    if let Some(had) = self.live.remove(&place) {
                        self.gone.insert(place, had);
                    }
                }
            }
        }
    }

    fn fault(&mut self, place: &Place, what: String) {
        self.versions.fault_count += 1;
        if self.versions.faults.len() < DESCRIBED_MOST {
            let (table, key) = place;
            let key: Vec<_> = key.iter().map(|value| String::from_utf8_lossy(value)).collect();
            let text = format!("{table} ({}) in {}: {what}", key.join(", "), self.gtid);
            self.versions.faults.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::versions::print;

    fn change(head: &str, sides: &[(&str, u64, u64)]) -> String {
        let mut text = format!("### {head} `shard`.`t`\n");
        for (side, id, ver) in sides {
            text +=
                &format!("### {side}\n###   @1='it''s ### SET'\n###   @2={id}\n###   @3={ver}\n");
        }
        text
    }

    fn insert(id: u64, ver: u64) -> String {
        change("INSERT INTO", &[("SET", id, ver)])
    }

    fn update(id: u64, from: u64, to: u64) -> String {
        change("UPDATE", &[("WHERE", id, from), ("SET", id, to)])
    }

    fn delete(id: u64, ver: u64) -> String {
        change("DELETE FROM", &[("WHERE", id, ver)])
    }

    /// Each group's changes; how many faults they hold.
    fn faults(groups: &[&[String]]) -> u64 {
        let layouts = [("t".to_owned(), Layout { key: vec![2], ver: 3 })];
        let mut ledger = Ledger::new(layouts.into());
        let mut text = String::from("# at 4\n");
        for (number, changes) in groups.iter().enumerate() {
            text += &format!("#70101 end_log_pos 9 \tGTID 1-1-{number} trans\n");
            text += &changes.concat();
            text += "COMMIT/*!*/;\n### INSERT INTO `shard`.`other`\n### SET\n###   @1=1\n";
        }
        print::read(text.as_bytes(), "shard", &mut ledger).expect("well-formed");
        let versions = ledger.finish();
        assert_eq!(versions.groups, groups.len() as u64);
        versions.fault_count
    }

    #[test]
    fn versions_that_rise_are_fine() {
        let first = [insert(1, 1), insert(2, 1), insert(7, 4)];
        let second = [update(1, 1, 3), delete(2, 1), delete(7, 4), insert(7, 4)];
        assert_eq!(faults(&[&first, &second, &[insert(2, 2), update(1, 3, 4)]]), 0);
    }

    #[test]
    fn a_change_applied_twice_is_found() {
        assert_eq!(faults(&[&[insert(1, 1)], &[update(1, 1, 2)], &[update(1, 2, 2)]]), 1);
        assert_eq!(faults(&[&[insert(1, 3)], &[update(1, 3, 2)], &[update(1, 2, 3)]]), 1);
        assert_eq!(faults(&[&[insert(1, 3)], &[delete(1, 3), insert(1, 2)]]), 1);
        assert_eq!(faults(&[&[insert(1, 3)], &[delete(1, 3)], &[insert(1, 3)]]), 1);
    }

    #[test]
    fn a_log_that_does_not_fit_together_is_found() {
        assert_eq!(faults(&[&[insert(1, 1)], &[insert(1, 2)]]), 1);
        assert_eq!(faults(&[&[insert(1, 1)], &[delete(1, 2)]]), 1);
    }
}
