//! A server that does not have what was read of its shard *yet*: a virtual IP, or a name, leads to a
//! replica that is still applying its relay log. It is waited for as long as what is missing may come;
//! once it cannot, the error with which that was met halts.

use modshift_changelog::LogWriter;
use modshift_mariadb::Session;
use modshift_mariadb::applying::{Patience, Stand};
use modshift_mariadb::connect::label;
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{GtidSet, OldShard};

use super::Reader;
use crate::binlog::BinlogError;
use crate::error::{Class, ReadError};
use crate::status::ReaderStatus;
use crate::token::within;

const DOING: &str = "asking how far it is";

impl<W: LogWriter> Reader<W> {
    /// `None`: what went wrong has another reason, or will not pass.
    pub(super) async fn not_there_yet(&mut self, error: &ReadError) -> Option<ReadError> {
        let mut servers = vec![self.primary.clone()];
        servers.extend(self.primary.read_from.is_some().then(|| self.tailed.clone()));
        let wanted = self.tail.done().clone();
        of_servers(&servers, &wanted, error, &mut self.patience).await
    }
}

/// The same where there is no reader any more, by what the last one has said of itself.
pub(super) async fn of_shard(
    plan: &Plan,
    shard: OldShard,
    status: &ReaderStatus,
    error: &ReadError,
    patience: &mut Patience,
) -> Option<ReadError> {
    let wanted: GtidSet = status.get().gtids.parse().ok()?;
    let primary = plan.old[usize::from(shard.0)].clone();
    of_servers(&[primary], &wanted, error, patience).await
}

async fn of_servers(
    servers: &[Endpoint],
    wanted: &GtidSet,
    error: &ReadError,
    patience: &mut Patience,
) -> Option<ReadError> {
    // Whoever has a later epoch has it on this server; and one that shows the group at which a reader
    // halts has what came before it.
    let shown = error.skips().is_some();
    let replaced = matches!(error, ReadError::Superseded { ours, theirs, .. } if theirs > ours);
    if shown || replaced || wanted.is_empty() || error.class() == Class::Retry {
        return None;
    }
    for server in servers {
        let at = label(server);
        let asking = async {
            let mut conn = modshift_mariadb::connect(server, Session::Plain).await?;
            let stand = Stand::of(&mut conn, &at, wanted).await?;
            // It is of no use to whoever comes next: the address may lead elsewhere by then.
            let _ = conn.disconnect().await;
            Ok(stand)
        };
        match within(server, DOING, asking).await {
            Ok(None) => {}
            Ok(Some(stand)) if patience.holds(&stand.coming, &stand.missing.to_string()) => {
                let (now, wanted) = (stand.now.to_string(), wanted.to_string());
                let coming = stand.coming;
                return Some(BinlogError::NotThereYet { at, now, wanted, coming }.into());
            }
            Ok(Some(_)) => return None,
            // It may be on its way to another server.
            Err(error) if error.class() == Class::Retry => return Some(error),
            Err(_) => return None,
        }
    }
    patience.over();
    None
}
