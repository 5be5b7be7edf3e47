//! An XA COMMIT whose XA PREPARE this reader has not read, or has not kept: the server's binlogs are
//! gone through for it, the newest first, over a connection that takes no replica's place.

use modshift_changelog::LogWriter;
use modshift_mariadb::connect::label;
use modshift_proto::GtidSet;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{BINLOG_HEARTBEAT, Reader};
use crate::binlog::{BinlogError, Decoder, EventKind, EventStream, kind};
use crate::error::{ReadError, server_error};
use crate::tail::{Branch, LookBack, Older};
use crate::token::within;

const ASKING: &str = "looking for the beginning of a binlog";

impl<W: LogWriter> Reader<W> {
    pub(super) async fn look_back(&mut self, mut looking: LookBack) -> Result<Branch, ReadError> {
        let files = self.files().await?;
        tracing::info!(shard = self.shard.0, xid = %looking.xid(), binlogs = files.len(),
            "an XA transaction is committed that was prepared before: looking for it");
        for file in files.iter().rev() {
            let Some(start) = self.beginning(file).await? else { continue };
            if start.covers(looking.committed()) {
                // The group that commits is in an older one.
                continue;
            }
            match self.search(&start, &mut looking).await {
                // By a crash of its server; what is whole in it counts.
                Err(error) if error.is_cut_file() => {}
                searched => searched?,
            }
            looking.file_ends();
            if looking.is_over() {
                break;
            }
            if let Some(branch) = looking.branch() {
                for question in looking.questions() {
                    Box::pin(self.answer(question)).await?;
                }
                return Ok(branch);
            }
        }
        Err(looking.not_there())
    }

    /// The binlogs of the server, the oldest first.
    pub(super) async fn files(&self) -> Result<Vec<String>, ReadError> {
        let failed = |error| server_error(&self.tailed, ASKING, error);
        let asking = async {
            let mut conn = self.desk.turn(&self.tailed).await?;
            let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await.map_err(failed)?;
            conn.done();
            Ok(rows.into_iter().filter_map(|mut row| row.take::<String, _>(0)).collect())
        };
        within(&self.tailed, ASKING, asking).await
    }

    /// The groups before a binlog; `None` once it is purged.
    pub(super) async fn beginning(&self, file: &str) -> Result<Option<GtidSet>, ReadError> {
        let failed = |error| server_error(&self.tailed, ASKING, error);
        let asking = async {
            let mut conn = self.desk.turn(&self.tailed).await?;
            let sql = format!("SELECT BINLOG_GTID_POS('{file}', 4)");
            let found: Option<Option<String>> = conn.query_first(sql).await.map_err(failed)?;
            conn.done();
            Ok(found.flatten())
        };
        let found: Option<String> = within(&self.tailed, ASKING, asking).await?;
        Ok(found.and_then(|set| set.parse().ok()))
    }

    /// Goes through one binlog, or up to the group that commits.
    async fn search(&self, start: &GtidSet, looking: &mut LookBack) -> Result<(), ReadError> {
        let mut decoder =
            Decoder::new(self.planned.clone())?.with_collations(self.collations.clone());
        let opening = EventStream::look_back(&self.tailed, start, BINLOG_HEARTBEAT);
        let mut stream = Box::pin(opening).await?;
        let mut current: Option<String> = None;
        loop {
            let event = stream.next().await?;
            if matches!(kind(event)?, EventKind::Heartbeat) {
                // Nothing more is there, nor the group that commits: another server, perhaps. The next
                // connection tells whether its log is the one that was read.
                let at = label(&self.tailed);
                return Err(BinlogError::Ended { at }.into());
            }
            match looking.event(&mut decoder, event)? {
                Older::Passed => {}
                Older::In(file) => {
                    if current.as_ref().is_some_and(|current| *current != file) {
                        return Ok(());
                    }
                    current = Some(file);
                }
                Older::Commits => return Ok(()),
            }
        }
    }
}
