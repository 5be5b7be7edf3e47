//! What breaks: connections, servers, other appliers, the messages themselves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use modshift_changelog::{DirectLog, LogWriter};
use modshift_consumer::{ApplierStatus, Phase, run_applier};
use modshift_proto::plan::Direction;
use modshift_tests::{MariaDbOptions, wait_until};
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use crate::feed::{LIMIT, Shard, TARGET};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_applier_takes_over_and_the_first_stops() -> Result<()> {
    let shard = Shard::start("").await?;
    let first = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.applied().await?;
    let other = DirectLog::new(2, 1, 1 << 20);
    let (log, cancel) = (other.clone(), CancellationToken::new());
    let status = Arc::new(ApplierStatus::new(&shard.plan, TARGET));
    let second = tokio::spawn(run_applier(
        Arc::clone(&shard.plan),
        TARGET,
        move |_| std::future::ready(log.reader(TARGET)),
        Arc::clone(&status),
        cancel.clone(),
    ));
    wait_until("the second applier to run", LIMIT, || async {
        Ok((status.view().phase == Phase::Running).then_some(()))
    })
    .await?;
    even.upsert((2, 2, "b")).await?;
    even.writer.flush().await?;
    let error = first.halted().await?;
    assert_eq!(error.to_string(), "another applier has taken over new shard 0");
    assert_eq!(shard.users().await?, ["1 2 a"]);
    cancel.cancel();
    second.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_message_halts_after_what_came_before_it_is_applied() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.number += 1;
    even.upsert((2, 2, "b")).await?;
    even.writer.flush().await?;
    let error = applier.halted().await?;
    assert_eq!(
        error.to_string(),
        "new shard 0: messages of old shard 0 are missing from the change log: expected number 2 \
         of epoch 1, found 3"
    );
    assert_eq!(shard.users().await?, ["1 2 a"]);
    let halted: String =
        shard.address().value("SELECT halted FROM modshift_watermark WHERE source = 0").await?;
    assert!(halted.contains("expected number 2"), "{halted}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_row_halts() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 3, "a")).await?;
    even.writer.flush().await?;
    let error = applier.halted().await?;
    assert_eq!(
        error.to_string(),
        "new shard 0: a row of table t_user came from old shard 0, its shard key places it on old \
         shard 1"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_defined_otherwise_on_both_sides_halts() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.fingerprints[0] = 0xbeef;
    even.upsert((1, 2, "a")).await?;
    even.writer.flush().await?;
    let error = applier.halted().await?.to_string();
    let own = shard.fingerprints[0];
    assert_eq!(
        error,
        format!(
            "new shard 0: table t_user is defined otherwise on old shard 0 (fingerprint 0000beef) \
             than on new shard 0 ({own:08x})"
        )
    );
    Ok(())
}

/// Nothing may be lost or done twice whatever breaks: the applier reaches the server through a
/// proxy that cuts its connections at any moment, COMMIT included. A transaction done twice would
/// fail its compare-and-set and halt the applier.
#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_nothing_and_double_nothing() -> Result<()> {
    let mut proxy = None;
    let shard =
        Shard::start_with(MariaDbOptions::default(), "batch_rows = 20", Some(&mut proxy)).await?;
    let proxy = proxy.context("no proxy")?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.applied().await?;
    const ROWS: i64 = 20;
    const ROUNDS: i64 = 150;
    let cuts = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(47));
            loop {
                tick.tick().await;
                proxy.cut();
            }
        }
    });
    for round in 1..=ROUNDS {
        for id in 1..=ROWS {
            even.upsert((id, round * 2, &format!("n{id}"))).await?;
        }
        // One batch for each round or so: coalescing must not hide a change.
        even.applied().await?;
    }
    cuts.abort();
    let users = shard.users().await?;
    assert_eq!(users.len(), ROWS as usize);
    assert!(users.iter().all(|user| user.contains(&format!(" {} ", ROUNDS * 2))));
    applier.stop().await?;
    // Every transaction that wrote rows moved the watermark by exactly its messages.
    let number: u64 = shard.address().value("SELECT number FROM modshift_watermark").await?;
    assert_eq!(number, (ROWS * ROUNDS) as u64);
    Ok(())
}

/// The connection breaks while COMMIT waits in the server. `kill`: the server then rolls back,
/// else it commits although nobody hears of it.
async fn unanswered_commit(kill: bool) -> Result<()> {
    let mut proxy = None;
    let shard = Shard::start_with(MariaDbOptions::default(), "", Some(&mut proxy)).await?;
    let proxy = proxy.context("no proxy")?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.applied().await?;
    let mut blocker = shard.address().connect().await?;
    for stage in ["START", "BLOCK_COMMIT"] {
        blocker.query_drop(format!("BACKUP STAGE {stage}")).await?;
    }
    even.upsert((1, 4, "b")).await?;
    even.writer.flush().await?;
    let thread = wait_until("a COMMIT that waits", LIMIT, || async {
        let rows = shard
            .address()
            .query("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO = 'COMMIT'")
            .await?;
        Ok(rows.into_iter().next().map(mysql_async::from_row::<u64>))
    })
    .await?;
    proxy.cut();
    if kill {
        shard.address().run(format!("KILL {thread}")).await?;
    }
    blocker.query_drop("BACKUP STAGE END").await?;
    // Done twice, the compare-and-set would have found another owner.
    even.upsert((2, 4, "c")).await?;
    even.applied().await?;
    assert_eq!(shard.users().await?, ["1 4 b", "2 4 c"]);
    let version: u64 =
        shard.address().value("SELECT version & 0xffff FROM modshift_watermark").await?;
    assert!((2..=4).contains(&version), "{version} transactions");
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_commit_that_was_done_is_not_done_again() -> Result<()> {
    unanswered_commit(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_commit_that_was_not_done_is_done_again() -> Result<()> {
    unanswered_commit(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_is_waited_for() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    for id in 1..=100 {
        even.upsert((id, 2, &format!("n{id}"))).await?;
    }
    even.applied().await?;
    shard.server.kill()?;
    for id in 101..=200 {
        even.upsert((id, 2, &format!("n{id}"))).await?;
    }
    even.writer.flush().await?;
    shard.server.restart().await?;
    even.applied().await?;
    assert_eq!(shard.users().await?.len(), 200);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_20_mib_passes_alone() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    let body = vec![0xa7; 20 << 20];
    even.upsert((1, 2, "before")).await?;
    even.upsert_with((2, 2, "large"), Some(&body)).await?;
    even.upsert((3, 2, "after")).await?;
    even.applied().await?;
    let same: bool = shard
        .address()
        .value(format!("SELECT body = REPEAT(X'A7', {}) FROM t_user WHERE id = 2", 20 << 20))
        .await?;
    assert!(same);
    assert_eq!(shard.users().await?.len(), 3);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_larger_than_the_server_takes_halts_with_the_way_out() -> Result<()> {
    let options = MariaDbOptions { max_allowed_packet: 1 << 20, ..MariaDbOptions::default() };
    let shard = Shard::start_with(options, "", None).await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert_with((2, 2, "large"), Some(&vec![1; 2 << 20])).await?;
    even.writer.flush().await?;
    let error = applier.halted().await?;
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    assert_eq!(
        error.hint_for(Direction::Forward).as_deref(),
        Some("raise max_allowed_packet on this server")
    );
    Ok(())
}
