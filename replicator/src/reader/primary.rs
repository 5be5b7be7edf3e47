//! What the reader asks the old shard's primary: whose epoch it is, and how far it has come.

use modshift_changelog::LogWriter;
use modshift_mariadb::Session;
use modshift_mariadb::control::TOKEN;
use modshift_mariadb::value::quote;
use modshift_proto::GtidSet;
use mysql_async::prelude::Queryable;

use super::Reader;
use crate::binlog::BinlogError;
use crate::error::{ReadError, server_error};
use crate::token::within;

impl<W: LogWriter> Reader<W> {
    /// A reader that has been replaced must not take its successor's place at the server.
    pub(super) async fn still_ours(&self) -> Result<(), ReadError> {
        let doing = "asking for the reader epoch";
        let failed = |error| server_error(&self.primary, doing, error);
        let asking = async {
            let mut conn = self.desk.turn_anew(&self.primary).await?;
            let schema = quote(&self.primary.schema);
            let sql = format!("SELECT epoch FROM {schema}.{TOKEN} WHERE id = 1");
            let epoch: Option<u64> = conn.query_first(sql).await.map_err(failed)?;
            conn.done();
            Ok(epoch.unwrap_or(0))
        };
        let (shard, ours) = (self.shard, self.tail.epoch());
        match within(&self.primary, doing, asking).await? {
            theirs if theirs == ours => Ok(()),
            theirs => Err(ReadError::Superseded { shard, ours, theirs }),
        }
    }

    /// A replica may still be on its way to where the primary was.
    pub(super) fn replica_behind(&self, error: BinlogError, start: GtidSet) -> ReadError {
        let behind =
            matches!(error, BinlogError::BehindStart { .. } | BinlogError::UnknownDomain { .. });
        if !behind || self.primary.read_from.is_none() {
            return error.into();
        }
        let at = modshift_mariadb::connect::label(&self.tailed);
        ReadError::ReplicaBehind { shard: self.shard, at, start }
    }

    /// Is a table that came under a new id still what its rows are decoded by? On the server that is
    /// read: what was written there up to now was written under what it shows now.
    pub(super) async fn look_up(&mut self, table: usize) -> Result<(), ReadError> {
        let doing = "looking up a table under its new id";
        let failed = |error| server_error(&self.tailed, doing, error);
        let asking = async {
            let mut conn = self.desk.turn(&self.tailed).await?;
            let high: Option<String> =
                conn.query_first("SELECT @@gtid_binlog_pos").await.map_err(failed)?;
            self.definitions.hold(&mut conn, Session::Plain, &self.tailed, table).await?;
            conn.done();
            Ok(high.unwrap_or_default())
        };
        let high: String = within(&self.tailed, doing, asking).await?;
        let shard = self.shard;
        let high =
            high.parse().map_err(|source| ReadError::ProgressUnreadable { shard, source })?;
        self.tail.looked(table, high);
        Ok(())
    }

    /// G of the design's invariant 5.
    pub(super) async fn primary_position(&self) -> Result<GtidSet, ReadError> {
        let failed = |error| server_error(&self.primary, "reading the primary's position", error);
        let mut conn = self.desk.turn_anew(&self.primary).await?;
        let text: Option<String> =
            conn.query_first("SELECT @@gtid_binlog_pos").await.map_err(failed)?;
        conn.done();
        let shard = self.shard;
        text.unwrap_or_default()
            .parse()
            .map_err(|source| ReadError::ProgressUnreadable { shard, source })
    }
}
