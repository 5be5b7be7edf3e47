//! Statements in the log: which of them may pass.
//!
//! What ends a group, or is known to change no planned row, goes by; everything else halts by name.
//! Rows written in statement format pass where they are none of a planned table; what the statement
//! does not say, such as triggers, is for the reader to ask ([`Question`]).

use std::collections::HashSet;

use modshift_changelog::LogWriter;
use modshift_mariadb::control;
use modshift_proto::Gtid;

use super::Tail;
use super::group::{RollbackError, spill_error};
use crate::binlog::{
    Charset, Lexis, Name, Runs, Savepoint, Statement, Table, Touched, Write, read_statement,
    savepoint, without_values,
};
use crate::error::{Foreign, ReadError};
use crate::history::Opening;
use crate::publish::Publisher;

/// A statement of which only the server knows whether it can have written to other tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub gtid: Gtid,
    pub verb: String,
    pub statement: String,
    /// Schema and name of the table that is written.
    pub target: Option<(String, String)>,
    /// Names of functions that may be stored ones.
    pub calls: Vec<String>,
    /// It reads tables, of which one may be a view that calls a stored function.
    pub reads: bool,
}

/// What the server was asked about before. Forgotten with each definition in the log.
#[derive(Default)]
pub(super) struct Plain {
    /// Have no triggers, and are no views.
    tables: HashSet<(String, String)>,
    /// Are no stored functions.
    functions: HashSet<String>,
    /// There are no stored functions at all that a view could call.
    reads: bool,
}

/// An application that writes so many in statement format is asked about again.
const PLAIN_MAX: usize = 10_000;

impl Plain {
    fn table(&mut self, table: (String, String)) {
        if self.tables.len() >= PLAIN_MAX {
            self.tables.clear();
        }
        self.tables.insert(table);
    }

    fn passed(&mut self, question: Question) {
        let Question { target, calls, reads, .. } = question;
        if let Some(table) = target {
            self.table(table);
        }
        if self.functions.len() + calls.len() > PLAIN_MAX {
            self.functions.clear();
        }
        self.functions.extend(calls);
        self.reads |= reads;
    }
}

impl Tail {
    pub(super) async fn query<W: LogWriter>(
        &mut self,
        schema: &[u8],
        sql: &[u8],
        lexis: Lexis,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let statement = read_statement(sql, lexis);
        let Some(group) = &mut self.group else {
            return Err(ReadError::NoGroup { shard: self.shard, what: "a statement" });
        };
        if !matches!(statement, Statement::Begin) {
            group.events += 1;
            group.hash.query(sql);
        }
        let (gtid, standalone) = (group.gtid, group.standalone);
        let mut committed = true;
        let ends = match statement {
            Statement::Begin => false,
            Statement::Commit => true,
            Statement::Savepoint => {
                self.savepoint(sql, lexis)?;
                false
            }
            Statement::Rollback if group.was_sent() => {
                return Err(ReadError::RollbackInGroup { shard: self.shard, gtid });
            }
            Statement::Rollback => {
                if group.planned && !matches!(group.opening, Opening::Proof) {
                    tracing::info!(shard = self.shard.0, %gtid, changes = group.changes,
                        "a group that was rolled back is in the binlog: it does not count");
                }
                committed = false;
                true
            }
            Statement::Harmless(_) => standalone,
            Statement::Definition { what } => {
                // A table may have got triggers.
                self.plain = Plain::default();
                if self.is_ours(schema) {
                    // What a routine or trigger does is in the log as rows. `check` tells that
                    // the new shards lack it.
                    tracing::warn!(shard = self.shard.0, %gtid, what, "a definition has changed");
                }
                standalone
            }
            Statement::Schema { what, schema: name } => {
                self.plain = Plain::default();
                if name.may_be(&self.schema.0, self.fold_names) {
                    let (what, statement) = (what.to_owned(), without_values(sql));
                    return Err(self.foreign(gtid, Foreign::Ddl { what, statement }));
                }
                standalone
            }
            Statement::Tables { what, touched, runs } => {
                self.tables_defined(gtid, schema, sql, &what, &touched)?;
                if !runs.nothing() {
                    self.ask(gtid, schema, sql, Write { verb: what, target: None, runs })?;
                }
                standalone
            }
            Statement::Write(write) => {
                self.ask(gtid, schema, sql, write)?;
                standalone
            }
            Statement::Xa => return Err(self.foreign(gtid, Foreign::Xa)),
            Statement::Unknown => {
                let statement = without_values(sql);
                return Err(self.foreign(gtid, Foreign::Unknown { statement }));
            }
        };
        if ends { self.close(committed, out).await } else { self.compare_cut() }
    }

