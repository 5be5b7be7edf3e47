//! Are the tables of the new shard still what rows are applied as?
//!
//! Asked inside the transaction of a batch, after its rows: nobody can alter a table that the
//! transaction has written to before it ends. Of each table at most once a second, and of those
//! that nothing is written to now and then, with the tokens. An ALTER that the binlog does not show,
//! or that nobody reads, is noticed so.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use modshift_mariadb::{Conn, Session, catalog, connect};
use modshift_proto::plan::Endpoint;
use modshift_proto::{NewShard, TableSchema, differences};

use crate::error::ApplyError;
use crate::target::Target;

const WRITTEN: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Standing {
    /// By table: when it was last looked at, and how the server makes it in words.
    seen: HashMap<u32, (Instant, String)>,
}

impl Standing {
    /// `texts`: by table, read before the catalog that the target was made of.
    pub fn new(texts: Vec<String>) -> Standing {
        let now = Instant::now();
        Standing { seen: (0..).zip(texts.into_iter().map(|text| (now, text))).collect() }
    }

    /// `written`: the tables of the batch.
    pub async fn check(
        &mut self,
        conn: &mut Conn,
        endpoint: &Endpoint,
        target: &Target,
        written: &[u32],
    ) -> Result<(), ApplyError> {
        for (number, table) in (0..).zip(target.tables()) {
            let age = if written.contains(&number) { WRITTEN } else { IDLE };
            let seen = self.seen.get(&number);
            if seen.is_some_and(|(at, _)| at.elapsed() < age) {
                continue;
            }
            let made = catalog::made(conn, &endpoint.schema, &table.schema.name).await?;
            if seen.is_none_or(|(_, had)| *had != made) {
                agrees(endpoint, target.shard, &table.schema).await?;
            }
            self.seen.insert(number, (Instant::now(), made));
        }
        Ok(())
    }
}

/// On a connection of its own: a session for exact values compares names by their bytes.
async fn agrees(endpoint: &Endpoint, new: NewShard, known: &TableSchema) -> Result<(), ApplyError> {
    let mut conn = connect(endpoint, Session::Plain).await?;
    let found = catalog::table(&mut conn, &endpoint.schema, &known.name).await?;
    // What it said is known; the server closes what we cannot.
    let _ = conn.disconnect().await;
    let mut differ = differences(&known.described(), &found.described());
    if differ.is_empty() && found.unique_keys != known.unique_keys {
        differ.push("its unique keys are others".to_owned());
    }
    match differ.is_empty() {
        true => Ok(()),
        false => {
            let (table, differences) = (known.name.clone(), differ.join("; "));
            Err(ApplyError::Drift { new, table, differences })
        }
    }
}
