//! A statement that wrote rows of another table: can it have written to more than that?
//!
//! A trigger, a view or a stored function may have, and the statement alone is in the log. The
//! server is asked as it is now; what the answer was is forgotten with each definition in the log.

use modshift_changelog::LogWriter;
use mysql_async::prelude::{FromRow, Queryable};

use super::Reader;
use crate::error::{Foreign, ReadError, server_error};
use crate::tail::Question;
use crate::token::within;

const ASKING: &str = "asking what a statement may have written";
/// This login, as information_schema names it.
const ME: &str = "CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', \
                  SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";

impl<W: LogWriter> Reader<W> {
    pub(super) async fn answer(&mut self, question: Question) -> Result<(), ReadError> {
        let mut why = match &question.target {
            Some((schema, table)) => self.target(schema, table).await?,
            None => None,
        };
        if why.is_none() && !question.calls.is_empty() {
            why = self.calls(&question.calls).await?;
        }
        if why.is_none() && question.reads {
            why = self.views().await?;
        }
        if let Some(why) = why {
            let Question { gtid, verb, statement, .. } = question;
            let (shard, what) = (self.shard, Foreign::Unseen { verb, statement, why });
            return Err(ReadError::Statement { shard, gtid, what });
        }
        if let Question { gtid, statement, target: Some((schema, table)), .. } = &question {
            tracing::info!(shard = self.shard.0, %gtid, statement, schema, table,
                "writes in statement format to a table that is not planned pass");
        }
        self.tail.passed(question);
        Ok(())
    }

    /// Why a statement that writes to this table may have written to others.
    async fn target(&self, schema: &str, table: &str) -> Result<Option<String>, ReadError> {
        let named = format!("{schema}.{table}");
        let (Some(schema), Some(table)) = (text(schema), text(table)) else {
            return Ok(Some(format!("the name of {named} cannot be asked for")));
        };
        // Triggers show to those alone who might make them.
        let sql = format!(
            "SELECT t.TABLE_TYPE = 'BASE TABLE', EXISTS (SELECT 1 FROM information_schema.TRIGGERS \
             WHERE EVENT_OBJECT_SCHEMA = {schema} AND EVENT_OBJECT_TABLE = {table}), \
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

    /// A view calls whatever functions it likes, and which views a statement reads through others is
    /// not ours to find out: where the server has no stored function, none is called.
    async fn views(&self) -> Result<Option<String>, ReadError> {
        let sql = "SELECT CONCAT(db, '.', name) FROM mysql.proc \
                   WHERE type IN ('FUNCTION', 'PACKAGE BODY') AND db NOT IN ('mysql', 'sys') LIMIT 1";
        let found: Option<String> = self.asked(sql).await?;
        Ok(found.map(|name| {
            format!(
                "it reads tables, one of which may be a view that calls {name} or another \
                 stored function"
            )
        }))
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

/// As a literal in any SQL mode; `None` where no such is.
fn text(name: &str) -> Option<String> {
    let plain = !name.contains(['\\', '\0']);
    plain.then(|| format!("'{}'", name.replace('\'', "''")))
}
