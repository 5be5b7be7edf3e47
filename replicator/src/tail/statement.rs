//! Statements in the log: which of them may pass.
//!
//! What ends a group, or is known to change no planned row, goes by; everything else halts by name.
//! Rows written in statement format pass where they are none of a planned table; what the statement
//! does not say, such as triggers, is for the reader to ask ([`Question`]).

use std::collections::{BTreeMap, HashSet};

use modshift_changelog::LogWriter;
use modshift_mariadb::control;
use modshift_proto::{Gtid, GtidSet};

use super::Tail;
use super::group::{RollbackError, spill_error};
use crate::binlog::{
    Charset, Lexis, Name, Runs, Savepoint, Session, Statement, Table, Touched, Undoes, Write,
    read_statement, savepoint, without_values,
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
    /// Schemas and names of the tables that are written.
    pub targets: Vec<(String, String)>,
    /// Names of functions that may be stored ones.
    pub calls: Vec<String>,
    /// What it reads, of which something may be a view that calls a stored function. Where a name
    /// cannot be told, `None`.
    pub reads: Vec<Option<(String, String)>>,
}

impl Question {
    /// All that the statement names; `None` where a name cannot be told.
    pub(super) fn of(
        gtid: Gtid,
        schema: &[u8],
        statement: String,
        write: Write,
    ) -> Option<Question> {
        let Write { verb, targets, runs: Runs { calls, reads } } = write;
        let targets: Option<Vec<_>> = targets.iter().map(|table| place(schema, table)).collect();
        let calls: Option<Vec<String>> = calls.iter().map(Name::text).collect();
        // A function's name has no case.
        let calls = calls?.iter().map(|name| name.to_lowercase()).collect();
        let reads = reads.iter().map(|table| place(schema, table)).collect();
        Some(Question { gtid, verb, statement, targets: targets?, calls, reads })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.calls.is_empty() && self.reads.is_empty()
    }
}

/// Which names mean tables of which the reader must see the rows.
#[derive(Clone)]
pub(super) struct Names {
    schema: String,
    /// The server does not tell the case of schemas and tables.
    pub(super) fold: bool,
    planned: Vec<String>,
}

impl Names {
    pub(super) fn new(schema: String, fold: bool, planned: Vec<String>) -> Names {
        Names { schema, fold, planned }
    }

    fn is_ours(&self, schema: &[u8]) -> bool {
        // A default schema comes as the catalog spells it.
        Name::new(schema, Charset::Utf8).may_be(&self.schema, self.fold)
    }

    fn in_our_schema(&self, default: &[u8], table: &Table) -> bool {
        match &table.schema {
            Some(schema) => schema.may_be(&self.schema, self.fold),
            None => self.is_ours(default),
        }
    }

    fn has_planned(&self, default: &[u8], table: &Table) -> bool {
        let mut planned = self.planned.iter();
        self.in_our_schema(default, table)
            && planned.any(|planned| table.name.may_be(planned, self.fold))
    }

    /// May a statement mean this planned table?
    pub(super) fn may_be(&self, default: &[u8], table: &Table, planned: usize) -> bool {
        let name = |planned: &String| table.name.may_be(planned, self.fold);
        self.in_our_schema(default, table) && self.planned.get(planned).is_some_and(name)
    }

    /// Planned, or modshift's own.
    pub(super) fn has(&self, default: &[u8], table: &Table) -> bool {
        let own =
            || [control::TOKEN, control::WATERMARK].iter().any(|t| table.name.may_be(t, true));
        self.has_planned(default, table) || self.in_our_schema(default, table) && own()
    }

    /// Is it a planned table, by its number among those that are decoded?
    pub(super) fn is_planned(&self, table: usize) -> bool {
        table < self.planned.len()
    }
}

/// A statement as the log has it.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub schema: &'a [u8],
    pub sql: &'a [u8],
    pub lexis: Lexis,
    pub session: Session,
}

/// What the server was asked about before. Forgotten with each definition in the log.
#[derive(Default)]
pub(super) struct Plain {
    /// Have no triggers, and are no views.
    tables: HashSet<(String, String)>,
    /// Are no stored functions.
    functions: HashSet<String>,
    /// Are no views that call stored functions.
    read: HashSet<(String, String)>,
}

