//! Records of the change log that are no messages of ours: where they lie, and which of them an operator
//! has had passed over.
//!
//! Only what is no message of a stream of this plan is ever passed. Messages have their numbers: should
//! one of ours be so damaged that it cannot be told, the next one shows that it is missing.

use std::collections::BTreeSet;
use std::fmt;

use modshift_changelog::Offset;
use modshift_mariadb::connect::Session;
use modshift_mariadb::control::skip;
use modshift_mariadb::{Conn, ServerError, error};
use modshift_proto::NewShard;
use modshift_proto::plan::{Endpoint, Log, Plan};
use mysql_async::prelude::Queryable;

const NO_SUCH_TABLE: u16 = 1146;

/// Where one lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: u16,
    pub offset: Offset,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { topic, partition, offset } = self;
        write!(f, "topic {topic}, partition {partition}, offset {offset}")
    }
}

/// What of a new shard's partition may be passed over.
#[derive(Clone, Debug, Default)]
pub struct Passing {
    /// `None`: the log has no records that anybody else could write.
    topic: Option<String>,
    partition: u16,
    asked: BTreeSet<Offset>,
}

impl Passing {
    #[cfg(test)]
    pub fn of(topic: &str, asked: &[Offset]) -> Passing {
        let asked = asked.iter().copied().collect();
        Passing { topic: Some(topic.to_owned()), partition: 1, asked }
    }

    pub fn passes(&self, offset: Option<Offset>) -> bool {
        offset.is_some_and(|offset| self.asked.contains(&offset))
    }

    pub fn record(&self, offset: Option<Offset>) -> Option<Box<Record>> {
        let (topic, offset) = (self.topic.clone()?, offset?);
        Some(Box::new(Record { topic, partition: self.partition, offset }))
    }
}

/// What this start of the applier passes over; it stands nowhere.
pub async fn begin(
    conn: &mut Conn,
    at: &str,
    plan: &Plan,
    shard: NewShard,
) -> Result<Passing, ServerError> {
    let topic = match &plan.log {
        Log::Kafka(log) => Some(log.topic.clone()),
        Log::Direct { .. } => None,
    };
    let mut passing = Passing { topic, partition: shard.0, asked: BTreeSet::new() };
    if passing.topic.is_none() {
        return Ok(passing);
    }
    passing.asked = match asked(conn, at, shard).await? {
        None => return Ok(passing),
        Some(asked) => asked,
    };
    let begins = conn.query_drop(skip::applier_begins(shard)).await;
    begins.map_err(|source| error::of(at, "asking what is to be passed over", source))?;
    Ok(passing)
}

/// `None`: no applier has ever halted at a record there.
async fn asked(
    conn: &mut Conn,
    at: &str,
    shard: NewShard,
) -> Result<Option<BTreeSet<Offset>>, ServerError> {
    let rows: Result<Vec<String>, _> = conn.query(skip::asked_records(shard)).await;
    let rows = rows.map_err(|source| error::of(at, "asking what is to be passed over", source));
    match rows {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => Ok(None),
        rows => Ok(Some(rows?.iter().filter_map(|offset| offset.parse().ok()).collect())),
    }
}

/// The applier halts there.
pub async fn halts(
    conn: &mut Conn,
    at: &str,
    shard: NewShard,
    (offset, said): (Offset, &str),
) -> Result<(), ServerError> {
    let failed = |source| error::of(at, "recording the halt", source);
    let sql = skip::Place::record(shard, offset).halts();
    let params = || (said, None::<u64>, None::<u32>);
    match conn.exec_drop(&sql, params()).await.map_err(failed) {
        Err(error) if error.code() == Some(NO_SUCH_TABLE) => {
            conn.query_drop(skip::TABLE).await.map_err(failed)?;
            conn.exec_drop(&sql, params()).await.map_err(failed)
        }
        done => done,
    }
}

/// Has somebody asked for this record to be passed over?
pub async fn is_asked(
    endpoint: &Endpoint,
    shard: NewShard,
    offset: Offset,
) -> Result<bool, ServerError> {
    let at = modshift_mariadb::connect::label(endpoint);
    let mut conn = modshift_mariadb::connect(endpoint, Session::Plain).await?;
    let asked = asked(&mut conn, &at, shard).await?;
    let closed = conn.disconnect().await;
    closed.map_err(|source| error::of(&at, "asking what is to be passed over", source))?;
    Ok(asked.is_some_and(|asked| asked.contains(&offset)))
}
