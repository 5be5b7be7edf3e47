//! What one new shard knows of the plan's tables: which row a change is about, and whether it
//! belongs here.
//!
//! Every change is checked against the consumer's own routing before it is applied: its partition,
//! its source and its definition must agree with what this shard works out from the row alone.

use modshift_proto::message::{Change, Op};
use modshift_proto::plan::{Placement, Plan};
use modshift_proto::row::{RowError, RowWriter};
use modshift_proto::rule::{BoundRule, RuleError};
use modshift_proto::{Modulus, NewShard, OldShard, TableSchema};

use crate::places::enum_cells;
use crate::sql::Statements;

/// The plan's tables as this new shard has them, by their number on the wire.
#[derive(Debug)]
pub struct Target {
    pub shard: NewShard,
    old_modulus: Modulus,
    new_modulus: Modulus,
    tables: Vec<TargetTable>,
}

#[derive(Debug)]
pub struct TargetTable {
    pub schema: TableSchema,
    pub fingerprint: u32,
    /// Indices of columns that travel, in wire order.
    pub sent: Vec<usize>,
    /// For each primary key column, its place among the cells of an upsert.
    pub key_cells: Vec<usize>,
    /// Places of ENUM columns among the cells of an upsert.
    pub enum_cells: Vec<usize>,
    pub placement: Routing,
    pub sql: Statements,
}

#[derive(Debug)]
pub enum Routing {
    Sharded {
        rule: BoundRule,
        /// Place of the shard key among the cells of an upsert.
        cell: usize,
        /// Its place among those of a delete, where it is part of the primary key.
        key_cell: Option<usize>,
    },
    Broadcast {
        from: OldShard,
    },
}

/// A table cannot be applied to as the plan and the server describe it.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("table {table} has no primary key")]
    NoPrimaryKey { table: String },
    #[error("primary key column {column} of table {table} is generated, hence never sent")]
    GeneratedKey { table: String, column: String },
    #[error("table {table} has no column {column}, the plan's shard key")]
    NoShardKey { table: String, column: String },
    #[error("table {table}: {error}")]
    Rule { table: String, error: RuleError },
}

/// A change that must not be applied here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("a change of table number {table}, the plan has {tables}")]
    UnknownTable { table: u32, tables: usize },
    #[error("a table that the plan does not have, {table}, is copied from its beginning")]
    UnplannedTable { table: String },
    #[error(
        "table {table} is defined otherwise on {old} (fingerprint {sent:08x}) than on {new} \
         ({own:08x})"
    )]
    Definition { table: String, old: OldShard, new: NewShard, sent: u32, own: u32 },
    #[error("a row of table {table} from {old} belongs to new shard {place}, it came to {new}")]
    Misrouted { table: String, old: OldShard, new: NewShard, place: u16 },
    #[error("a row of table {table} came from {old}, its shard key places it on old shard {place}")]
    Stray { table: String, old: OldShard, place: u16 },
    #[error("broadcast table {table} is fed by {from}, a row of it came from {old}")]
    Feeder { table: String, from: OldShard, old: OldShard },
    #[error("table {table}: {error}")]
    Row { table: String, error: RowError },
}

impl ChangeError {
    /// Our own routing contradicts itself, or bytes that we wrote are not readable: no fact about
    /// the data.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            ChangeError::Misrouted { .. } | ChangeError::Feeder { .. } | ChangeError::Row { .. }
        )
    }

    pub fn reason(&self) -> &'static str {
        match self {
            ChangeError::UnknownTable { .. } | ChangeError::UnplannedTable { .. } => {
                "unknown_table"
            }
            ChangeError::Definition { .. } => "definition",
            ChangeError::Misrouted { .. } => "misrouted",
            ChangeError::Stray { .. } => "stray",
            ChangeError::Feeder { .. } => "feeder",
            ChangeError::Row { .. } => "row",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            ChangeError::UnknownTable { .. } | ChangeError::UnplannedTable { .. } => {
                "start the consumer with the plan of the replicator; where the change log still has \
                 changes of a table that was taken out, with the former one until it has caught up"
            }
            ChangeError::Feeder { .. } => {
                "run replicator and consumer with the same plan, and start them again"
            }
            ChangeError::Definition { .. } => {
                "make the table the same on both sides (modshift schema shows the differences), \
                 then start again"
            }
            ChangeError::Misrouted { .. } => {
                "run replicator and consumer with the same plan and version, and start them again"
            }
            ChangeError::Stray { .. } => {
                "the consumer places rows otherwise than the reader did: start both with the same plan and \
                 version, and the right rule. Where the reader had the wrong one, what it has sent stays \
                 in the change log: start over with `modshift restart-copy`"
            }
            ChangeError::Row { .. } => {
                "run replicator and consumer in the same version, and start them again"
            }
        }
    }
}

