//! A statement that wrote rows of another table: can it have written to more than that?
//!
//! A trigger, a view or a stored function may have, and the statement alone is in the log. The
//! server is asked as it is now; what the answer was is forgotten with each definition in the log. One
//! that had happened by then, and comes in the log behind the statement, may have changed the answer: there
//! the reader halts if it takes a trigger, a view or a function away.

use std::collections::HashSet;

use modshift_changelog::LogWriter;
use modshift_mariadb::control::NOT_HOME_GUARD;
use mysql_async::prelude::{FromRow, Queryable};

use super::Reader;
use crate::binlog::{Name, Runs, view};
use crate::error::{Foreign, ReadError, server_error};
use crate::tail::Question;
use crate::token::within;

const ASKING: &str = "asking what a statement may have written";
/// This login, as information_schema names it.
const ME: &str = "CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', \
                  SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";

/// Views that one statement may read through others.
const VIEWS_MAX: usize = 1000;

impl<W: LogWriter> Reader<W> {
    pub(super) async fn answer(&mut self, question: Question) -> Result<(), ReadError> {
        if let Some(why) = self.unseen(&question).await? {
            let Question { gtid, verb, statement, .. } = question;
            let (shard, what) = (self.shard, Foreign::Unseen { verb, statement, why });
            return Err(ReadError::Statement { shard, gtid, what });
        }
        let Question { gtid, statement, targets, .. } = &question;
        for (schema, table) in targets {
            tracing::info!(shard = self.shard.0, %gtid, statement, schema, table,
                "writes in statement format to a table that is not planned pass");
        }
        // Asked last: nothing that had changed by then was seen in another form.
        let up_to: Option<String> = self.asked("SELECT @@gtid_binlog_pos").await?;
        let shard = self.shard;
        let up_to = up_to.unwrap_or_default().parse();
        let up_to = up_to.map_err(|source| ReadError::ProgressUnreadable { shard, source })?;
        self.tail.passed(question, up_to);
        Ok(())
    }

    /// Why a statement may have written more than it says.
    async fn unseen(&self, question: &Question) -> Result<Option<String>, ReadError> {
        let mut why = None;
        for (schema, table) in &question.targets {
            why = why.or(self.target(schema, table).await?);
        }
        if why.is_none() {
            why = self.calls(&question.calls).await?;
        }
        if why.is_none() && !question.reads.is_empty() {
            why = self.reads(&question.reads).await?;
        }
        Ok(why)
    }

    /// Why a statement that writes to this table may have written to others.
    async fn target(&self, schema: &str, table: &str) -> Result<Option<String>, ReadError> {
        let named = format!("{schema}.{table}");
        let (Some(schema), Some(table)) = (text(schema), text(table)) else {
            return Ok(Some(format!("the name of {named} cannot be asked for")));
        };
        // Triggers show to those alone who might make them. The home guard's write nothing.
        let sql = format!(
            "SELECT t.TABLE_TYPE = 'BASE TABLE', EXISTS (SELECT 1 FROM information_schema.TRIGGERS \
             WHERE EVENT_OBJECT_SCHEMA = {schema} AND EVENT_OBJECT_TABLE = {table} \
             AND {NOT_HOME_GUARD}), \
             EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {ME} \
             AND PRIVILEGE_TYPE = 'TRIGGER') OR EXISTS (SELECT 1 FROM \
             information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = {ME} \
             AND PRIVILEGE_TYPE = 'TRIGGER' AND {schema} LIKE TABLE_SCHEMA) \
             FROM information_schema.TABLES t \
             WHERE t.TABLE_SCHEMA = {schema} AND t.TABLE_NAME = {table}"
        );
        let found: Option<(bool, bool, bool)> = self.asked(&sql).await?;
        Ok(match found {
            None => Some(format!("{named} is not there any more, or modshift may not see it")),
            Some((false, ..)) => Some(format!("{named} is a view")),
            Some((true, true, _)) => Some(format!("{named} has triggers")),
            Some((true, false, false)) => {
                Some(format!("modshift may not see whether {named} has triggers"))
            }
            Some((true, false, true)) => None,
        })
    }

