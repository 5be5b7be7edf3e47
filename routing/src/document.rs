//! The routing document: a plan, a side and a version become JSON that an application can route by
//! without knowing modshift; a table and a key become the shard that holds its rows.
//!
//! ```json
//! {
//!   "format": 1, "plan": "shop", "version": 7, "side": "new", "modulus": 4,
//!   "shards": [{"index": 0, "host": "shop-0.vip", "port": 3306, "schema": "shop_0",
//!               "server": {"host": "db-new-0", "port": 3306}}, …],
//!   "tables": {
//!     "t_trade_order": {"rule": "floor_mod", "key": "accountNo"},
//!     "user_session": {"rule": "crc32", "key": "uid", "charset": "utf8mb4"},
//!     "currency": {"rule": "broadcast"}
//!   },
//!   "default": {"rule": "floor_mod"}
//! }
//! ```
//!
//! A reader ignores fields that it does not know and refuses a `format` that it does not know:
//! whatever changes where a row lies raises the format. Placing a key is the code by which the
//! daemons place rows. No I/O here.

use std::collections::BTreeMap;

use modshift_proto::plan::{HostPort, Placement, Plan};
use modshift_proto::row::{RowError, RowView, RowWriter};
use modshift_proto::rule::{Charset, ShardRule};
use modshift_proto::{Column, DataType, Modulus};
use serde::{Deserialize, Serialize};

/// What this code writes, and all that it reads.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    pub format: u32,
    /// The reshard that it belongs to; targets and clients keep those of different plans apart.
    pub plan: String,
    /// Rises with every publication, whichever side it names.
    pub version: u64,
    pub side: Side,
    pub modulus: u16,
    /// In order of their index; as many as the modulus.
    pub shards: Vec<Shard>,
    /// Every table of the plan.
    pub tables: BTreeMap<String, TableRule>,
    /// The rule of tables that are not listed; only where all sharded tables have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultRule>,
}

/// Which shards serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Old,
    New,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Old => "old",
            Side::New => "new",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub index: u16,
    /// With `port` the address that applications use.
    pub host: String,
    pub port: u16,
    pub schema: String,
    /// The server behind it, where that has another address: for people and tools, clients do
    /// without. The first documents had no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

/// A server as modshift reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

/// How a table's rows are placed; `key` is the column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum TableRule {
    FloorMod {
        key: String,
    },
    AbsMod {
        key: String,
    },
    Crc32 {
        key: String,
        charset: String,
    },
    /// The same rows on every shard.
    Broadcast,
}

/// The same for any table, whatever its key is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum DefaultRule {
    FloorMod,
    AbsMod,
    Crc32 { charset: String },
}

