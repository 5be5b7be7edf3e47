//! Events of a binlog to writes of rows that are not at home, group by group. Pure.

use std::sync::Arc;

use modshift_mariadb::control;
use modshift_proto::row::{CellForm, cell_int, cell_uint};
use modshift_proto::rule::{BoundRule, Home};
use modshift_proto::{GroupDigest, Gtid, Modulus, TableSchema};

use super::known::{Op, hash};
use crate::binlog::{
    BinlogError, Charset, Collations, DecodedRow, Decoder, Event, GroupHash, Lexis, Name,
    PlannedTable, RowKind, RowsEvent, Statement, Table, TableRef, Want, read_statement,
};
use crate::route::write_key_row;

/// Of one group; of what has more the table is clouded.
const FOUND_MAX: usize = 100_000;
/// Of a key, as people are shown it.
const SHOWN_MAX: usize = 120;

/// A planned table whose rows have a home.
#[derive(Clone, Debug)]
pub struct Watched {
    pub schema: TableSchema,
    /// The shard key's.
    pub column: usize,
    pub rule: BoundRule,
}

/// A write of a row that is not at home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub table: String,
    /// Of the primary key.
    pub hash: u64,
    pub op: Op,
    /// The primary key, for people.
    pub shown: String,
    /// The shard that the row belongs to; none has a NULL.
    pub belongs: Option<u16>,
}

/// A whole group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub digest: GroupDigest,
    /// Modshift's own.
    pub own: bool,
    pub found: Vec<Found>,
    /// Tables of which it may have written any row.
    pub clouded: Vec<String>,
    /// Definitions of planned tables are others behind it.
    pub redefined: bool,
}

struct Open {
    gtid: Gtid,
    standalone: bool,
    hash: GroupHash,
    /// Known from the first row on.
    own: Option<bool>,
    found: Vec<Found>,
    clouded: Vec<usize>,
    redefined: bool,
}

pub struct Sift {
    decoder: Decoder,
    schema: String,
    fold: bool,
    tables: Vec<Watched>,
    home: Home,
    modulus: Modulus,
    group: Option<Open>,
    before: DecodedRow,
    after: DecodedRow,
    key_row: Vec<u8>,
}

/// The server as [`Sift`] needs it: how it spells the schema, and whether it tells case.
pub struct Spelling {
    pub schema: String,
    pub fold: bool,
    pub collations: Collations,
}

impl Sift {
    pub fn new(
        spelling: Spelling,
        tables: Vec<Watched>,
        home: Home,
        modulus: Modulus,
    ) -> Result<Sift, BinlogError> {
        let planned = |table: &Watched| PlannedTable {
            schema_name: spelling.schema.clone(),
            table: Arc::new(table.schema.clone()),
            shard_key: Some(table.column),
        };
        let decoder = Decoder::new(tables.iter().map(planned).collect())?;
        Ok(Sift {
            decoder: decoder.with_collations(Arc::new(spelling.collations)),
            schema: spelling.schema,
            fold: spelling.fold,
            tables,
            home,
            modulus,
            group: None,
            before: DecodedRow::default(),
            after: DecodedRow::default(),
            key_row: Vec::new(),
        })
    }

    pub fn between_groups(&self) -> bool {
        self.group.is_none()
    }

    /// One event; the group that it ends.
    pub fn event(&mut self, bytes: &[u8]) -> Result<Option<Closed>, BinlogError> {
        match self.decoder.decode(bytes)? {
            Event::Gtid(header) => {
                self.group = Some(Open {
                    gtid: header.gtid,
                    standalone: header.standalone,
                    hash: GroupHash::new(header.gtid),
                    own: None,
                    found: Vec::new(),
                    clouded: Vec::new(),
                    redefined: false,
                });
                Ok(None)
            }
            Event::Rows(rows) => self.rows(rows).map(|()| None),
            Event::Query { schema, sql, lexis, .. } => Ok(self.query(schema, &sql, lexis)),
            // What is prepared counts from here on.
            Event::Xid | Event::XaPrepare => Ok(self.close()),
            // The server was killed within a group: it does not count.
            Event::Format { .. } => {
                self.group = None;
                Ok(None)
            }
            Event::NewId(_) | Event::TableMap | Event::Rotate { .. } | Event::Control(_) => {
                Ok(None)
            }
        }
    }