    async fn calls(&self, calls: &[String]) -> Result<Option<String>, ReadError> {
        if calls.is_empty() {
            return Ok(None);
        }
        let names: Option<Vec<String>> = calls.iter().map(|name| text(name)).collect();
        let Some(names) = names else {
            return Ok(Some("the name of a function in it cannot be asked for".to_owned()));
        };
        let names = names.join(", ");
        // A package's functions are not listed by their names.
        let sql = format!(
            "SELECT CONCAT(db, '.', name) FROM mysql.proc \
             WHERE name IN ({names}) OR type = 'PACKAGE BODY' LIMIT 1"
        );
        let found: Option<String> = self.asked(&sql).await?;
        Ok(found.map(|name| format!("it calls functions, and {name} may be or hold one of them")))
    }

    /// A view calls whatever functions it likes. Where the server has no stored function, none is
    /// called; else each view is looked into, and those that it reads.
    async fn reads(&self, reads: &[Option<(String, String)>]) -> Result<Option<String>, ReadError> {
        let sql = "SELECT CONCAT(db, '.', name) FROM mysql.proc \
                   WHERE type IN ('FUNCTION', 'PACKAGE BODY') AND db NOT IN ('mysql', 'sys') LIMIT 1";
        let found: Option<String> = self.asked(sql).await?;
        let Some(function) = found else { return Ok(None) };
        let may = |what: &str| {
            format!("{what} may be a view that calls {function} or another stored function")
        };
        let mut due: Vec<(String, String)> = Vec::new();
        for place in reads {
            match place {
                Some(at) => due.push(at.clone()),
                None => return Ok(Some(may("it reads tables, one of which"))),
            }
        }
        let mut seen = HashSet::new();
        while let Some((schema, table)) = due.pop() {
            if !seen.insert((schema.clone(), table.clone())) {
                continue;
            }
            let named = format!("{schema}.{table}");
            let (Some(in_schema), Some(name)) = (text(&schema), text(&table)) else {
                return Ok(Some(format!("the name of {named} cannot be asked for")));
            };
            if seen.len() > VIEWS_MAX {
                return Ok(Some("it reads more views than can be looked into".to_owned()));
            }
            let sql = format!(
                "SELECT t.TABLE_TYPE, v.VIEW_DEFINITION FROM information_schema.TABLES t \
                 LEFT JOIN information_schema.VIEWS v ON v.TABLE_SCHEMA = {in_schema} \
                 AND v.TABLE_NAME = {name} \
                 WHERE t.TABLE_SCHEMA = {in_schema} AND t.TABLE_NAME = {name}"
            );
            let found: Option<(String, Option<String>)> = self.asked(&sql).await?;
            let query = match found {
                None => {
                    return Ok(Some(format!(
                        "it reads {named}, which is not there any more, or modshift may not see it: \
                     {}",
                        may("it")
                    )));
                }
                Some((kind, _)) if kind != "VIEW" => continue,
                Some((_, query)) => query.filter(|query| !query.is_empty()),
            };
            let Some(query) = query else {
                return Ok(Some(format!("modshift may not see what the view {named} reads")));
            };
            let Some((calls, reads)) = inside(&schema, &query) else {
                return Ok(Some(format!("what the view {named} reads is not understood")));
            };
            if let Some(why) = self.calls(&calls).await? {
                return Ok(Some(format!("it reads the view {named}: {why}")));
            }
            due.extend(reads);
        }
        Ok(None)
    }

    async fn asked<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Option<T>, ReadError> {
        let failed = |error| server_error(&self.tailed, ASKING, error);
        let asking = async {
            let mut conn = self.desk.turn(&self.tailed).await?;
            let found = conn.query_first(sql).await.map_err(failed)?;
            conn.done();
            Ok(found)
        };
        within(&self.tailed, ASKING, asking).await
    }
}

/// Which functions a view calls, and the schema and name of what it reads.
type Inside = (Vec<String>, Vec<(String, String)>);

fn inside(schema: &str, query: &str) -> Option<Inside> {
    let Runs { calls, reads } = view(query.as_bytes())?;
    let calls = calls.iter().map(|name| Some(name.text()?.to_lowercase()));
    let reads = reads.iter().map(|table| {
        let named = table.schema.as_ref().map_or(Some(schema.to_owned()), Name::text);
        Some((named?, table.name.text()?))
    });
    Some((calls.collect::<Option<_>>()?, reads.collect::<Option<_>>()?))
}

/// As a literal in any SQL mode; `None` where no such is.
fn text(name: &str) -> Option<String> {
    let plain = !name.contains(['\\', '\0']);
    plain.then(|| format!("'{}'", name.replace('\'', "''")))
}