/// The value of a shard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Int(i64),
    UInt(u64),
    /// Hashed as the bytes of the rule's character set. A key of a CHAR column is given as the
    /// server shows it: without trailing spaces.
    Text(&'a str),
    /// The bytes that are hashed, as they are.
    Bytes(&'a [u8]),
}

/// The text is not a document that can be routed by.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("not a routing document: {0}")]
    Json(#[from] serde_json::Error),
    #[error("routing document of format {found}, known is {FORMAT}")]
    Format { found: u64 },
    #[error("routing document contradicts itself: {0}")]
    Malformed(String),
}

/// The document does not place this key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("table {table} is not in routing version {version}, which has no default rule")]
    UnknownTable { table: String, version: u64 },
    #[error("table {table} is on every shard: write to all of them, read from any")]
    Broadcast { table: String },
    #[error("the key of {table} is {found}, rule {rule} places {needs}")]
    KeyKind { table: String, rule: &'static str, found: &'static str, needs: &'static str },
    #[error("the key of {table} cannot be written in {charset}")]
    Charset { table: String, charset: &'static str },
}

impl Document {
    /// `plan` is the plan as written, never the reversed one: `side` says who serves.
    pub fn of_plan(plan: &Plan, side: Side, version: u64) -> Document {
        let (modulus, endpoints) = match side {
            Side::Old => (plan.old_modulus, &plan.old),
            Side::New => (plan.new_modulus, &plan.new),
        };
        let shards = endpoints.iter().zip(0..).map(|(endpoint, index)| {
            let HostPort { host, port } = endpoint.application();
            let server = || Server { host: endpoint.host.clone(), port: endpoint.port };
            let server = endpoint.application.is_some().then(server);
            Shard { index, host, port, schema: endpoint.schema.clone(), server }
        });
        let tables = plan.tables.iter().map(|table| {
            let rule = match &table.placement {
                Placement::Broadcast { .. } => TableRule::Broadcast,
                Placement::Sharded { key, rule } => TableRule::of_rule(key.clone(), rule),
            };
            (table.name.clone(), rule)
        });
        let mut rules = plan.tables.iter().filter_map(|table| match &table.placement {
            Placement::Sharded { rule, .. } => Some(rule),
            Placement::Broadcast { .. } => None,
        });
        let first = rules.next().filter(|first| rules.all(|rule| rule == *first));
        Document {
            format: FORMAT,
            plan: plan.name.clone(),
            version,
            side,
            modulus: modulus.get(),
            shards: shards.collect(),
            tables: tables.collect(),
            default: first.map(DefaultRule::of_rule),
        }
    }

    /// One line per table and shard: people read it too.
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with string keys always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub fn from_json(text: &[u8]) -> Result<Document, DocumentError> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let head: Head = serde_json::from_slice(text)?;
        if head.format != u64::from(FORMAT) {
            return Err(DocumentError::Format { found: head.format });
        }
        let document: Document = serde_json::from_slice(text)?;
        document.check().map_err(DocumentError::Malformed)?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        if self.modulus == 0 || self.shards.len() != usize::from(self.modulus) {
            let (modulus, shards) = (self.modulus, self.shards.len());
            return Err(format!("modulus {modulus} with {shards} shards"));
        }
        if let Some((at, shard)) = (0..).zip(&self.shards).find(|(at, shard)| *at != shard.index) {
            return Err(format!("shard {} in the place of shard {at}", shard.index));
        }
        let of_tables = self.tables.values().filter_map(|rule| match rule {
            TableRule::Crc32 { charset, .. } => Some(charset),
            _ => None,
        });
        let of_default = self.default.iter().filter_map(|rule| match rule {
            DefaultRule::Crc32 { charset } => Some(charset),
            _ => None,
        });
        match of_tables.chain(of_default).find(|name| Charset::from_name(name).is_none()) {
            Some(unknown) => Err(format!("unknown character set {unknown}")),
            None => Ok(()),
        }
    }

    /// The shard that holds the rows of a table with this key.
    pub fn route<'a>(&self, table: &str, key: impl Into<Key<'a>>) -> Result<&Shard, RouteError> {
        let rule = self.rule(table)?;
        let modulus = Modulus::new(self.modulus);
        let shard = match (modulus, key.into()) {
            (None, _) => None,
            (Some(modulus), key) => Some(place(table, &rule, key, modulus)?),
        };
        // `from_json` and `of_plan` give a shard to every remainder.
        shard.and_then(|shard| self.shards.get(usize::from(shard))).ok_or_else(|| {
            RouteError::UnknownTable { table: table.to_owned(), version: self.version }
        })
    }

    fn rule(&self, table: &str) -> Result<ShardRule, RouteError> {
        let unknown =
            || RouteError::UnknownTable { table: table.to_owned(), version: self.version };
        let crc32 = |charset: &str| {
            let charset = Charset::from_name(charset).ok_or_else(unknown)?;
            Ok(ShardRule::Crc32 { charset })
        };
        match (self.tables.get(table), &self.default) {
            (Some(TableRule::FloorMod { .. }), _) => Ok(ShardRule::FloorMod),
            (Some(TableRule::AbsMod { .. }), _) => Ok(ShardRule::AbsMod),
            (Some(TableRule::Crc32 { charset, .. }), _) => crc32(charset),
            (Some(TableRule::Broadcast), _) => {
                Err(RouteError::Broadcast { table: table.to_owned() })
            }
            (None, Some(DefaultRule::FloorMod)) => Ok(ShardRule::FloorMod),
            (None, Some(DefaultRule::AbsMod)) => Ok(ShardRule::AbsMod),
            (None, Some(DefaultRule::Crc32 { charset })) => crc32(charset),
            (None, None) => Err(unknown()),
        }
    }
}