    /// SAVEPOINT, RELEASE SAVEPOINT or ROLLBACK TO.
    fn savepoint(&mut self, sql: &[u8], lexis: Lexis) -> Result<(), ReadError> {
        let (shard, spill) = (self.shard, &self.spill);
        let Some(group) = &mut self.group else { return Ok(()) };
        let gtid = group.gtid;
        let unclear = ReadError::RollbackInGroup { shard, gtid };
        let outcome = match savepoint(sql, lexis) {
            Some(Savepoint::Set(name)) => {
                group.savepoint(name);
                Ok(())
            }
            Some(Savepoint::Release(name)) => group.release(&name).map_err(RollbackError::from),
            Some(Savepoint::RollBackTo(name)) => group.roll_back_to(&name),
            None => Err(RollbackError::Unclear),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(RollbackError::Unclear) => Err(unclear),
            Err(RollbackError::Io(error)) => Err(spill_error(shard, gtid, &spill.dir, &error)),
        }
    }

    fn is_ours(&self, schema: &[u8]) -> bool {
        // A default schema comes as the catalog spells it.
        Name::new(schema, Charset::Utf8).may_be(&self.schema.0, self.fold_names)
    }

    fn in_our_schema(&self, default: &[u8], table: &Table) -> bool {
        match &table.schema {
            Some(schema) => schema.may_be(&self.schema.0, self.fold_names),
            None => self.is_ours(default),
        }
    }

    fn planned(&self, default: &[u8], table: &Table) -> bool {
        let mut tables = self.tables.iter();
        self.in_our_schema(default, table)
            && tables.any(|planned| table.name.may_be(&planned.schema.name, self.fold_names))
    }

    fn tables_defined(
        &mut self,
        gtid: Gtid,
        schema: &[u8],
        sql: &[u8],
        what: &str,
        touched: &[Touched],
    ) -> Result<(), ReadError> {
        for Touched { table, changes } in touched {
            let planned = self.planned(schema, table);
            if planned && *changes {
                let (what, statement) = (what.to_owned(), without_values(sql));
                return Err(self.foreign(gtid, Foreign::Ddl { what, statement }));
            }
            if planned {
                tracing::warn!(shard = self.shard.0, %gtid, statement = without_values(sql),
                    "a DDL that changes no row of a planned table: other shards may lack it");
            }
            let Some(at) = place(schema, table) else {
                self.plain = Plain::default();
                continue;
            };
            // A new table has no triggers.
            if what == "CREATE TABLE" && *changes {
                self.plain.table(at);
            } else {
                self.plain.tables.remove(&at);
            }
        }
        Ok(())
    }

    /// A statement that writes rows: halts if they are of a planned table, or notes what is to be
    /// asked.
    fn ask(
        &mut self,
        gtid: Gtid,
        schema: &[u8],
        sql: &[u8],
        write: Write,
    ) -> Result<(), ReadError> {
        // One that was read before has passed before, whatever the server looks like by now.
        if self.group.as_ref().is_some_and(|group| group.opening == Opening::Proof) {
            return Ok(());
        }
        let Write { verb, target, runs: Runs { calls, reads } } = write;
        let statement = without_values(sql);
        // Rows of these the reader must see.
        let own = |table: &Table| {
            self.in_our_schema(schema, table)
                && [control::TOKEN, control::WATERMARK].iter().any(|t| table.name.may_be(t, true))
        };
        if target.as_ref().is_some_and(|table| self.planned(schema, table) || own(table)) {
            return Err(self.foreign(gtid, Foreign::StatementFormat { verb, statement }));
        }
        let unknown = || self.foreign(gtid, Foreign::Unknown { statement: statement.clone() });
        let target = match target {
            Some(table) => Some(place(schema, &table).ok_or_else(unknown)?),
            None => None,
        };
        let names: Option<Vec<String>> = calls.iter().map(Name::text).collect();
        let mut calls = names.ok_or_else(unknown)?;
        // A function's name has no case.
        calls.iter_mut().for_each(|name| *name = name.to_lowercase());
        calls.retain(|name| !self.plain.functions.contains(name));
        let target = target.filter(|at| !self.plain.tables.contains(at));
        let reads = reads && !self.plain.reads;
        if target.is_some() || !calls.is_empty() || reads {
            self.question = Some(Question { gtid, verb, statement, target, calls, reads });
        }
        Ok(())
    }

    /// What the reader must ask before the next event.
    pub fn question(&mut self) -> Option<Question> {
        self.question.take()
    }

    /// The server says that it wrote nothing but what it says.
    pub fn passed(&mut self, question: Question) {
        self.plain.passed(question);
    }

    pub(super) fn foreign(&self, gtid: Gtid, what: Foreign) -> ReadError {
        ReadError::Statement { shard: self.shard, gtid, what }
    }
}

/// Schema and name, where they can be told.
fn place(default: &[u8], table: &Table) -> Option<(String, String)> {
    let schema = match &table.schema {
        Some(schema) => schema.text()?,
        None => String::from_utf8(default.to_vec()).ok()?,
    };
    Some((schema, table.name.text()?))
}
