//! The tables of a shard, and an SQL text for each column from which its bytes can be told.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;

use crate::server::Address;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableColumns {
    pub table: String,
    /// In their order in the table.
    columns: Vec<Column>,
    /// Of the primary key, in the key's order.
    key: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    /// `int`, `varchar`, …
    data_type: String,
    /// With length, sign and the like: two shards must agree in it.
    column_type: String,
    charset: Option<String>,
}

/// Every table of the shard, the product's own (`modshift_…`) left out.
pub(super) async fn tables(place: &Address) -> Result<BTreeMap<String, TableColumns>> {
    let mut conn = place.connect().await?;
    let names: Vec<String> = conn
        .exec(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? \
             AND TABLE_TYPE = 'BASE TABLE' AND TABLE_NAME NOT LIKE 'modshift\\_%'",
            (&place.schema,),
        )
        .await?;
    let mut tables = BTreeMap::new();
    for table in names {
        let columns: Vec<(String, String, String, Option<String>)> = conn
            .exec(
                "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
                 ORDER BY ORDINAL_POSITION",
                (&place.schema, &table),
            )
            .await?;
        let key: Vec<String> = conn
            .exec(
                "SELECT COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? \
                 AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX",
                (&place.schema, &table),
            )
            .await?;
        if key.is_empty() {
            bail!("table {table} on {place} has no primary key");
        }
        let columns = columns
            .into_iter()
            .map(|(name, data_type, column_type, charset)| Column {
                name,
                data_type: data_type.to_lowercase(),
                column_type,
                charset,
            })
            .collect();
        tables.insert(table.clone(), TableColumns { table, columns, key });
    }
    conn.disconnect().await?;
    Ok(tables)
}

impl Column {
    /// Equal texts mean equal bytes. Digits, signs and hexadecimal only, so no character set and
    /// no collation plays a part.
    fn text(&self) -> Result<String> {
        let c = format!("`{}`", self.name);
        Ok(match self.data_type.as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "double"
            | "date" | "time" | "datetime" | "timestamp" | "year" => format!("CAST({c} AS CHAR)"),
            // By itself a FLOAT is shown with six digits.
            "float" => format!("CAST(CAST({c} AS DOUBLE) AS CHAR)"),
            "bit" => format!("CAST({c}+0 AS CHAR)"),
            // The number too: the error value and an empty label read the same.
            "enum" | "set" => format!("CONCAT({c}+0, ':', HEX({c}))"),
            "inet6" | "uuid" => format!("HEX(CAST({c} AS BINARY(16)))"),
            "inet4" => format!("HEX(CAST({c} AS BINARY(4)))"),
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "json"
            | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob"
            | "geometry" | "point" | "linestring" | "polygon" => format!("HEX({c})"),
            other => bail!("column {c}: the oracle has no exact text for type {other}"),
        })
    }
}

impl TableColumns {
    fn key_texts(&self) -> Result<Vec<String>> {
        let column = |name: &String| self.columns.iter().find(|column| column.name == *name);
        self.key.iter().map(|name| column(name).context("a key of no column")?.text()).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    fn texts(&self) -> Result<Vec<String>> {
        self.columns.iter().map(Column::text).collect()
    }

    /// Place under either modulus, key, then every column.
    pub fn select(&self, old_place: &str, new_place: &str) -> Result<String> {
        Ok(format!(
            "SELECT {old_place}, {new_place}, CONCAT_WS('|', {}), {} FROM `{}`",
            self.key_texts()?.join(", "),
            self.texts()?.join(", "),
            self.table
        ))
    }

    /// Every column of the row with this key.
    pub fn select_one(&self, key: &str) -> Result<String> {
        Ok(format!(
            "SELECT {} FROM `{}` WHERE CONCAT_WS('|', {}) = '{key}'",
            self.texts()?.join(", "),
            self.table,
            self.key_texts()?.join(", "),
        ))
    }
}
