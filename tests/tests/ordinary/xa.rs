//! Transactions that are prepared in one group of the log and completed by another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use modshift_tests::{Address, estate::Shard, printed, wait_until};

use crate::skip::{made_up, stands};
use crate::{LIMIT, all, correct, daemon, estate, opens, start};

const TAIL: &str = "[snapshot]\nxa_grace = \"1s\"\n";

/// By a session that goes away: whoever likes completes it.
async fn prepare(shard: &Shard, xid: &str, statements: &[&str]) -> Result<()> {
    let mut conn = shard.address().connect().await?;
    all(&mut conn, &[&format!("XA START {xid}")]).await?;
    all(&mut conn, statements).await?;
    all(&mut conn, &[&format!("XA END {xid}"), &format!("XA PREPARE {xid}")]).await?;
    Ok(conn.disconnect().await?)
}

async fn complete(shard: &Shard, how: &str, xid: &str) -> Result<()> {
    shard.run(&format!("XA {how} {xid}")).await
}

/// Rows by XA alone, until told to stop: while tables are copied, too.
async fn keep_writing(address: Address, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut conn = address.connect().await?;
    for round in 1.. {
        let (id, key) = (10_000 + round, round % 50);
        let xid = format!("'w{round}','b',3");
        all(
            &mut conn,
            &[
                &format!("XA START {xid}"),
                &format!("INSERT INTO acct VALUES ({id}, {key}, 0, 'xa')"),
                &format!("UPDATE acct SET v = v + 1, uid = uid + 1 WHERE id = {}", id - 7),
                &format!("XA END {xid}"),
                &format!("XA PREPARE {xid}"),
                &format!("XA {} {xid}", if round % 5 == 0 { "ROLLBACK" } else { "COMMIT" }),
            ],
        )
        .await?;
        if stop.load(Ordering::Relaxed) {
            return Ok(round);
        }
    }
    Ok(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_xa_commits_count_and_others_do_not() -> Result<()> {
    let estate = estate(TAIL).await?;
    let shard = &estate.old[0];
    // Rows of another definition than today's, in the file that is looked through.
    shard.run("ALTER TABLE acct ADD w INT").await?;
    shard.run("INSERT INTO acct VALUES (9, 9, 1, 'w', 1)").await?;
    shard.run("DELETE FROM acct WHERE id = 9").await?;
    shard.run("ALTER TABLE acct DROP w").await?;
    // Long before anything of this reads the log.
    prepare(shard, "'early'", &["INSERT INTO acct VALUES (10, 10, 1, 'early')"]).await?;
    shard.run("CREATE TABLE ops.t (id INT PRIMARY KEY, a INT)").await?;
    prepare(shard, "'ops'", &["INSERT INTO ops.t VALUES (1, 1)"]).await?;
    shard.run("FLUSH BINARY LOGS").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(keep_writing(shard.address(), Arc::clone(&stop)));
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    stop.store(true, Ordering::Relaxed);
    let rounds = writing.await??;
    ensure!(rounds > 20, "{rounds} transactions");
    complete(shard, "COMMIT", "'early'").await?;
    complete(shard, "COMMIT", "'ops'").await?;
    correct(&estate, &running).await?;
    let looked = running.lines().iter().filter(|l| l.contains("prepared before: looking")).count();
    ensure!(looked >= 2, "looked {looked} times:\n{}", running.last_words(40));

    // Two at once, one of which is rolled back; a name that is used again; what is one phase only.
    let rows = ["INSERT INTO acct VALUES (20, 20, 1, 'a')", "UPDATE acct SET v = 8 WHERE id = 1"];
    prepare(shard, "'a'", &rows).await?;
    prepare(shard, "'b'", &["INSERT INTO acct VALUES (21, 21, 1, 'b')"]).await?;
    shard.run("UPDATE acct SET v = 5 WHERE id = 2").await?;
    complete(shard, "COMMIT", "'a'").await?;
    complete(shard, "ROLLBACK", "'b'").await?;
    prepare(shard, "'b'", &["DELETE FROM acct WHERE id = 10"]).await?;
    prepare(shard, "'c'", &["UPDATE ops.t SET a = 2", "INSERT INTO acct VALUES (23, 1, 1, '')"])
        .await?;
    complete(shard, "COMMIT", "'b'").await?;
    let mut conn = shard.address().connect().await?;
    let one_phase = [
        "XA START 'd'",
        "INSERT INTO acct VALUES (24, 24, 1, 'd')",
        "XA END 'd'",
        "XA COMMIT 'd' ONE PHASE",
    ];
    all(&mut conn, &one_phase).await?;
    // Prepared before the reader ends, and the server; committed while one is away, and after.
    prepare(shard, "'e'", &["INSERT INTO acct VALUES (25, 25, 1, 'e')"]).await?;
    running.kill_9()?;
    complete(shard, "COMMIT", "'c'").await?;
    shard.server.kill()?;
    shard.server.restart().await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    complete(shard, "COMMIT", "'e'").await?;
    correct(&estate, &running).await?;
    let there = "SELECT GROUP_CONCAT(id ORDER BY id) FROM acct WHERE id < 1000";
    let ids = shard.value::<String>(there).await?;
    ensure!(ids == "1,2,20,23,24,25", "{ids}");
    running.stop(LIMIT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xa_commit_whose_rows_are_purged_halts_by_name() -> Result<()> {
    let (estate, running) = start(TAIL).await?;
    let shard = &estate.old[0];
    prepare(shard, "'gone'", &["INSERT INTO acct VALUES (10, 10, 1, 'gone')"]).await?;
    shard.run("UPDATE acct SET v = 5 WHERE id = 1").await?;
    correct(&estate, &running).await?;
    running.stop(LIMIT).await?;
    shard.run("FLUSH BINARY LOGS").await?;
    // Where the next reader begins must stand in a file that stays.
    let running = daemon(&estate)?;
    shard.run("UPDATE acct SET v = 6 WHERE id = 1").await?;
    correct(&estate, &running).await?;
    running.stop(LIMIT).await?;
    let last: String = shard.value("SHOW MASTER STATUS").await?;
    // Nothing is purged that a connection which has gone is still taken to read.
    let purged = wait_until("older binlogs to be purged", LIMIT, || async {
        shard.run(&format!("PURGE BINARY LOGS TO '{last}'")).await?;
        let files = shard.address().query("SHOW BINARY LOGS").await?;
        Ok((files.len() == 1).then_some(()))
    });
    purged.await?;
    let running = daemon(&estate)?;
    complete(shard, "COMMIT", "'gone'").await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("XA COMMIT X'676f6e65',X'',1"), "{halted}");
    ensure!(halted.contains("do not hold its XA PREPARE"), "{halted}");
    // Nobody can tell what it has changed: every table is compared. Killed right behind that it is
    // passed over once more.
    let mut skip = printed(&halted, "skip")?;
    skip.push("--yes".to_owned());
    running.stop(LIMIT).await?;
    let command = estate.modshift(["run", "--listen", "127.0.0.1:0"]);
    let running = command.hold("skipped_recorded", 1).start()?;
    running.wait_line("reader halted", LIMIT).await?;
    stands(shard).await?;
    let (code, said) = estate.modshift(skip).finish(LIMIT).await?;
    ensure!(code == 0 && said.contains(" --table acct"), "{code}\n{said}");
    running.wait_hold("skipped_recorded", LIMIT).await?;
    running.kill_9()?;
    let running = daemon(&estate)?;
    made_up(&estate, &running).await?;
    ensure!(shard.value::<u64>("SELECT COUNT(*) FROM acct WHERE id = 10").await? == 1);
    running.stop(LIMIT).await.map(drop)
}

/// A session that kept its own format since before the reshard: its rows are in no event.
#[tokio::test(flavor = "multi_thread")]
async fn an_xa_commit_of_what_was_written_in_statement_format_halts_by_name() -> Result<()> {
    let estate = estate(TAIL).await?;
    let shard = &estate.old[0];
    let mut conn = shard.address().connect().await?;
    all(&mut conn, &["SET SESSION binlog_format = 'STATEMENT'", "XA START 's'"]).await?;
    let insert = "INSERT INTO acct VALUES (10, 10, 1, 'unseen')";
    all(&mut conn, &[insert, "XA END 's'", "XA PREPARE 's'"]).await?;
    conn.disconnect().await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    complete(shard, "COMMIT", "'s'").await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    ensure!(halted.contains("a statement-format INSERT"), "{halted}");
    running.stop(LIMIT).await.map(drop)
}
