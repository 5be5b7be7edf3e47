//! Memory is bounded by settings, whatever comes: a transaction of a million rows, a row of 20 MiB.
//!
//! Replicator and consumer are processes of their own, over Kafka, with the default settings and
//! all streams of three old and four new shards in one process each. What is asserted is the most
//! that each ever had resident (VmHWM): a budget for the process, and so many times the largest row
//! for the one stream that carries such rows.

#![allow(clippy::print_stdout, reason = "a test says what it has seen")]

use std::time::Duration;

use anyhow::{Result, ensure};
use modshift_tests::{
    Address, Daemons, Estate, EstateOptions, Log, Rule, TableRule, case::Size, copied, drained,
    random::Random,
};
use mysql_async::prelude::Queryable;

const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// For whatever backlog there is.
const REPLICATOR_BYTES: u64 = 64 * MIB;
const CONSUMER_BYTES: u64 = 96 * MIB;
/// An update is one event with two images, so it is two rows large: as packets, as the driver's
/// event, and as ours. Then come the decoded row, the message, librdkafka's copy of it and its
/// compressed batch, while the next event is read.
const REPLICATOR_ROWS: u64 = 16;
/// The fetched batch, compressed and not; the message, and the next one gathered meanwhile; the
/// row as a parameter, as a statement and as packets.
const CONSUMER_ROWS: u64 = 10;

/// As the systemd units set it: what is freed of such sizes goes back to the system at once. Without
/// it the C library keeps some, and half as much again is resident.
fn start(estate: &Estate) -> Result<Daemons> {
    Daemons::start_with(estate, |launch| launch.env("MALLOC_MMAP_THRESHOLD_", "1048576"))
}

/// An estate with one more table, on old and new shards.
async fn estate(table: &str, columns: &str) -> Result<Estate> {
    let options =
        EstateOptions { log: Log::kafka(), size: Size::rows(100), ..EstateOptions::default() };
    let mut estate = Estate::start(3, 4, options).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        shard.run(&format!("CREATE TABLE {table} ({columns}) ENGINE=InnoDB")).await?;
    }
    estate.rules.push(TableRule::new(table, Rule::floor_mod("accountNo")));
    std::fs::write(estate.plan_path(), estate.plan())?;
    Ok(estate)
}

fn show(daemons: &Daemons, when: &str) -> Result<[u64; 2]> {
    let peaks = [daemons.reader()?.peak_rss_bytes()?, daemons.applier()?.peak_rss_bytes()?];
    let [replicator, consumer] = peaks.map(|bytes| bytes as f64 / MIB as f64);
    println!("{when}: replicator {replicator:.1} MiB, consumer {consumer:.1} MiB at most");
    Ok(peaks)
}

/// The most memory that each has had, against its budget.
fn ensure_within(daemons: &Daemons, when: &str, largest_row: u64) -> Result<()> {
    let [replicator, consumer] = show(daemons, when)?;
    let budget = REPLICATOR_BYTES + REPLICATOR_ROWS * largest_row;
    ensure!(replicator <= budget, "replicator: {replicator} bytes, the budget is {budget}");
    let budget = CONSUMER_BYTES + CONSUMER_ROWS * largest_row;
    ensure!(consumer <= budget, "consumer: {consumer} bytes, the budget is {budget}");
    Ok(())
}

/// Rows, and sums that depend on each value of each row.
async fn totals(shards: &[Address], table: &str, sums: &str) -> Result<[u128; 3]> {
    let mut totals = [0, 0, 0];
    for shard in shards {
        let sql = format!("SELECT COUNT(*), {sums} FROM {table}");
        let rows: Vec<(u64, Option<u64>, Option<u64>)> = shard.connect().await?.query(sql).await?;
        let (count, first, second) = rows[0];
        for (total, more) in totals.iter_mut().zip([Some(count), first, second]) {
            *total += u128::from(more.unwrap_or(0));
        }
    }
    Ok(totals)
}