/// An application that writes so many in statement format is asked about again.
const PLAIN_MAX: usize = 10_000;

impl Plain {
    fn new_table(&mut self, at: (String, String)) {
        if self.tables.len() >= PLAIN_MAX {
            self.tables.clear();
        }
        self.tables.insert(at);
    }

    /// What is not known of it yet.
    fn unknown(&self, mut question: Question) -> Question {
        question.targets.retain(|at| !self.tables.contains(at));
        question.calls.retain(|name| !self.functions.contains(name));
        let known = |at: &(String, String)| self.read.contains(at) || self.tables.contains(at);
        question.reads.retain(|at| !at.as_ref().is_some_and(known));
        question
    }

    fn passed(&mut self, question: Question) {
        let Question { targets, calls, reads, .. } = question;
        let kept = self.tables.len() + self.functions.len() + self.read.len();
        if kept + targets.len() + calls.len() + reads.len() > PLAIN_MAX {
            *self = Plain::default();
        }
        self.tables.extend(targets);
        self.functions.extend(calls);
        self.read.extend(reads.into_iter().flatten());
    }
}

/// Up to where the server's own log had come when it answered, and for what: a definition that comes
/// before that in the log may have made the answer another one than it was for the statement.
#[derive(Default)]
pub(super) struct Relied {
    /// By the schema of what was written: a trigger is where its table is.
    written: BTreeMap<String, GtidSet>,
    /// For whatever may call a stored function.
    runs: GtidSet,
}

impl Relied {
    fn note(&mut self, question: &Question, up_to: GtidSet) {
        for (schema, _) in &question.targets {
            self.written.insert(schema.clone(), up_to.clone());
        }
        if !(question.calls.is_empty() && question.reads.is_empty()) {
            self.runs = up_to;
        }
    }

    fn on(&self, gtid: Gtid, default: &[u8], undoes: &Undoes) -> bool {
        if undoes.kind != "TRIGGER" && self.runs.covers(gtid) {
            return true;
        }
        // A view may have been written to by the name that a table has by now.
        let of = |schema: &str| match &undoes.name {
            Some(Table { schema: Some(named), .. }) => named.may_be(schema, true),
            Some(Table { schema: None, .. }) => {
                Name::new(default, Charset::Utf8).may_be(schema, true)
            }
            None => true,
        };
        let triggers = ["TRIGGER", "VIEW"].contains(&undoes.kind);
        triggers && self.written.iter().any(|(schema, up_to)| up_to.covers(gtid) && of(schema))
    }
}

