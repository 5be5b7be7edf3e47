//! Shards that share a server: one binlog connection feeds all its readers, and what becomes of it
//! costs no row.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modshift_proto::plan::Plan;
use modshift_tests::{
    Estate, EstateOptions, Mix, Modshift, Writer, WriterOptions, case::Size, drained,
    estate::Shard, wait_until,
};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

const LIMIT: Duration = Duration::from_secs(90);
/// Far more than a feed keeps for readers that are behind, in one transaction.
const GIANT_BYTES: u64 = 48 << 20;

/// Process ids of the connections that read this server's binlog.
async fn dumps(shard: &Shard) -> Result<Vec<u64>> {
    let ids = "SELECT IFNULL(GROUP_CONCAT(ID), '') FROM information_schema.PROCESSLIST \
               WHERE COMMAND LIKE 'Binlog Dump%'";
    let ids: String = shard.value(ids).await?;
    ids.split(',').filter(|id| !id.is_empty()).map(|id| Ok(id.parse()?)).collect()
}

/// Until one connection reads the binlog of each of these servers; its id.
async fn one_each(shards: [&Shard; 2], daemon: &Modshift) -> Result<Vec<u64>> {
    wait_until("one binlog connection a server", LIMIT, || async {
        let mut all = Vec::new();
        for shard in shards {
            all.extend(dumps(shard).await?);
        }
        Ok((all.len() == shards.len()).then_some(all))
    })
    .await
    .with_context(|| daemon.last_words(60))
}

/// The old shard by whose replica id the server knows the one connection that reads its binlog.
async fn began_by(estate: &Estate, daemon: &Modshift) -> Result<usize> {
    let plan = Plan::parse(&estate.plan(), &|_| Some("secret".to_owned()))?;
    wait_until("the feed's replica id", LIMIT, || async {
        let mut conn = estate.old[0].address().connect().await?;
        let replicas: Vec<Row> = conn.query("SHOW SLAVE HOSTS").await?;
        conn.disconnect().await?;
        let [replica] = &replicas[..] else { return Ok(None) };
        let id: u32 = replica.get("Server_id").context("an id")?;
        Ok(plan.old.iter().position(|shard| shard.replica_server_id == id))
    })
    .await
    .with_context(|| daemon.last_words(60))
}

/// A deadlock, or a lock that did not come.
fn is_lock(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let text = cause.to_string();
        text.contains("Deadlock found") || text.contains("Lock wait timeout")
    })
}

/// Ends that connection in the middle of whatever it sends.
async fn cut(shard: &Shard, daemon: &Modshift) -> Result<u64> {
    wait_until("a binlog connection to cut", LIMIT, || async {
        let [dump] = dumps(shard).await?[..] else { return Ok(None) };
        // It may have been replaced by another meanwhile.
        Ok(shard.run(&format!("KILL CONNECTION {dump}")).await.is_ok().then_some(dump))
    })
    .await
    .with_context(|| daemon.last_words(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_one_server_share_a_binlog_connection_and_lose_nothing() -> Result<()> {
    let options = EstateOptions {
        size: Size::rows(3_000),
        one_server_a_side: true,
        ..EstateOptions::default()
    };
    let estate = Estate::start(3, 4, options).await?;
    // Little room in front of each applier, so that a reader soon has to wait for it.
    let room = "kind = \"direct\"\nbuffer_bytes = \"1MiB\"";
    std::fs::write(estate.plan_path(), estate.plan().replace("kind = \"direct\"", room))?;
    let servers = [&estate.old[0], &estate.new[0]];
    let options = WriterOptions { rate: Some(200.0), mix: Mix::default(), ..Default::default() };
    let writer = Writer::start(options, estate.old_routes()).await?;
    let daemon =
        estate.modshift(["run", "--listen", "127.0.0.1:0"]).env("MODSHIFT_LOG", "debug").start()?;
    let (code, output) = estate.modshift(["gate", "--wait", "80s"]).finish(LIMIT).await?;
    ensure!(code == 0, "the gate ended with {code}:\n{output}\n{}", daemon.last_words(60));

    // Three readers there and four for the way back: each side's server is asked once.
    one_each(servers, &daemon).await?;
    // Again and again that one connection is cut, in the middle of groups too.
    for _ in 0..3 {
        writer.commits(60, LIMIT).await?;
        let cut = [cut(servers[0], &daemon).await?, cut(servers[1], &daemon).await?];
        let next = one_each(servers, &daemon).await?;
        ensure!(cut.iter().zip(&next).all(|(cut, next)| cut != next), "{cut:?} {next:?}");
    }
    // One shard's reader has more to do than the feed waits for: it goes on alone, the others don't
    // wait, and it comes back. It is the one that the feed is known to the server by.
    let began = began_by(&estate, &daemon).await?;
    let rows: u64 = estate.old[began].value("SELECT COUNT(*) FROM t_all_types").await?;
    let each = GIANT_BYTES / rows.max(1);
    // What a transaction holds is sent at its end, and meanwhile the next ones come.
    let behind = "fell behind those that it shares";
    for letter in 'a'..='h' {
        let giant = format!("UPDATE t_all_types SET longblob_ = REPEAT('{letter}', {each})");
        // Now and then it is in the writer's way, and the server lets the writer go on.
        let done = estate.old[began].run(&giant).await;
        ensure!(done.as_ref().err().is_none_or(is_lock), "{done:?}");
        if daemon.output().contains(behind) {
            break;
        }
    }
    let bytes: u64 =
        estate.old[began].value("SELECT SUM(LENGTH(longblob_)) FROM t_all_types").await?;
    ensure!(bytes > GIANT_BYTES / 2, "{rows} rows of {bytes} bytes");
    daemon.wait_line(behind, LIMIT).await?;
    writer.commits(60, LIMIT).await?;
    one_each(servers, &daemon).await?;
    let ended = daemon.output().contains("same replica_server_id");
    ensure!(!ended, "one connection has ended another:\n{}", daemon.last_words(60));
    writer.stop().await?;
    drained(&estate, LIMIT).await.with_context(|| daemon.last_words(60))?;
    estate.oracle().compare().await?.ensure_clean()?;
    let code = daemon.stop(LIMIT).await?;
    ensure!(code == 0, "the daemon ended with {code}:\n{}", daemon.last_words(60));
    // The server notices when it next sends something there.
    wait_until("the connection to be over", LIMIT, || async {
        Ok(dumps(servers[0]).await?.is_empty().then_some(()))
    })
    .await
}
