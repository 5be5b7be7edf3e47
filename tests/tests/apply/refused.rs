//! Rows that the new shard's server does not store as they are: set aside, named, and taken once they
//! are changed where they came from.

use anyhow::{Result, ensure};
use modshift_changelog::LogWriter;
use modshift_proto::message::Op;

use crate::feed::{Shard, Source};

/// Bytes that no UTF-8 has, as a binlog can bring them: the server that logged them never checked.
const BROKEN: &[u8] = b"caf\xe9 \xff";

async fn clock_passes(sources: [&mut Source; 2], us: i64) -> Result<()> {
    for source in sources {
        source.clock_us += us;
        source.token().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_stored_waits_by_name_until_it_is_changed() -> Result<()> {
    let shard = Shard::start("parked_age_max = \"10s\"").await?;
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 1).await?, shard.source(1, 1).await?);
    even.upsert((7, 2, "good")).await?;
    clock_passes([&mut even, &mut odd], 0).await?;
    even.applied().await?;
    odd.applied().await?;
    // In one batch with others, which are applied; its own older version goes.
    for id in 10..40 {
        even.upsert((id, 2, &format!("n{id}"))).await?;
    }
    even.upsert_bytes((7, 2), BROKEN, None).await?;
    even.upsert_bytes((8, 4), BROKEN, None).await?;
    for id in 40..70 {
        even.upsert((id, 2, &format!("n{id}"))).await?;
    }
    even.applied().await?;
    ensure!(shard.users().await?.len() == 60, "{:?}", shard.users().await?);
    let rows = shard.address().query("SELECT DISTINCT blocked_by FROM modshift_parked").await?;
    let reasons: Vec<String> = rows.into_iter().map(mysql_async::from_row).collect();
    let reason = "cannot be stored: column name: text that is not valid in its character set, or \
                  no such value (error 1366)";
    ensure!(reasons == [reason] && shard.parked().await? == 2, "{reasons:?}");
    // The stream goes on, and a row that is deleted waits no longer.
    even.upsert((9, 2, "after")).await?;
    even.delete(8).await?;
    even.applied().await?;
    ensure!(shard.parked().await? == 1, "a deleted row still waits");
    clock_passes([&mut even, &mut odd], 11_000_000).await?;
    // It may have halted by now.
    even.writer.flush().await.ok();
    odd.writer.flush().await.ok();
    let last = [even.seq, odd.seq];
    let error = applier.halted().await?;
    assert_eq!(
        error.to_string(),
        format!(
            "new shard 0: a row of table t_user (primary key id) from old shard 0 {reason}; it has \
             waited 11 s for a change on old shard 0"
        )
    );
    let halted: String =
        shard.address().value("SELECT halted FROM modshift_watermark WHERE source = 0").await?;
    ensure!(halted.contains("primary key (id) = (7)"), "{halted}");
    ensure!(halted.contains("change that row on its old shard"), "{halted}");
    ensure!(!halted.contains("caf"), "{halted}");
    // The operator changes it on its old shard; the next start finds that and carries on. The image
    // that cannot be stored comes once more before it.
    let applier = shard.applier();
    let (mut even, mut odd) = (shard.source(0, 2).await?, shard.source(1, 2).await?);
    even.clock_us = 13_000_000;
    odd.clock_us = 13_000_000;
    // What it had applied comes again.
    for (source, seq) in [(&mut even, last[0]), (&mut odd, last[1])] {
        while source.seq < seq {
            source.token().await?;
        }
    }
    even.upsert_bytes((7, 2), BROKEN, None).await?;
    even.applied().await?;
    ensure!(shard.parked().await? == 1, "it is still as it was");
    even.upsert((7, 2, "mended")).await?;
    clock_passes([&mut even, &mut odd], 20_000_000).await?;
    even.applied().await?;
    odd.applied().await?;
    ensure!(shard.parked().await? == 0, "the mended row still waits");
    ensure!(shard.users().await?[0] == "7 2 mended", "{:?}", shard.users().await?);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_could_not_be_stored_is_tried_again_after_a_restart() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert_bytes((7, 2), &[b'x'; 60], None).await?;
    even.applied().await?;
    ensure!(shard.parked().await? == 1, "60 characters fit in 40");
    applier.stop().await?;
    // Its column grows, on every shard; some other change comes.
    shard.address().run("ALTER TABLE t_user MODIFY name VARCHAR(80) NOT NULL").await?;
    let applier = shard.applier();
    let mut odd = shard.source(1, 2).await?;
    odd.country(Op::Delete, "xx").await?;
    odd.applied().await?;
    ensure!(shard.parked().await? == 0, "it was not tried again");
    ensure!(shard.users().await?.len() == 1, "{:?}", shard.users().await?);
    applier.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_statement_names_shard_table_and_key() -> Result<()> {
    let shard = Shard::start("").await?;
    let applier = shard.applier();
    let mut even = shard.source(0, 1).await?;
    even.upsert((1, 2, "a")).await?;
    even.applied().await?;
    shard.address().run("RENAME TABLE t_user TO elsewhere").await?;
    even.upsert((2, 2, "secret")).await?;
    even.writer.flush().await?;
    let error = applier.halted().await?.to_string();
    ensure!(error.starts_with("new shard 0: table t_user (primary key id): "), "{error}");
    ensure!(error.contains("1146") && !error.contains("secret"), "{error}");
    let halted: String =
        shard.address().value("SELECT halted FROM modshift_watermark WHERE source = 0").await?;
    ensure!(halted.contains("modshift check"), "{halted}");
    Ok(())
}