async fn ensure_same(estate: &Estate, table: &str, sums: &str) -> Result<()> {
    let old = totals(&estate.old_addresses(), table, sums).await?;
    let new = totals(&estate.new_addresses(), table, sums).await?;
    ensure!(
        old == new && old[0] > 0,
        "{table}: {old:?} on the old shards, {new:?} on the new ones"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_transaction_and_rows_of_20_mib_pass_in_bounded_memory() -> Result<()>
{
    // One after the other: two at a time would measure the machine.
    a_million_rows().await?;
    rows_of_20_mib().await
}

async fn a_million_rows() -> Result<()> {
    const ROWS: u64 = 1_000_000;
    let columns = "id BIGINT NOT NULL PRIMARY KEY, accountNo BIGINT NOT NULL, \
                   ver INT UNSIGNED NOT NULL";
    let estate = estate("t_many", columns).await?;
    let daemons = start(&estate)?;
    copied(&estate, LIMIT).await?;
    show(&daemons, "after the copy of a small case")?;
    let shard = &estate.old[0];
    shard.run(&format!("INSERT INTO t_many SELECT seq,3*seq,1 FROM seq_1_to_{ROWS}")).await?;
    drained(&estate, LIMIT).await?;
    show(&daemons, "a million rows inserted")?;
    shard.run("UPDATE t_many SET ver=ver+1").await?;
    drained(&estate, LIMIT).await?;
    ensure_within(&daemons, "a million rows updated", 0)?;
    daemons.stop(LIMIT).await?;
    let sums =
        "CAST(SUM(CRC32(CONCAT_WS(',',id,accountNo,ver))) AS UNSIGNED), CAST(SUM(ver) AS UNSIGNED)";
    ensure_same(&estate, "t_many", sums).await
}

async fn rows_of_20_mib() -> Result<()> {
    const ROW: usize = 20 << 20;
    let columns = "id BIGINT NOT NULL PRIMARY KEY, accountNo BIGINT NOT NULL, \
                   ver INT UNSIGNED NOT NULL, body LONGBLOB NOT NULL";
    let estate = estate("t_large", columns).await?;
    // Bytes that no compression makes smaller, all for one new shard. Four rows are there before
    // the copy.
    let mut random = Random::new(71);
    let mut conn = estate.old[0].address().connect().await?;
    let insert = "INSERT INTO t_large VALUES (?,?,1,?)";
    for id in 1..=4_u64 {
        conn.exec_drop(insert, (id, id * 12, random.bytes(ROW))).await?;
    }
    let daemons = start(&estate)?;
    copied(&estate, LIMIT).await?;
    show(&daemons, "four rows of 20 MiB copied")?;
    for id in 5..=8_u64 {
        conn.exec_drop(insert, (id, id * 12, random.bytes(ROW))).await?;
    }
    drained(&estate, LIMIT).await?;
    show(&daemons, "four rows of 20 MiB inserted")?;
    // Both images of a row are in one event.
    conn.query_drop("UPDATE t_large SET ver=2, body=REVERSE(body) WHERE id IN (1,3,6)").await?;
    conn.query_drop("DELETE FROM t_large WHERE id IN (4,7)").await?;
    drained(&estate, LIMIT).await?;
    // To another new shard.
    conn.query_drop("UPDATE t_large SET ver=3, accountNo=accountNo+3 WHERE id=1").await?;
    drained(&estate, LIMIT).await?;
    ensure_within(&daemons, "rows of 20 MiB updated and moved", ROW as u64)?;
    daemons.stop(LIMIT).await?;
    let sums = "CAST(SUM(CONV(LEFT(SHA2(body,256),8),16,10)*(id+accountNo+ver)) AS UNSIGNED), \
                CAST(SUM(LENGTH(body)) AS UNSIGNED)";
    ensure_same(&estate, "t_large", sums).await
}