/// Reused between changes: the cells of the row at hand and the wire form of its primary key.
#[derive(Debug, Default)]
pub struct Key {
    bytes: Vec<u8>,
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Target {
    /// `schemas` in the order of the plan's tables, as read from this new shard.
    pub fn new(
        plan: &Plan,
        shard: NewShard,
        schemas: Vec<TableSchema>,
    ) -> Result<Target, TargetError> {
        assert_eq!(plan.tables.len(), schemas.len(), "one schema for each planned table");
        let tables = plan
            .tables
            .iter()
            .zip(schemas)
            .map(|(table, schema)| TargetTable::new(&table.placement, plan.old_modulus, schema))
            .collect::<Result<_, _>>()?;
        Ok(Target { shard, old_modulus: plan.old_modulus, new_modulus: plan.new_modulus, tables })
    }

    pub fn table(&self, number: u32) -> &TargetTable {
        &self.tables[number as usize]
    }

    /// Number of a table by its name, as `modshift_parked` has it.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.tables.iter().position(|table| table.schema.name == name).map(|index| index as u32)
    }

    pub fn tables(&self) -> impl Iterator<Item = &TargetTable> {
        self.tables.iter()
    }

    /// The number under which this plan has the table of a change: a plan to which tables were added
    /// numbers the others anew, and the change log may hold what was sent before. The fingerprint
    /// has the table's name in it.
    pub fn numbered(&self, change: &Change<'_>) -> u32 {
        let same = |table: &TargetTable| table.fingerprint == change.fingerprint;
        if self.tables.get(change.table as usize).is_some_and(same) {
            return change.table;
        }
        let found = self.tables.iter().position(same);
        found.map_or(change.table, |index| index as u32)
    }

    /// Checks that a change belongs here and writes the wire form of its primary key to `key`.
    pub fn check(
        &self,
        old: OldShard,
        change: &Change<'_>,
        key: &mut Key,
    ) -> Result<(), ChangeError> {
        let Some(table) = self.tables.get(change.table as usize) else {
            let tables = self.tables.len();
            return Err(ChangeError::UnknownTable { table: change.table, tables });
        };
        let name = || table.schema.name.clone();
        if change.fingerprint != table.fingerprint {
            return Err(ChangeError::Definition {
                table: name(),
                old,
                new: self.shard,
                sent: change.fingerprint,
                own: table.fingerprint,
            });
        }
        let shard_key = table
            .write_key(change, &mut key.bytes)
            .map_err(|error| ChangeError::Row { table: name(), error })?;
        match (&table.placement, shard_key) {
            (Routing::Broadcast { from }, _) if *from != old => {
                Err(ChangeError::Feeder { table: name(), from: *from, old })
            }
            (Routing::Broadcast { .. }, _) | (Routing::Sharded { .. }, None) => Ok(()),
            (Routing::Sharded { rule, .. }, Some(cell)) => {
                let place = |modulus| {
                    rule.place(cell, modulus)
                        .map_err(|error| ChangeError::Row { table: name(), error })
                };
                let (from, to) = (place(self.old_modulus)?, place(self.new_modulus)?);
                if from != old.0 {
                    Err(ChangeError::Stray { table: name(), old, place: from })
                } else if to != self.shard.0 {
                    Err(ChangeError::Misrouted { table: name(), old, new: self.shard, place: to })
                } else {
                    Ok(())
                }
            }
        }
    }
}

