//! What a schema holds: tables with their columns and keys, and everything else that a reshard
//! must not leave behind unseen.
//!
//! Read from information_schema, which shows only what the account may see.

mod fault;

pub use self::fault::CatalogError;

use std::collections::HashMap;

use modshift_proto::schema::{Column, TableSchema, UniqueKey};
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, FromRowError, Params, Row};

use crate::column_type;
use crate::connect::label_of;
use crate::control::NOT_HOME_GUARD;
use crate::error;
use crate::value::quote;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Table,
    View,
    Sequence,
    /// `WITH SYSTEM VERSIONING`.
    Versioned,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    pub name: String,
    pub kind: TableKind,
    /// `None` for views.
    pub engine: Option<String>,
    /// InnoDB estimates.
    pub rows_estimated: u64,
    pub data_bytes: u64,
    pub index_bytes: u64,
    /// The next value, where the table has such a column.
    pub auto_increment: Option<u64>,
    pub collation: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutineInfo {
    pub name: String,
    /// `PROCEDURE`, `FUNCTION`, `PACKAGE` …
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerInfo {
    pub name: String,
    pub table: String,
    /// `BEFORE INSERT` and the like.
    pub when: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    pub name: String,
    /// `ENABLED`, `DISABLED`, `SLAVESIDE_DISABLED`.
    pub status: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub schema: String,
    pub name: String,
    pub table: String,
    pub columns: Vec<String>,
    pub parent_schema: String,
    pub parent_table: String,
    pub parent_columns: Vec<String>,
    /// `RESTRICT`, `NO ACTION`, `CASCADE`, `SET NULL`, `SET DEFAULT`.
    pub on_delete: String,
    pub on_update: String,
}

impl ForeignKey {
    /// Writes of the parent change rows of this table without a trace in the binlog.
    pub fn cascades(&self) -> bool {
        let acts = |rule: &str| !matches!(rule, "RESTRICT" | "NO ACTION");
        acts(&self.on_delete) || acts(&self.on_update)
    }
}

/// Columns and keys of one table. A table without a primary key has an empty one.
pub async fn table(
    conn: &mut Conn,
    schema: &str,
    table: &str,
) -> Result<TableSchema, CatalogError> {
    let name = existing(conn, schema, table).await?;
    let columns = columns(conn, schema, &name).await?;
    let keys = unique_keys(conn, schema, &name, &columns).await?;
    let (primary, unique_keys): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| key.name == "PRIMARY");
    let primary_key = primary.into_iter().next().map(|key| key.columns).unwrap_or_default();
    Ok(TableSchema { name, columns, primary_key, unique_keys })
}

/// The table's name, which must be as the server spells it, since the binlog and information_schema
/// have it so. Some servers take any other spelling for the same (`lower_case_table_names`).
async fn existing(conn: &mut Conn, schema: &str, table: &str) -> Result<String, CatalogError> {
    const DOING: &str = "looking for a table";
    let found: Vec<(String, String, bool)> = query(
        conn,
        DOING,
        "SELECT TABLE_NAME, TABLE_TYPE, @@global.lower_case_table_names <> 0 FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
        (schema, table),
    )
    .await?;
    let at = label_of(conn);
    let (schema, table) = (schema.to_owned(), table.to_owned());
    let exact = found.iter().position(|(name, ..)| *name == table).unwrap_or(0);
    match found.into_iter().nth(exact) {
        None => Err(CatalogError::NoSuchTable { at, schema, table }),
        Some((name, _, false)) if name != table => {
            Err(CatalogError::NoSuchTable { at, schema, table })
        }
        Some((spelled, ..)) if spelled != table => {
            Err(CatalogError::SpelledOtherwise { at, schema, table, spelled })
        }
        Some((name, kind, _)) if kind == "BASE TABLE" => Ok(name),
        Some((_, kind, _)) => {
            Err(CatalogError::NotATable { at, schema, table, kind: kind.to_lowercase() })
        }
    }
}

async fn columns(conn: &mut Conn, schema: &str, table: &str) -> Result<Vec<Column>, CatalogError> {
    const DOING: &str = "reading the columns of a table";
    let rows: Vec<Row> = query(
        conn,
        DOING,
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, \
                IS_NULLABLE, IS_GENERATED, CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, \
                NUMERIC_SCALE, DATETIME_PRECISION \
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
         ORDER BY ORDINAL_POSITION",
        (schema, table),
    )
    .await?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        let read = || {
            Some((
                take::<String>(&row, 0)?,
                take::<String>(&row, 1)?,
                take::<String>(&row, 2)?,
                take::<Option<String>>(&row, 3)?,
                take::<Option<String>>(&row, 4)?,
                take::<String>(&row, 5)?,
                take::<String>(&row, 6)?,
                column_type::Sizes {
                    octets: take(&row, 7)?,
                    precision: take(&row, 8)?,
                    scale: take(&row, 9)?,
                    fraction: take(&row, 10)?,
                },
            ))
        };
        let (name, data_type, type_text, charset, collation, nullable, generated, sizes) =
            read().ok_or_else(|| CatalogError::Form { at: label_of(conn), doing: DOING })?;
        let data = column_type::data_type(&data_type, &type_text, sizes).ok_or_else(|| {
            CatalogError::UnsupportedType {
                at: label_of(conn),
                table: table.to_owned(),
                column: name.clone(),
                type_text: type_text.clone(),
            }
        })?;
        columns.push(Column {
            name,
            data,
            type_text,
            charset,
            collation,
            nullable: nullable == "YES",
            generated: generated == "ALWAYS",
        });
    }
    Ok(columns)
}

