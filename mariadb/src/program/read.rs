//! Reading programs from a server.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::{BEGIN, Kind, Program, RESET, drop_sql, header};
use crate::connect::label_of;
use crate::control::NOT_HOME_GUARD;
use crate::error::{self, ServerError};
use crate::value::quote;

/// Each question costs a round trip while the application waits.
const SHOWN_AT_ONCE: usize = 64;

/// A program by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub kind: Kind,
    pub name: String,
    pub table: String,
    /// `BEFORE INSERT` and the like. Empty for an event.
    pub when: String,
    definer: String,
    comment: String,
}

impl Named {
    pub fn of(program: &Program) -> Named {
        Named {
            kind: program.kind,
            name: program.name.clone(),
            table: program.table.clone(),
            when: program.when.clone(),
            definer: program.definer.clone(),
            comment: String::new(),
        }
    }

    pub fn drop(&self) -> String {
        drop_sql(self.kind, &self.name)
    }
}

/// Triggers of these tables, those of one table and time in the order in which they run; then all
/// events of the schema. The home guard's triggers are no part of the application.
pub async fn named(
    conn: &mut Conn,
    schema: &str,
    tables: &[String],
) -> Result<Vec<Named>, ServerError> {
    let at = label_of(conn);
    let of = |error| error::of(&at, "listing triggers and events", error);
    let sql = format!(
        "SELECT TRIGGER_NAME, EVENT_OBJECT_TABLE, \
         CONCAT(ACTION_TIMING, ' ', EVENT_MANIPULATION), DEFINER \
         FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = ? AND {NOT_HOME_GUARD} \
         ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER"
    );
    let rows: Vec<(String, String, String, String)> =
        conn.exec(sql, (schema,)).await.map_err(of)?;
    let of_trigger = |(name, table, when, definer)| Named {
        kind: Kind::Trigger,
        name,
        table,
        when,
        definer,
        comment: String::new(),
    };
    let mut found: Vec<Named> = rows.into_iter().map(of_trigger).collect();
    found.retain(|named| tables.contains(&named.table));
    let sql = "SELECT EVENT_NAME, DEFINER, EVENT_COMMENT FROM information_schema.EVENTS \
               WHERE EVENT_SCHEMA = ? ORDER BY EVENT_NAME";
    let rows: Vec<(String, String, String)> = conn.exec(sql, (schema,)).await.map_err(of)?;
    found.extend(rows.into_iter().map(|(name, definer, comment)| Named {
        kind: Kind::Event,
        name,
        table: String::new(),
        when: String::new(),
        definer,
        comment,
    }));
    Ok(found)
}

/// The whole of them, in the same order. An error of the kind that passes where one of them went
/// away meanwhile.
pub async fn read(
    conn: &mut Conn,
    schema: &str,
    tables: &[String],
) -> Result<Vec<Result<Program, Named>>, ServerError> {
    let at = label_of(conn);
    let of = |error| error::of(&at, "reading triggers and events", error);
    let found = named(conn, schema, tables).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut programs = Vec::with_capacity(found.len());
    // Without a character set for results nothing is converted.
    conn.query_drop(BEGIN).await.map_err(of)?;
    for some in found.chunks(SHOWN_AT_ONCE) {
        let show =
            |named: &Named| format!("SHOW CREATE {} {}", named.kind.sql(), quote(&named.name));
        let sql = some.iter().map(show).collect::<Vec<_>>().join("; ");
        let mut result = conn.query_iter(sql).await.map_err(of)?;
        for named in some {
            let rows: Vec<Row> = result.collect().await.map_err(of)?;
            let program = rows.first().and_then(|row| program(named, row));
            programs.push(program.ok_or_else(|| named.clone()));
        }
        result.drop_result().await.map_err(of)?;
    }
    conn.query_drop(RESET).await.map_err(of)?;
    Ok(programs)
}

/// The default of tables and variables in this schema.
pub async fn schema_collation(conn: &mut Conn, schema: &str) -> Result<String, ServerError> {
    let at = label_of(conn);
    let sql =
        "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
    let found: Option<String> = conn
        .exec_first(sql, (schema,))
        .await
        .map_err(|error| error::of(&at, "reading the schema's collation", error))?;
    Ok(found.unwrap_or_default())
}

/// `None`: its header is of a form that is not known.
fn program(named: &Named, row: &Row) -> Option<Program> {
    let bytes = |column: &str| match row.get::<Value, _>(column) {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    };
    let word = |column: &str| bytes(column).and_then(|bytes| String::from_utf8(bytes).ok());
    let (sql_mode, charset) = (word("sql_mode")?, word("character_set_client")?);
    let has = |mode: &str| sql_mode.split(',').any(|of| of == mode);
    let (header, body, time_zone) = match named.kind {
        Kind::Trigger => {
            let stored = bytes("SQL Original Statement")?;
            let body = header::of_trigger(&stored, &charset, has("ANSI_QUOTES"))?;
            (header::definer(&named.definer), body, "SYSTEM".to_owned())
        }
        Kind::Event => {
            let stored = bytes("Create Event")?;
            let comment = header::comment(&named.comment, has("NO_BACKSLASH_ESCAPES"));
            let (header, body) = header::of_event(&stored, &comment)?;
            (header, body, word("time_zone")?)
        }
    };
    Some(Program {
        kind: named.kind,
        name: named.name.clone(),
        table: named.table.clone(),
        when: named.when.clone(),
        definer: named.definer.clone(),
        collation: word("collation_connection")?,
        database_collation: word("Database Collation")?,
        sql_mode,
        charset,
        time_zone,
        header,
        body,
    })
}