impl TableRule {
    fn of_rule(key: String, rule: &ShardRule) -> TableRule {
        match rule {
            ShardRule::FloorMod => TableRule::FloorMod { key },
            ShardRule::AbsMod => TableRule::AbsMod { key },
            ShardRule::Crc32 { charset } => {
                TableRule::Crc32 { key, charset: charset.name().to_owned() }
            }
        }
    }
}

impl DefaultRule {
    fn of_rule(rule: &ShardRule) -> DefaultRule {
        match rule {
            ShardRule::FloorMod => DefaultRule::FloorMod,
            ShardRule::AbsMod => DefaultRule::AbsMod,
            ShardRule::Crc32 { charset } => {
                DefaultRule::Crc32 { charset: charset.name().to_owned() }
            }
        }
    }
}

/// By the daemons' own way: the key becomes a cell of a column to which the rule is bound.
fn place(table: &str, rule: &ShardRule, key: Key<'_>, modulus: Modulus) -> Result<u16, RouteError> {
    let mut row = Vec::new();
    let mut cell = RowWriter::new(&mut row, 1);
    let (data, charset) = match (rule, key) {
        (ShardRule::FloorMod | ShardRule::AbsMod, Key::Int(value)) => {
            cell.int(value);
            (DataType::Int { bytes: 8, unsigned: false }, None)
        }
        (ShardRule::FloorMod | ShardRule::AbsMod, Key::UInt(value)) => {
            cell.uint(value);
            (DataType::Int { bytes: 8, unsigned: true }, None)
        }
        (ShardRule::Crc32 { charset }, Key::Text(text)) => {
            let bytes = charset.encode(text).ok_or_else(|| RouteError::Charset {
                table: table.to_owned(),
                charset: charset.name(),
            })?;
            cell.bytes(&bytes);
            (DataType::VarChar, Some(*charset))
        }
        (ShardRule::Crc32 { charset }, Key::Bytes(bytes)) => {
            cell.bytes(bytes);
            (DataType::VarChar, Some(*charset))
        }
        (rule, key) => {
            let needs = match rule {
                ShardRule::Crc32 { .. } => "text or bytes",
                _ => "an integer",
            };
            let (table, rule) = (table.to_owned(), rule.name());
            return Err(RouteError::KeyKind { table, rule, found: key.kind(), needs });
        }
    };
    cell.finish();
    let column = Column {
        name: String::new(),
        data,
        type_text: String::new(),
        charset: charset.map(|charset| charset.name().to_owned()),
        collation: None,
        nullable: false,
        generated: false,
    };
    let shard = rule.bind(&column).ok().and_then(|bound| first_cell(&row).map(|c| (bound, c)));
    // A rule binds to the column made for it, and places the cell just written.
    let shard = shard.and_then(|(bound, cell)| bound.place(cell, modulus).ok());
    shard.ok_or_else(|| RouteError::KeyKind {
        table: table.to_owned(),
        rule: rule.name(),
        found: key.kind(),
        needs: "another value",
    })
}

fn first_cell(row: &[u8]) -> Option<&[u8]> {
    let cell = |row| -> Result<Option<&[u8]>, RowError> {
        RowView::parse(row)?.cells().next().transpose().map(Option::flatten)
    };
    cell(row).ok().flatten()
}

impl Key<'_> {
    fn kind(self) -> &'static str {
        match self {
            Key::Int(_) | Key::UInt(_) => "an integer",
            Key::Text(_) => "text",
            Key::Bytes(_) => "bytes",
        }
    }
}

macro_rules! key_from {
    ($($from:ty => $variant:ident as $to:ty),*) => {
        $(impl From<$from> for Key<'_> {
            fn from(value: $from) -> Self {
                Key::$variant(<$to>::from(value))
            }
        })*
    };
}

key_from!(i8 => Int as i64, i16 => Int as i64, i32 => Int as i64, i64 => Int as i64,
    u8 => UInt as u64, u16 => UInt as u64, u32 => UInt as u64, u64 => UInt as u64);

impl<'a> From<&'a str> for Key<'a> {
    fn from(text: &'a str) -> Self {
        Key::Text(text)
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(text: &'a String) -> Self {
        Key::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Key::Bytes(bytes)
    }
}