impl TargetTable {
    fn new(
        placement: &Placement,
        old_modulus: Modulus,
        schema: TableSchema,
    ) -> Result<TargetTable, TargetError> {
        let table = || schema.name.clone();
        if schema.primary_key.is_empty() {
            return Err(TargetError::NoPrimaryKey { table: table() });
        }
        let sent: Vec<usize> = schema.sent_columns().collect();
        let among = |column: usize| sent.iter().position(|&index| index == column);
        let mut key_cells = Vec::with_capacity(schema.primary_key.len());
        for &index in &schema.primary_key {
            key_cells.push(among(index).ok_or_else(|| TargetError::GeneratedKey {
                table: table(),
                column: schema.columns[index].name.clone(),
            })?);
        }
        let placement = match placement {
            Placement::Broadcast { source } => Routing::Broadcast { from: *source },
            Placement::Sharded { key, rule } => {
                let missing = || TargetError::NoShardKey { table: table(), column: key.clone() };
                let index = schema.column(key).ok_or_else(missing)?;
                let rule = rule
                    .bind(&schema.columns[index])
                    .map_err(|error| TargetError::Rule { table: table(), error })?;
                let cell = among(index).ok_or_else(missing)?;
                let key_cell = schema.primary_key.iter().position(|&column| column == index);
                Routing::Sharded { rule, cell, key_cell }
            }
        };
        let owner = match &placement {
            Routing::Sharded { rule, .. } => Some(rule.sql(old_modulus)),
            Routing::Broadcast { .. } => None,
        };
        let sql = Statements::new(&schema, &sent, owner.as_deref());
        let fingerprint = schema.fingerprint();
        let enum_cells = enum_cells(&schema.columns, &sent);
        Ok(TargetTable { schema, fingerprint, sent, key_cells, enum_cells, placement, sql })
    }

    /// Names of the primary key's columns, for a person.
    pub fn key_names(&self) -> String {
        let columns = self.schema.primary_key.iter().map(|&index| &self.schema.columns[index]);
        columns.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn is_sharded(&self) -> bool {
        matches!(self.placement, Routing::Sharded { .. })
    }

    /// Writes the primary key in the form of a delete's row: always the same bytes for the same
    /// key, whoever encoded the change. Gives the shard key's cell where the change carries it.
    fn write_key<'a>(
        &self,
        change: &Change<'a>,
        key: &mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, RowError> {
        // Rows of ordinary width need no allocation.
        const INLINE: usize = 64;
        let mut inline = [None; INLINE];
        let mut spilled;
        let (columns, shard_cell) = match (change.op, &self.placement) {
            (Op::Upsert, Routing::Sharded { cell, .. }) => (self.sent.len(), Some(*cell)),
            (Op::Delete, Routing::Sharded { key_cell, .. }) => (self.key_cells.len(), *key_cell),
            (Op::Upsert, Routing::Broadcast { .. }) => (self.sent.len(), None),
            (Op::Delete, Routing::Broadcast { .. }) => (self.key_cells.len(), None),
        };
        let cells: &mut [Option<&'a [u8]>] = if columns <= INLINE {
            &mut inline[..columns]
        } else {
            spilled = vec![None; columns];
            &mut spilled
        };
        let mut count = 0;
        for cell in change.row()?.cells() {
            let Some(place) = cells.get_mut(count) else {
                return Err(RowError("the number of cells is not that of the columns"));
            };
            *place = cell?;
            count += 1;
        }
        if count != columns {
            return Err(RowError("the number of cells is not that of the columns"));
        }
        key.clear();
        let mut writer = RowWriter::new(key, self.key_cells.len());
        for (part, &cell) in self.key_cells.iter().enumerate() {
            let cell = if change.op == Op::Delete { part } else { cell };
            writer.bytes(cells[cell].ok_or(RowError("NULL in a primary key"))?);
        }
        writer.finish();
        match shard_cell {
            None => Ok(None),
            Some(cell) => cells[cell].map(Some).ok_or(RowError("NULL in a shard key")),
        }
    }
}
