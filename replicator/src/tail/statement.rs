//! Statements in the log: which of them may pass.
//!
//! What ends a group, or is known to change no planned row, goes by; everything else halts by name.

use modshift_changelog::LogWriter;
use modshift_proto::Gtid;

use super::Tail;
use super::group::{RollbackError, spill_error};
use crate::binlog::{Lexis, QueryKind, Savepoint, classify, mentions, savepoint, without_values};
use crate::error::{Foreign, ReadError};
use crate::history::Opening;
use crate::publish::Publisher;

impl Tail {
    pub(super) async fn query<W: LogWriter>(
        &mut self,
        schema: &[u8],
        sql: &[u8],
        lexis: Lexis,
        out: &mut Publisher<W>,
    ) -> Result<(), ReadError> {
        let kind = classify(sql);
        let Some(group) = &mut self.group else {
            return Err(ReadError::NoGroup { shard: self.shard, what: "a statement" });
        };
        if !matches!(kind, QueryKind::Begin) {
            group.events += 1;
            group.hash.query(sql);
        }
        let (gtid, standalone) = (group.gtid, group.standalone);
        let mut committed = true;
        let ends = match kind {
            QueryKind::Begin => false,
            QueryKind::Commit => true,
            QueryKind::Savepoint => {
                self.savepoint(sql, lexis)?;
                false
            }
            QueryKind::Rollback if group.was_sent() => {
                return Err(ReadError::RollbackInGroup { shard: self.shard, gtid });
            }
            QueryKind::Rollback => {
                if group.planned && !matches!(group.opening, Opening::Proof) {
                    tracing::info!(shard = self.shard.0, %gtid, changes = group.changes,
                        "a group that was rolled back is in the binlog: it does not count");
                }
                committed = false;
                true
            }
            QueryKind::RollbackToSavepoint => {
                self.savepoint(sql, lexis)?;
                false
            }
            QueryKind::Harmless(_) => standalone,
            QueryKind::Ddl { .. } if !self.concerns_us(schema, sql) => standalone,
            QueryKind::Ddl { what } if holds_no_rows(&what) => {
                // What a routine or trigger does is in the log as rows. `check` tells that the new
                // shards lack it.
                tracing::warn!(shard = self.shard.0, %gtid, %what, "a definition has changed");
                standalone
            }
            QueryKind::Ddl { what } => {
                let statement = without_values(sql);
                return Err(self.foreign(gtid, Foreign::Ddl { what, statement }));
            }
            QueryKind::Xa { .. } => return Err(self.foreign(gtid, Foreign::Xa)),
            QueryKind::Statement { verb } => {
                let statement = without_values(sql);
                return Err(self.foreign(gtid, Foreign::StatementFormat { verb, statement }));
            }
            QueryKind::Unknown => {
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

    /// Could this DDL change a planned table, or what modshift knows of it?
    fn concerns_us(&self, schema: &[u8], sql: &[u8]) -> bool {
        let ours = schema.eq_ignore_ascii_case(self.schema.0.as_bytes());
        if !ours && !mentions(sql, &self.schema.0) {
            return false;
        }
        let planned = self.tables.iter().any(|table| mentions(sql, &table.schema.name));
        // DROP DATABASE and the like name the schema, not a table.
        let whole_schema = mentions(sql, "database") || mentions(sql, "schema");
        planned || (whole_schema && mentions(sql, &self.schema.0))
    }

    pub(super) fn foreign(&self, gtid: Gtid, what: Foreign) -> ReadError {
        ReadError::Statement { shard: self.shard, gtid, what }
    }
}

/// DDL on an object of this kind changes no row and no table.
fn holds_no_rows(what: &str) -> bool {
    const KINDS: [&str; 6] = ["PROCEDURE", "FUNCTION", "PACKAGE", "TRIGGER", "EVENT", "VIEW"];
    what.rsplit(' ').next().is_some_and(|kind| KINDS.contains(&kind))
}
