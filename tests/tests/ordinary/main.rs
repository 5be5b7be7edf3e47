//! Ordinary life of an estate: what applications, monitoring tools and crashes write into a binlog
//! beside plain transactions. None of it ends a reshard, and none of it counts that did not happen.

mod passed;
mod skip;
mod statements;
mod tables;
mod xa;

use std::{fs::OpenOptions, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use modshift_tests::{
    Estate, EstateOptions, Modshift, Rule, TableRule, case::Size, drained, estate::Shard,
    marker::mark, wait_until,
};
use mysql_async::{Conn, prelude::Queryable};

const LIMIT: Duration = Duration::from_secs(90);
const TABLE: &str = "CREATE TABLE acct (id BIGINT NOT NULL PRIMARY KEY, uid BIGINT NOT NULL, \
                     v INT, pad VARCHAR(2000))";

/// One old shard, two new ones, the daemons with everything copied.
async fn start(plan_tail: &str) -> Result<(Estate, Modshift)> {
    let estate = estate(plan_tail).await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    Ok((estate, running))
}

async fn estate(plan_tail: &str) -> Result<Estate> {
    let options = EstateOptions {
        size: Size::rows(20),
        plan_tail: plan_tail.to_owned(),
        // A crash is to cut off what the test writes.
        neighbours: false,
        ..EstateOptions::default()
    };
    let mut estate = Estate::start(1, 2, options).await?;
    for shard in estate.old.iter().chain(&estate.new) {
        shard.run(TABLE).await?;
    }
    estate.old[0].run("CREATE DATABASE ops").await?;
    estate.old[0].run("CREATE TABLE ops.noise (a INT) ENGINE=MyISAM").await?;
    estate.rules.push(TableRule::new("acct", Rule::floor_mod("uid")));
    std::fs::write(estate.plan_path(), estate.plan())?;
    estate.old[0].run("INSERT INTO acct (id, uid, v) VALUES (1, 1, 0), (2, 2, 0)").await?;
    Ok(estate)
}

fn daemon(estate: &Estate) -> Result<Modshift> {
    estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()
}

async fn opens(estate: &Estate, running: &Modshift) -> Result<()> {
    let (code, output) = estate.modshift(["gate", "--wait", "60s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", running.last_words(40));
    Ok(())
}

/// Both sides hold the same, and nothing has halted.
async fn correct(estate: &Estate, running: &Modshift) -> Result<()> {
    drained(estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))?;
    let halted = running.lines().into_iter().find(|line| line.contains("halted"));
    ensure!(halted.is_none(), "{halted:?}");
    Ok(())
}

async fn all(conn: &mut Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

/// Statements in the current binlog file that begin like this.
async fn logged(shard: &Shard, beginning: &str) -> Result<usize> {
    let file: String = shard.value("SHOW MASTER STATUS").await?;
    let events = shard.address().query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let infos = events.iter().filter_map(|row| row.get::<String, _>("Info"));
    Ok(infos.filter(|info| info.starts_with(beginning)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_and_logged_all_the_same_does_not_count() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    let mut conn = shard.address().connect().await?;
    // All of it at once, with the temporary table made within and taken down within.
    let cases: [&[&str]; 4] = [
        &[
            "CREATE TEMPORARY TABLE tmp (a INT)",
            "INSERT INTO acct VALUES (10, 10, 1, '')",
            "UPDATE acct SET v = v + 1 WHERE id = 1",
            "DELETE FROM acct WHERE id = 2",
            "ROLLBACK",
        ],
        &["INSERT INTO acct VALUES (11, 11, 1, '')", "DROP TEMPORARY TABLE tmp", "ROLLBACK"],
        // To a savepoint, and committed then. The names are equal to the server.
        &[
            "INSERT INTO acct VALUES (20, 20, 1, '')",
            "SAVEPOINT `One`",
            "INSERT INTO acct VALUES (21, 21, 1, '')",
            "INSERT INTO ops.noise VALUES (1)",
            "SAVEPOINT two",
            "INSERT INTO acct VALUES (22, 22, 1, '')",
            "UPDATE acct SET uid = uid + 1, v = 7 WHERE id IN (1, 20)",
            "ROLLBACK TO one",
            "INSERT INTO acct VALUES (23, 23, 1, '')",
            "SAVEPOINT one",
            "INSERT INTO acct VALUES (24, 24, 1, '')",
            "ROLLBACK TO ONE",
            "UPDATE acct SET v = 9 WHERE id = 20",
            "COMMIT",
        ],
        &[
            "SAVEPOINT a",
            "INSERT INTO acct VALUES (30, 30, 1, '')",
            "RELEASE SAVEPOINT a",
            "INSERT INTO acct VALUES (31, 31, 1, '')",
            "COMMIT",
        ],
    ];
    for case in cases {
        all(&mut conn, &["START TRANSACTION"]).await?;
        all(&mut conn, case).await?;
    }
    // More than is kept in memory; then one of the kind that counts.
    for end in ["ROLLBACK", "COMMIT"] {
        all(&mut conn, &["START TRANSACTION", "CREATE TEMPORARY TABLE big (a INT)"]).await?;
        conn.query_drop(
            "INSERT INTO acct SELECT seq, seq, 1, REPEAT('x', 1500) FROM seq_1000_to_3000",
        )
        .await?;
        all(&mut conn, &[end, "DROP TEMPORARY TABLE IF EXISTS big"]).await?;
    }
    // The client goes away amid its transaction.
    let mut gone = shard.address().connect().await?;
    let case = ["START TRANSACTION", "CREATE TEMPORARY TABLE tmp (a INT)"];
    all(&mut gone, &case).await?;
    all(&mut gone, &["INSERT INTO acct VALUES (40, 40, 1, '')"]).await?;
    let id = gone.id();
    all(&mut conn, &[&format!("KILL {id}")]).await?;
    drop(gone);
    let rolled_back = wait_until("the rollbacks in the binlog", LIMIT, || async {
        let count = logged(shard, "ROLLBACK").await?;
        Ok((count >= 6).then_some(count))
    });
    rolled_back.await?;
    ensure!(logged(shard, "ROLLBACK TO").await? >= 2);

    correct(&estate, &running).await?;
    let there = "SELECT GROUP_CONCAT(id ORDER BY id) FROM acct WHERE id < 1000";
    let ids = shard.value::<String>(there).await?;
    ensure!(ids == "1,2,20,23,30,31", "{ids}");
    // The same from a log that is read again, in which everything may have been cut off.
    running.stop(LIMIT).await?;
    let running = daemon(&estate)?;
    all(&mut conn, &["UPDATE acct SET v = v + 1"]).await?;
    correct(&estate, &running).await?;
    running.stop(LIMIT).await.map(drop)
}

/// Where the server writes its binlog now.
async fn binlog(shard: &Shard) -> Result<PathBuf> {
    let file: String = shard.value("SHOW MASTER STATUS").await?;
    Ok(shard.server.data_dir().join(file))
}

/// The server is killed while it writes its binlog: the transaction under way is in it in part, and
/// its GTID is given out again.
/// What is kept ends `more` bytes behind the last event of the kind `keep`, amid the next one.
async fn cut_off(estate: &Estate, rows: &str, keep: &str, more: u64) -> Result<()> {
    let shard = &estate.old[0];
    let before: String = shard.value("SELECT @@gtid_binlog_pos").await?;
    shard.run(rows).await?;
    let path = binlog(shard).await?;
    let file = path.file_name().and_then(|name| name.to_str()).context("a file")?.to_owned();
    let events = shard.address().query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let mut ends = events.iter().filter(|row| {
        row.get::<String, _>("Event_type").is_some_and(|event| event.starts_with(keep))
    });
    let end: u64 =
        ends.next_back().and_then(|row| row.get("End_log_pos")).context("no such event")?;
    shard.server.kill()?;
    OpenOptions::new().write(true).open(&path)?.set_len(end + more)?;
    shard.server.restart().await?;
    let after: String = shard.value("SELECT @@gtid_binlog_pos").await?;
    ensure!(before == after, "the group is whole: {before}, then {after}");
    Ok(())
}

/// 10.11 starts on a binlog that ends amid a group or an event, and leaves the file as it is. 11.8 (seen in
/// 11.8.9) refuses: "Event truncated", "Can't init tc log".
async fn starts_on_a_cut_event(shard: &Shard) -> Result<bool> {
    let version: String = shard.value("SELECT VERSION()").await?;
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let number = parts.next().zip(parts.next()).context(version.clone())?;
    Ok(number < (11, 8))
}

/// By a reader that runs all the time, and by one that holds at a write behind a fence, which looks for
/// the marker that undoes it in the next file.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_file_ends_neither_a_reader_that_runs_nor_one_that_holds() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    if !starts_on_a_cut_event(shard).await? {
        return running.stop(LIMIT).await.map(drop);
    }
    // More than sockets hold for a reader that stands still: whoever was sent the whole group has read
    // what the server lost.
    let rows = "INSERT INTO acct SELECT seq, seq, 1, REPEAT('x', 1500) FROM seq_1000_to_12000";
    let cut = async || {
        // None of its own transactions is amid the others.
        running.sigstop()?;
        cut_off(&estate, rows, "Write_rows", 7).await?;
        let mut conn = shard.address().connect().await?;
        all(&mut conn, &["SET sql_log_bin = 0", "DELETE FROM acct WHERE id >= 1000"]).await?;
        conn.disconnect().await?;
        running.sigcont()
    };
    cut().await?;
    shard.run("UPDATE acct SET v = v + 1").await?;
    correct(&estate, &running).await?;

    let old = shard.address();
    mark(&old, "fenced", "a").await?;
    shard.run("INSERT INTO acct VALUES (5, 5, 5, 'behind the fence')").await?;
    running.wait_line("reader halted", LIMIT).await?;
    cut().await?;
    mark(&old, "serving", "a").await?;
    running.wait_line("the fence was undone", LIMIT).await?;
    drained(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle().compare().await?.ensure_clean().with_context(|| running.last_words(40))?;
    ensure!(shard.value::<u64>("SELECT COUNT(*) FROM acct WHERE id = 5").await? == 1);
    running.stop(LIMIT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_crash_cut_off_does_not_count() -> Result<()> {
    let (estate, running) = start("").await?;
    let shard = &estate.old[0];
    ensure!(running.stop(LIMIT).await? == 0);
    if !starts_on_a_cut_event(shard).await? {
        return Ok(());
    }
    let rows = "INSERT INTO acct SELECT seq, seq, 1, REPEAT('x', 1500) FROM seq_1000_to_3000";
    // Within the head of an event, and within its body: the server leaves such a file as it is.
    let cuts = [("Write_rows", 0), ("Gtid", 0), ("Write_rows", 7), ("Gtid", 24)];
    for (keep, more) in cuts {
        cut_off(&estate, rows, keep, more).await?;
        // The storage engine had not committed it either.
        let mut conn = shard.address().connect().await?;
        all(&mut conn, &["SET sql_log_bin = 0", "DELETE FROM acct WHERE id >= 1000"]).await?;
        conn.disconnect().await?;
        // With the very GTID of what was cut off, and its keys.
        shard.run("INSERT INTO acct VALUES (1000, 1000, 2, 'other')").await?;
        shard.run("DELETE FROM acct WHERE id = 1000").await?;
        shard.run("UPDATE acct SET v = v + 1").await?;
    }
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    correct(&estate, &running).await?;
    let said = "the server was killed while it wrote this group to its binlog";
    let said = running.lines().iter().filter(|line| line.contains(said)).count();
    ensure!(said >= cuts.len(), "said {said} times:\n{}", running.last_words(40));
    running.stop(LIMIT).await.map(drop)
}
