//! What goes on on the old shards meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use modshift_tests::{Address, Estate, random::Random};
use mysql_async::{Conn, Error, prelude::Queryable};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::hot::{HOT, Hot};

/// Changes rows at random as fast as it can. It remembers nothing: the oracle compares old and
/// new, whatever has become of a row.
struct Hammer {
    place: Address,
    index: u64,
    modulus: u64,
    rows: u64,
    tables: Vec<usize>,
    random: Random,
    committed: Arc<AtomicU64>,
}

impl Hammer {
    async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        let mut conn = self.place.connect().await?;
        while !cancel.is_cancelled() {
            match self.transaction(&mut conn).await {
                Ok(()) => {
                    self.committed.fetch_add(1, Ordering::Relaxed);
                }
                // Deadlock, or a key that is there already: nothing of it took place.
                Err(Error::Server(error)) if [1213, 1062].contains(&error.code) => {
                    conn.query_drop("ROLLBACK").await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        conn.disconnect().await?;
        Ok(())
    }

    async fn transaction(&mut self, conn: &mut Conn) -> Result<(), Error> {
        conn.query_drop("BEGIN").await?;
        for _ in 0..1 + self.random.below(3) {
            let number = self.random.below(self.rows) * self.modulus + self.index;
            let hot = Hot { table: *self.random.pick(&self.tables), number };
            for sql in self.change(hot) {
                conn.query_drop(sql).await?;
            }
        }
        conn.query_drop("COMMIT").await
    }

    fn change(&mut self, hot: Hot) -> Vec<String> {
        let (table, here) = (HOT[hot.table].0, hot.condition());
        let form = self.random.index(4);
        let account = hot.number + self.modulus * self.random.below(9);
        let filler = self.random.below(120);
        let delete = format!("DELETE FROM {table} WHERE {here}");
        let insert = hot.insert(form, account, filler);
        let update = |sets: &str| format!("UPDATE {table} SET {sets}, ver=ver+1 WHERE {here}");
        match self.random.below(10) {
            0..3 => vec![update(&format!("filler=REPEAT('é',{filler})"))],
            3 => vec![update(&format!("accountNo={account}"))],
            4 => vec![delete],
            // There and gone, or gone and there: the row as a chunk may never have seen it.
            5 => vec![delete.clone(), insert, delete],
            6 => vec![delete, insert],
            7 => vec![insert],
            _ => {
                let columns = if hot.table == 2 { "(region, line)" } else { "code" };
                let key = hot.key(form);
                match key.split_once(',') {
                    Some((_, line)) if columns != "code" => vec![update(&format!("line={line}"))],
                    _ => vec![update(&format!("code={key}"))],
                }
            }
        }
    }
}

/// Connections that hammer, and on each old shard one that looks at the server's counters.
pub struct Load {
    cancel: CancellationToken,
    tasks: JoinSet<Result<()>>,
    committed: Arc<AtomicU64>,
    looks: Arc<AtomicU64>,
}

impl Load {
    pub fn start(estate: &Estate, rows: u64, tables: &[usize], each: usize, seed: u64) -> Self {
        let cancel = CancellationToken::new();
        let (committed, looks) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for (index, place) in estate.old_addresses().into_iter().enumerate() {
            for number in 0..each {
                let hammer = Hammer {
                    place: place.clone(),
                    index: index as u64,
                    modulus: estate.old.len() as u64,
                    rows,
                    tables: tables.to_vec(),
                    random: Random::new(seed).fork((index * 100 + number) as u64),
                    committed: Arc::clone(&committed),
                };
                tasks.spawn(hammer.run(cancel.clone()));
            }
            tasks.spawn(monitor(place, Arc::clone(&looks), cancel.clone()));
        }
        Self { cancel, tasks, committed, looks }
    }

    pub async fn stop(mut self) -> Result<(u64, u64)> {
        self.cancel.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done.context("a connection of the load panicked")??;
        }
        Ok((self.committed.load(Ordering::Relaxed), self.looks.load(Ordering::Relaxed)))
    }
}

/// What a monitoring agent does, without its pauses: with another look at the counters the server
/// shows another binlog position than the one that belongs to a snapshot.
async fn monitor(place: Address, looks: Arc<AtomicU64>, cancel: CancellationToken) -> Result<()> {
    let mut conn = place.with_schema("").connect().await?;
    while !cancel.is_cancelled() {
        conn.query_drop("SHOW GLOBAL STATUS").await?;
        looks.fetch_add(1, Ordering::Relaxed);
    }
    conn.disconnect().await?;
    Ok(())
}
