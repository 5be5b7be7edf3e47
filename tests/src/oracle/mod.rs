//! Says whether the new shards hold exactly what the old ones hold, row by row and byte by byte.
//!
//! It asks the servers for the text of every column of every row, in a form that loses nothing
//! (`HEX()` for whatever is made of bytes), on connections of its own, and shares no code with the
//! product. Run it when nothing writes any more: it reads without a lock.

mod columns;
mod scan;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    rule::{Rule, TableRule},
    server::Address,
};
use columns::TableColumns;
use scan::{Pins, Scanned, explain, scan_all};

/// Differences are counted without end, described only so far.
const DESCRIBED_MOST: usize = 25;

#[derive(Clone, Debug)]
pub struct Oracle {
    pub old: Vec<Address>,
    pub new: Vec<Address>,
    pub rules: Vec<TableRule>,
    pins: Option<Arc<Pins>>,
    skip_broadcasts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An old row that no new shard holds.
    Missing { old: usize, expected: usize },
    /// A row on a new shard that no old shard holds.
    Extra { new: usize },
    /// An old row that is on a new shard, but not (or not only) on its own.
    WrongShard { expected: usize, found: usize },
    /// The right row in the right place with other content.
    Differs { old: usize, new: usize, columns: Vec<ColumnDifference> },
    /// A row whose key does not place it on the old shard where it lies.
    Stray { old: usize, belongs: usize },
    /// Two old shards hold the same primary key.
    TwoOwners { old: [usize; 2] },
    /// The table itself: absent, or with other columns.
    Table { what: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDifference {
    pub column: String,
    /// The text that was compared; `None` is NULL.
    pub old: Option<String>,
    pub new: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Difference {
    pub table: String,
    /// The primary key in the form that was compared.
    pub key: String,
    pub fault: Fault,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub rows_old: Vec<u64>,
    pub rows_new: Vec<u64>,
    /// Rows per table, broadcast tables counted once.
    pub tables: BTreeMap<String, u64>,
    /// Rows whose new index is not their old one, broadcast tables left out.
    pub rows_moved: u64,
    pub rows_placed: u64,
    pub differences: Vec<Difference>,
    pub difference_count: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.difference_count == 0
    }

    /// Of the rows that have a shard key, how many lie on another index than before: 0.0 to 1.0.
    pub fn share_moved(&self) -> f64 {
        self.rows_moved as f64 / self.rows_placed.max(1) as f64
    }

    /// An error that shows what differs.
    pub fn ensure_clean(&self) -> Result<()> {
        ensure!(self.is_clean(), "{self}");
        ensure!(self.rows_placed > 0, "nothing was compared");
        Ok(())
    }

    fn add(&mut self, table: &str, key: &[u8], fault: Fault) {
        self.difference_count += 1;
        if self.differences.len() < DESCRIBED_MOST {
            let key = String::from_utf8_lossy(key).into_owned();
            self.differences.push(Difference { table: table.to_owned(), key, fault });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} differences", self.difference_count)?;
        for Difference { table, key, fault } in &self.differences {
            write!(f, "\n  {table} [{key}]: {fault:?}")?;
        }
        write!(f, "\n  rows per old shard {:?}, per new shard {:?}", self.rows_old, self.rows_new)
    }
}

impl Oracle {
    pub fn new(old: Vec<Address>, new: Vec<Address>, rules: Vec<TableRule>) -> Self {
        Self { old, new, rules, pins: None, skip_broadcasts: false }
    }

    /// Amid a fence, which may fall between the application's writes of one row to each shard.
    pub fn without_broadcasts(self) -> Self {
        Self { skip_broadcasts: true, ..self }
    }

    /// Sees every shard as it is now, whatever is written after this returns. For a demo that
    /// goes on writing while the rows are compared.
    pub async fn pinned(&self) -> Result<Self> {
        let pins = Pins::open(self.old.iter().chain(&self.new)).await?;
        Ok(Self { pins: Some(Arc::new(pins)), ..self.clone() })
    }

    async fn scan(&self, places: &[Address], sql: &str) -> Result<Vec<Vec<Scanned>>> {
        match &self.pins {
            Some(pins) => pins.scan_all(places, sql).await,
            None => scan_all(places, sql).await,
        }
    }

    pub async fn compare(&self) -> Result<Report> {
        let mut report = Report {
            rows_old: vec![0; self.old.len()],
            rows_new: vec![0; self.new.len()],
            ..Report::default()
        };
        let tables = columns::tables(self.old.first().context("no old shard")?).await?;
        for place in self.old.iter().chain(&self.new) {
            let here = columns::tables(place).await?;
            for name in tables.keys().chain(here.keys()) {
                if tables.get(name) != here.get(name) {
                    let what = format!("is not the same on {place} as on {}", self.old[0]);
                    report.add(name, b"", Fault::Table { what });
                }
            }
        }
        if !report.is_clean() {
            return Ok(report);
        }
        for (name, columns) in &tables {
            let rule = self.rules.iter().find(|r| r.table == *name);
            let rule = rule.with_context(|| format!("no rule for table {name}"))?;
            match rule.rule {
                Rule::Broadcast { .. } if self.skip_broadcasts => {}
                Rule::Broadcast { feeder } => {
                    self.broadcast(columns, rule, feeder, &mut report).await?
                }
                _ => self.placed(columns, rule, &mut report).await?,
            }
        }
        for rule in &self.rules {
            ensure!(tables.contains_key(&rule.table), "table {} is nowhere", rule.table);
        }
        self.describe(&tables, &mut report).await?;
        Ok(report)
    }

    async fn placed(
        &self,
        columns: &TableColumns,
        rule: &TableRule,
        report: &mut Report,
    ) -> Result<()> {
        let (old_modulus, new_modulus) = (self.old.len(), self.new.len());
        let sql = columns.select(&rule.rule.sql(old_modulus), &rule.rule.sql(new_modulus))?;
        let (old, new) = tokio::try_join!(self.scan(&self.old, &sql), self.scan(&self.new, &sql))?;
        let table = &columns.table;
        let mut owed: HashMap<&[u8], Owed<'_>> = HashMap::new();
        for (index, row) in numbered(&old) {
            report.rows_old[index] += 1;
            report.rows_placed += 1;
            report.rows_moved += u64::from(row.new_place != Some(index));
            *report.tables.entry(table.clone()).or_default() += 1;
            let expected = row.new_place.context("a row without a place")?;
            if row.old_place != Some(index) {
                let belongs = row.old_place.context("a row without a place")?;
                report.add(table, &row.key, Fault::Stray { old: index, belongs });
            }
            let owing = Owed { row, old: index, expected, seen: false };
            if let Some(first) = owed.insert(&row.key, owing) {
                report.add(table, &row.key, Fault::TwoOwners { old: [first.old, index] });
            }
        }
        for (index, row) in numbered(&new) {
            report.rows_new[index] += 1;
            match owed.get_mut(row.key.as_slice()) {
                None => report.add(table, &row.key, Fault::Extra { new: index }),
                Some(owing) if owing.expected != index => {
                    let expected = owing.expected;
                    report.add(table, &row.key, Fault::WrongShard { expected, found: index });
                }
                Some(owing) => {
                    owing.seen = true;
                    if owing.row.digest != row.digest {
                        let old = owing.old;
                        let fault = Fault::Differs { old, new: index, columns: Vec::new() };
                        report.add(table, &row.key, fault);
                    }
                }
            }
        }
        for (key, owing) in owed.iter().filter(|(_, owing)| !owing.seen) {
            let fault = Fault::Missing { old: owing.old, expected: owing.expected };
            report.add(table, key, fault);
        }
        Ok(())
    }

    /// Every shard, old and new, must hold the feeder's rows.
    async fn broadcast(
        &self,
        columns: &TableColumns,
        rule: &TableRule,
        feeder: usize,
        report: &mut Report,
    ) -> Result<()> {
        let sql = columns.select(&rule.rule.sql(1), &rule.rule.sql(1))?;
        let (old, new) = tokio::try_join!(self.scan(&self.old, &sql), self.scan(&self.new, &sql))?;
        let table = &columns.table;
        let model: HashMap<&[u8], &Scanned> =
            old[feeder].iter().map(|row| (row.key.as_slice(), row)).collect();
        report.tables.insert(table.clone(), model.len() as u64);
        for (index, rows) in old.iter().enumerate() {
            report.rows_old[index] += rows.len() as u64;
            // What differs between old shards is the application's own affair, but a test that
            // ends so is not testing what it thinks.
            if index != feeder && !same(&model, rows) {
                bail!("broadcast table {table} is not the same on old shards {feeder} and {index}");
            }
        }
        for (index, rows) in new.iter().enumerate() {
            report.rows_new[index] += rows.len() as u64;
            let here: HashMap<&[u8], &Scanned> =
                rows.iter().map(|row| (row.key.as_slice(), row)).collect();
            for (key, row) in &model {
                match here.get(key) {
                    None => report.add(table, key, Fault::Missing { old: feeder, expected: index }),
                    Some(found) if found.digest != row.digest => {
                        let fault = Fault::Differs { old: feeder, new: index, columns: Vec::new() };
                        report.add(table, key, fault);
                    }
                    Some(_) => {}
                }
            }
            for key in here.keys().filter(|key| !model.contains_key(*key)) {
                report.add(table, key, Fault::Extra { new: index });
            }
        }
        Ok(())
    }

    /// Names the columns in which rows differ, by reading those rows once more.
    async fn describe(
        &self,
        tables: &BTreeMap<String, TableColumns>,
        report: &mut Report,
    ) -> Result<()> {
        for difference in &mut report.differences {
            if let Fault::Differs { old, new, columns } = &mut difference.fault {
                let table = tables.get(&difference.table).context("an unknown table")?;
                let (old, new) = (&self.old[*old], &self.new[*new]);
                *columns = explain(table, &difference.key, old, new).await?;
            }
        }
        Ok(())
    }
}

/// An old row that some new shard owes.
struct Owed<'a> {
    row: &'a Scanned,
    old: usize,
    expected: usize,
    seen: bool,
}

fn numbered(shards: &[Vec<Scanned>]) -> impl Iterator<Item = (usize, &Scanned)> {
    shards.iter().enumerate().flat_map(|(index, rows)| rows.iter().map(move |row| (index, row)))
}

fn same(model: &HashMap<&[u8], &Scanned>, rows: &[Scanned]) -> bool {
    model.len() == rows.len()
        && rows.iter().all(|row| {
            model.get(row.key.as_slice()).is_some_and(|found| found.digest == row.digest)
        })
}