    fn rows(&mut self, mut rows: RowsEvent<'_>) -> Result<(), BinlogError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        group.hash.rows(&rows);
        let ours = match &rows.table {
            TableRef::Planned(_) => false,
            TableRef::Other(name) => {
                name.schema == self.schema.as_bytes()
                    && name.table.starts_with(control::PREFIX.as_bytes())
            }
        };
        let own = *group.own.get_or_insert(ours);
        let TableRef::Planned(table) = rows.table else { return Ok(()) };
        if own {
            return Ok(());
        }
        let kind = rows.kind;
        let op = match kind {
            RowKind::Insert => Op::Insert,
            RowKind::Update => Op::Update,
            RowKind::Delete => Op::Delete,
        };
        let (before, after) = (&mut self.before, &mut self.after);
        while rows.read_row(self.decoder.layout(table), Want::Keys, before, Want::Keys, after)? {
            for (there, row) in
                [(kind != RowKind::Insert, &*before), (kind != RowKind::Delete, &*after)]
            {
                let watched = &self.tables[table];
                let number = match row.cell(watched.column).filter(|_| there) {
                    _ if !there => continue,
                    None => None,
                    Some(cell) => Some(watched.rule.number(cell).map_err(|source| {
                        let table = watched.schema.name.clone();
                        BinlogError::MalformedRow { table, event: "rows", what: source.0 }
                    })?),
                };
                if number.is_some_and(|number| self.home.holds(number)) {
                    continue;
                }
                self.key_row.clear();
                write_key_row(&watched.schema, row, &mut self.key_row);
                let hash = hash(&self.key_row);
                let same = |found: &Found| found.hash == hash && found.table == watched.schema.name;
                if group.clouded.contains(&table) || group.found.last().is_some_and(same) {
                    continue;
                }
                if group.found.len() >= FOUND_MAX {
                    group.clouded.push(table);
                    continue;
                }
                group.found.push(Found {
                    table: watched.schema.name.clone(),
                    hash,
                    op,
                    shown: shown(&watched.schema, row),
                    belongs: number.map(|number| number.place(self.modulus)),
                });
            }
        }
        Ok(())
    }

    fn query(&mut self, schema: &[u8], sql: &[u8], lexis: Lexis) -> Option<Closed> {
        let statement = read_statement(sql, lexis);
        let group = self.group.as_mut()?;
        if !matches!(statement, Statement::Begin) {
            group.hash.query(sql);
        }
        let standalone = group.standalone;
        let all = 0..self.tables.len();
        let (ends, clouded, redefined): (bool, Vec<usize>, bool) = match statement {
            Statement::Begin | Statement::Savepoint | Statement::XaGoesOn => {
                (false, Vec::new(), false)
            }
            Statement::Commit | Statement::XaCommit | Statement::XaRollback => {
                (true, Vec::new(), false)
            }
            Statement::Rollback => {
                // In tables with transactions, which planned ones are, none of it took place.
                group.found.clear();
                (true, Vec::new(), false)
            }
            Statement::Harmless(_)
            | Statement::DropsTemporary(_)
            | Statement::Definition { .. } => (standalone, Vec::new(), false),
            Statement::MakesTemporary { runs, .. } => match runs.calls.is_empty() {
                true => (standalone, Vec::new(), false),
                false => (standalone, all.collect(), false),
            },
            Statement::Tables { touched, runs, .. } => {
                let changed = |table: &usize| {
                    let name = &self.tables[*table].schema.name;
                    touched
                        .iter()
                        .any(|touched| touched.changes && self.means(schema, &touched.table, name))
                };
                let named: Vec<usize> = all.clone().filter(changed).collect();
                let redefined = !named.is_empty();
                match runs.calls.is_empty() {
                    true => (standalone, named, redefined),
                    false => (standalone, all.collect(), redefined),
                }
            }
            Statement::Schema { schema: name, .. } => match name.may_be(&self.schema, self.fold) {
                true => (standalone, all.collect(), true),
                false => (standalone, Vec::new(), false),
            },
            // A trigger or a function may have written more than it says.
            Statement::Write(_) | Statement::Unknown => (standalone, all.collect(), false),
        };
        let group = self.group.as_mut()?;
        group.clouded.extend(clouded);
        group.redefined |= redefined;
        if ends { self.close() } else { None }
    }

    /// Does a statement in this default schema mean the planned table?
    fn means(&self, default: &[u8], table: &Table, planned: &str) -> bool {
        let here = match &table.schema {
            Some(schema) => schema.may_be(&self.schema, self.fold),
            None => Name::new(default, Charset::Utf8).may_be(&self.schema, self.fold),
        };
        here && table.name.may_be(planned, self.fold)
    }

    fn close(&mut self) -> Option<Closed> {
        let group = self.group.take()?;
        let mut clouded = group.clouded;
        clouded.sort_unstable();
        clouded.dedup();
        Some(Closed {
            digest: GroupDigest { gtid: group.gtid, checksum: group.hash.value() },
            own: group.own == Some(true),
            found: group.found,
            clouded: clouded.iter().map(|table| self.tables[*table].schema.name.clone()).collect(),
            redefined: group.redefined,
        })
    }
}

/// `4711`, `0x00ff`, `shop, 12`.
fn shown(schema: &TableSchema, row: &DecodedRow) -> String {
    let cell = |column: &usize| {
        let Some(cell) = row.cell(*column) else { return "NULL".to_owned() };
        let number = match schema.columns[*column].data.form() {
            CellForm::Int => cell_int(cell).map(|number| number.to_string()).ok(),
            CellForm::UInt => cell_uint(cell).map(|number| number.to_string()).ok(),
            _ => None,
        };
        let plain = |text: &&str| text.chars().all(|c| !c.is_control());
        number
            .or_else(|| std::str::from_utf8(cell).ok().filter(plain).map(str::to_owned))
            .unwrap_or_else(|| {
                let hex: String = cell.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("0x{hex}")
            })
    };
    let all = schema.primary_key.iter().map(cell).collect::<Vec<_>>().join(", ");
    all.chars().take(SHOWN_MAX).collect()
}