async fn unique_keys(
    conn: &mut Conn,
    schema: &str,
    table: &str,
    columns: &[Column],
) -> Result<Vec<UniqueKey>, CatalogError> {
    const DOING: &str = "reading the keys of a table";
    let rows: Vec<(String, String, Option<u64>, String)> = query(
        conn,
        DOING,
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART, INDEX_TYPE FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0 \
         ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        (schema, table),
    )
    .await?;
    let mut keys: Vec<UniqueKey> = Vec::new();
    for (key, column, prefix, kind) in rows {
        // A prefix decides what a duplicate is, and no value of ours equals it: neither paging
        // nor finding the row that holds a value would be right.
        if let Some(length) = prefix {
            let (at, table) = (label_of(conn), table.to_owned());
            return Err(CatalogError::PrefixKey { at, table, key, column, length });
        }
        let index = columns.iter().position(|c| c.name == column);
        let index = index.ok_or_else(|| CatalogError::Form { at: label_of(conn), doing: DOING })?;
        match keys.last_mut() {
            Some(last) if last.name == key => last.columns.push(index),
            _ => {
                let hashed = kind.eq_ignore_ascii_case("HASH");
                keys.push(UniqueKey { name: key, columns: vec![index], hashed });
            }
        }
    }
    Ok(keys)
}

/// Tables, views and sequences, by name.
pub async fn tables(conn: &mut Conn, schema: &str) -> Result<Vec<TableInfo>, CatalogError> {
    const DOING: &str = "listing tables";
    let rows: Vec<Row> = query(
        conn,
        DOING,
        "SELECT TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS, DATA_LENGTH, INDEX_LENGTH, \
                AUTO_INCREMENT, TABLE_COLLATION \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? ORDER BY TABLE_NAME",
        (schema,),
    )
    .await?;
    let read = |row: Row| {
        Some(TableInfo {
            name: take(&row, 0)?,
            kind: match take::<String>(&row, 1)?.as_str() {
                "BASE TABLE" => TableKind::Table,
                "VIEW" => TableKind::View,
                "SEQUENCE" => TableKind::Sequence,
                "SYSTEM VERSIONED" => TableKind::Versioned,
                _ => TableKind::Other,
            },
            engine: take(&row, 2)?,
            rows_estimated: take::<Option<u64>>(&row, 3)?.unwrap_or(0),
            data_bytes: take::<Option<u64>>(&row, 4)?.unwrap_or(0),
            index_bytes: take::<Option<u64>>(&row, 5)?.unwrap_or(0),
            auto_increment: take(&row, 6)?,
            collation: take(&row, 7)?,
        })
    };
    let at = label_of(conn);
    rows.into_iter()
        .map(|row| read(row).ok_or_else(|| CatalogError::Form { at: at.clone(), doing: DOING }))
        .collect()
}

pub async fn routines(conn: &mut Conn, schema: &str) -> Result<Vec<RoutineInfo>, CatalogError> {
    let rows: Vec<(String, String)> = query(
        conn,
        "listing routines",
        "SELECT ROUTINE_NAME, ROUTINE_TYPE FROM information_schema.ROUTINES \
         WHERE ROUTINE_SCHEMA = ? ORDER BY ROUTINE_NAME, ROUTINE_TYPE",
        (schema,),
    )
    .await?;
    Ok(rows.into_iter().map(|(name, kind)| RoutineInfo { name, kind }).collect())
}

/// Without those of the home guard.
pub async fn triggers(conn: &mut Conn, schema: &str) -> Result<Vec<TriggerInfo>, CatalogError> {
    let sql = format!(
        "SELECT TRIGGER_NAME, EVENT_OBJECT_TABLE, CONCAT(ACTION_TIMING, ' ', EVENT_MANIPULATION) \
         FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = ? AND {NOT_HOME_GUARD} \
         ORDER BY EVENT_OBJECT_TABLE, TRIGGER_NAME"
    );
    let rows: Vec<(String, String, String)> =
        query(conn, "listing triggers", &sql, (schema,)).await?;
    Ok(rows.into_iter().map(|(name, table, when)| TriggerInfo { name, table, when }).collect())
}

pub async fn events(conn: &mut Conn, schema: &str) -> Result<Vec<EventInfo>, CatalogError> {
    let rows: Vec<(String, String)> = query(
        conn,
        "listing events",
        "SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS \
         WHERE EVENT_SCHEMA = ? ORDER BY EVENT_NAME",
        (schema,),
    )
    .await?;
    Ok(rows.into_iter().map(|(name, status)| EventInfo { name, status }).collect())
}

