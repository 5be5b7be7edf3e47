//! `make bench`: how fast, as ratios against yardsticks measured in the same run on the same data.
//!
//! | part | ours | yardstick |
//! |---|---|---|
//! | [`reader`] | decode, routing and encoding of a binlog | `mariadb-binlog --raw` fetching the same |
//! | [`drain`] | 3 old → 4 new shards, a prepared backlog | three native replicas, the same binlogs |
//! | [`latency`] | commit acknowledged → row seen on the new shard | none: milliseconds |
//! | [`cutover`] | how long a busy application waits, there and back | none: milliseconds |
//! | [`verify`] | every row of 3 old and 4 new shards compared | `CHECKSUM TABLE` on all seven |
//!
//! Peak memory is read off the processes of the drains.

mod backlog;
mod cutover;
mod drain;
mod latency;
mod reader;
mod report;
mod settle;
mod verify;

use std::{process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};

use crate::server::{ADMIN, Address, MariaDbOptions, MariaDbServer, PASSWORD};
pub use report::{Line, Results};

#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Share of the full sizes, for a quick look.
    pub scale: f64,
    /// Parts to run; empty for all.
    pub only: Vec<String>,
}

impl BenchOptions {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn scaled(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }
}

pub async fn run(options: &BenchOptions) -> Result<Results> {
    let mut results = Results::default();
    if options.wants("reader") {
        reader::run(options, &mut results).await?;
    }
    if options.wants("drain") {
        drain::run(options, &mut results).await?;
    }
    if options.wants("latency") {
        latency::run(options, &mut results).await?;
    }
    if options.wants("cutover") {
        cutover::run(options, &mut results).await?;
    }
    if options.wants("verify") {
        verify::run(options, &mut results).await?;
    }
    Ok(results)
}

pub(crate) fn say(text: &str) {
    println!("bench: {text}");
}

/// A server for measuring, the same on both sides: memory enough for all rows, and as durable as
/// `modshift check` wants a production server to be.
async fn server(id: u32, extra: &[&str]) -> Result<Arc<MariaDbServer>> {
    let options = MariaDbOptions {
        buffer_pool_mb: 512,
        redo_mb: 512,
        sync_binlog: 1,
        innodb_flush_log_at_trx_commit: 1,
        ..MariaDbOptions::with_server_id(id)
    };
    let options = options.arg("--binlog-annotate-row-events=OFF");
    let options = extra.iter().fold(options, |options, extra| options.arg(extra));
    Ok(Arc::new(MariaDbServer::start(options).await?))
}

const SCHEMA: &str = "bench";

fn shard(server: &MariaDbServer) -> Address {
    server.address().with_schema(SCHEMA)
}

/// The table of every part: 240 bytes a row, two secondary keys.
const ORDERS: &str = "CREATE TABLE orders (
    id BIGINT NOT NULL PRIMARY KEY, account_no BIGINT NOT NULL, k INT NOT NULL,
    c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL, amount DECIMAL(18,4) NOT NULL,
    created DATETIME(6) NOT NULL, KEY (account_no), KEY (k))
    ENGINE=InnoDB DEFAULT CHARSET=latin1";

async fn create(server: &MariaDbServer) -> Result<()> {
    server.run(format!("CREATE DATABASE {SCHEMA} CHARACTER SET latin1")).await?;
    shard(server).run(ORDERS).await
}

/// A plan over these servers, for the table above.
fn plan(old: &[Arc<MariaDbServer>], new: &[Arc<MariaDbServer>], log: &str) -> String {
    let mut text = format!(
        "name = \"bench\"\nmodulus = {{ old = {}, new = {} }}\n[log]\n{log}\n[defaults]\n\
         host = \"127.0.0.1\"\nschema = \"{SCHEMA}\"\nuser = \"{ADMIN}\"\n\
         password = \"{PASSWORD}\"\ntls = \"off\"\n",
        old.len(),
        new.len()
    );
    for (kind, servers) in [("old", old), ("new", new)] {
        for server in servers {
            text.push_str(&format!("[[{kind}]]\nport = {}\n", server.port()));
        }
    }
    text.push_str(
        "[back]\nenabled = false\n[[table]]\nname = \"orders\"\nkey = \"account_no\"\nrule = \"floor_mod\"\n\
         [check]\naccept_session_binlog_control = true\n",
    );
    text
}

/// What a reader finds that has to begin at this GTID set with nothing left to copy: the record of
/// a predecessor that was stopped there.
async fn plant_progress(old: &Address, gtids: &str) -> Result<()> {
    for sql in modshift_mariadb::control::SHARD_TABLES {
        old.run(sql).await?;
    }
    old.run("REPLACE INTO modshift_token (id, epoch, writes, clock) VALUES (1, 1, 1, NOW(6))")
        .await?;
    let resume = modshift_mariadb::control::RESUME_ROW;
    old.run(format!(
        "REPLACE INTO modshift_progress (name, epoch, gtids, phase)
         VALUES ('{resume}', 1, '{gtids}', 'serving')"
    ))
    .await?;
    old.run("REPLACE INTO modshift_progress (name, epoch, done) VALUES ('orders', 1, 1)").await
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn run_command(program: &str, args: &[String]) -> Result<()> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} failed: {said}");
    Ok(())
}
