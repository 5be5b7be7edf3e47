//! An old server that comes back without the end of its binlog.

use std::fs;

use anyhow::{Context, Result};
use modshift_tests::{place::copy_dir, wait_until};

use crate::{LIMIT, Scene, halts, says};

/// Who meets the old server when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meets {
    /// The reader that had read the part that is lost; the server has given out no GTID again.
    ReaderShorter,
    /// The same, and the server has come as far as it was, with other changes.
    ReaderAsLong,
    /// A new reader, which knows only what the server knows.
    Successor,
}

/// An old server comes back as it was a while ago: a crash without `sync_binlog=1`, or a backup.
async fn lost_tail(name: &str, meets: Meets) -> Result<()> {
    let scene = Scene::start(name, 37, 600, "").await?;
    let (replicator, consumer) = scene.running().await?;
    let server = &scene.estate.old[0].server;
    let (data, copy) = (server.data_dir(), scene.estate.dir().join("earlier"));
    server.stop().await?;
    copy_dir(&data, &copy)?;
    server.restart().await?;
    scene.written(40).await?;
    scene.drained().await.with_context(|| says(&[&replicator, &consumer]))?;

    replicator.sigstop()?;
    let had = scene.estate.new[0].value::<String>("SELECT gtids FROM modshift_watermark").await?;
    server.stop().await?;
    fs::remove_dir_all(&data).context("removing what the server has")?;
    copy_dir(&copy, &data)?;
    server.restart().await?;
    if meets == Meets::ReaderAsLong {
        let goal = sequence(&had)?;
        wait_until("a binlog as long as it was", LIMIT, || async {
            scene.written(40).await?;
            let now: String = server.value("SELECT @@gtid_binlog_pos").await?;
            Ok((sequence(&now)? > goal).then_some(()))
        })
        .await?;
    }
    let fact = match meets {
        Meets::ReaderShorter => Some("before the resume point"),
        Meets::ReaderAsLong => Some("is not what was read before"),
        Meets::Successor => None,
    };
    match fact {
        Some(fact) => {
            replicator.sigcont()?;
            halts(&replicator, &[fact]).await?;
        }
        None => drop(replicator.kill_9()?),
    }

    let successor = scene.replicator()?;
    scene.written(20).await?;
    if fact.is_none() {
        halts(&consumer, &["lost part of its binlog"])
            .await
            .with_context(|| says(&[&successor]))?;
        scene.closed("lost part of its binlog").await?;
        return scene.starts_over(&[&successor]).await;
    }
    // The reader may have left its resume point on the server before it noticed.
    wait_until("a halt of the next reader or of the consumer", LIMIT, || async {
        Ok((!successor.running()? || !consumer.running()?).then_some(()))
    })
    .await?;
    match successor.running()? {
        true => {
            halts(&consumer, &["lost part of its binlog"]).await?;
            scene.starts_over(&[&successor]).await
        }
        false => {
            halts(&successor, &["old"]).await?;
            scene.starts_over(&[&consumer]).await
        }
    }
}

/// Of a GTID set of one domain.
fn sequence(set: &str) -> Result<u64> {
    Ok(set.rsplit('-').next().context("an empty GTID set")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_that_lost_its_tail_halts_its_reader() -> Result<()> {
    lost_tail("shorter", Meets::ReaderShorter).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_that_used_its_gtids_again_halts_its_reader() -> Result<()> {
    lost_tail("reused", Meets::ReaderAsLong).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_lost_behind_the_back_of_a_new_reader_halts_the_consumer() -> Result<()> {
    lost_tail("behind", Meets::Successor).await
}