/// Foreign keys of the schema's tables and of tables elsewhere that point into it.
pub async fn foreign_keys(conn: &mut Conn, schema: &str) -> Result<Vec<ForeignKey>, CatalogError> {
    const DOING: &str = "listing foreign keys";
    let rows: Vec<Row> = query(
        conn,
        DOING,
        "SELECT k.TABLE_SCHEMA, k.CONSTRAINT_NAME, k.TABLE_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, \
                k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE \
         FROM information_schema.KEY_COLUMN_USAGE k \
         JOIN information_schema.REFERENTIAL_CONSTRAINTS r \
           ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.TABLE_NAME = k.TABLE_NAME \
          AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME \
         WHERE (k.TABLE_SCHEMA = ? OR k.REFERENCED_TABLE_SCHEMA = ?) \
           AND k.REFERENCED_TABLE_NAME IS NOT NULL \
         ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION",
        (schema, schema),
    )
    .await?;
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in rows {
        let read = || {
            let key = ForeignKey {
                schema: take(&row, 0)?,
                name: take(&row, 1)?,
                table: take(&row, 2)?,
                columns: vec![take(&row, 3)?],
                parent_schema: take(&row, 4)?,
                parent_table: take(&row, 5)?,
                parent_columns: vec![take(&row, 6)?],
                on_delete: take(&row, 7)?,
                on_update: take(&row, 8)?,
            };
            Some(key)
        };
        let key = read().ok_or_else(|| CatalogError::Form { at: label_of(conn), doing: DOING })?;
        match keys.last_mut() {
            Some(last)
                if (&last.schema, &last.table, &last.name)
                    == (&key.schema, &key.table, &key.name) =>
            {
                last.columns.extend(key.columns);
                last.parent_columns.extend(key.parent_columns);
            }
            _ => keys.push(key),
        }
    }
    Ok(keys)
}

/// Numbers of collations by name. The same name may stand for one of each character set (from
/// 10.10 on): those have longer names too.
pub async fn collations(conn: &mut Conn) -> Result<HashMap<String, u16>, CatalogError> {
    const DOING: &str = "listing collations";
    const UNKNOWN_COLUMN: u16 = 1054;
    let sql = "SELECT COLLATION_NAME, ID FROM information_schema.COLLATIONS WHERE ID IS NOT NULL";
    let short: Vec<(String, u16)> = query(conn, DOING, sql, ()).await?;
    let sql = "SELECT FULL_COLLATION_NAME, ID FROM \
               information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL";
    let long: Vec<(String, u16)> = match query(conn, DOING, sql, ()).await {
        Err(CatalogError::Server(error)) if error.code() == Some(UNKNOWN_COLUMN) => Vec::new(),
        long => long?,
    };
    Ok(short.into_iter().chain(long).collect())
}

/// The statement that makes the table.
pub async fn show_create_table(
    conn: &mut Conn,
    schema: &str,
    table: &str,
) -> Result<String, CatalogError> {
    const DOING: &str = "reading how a table is made";
    let statement = format!("SHOW CREATE TABLE {}.{}", quote(schema), quote(table));
    let row: Option<Row> = conn.query_first(statement).await.map_err(|error| {
        let at = label_of(conn);
        match error {
            mysql_async::Error::Server(error) if error.code == 1146 => {
                CatalogError::NoSuchTable { at, schema: schema.to_owned(), table: table.to_owned() }
            }
            error => error::of(&at, DOING, error).into(),
        }
    })?;
    row.and_then(|row| take(&row, 1))
        .ok_or_else(|| CatalogError::Form { at: label_of(conn), doing: DOING })
}

/// The same without the counter of AUTO_INCREMENT, which moves with the rows: while this text stays
/// the same, so does the table's definition. One small question. The text depends on the session
/// (sql_mode), so it is compared with what a session of the same kind was told.
pub async fn made(conn: &mut Conn, schema: &str, table: &str) -> Result<String, CatalogError> {
    let text = show_create_table(conn, schema, table).await?;
    let counter = |word: &&str| !word.starts_with("AUTO_INCREMENT=");
    let line = |line: &str| match line.starts_with(')') {
        true => line.split(' ').filter(counter).collect::<Vec<_>>().join(" "),
        false => line.to_owned(),
    };
    Ok(text.lines().map(line).collect::<Vec<_>>().join("\n"))
}

/// The column at `index`, if it is there and of that type.
fn take<T: mysql_async::prelude::FromValue>(row: &Row, index: usize) -> Option<T> {
    row.get_opt(index)?.ok()
}

async fn query<T, P>(
    conn: &mut Conn,
    doing: &'static str,
    statement: &str,
    params: P,
) -> Result<Vec<T>, CatalogError>
where
    T: FromRow + Send + 'static,
    P: Into<Params> + Send,
{
    let rows: Vec<Row> = conn
        .exec(statement, params)
        .await
        .map_err(|error| error::of(&label_of(conn), doing, error))?;
    let read = |row| T::from_row_opt(row).map_err(|FromRowError(_)| ());
    rows.into_iter()
        .map(read)
        .collect::<Result<_, ()>>()
        .map_err(|()| CatalogError::Form { at: label_of(conn), doing })
}
