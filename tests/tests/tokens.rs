//! Shards that share a server: one transaction writes their tokens, and what keeps one of them from
//! being written is none of the others' business.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_tests::{Estate, EstateOptions, Modshift, case::Size, estate::Shard, wait_until};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

const LIMIT: Duration = Duration::from_secs(60);

async fn writes(shard: &Shard) -> Result<u64> {
    shard.value("SELECT writes FROM modshift_token").await
}

/// Until so many more tokens of this shard are written.
async fn go_on(shard: &Shard, more: u64, daemon: &Modshift) -> Result<()> {
    let before = writes(shard).await?;
    wait_until("tokens of a shard", LIMIT, || async {
        Ok((writes(shard).await? >= before + more).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words(40))
}

/// Where the binlog of a server ends.
async fn binlog_end(shard: &Shard) -> Result<(String, u64)> {
    let mut conn = shard.address().connect().await?;
    let status: Option<Row> = conn.query_first("SHOW MASTER STATUS").await?;
    conn.disconnect().await?;
    let status = status.context("a binlog")?;
    Ok((status.get("File").context("a file")?, status.get("Position").context("a position")?))
}

/// Of each event group since then that changes tables of this name: which ones.
async fn groups(
    shard: &Shard,
    since: &(String, u64),
    table: &str,
) -> Result<Vec<BTreeSet<String>>> {
    let mut conn = shard.address().connect().await?;
    let sql = format!("SHOW BINLOG EVENTS IN '{}' FROM {}", since.0, since.1);
    let mut groups = vec![BTreeSet::new()];
    for row in conn.query::<Row, _>(sql).await? {
        let kind: String = row.get("Event_type").context("a type")?;
        let info: String = row.get("Info").context("what is in it")?;
        let named = info.rsplit_once(" (").map(|(_, named)| named).unwrap_or_default();
        match kind.as_str() {
            "Gtid" => groups.push(BTreeSet::new()),
            "Table_map" if named.ends_with(&format!(".{table})")) => {
                groups.last_mut().context("a group")?.insert(named.to_owned());
            }
            _ => {}
        }
    }
    conn.disconnect().await?;
    groups.retain(|tables| !tables.is_empty());
    Ok(groups)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_server_are_written_together_and_fail_one_by_one() -> Result<()> {
    let options =
        EstateOptions { size: Size::rows(300), one_server_a_side: true, ..Default::default() };
    let estate = Estate::start(3, 2, options).await?;
    let daemon = estate.modshift(["run", "--listen", "127.0.0.1:0"]).start()?;
    let (code, output) = estate.modshift(["gate", "--wait", "50s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemon.last_words(40));

    let [first, second, third] = &estate.old[..] else { anyhow::bail!("three shards") };
    let since = [binlog_end(first).await?, binlog_end(&estate.new[0]).await?];
    let before = writes(first).await?;
    go_on(first, 20, &daemon).await?;
    let beats = (writes(first).await? - before) as usize;
    let tokens = groups(first, &since[0], "modshift_token").await?;
    let whole = tokens.iter().filter(|schemas| schemas.len() == 3).count();
    ensure!(whole > 10 && whole * 10 >= tokens.len() * 9, "{whole} of {}", tokens.len());
    // What is sent together is applied together: a transaction of each new shard for each beat.
    let applied = groups(&estate.new[0], &since[1], "modshift_watermark").await?;
    let applied = applied.len() / estate.new.len();
    ensure!(applied * 2 <= beats * 3, "{applied} transactions for {beats} beats");

    // Somebody sits on the token of one shard.
    let mut conn = second.address().connect().await?;
    conn.query_drop("START TRANSACTION").await?;
    conn.query_drop("SELECT * FROM modshift_token FOR UPDATE").await?;
    let held = writes(second).await?;
    go_on(first, 10, &daemon).await?;
    go_on(third, 10, &daemon).await?;
    ensure!(writes(second).await? <= held + 1, "a token was written under a lock");
    daemon.wait_line("tried apart from now on", LIMIT).await?;
    conn.query_drop("COMMIT").await?;
    conn.disconnect().await?;
    go_on(second, 5, &daemon).await?;

    // Another daemon takes one over, and goes away again: in one process none of the streams is of
    // use without the others.
    third.run("UPDATE modshift_token SET epoch = epoch + 1, writes = writes + 1").await?;
    daemon.wait_line("another reader has taken over", LIMIT).await?;
    daemon.wait_line("waiting until it is gone", LIMIT).await?;
    let taken_over = writes(third).await?;
    wait_until("the other daemon to be gone", LIMIT, || async {
        let found = writes(third).await?;
        let again = daemon.output().contains("taking the streams again");
        ensure!(again || found == taken_over, "a token of an epoch that is over");
        Ok(again.then_some(()))
    })
    .await
    .with_context(|| daemon.last_words(40))?;
    for shard in [first, second, third] {
        go_on(shard, 5, &daemon).await?;
    }
    let (code, output) = estate.modshift(["gate", "--wait", "50s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemon.last_words(40));
    daemon.stop(LIMIT).await?;
    Ok(())
}