impl Tail {
    pub(super) async fn query<W: LogWriter>(
        &mut self,
        said: Said<'_>,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let Said { schema, sql, lexis, .. } = said;
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
            Statement::Commit if group.xa.is_some() => {
                return Err(self.foreign(gtid, Foreign::Xa("a commit")));
            }
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
            Statement::MakesTemporary { table, runs } => {
                self.makes_temporary(said, &table);
                self.ask(said, Write { verb: "SELECT".to_owned(), targets: Vec::new(), runs })?;
                standalone
            }
            Statement::DropsTemporary(tables) => {
                self.drops_temporary(said, &tables);
                standalone
            }
            Statement::Definition { what, undoes } => {
                // A table may have got triggers.
                self.plain = Plain::default();
                if let Some(undoes) = undoes {
                    self.undone(gtid, said, &undoes)?;
                }
                if self.names.is_ours(schema) {
                    // What a routine or trigger does is in the log as rows. `check` tells that
                    // the new shards lack it.
                    tracing::warn!(shard = self.shard.0, %gtid, what, "a definition has changed");
                }
                standalone
            }
            Statement::Schema { what, schema: name } => {
                self.plain = Plain::default();
                if name.may_be(&self.names.schema, self.names.fold) {
                    let (what, statement) = (what.to_owned(), without_values(sql));
                    return Err(self.foreign(gtid, Foreign::Ddl { what, statement }));
                }
                standalone
            }
            Statement::Tables { what, touched, runs } => {
                self.tables_defined(gtid, said, &what, &touched)?;
                self.ask(said, Write { verb: what, targets: Vec::new(), runs })?;
                standalone
            }
            Statement::Write(write) => {
                self.ask(said, write)?;
                standalone
            }
            Statement::XaGoesOn => false,
            Statement::XaCommit => return self.commit_xa(out).await,
            Statement::XaRollback => {
                self.roll_back_xa()?;
                committed = false;
                true
            }
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

    fn tables_defined(
        &mut self,
        gtid: Gtid,
        said: Said<'_>,
        what: &str,
        touched: &[Touched],
    ) -> Result<(), ReadError> {
        // A new table is no temporary one, though such a one may have its name.
        let creates = what.starts_with("CREATE TABLE") || what.starts_with("CREATE SEQUENCE");
        for Touched { table, changes } in touched {
            let temporary = !creates && self.is_temporary(said, table);
            let planned = self.names.has_planned(said.schema, table) && !temporary;
            let statement = || without_values(said.sql);
            if planned && *changes {
                let (what, statement) = (what.to_owned(), statement());
                return Err(self.foreign(gtid, Foreign::Ddl { what, statement }));
            }
            if planned {
                tracing::warn!(shard = self.shard.0, %gtid, statement = statement(),
                    "a DDL that changes no row of a planned table: other shards may lack it");
            }
            let Some(at) = place(said.schema, table) else {
                self.plain = Plain::default();
                continue;
            };
            // A new table has no triggers.
            if what == "CREATE TABLE" && *changes {
                self.plain.new_table(at);
            } else {
                self.plain.tables.remove(&at);
                self.plain.read.clear();
            }
        }
        if touched.len() > 1 {
            self.renames_temporary(said);
        }
        Ok(())
    }

    /// What a statement that has passed may have run is gone, and was gone already when the server was
    /// asked about it.
    fn undone(&self, gtid: Gtid, said: Said<'_>, undoes: &Undoes) -> Result<(), ReadError> {
        let proof = self.group.as_ref().is_none_or(|group| group.opening == Opening::Proof);
        if proof || !self.relied.on(gtid, said.schema, undoes) {
            return Ok(());
        }
        let (what, statement) = (undoes.kind, without_values(said.sql));
        Err(self.foreign(gtid, Foreign::Undone { what, statement }))
    }

    /// A statement that writes rows: halts if they are of a planned table, or notes what is to be
    /// asked.
    fn ask(&mut self, said: Said<'_>, write: Write) -> Result<(), ReadError> {
        let Some(group) = &self.group else { return Ok(()) };
        // One that was read before has passed before, whatever the server looks like by now.
        if group.opening == Opening::Proof {
            return Ok(());
        }
        let gtid = group.gtid;
        let mut write = write;
        let statement = without_values(said.sql);
        write.targets.retain(|table| !self.is_temporary(said, table));
        if write.targets.iter().any(|table| self.names.has(said.schema, table)) {
            let what = Foreign::StatementFormat { verb: write.verb, statement };
            return Err(self.foreign(gtid, what));
        }
        write.runs.reads.retain(|table| !self.is_temporary(said, table));
        let Some(question) = Question::of(gtid, said.schema, statement.clone(), write) else {
            return Err(self.foreign(gtid, Foreign::Unknown { statement }));
        };
        let question = self.plain.unknown(question);
        if !question.is_empty() {
            self.question = Some(question);
        }
        Ok(())
    }

    /// What the reader must ask before the next event.
    pub fn question(&mut self) -> Option<Question> {
        self.question.take()
    }

    /// The server says that it wrote nothing but what it says, as it is behind `up_to`.
    pub fn passed(&mut self, question: Question, up_to: GtidSet) {
        self.relied.note(&question, up_to);
        self.plain.passed(question);
    }

    pub(super) fn foreign(&self, gtid: Gtid, what: Foreign) -> ReadError {
        ReadError::Statement { shard: self.shard, gtid, what }
    }
}

/// Schema and name, where they can be told.
pub(super) fn place(default: &[u8], table: &Table) -> Option<(String, String)> {
    let schema = match &table.schema {
        Some(schema) => schema.text()?,
        None => String::from_utf8(default.to_vec()).ok()?,
    };
    Some((schema, table.name.text()?))
}
